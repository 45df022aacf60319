"""Contests in which parts of a net that have numbers come and go: what layers and branches have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from meristem import depth
from meristem.axes import AxisMap
from meristem.depth import Places
from meristem.edit import Edit
from meristem.edit.deepen import DepthChange
from meristem.schedule import Moment
from meristem.study.studies.grid.contender import Change, Closure, Contender, Setting
from meristem.study.studies.grid.net import REPEATED
from meristem.study.studies.grid.rounds import Rounds
from meristem.study.studies.grid.sprout import Sprout, filled


class Parts(Contender):
    """Parts of a net, some of which are there. The weakest die; newborns come where one is missing.

    Args:
        setting: of the contest.
        present: where parts are now, by number.
        rounds: when they die and are born.
        sprout: makes the units of newborns, which are branches that `_insert` puts in empty; None: nothing does.
    """

    def __init__(
        self, setting: Setting, present: dict[int, str], rounds: Sequence[Rounds], sprout: Sprout | None = None
    ) -> None:
        self._setting, self._axes = setting, setting.axes
        self._present, self._rounds = present, rounds
        self._sprout, self.computes = sprout, sprout is not None
        self._states = [each.schedule.initial() for each in rounds]

    @property
    def axes(self) -> AxisMap:
        return self._axes

    def edits(self, step: int) -> bool:
        return any(step in each.steps for each in self._rounds)

    def after(self, step: int, loss: Tensor, closure: Closure) -> Change | None:
        asked = self._asked(step, loss)
        deaths = [self._die() for _ in range(min(asked["shorten"], len(self._present)))]
        missing = [number for number in REPEATED if number not in self._present]
        births = self._births(missing, asked["deepen"], step, closure)
        return (dict.fromkeys(births, 1), dict.fromkeys(deaths, 1)) if births or deaths else None

    def _asked(self, step: int, loss: Tensor) -> dict[str, int]:
        found, moment = {"shorten": 0, "deepen": 0}, Moment(step, loss)
        for index, each in enumerate(self._rounds):
            if each.schedule.next(step - 1) <= step:
                demands, self._states[index] = each.schedule.due(moment, self._states[index])
                for demand in demands:
                    if demand.action in found and isinstance(demand.amount, int):
                        found[demand.action] += demand.amount
        return found

    def _die(self) -> str:
        """The part that is worth least is removed, of equal ones the first; where it was."""
        number = min(self._present, key=lambda number: self._worth(self._present[number]))
        path = self._present.pop(number)
        self._commit(self._removal(path))
        return path

    def _births(self, missing: list[int], count: int, step: int, closure: Closure) -> list[str]:
        """Where newborns are: the first that are missing, or what promises most if the method says where."""
        sprout, found = self._sprout, list[str]()
        for _ in range(min(count, len(missing))):
            tried = missing if sprout is not None and sprout.chooses else missing[:1]
            for number in tried:
                self._present[number] = self._insert(number)
            best = tried[0] if sprout is None else self._filled(sprout, tried, step, closure)
            for number in tried:
                if number != best:
                    self._commit(self._removal(self._present.pop(number)))
            missing = [number for number in missing if number != best]
            found.append(self._present[best])
        return found

    def _filled(self, sprout: Sprout, tried: Sequence[int], step: int, closure: Closure) -> int:
        """The number of the empty branch that the largest gain is predicted for; it has its units."""
        seed = 1_000_003 * self._setting.seed + step
        paths = {number: self._present[number] for number in tried}
        plans = {n: sprout.plan(self._axes, path, self._units(path), closure, seed) for n, path in paths.items()}
        best = max(tried, key=lambda number: sum(plans[number].gains))
        self._axes = filled(self._axes, self._setting.optimizer, plans[best], self._setting.seed)
        return best

    def _units(self, path: str) -> int:
        """The hidden width with which a branch has as many weights as a convolution of the same outer width."""
        *_, last = (module for module in self._module(path).modules() if isinstance(module, nn.Conv2d))
        return max(1, last.out_channels // 2)

    def _commit(self, change: DepthChange) -> None:
        self._axes = Edit(self._axes, self._setting.optimizer, seed=self._setting.seed).depth(change).commit().axes

    def _places(self) -> Places:
        return depth.places(self._axes)

    def _module(self, path: str) -> nn.Module:
        return self._axes.model.get_submodule(path)

    def _worth(self, path: str) -> float:
        """Mean absolute weight."""
        found = [p.detach().abs().flatten() for p in self._module(path).parameters() if p.dim() > 1]
        return float(torch.cat(found).mean())

    @abstractmethod
    def _removal(self, path: str) -> DepthChange:
        """Of the part that is there."""

    @abstractmethod
    def _insert(self, number: int) -> str:
        """Inserts the part of a number, and tells where it is."""
