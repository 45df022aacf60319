"""The market of layers: insertions by the gradient that they would get, removals by a criterion of depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.depth import Deepen, Shorten, places, predicted_gains
from meristem.depth.criterion import path_of
from meristem.depth.deepen import name_of
from meristem.edit import Edit
from meristem.edit.deepen import DepthChange
from meristem.errors import ConfigError, EditError
from meristem.grow.parts.closure import evaluated
from meristem.ledger.account import Account
from meristem.ledger.entry import Entry, Key, Kind, Ladder, Level, Lot
from meristem.ledger.market import Made, Market, Taken
from meristem.signals import Statistic, View


@dataclass(frozen=True)
class Layers(Market):
    """Layers, blocks and branches: at one edit the birth and the death with the best prices are offered, of all places.

    A birth preserves the function, so it is worth what gradient descent makes of it: `rate * sum (dL/dw)^2` over its
    parameters, the first-order decrease of the loss by T steps of learning rate eta with the same gradient, for
    `rate = T eta` (see `Units` and `meristem.depth.predicted_gains`). A death is worth what the criterion says:
    `|<dL/dy, y0 - y>|` (`BranchTaylor`), or the measured increase of the loss (`MeasuredLoss`; a decrease counts as 0).

    Attributes:
        deepen: what may be inserted where; it must preserve the function.
        shorten: what may be removed, and the criterion, whose scores must be changes of the loss.
        rate: see above.

    Raises:
        ConfigError: the rate is not positive, or the criterion predicts no changes of the loss.

    Fails: a block is no small change. Each offer costs a pass of the model and a trace, and for each birth a gradient:
    trade layers seldom.
    """

    level: ClassVar[Level] = "layer"

    deepen: Deepen
    shorten: Shorten
    rate: float

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ConfigError(f"Layers(rate=...) is a sum of learning rates above 0, got {self.rate!r}")
        if not self.shorten.criterion.predicts_loss:
            raise ConfigError(
                f"Layers holds deaths against births, but the scores of {type(self.shorten.criterion).__name__} are no "
                "changes of the loss; those of BranchTaylor and MeasuredLoss are"
            )

    @property
    def requires_closure(self) -> bool:
        return True

    def require(self, axes: AxisMap, chosen: Sequence[Axis]) -> None:
        found = places(axes)
        self.deepen.require(found)
        self.shorten.require(found)
        for change in self.deepen.changes(found):
            if change.inexact():
                why = ", ".join(change.inexact())
                raise ConfigError(
                    f"{change} changes the function ({why}), so that no gain is predicted; use what preserves it, such "
                    "as depth.Silent, depth.ZeroResidual or depth.Added"
                )

    def needs(self, axes: AxisMap, chosen: Sequence[Axis], most: float) -> tuple[Statistic, ...]:
        return ()

    def offers(self, view: View, chosen: Sequence[Axis], account: Account, most: float) -> tuple[Ladder, ...]:
        found, seed = places(view.axes), view.generator.initial_seed()

        def closure() -> Tensor:
            return evaluated(view, seed)

        born, dead = self.deepen.changes(found), self.shorten.changes(found)
        gains = self.rate * predicted_gains(view.axes, born, closure)
        losses = self.shorten.criterion.scores(dead, closure).clamp(min=0)
        births = [_lot("birth", c, name_of(c), g, account.layer(c)) for c, g in zip(born, gains.tolist(), strict=True)]
        deaths = [_lot("death", c, path_of(c), w, account.layer(c)) for c, w in zip(dead, losses.tolist(), strict=True)]
        births = sorted((one for one in births if one.entry.cost <= most), key=lambda one: -one.entry.price)[:1]
        deaths.sort(key=lambda one: one.entry.price)
        fitting = (one for one in deaths if _together(view.axes, [*births, one]))
        return tuple(_ladder(one) for one in (*births, next(fitting, None)) if one is not None)

    def made(self, view: View, taken: Taken, known: dict[Any, Any]) -> Made:
        return Made(changes=tuple(change for lots in taken.values() for change in _changes(lots)))


def _lot(kind: Kind, change: DepthChange, where: str, worth: float, flops: float) -> Lot:
    return Lot(Entry("layer", kind, where, 1, worth, max(flops if kind == "birth" else -flops, 0.0)), change=change)


def _ladder(lot: Lot) -> Ladder:
    return Ladder(Key("layer", lot.entry.kind, lot.entry.where), (lot,))


def _changes(lots: Sequence[Lot]) -> list[DepthChange]:
    return [lot.change for lot in lots if lot.change is not None]


def _together(axes: AxisMap, lots: Sequence[Lot]) -> bool:
    """Whether changes can be made in one edit: not where two concern one container."""
    edit = Edit(axes)
    for change in _changes(lots):
        edit.depth(change)
    try:
        edit.preview()
    except EditError:
        return False
    return True
