"""Which units started from nothing, read from the history of edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meristem.axes.map import AxisMap
from meristem.edit.record import parsed


@dataclass(frozen=True, eq=False)
class Lineage:
    """What the first edits of a history made of the units.

    Attributes:
        known: how many edits.
        fresh: by axis name, which units started from nothing, in contrast to copies and to units that no edit inserted;
            bool, shape (units,). Axes that no edit has touched are left out.
        new: likewise, which units were inserted since the lineage that this one goes on from.
    """

    known: int = 0
    fresh: Mapping[str, Tensor] = field(default_factory=dict)
    new: Mapping[str, Tensor] = field(default_factory=dict)

    def through(self, axes: AxisMap) -> Lineage:
        """The lineage up to the last edit in a map's history."""
        fresh, new = dict(self.fresh), {name: torch.zeros_like(units) for name, units in self.fresh.items()}
        for record in parsed(axes.history[self.known :]):
            for entry in record.axes:
                gather = entry.gather()
                source, born = gather.index.clamp(min=0), gather.newborn_mask
                fresh[entry.axis] = (of_size(fresh, entry.axis, entry.before)[source] & ~born) | (gather.index < 0)
                new[entry.axis] = of_size(new, entry.axis, entry.before)[source] | born
            if record.after is not None:
                fresh, new = (record.after.carried(flags, _any) for flags in (fresh, new))
                for name, size in record.after.born.items():
                    fresh[name] = torch.full((size,), name not in record.after.copies)
                    new[name] = torch.ones(size, dtype=torch.bool)
        return Lineage(len(axes.history), fresh, new)


def _any(flags: Sequence[Tensor]) -> Tensor:
    """Which units are flagged anywhere."""
    return torch.stack(list(flags)).any(0)


def of_size(flags: Mapping[str, Tensor], name: str, size: int) -> Tensor:
    """The flags of an axis; none are set where nothing is known of an axis of that name and size (after an edit of the
    module tree axes may be others)."""
    found = flags.get(name)
    return torch.zeros(size, dtype=torch.bool) if found is None or len(found) != size else found
