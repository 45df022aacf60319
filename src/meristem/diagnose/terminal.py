"""A record for the terminal, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from rich.table import Table

from meristem.diagnose.integration import LEVEL

if TYPE_CHECKING:
    from meristem.diagnose.record import Cohort, Record

Verdict: TypeAlias = Literal["integrated", "backward-starved", "asleep", "alone"]

ASLEEP = 0.5
"""Below which R_act newborns count as asleep."""


def verdict(cohort: Cohort) -> Verdict:
    """How newborns stand to incumbents, in words.

    asleep: active less than half as often. Otherwise integrated: R_grad is at least 0.9; or backward-starved: it is
    not, though they are active. alone: there is nobody to compare with.
    """
    if cohort.activation is None or cohort.gradient is None:
        return "alone"
    if cohort.activation < ASLEEP:
        return "asleep"
    return "integrated" if cohort.gradient >= LEVEL else "backward-starved"


def line(record: Record) -> str:
    """One line: of every axis with newborns its youngest cohort, also where its activity cannot be measured."""
    parts = [
        f"{name}: {c.units} newborns of age {c.age}, R_act {_number(c.activation)}, R_grad {_number(c.gradient)}, "
        f"fan-out {_number(c.fan_out)}: {verdict(c)}"
        for name, axis in record.axes.items()
        for c in axis.cohorts[-1:]
    ]
    parts += [
        f"{name}: {c.units} newborns of age {c.age}, whose activity cannot be measured, fan-out {_number(c.fan_out)}"
        for name, c in record.unmeasured.items()
    ]
    deaths = f"{len(record.deaths)} units died" if record.deaths else ""
    return f"step {record.step}: " + ("; ".join([*parts, *([deaths] if deaths else [])]) or "no newborns")


def table(record: Record) -> Table:
    """One row a cohort; axes without newborns have one too."""
    found = Table("axis", title=f"newborns at step {record.step}")
    for column in ("units", "newborns", "age", "R_act", "R_grad", "fan-out"):
        found.add_column(column, justify="right")
    found.add_column("verdict")
    for name, axis in record.axes.items():
        if not axis.cohorts:
            found.add_row(name, str(axis.size), "0", "", "", "", "", "")
        for c in axis.cohorts:
            numbers = (_number(ratio) for ratio in (c.activation, c.gradient, c.fan_out))
            found.add_row(name, str(axis.size), str(c.units), str(c.age), *numbers, verdict(c))
    for name, c in record.unmeasured.items():
        found.add_row(name, "", str(c.units), str(c.age), "", "", _number(c.fan_out), "not measured")
    return found


def _number(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2g}" if ratio < 0.1 else f"{ratio:.2f}"
