"""Everything about a model and its optimizers that a failed edit must leave as it was, to the bit and to the object."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Snapshot:
    """Of models, and of optimizers or whatever else remembers something. Taken before; `check` compares afterwards.
    Every tensor must be the same object with the same bits."""

    def __init__(self, roots: Iterable[nn.Module], others: Iterable[object] = ()) -> None:
        self._owners = [*(m for root in roots for m in root.modules()), *others]
        self._before = [frozen(vars(owner)) for owner in self._owners]

    def check(self) -> None:
        """Fail where anything differs."""
        for owner, before in zip(self._owners, self._before, strict=True):
            assert same(frozen(vars(owner)), before), f"{type(owner).__name__} changed"


def frozen(value: Any, seen: frozenset[int] = frozenset()) -> Any:
    """A deep description of a value: tensors by identity and bits, containers entry by entry, in order."""
    if id(value) in seen:
        return id(value)
    seen = seen | {id(value)}
    if isinstance(value, Tensor):
        hooks = getattr(value, "_post_accumulate_grad_hooks", None)
        attributes = {key: frozen(entry, seen) for key, entry in vars(value).items()}
        own = (id(value), type(value), value.requires_grad, value.stride(), id(value._backward_hooks), id(hooks))
        return own, attributes, value.detach().clone(), frozen(value.grad, seen)
    if isinstance(value, weakref.ref):
        return id(value), id(value())
    if isinstance(value, nn.Module):
        return id(value)
    if isinstance(value, Mapping):
        return id(value), [(frozen(key, seen), frozen(entry, seen)) for key, entry in value.items()]
    if isinstance(value, set):
        return id(value), frozenset(value)
    if isinstance(value, list):
        return id(value), [frozen(entry, seen) for entry in value]
    if isinstance(value, tuple):
        return type(value), [frozen(entry, seen) for entry in value]
    return value


def same(a: Any, b: Any) -> bool:
    """Equality of two descriptions; tensors bit for bit, not a number equal to itself."""
    if a is b:
        return True
    if type(a) in (list, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and bits_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


def bits_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same bits (minus zero differs from zero)."""
    return torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def values(owner: nn.Module | Optimizer) -> Any:
    """What a model or an optimizer holds, without identities: for comparison with another object."""
    if isinstance(owner, nn.Module):
        state = {name: t.detach().clone() for name, t in [*owner.named_parameters(), *owner.named_buffers()]}
        return state, {name: None if p.grad is None else p.grad.clone() for name, p in owner.named_parameters()}
    state = owner.state_dict()
    # In the order of parameters: that in which the state of each came is no part of it.
    return {"state": _cloned(dict(sorted(state["state"].items()))), "groups": _cloned(state["param_groups"])}


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _cloned(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_cloned(entry) for entry in value)
    return value
