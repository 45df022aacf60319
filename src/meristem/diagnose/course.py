"""The units of one axis through time: when they were born, what was measured of them last, who has gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from meristem.diagnose.record import MEASURES, AxisRecord, Cohort, Death, Unmeasured
from meristem.diagnose.survivors import Stability, change
from meristem.edit import Gather

ALWAYS_THERE = -1


@dataclass(frozen=True, eq=False)
class Course:
    """What a monitor remembers of an axis. A sample and an edit each give a new one.

    Attributes:
        name: of the axis.
        born: of every unit, the step after which it was inserted; -1 if no edit inserted it.
        last: the last sample, float64, shape (measures, units) on the CPU; NaN for units born since. None before the
            first.
        seen: its step.
        removed: how many units were removed since then.
        earlier: the sample before that, likewise; None if there is none, or units were removed in between.
    """

    name: str
    born: tuple[int, ...]
    last: Tensor | None = None
    seen: int = 0
    removed: int = 0
    earlier: Tensor | None = None

    def after(self, gather: Gather, step: int) -> tuple[Course, list[Death]]:
        """After an edit at a step, and who was removed by it."""
        kept = {source for source, new in zip(gather.sources, gather.newborn, strict=True) if not new}
        deaths = [self._death(unit, step) for unit in range(len(self.born)) if unit not in kept]
        pairs = zip(gather.sources, gather.newborn, strict=True)
        born = tuple(step if new else self.born[source] for source, new in pairs)
        last, earlier = (None if x is None else _gathered(x, gather) for x in (self.last, self.earlier))
        return replace(self, born=born, last=last, earlier=earlier, removed=self.removed + len(deaths)), deaths

    def ended(self, step: int) -> list[Death]:
        """Everybody dies: the axis is gone."""
        return [self._death(unit, step) for unit in range(len(self.born))]

    def _death(self, unit: int, step: int) -> Death:
        born = None if self.born[unit] == ALWAYS_THERE else self.born[unit]
        if self.last is None or bool(self.last[0, unit].isnan()):
            return Death(self.name, unit, step, born, None, {})
        last = dict(zip(MEASURES, self.last[:, unit].tolist(), strict=True))
        return Death(self.name, unit, step, born, self.seen, last)

    def sampled(self, numbers: Tensor, step: int) -> tuple[Course, Stability | None]:
        """After a sample, and how survivors changed if there was a removal since the last one."""
        stability, earlier = None, self.last
        if self.removed:
            stability, earlier = self._stability(numbers, step), None
        now = replace(self, last=numbers, seen=step, removed=0, earlier=earlier)
        now.__dict__["_cohorts"] = self._cohorts  # no edit, the same cohorts
        return now, stability

    def _stability(self, numbers: Tensor, step: int) -> Stability | None:
        """How much those changed that were there at the last sample, and at the one before."""
        if self.last is None or bool(self.last[0].isnan().all()):
            return None
        both = ~self.last[0].isnan()
        usual: tuple[float | None, float | None] = (None, None)
        if self.earlier is not None and bool((always := both & ~self.earlier[0].isnan()).any()):
            usual = change(self.earlier[:2, always], self.last[:2, always])
        moved = change(self.last[:2, both], numbers[:2, both])
        return Stability(int(both.sum()), self.removed, self.seen, step, *moved, *usual)

    @cached_property
    def _cohorts(self) -> dict[int, tuple[list[int], list[int], Tensor]]:
        """By how many are told apart: see `_told_apart`."""
        return {}

    def _told_apart(self, limit: int) -> tuple[list[int], list[int], Tensor]:
        """The births of the youngest cohorts; how many units they have, behind those that are older than all of them;
        who belongs to which of these groups, shape (units, groups)."""
        if limit not in self._cohorts:
            births = sorted({at for at in self.born if at != ALWAYS_THERE})[-limit:]
            born = torch.tensor(self.born)
            groups = [born < births[0] if births else torch.ones_like(born), *(born == at for at in births)]
            counts = [int(group.sum()) for group in groups]
            self._cohorts[limit] = births, counts, torch.stack(groups, 1).double()
        return self._cohorts[limit]

    def record(self, step: int, limit: int) -> AxisRecord:
        """The last sample by cohorts, of which the `limit` youngest are told apart. To be asked after `sampled`."""
        assert self.last is not None
        births, counts, groups = self._told_apart(limit)
        sums = (self.last[:, :, None] * groups).sum(1).T.tolist()  # as a product of matrices it would count as FLOPs
        cohorts, before, older = [], counts[0], sums[0]
        for at, count, total in zip(births, counts[1:], sums[1:], strict=True):
            means = [x / count for x in total]
            ratios = [_ratio(mean, x / before if before else None) for mean, x in zip(means, older, strict=True)]
            cohorts.append(Cohort(at, step - at, count, before, _named(means), _named(ratios)))
            before, older = before + count, [x + y for x, y in zip(older, total, strict=True)]
        means = _named([x / counts[0] for x in sums[0]]) if counts[0] else {}
        return AxisRecord(len(self.born), counts[0], means, tuple(cohorts))

    def unmeasured(self, norms: tuple[Tensor, Tensor], step: int) -> Unmeasured | None:
        """The youngest newborns, by the squared norms of all units' fan-in and fan-out; None if there are none."""
        births = {at for at in self.born if at != ALWAYS_THERE}
        if not births:
            return None
        at, born = max(births), torch.tensor(self.born)
        found = (squares.double().cpu().sqrt() for squares in norms)
        into, out = (
            _ratio(float(norm[born == at].mean()), float(norm[born < at].mean()) if bool((born < at).any()) else None)
            for norm in found
        )
        return Unmeasured(at, step - at, int((born == at).sum()), into, out)


def _gathered(numbers: Tensor, gather: Gather) -> Tensor:
    found = numbers[:, gather.index.clamp(min=0)]
    found[:, gather.newborn_mask] = torch.nan
    return found


def _named(values: Sequence) -> dict:
    return dict(zip(MEASURES, values, strict=True))


def _ratio(mean: float, other: float | None) -> float | None:
    if other is None:
        return None
    return mean / other if other else None if mean else 0.0
