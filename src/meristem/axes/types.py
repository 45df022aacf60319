"""Operands of one type: what an operator refuses on real tensors, and lets pass on those without values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

_FIRST_TWO = ("matmul", "mm", "bmm", "mv", "dot")
_WITH_SUM = ("addmm", "baddbmm", "addbmm", "addmv")
_WITH_WEIGHT = (
    *("linear", "bilinear", "convolution", "scaled_dot_product_attention"),
    *(f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)),
)
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_OPERANDS: Mapping[str, slice] = {
    f"aten.{name}": which
    for names, which in (
        (_FIRST_TWO, slice(0, 2)),
        (_WITH_SUM, slice(1, 3)),
        (_WITH_WEIGHT, slice(0, 3)),
        (_RECURRENT, slice(0, 4)),
        (("einsum",), slice(1, 2)),
    )
    for name in names
}
"""Which arguments of an operator must be of one type; of lists, what is in them."""


def check_types(name: str, args: tuple[Any, ...]) -> None:
    """Refuse operands of different types.

    Args:
        name: the operator's, without overload.
        args: its positional arguments.

    Raises:
        TypeError: names the types.
    """
    which = _OPERANDS.get(name)
    if which is None:
        return
    lengths_apart = name.removeprefix("aten.") in _RECURRENT  # those of packed sequences are whole numbers
    tensors = [t for t in _tensors(args[which]) if not lengths_apart or t.is_floating_point()]
    types = dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
    if len(types) > 1:
        raise TypeError(f"expected operands of one type, got {' and '.join(types)}")


def _tensors(items: Any) -> Iterator[Tensor]:
    for item in items:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _tensors(item)
