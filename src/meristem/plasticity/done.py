"""What has been carried out at one step so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meristem.edit import Commit, StaleHolder
from meristem.ledger import Entry
from meristem.plasticity.planner import Decision, Plan


@dataclass
class Done:
    """Decisions that were carried out.

    Attributes:
        plans: all of them, also those that came to nothing.
        layers: the commits of edits of the module tree.
        inexact: by the path of a new layer, why it changes the function.
        stale: who outside the model still holds replaced parameters.
        entries: what exchanges bought and sold; None if there was none.
        notes: why less was done than was asked for.
        rewired: whether single weights died or were born.
    """

    plans: list[Plan] = field(default_factory=list)
    layers: list[Commit] = field(default_factory=list)
    inexact: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stale: list[StaleHolder] = field(default_factory=list)
    entries: tuple[Entry, ...] | None = None
    notes: dict[str, None] = field(default_factory=dict)
    rewired: bool = False

    def __bool__(self) -> bool:
        """Whether there is anything to report."""
        return bool(self.plans or self.layers or self.rewired)

    def add(self, decision: Decision, commits: Sequence[Commit]) -> None:
        """A decision was carried out by these edits."""
        self.plans.extend(decision.plans)
        self.notes.update(dict.fromkeys(decision.notes))
        self.rewired = self.rewired or bool(decision.rewirings)
        if decision.entries is not None:
            self.entries = (*(self.entries or ()), *decision.entries)
        reasons = tuple(dict.fromkeys(reason for change in decision.changes for reason in change.inexact()))
        for commit in commits:
            self.stale.extend(commit.stale)
            if "depth" in commit.record:
                self.layers.append(commit)
                self.inexact |= {path: reasons for path in commit.inserted if reasons}
