"""Alike: axes of the same form keep the same size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meristem.allocate.allocator import Allocator, Offer
from meristem.allocate.limits import LimitsByName
from meristem.allocate.uniform import Uniform
from meristem.prune.isomorphic import form
from meristem.schedule.demand import Action
from meristem.signals import View


@dataclass(frozen=True)
class Alike(Allocator):
    """Another allocator's division, but axes of the same form and size gain or lose the same number of units, as layers
    of a transformer have to whose configuration has one width for all (`meristem.edit.fit_config`).

    Forms are those of `meristem.prune.Isomorphic`. What the other allocator gives to all axes of a form is divided
    evenly among them; the amount is met as nearly as that allows. What a growth method cannot give to one of them, none
    of them gets. What the other allocator links stays linked.

    Attributes:
        among: divides the amount over forms; its limits hold. Default: `Uniform()`.

    Fails: a layer that needs its units more than others of its form do is not spared.
    """

    limits: LimitsByName = field(init=False, repr=False, default_factory=dict)
    among: Allocator = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", self.among.limits)

    @property
    def wants_gains(self) -> bool:
        return self.among.wants_gains

    @property
    def polls(self) -> bool:
        return self.among.polls

    def polled(self, view: View, offers: Sequence[Offer], total: int) -> Sequence[Offer]:
        return self.among.polled(view, offers, total)

    def for_action(self, action: Action) -> Allocator:
        return Alike(self.among.for_action(action))

    def shares(self, total: int, offers: Sequence[Offer]) -> Sequence[float]:
        return self.among.shares(total, offers)

    def links(self, offers: Sequence[Offer]) -> list[tuple[int, int]]:
        """Those of the other allocator, and axes of one form and size within the same limits."""
        first: dict[object, int] = {}
        found = self.among.links(offers)
        for number, offer in enumerate(offers):
            key = form(offer.axes, offer.axis), offer.axis.size, offer.counts.start, offer.counts.step
            found.append((first.setdefault(key, number), number))
        return found
