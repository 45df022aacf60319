"""What the choice of the first masks did to a model, and how it is undone when a saved state brings others."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Beginning:
    """The tensors that the start of sparse training changed, as they were before.

    So a state may be loaded into an object that was built on a model which was loaded already: what those masks
    silenced comes back. A copy of the masked weights is kept for that until the first step; an optimizer that remembers
    something of every weight needs as much from then on.

    Args:
        tensors: the masked weights and their optimizer state, before the start.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._before = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._changed: list[tuple[weakref.ref[Any], int, Tensor]] = []

    def done(self) -> None:
        """The start is over: only what it changed is kept."""
        changed = [(tensor, before) for tensor, before in self._before if not torch.equal(tensor, before)]
        self._changed = [(weakref.ref(tensor), tensor._version, before) for tensor, before in changed]
        self._before = []

    @torch.no_grad()
    def undo(self) -> None:
        """Put back what it changed, wherever nothing else has been written since."""
        for reference, version, before in self._changed:
            tensor = reference()
            if tensor is not None and tensor._version == version:
                tensor.copy_(before)
        self._changed = []
