"""Trades: what an exchange comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from meristem.allocate import Turnover
from meristem.edit import Commit
from meristem.edit.deepen import DepthChange
from meristem.grow import Growth
from meristem.ledger.entry import Entry
from meristem.mask.following import follow
from meristem.mask.sparse import Sparse
from meristem.prune import Removal

Plan: TypeAlias = Growth | Removal | Turnover


@dataclass(frozen=True, eq=False)
class Rewiring:
    """Single weights that die, and others that are born, of one `Sparse`.

    Attributes:
        sparse: keeps the masks.
        masks: the new masks, by parameter name, in shapes before the units' edit of the same trade.
        starts: what born weights start from, by parameter name; zeros everywhere else.
    """

    sparse: Sparse
    masks: Mapping[str, Tensor]
    starts: Mapping[str, Tensor]

    def after(self, commit: Commit | None) -> None:
        """Carry it out.

        Args:
            commit: the edit of units of the same trade, which the masks have followed already; None if there was none.
        """
        masks, starts = dict(self.masks), dict(self.starts)
        if commit is not None:
            for name, (moved, fresh) in follow(commit, masks).items():
                masks[name] = moved if fresh is None else moved | (fresh & self.sparse.masks[name])
            starts |= {name: moved for name, (moved, _) in follow(commit, starts).items()}
        self.sparse.rewire(masks, starts)


@dataclass(frozen=True, eq=False)
class Trade:
    """What changes hands at one edit.

    Attributes:
        plans: for axes, at most one each; one transaction.
        rewirings: of single weights, after it.
        changes: of the module tree, after both; one transaction.
        entries: what was bought and sold, and for how much.
        flops: effective operations before and after, of what was planned.
    """

    plans: tuple[Plan, ...] = ()
    rewirings: tuple[Rewiring, ...] = ()
    changes: tuple[DepthChange, ...] = ()
    entries: tuple[Entry, ...] = ()
    flops: tuple[float, float] = field(default=(0.0, 0.0))

    def __bool__(self) -> bool:
        """Whether anything changes hands."""
        return bool(self.plans or self.rewirings or self.changes)
