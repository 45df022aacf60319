"""How much is pruned when: gradually, by a cubic."""

from __future__ import annotations

from dataclasses import dataclass

from meristem.errors import ConfigError


@dataclass(frozen=True)
class Cubic:
    """An amount for a schedule: how large a share of today's units goes at a step, so that in the end a share `final`
    of all units at the beginning is gone, fast at first and ever more slowly:

        gone(t) = final * (1 - (1 - (t - begin) / (end - begin)) ** 3)

        schedule.Every(100, prune=Cubic(0.5, end=1000, every=100))

    Zhu, Gupta, "To Prune, or Not to Prune", ICLR 2018 workshop, arXiv 1710.01878, equation 1, with an initial sparsity
    of 0. A controller adds what rounding to whole units leaves at one step to the next, so the end is met to half a
    unit, or half a `multiple`; but where limits or protection keep units back, fewer go.

    Attributes:
        final: the share that is gone at the end, at least 0 and below 1.
        end: the optimizer step after which nothing more goes.
        every: the interval of the schedule, in optimizer steps.
        begin: the step at which it begins. Default 0.

    Raises:
        ConfigError: a setting is out of its range.
    """

    final: float
    end: int
    every: int
    begin: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.final < 1 and 0 <= self.begin < self.end and self.every >= 1):
            raise ConfigError(f"expected 0 <= final < 1, 0 <= begin < end and every >= 1, got {self!r}")

    def __call__(self, step: int) -> float:
        """The share of the units that there are at a step which goes then."""
        return 1 - (1 - self.gone(step)) / (1 - self.gone(step - self.every))

    def gone(self, step: int) -> float:
        """The share of the units at the beginning that is gone after a step."""
        progress = min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))
        return self.final * (1 - (1 - progress) ** 3)
