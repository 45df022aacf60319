"""Contests at the level of cells: parallel branches come and go."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import model_validator
from torch import nn

from meristem import depth
from meristem.axes.module_path import within
from meristem.edit.deepen import DepthChange
from meristem.study.studies.grid.branches import EmptyBranch
from meristem.study.studies.grid.contender import Contender, Setting, Timing
from meristem.study.studies.grid.insertion import Insertion
from meristem.study.studies.grid.net import REPEATED, initialize
from meristem.study.studies.grid.parts import Parts
from meristem.study.studies.grid.rounds import Pace, rounds
from meristem.study.studies.grid.sprout import Sprouting, sprout_of
from meristem.train.experiment import Strict

Cell: TypeAlias = Literal["copy", "random"] | Sprouting


class Cells(Strict):
    """Branches beside convolutions are inserted, removed, or give their place to a new one.

    Attributes:
        grow: what is inserted: a copy of the convolution that is silent at first (`copy`), a freshly initialized
            convolution (`random`), or two convolutions with as many weights as one, whose hidden units a growth method
            makes (`GradMax`, `GradMax-Opt`, `Firefly`), see `sprout.Sprout`; what both return is added.
        prune: which is removed: the convolution with the smallest mean absolute weight of those in branches.
        schedule: `fixed`: that of the protocol. `own`: branches are inserted at once, see `rounds.py`.
        insertion: of units that a growth method makes: see `insertion.method`.
    """

    kind: Literal["cells"] = "cells"
    grow: Cell | None = None
    prune: Literal["L1"] | None = None
    schedule: Timing = "fixed"
    insertion: Insertion = "published"

    @model_validator(mode="after")
    def _something(self) -> Cells:
        if self.grow is None and self.prune is None:
            raise ValueError("nothing to do: give grow, prune or both")
        return self

    def begin(self, setting: Setting) -> Contender:
        """What does it."""
        return _InCells(setting, self)


class _InCells(Parts):
    def __init__(self, setting: Setting, way: Cells) -> None:
        paths = {number: f"layer{number}.conv.1" for number in REPEATED}
        modules = dict(setting.model.named_modules())
        present = {number: path for number, path in paths.items() if path in modules}
        pace: Pace | None = None if way.grow is None else "at once"
        when = rounds(setting, way.schedule, len(REPEATED), pace, way.prune is not None)
        super().__init__(setting, present, when, sprout_of(way.grow, setting, way.insertion))
        self._fresh = way.grow == "random"

    def _removal(self, path: str) -> DepthChange:
        places = self._places()
        return depth.RemoveBranch(places, next(b.name for b in places.branches if within(b.name, path)))

    def _insert(self, number: int) -> str:
        inside = f"layer{number}.conv"
        modules = self._axes.model.named_modules()
        path = next(name for name, m in modules if isinstance(m, nn.Conv2d) and name.startswith(inside))
        if self._sprout is not None:
            self._commit(EmptyBranch(self._places(), path, self._setting.norm))
            return f"{path}.1"
        self._commit(depth.AddBranch(self._places(), path))
        if self._fresh:
            initialize(self._module(f"{path}.1"))
        return f"{path}.1"
