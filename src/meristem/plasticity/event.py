"""What a controller did at one step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from meristem.allocate import Turnover
from meristem.axes.map import AxisMap
from meristem.edit import StaleHolder
from meristem.ledger import Entry
from meristem.plasticity.done import Done
from meristem.prune import Removal


@dataclass(frozen=True)
class Event:
    """What was edited at one step. Print it for one line, or give it to rich for a table.

    Attributes:
        step: number of optimizer steps taken.
        births: number of newborns by axis name.
        deaths: number of units removed by axis name; those that newborns took the places of too.
        parameters: number of parameters before and after.
        flops: floating-point operations of a forward pass on the example input, before and after.
        inexact: axes whose growth did not preserve the function exactly, with the reasons.
        edits: the records of the transactions, in order, as in the history.
        notes: why less was done than was asked for.
        stale: who outside the model still holds replaced parameters.
        inserted: the paths of new layers, as they are called now.
        removed: the paths of layers that left, as they were called.
        ledger: what an exchange bought and sold, and what that was worth; None if there was none.
    """

    step: int
    births: Mapping[str, int]
    deaths: Mapping[str, int]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    inexact: Mapping[str, tuple[str, ...]]
    edits: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    stale: tuple[StaleHolder, ...]
    inserted: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    ledger: tuple[Entry, ...] | None = None

    @classmethod
    def of(cls, step: int, before: AxisMap, after: AxisMap, done: Done) -> Event:
        """The event that what was done led from one map to another."""
        plans, commits = done.plans, done.layers
        grown = [plan for plan in plans if not isinstance(plan, Removal)]
        dead = [plan.removal if isinstance(plan, Turnover) else plan for plan in plans]
        return cls(
            step=step,
            births=_totals((plan.axis.name, plan.births) for plan in grown if plan.births),
            deaths=_totals((plan.axis.name, len(plan.units)) for plan in dead if isinstance(plan, Removal)),
            parameters=(before.parameter_count(), after.parameter_count()),
            flops=(before.flops(), after.flops()),
            inexact={plan.axis.name: plan.inexact for plan in grown if plan.births and plan.inexact} | done.inexact,
            edits=after.history[len(before.history) :],
            notes=(*(plan.note for plan in grown if plan.note is not None), *done.notes),
            stale=tuple(done.stale),
            inserted=tuple(path for commit in commits for path in commit.inserted),
            removed=tuple(path for commit in commits for path in commit.removed),
            ledger=done.entries,
        )

    def __str__(self) -> str:
        parts = []
        if self.births or self.deaths or not (self.inserted or self.removed):
            parts.append(
                f"{sum(self.births.values())} births and {sum(self.deaths.values())} deaths on "
                f"{len({*self.births, *self.deaths})} axes"
            )
        for what, paths in (("layers born", self.inserted), ("layers gone", self.removed)):
            parts += [f"{what}: {', '.join(paths)}"] if paths else []
        parts += [f"parameters {_change(*self.parameters)}", f"FLOPs {_change(*self.flops)}"]
        parts += [f"not exact: {', '.join(self.inexact)}"] if self.inexact else []
        return f"step {self.step}: {'; '.join((*parts, *self.notes))}"

    def __rich__(self) -> Table | Group:
        table = Table("axis", title=f"step {self.step}", caption=str(self))
        for column in ("births", "deaths"):
            table.add_column(column, justify="right")
        for name in dict.fromkeys((*self.deaths, *self.births)):
            table.add_row(name, str(self.births.get(name, 0)), str(self.deaths.get(name, 0)))
        return table if self.ledger is None else Group(table, _traded(self.ledger))


def _traded(ledger: Sequence[Entry]) -> Table:
    """What was bought and sold."""
    table = Table("level", "what", "where", title="Ledger")
    for column in ("count", "worth", "FLOPs", "worth per FLOP"):
        table.add_column(column, justify="right")
    for entry in ledger:
        numbers = f"{entry.count:,}", f"{entry.worth:.3g}", f"{entry.cost:,.0f}", f"{entry.price:.3g}"
        table.add_row(entry.level, entry.kind, entry.where, *numbers)
    return table


def _totals(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for name, count in counts:
        totals[name] = totals.get(name, 0) + count
    return totals


def _change(before: int, after: int) -> str:
    return f"{before:,} -> {after:,}" + (f" ({after / before - 1:+.1%})" if before else "")
