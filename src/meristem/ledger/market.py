"""What a market is: it offers births and deaths of one level, and turns what was traded into plans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.edit.deepen import DepthChange
from meristem.ledger.account import Account
from meristem.ledger.entry import Key, Ladder, Level, Lot
from meristem.ledger.trade import Plan, Rewiring
from meristem.signals import Running, Statistic, View

Taken = Mapping[Key, tuple[Lot, ...]]
"""What was traded, by what it is about."""


@dataclass(frozen=True, eq=False)
class Made:
    """What a market makes of what was traded.

    Attributes:
        plans: for axes, at most one each.
        rewirings: of single weights.
        changes: of the module tree.
        short: where less can be had than was offered, the number that can.
        dear: where births turn out to be worth less than was offered, by which factor. If there is either of the two,
            nothing else counts, and the trade is matched anew.
    """

    plans: tuple[Plan, ...] = ()
    rewirings: tuple[Rewiring, ...] = ()
    changes: tuple[DepthChange, ...] = ()
    short: Mapping[Key, int] = field(default_factory=dict)
    dear: Mapping[Key, float] = field(default_factory=dict)


class Market(ABC):
    """Births and deaths of one level.

    All worths are in one currency: the first-order change of the training loss by the move of activations that a birth
    or a death makes, `<dL/dz, dz>`. A death makes its move at once. A birth makes the move that its method gives it;
    or, if it changes nothing at birth, the one that gradient descent makes of it.

    Attributes:
        level: what is traded.
    """

    level: ClassVar[Level]

    @property
    def requires_closure(self) -> bool:
        """Whether the loss is evaluated. Default: no."""
        return False

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Which weights are there, by the name of each masked parameter. Default: nothing is masked."""
        return {}

    @abstractmethod
    def require(self, axes: AxisMap, chosen: Sequence[Axis]) -> None:
        """Refuse at once what could only fail later.

        Raises:
            ConfigError: something here predicts no change of the loss, or costs cannot be told.
            EditError: something is not defined for a chosen axis.
        """

    def running(self, axes: AxisMap, chosen: Sequence[Axis]) -> tuple[Running, ...]:
        """What has to be averaged all along. Default: nothing."""
        return ()

    @abstractmethod
    def needs(self, axes: AxisMap, chosen: Sequence[Axis], most: float) -> tuple[Statistic, ...]:
        """What has to be recorded before an offer can be made for births of at most so many operations."""

    @abstractmethod
    def offers(self, view: View, chosen: Sequence[Axis], account: Account, most: float) -> tuple[Ladder, ...]:
        """All that may be born, up to so many operations, and all that may die."""

    @abstractmethod
    def made(self, view: View, taken: Taken, known: dict[Any, Any]) -> Made:
        """The plans for what was taken of its offers.

        Args:
            view: the model today.
            taken: of this level only.
            known: what it may remember until this trade is settled; empty at first.
        """
