"""Contests at the level of cells: parallel branches come and go."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import model_validator
from torch import nn

from meristem import depth
from meristem.axes.module_path import within
from meristem.edit.deepen import DepthChange
from meristem.edit.joints import Beside
from meristem.errors import EditError
from meristem.study.studies.grid.branches import EmptyBranch
from meristem.study.studies.grid.contender import Contender, Setting, Timing
from meristem.study.studies.grid.insertion import Insertion
from meristem.study.studies.grid.net import REPEATED, initialize
from meristem.study.studies.grid.neurons import Polarized
from meristem.study.studies.grid.parts import Parts
from meristem.study.studies.grid.rounds import Pace, rounds
from meristem.study.studies.grid.schedules import Pruning
from meristem.study.studies.grid.sprout import Sprouting, sprout_of
from meristem.train.experiment import Strict

Cell: TypeAlias = Literal["copy", "random"] | Sprouting

PACES: dict[Cell, Pace] = {
    "copy": "at once",
    "random": "at once",
    "GradMax": "GradMax",
    "GradMax-Opt": "GradMax-Opt",
    "Firefly": "Firefly",
}
"""Which schedule belongs to what is inserted."""


class Cells(Strict):
    """Branches beside convolutions are inserted, removed, or give their place to a new one; where cells are normalized,
    beside convolutions and their batch normalizations.

    Attributes:
        grow: what is inserted: a copy of what it stands beside that is silent at first (`copy`), the same freshly
            initialized (`random`), or two convolutions with as many weights as one, whose hidden units a growth method
            makes (`GradMax`, `GradMax-Opt`, `Firefly`), see `sprout.Sprout`; what both return is added.
        prune: which is removed: the branch with the smallest mean absolute weight (`L1`), or under the polarization
            penalty that with the smallest mean scale of its batch normalization, which those of normalized cells have.
        schedule: `fixed`: that of the protocol. `own`: those that belong to both, see `rounds.py` and `PACES`.
        insertion: of units that a growth method makes: see `insertion.method`.
        strength: of the polarization penalty.
    """

    kind: Literal["cells"] = "cells"
    grow: Cell | None = None
    prune: Pruning | None = None
    schedule: Timing = "fixed"
    insertion: Insertion = "published"
    strength: float = 3e-5

    @model_validator(mode="after")
    def _something(self) -> Cells:
        if self.grow is None and self.prune is None:
            raise ValueError("nothing to do: give grow, prune or both")
        return self

    def begin(self, setting: Setting) -> Contender:
        """What does it. Raises `EditError` if branches have no scales by which polarization could judge them."""
        if self.prune == "polarization" and setting.level != "normalized cell":
            raise EditError(
                f"polarization judges a branch by the scales of its own batch normalization, which those of the level "
                f"{setting.level!r} do not have; take the level 'normalized cell'"
            )
        return _InCells(setting, self)


class _InCells(Parts):
    def __init__(self, setting: Setting, way: Cells) -> None:
        paths = {number: f"layer{number}.conv.1" for number in REPEATED}
        modules = dict(setting.model.named_modules())
        present = {number: path for number, path in paths.items() if path in modules}
        pace: Pace | None = None if way.grow is None else PACES[way.grow]
        when = rounds(setting, way.schedule, len(REPEATED), pace, way.prune is not None)
        polarized = Polarized(setting.model, way.strength) if way.prune == "polarization" else None
        super().__init__(setting, present, when, sprout_of(way.grow, setting, way.insertion), polarized)
        self._fresh = way.grow == "random"

    def _removal(self, path: str) -> DepthChange:
        places = self._places()
        return depth.RemoveBranch(places, next(b.name for b in places.branches if within(b.name, path)))

    def _insert(self, number: int) -> str:
        joint = f"layer{number}.conv"
        alone = f"{joint}..norm" if self._setting.level == "normalized cell" else joint
        first = f"{joint}.0" if isinstance(self._module(joint), Beside) else alone
        if self._sprout is not None:
            self._commit(EmptyBranch(self._places(), first, self._setting.norm))
            return f"{joint}.1"
        self._commit(depth.AddBranch(self._places(), first))
        if self._fresh:
            _begin_anew(self._module(f"{joint}.1"))
        return f"{joint}.1"


def _begin_anew(branch: nn.Module) -> None:
    """He's initialization, as the rest of the net has; PyTorch's own for a normalization."""
    for module in branch.modules():
        if isinstance(module, nn.Conv2d):
            initialize(module)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
