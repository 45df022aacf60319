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
from meristem.edit.checks import (
    check_copy,
    check_model,
    check_optimizers,
    check_sizes,
    check_values,
    tensors_of,
    unwrapped,
)
from meristem.edit.compute import Change, Computation, moved, overlaid
from meristem.edit.indices import Recipe
from meristem.edit.journal import SetContents, Step
from meristem.edit.modules import modules_of
from meristem.edit.optimizer import Follow, optimizer_steps
from meristem.edit.overwrite import kept, rewritable, rewriting, sharing
from meristem.edit.slots import Successors, module_steps
from meristem.edit.state import StatePolicy, state_recipes
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
        replaced: for each tensor that another one takes the place of, by its first name, the old one and the new one.
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
    check_sizes(axes, request.sizes)
    for change in request.changes:
        if change.gather.sources and len(change.gather) < change.axis.minimum:
            raise EditError(
                f"{change.axis.name} would be left with {len(change.gather)} units; the model's code needs at least "
                f"{change.axis.minimum}: it squeezes every length of 1"
            )
    computation = computation or Computation(axes, request.changes, request.seed)
    edited = [layout for layout in axes.layouts.values() if computation.touches(layout)]
    tensors = check_model(axes, edited)
    bindings = edited_bindings(axes, (change.axis.index for change in request.changes))
    check_optimizers(request.optimizers, tensors, edited)
    growing = next((change.axis.name for change in request.changes if change.gather.has_newborns), None)
    if growing is not None:
        check_values(tensors, edited, growing)
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
        targets = [
            Target(layout.name, tensors[layout.name], *computation.tensor(layout, tensors[layout.name].detach()))
            for layout in edited
        ]
        copies = list(_copies(request, targets))
        everything = [*tensors.values(), *(t for copy in request.follow for t in tensors_of(copy).values())]
        steps, pairs = _placed([*targets, *copies], everything)
        successors = Successors(pairs.values())
        recipes = _state_recipes(request, targets)
        follows = {id(target.old): Follow(target.name, target.old, recipes[target.name]) for target in targets}
        steps += module_steps([*_roots(request), *request.follow], successors)
        resets: list[str] = []
        for optimizer in request.optimizers:
            more, lost = optimizer_steps(optimizer, successors, follows, request.state)
            for step in more:
                if isinstance(step, SetContents) and step.mapping is optimizer.state:
                    steps += kept(step)
                else:
                    steps.append(step)
            resets += lost
    bindings = edited_bindings(request.axes, (change.axis.index for change in request.changes))
    steps += attribute_steps(_roots(request), bindings, request.sizes)
    for root in _roots(request):
        steps += cache_steps(root, request.axes.caches)
        steps += [
            _Compact(layer) for layer in dict.fromkeys(modules_of(root).values()) if isinstance(layer, nn.RNNBase)
        ]
    replaced = {target.name: pairs[id(target.old)] for target in targets if id(target.old) in pairs}
    return Prepared(steps, replaced, resets)


@dataclass(frozen=True, eq=False)
class Target:
    """One tensor of the model or of a copy, and what it is to hold.

    Attributes:
        name: its first name.
        old: the tensor.
        data: its new content.
        recipe: by which its gradient and its state follow.
    """

    name: str
    old: Tensor
    data: Tensor
    recipe: Recipe


def _placed(
    targets: Sequence[Target], tensors: Iterable[Tensor]
) -> tuple[list[Step], dict[int, tuple[Tensor, Tensor]]]:
    """Steps for what is edited in place, and the old and new tensor, by the old one's identity, for all else.

    Args:
        targets: what is edited.
        tensors: all that there are.
    """
    shared = sharing(tensors)
    steps: list[Step] = []
    pairs: dict[int, tuple[Tensor, Tensor]] = {}
    for target in targets:
        if rewritable(target.old, target.data) and id(target.old) not in shared:
            steps += rewriting(target.old, target.data, target.recipe)
        else:
            pairs[id(target.old)] = target.old, successor(target.old, target.data, target.recipe)
    return steps, pairs


def _state_recipes(request: Request, targets: Sequence[Target]) -> Mapping[str, Recipe]:
    """By which recipe the optimizer state of each edited tensor follows."""
    tensors = {target.name: (target.old, target.data) for target in targets}
    recipes = {target.name: target.recipe for target in targets}
    return state_recipes(request.axes, request.changes, request.optimizers, tensors, recipes, request.state)


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


def _copies(request: Request, targets: Sequence[Target]) -> Iterator[Target]:
    """The edited tensors of all copies that follow: their own incumbents, the model's newborns."""
    layouts = [request.axes.layouts[target.name] for target in targets]
    for copy in request.follow:
        tensors = check_copy(copy, request.axes, layouts)
        for target in targets:
            old = tensors[target.name]
            weights = {dim: along.weight for dim, along in target.recipe.items() if along.weight is not None}
            data = overlaid(moved(old.detach(), target.recipe, weights), target.recipe, target.data)
            yield Target(target.name, old, data, target.recipe)
