"""Contests at the levels of layers and of cells: convolutions, and parallel branches, come and go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from pydantic import model_validator
from torch import Tensor, nn

from meristem import depth
from meristem.axes import AxisMap
from meristem.depth import Places, Spot
from meristem.edit import Edit
from meristem.edit.deepen import DepthChange
from meristem.edit.plant import Planting
from meristem.study.studies.grid.contender import Change, Closure, Contender, Setting
from meristem.study.studies.grid.insertion import Insertion
from meristem.study.studies.grid.net import REPEATED, initialize
from meristem.study.studies.grid.neurons import Polarized, Pruning
from meristem.train.experiment import Strict

Layer: TypeAlias = Literal["random", "identity", "residual"]


class Layers(Strict):
    """Convolutions that keep the number of channels are inserted, removed, or give their place to a new one.

    Attributes:
        grow: what is inserted: a freshly initialized layer (`random`), an identity layer (`identity`, Net2Deeper), or a
            residual branch of two convolutions that ends in zeros and has as many weights as one (`residual`).
        prune: which is removed: that with the smallest mean absolute weight (`L1`), or under the polarization penalty
            that with the smallest mean scale of its batch normalization.
        insertion: of identity layers with batch normalization: `published` starts from running statistics 0 and 1,
            which is exact in eval mode only; `safe` from those of a batch.
        strength: of the polarization penalty.
    """

    kind: Literal["layers"] = "layers"
    grow: Layer | None = None
    prune: Pruning | None = None
    insertion: Insertion = "published"
    strength: float = 3e-5

    @model_validator(mode="after")
    def _something(self) -> Layers:
        if self.grow is None and self.prune is None:
            raise ValueError("nothing to do: give grow, prune or both")
        return self

    def begin(self, setting: Setting) -> Contender:
        """What does it."""
        return _InLayers(setting, self)


class Cells(Strict):
    """Branches beside convolutions are inserted, removed, or give their place to a new one.

    Attributes:
        grow: what is inserted: a copy of the convolution that is silent at first (`copy`), or a freshly initialized
            convolution (`random`); what both return is added.
        prune: which is removed: the convolution with the smallest mean absolute weight of those in branches.
    """

    kind: Literal["cells"] = "cells"
    grow: Literal["copy", "random"] | None = None
    prune: Literal["L1"] | None = None

    @model_validator(mode="after")
    def _something(self) -> Cells:
        if self.grow is None and self.prune is None:
            raise ValueError("nothing to do: give grow, prune or both")
        return self

    def begin(self, setting: Setting) -> Contender:
        """What does it."""
        return _InCells(setting, self)


@dataclass(frozen=True)
class FreshLayer(depth.Net2Deeper):
    """Convolution, batch normalization if wanted, and activation, freshly initialized: what one gets without thinking.

    Preserved: nothing.
    """

    def start(self, spot: Spot, module: nn.Module, planting: Planting) -> None:
        """He's initialization, as the rest of the net has; PyTorch's own for the normalization."""
        initialize(next(module.children()))

    def inexact(self) -> tuple[str, ...]:
        """It computes something else."""
        return ("a freshly initialized layer",)


class _Deep(Contender):
    """What both levels have in common: parts with numbers, of which some are there.

    Args:
        setting: of the contest.
        present: where parts are now, by number.
        grows, prunes: what is done.
    """

    computes = False

    def __init__(self, setting: Setting, present: dict[int, str], grows: bool, prunes: bool) -> None:
        self._setting, self._axes = setting, setting.axes
        self._present, self._grows, self._prunes = present, grows, prunes
        self._done = 0

    @property
    def axes(self) -> AxisMap:
        return self._axes

    def edits(self, step: int) -> bool:
        return step in self._setting.times

    def after(self, step: int, loss: Tensor, closure: Closure) -> Change | None:
        if step not in self._setting.times:
            return None
        edits = sum(time <= step for time in self._setting.times)
        count = round(self._setting.reached(0, len(REPEATED), edits)) - self._done
        self._done += count
        births: dict[str, int] = {}
        deaths: dict[str, int] = {}
        for _ in range(count):
            missing = [number for number in REPEATED if number not in self._present]
            if self._prunes:
                missing = [number := self._weakest()]
                deaths[self._present[number]] = 1
                self._remove(number)
            if self._grows:
                self._insert(missing[0])
                births[self._present[missing[0]]] = 1
        return births, deaths

    def _commit(self, change: DepthChange) -> None:
        self._axes = Edit(self._axes, self._setting.optimizer, seed=self._setting.seed).depth(change).commit().axes

    def _places(self) -> Places:
        return depth.places(self._axes)

    def _module(self, path: str) -> nn.Module:
        return self._axes.model.get_submodule(path)

    def _weakest(self) -> int:
        """The number of the part that is worth least, of equal ones the first."""
        return min(self._present, key=lambda number: self._worth(self._present[number]))

    def _worth(self, path: str) -> float:
        """Mean absolute weight."""
        found = [p.detach().abs().flatten() for p in self._module(path).parameters() if p.dim() > 1]
        return float(torch.cat(found).mean())

    @abstractmethod
    def _remove(self, number: int) -> None: ...

    @abstractmethod
    def _insert(self, number: int) -> None: ...


class _InLayers(_Deep):
    def __init__(self, setting: Setting, way: Layers) -> None:
        there = dict(setting.model.named_children())
        present = {number: f"layer{number}" for number in REPEATED if f"layer{number}" in there}
        super().__init__(setting, present, way.grow is not None, way.prune is not None)
        self._way = way
        self._polarized = Polarized(setting.model, way.strength) if way.prune == "polarization" else None

    def penalty(self, model: nn.Module) -> Tensor:
        return super().penalty(model) if self._polarized is None else self._polarized.penalty(model)

    def stepped(self, model: nn.Module) -> None:
        if self._polarized is not None:
            self._polarized.clamp(model)

    def _worth(self, path: str) -> float:
        if self._polarized is None:
            return super()._worth(path)
        scales = [m.weight.detach() for m in self._module(path).modules() if isinstance(m, nn.BatchNorm2d)]
        return float(torch.cat(scales).mean())

    def _remove(self, number: int) -> None:
        self._commit(depth.Remove(self._places(), self._present.pop(number)))

    def _insert(self, number: int) -> None:
        after = self._behind(number)
        before = [name for name, _ in self._axes.model.named_children()]
        convolutions = [m for m in self._module(_layer_before(before, after)).modules() if isinstance(m, nn.Conv2d)]
        self._commit(depth.Insert(self._places(), f"after {after}", self._what(convolutions[-1].out_channels)))
        self._present[number] = next(name for name, _ in self._axes.model.named_children() if name not in before)

    def _behind(self, number: int) -> str:
        """The child of the net behind which a convolution of this number belongs."""
        if number == 8 and 7 in self._present:
            return self._present[7]
        if number >= 7 and hasattr(self._axes.model, "pool6"):
            return "pool6"
        return "layer3" if number == 4 else self._present.get(6, "layer5") if number >= 7 else "layer5"

    def _what(self, width: int) -> depth.Inserted:
        norm = self._setting.norm
        if self._way.grow == "residual":
            return depth.ZeroResidual(hidden=max(1, width // 2), norm=norm)
        if self._way.grow == "random":
            return FreshLayer(norm=norm)
        return depth.Net2Deeper(norm=norm, batch=self._setting.example if self._way.insertion == "safe" else None)


def _layer_before(children: Sequence[str], name: str) -> str:
    """The last of a net's children up to this one that is no pooling."""
    return next(n for n in reversed(children[: children.index(name) + 1]) if not n.startswith("pool"))


class _InCells(_Deep):
    def __init__(self, setting: Setting, way: Cells) -> None:
        paths = {number: f"layer{number}.conv.1" for number in REPEATED}
        modules = dict(setting.model.named_modules())
        present = {number: path for number, path in paths.items() if path in modules}
        super().__init__(setting, present, way.grow is not None, way.prune is not None)
        self._fresh = way.grow == "random"

    def _remove(self, number: int) -> None:
        self._commit(depth.RemoveBranch(self._places(), self._present.pop(number)))

    def _insert(self, number: int) -> None:
        inside = f"layer{number}.conv"
        modules = self._axes.model.named_modules()
        path = next(name for name, m in modules if isinstance(m, nn.Conv2d) and name.startswith(inside))
        self._commit(depth.AddBranch(self._places(), path))
        self._present[number] = f"{path}.1"
        if self._fresh:
            initialize(self._module(f"{path}.1"))
