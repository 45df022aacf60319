"""The one thing that every method looks at when it plans: the map, the weights, the ages, a source of randomness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from meristem.axes.map import AxisMap


@dataclass(frozen=True)
class View:
    """A model as a method sees it at one step. Methods read it and return plans; they never write to it.

    Attributes:
        axes: today's map of the model.
        step: number of optimizer steps so far.
        ages: by axis name, the age of every unit in optimizer steps: int64, shape (axis.size,) on the CPU. Units that
            no edit inserted have the largest int64; an axis that is missing has only such units.
        generator: where randomness comes from, on the CPU; a function of the controller's seed and the step alone, so
            that resumed and distributed runs draw the same.
    """

    axes: AxisMap
    step: int = 0
    ages: Mapping[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every parameter and buffer by each of its qualified names, detached; shapes are those of the map."""
        model = self.axes.model
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        return {name: tensor.detach() for name, tensor in named}
