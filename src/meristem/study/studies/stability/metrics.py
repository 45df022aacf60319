"""From probes to the numbers that claims are about."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from torch import Tensor

from meristem.diagnose.record import MEASURES, Cohort, Record
from meristem.study.studies.stability.probe import Newborn, Units

SETTLED = 200
"""Optimizer steps after which newborns should have found their place."""


STARVED = 0.5
"""R_grad below which a unit counts as starved."""


def newborn_metrics(records: Sequence[Record], early: int, late: int) -> dict[str, float]:
    """What newborns give and get, cohort by cohort: R_act, R_grad and the ratio of fan-out norms.

    A cohort is what one edit inserted into one layer; its R is the ratio of means of arXiv 2605.15435: the
    mean over its units divided by the mean over all older units. One number for each, whatever its size.

    `birth`, `early`, `late`: at birth, at an early age and at the end of a cycle, or about then: means over cohorts.
    `settled, cohorts`: the median over all cohorts of an age of 200 steps or more, at all looks. `least, cohorts`: the
    least, over the looks, of the median over these cohorts. Neither is a median over units: see `unit_metrics`.

    NaN where no unit was born, and where newborns are compared with older units that give or get nothing at all.

    Args:
        records: of a run.
        early, late: ages in optimizer steps; cohorts count if they are seen within a tenth of it.
    """
    found: dict[str, float] = {}
    for when, age in (("birth", 0), ("early", early), ("late", late)):
        cohorts = _aged(records, age)
        found[f"R_act {when}"] = _mean([cohort.activation for cohort in cohorts])
        found[f"R_grad {when}"] = _mean([cohort.gradient for cohort in cohorts])
        found[f"fan-out ratio {when}"] = _mean([cohort.fan_out for cohort in cohorts])
    old = [[cohort for cohort in _cohorts(each) if cohort.age >= SETTLED] for each in records]
    found |= _settled("R_act", "cohorts", [[_number(c.activation) for c in look] for look in old])
    return found | _settled("R_grad", "cohorts", [[_number(c.gradient) for c in look] for look in old])


def unit_metrics(looks: Sequence[Sequence[Newborn]]) -> dict[str, float]:
    """What newborns give and get, unit by unit: each in units of the mean over all that are older than its cohort.

    `settled, units`: the median over all newborn units of an age of 200 steps or more, at all looks. `least, units`:
    the least, over the looks, of the median over these units. `starved units`: the share of them, over all looks,
    whose R_grad is below 0.5. NaN where there is none.

    Args:
        looks: all newborn units at every look at the net.
    """
    old = [[unit for unit in look if unit.age >= SETTLED] for look in looks]
    gradients = [[unit.gradient for unit in look] for look in old]
    known = [number for look in gradients for number in look if not math.isnan(number)]
    return {
        **_settled("R_act", "units", [[unit.activation for unit in look] for look in old]),
        **_settled("R_grad", "units", gradients),
        "starved units": sum(number < STARVED for number in known) / len(known) if known else math.nan,
    }


def _settled(ratio: str, what: str, looks: Sequence[Sequence[float]]) -> dict[str, float]:
    known = [[number for number in look if not math.isnan(number)] for look in looks]
    everything = [number for look in known for number in look]
    return {
        f"{ratio} settled, {what}": statistics.median(everything) if everything else math.nan,
        f"{ratio} least, {what}": min((statistics.median(look) for look in known if look), default=math.nan),
    }


def at_fifths(ends: Sequence[float]) -> float:
    """The mean accuracy at five moments, equally far apart: what compares runs with more and with fewer cycles.

    Args:
        ends: the accuracy at the end of each cycle; where a fifth of the run is no end of one, the next counts.
    """
    return statistics.mean(ends[math.ceil(len(ends) * fifth / 5) - 1] for fifth in range(1, 6))


def by_layer(records: Sequence[Record], age: int) -> dict[str, float]:
    """R_grad of the youngest cohort at an age, by hidden layer."""
    cohorts: dict[str, list[Cohort]] = {}
    for each in records:
        for name, axis in each.axes.items():
            cohorts.setdefault(name, []).extend(c for c in axis.cohorts if abs(c.age - age) <= age / 10)
    return {f"R_grad late {name}": _mean([c.gradient for c in found]) for name, found in cohorts.items()}


def survivor_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor], units: Mapping[str, Units]) -> float:
    """How much pruning changed how often survivors are active: mean absolute change over the units that are left.

    Args:
        before, after: by layer, the measures of every unit on one batch, just before and just after.
        units: after it. NaN where tensors changed their shape.
    """
    row, changes = MEASURES.index("frequency"), []
    for name, table in before.items():
        if table.shape == after[name].shape:
            moved = (after[name][row] - table[row]).abs().cpu()[units[name].active]
            changes.append(float(moved.mean()))
    return _mean(changes)


def _cohorts(record: Record) -> list[Cohort]:
    return [cohort for axis in record.axes.values() for cohort in axis.cohorts]


def _aged(records: Sequence[Record], age: int) -> list[Cohort]:
    """Every cohort of every layer when it was first seen at about that age."""
    found: dict[tuple[str, int], Cohort] = {}
    for each in records:
        for name, axis in each.axes.items():
            for cohort in axis.cohorts:
                if abs(cohort.age - age) <= age / 10:
                    found.setdefault((name, cohort.born), cohort)
    return list(found.values())


def _number(found: float | None) -> float:
    return math.nan if found is None else found


def _mean(numbers: Sequence[float | None]) -> float:
    there = [number for number in numbers if number is not None]
    return sum(there) / len(there) if there else math.nan
