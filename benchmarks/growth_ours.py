"""What the growth benchmark measures of meristem: the controller in an ordinary loop, nothing else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

import meristem
from benchmarks.growth_cases import CASES, LEARNING_RATE
from benchmarks.growth_worker import STEPS, WARM_UP
from benchmarks.models import timm_model
from meristem.axes import Axis
from meristem.plasticity import Event
from meristem.schedule import At
from tests.zoo.torchvision_stub import install


def mlp() -> nn.Module:
    """784-256-256-10."""
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(OrderedDict(zip(("first", "relu1", "second", "relu2", "head"), layers, strict=True)))


def conv() -> nn.Module:
    """3-32-64-128, then global pooling and a linear layer."""
    layers = OrderedDict[str, nn.Module]()
    for before, width in ((3, 32), (32, 64), (64, 128)):
        layers[f"conv{width}"] = nn.Conv2d(before, width, 3, padding=1)
        layers[f"relu{width}"] = nn.ReLU()
    return nn.Sequential(layers | {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": nn.Linear(128, 10)})


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[Axis], bool]]] = {
    "mlp": (mlp, lambda axis: axis.name == "first"),
    "conv": (conv, lambda axis: axis.name == "conv64"),
    "vit_small": (timm_model("vit_small_patch16_224"), lambda axis: axis.name.endswith("mlp.fc1")),
    "resnet18": (timm_model("resnet18"), lambda axis: True),
}
"""The net of every case, and which of its axes may grow (where the method is defined)."""


class Net:
    """A net that meristem grows."""

    births = 0

    def __init__(self, case: str, method: str) -> None:
        install()
        torch.manual_seed(0)
        build, chosen = NETS[case]
        self._model = build().train()
        self._optimizer = torch.optim.SGD(self._model.parameters(), LEARNING_RATE)
        self._x, self._y = CASES[case].data()
        axes, grow = meristem.trace(self._model, self._x), getattr(meristem.grow, method)()
        births = {
            axis.name: CASES[case].births
            for axis in axes.editable
            if chosen(axis) and grow.undefined(axes, axis) is None
        }
        self._plasticity = meristem.Plasticity(
            self._model,
            self._optimizer,
            axes,
            schedule=At(WARM_UP + STEPS + 1, grow=births),
            grow=grow,
            axes=lambda axis: axis.name in births,
        )

    def step(self) -> None:
        """A training step with the controller's call."""
        self._train()

    def grow(self) -> None:
        """The same; it is the step after which the schedule asks for growth."""
        event = self._train()
        assert event is not None
        self.births = sum(event.births.values())

    def _train(self) -> Event | None:
        loss = nn.functional.cross_entropy(self._model(self._x), self._y)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return self._plasticity.step(loss)
