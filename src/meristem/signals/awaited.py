"""Forward passes that count as soon as it is known that they train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from meristem.signals.backward import Backward


class Awaited:
    """One forward pass. It counts as soon as a backward pass that trains comes back to something that is waited for, or
    to what the model returned; one to which no gradient can come back, because all is frozen, when it has ended.

    Args:
        backward: tells whether a backward pass trains.
    """

    def __init__(self, backward: Backward) -> None:
        self._backward = backward
        self._jobs: list[Callable[[], None]] = []
        self._waiting = False

    def if_it_trains(self, job: Callable[[], None]) -> None:
        """Call it once the pass counts."""
        self._jobs.append(job)

    def wait_for(self, x: Tensor, take: Callable[[Tensor], None] | None = None) -> None:
        """Count the pass, and give the gradient of x to `take`, when it comes; nothing where none can."""
        if not x.requires_grad:
            return
        self._waiting = True

        def arrived(gradient: Tensor) -> None:
            self._count()
            if take is not None:
                take(gradient)

        x.register_hook(self._backward.only(arrived))

    def left(self, result: Any) -> None:
        """The pass has ended with this."""
        for output in tree_leaves(result):
            if isinstance(output, Tensor):
                self.wait_for(output)
        if not self._waiting:
            self._count()

    def _count(self) -> None:
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job()
