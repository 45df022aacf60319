"""How much is pruned when: gradually, by a cubic."""

from __future__ import annotations

from dataclasses import dataclass

from meristem.errors import ConfigError


@dataclass(frozen=True)
class Gone:
    """As many units as are missing until a share of those at the beginning is gone; an amount to prune.

    A controller remembers, and saves, which share earlier amounts of this kind stand for; a smaller one asks for
    nothing. Shares are of the units that there would be by these amounts alone, so what is grown or pruned besides
    changes them in proportion. What rounding to whole units leaves at one step is added to the next one; what limits or
    protection keep back is not.

    Attributes:
        total: at least 0, below 1.
    """

    total: float

    def beyond(self, before: float) -> float:
        """The share of the units that are left after `before` of those at the beginning which goes now."""
        return max(0.0, 1 - (1 - self.total) / (1 - before))


@dataclass(frozen=True)
class Cubic:
    """An amount for a schedule: so that in the end a share `final` of all units at the beginning is gone, fast at first
    and ever more slowly. After the step at which the schedule asks, whichever these are,

        gone(t) = final * (1 - (1 - (t - begin) / (end - begin)) ** 3)

        schedule.Every(100, prune=Cubic(0.5, end=1000))

    Zhu, Gupta, "To Prune, or Not to Prune", ICLR 2018 workshop, arXiv 1710.01878, equation 1, with an initial sparsity
    of 0. The first time that is `end` or later brings `final`, to half a unit, or half a `multiple`; `At` and `Every`
    refuse it if they have no such time. What is cut off by `until(...)` stops where it is; where limits or protection
    keep units back, fewer go.

    Attributes:
        final: the share that is gone at the end, at least 0 and below 1.
        end: the optimizer step after which nothing more goes.
        begin: the optimizer step at which it begins. Default 0.

    Raises:
        ConfigError: a setting is out of its range.
    """

    final: float
    end: int
    begin: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.final < 1 and 0 <= self.begin < self.end):
            raise ConfigError(f"expected 0 <= final < 1 and 0 <= begin < end, got {self!r}")

    def __call__(self, step: int) -> Gone:
        """What is asked for after a step."""
        return Gone(self.gone(step))

    def gone(self, step: int) -> float:
        """The share of the units at the beginning that is gone after a step."""
        progress = min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))
        return self.final * (1 - (1 - progress) ** 3)
