"""When each unit was born, carried through edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meristem.axes.map import Axis
from meristem.edit import Gather
from meristem.edit.succession import Succession

_ALWAYS_THERE = -1
_OLDEST = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Births:
    """By axis name, the optimizer step at which every unit was inserted; -1 for units that no edit inserted.

    An axis that no edit has touched is left out.
    """

    steps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def after(self, axis: Axis, gather: Gather, step: int) -> Births:
        """The record after one axis was gathered at a step."""
        born = self.steps.get(axis.name, (_ALWAYS_THERE,) * axis.size)
        now = tuple(step if new else born[source] for source, new in zip(gather.sources, gather.newborn, strict=True))
        return Births({**self.steps, axis.name: now})

    def through(self, succession: Succession, step: int) -> Births:
        """The record after the module tree was edited at a step: all units of new layers are born then. Where axes have
        become one, a unit is as young as its youngest part."""
        carried = succession.carried(self.steps, lambda parts: tuple(map(max, *parts)))
        return Births({**carried, **{name: (step,) * size for name, size in succession.born.items()}})

    def ages(self, step: int) -> dict[str, Tensor]:
        """The ages of all units at a step: int64, shape (axis.size,); the largest int64 where no edit inserted them."""
        found = {}
        for name, steps in self.steps.items():
            born = torch.tensor(steps, dtype=torch.int64)
            found[name] = torch.where(born == _ALWAYS_THERE, _OLDEST, step - born)
        return found
