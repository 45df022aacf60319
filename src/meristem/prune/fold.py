"""Folding: channels that a batch normalization holds constant are removed without a trace."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meristem.axes.expression import units_along
from meristem.axes.map import Axis, AxisMap, Role
from meristem.axes.operators import elementwise
from meristem.axes.path import BatchNorm, Path, Step
from meristem.errors import ConfigError
from meristem.prune.criterion import Removal
from meristem.prune.shifts import compensation, unshiftable
from meristem.signals import View
from meristem.signals.reads import readers


def fold(axes: AxisMap, threshold: float = 0.0) -> tuple[Removal, ...]:
    """Plans that remove the units that batch normalizations hold constant, and give what they are to their readers.

    A unit whose scale is 0 is `phi(beta)` whatever it is fed: phi is what stands between the batch normalization and
    the readers, beta its shift. No data is needed.

        for plan in fold(axes):
            edit.gather(plan.axis, plan.gather, plan.start)

    Exact for linear readers and for convolutions without padding (with zero padding: in the interior), and with pooling
    that does not read padding. Ye, Lu, Lin, Wang, "Rethinking the Smaller-Norm-Less-Informative Assumption in Channel
    Pruning of Convolution Layers", ICLR 2018, arXiv 1802.00124.

    Args:
        axes: the map.
        threshold: the absolute scale up to which a unit counts as constant. Default 0: exactly constant ones.

    Returns:
        for every editable axis on which units are constant at all readers, and whose readers can be compensated. Every
        axis keeps its minimum.

    Raises:
        ConfigError: the threshold is negative.
        StaleMapError: the model was edited since the map was made.
    """
    if not threshold >= 0:
        raise ConfigError(f"fold(threshold=...) must be at least 0, got {threshold!r}")
    view = View(axes)
    plans = (_folded(view, axis, threshold) for axis in axes.editable)
    return tuple(plan for plan in plans if plan is not None)


def _folded(view: View, axis: Axis, threshold: float) -> Removal | None:
    paths = view.axes.paths.get(axis.index, ())
    followed = paths and all(path.obstacle is None and path.batch_norms for path in paths)
    if not followed or not _alone(view, axis, paths) or unshiftable(view.axes, axis) is not None:
        return None
    found = [_constant(view, axis, path, threshold) for path in paths]
    constant = torch.stack([holds for holds, _ in found]).all(0)
    constant[constant.nonzero().flatten()[axis.size - max(axis.minimum, 1) :]] = False
    if not bool(constant.any()):
        return None
    values = {path.consumer.weight: value for path, (_, value) in zip(paths, found, strict=True)}
    means: dict[str, Tensor] = {}
    for place in readers(view.axes, axis):
        along = units_along(place.layout.dims[place.dim], axis.index, view.axes.sizes)
        means[place.layout.name] = values[place.layout.name][along.clamp(min=0)][None]
    units = tuple(constant.nonzero().flatten().tolist())
    return Removal(axis, units, compensation(view.axes, view.tensors, axis, units, means))


def _alone(view: View, axis: Axis, paths: Sequence[Path]) -> bool:
    """Whether one weight produces the axis, and nothing but batch normalizations scales or shifts its units on the way:
    paths leave out what does nothing to newborns."""
    known = {path.producer.bias for path in paths}
    for norm in (norm for path in paths for norm in path.batch_norms):
        known |= {norm.weight, norm.bias, norm.mean, norm.variance}
    carried = [place.layout.names for place in view.axes.places[axis.index] if place.roles <= {Role.CARRIES}]
    return len({path.producer.weight for path in paths}) == 1 and all(known.intersection(names) for names in carried)


def _constant(view: View, axis: Axis, path: Path, threshold: float) -> tuple[Tensor, Tensor]:
    """Which units the last batch normalization of a path holds constant, and what their reader reads of each then."""
    last = max(i for i, step in enumerate(path.steps) if isinstance(step, BatchNorm))
    norm = path.steps[last]
    assert isinstance(norm, BatchNorm)
    scale, value = (_by_unit(view, axis, name) for name in (norm.weight, norm.bias))
    for step in path.steps[last + 1 :]:
        if isinstance(step, Step) and elementwise(step.operator):
            value = step(value)
    constant = torch.zeros(axis.size, dtype=torch.bool) if norm.weight is None else scale.abs() <= threshold
    return constant, value


def _by_unit(view: View, axis: Axis, name: str | None) -> Tensor:
    """The entry of each unit in a vector: float64 on the CPU; zeros if there is none."""
    if name is None:
        return torch.zeros(axis.size, dtype=torch.float64)
    units = units_along(view.axes.layouts[name].dims[0], axis.index, view.axes.sizes)
    entries = view.tensors[name].to("cpu", torch.float64)
    return torch.zeros(axis.size, dtype=torch.float64).index_copy(0, units[units >= 0], entries[units >= 0])
