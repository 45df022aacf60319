"""Weights that are laid out (inputs, outputs), for distributions that know inputs along the second dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from meristem.mask.distribution import Counted, Distribution
from meristem.signals.contraction import read_call


@dataclass(frozen=True, repr=False)
class Turned(Distribution):
    """A distribution that sees some weights with their first two dimensions exchanged.

    Attributes:
        inner: what it stands for.
        names: of the parameters that are laid out (inputs, outputs, *kernel).
    """

    inner: Distribution
    names: frozenset[str]

    def __repr__(self) -> str:
        return repr(self.inner)

    def masks(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        return self._turned(self.inner.masks(self._turned(scores), density))

    def passing(self, scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
        return self._turned(self.inner.passing(self._turned(scores), density))

    def _turned(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.transpose(0, 1) if name in self.names else t for name, t in tensors.items()}


def turned(distribution: Distribution, model: nn.Module, names: Iterable[str]) -> Distribution:
    """A distribution that sees the weights of a model as (outputs, inputs, *kernel). What counts need not know."""
    if isinstance(distribution, (Counted, Turned)):
        return distribution
    found = frozenset(name for name in names if reading(model, name) == 0)
    return Turned(distribution, found) if found else distribution


def reading(model: nn.Module, name: str) -> int:
    """The dimension of a parameter along which it reads its inputs: 0 or 1.

    Matrices are heard in the module that holds them, if it has nothing but parameters: its own forward is called with
    one row of zeros, and how that is multiplied says it (0 for `x @ weight`, `addmm`, 1 for `linear`). Kernels are laid
    out as in PyTorch's modules: (inputs, outputs, ...) if `transposed`, otherwise (outputs, inputs, ...). Where nothing
    is heard it is 1.
    """
    module = model.get_submodule(name.rpartition(".")[0])
    parameter = model.get_parameter(name)
    if parameter.dim() != 2:
        return 0 if getattr(module, "transposed", False) else 1
    if [*module.children(), *module.buffers()]:
        return 1
    for length in (parameter.shape[1], parameter.shape[0]):
        heard = _Layout(parameter)  # the module may be of any kind, and want something else: then nothing is heard
        with suppress(Exception), torch.no_grad(), heard:  # what it does afterwards, and whether it can, says nothing
            type(module).forward(module, parameter.new_zeros(1, length))
        if heard.found is not None:
            return 0 if heard.found else 1
    return 1


class _Layout(TorchFunctionMode):
    """Hears whether a parameter is multiplied as (in, out)."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.parameter = parameter
        self.found: bool | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        call = read_call(func, args, kwargs)
        if call is not None and call.weight is self.parameter:
            self.found = call.weight_is_transposed
        return func(*args, **(kwargs or {}))
