"""After pruning: back to earlier weights, or the found structure with fresh ones."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from meristem.axes.map import AxisMap
from meristem.edit import replay
from meristem.edit.checks import check_model, tensors_of
from meristem.edit.duplicate import duplicate
from meristem.edit.stages import has_depth
from meristem.errors import EditError
from meristem.mask.following import through
from meristem.mask.masks import silence


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The weights of a model at one time, to which it can be taken back whatever was edited since.

        start = Snapshot.of(axes)                     # before training, or after a few hundred steps
        ...                                           # train, prune units, remove and insert layers
        start.rewind(plasticity.axes)                 # the surviving weights as they were

    Rewinding to an early time: Frankle, Dziugaite, Roy, Carbin, "Linear Mode Connectivity and the Lottery Ticket
    Hypothesis", ICML 2020, arXiv 1912.05671; to the beginning: Frankle, Carbin, ICLR 2019, arXiv 1803.03635.

    Fails: a model that Python cannot copy can be taken back through edits of units only.

    Attributes:
        tensors: all parameters and buffers by their first names, copies on the CPU.
        devices: where each was.
        axes: the map of then.
        copied: the model of then, which holds these tensors; or why it cannot be copied.
    """

    tensors: Mapping[str, Tensor] = field(repr=False)
    devices: Mapping[str, torch.device] = field(repr=False)
    axes: AxisMap = field(repr=False)
    copied: nn.Module | str = field(repr=False)

    @classmethod
    def of(cls, axes: AxisMap) -> Snapshot:
        """Today's weights. Costs the memory of one model, on the CPU (and of another one on a GPU, for a moment).

        Raises:
            StaleMapError: the map is not of the model as it is now.
        """
        tensors = {name: tensor.detach() for name, tensor in _tensors(axes).items()}
        devices = {name: tensor.device for name, tensor in tensors.items()}
        try:
            copied = duplicate(axes.model, axes.model).to("cpu")
        except Exception as error:  # whatever a module of the user's own raises
            return cls({name: t.to("cpu", copy=True) for name, t in tensors.items()}, devices, axes, str(error))
        held = tensors_of(copied)
        return cls({name: held[name].detach() for name in tensors}, devices, axes, copied)

    @torch.no_grad()
    def rewind(self, axes: AxisMap, masks: Mapping[str, Tensor] | None = None) -> None:
        """Give every entry that stood then the value that it had, in place, wherever its layer stands now and whatever
        it is called. A unit that copies another one since gets what that had. What was born since stays as it is:
        units without a source, and layers that were inserted, copies of others too.

        Edits of layers are done once more, on a copy of the model of then, which is traced again after each of them: it
        takes their time, and the memory of a model where the model is. Optimizers and their state are yours: as a rule,
        build new ones.

        Args:
            axes: today's map of the same model.
            masks: by the name of a parameter, which of its entries exist, `sparsity.masks` of a model that trains
                sparsely; the others become zero. Without them, all weights come back until the next optimizer step.

        Raises:
            EditError: the map's history does not begin with the snapshot's, the model is another one, a mask does not
                fit, or layers were edited and the model could not be copied. Nothing is touched.
            StaleMapError: the map is not of the model as it is now; likewise.
            TraceError: the model of then cannot be run with the layers of now on the examples of its map; likewise.
        """
        done, today = len(self.axes.history), _tensors(axes)
        if tuple(axes.history[:done]) != tuple(self.axes.history):
            raise EditError("the snapshot is of another model, or of another history; take it of the model it is for")
        for name, mask in (masks or {}).items():
            if name not in today or mask.shape != today[name].shape:
                raise EditError(
                    f"the mask of {name} has shape {tuple(mask.shape)}, which no tensor of that name has: masks are "
                    "those of the model as it is now"
                )
        since = axes.history[done:]
        then, stood = self._through(since)
        known = {name for name, layout in axes.layouts.items() if not layout.buffer}
        strange = [n for n, t in then.items() if n not in axes.layouts or (n in known and t.shape != today[n].shape)]
        if strange or (not has_depth(since) and not known <= then.keys()):
            what = f" ({strange[0]} had the shape {tuple(then[strange[0]].shape)})" if strange else ""
            raise EditError(f"the snapshot is of another model than this one{what}; take it of the model it is for")
        for name in then.keys() & today.keys():
            if then[name].shape == today[name].shape:
                there = stood[name].to(today[name].device)
                today[name].copy_(torch.where(there, then[name].to(today[name]), today[name]))
        for name, mask in (masks or {}).items():
            silence(mask.bool(), [today[name]])

    def _through(self, history: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        """The tensors of then after a history, by the names of now; and which of their entries stood."""
        copied, axes = self.copied, self.axes
        if has_depth(history):
            if isinstance(copied, str):
                raise EditError(
                    "layers were edited since the snapshot, which is followed on a copy of the model; this one could "
                    f"not be copied ({copied}): take the snapshot after such edits"
                )
            model = duplicate(copied, copied)
            for name, tensor in tensors_of(model).items():
                tensor.data = tensor.data.to(self.devices.get(name, tensor.device))
            axes = replace(axes, model_reference=weakref.ref(model))
        everywhere = {name: torch.ones_like(tensor, dtype=torch.bool) for name, tensor in self.tensors.items()}
        return through(history, axes, self.tensors, everywhere)


def _tensors(axes: AxisMap) -> dict[str, Tensor]:
    """All parameters and buffers by their first names, but for buffers that the model itself has made longer."""
    found = check_model(axes, ())
    shapes = {name: layout.shape(axes.sizes) for name, layout in axes.layouts.items() if name in found}
    return {name: found[name] for name, shape in shapes.items() if tuple(found[name].shape) == shape}


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
    before = {name: tensor.shape for name, tensor in tensors_of(model).items()}
    other = set() if initialize is not None else _initialized_otherwise(model)
    axes = replay(history, model, args, kwargs)
    if initialize is not None:
        model.apply(initialize)
        return axes
    changed = {
        name.rpartition(".")[0] for name, tensor in tensors_of(model).items() if tensor.shape != before.get(name)
    }
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
