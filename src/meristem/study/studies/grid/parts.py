"""Contests in which parts of a net that have numbers come and go: what layers and branches have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from meristem.study.studies.grid.neurons import Polarized
from meristem.study.studies.grid.rounds import Rounds
from meristem.study.studies.grid.sprout import Sprout, filled


@dataclass(frozen=True, eq=False)
class Part:
    """One that is there.

    Attributes:
        number: of the convolution in the net that it is, or stands beside.
        module: it; where it is changes when others come and go.
    """

    number: int
    module: nn.Module


class Parts(Contender):
    """Parts of a net, some of which are there. The weakest die, of those where most are; newborns come where fewest
    are. So a net ends as its contest does, even if two parts were at one place for a while.

    Args:
        setting: of the contest.
        present: where parts are now, by number.
        rounds: when they die and are born.
        sprout: makes the units of newborns, which are branches that `_insert` puts in empty; None: nothing does.
        polarized: the polarization penalty, under which parts are judged by the scales of their batch normalizations;
            None: they are judged by their weights.
    """

    def __init__(
        self,
        setting: Setting,
        present: Mapping[int, str],
        rounds: Sequence[Rounds],
        sprout: Sprout | None = None,
        polarized: Polarized | None = None,
    ) -> None:
        self._setting, self._axes = setting, setting.axes
        self._present = [Part(number, self._module(path)) for number, path in present.items()]
        self._rounds, self._room = rounds, max(each.room for each in rounds)
        self._sprout, self.computes = sprout, sprout is not None
        self._polarized = polarized
        self._states = [each.schedule.initial() for each in rounds]

    @property
    def axes(self) -> AxisMap:
        return self._axes

    def edits(self, step: int) -> bool:
        return any(step in each.steps for each in self._rounds)

    def after(self, step: int, loss: Tensor, closure: Closure) -> Change | None:
        asked = self._asked(step, loss)
        deaths = [self._die() for _ in range(min(asked["shorten"], len(self._present)))]
        births = self._births(asked["deepen"], step, closure)
        return (dict(Counter(births)), dict(Counter(deaths))) if births or deaths else None

    def penalty(self, model: nn.Module) -> Tensor:
        return super().penalty(model) if self._polarized is None else self._polarized.penalty(model)

    def stepped(self, model: nn.Module) -> None:
        if self._polarized is not None:
            self._polarized.clamp(model)

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
        """The part that is worth least of those where most are is removed, of equal ones the first; where it was."""
        there = self._there()
        crowded = [part for part in self._present if there[part.number] == max(there.values())]
        return self._removed(min(crowded, key=lambda part: self._worth(self._path(part))))

    def _removed(self, part: Part) -> str:
        path = self._path(part)
        self._present.remove(part)
        self._commit(self._removal(path))
        return path

    def _births(self, count: int, step: int, closure: Closure) -> list[str]:
        """Where newborns are: the first place with fewest, or what promises most of these if the method says where."""
        sprout, found = self._sprout, list[str]()
        for _ in range(min(count, self._room - len(self._present))):
            free = self._free()
            tried = [self._born(n) for n in (free if sprout is not None and sprout.chooses else free[:1])]
            best = tried[0] if sprout is None else self._filled(sprout, tried, step, closure)
            for part in tried:
                if part is not best:
                    self._removed(part)
            found.append(self._path(best))
        return found

    def _free(self) -> list[int]:
        """The numbers of which there are fewest parts."""
        there = self._there()
        fewest = min(there[number] for number in REPEATED)
        return [number for number in REPEATED if there[number] == fewest]

    def _there(self) -> Counter[int]:
        return Counter(part.number for part in self._present)

    def _born(self, number: int) -> Part:
        part = Part(number, self._module(self._insert(number)))
        self._present.append(part)
        return part

    def _filled(self, sprout: Sprout, tried: Sequence[Part], step: int, closure: Closure) -> Part:
        """The empty branch that the largest gain is predicted for; it has its units."""
        seed = 1_000_003 * self._setting.seed + step
        paths = {part: self._path(part) for part in tried}
        plans = {p: sprout.plan(self._axes, path, self._units(path), closure, seed) for p, path in paths.items()}
        best = max(tried, key=lambda part: sum(plans[part].gains))
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

    def _path(self, part: Part) -> str:
        """Where it is now."""
        return next(path for path, module in self._axes.model.named_modules() if module is part.module)

    def _last(self, number: int) -> str | None:
        """Where the last part of a number is, if there is one."""
        paths = [self._path(part) for part in self._present if part.number == number]
        return paths[-1] if paths else None

    def _worth(self, path: str) -> float:
        """Mean absolute weight, or under the polarization penalty mean scale."""
        if self._polarized is not None:
            norms = [m for m in self._module(path).modules() if isinstance(m, nn.BatchNorm2d)]
            return float(torch.cat([norm.weight.detach() for norm in norms]).mean())
        found = [p.detach().abs().flatten() for p in self._module(path).parameters() if p.dim() > 1]
        return float(torch.cat(found).mean())

    @abstractmethod
    def _removal(self, path: str) -> DepthChange:
        """Of the part that is there."""

    @abstractmethod
    def _insert(self, number: int) -> str:
        """Inserts the part of a number, and tells where it is."""
