"""One row of the zoo: how to build a model, what to feed it, and how to make its mistakes show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A model of the zoo.

    Attributes:
        name: unique in the zoo.
        build: makes the small configuration that tests use, with random weights.
        inputs: the arguments for a batch of that size, as a tuple or as a dict of keyword arguments.
        family: "convolutional", "transformer" or "other"; decides how large a share of parameters is expected.
        stock: makes the published configuration, for the report; None where there is none.
        stock_inputs: as `inputs`, for the published configuration.
        batches: the batch sizes at which the judge compares.
        small: whether it is one of our own small models, on which every axis is judged on its own.
        table: for the small ones, by hand: the dimensions of every tensor as expressions over axes (see `tables.py`).
        editable: how many axes can be edited, by hand, where there is no table.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Any, ...] | dict[str, Any]]
    family: str = "other"
    stock: Callable[[], nn.Module] | None = None
    stock_inputs: Callable[[int], tuple[Any, ...] | dict[str, Any]] | None = None
    batches: tuple[int, ...] = (2, 3)
    small: bool = False
    table: Mapping[str, str] | None = None
    editable: int | None = None

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The small configuration in eval mode: always the same weights."""
        torch.manual_seed(0)
        model = self.build()
        scramble(model)
        return model.to(dtype).eval()

    def example(self, batch: int | None = None, dtype: torch.dtype = torch.float64, seed: int = 1) -> Inputs:
        """Positional and keyword arguments for the model: always the same ones for one batch size."""
        torch.manual_seed(seed)
        made = self.inputs(self.batches[0] if batch is None else batch)
        args, kwargs = ((), made) if isinstance(made, dict) else (made, {})
        return tuple(cast(a, dtype) for a in args), {key: cast(value, dtype) for key, value in kwargs.items()}


def cast(value: Any, dtype: torch.dtype) -> Any:
    """The value itself, or in the given type if it is a floating-point tensor."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@torch.no_grad()
def scramble(model: nn.Module) -> None:
    """Give every constant parameter and every running statistic random values.

    Norm scales of 1, biases of 0 and layer scales of 1e-6 hide exchanged units; random values do not.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
            constant = float(parameter.flatten()[0])
            if constant == 0.0:
                parameter.normal_(0.0, 0.2)
            elif parameter.numel() > 1:
                parameter.uniform_(0.5, 1.5)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)


def image(size: int, channels: int = 3) -> Callable[[int], tuple[Tensor]]:
    """Square random images: (batch, channels, size, size)."""
    return lambda batch: (torch.randn(batch, channels, size, size),)


def tokens(vocabulary: int, length: int) -> Callable[[int], dict[str, Tensor]]:
    """Random token numbers, `input_ids`: (batch, length + batch), so that another batch size is another length too."""
    return lambda batch: {"input_ids": torch.randint(0, vocabulary, (batch, length + batch))}
