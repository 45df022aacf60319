"""After pruning: back to earlier weights, or the found structure with fresh ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from meristem.axes.expression import gather_index
from meristem.axes.map import AxisMap, TensorLayout
from meristem.edit import replay
from meristem.edit.record import composed, parsed
from meristem.errors import EditError


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The weights of a model at one time, to which it can be taken back whatever was edited since.

        start = Snapshot.of(axes)                     # before training, or after a few hundred steps
        ...                                           # train, prune
        start.rewind(plasticity.axes)                 # the surviving weights as they were

    Rewinding to an early time: Frankle, Dziugaite, Roy, Carbin, "Linear Mode Connectivity and the Lottery Ticket
    Hypothesis", ICML 2020, arXiv 1912.05671; to the beginning: Frankle, Carbin, ICLR 2019, arXiv 1803.03635.

    Attributes:
        tensors: all parameters and buffers by their first names, copies on the CPU.
        sizes: of the axes.
        history: the edits until then.
    """

    tensors: Mapping[str, Tensor] = field(repr=False)
    sizes: tuple[int, ...]
    history: tuple[Mapping[str, Any], ...] = field(repr=False)

    @classmethod
    def of(cls, axes: AxisMap) -> Snapshot:
        """Today's weights. Costs the memory of one model, on the CPU."""
        tensors = _tensors(axes.model)
        found = {name: tensors[name].detach().to("cpu", copy=True) for name in axes.layouts}
        return cls(found, axes.sizes, axes.history)

    @torch.no_grad()
    def rewind(self, axes: AxisMap, masks: Mapping[str, Tensor] | None = None) -> None:
        """Give every entry that stood then the value that it had, in place. What was born since stays as it is.

        Optimizers and their state are yours: as a rule, build new ones.

        Args:
            axes: today's map of the same model.
            masks: by the name of a parameter, which of its entries exist, `sparsity.masks` of a model that trains
                sparsely; the others become zero. Without them, all weights come back until the next optimizer step.

        Raises:
            EditError: the map's history does not begin with the snapshot's, or a mask does not fit; nothing is touched.
        """
        done = len(self.history)
        if tuple(axes.history[:done]) != tuple(self.history) or set(axes.layouts) != set(self.tensors):
            raise EditError("the snapshot is of another model, or of another history; take it of the model it is for")
        gathers = {axes.by_name[n].index: g.index for n, g in composed(parsed(axes.history[done:])).items()}
        tensors = _tensors(axes.model)
        for name, mask in (masks or {}).items():
            if name not in tensors or mask.shape != tensors[name].shape:
                raise EditError(
                    f"the mask of {name} has shape {tuple(mask.shape)}, which no tensor of that name has: masks are "
                    "those of the model as it is now"
                )
        for layout in axes.layouts.values():
            _put_back(tensors[layout.name], self.tensors[layout.name], layout, gathers, self.sizes)
        for name, mask in (masks or {}).items():
            tensors[name].mul_(mask.to(tensors[name]))


def fresh(
    history: Sequence[Mapping[str, Any]],
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    initialize: Callable[[nn.Module], None] | None = None,
) -> AxisMap:
    """The structure that a history found, with fresh weights: to be trained from scratch.

        scratch = build()
        axes = fresh(plasticity.history, scratch, x)

    The control of Liu, Sun, Zhou, Huang, Darrell, "Rethinking the Value of Network Pruning", ICLR 2019, arXiv
    1810.05270. Weights are drawn anew at their final size, since the scale of an initialization depends on it.

    Fails: how a model's own code initializes, such as `_init_weights` of a transformer or a last scale of zero in
    residual branches, cannot be called for a size. Such modules keep what they were built with, whose scale is that of
    the size before: give `initialize`.

    Args:
        history: `axes.history` of the edited model.
        model: a freshly built one, as before the first edit; it is given the structure.
        args, kwargs: example inputs, as for `meristem.trace`.
        initialize: draws the weights of one module; applied to all (`model.apply`). Default: modules whose own
            tensors changed are reset by their `reset_parameters`, if that is how they were built: if means and standard
            deviations of their tensors are those of a copy that is reset. Others keep the entries of the fresh model
            that survived; newborns are random.

    Returns:
        the map of the model.

    Raises:
        EditError, TraceError: as `meristem.edit.replay`.
    """
    before = {name: tensor.shape for name, tensor in _tensors(model).items()}
    other = set() if initialize is not None else _initialized_otherwise(model)
    axes = replay(history, model, args, kwargs)
    if initialize is not None:
        model.apply(initialize)
        return axes
    changed = {name.rpartition(".")[0] for name, tensor in _tensors(model).items() if tensor.shape != before.get(name)}
    for name, module in model.named_modules(remove_duplicate=True):
        reset = getattr(module, "reset_parameters", None)
        if name in changed and name not in other and callable(reset):
            reset()
    return axes


def _initialized_otherwise(model: nn.Module) -> set[str]:
    """The modules whose tensors are not what their `reset_parameters` gives. Draws no random number of the caller's."""
    devices = list({parameter.device for parameter in model.parameters() if parameter.device.type != "cpu"})
    found = set()
    with torch.random.fork_rng(devices):
        for name, module in model.named_modules():
            if callable(getattr(module, "reset_parameters", None)):
                reset: Any = copy.deepcopy(module)
                reset.reset_parameters()
                pairs = zip(module.parameters(recurse=False), reset.parameters(recurse=False), strict=True)
                if not all(_alike(built, again) for built, again in pairs if built.numel()):
                    found.add(name)
    return found


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are draws of one size, by mean and standard deviation: within five standard errors."""
    drawn = [x.detach().double() for x in (a, b)]
    means, stds = [float(x.mean()) for x in drawn], [float(x.std(correction=0)) for x in drawn]
    error = 5 * sqrt(2 / a.numel())
    if min(stds) == 0:
        return max(stds) == 0 and means[0] == means[1]
    return abs(means[0] - means[1]) <= error * max(stds) and abs(stds[0] - stds[1]) <= error * max(stds)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _put_back(
    today: Tensor, then: Tensor, layout: TensorLayout, gathers: Mapping[int, Tensor], sizes: Sequence[int]
) -> None:
    """Overwrite every entry that has a source with what the source held."""
    stood: Tensor = torch.ones((), dtype=torch.bool)
    for dim, expression in enumerate(layout.dims):
        index = gather_index(expression, gathers, sizes)
        then = then.index_select(dim, index.clamp(min=0))
        shape = [1] * len(layout.dims)
        shape[dim] = -1
        stood = stood & (index >= 0).reshape(shape)
    today.copy_(torch.where(stood.to(today.device), then.to(today), today))
