"""Operands of one type: what an operator refuses on real tensors, and lets pass on those without values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

_FIRST_TWO = ("matmul", "mm", "bmm", "mv", "dot")
_WITH_SUM = ("addmm", "baddbmm", "addbmm", "addmv")
_WITH_WEIGHT = (
    *("linear", "bilinear", "convolution", "scaled_dot_product_attention"),
    *(f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)),
)
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_MADE_OF_OTHERS = frozenset((*_RECURRENT, "einsum"))
"""Operators that are made of others: autocast casts only what these are given."""
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
    short = name.removeprefix("aten.")
    tensors = [t for t in _tensors(args[which]) if short not in _RECURRENT or t.is_floating_point()]  # no lengths
    types = dict.fromkeys(_cast(t) if short in _MADE_OF_OTHERS else t.dtype for t in tensors)
    if len(types) > 1:
        found = " and ".join(str(each).removeprefix("torch.") for each in types)
        raise TypeError(f"expected operands of one type, got {found}")


def _cast(tensor: Tensor) -> torch.dtype:
    """The type that autocast gives a tensor before it is multiplied. A dispatch mode is called without autocast: the
    state in which the model's code is has to be asked for."""
    kind = tensor.device.type
    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor.dtype
    with torch._C._RestorePythonTLSSnapshot():  # pyright: ignore[reportAttributeAccessIssue]
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def autocast(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as autocast gives them to what an operator is made of.

    Args:
        name: the operator's, without overload.
        args: its positional arguments.
    """
    made = name.removeprefix("aten.") in _MADE_OF_OTHERS
    return tree_map_only(Tensor, lambda tensor: tensor.to(_cast(tensor)), args) if made else args


def _tensors(items: Any) -> Iterator[Tensor]:
    for item in items:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _tensors(item)
