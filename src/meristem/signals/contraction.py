"""How a call contracts its input with a weight, in one normal form for linear maps and all convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from meristem.errors import EditError


@dataclass(frozen=True)
class Contraction:
    """One linear map or convolution. Output position p of output o reads input i at tap a with weight[o, i, a]:

        convolution:              at input position p * stride - padding + a * dilation
        transposed convolution:   at input position q where q * stride - padding + a * dilation = p, if there is one

    Attributes:
        weight: (out, in, *kernel) whatever the layout of the tensor that holds it; out and in are those of the whole
            call, also with groups (then output o reads only the inputs of its group). kernel is () for a linear map.
        stride, padding, dilation, output_padding: one number per kernel dimension; () for a linear map. Padding is that
            of both sides. `output_padding` is zero unless `transposed`.
        extra: what is padded at the end in addition, as `"same"` with an even kernel does; () for nothing anywhere.
        groups: into how many blocks inputs and outputs are cut.
        transposed: whether it is a transposed convolution.
        bias: whether a bias is added to each output.
    """

    weight: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    bias: bool = False
    extra: tuple[int, ...] = ()

    @property
    def outs(self) -> int:
        return self.weight[0]

    @property
    def ins(self) -> int:
        return self.weight[1]

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight[2:]

    @property
    def fan_in(self) -> int:
        """How many inputs one output position reads, without the bias."""
        return self.ins // self.groups * math.prod(self.kernel)

    @property
    def one_group(self) -> Contraction:
        """What it does with one of its groups."""
        weight = (self.outs // self.groups, self.ins // self.groups, *self.kernel)
        return self if self.groups == 1 else replace(self, weight=weight, groups=1)

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """What is padded at the beginning and at the end of every kernel dimension."""
        extra = self.extra or (0,) * len(self.padding)
        return tuple((p, p + more) for p, more in zip(self.padding, extra, strict=True))

    def outputs(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """The spatial size of the output for an input of this spatial size."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        padded = [first + last for first, last in self.sides]
        geometry = zip(spatial, self.stride, padded, reach, self.output_padding, strict=True)
        if self.transposed:
            return tuple((n - 1) * s - p + r + more for n, s, p, r, more in geometry)
        return tuple((n + p - r) // s + 1 for n, s, p, r, _ in geometry)


class Call(NamedTuple):
    """One call that contracts an input with a weight.

    Attributes:
        contraction: how.
        input: the input as passed, with any leading dimensions.
        weight: the weight as passed.
        weight_is_transposed: whether it is laid out (in, out, ...), as by `addmm`, `matmul` and transposed
            convolutions (with groups: (in, out / groups, ...)), rather than (out, in / groups, ...).
        bias: what is added to each output, shape (outs,), or None.
    """

    contraction: Contraction
    input: Tensor
    weight: Tensor
    weight_is_transposed: bool
    bias: Tensor | None


def read_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
) -> Call | None:
    """What a call that a `TorchFunctionMode` sees contracts.

    Known: `linear`; `conv1d` to `conv3d` and `conv_transpose1d` to `conv_transpose3d`; `addmm` without factors, and
    `matmul`, `mm` and `@` with a matrix as second operand.

    Args:
        function, args, kwargs: as passed to `__torch_function__`.

    Returns:
        None for all other calls and overloads, and where input or weight are not tensors of real numbers.
    """
    reader = _READERS.get(function)
    if reader is None:
        return None
    try:
        call = reader(*args, **(kwargs or {}))
    except TypeError:  # an overload with other arguments, such as `out`, which has no gradients
        return None
    if call is None or not (call.input.is_floating_point() and call.weight.is_floating_point()):
        return None
    return call


def rows(x: Tensor, contraction: Contraction) -> Tensor:
    """The input or output of a call with exactly one leading dimension, a view where possible.

    Returns:
        shape (N, channels), N the product of all leading dimensions, for a linear map; (batch, channels, *spatial) for
        a convolution.
    """
    if contraction.kernel:
        return x.unsqueeze(0) if x.dim() == len(contraction.kernel) + 1 else x
    return x.unsqueeze(0) if x.dim() == 1 else x.flatten(0, -2)


def flattened(consumer: Contraction, spatial: Sequence[int]) -> Contraction:
    """A linear map that reads a flattened (channels, *spatial) map, as the convolution that it is.

    Its input is the map before it is flattened, its output has spatial size 1 in every dimension.

    Raises:
        EditError: the consumer is not linear, or its inputs are no multiple of the number of positions.
    """
    positions = math.prod(spatial)
    if consumer.kernel or consumer.ins % positions:
        raise EditError(
            f"expected a linear map whose inputs are a multiple of the {positions} positions of a map of size "
            f"{tuple(spatial)}, got one with weight {consumer.weight}; pass the size right before the flattening"
        )
    ones, zeros = (1,) * len(spatial), (0,) * len(spatial)
    weight = (consumer.outs, consumer.ins // positions, *spatial)
    return Contraction(weight, ones, zeros, ones, zeros, bias=consumer.bias)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    if weight.dim() != 2:
        return None
    return Call(Contraction(tuple(weight.shape), bias=bias is not None), input, weight, False, bias)


def _matmul(input: Tensor, other: Any) -> Call | None:
    if not isinstance(input, Tensor) or not isinstance(other, Tensor) or other.dim() != 2:
        return None
    return Call(Contraction((other.shape[1], other.shape[0])), input, other, True, None)


def _mm(input: Tensor, mat2: Tensor) -> Call | None:
    return _matmul(input, mat2)


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Call | None:
    if beta != 1 or alpha != 1:
        return None
    bias = input if input.shape == mat2.shape[1:] else None  # else it is another summand, not a bias of the call
    return Call(Contraction((mat2.shape[1], mat2.shape[0]), bias=bias is not None), mat1, mat2, True, bias)


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Call | None:
    kernel = tuple(weight.shape[2:])
    dilations = _each(dilation, kernel)
    extra: tuple[int, ...] = ()
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, kernel, strict=True)]
        padding, extra = [n // 2 for n in total], tuple(n % 2 for n in total)
    shape = (weight.shape[0], weight.shape[1] * groups, *kernel)
    none = (0,) * len(kernel)
    contraction = Contraction(
        shape, _each(stride, kernel), _each(padding, kernel), dilations, none, groups, False, bias is not None, extra
    )
    return Call(contraction, input, weight, False, bias)


def _transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Call | None:
    kernel = tuple(weight.shape[2:])
    contraction = Contraction(
        (weight.shape[1] * groups, weight.shape[0], *kernel),
        *(_each(value, kernel) for value in (stride, padding, dilation, output_padding)),
        groups=groups,
        transposed=True,
        bias=bias is not None,
    )
    return Call(contraction, input, weight, True, bias)


def _each(value: int | Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """One number per kernel dimension."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers * len(kernel) if len(numbers) == 1 else numbers


_READERS: dict[Callable[..., Any], Callable[..., Call | None]] = {
    functional.linear: _linear,
    **dict.fromkeys((torch.matmul, torch.linalg.matmul, Tensor.matmul, Tensor.__matmul__), _matmul),
    **dict.fromkeys((torch.mm, Tensor.mm), _mm),
    **dict.fromkeys((torch.addmm, Tensor.addmm), _addmm),
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((functional.conv1d, functional.conv2d, functional.conv3d), _convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _transposed),
    **dict.fromkeys(
        (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d), _transposed
    ),
}
