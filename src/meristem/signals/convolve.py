"""A contraction and its two transposes, for weights in the normal layout (out, in, *kernel) and without groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from meristem.signals.contraction import Contraction


def forward(c: Contraction, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The output: (batch, ins, *spatial) to (batch, outs, *others), outs those of the weight."""
    if not c.kernel:
        return torch.addmm(bias, x, weight.T)
    return torch.convolution(
        _padded(c, x), _layout(c, weight), bias, c.stride, c.padding, c.dilation, c.transposed, c.output_padding, 1
    )


def input_gradient(c: Contraction, gradient: Tensor, weight: Tensor, spatial: Sequence[int]) -> Tensor:
    """From the gradient of the output to that of the input, of shape (batch, ins of the weight, *spatial)."""
    if not c.kernel:
        return gradient @ weight
    x = _padded(c, gradient.new_empty(1).expand(len(gradient), weight.shape[1], *spatial))
    found = _backward(c, gradient, x, _layout(c, weight), (True, False, False))[0]
    return found[(..., *(slice(size) for size in spatial))]


def weight_gradient(c: Contraction, x: Tensor, gradient: Tensor) -> Tensor:
    """From the input and the gradient of the output to that of the weight, of shape (outs, ins, *kernel)."""
    if not c.kernel:
        return gradient.T @ x
    weight = x.new_empty(1).expand(gradient.shape[1], x.shape[1], *c.kernel)
    return _layout(c, _backward(c, gradient, _padded(c, x), _layout(c, weight), (False, True, False))[1])


def _padded(c: Contraction, x: Tensor) -> Tensor:
    """With what is padded at the end only."""
    if not any(c.extra):
        return x
    return pad(x, [side for more in reversed(c.extra) for side in (0, more)])


def _layout(c: Contraction, weight: Tensor) -> Tensor:
    """Between the normal layout and PyTorch's, in both directions."""
    return weight.transpose(0, 1) if c.transposed else weight


def _backward(c: Contraction, gradient: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor]:
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, c.stride, c.padding, c.dilation, c.transposed, c.output_padding, 1, wanted
    )
