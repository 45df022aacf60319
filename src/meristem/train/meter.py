"""Counts the floating-point operations that training spends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch.utils.flop_counter import FlopCounterMode


class FlopMeter:
    """Adds up the operations of forward and backward passes, without passes of its own.

    The first step of every structure runs under `torch.utils.flop_counter` (matrix products, convolutions and
    attention; 2 per multiply-add); later steps of the same structure cost the same per example.

    Attributes:
        total: floating-point operations so far.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._per_example: float | None = None

    def structure_changed(self) -> None:
        """Measure again at the next step."""
        self._per_example = None

    @contextmanager
    def step(self, examples: int) -> Iterator[None]:
        """Wraps the forward and backward pass of one training step on that many examples."""
        counter = FlopCounterMode(display=False) if self._per_example is None else None
        with counter or nullcontext():
            yield
        if counter is not None:
            self._per_example = counter.get_total_flops() / examples
        self.total += (self._per_example or 0.0) * examples
