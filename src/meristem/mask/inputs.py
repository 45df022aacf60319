"""What weights read while a model runs: hooks on nothing, one pass over calibration data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from meristem.signals.contraction import Call, read_call
from meristem.signals.inside import inside

Measure = Callable[[Call, Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], Tensor]
"""What one call tells: (the call, the function, its arguments) -> a tensor that is added up over calls."""


class Hearing(TorchFunctionMode):
    """While it is entered, every contraction of the wanted parameters is measured.

    Attributes:
        totals: by name the sum of all measurements.
        calls: by name one of the calls.
    """

    def __init__(self, wanted: Mapping[str, nn.Parameter], measure: Measure) -> None:
        super().__init__()
        self.totals: dict[str, Tensor] = {}
        self.calls: dict[str, Call] = {}
        self._names = {id(p): name for name, p in wanted.items()}
        self._measure = measure

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = read_call(func, args, kwargs)
        name = None if call is None else self._names.get(id(call.weight))
        if call is not None and name is not None:
            found = self._measure(call, func, args, kwargs or {})
            self.totals[name] = self.totals[name] + found if name in self.totals else found
            self.calls[name] = Call(call.contraction, call.input[:0], call.weight[:0], call.weight_is_transposed, None)
        return inside(self, func, args, kwargs or {})


def energy(call: Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """For every entry of a weight the sum of the squares of all that it was multiplied with; shape of the weight.

    The derivative, in a weight, of the sum of what the call gives for squared inputs: exact for whatever the call is,
    at the cost of the gradient of its weight.
    """
    dtype = torch.promote_types(call.weight.dtype, torch.float32)
    probe = torch.zeros_like(call.weight, dtype=dtype).requires_grad_()
    squares = call.input.detach().to(dtype).square()
    swapped = {id(call.weight): probe, id(call.input): squares}
    if call.bias is not None:
        swapped[id(call.bias)] = call.bias.detach().to(dtype)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(probe.device.type, enabled=False):
        squares = swapped[id(call.input)] = squares.clone()
        result = function(
            *(swapped.get(id(a), a) for a in args), **{k: swapped.get(id(v), v) for k, v in kwargs.items()}
        )
        return torch.autograd.grad(result.sum(), probe)[0]
