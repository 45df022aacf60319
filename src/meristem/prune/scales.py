"""The scales of batch normalizations: how much of each unit is let through."""

from __future__ import annotations

import torch
from torch import Tensor

from meristem.axes.expression import leaves, units_along
from meristem.axes.map import Axis, AxisMap, Place, Role, TensorLayout
from meristem.edit.checks import check_model, check_parameters
from meristem.errors import EditError
from meristem.prune.criterion import Removal


def batch_norm_scales(axes: AxisMap) -> tuple[str, ...]:
    """The names of the scales of all batch normalizations that carry an editable axis, in the model's order.

    A scale is a parameter that meets units one by one and does nothing where it is 1. It is that of a batch
    normalization if a running variance stands beside it in its module, or if the map's paths say so. The scales of
    LayerNorm, RMSNorm and LayerScale are none: what they multiply has no variance of its own to compare.
    """
    variances = {(_module(y.name), y.dims) for y in axes.layouts.values() if y.buffer and _is_scale(y)}
    followed = {norm.weight for paths in axes.paths.values() for path in paths for norm in path.batch_norms}
    return tuple(
        y.name
        for y in axes.layouts.values()
        if not y.buffer
        and _is_scale(y)
        and (y.name in followed or (_module(y.name), y.dims) in variances)
        and any(axes.axes[axis].editable for axis in leaves(y.dims[0]))
    )


def scale_vector(axes: AxisMap) -> Tensor:
    """All of these scales behind one another, in float32 or better; differentiable.

    Read from the model anew at every call, because edits replace parameters.

    Raises:
        EditError: there are none.
        StaleMapError: the model was edited since the map was made: give `plasticity.axes` in every step.
    """
    found = check_parameters(axes, batch_norm_scales(axes))
    if not found:
        raise EditError(
            "expected batch normalizations with a scale on editable axes, found none; use a criterion that looks at "
            "weights, such as Magnitude"
        )
    return torch.cat([scale.to(found[0].device, torch.promote_types(scale.dtype, torch.float32)) for scale in found])


def removals(axes: AxisMap, threshold: float, least: int = 1) -> tuple[Removal, ...]:
    """Plans that remove the units that no batch normalization lets through.

    Args:
        axes: the map.
        threshold: a unit is removed if the absolute scales of all batch normalizations that carry it are below.
        least: how many units every axis keeps, those with the largest scales; at least 1. Default: 1, or whole axes
            might go.

    Returns:
        for every editable axis that loses units, in the order of the map.

    Raises:
        StaleMapError: the model was edited since the map was made.
    """
    check_model(axes, ())
    found = []
    for axis in axes.editable:
        places = carried_scales(axes, axis)
        if not places:
            continue
        scores = torch.stack([largest_scale(axes, axis, place) for place in places]).amax(0)
        keep = scores.topk(min(axis.size, max(least, axis.minimum, 1))).indices
        low = (scores < threshold).index_fill(0, keep, False)
        if bool(low.any()):
            found.append(Removal(axis, tuple(low.nonzero().flatten().tolist())))
    return tuple(found)


def carried_scales(axes: AxisMap, axis: Axis) -> tuple[Place, ...]:
    """Where the scales of batch normalizations carry an axis."""
    names = set(batch_norm_scales(axes))
    return tuple(place for place in axes.places[axis.index] if place.layout.name in names)


def largest_scale(axes: AxisMap, axis: Axis, place: Place) -> Tensor:
    """The largest absolute scale of each unit: float64 on the CPU, shape (axis.size,)."""
    scales = axes.model.get_parameter(place.layout.name).detach().abs().to("cpu", torch.float64)
    units = units_along(place.layout.dims[place.dim], axis.index, axes.sizes)
    own = units >= 0
    return scales.new_zeros(axis.size).scatter_reduce(0, units[own], scales[own], "amax")


def _is_scale(layout: TensorLayout) -> bool:
    roles = {role for found in layout.roles for kinds in found.values() for role in kinds}
    return layout.neutral == 1.0 and len(layout.dims) == 1 and roles == {Role.CARRIES}


def _module(name: str) -> str:
    return name.rpartition(".")[0]
