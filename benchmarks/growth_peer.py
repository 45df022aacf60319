"""What the growth benchmark measures of gromo, in the way that its documentation shows.

`init_computation`, a forward and a backward pass, `update_computation`, `compute_optimal_updates`, `apply_change`. As
on our side, the pass on which statistics are taken is that of a training step, so that it is not counted as growth.
`statistical_threshold=0`, so that it inserts as many units as are asked for; with its default, an absolute threshold,
it inserts one on both cases.

`update_computation` records everything whatever the method needs. The methods called `lean` record only what GradMax
needs, through the same objects: it is not documented, but the fastest that gromo can do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gromo.modules.conv2d_growing_module import (  # pyright: ignore[reportMissingImports]
    FullConv2dGrowingModule,
    RestrictedConv2dGrowingModule,
)
from gromo.modules.linear_growing_module import LinearGrowingModule  # pyright: ignore[reportMissingImports]
from torch import nn

from benchmarks.growth_cases import CASES, LEARNING_RATE

GRADMAX = {"compute_delta": False, "use_covariance": False, "use_projection": False, "alpha_zero": True}


@dataclass(frozen=True)
class Method:
    """Settings of gromo.

    Attributes:
        name: `TINY` or `GradMax`, then `lean` if only one statistic is recorded, then `1x1` for outgoing kernels of
            1 x 1; else they are full.
    """

    name: str

    @property
    def convolution(self) -> type:
        """Its class of growing convolutions."""
        return RestrictedConv2dGrowingModule if "1x1" in self.name else FullConv2dGrowingModule

    @property
    def lean(self) -> bool:
        """Whether only the gradient between the two layers is recorded."""
        return "lean" in self.name

    @property
    def options(self) -> dict[str, bool]:
        """Of `compute_optimal_updates`."""
        return {} if self.name.startswith("TINY") else GRADMAX


def mlp(method: Method) -> tuple[nn.Module, Any]:
    """784-256-256-10, and the layer whose input grows."""
    first = LinearGrowingModule(784, 256, post_layer_function=nn.ReLU(), allow_growing=False)
    second = LinearGrowingModule(256, 256, post_layer_function=nn.ReLU(), previous_module=first)
    return nn.Sequential(first, second, nn.Linear(256, 10)), second


def conv(method: Method) -> tuple[nn.Module, Any]:
    """3-32-64-128, and the layer whose input grows."""
    kind = method.convolution
    shared: dict[str, Any] = {"kernel_size": 3, "padding": 1, "input_size": (32, 32), "post_layer_function": nn.ReLU()}
    before = kind(32, 64, **shared)
    grown = kind(64, 128, **shared, previous_module=before, allow_growing=True)
    answer = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), before, grown, *answer), grown


FACTORIES: dict[str, Callable[[Method], tuple[nn.Module, Any]]] = {"mlp": mlp, "conv": conv}


class Net:
    """A net that gromo grows."""

    births = 0

    def __init__(self, case: str, method: str) -> None:
        torch.manual_seed(0)
        self._case, self._method = CASES[case], Method(method)
        self._model, self._layer = FACTORIES[case](self._method)
        self._optimizer = torch.optim.SGD(self._model.parameters(), LEARNING_RATE)
        self._x, self._y = self._case.data()

    def step(self) -> None:
        """An ordinary training step."""
        self._backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def grow(self) -> None:
        """The same with statistics, then the solve and the insertion."""
        layer = self._layer
        (self._listen if self._method.lean else layer.init_computation)()
        self._backward()
        (layer.tensor_m_prev.update if self._method.lean else layer.update_computation)()
        self._optimizer.step()
        self._optimizer.zero_grad()
        before = layer.in_neurons
        layer.compute_optimal_updates(
            maximum_added_neurons=self._case.births, statistical_threshold=0.0, **self._method.options
        )
        layer.reset_computation()
        layer.apply_change(scaling_factor=1.0)
        layer.delete_update()
        self._optimizer = torch.optim.SGD(self._model.parameters(), LEARNING_RATE)
        self.births = layer.in_neurons - before

    def _listen(self) -> None:
        self._layer.store_pre_activity = True
        self._layer.previous_module.store_input = True
        self._layer.tensor_m_prev.init()

    def _backward(self) -> None:
        nn.functional.cross_entropy(self._model(self._x), self._y).backward()
