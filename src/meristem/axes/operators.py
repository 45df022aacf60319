"""What operators are called, and which of them work entry by entry."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch._ops import OpOverload

FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""PyTorch's modules that in inference compute by one fused operator, which reads the weights of the modules in them
without calling these. Nothing else tells: they call them after all as soon as anybody listens."""

_UNTAGGED = {"aten._conj_physical", "aten.hardswish", "aten.ldexp", "aten.leaky_relu", "aten.prelu"}
"""Those that some releases of torch since 2.6 do not tag as elementwise; no release tags prelu, whose slopes lie along
the second dimension."""


def short_name(operator: OpOverload) -> str:
    """`aten.add_.Tensor` -> `aten.add`."""
    return str(operator.overloadpacket).rstrip("_")


@cache
def elementwise(operator: OpOverload) -> bool:
    """Whether every entry of the result follows from one entry of each operand. Tags say so; the tags of many in-place
    forms are missing, so those of the same operator out of place count."""
    name = short_name(operator)
    namespace, _, plain = name.partition(".")
    twin = getattr(getattr(getattr(torch.ops, namespace), plain, None), operator._overloadname, operator)
    return name in _UNTAGGED or any(torch.Tag.pointwise in each.tags for each in (operator, twin))


def reshapes(operator: OpOverload) -> bool:
    """Whether an operator changes the dimensions of its argument in place: `unsqueeze_`, `t_`."""
    return torch.Tag.inplace_view in operator.tags
