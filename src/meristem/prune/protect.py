"""Protect: units that may not be removed: newborns before they had time to learn, and those that are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.axes.pattern import matches
from meristem.errors import ConfigError, UnknownAxisError
from meristem.prune.wrapper import Wrapper
from meristem.signals import View


@dataclass(frozen=True)
class Protect(Wrapper):
    """Another criterion, with `inf` for every unit that may not be removed.

        Protect(Magnitude(), age=500)                              # no newborn before it is 500 steps old
        Protect(Magnitude(), axes=("stem*",), units={"head": [0]})

    Attributes:
        criterion: scores everybody else.
        age: from how many optimizer steps on a newborn may be removed. Default 0: at once.
        axes: names or glob patterns of axes that lose nothing; each must match one whenever units are scored.
        units: by axis name, units that stay, numbered as they are when units are scored. Edits renumber: name units of
            axes that are edited once only.

    Raises:
        ConfigError: the age is negative, or (when scoring) a named unit does not exist.
        UnknownAxisError: (when scoring) the map has no axis of such a name.
    """

    age: int = 0
    axes: tuple[str, ...] = ()
    units: Mapping[str, Sequence[int]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.age < 0:
            raise ConfigError(f"Protect(age=...) is a number of optimizer steps >= 0, got {self.age!r}")
        if isinstance(self.axes, str):
            raise ConfigError(f"Protect(axes=...) is a tuple of patterns, got {self.axes!r}")

    def scores(self, view: View, axis: Axis) -> Tensor:
        self._require_known(view.axes)
        scores = self.criterion.scores(view, axis)
        if matches(axis.name, self.axes):
            return torch.full_like(scores, torch.inf)
        named = list(self.units.get(axis.name, ()))
        if not all(0 <= unit < axis.size for unit in named):
            raise ConfigError(f"Protect(units=...) names {named} of {axis.name!r}, which has {axis.size} units")
        protected = torch.zeros(axis.size, dtype=torch.bool).index_fill(0, torch.tensor(named, dtype=torch.int64), True)
        if axis.name in view.ages:
            protected |= view.ages[axis.name] < self.age
        return torch.where(protected.to(scores.device), torch.inf, scores)

    def _require_known(self, axes: AxisMap) -> None:
        """Raise `UnknownAxisError` for what protects nothing."""
        patterns = [p for p in self.axes if not any(matches(axis.name, p) for axis in axes)]
        names = [name for name in self.units if name not in axes.by_name]
        if patterns or names:
            asked = patterns or names
            near = get_close_matches(asked[0], axes.by_name, n=3, cutoff=0.4) or [
                axis.name for axis in axes.editable[:3]
            ]
            what = "axes" if patterns else "units"
            raise UnknownAxisError(
                f"Protect({what}=...) names {', '.join(map(repr, asked))}, but the model has no such axis, so nothing "
                f"would be protected; did you mean {', '.join(map(repr, near))}?"
            )
