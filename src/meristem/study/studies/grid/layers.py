"""Contests at the level of layers: convolutions come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import model_validator
from torch import nn

from meristem import depth
from meristem.depth import Spot
from meristem.edit.deepen import DepthChange
from meristem.edit.plant import Planting
from meristem.study.studies.grid.contender import Contender, Setting, Timing
from meristem.study.studies.grid.insertion import Insertion
from meristem.study.studies.grid.net import REPEATED, initialize
from meristem.study.studies.grid.neurons import Polarized
from meristem.study.studies.grid.parts import Parts
from meristem.study.studies.grid.rounds import Pace, rounds
from meristem.study.studies.grid.schedules import Pruning
from meristem.study.studies.grid.sprout import EMPTY, Sprouting, sprout_of
from meristem.train.experiment import Strict

Layer: TypeAlias = Literal["random", "identity", "residual"] | Sprouting

PACES: dict[Layer, Pace] = {
    "random": "periodic",
    "identity": "at once",
    "residual": "convergent",
    "GradMax": "GradMax",
    "GradMax-Opt": "GradMax-Opt",
    "Firefly": "Firefly",
}
"""Which schedule belongs to what is inserted: AutoGrow's authors found that random layers and fast growth go together;
its other driver is for branches that preserve the function; identity layers deepen a net that has learned; growth
methods for units have their own."""


class Layers(Strict):
    """Convolutions that keep the number of channels are inserted, removed, or give their place to a new one.

    Attributes:
        grow: what is inserted: a freshly initialized layer (`random`), an identity layer (`identity`, Net2Deeper), or a
            residual branch of two convolutions that ends in zeros and has as many weights as one (`residual`); or one
            whose hidden units a growth method makes (`GradMax`, `GradMax-Opt`, `Firefly`), see `sprout.Sprout`.
        prune: which is removed: that with the smallest mean absolute weight (`L1`), or under the polarization penalty
            that with the smallest mean scale of its batch normalization.
        insertion: of identity layers with batch normalization: `published` starts from running statistics 0 and 1,
            which is exact in eval mode only; `safe` from those of a batch. Of units that a growth method makes: see
            `insertion.method`.
        schedule: `fixed`: that of the protocol. `own`: those that belong to both, see `rounds.py` and `PACES`.
        strength: of the polarization penalty.
    """

    kind: Literal["layers"] = "layers"
    grow: Layer | None = None
    prune: Pruning | None = None
    insertion: Insertion = "published"
    schedule: Timing = "fixed"
    strength: float = 3e-5

    @model_validator(mode="after")
    def _something(self) -> Layers:
        if self.grow is None and self.prune is None:
            raise ValueError("nothing to do: give grow, prune or both")
        return self

    def begin(self, setting: Setting) -> Contender:
        """What does it."""
        return _InLayers(setting, self)


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


class _InLayers(Parts):
    def __init__(self, setting: Setting, way: Layers) -> None:
        there = dict(setting.model.named_children())
        present = {number: f"layer{number}" for number in REPEATED if f"layer{number}" in there}
        pace: Pace | None = None if way.grow is None else PACES[way.grow]
        when = rounds(setting, way.schedule, len(REPEATED), pace, way.prune is not None)
        polarized = Polarized(setting.model, way.strength) if way.prune == "polarization" else None
        super().__init__(setting, present, when, sprout_of(way.grow, setting, way.insertion), polarized)
        self._way = way

    def _removal(self, path: str) -> DepthChange:
        return depth.Remove(self._places(), path)

    def _insert(self, number: int) -> str:
        after = self._behind(number)
        names, before = [name for name, _ in self._axes.model.named_children()], {*self._axes.model.children()}
        convolutions = [m for m in self._module(_layer_before(names, after)).modules() if isinstance(m, nn.Conv2d)]
        self._commit(depth.Insert(self._places(), f"after {after}", self._what(convolutions[-1].out_channels)))
        return next(name for name, child in self._axes.model.named_children() if child not in before)

    def _behind(self, number: int) -> str:
        """The child of the net behind which a convolution of this number belongs."""
        if number == 8 and (path := self._last(7)):
            return path
        if number >= 7 and hasattr(self._axes.model, "pool6"):
            return "pool6"
        return "layer3" if number == 4 else (self._last(6) or "layer5") if number >= 7 else "layer5"

    def _what(self, width: int) -> depth.Inserted:
        norm = self._setting.norm
        if self._way.grow == "residual":
            return depth.ZeroResidual(hidden=max(1, width // 2), norm=norm)
        if self._way.grow == "random":
            return FreshLayer(norm=norm)
        if self._sprout is not None:
            return depth.ZeroResidual(hidden=EMPTY, norm=norm)
        return depth.Net2Deeper(norm=norm, batch=self._setting.example if self._way.insertion == "safe" else None)


def _layer_before(children: Sequence[str], name: str) -> str:
    """The last of a net's children up to this one that is no pooling."""
    return next(n for n in reversed(children[: children.index(name) + 1]) if not n.startswith("pool"))
