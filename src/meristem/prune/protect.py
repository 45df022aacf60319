"""Protect: newborns may not be removed before they had time to learn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.errors import ConfigError
from meristem.prune.criterion import Criterion
from meristem.signals import View


@dataclass(frozen=True)
class Protect(Criterion):
    """Another criterion, with `inf` for every unit that an edit inserted less than `age` optimizer steps ago.

    Attributes:
        criterion: scores everybody else.
        age: from how many optimizer steps on a newborn may be removed.
    """

    criterion: Criterion
    age: int

    def __post_init__(self) -> None:
        if self.age < 0:
            raise ConfigError(f"Protect(age=...) is a number of optimizer steps >= 0, got {self.age!r}")

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        return self.criterion.undefined(axes, axis)

    def scores(self, view: View, axis: Axis) -> Tensor:
        scores = self.criterion.scores(view, axis)
        ages = view.ages.get(axis.name)
        if ages is None:
            return scores
        return torch.where((ages < self.age).to(scores.device), torch.inf, scores)
