"""Soft pruning: units are silenced, go on training, and may come back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from meristem.axes.expression import gather_index, units_along
from meristem.axes.map import Axis, AxisMap, Coupling, Place, Role, TensorLayout
from meristem.edit import Edit
from meristem.edit.checks import check_model
from meristem.errors import EditError
from meristem.prune.criterion import Removal
from meristem.prune.reading import read_in_part
from meristem.prune.trained import parameter_places


@torch.no_grad()
def silence(axes: AxisMap, plans: Iterable[Removal], role: Role = Role.READS) -> tuple[Removal, ...]:
    """Set the slices of these units to zero, in place. They stay, get gradients, and may score well the next time.

        plans = [criterion.removal(view, axis, units) ...]        # in every epoch
        plans = silence(axes, plans)
        ...                                                       # train on; at the end carry out the last plans

    He, Kang, Dong, Fu, Yang, "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018,
    arXiv 1808.06866. They zero the filters, which is `role=Role.PRODUCES`; by default the weights that read the units
    are zeroed, so that nothing that stands in between is left of the units in what their readers give, and gradients
    bring them back at once.

    What a plan adds to those that stay, as `Compensated` does, is added now, and is no longer in the plans that are
    returned. Units that come back start from zero, as their weights do, with the means of before in the biases: nothing
    is taken back, and when they are silenced again it is what they give by then that is made up for.

    Preserved: carrying out the plans that are returned right away changes nothing, by the default role, unless
    something between units and readers mixes the units, as LayerNorm and softmax do: silent units still take part in
    it, removed ones do not.

    Args:
        axes: the map.
        plans: whom to silence.
        role: which slices become zero.

    Returns:
        the plans with what is left to be done: the same units, and nothing that is added to others.

    Raises:
        EditError: no parameter has that role on an axis; units act on others without being read (queries and keys over
            the size of a head), or zeros in what reads them are no zeros of the weight (it is normalized over them); a
            filter of zeros may be 0 / 0 (`weight_norm`); a plan makes up for what readers lose and another role is
            given; a plan is of another map, or names units that there are not. Nothing is touched.
        FrozenAxisError: a plan could not be carried out: its axis may not be edited; likewise.
        StaleMapError: the model was edited since the map was made; likewise.
    """
    check_model(axes, ())
    plans = tuple(plans)
    for plan in plans:
        Edit(axes).gather(plan.axis, plan.gather)  # raises where it could not be carried out
        obstacle = _audible(plan.axis, role)
        if obstacle is not None:
            raise EditError(f"units of {plan.axis.name} cannot be silenced by what {role.value} them: {obstacle}")
    found = [(plan, parameter_places(axes, plan.axis, (role,))) for plan in plans]
    empty = [plan.axis.name for plan, places in found if not places]
    if empty:
        raise EditError(f"no parameter {role.value} {', '.join(empty)}, so these units cannot be silenced by it")
    moving = [plan.axis.name for plan, _ in found if plan.start is not None]
    if moving and role is not Role.READS:
        raise EditError(
            f"the plans for {', '.join(moving)} make up for what readers lose (Compensated, MeanKept), which holds "
            "where the weights that read are zeroed: leave out role=, or plan without it"
        )
    for plan, places in found:
        for place in places:
            _clear(axes, plan, place)
        for layout in axes.layouts.values():
            shift = None if plan.start is None else plan.start.shift(layout)
            if shift is not None:
                _move(axes, plan, layout, shift)
    return tuple(replace(plan, start=None) for plan, _ in found)


def _audible(axis: Axis, role: Role) -> str | None:
    """Why units act on the model although their slices with a role are zero, or None if they do not."""
    if role is Role.READS:
        partly = read_in_part(axis)
        if partly is None and Coupling.STANDARDIZED in axis.couplings:
            return "a weight that reads them is normalized over them, so that zeros do not stay zeros"
        return None if partly is None else f"{partly}, and what weights read of them is only a part"
    if role is Role.PRODUCES and role in axis.nonlinear:
        return "a weight that produces them is divided by a norm of theirs, which would be 0 / 0"
    return None


def _clear(axes: AxisMap, plan: Removal, place: Place) -> None:
    """Zero for the slices of the units of a plan along a dimension."""
    along = units_along(place.layout.dims[place.dim], plan.axis.index, axes.sizes)
    index = torch.isin(along, torch.tensor(plan.units)).nonzero().flatten()
    parameter = axes.model.get_parameter(place.layout.name)
    parameter.index_fill_(place.dim, index.to(parameter.device), 0)


def _move(axes: AxisMap, plan: Removal, layout: TensorLayout, shift: Tensor) -> None:
    """Add to the entries of a tensor that a plan keeps, given in their shape."""
    tensor = axes.model.get_buffer(layout.name) if layout.buffer else axes.model.get_parameter(layout.name)
    kept = {plan.axis.index: plan.gather.index}
    along = [gather_index(dim, kept, axes.sizes).to(tensor.device) for dim in layout.dims]
    index = tuple(rows.view(-1, *(1 for _ in along[number + 1 :])) for number, rows in enumerate(along))
    tensor[index] += shift.to(tensor)
