"""The weights of newborns that are zero at birth, and what their gradients say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.edit import Gather, Newborns, Trial
from meristem.errors import EditError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.closure import gradients
from meristem.grow.parts.counterparts import ProductsKept, answering, bare, scale_of
from meristem.grow.parts.gathered import Gathered, key, places, wide
from meristem.signals import View


def no_zero_side(base: Method, axes: AxisMap, axis: Axis) -> str | None:
    """Why newborns of a method cannot be judged by the gradients of what is zero of them, or None if they can."""
    if isinstance(base, Newborns) and _divides(base):
        return f"{type(base).__name__} changes incumbents, so that candidates cannot be tried and dropped"
    roles = [place.roles for place in axes.places[axis.index] if not place.layout.buffer]
    if axis.counterpart is None and not any(Role.READS in found for found in roles):
        return "no weights read it, so newborns have no side that could be zero at birth"
    if not any(Role.PRODUCES in found and Role.READS not in found for found in roles):
        return "what produces it reads it too, so newborns have no side that is zero at birth while the other is not"
    return base.undefined(axes, axis)


def _divides(start: Newborns) -> bool:
    return type(start).weight_factor is not Newborns.weight_factor


def _changes_incumbents(view: View, plan: Growth) -> bool:
    """Whether a plan copies, divides or moves incumbents."""
    if any(source >= 0 and new for source, new in zip(plan.gather.sources, plan.gather.newborn, strict=True)):
        return True
    layouts = {place.layout.name: place.layout for place in view.axes.places[plan.axis.index]}
    start = bare(plan.start)
    return _divides(start) or any(start.shift(layout) is not None for layout in layouts.values())


@dataclass(frozen=True, eq=False)
class ZeroEntries:
    """The weights of newborns that are zero at birth.

    Attributes:
        gathered: the axis.
        where: the dimensions of parameters in which there are any, with what their gradients count, 0 for others:
            shaped as `Gathered.slices`.
        trial: while the newborns are in place.
    """

    gathered: Gathered
    where: Sequence[tuple[Place, Tensor]]
    trial: Trial

    def gradients(self, view: View, *, create_graph: bool = False) -> dict[str, Tensor]:
        """The gradients of the loss on one batch with respect to the tensors that have such entries, by name."""
        names = list(dict.fromkeys(place.layout.name for place, _ in self.where))
        parameters = [self.trial.parameter(name) for name in names]
        return dict(zip(names, gradients(view, parameters, create_graph=create_graph), strict=True))

    def squared_gradients(self, found: Mapping[str, Tensor]) -> Tensor:
        """For each newborn the sum of the squares of these entries' gradients: shape (newborns,), float32 or better."""
        sums = [
            (wide(self.gathered.slices(found[place.layout.name], place, self.gathered.newborns)) * counts)
            .square()
            .flatten(1)
            .sum(1)
            for place, counts in self.where
        ]
        return torch.stack([s.to(sums[0]) for s in sums]).sum(0)


def zero_entries(view: View, plan: Growth, tried: Trial, kept: int | None = None) -> ZeroEntries:
    """The weights of a plan's newborns that are zero, while they are in place.

    Args:
        view: the model.
        plan: the newborns.
        tried: that plan, carried out.
        kept: how many newborns there will be in the end; all by default. What products over the axis are scaled by
            depends on it, and with it the gradient of their counterpart.

    Raises:
        EditError: there are none, or the plan changes incumbents.
    """
    gathered = Gathered(view.axes, plan.axis, plan.gather)
    where: list[tuple[Place, Tensor]] = []
    if not _changes_incumbents(view, plan):
        for place in places(view, plan.axis):
            slices = wide(gathered.slices(tried.parameter(place.layout.name).detach(), place, gathered.newborns))
            if bool((slices == 0).any()):
                where.append((place, (slices == 0) * _larger(view, plan, place, kept, slices)))
    if not any({Role.READS, Role.PRODUCES} & place.roles for place, _ in where):
        raise EditError(
            f"expected newborns of {plan.axis.name} that leave incumbents alone and have weights that are zero at "
            f"birth, got those of {plan.start!r}; use ZeroFanOut() as base"
        )
    return ZeroEntries(gathered, where, tried)


def _larger(view: View, plan: Growth, place: Place, kept: int | None, slices: Tensor) -> Tensor:
    """By what gradients of slices are larger when only so many newborns are kept of those that are tried."""
    axis, scale = plan.axis, scale_of(plan.axis)
    mask = answering(view.axes, axis, place) if scale is not None and kept is not None else None
    if mask is None or scale is None or kept is None:
        return slices.new_ones(())
    factor = scale.makes_up(axis.size + kept, axis.size + plan.births)
    larger = slices.new_ones(len(mask)).masked_fill(mask.to(slices.device), factor)
    return larger.reshape(-1, *(1,) * (slices.dim() - 2))


def likewise(plan: Growth, start: Newborns) -> Newborns:
    """Newborns with what another plan does to incumbents besides."""
    return replace(plan.start, newborns=start) if isinstance(plan.start, ProductsKept) else start


def tables(view: View, plan: Growth) -> dict[tuple[str, int], Tensor]:
    """Everything that a plan's newborns start from, while they are in place, as `Explicit` takes it."""
    gathered = Gathered(view.axes, plan.axis, plan.gather)
    model = view.axes.model
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        key(place): gathered.table(named[place.layout.name].detach(), place, gathered.newborns)
        for place in view.axes.places[plan.axis.index]
    }


def grown(axis: Axis, count: int) -> Gather:
    """All units and `count` new ones, even none."""
    return Gather.grow(axis.size, count) if count else Gather.keep(axis.size, range(axis.size))
