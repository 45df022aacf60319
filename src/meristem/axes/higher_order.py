"""Operators that take functions: `torch.cond` and the like. They are walked into, while the model is run on stand-ins.

Every branch is run, and what comes out of it is chosen entry by entry, so that the rules of ordinary operators say what
is coupled with what. PyTorch itself would compile the functions first, which it cannot do on stand-ins, and would not
forget that it could not: nothing is compiled meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._pytree import tree_map

from meristem.errors import TraceError


@contextmanager
def walked_into() -> Iterator[None]:
    """Run functions that are given to operators, instead of compiling them."""
    compile_, call = torch.compile, HigherOrderOperator.__call__

    def called(operator: HigherOrderOperator, /, *args: Any, **kwargs: Any) -> Any:
        walk = _WALKS.get(operator.name())
        if walk is not None:
            return walk(*args, **kwargs)
        try:
            return call(operator, *args, **kwargs)
        except NotImplementedError as error:
            raise UnknownOperatorError(
                f"the higher-order operator {operator.name()} has no rule; those that have one are {', '.join(_WALKS)}"
            ) from error

    torch.compile, HigherOrderOperator.__call__ = _as_it_is, called
    try:
        yield
    finally:
        torch.compile, HigherOrderOperator.__call__ = compile_, call


class UnknownOperatorError(TraceError):
    """The model calls an operator that takes functions and that nothing is known of."""


def _as_it_is(model: Any = None, **_: Any) -> Any:
    """In place of `torch.compile`."""
    return (lambda function: function) if model is None else model


def _cond(pred: Any, true_fn: Any, false_fn: Any, operands: Sequence[Any] = ()) -> Any:
    return _either(pred, true_fn(*operands), false_fn(*operands))


def _while_loop(cond_fn: Any, body_fn: Any, carried: Sequence[Any], more: Sequence[Any] = ()) -> Any:
    """Once: what the body gives has the same dimensions as what it is given."""
    again = cond_fn(*carried, *more)
    return _either(again, tuple(body_fn(*carried, *more)), tuple(carried))


def _map(function: Any, xs: Sequence[Tensor], more: Sequence[Any] = ()) -> Any:
    """One after the other, as the units of the first dimension are picked by position."""
    each = [function(*(x[i] for x in xs), *more) for i in range(xs[0].shape[0])]
    return tree_map(lambda *outputs: torch.stack(outputs), *each)


def _either(which: Any, one: Any, other: Any) -> Any:
    """The one or the other, tensor by tensor."""
    if isinstance(which, Tensor):
        return tree_map(lambda a, b: torch.where(which.reshape(()), a, b) if isinstance(a, Tensor) else a, one, other)
    return one if which else other


def _wrapped(before: int) -> Callable[..., Any]:
    return lambda *args, **kwargs: args[before](*args[before + 1 :], **kwargs)


_WALKS: dict[str, Callable[..., Any]] = {
    "cond": _cond,
    "while_loop": _while_loop,
    "map_impl": _map,
    "wrap": _wrapped(0),
    "wrap_with_set_grad_enabled": _wrapped(1),
    "wrap_with_autocast": _wrapped(4),
}
