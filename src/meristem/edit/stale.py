"""Who still holds a parameter that an edit replaced: such a list trains, clips or regularizes nothing any more.

Counting references is cheap and settles the usual case, in which nobody does (an autograd graph that is still alive is
discounted). Only otherwise is the heap searched for the holders.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from meristem.edit.heap import PASSING, described_holders, entries

REMEDY = (
    "build it again from model.parameters() (wrap the model again, if it is DistributedDataParallel; an optimizer that "
    "was built anew goes to `plasticity.optimizers`), or replace its entries by what the edit's commit says: "
    "`[commit.replaced.get(p, p) for p in parameters]`"
)
MOST = 10
"""How many holders are named at most."""


class StaleParameterWarning(UserWarning):
    """Something outside the model still holds parameters that an edit replaced."""


class Replaced(Mapping[Tensor, Tensor]):
    """Which tensor followed which, keyed by the old one's identity. Keeps neither alive."""

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._pairs = {id(old): (weakref.ref(old), weakref.ref(new)) for old, new in pairs}

    def __getitem__(self, old: Tensor) -> Tensor:
        source, target = self._pairs.get(id(old), (None, None))
        new = target() if source is not None and target is not None and source() is old else None
        if new is None:
            raise KeyError(old)
        return new

    def __iter__(self) -> Iterator[Tensor]:
        return (old for source, _ in self._pairs.values() if (old := source()) is not None and old in self)

    def __contains__(self, old: object) -> bool:
        return isinstance(old, Tensor) and self.get(old) is not None

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class StaleHolder:
    """One object that still holds replaced parameters.

    Attributes:
        holder: what it is, and where it hangs.
        parameters: the names of the parameters, as they are called in the model.
    """

    holder: str
    parameters: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.parameters[:3]) + (", ..." if len(self.parameters) > 3 else "")
        return f"{self.holder} still holds {len(self.parameters)} replaced parameters ({names}); {REMEDY}"


def stale_holders(old: Mapping[str, weakref.ref[Any]]) -> tuple[StaleHolder, ...]:
    """The containers, objects and closures that hold one of these replaced parameters, the first `MOST` of them.

    Plain local and global variables are not reported (every `for p in model.parameters()` leaves one), nor are autograd
    graphs.
    """
    suspects = {name: reference for name, reference in old.items() if _held(reference)}
    if not suspects:
        return ()
    tensors = [reference() for reference in suspects.values()]
    names = dict(zip(map(id, tensors), suspects, strict=True))
    holders = [h for h in gc.get_referrers(*tensors) if h is not tensors and not isinstance(h, PASSING)][: 4 * MOST]
    described = described_holders(holders)
    found = []
    for holder, words in zip(holders, described, strict=True):
        if words is not None:
            held = {id(entry) for entry in entries(holder)}
            found.append(StaleHolder(words, tuple(name for number, name in names.items() if number in held)))
    return tuple(found[:MOST])


def _held(reference: weakref.ref[Any]) -> bool:
    """Whether anything but an autograd graph holds the tensor."""
    count, in_graph = _references(reference)
    if count == 0:
        return False
    free, graph, both = _baseline()
    if both == graph:  # this PyTorch does not show a graph's reference once Python holds one: search to be sure
        return True
    return count > (graph if in_graph else free)


def _references(reference: weakref.ref[Any]) -> tuple[int, bool]:
    tensor = reference()
    if tensor is None:
        return 0, False
    return sys.getrefcount(tensor), tensor._use_count() > 1  # type: ignore[attr-defined]


@cache
def _baseline() -> tuple[int, int, int]:
    """What `_references` counts for a tensor that nothing holds, that a graph holds, that a graph and a list hold."""
    with torch.inference_mode(False), torch.enable_grad():
        tensor = nn.Parameter(torch.zeros(1))
        reference: weakref.ref[Any] = weakref.ref(tensor)
        kept: list[Any] = [tensor]
        del tensor
        free = _references(reference)[0] - 1
        kept.append(kept[0] * 1)
        both = _references(reference)[0]
        kept[0] = None
        graph = _references(reference)[0]
    return free, graph, both
