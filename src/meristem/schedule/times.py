"""Times as optimizer steps."""

from __future__ import annotations

import math

from meristem.errors import ConfigError


def in_steps(time: float, steps_per_epoch: int, what: str) -> int:
    """A time in optimizer steps, given in units of `steps_per_epoch` steps."""
    if not steps_per_epoch >= 1:
        raise ConfigError(f"steps_per_epoch must be at least 1, got {steps_per_epoch!r}")
    if not (math.isfinite(time) and time >= 0):
        raise ConfigError(f"{what} must be a number >= 0, got {time!r}")
    return round(time * steps_per_epoch)


def following(step: int, start: int, interval: int) -> int:
    """The first of `start`, `start + interval`, `start + 2 * interval`, ... after a step."""
    return max(start, step + 1 + (start - step - 1) % interval)
