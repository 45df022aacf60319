"""A validated edit, computed and swapped in: the only place that changes a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from meristem.axes.map import AxisMap, TensorLayout
from meristem.edit.attributes import attribute_steps, check_attributes, edited_bindings
from meristem.edit.caches import cache_steps
from meristem.edit.checks import check_copy, check_model, check_optimizers, unwrapped
from meristem.edit.compute import Change, Computation, moved, overlaid
from meristem.edit.indices import Recipe
from meristem.edit.journal import Step
from meristem.edit.optimizer import Follow, StatePolicy, optimizer_steps
from meristem.edit.slots import Successors, module_steps
from meristem.edit.successor import successor
from meristem.errors import EditError


@dataclass(frozen=True, eq=False)
class Request:
    """One edit as it was collected: what changes, and who follows."""

    axes: AxisMap
    changes: tuple[Change, ...]
    optimizers: tuple[Optimizer, ...]
    follow: tuple[nn.Module, ...]
    seed: int
    state: StatePolicy

    @property
    def sizes(self) -> tuple[int, ...]:
        """The size of every axis after the edit."""
        after = {change.axis.index: len(change.gather) for change in self.changes}
        return tuple(after.get(axis.index, axis.size) for axis in self.axes)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that an edit will do.

    Attributes:
        steps: what to do, in order.
        replaced: for each edited tensor, by its first name, the old one and the new one.
        resets: which optimizer state cannot follow, in words.
    """

    steps: list[Step]
    replaced: Mapping[str, tuple[Tensor, Tensor]]
    resets: list[str]


def validate(request: Request, computation: Computation | None = None) -> tuple[list[TensorLayout], dict[str, Tensor]]:
    """The layouts that change and the model's tensors by name, after all checks; nothing is touched.

    Args:
        request: the edit.
        computation: that of the edit, if there is one already.

    Raises:
        EditError, StaleMapError, WrappedModelError: as the functions in `checks` say.
    """
    axes = request.axes
    for change in request.changes:
        if len(change.gather) < change.axis.minimum:
            raise EditError(
                f"{change.axis.name} would be left with {len(change.gather)} units; the model's code needs at least "
                f"{change.axis.minimum}: it squeezes every length of 1"
            )
    computation = computation or Computation(axes, request.changes, request.seed)
    edited = [layout for layout in axes.layouts.values() if computation.touches(layout)]
    tensors = check_model(axes, edited)
    bindings = edited_bindings(axes, (change.axis.index for change in request.changes))
    check_optimizers(request.optimizers, tensors, edited)
    for copy in request.follow:
        check_copy(copy, axes, edited)
    for root in _roots(request):
        check_attributes(root, bindings, axes.sizes)
    return edited, tensors


def prepare(request: Request) -> Prepared:
    """Validate the edit, compute every new tensor and plan every step. Nothing is touched yet."""
    computation = Computation(request.axes, request.changes, request.seed)
    edited, tensors = validate(request, computation)
    with _undisturbed():
        recipes: dict[str, Recipe] = {}
        replaced: dict[str, tuple[Tensor, Tensor]] = {}
        for layout in edited:
            old = tensors[layout.name]
            data, recipes[layout.name] = computation.tensor(layout, old.detach())
            replaced[layout.name] = old, successor(old, data, recipes[layout.name])
        pairs = [*replaced.values(), *_copies(request, recipes, replaced)]
        successors = Successors(pairs)
        follows = {id(old): Follow(name, old, recipes[name]) for name, (old, _) in replaced.items()}
        steps = module_steps([*_roots(request), *request.follow], successors)
        resets: list[str] = []
        for optimizer in request.optimizers:
            more, lost = optimizer_steps(optimizer, successors, follows, request.state)
            steps += more
            resets += lost
    bindings = edited_bindings(request.axes, (change.axis.index for change in request.changes))
    for root in _roots(request):
        steps += attribute_steps(root, bindings, request.sizes)
        steps += cache_steps(root, request.axes.caches)
        steps += [_Compact(layer) for layer in root.modules() if isinstance(layer, nn.RNNBase)]
    return Prepared(steps, replaced, resets)


@dataclass(frozen=True, eq=False)
class _Compact:
    """cuDNN wants the weights of a recurrent layer side by side in memory. Nothing to undo: values stay."""

    layer: nn.RNNBase

    def do(self) -> None:
        self.layer.flatten_parameters()

    def undo(self) -> None:
        pass


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Whatever context the caller is in: no gradients, no inference tensors, no default device but the CPU."""
    elsewhere = torch.get_default_device().type != "cpu"
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu") if elsewhere else nullcontext():
        yield


def _roots(request: Request) -> list[nn.Module]:
    return [request.axes.model, *(unwrapped(copy) for copy in request.follow)]


def _copies(
    request: Request, recipes: Mapping[str, Recipe], replaced: Mapping[str, tuple[Tensor, Tensor]]
) -> Iterable[tuple[Tensor, Tensor]]:
    """The edited tensors of all copies that follow: their own incumbents, the model's newborns."""
    layouts: Sequence[TensorLayout] = [request.axes.layouts[name] for name in recipes]
    for copy in request.follow:
        tensors = check_copy(copy, request.axes, layouts)
        for name, recipe in recipes.items():
            old = tensors[name]
            weights = {dim: along.weight for dim, along in recipe.items() if along.weight is not None}
            data = overlaid(moved(old.detach(), recipe, weights), recipe, replaced[name][1].detach())
            yield old, successor(old, data, recipe)
