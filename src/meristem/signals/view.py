"""The one thing that every method looks at when it plans: the map, the weights, the ages, a source of randomness."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from meristem.axes.map import AxisMap
from meristem.edit.checks import check_model
from meristem.errors import SignalError
from meristem.signals.statistic import Statistic


@dataclass(frozen=True)
class View:
    """A model as a method sees it at one step. Methods read it and return plans; they never write to it.

    Attributes:
        axes: today's map of the model.
        step: number of optimizer steps so far.
        ages: by axis name, the age of every unit in optimizer steps: int64, shape (axis.size,) on the CPU. Units that
            no edit inserted have the largest int64; an axis that is missing has only such units.
        signals: the result of every statistic that the method asked for.
        closure: recomputes the training loss, on a batch of the caller's choice; None if the caller gave none.
        generator: where randomness comes from, on the CPU; a function of the controller's seed and the step alone, so
            that resumed and distributed runs draw the same.
    """

    axes: AxisMap
    step: int = 0
    ages: Mapping[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    signals: Mapping[Statistic, Any] = field(default_factory=dict)
    closure: Callable[[], Tensor] | None = None

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every parameter and buffer by each of its qualified names, detached; shapes are those of the map.

        Raises:
            StaleMapError: the model was edited since the map was made.
        """
        return {name: tensor.detach() for name, tensor in check_model(self.axes, ()).items()}

    @cached_property
    def devices(self) -> tuple[int, ...]:
        """The GPUs that hold parameters, by number."""
        parameters = self.axes.model.parameters()
        return tuple(sorted({p.device.index for p in parameters if p.device.type == "cuda"}))

    def recorded(self, needed: Statistic) -> Any:
        """The result of a statistic, or of one that covers it.

        Raises:
            SignalError: no such statistic was recorded.
        """
        for statistic, found in self.signals.items():
            if statistic.covers(needed):
                return found
        raise SignalError(f"{needed} was not recorded; a method must ask for it with `needs`")
