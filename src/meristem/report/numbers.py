"""Numbers as people read them."""

from __future__ import annotations

import math

from meristem.study.summary import Interval

PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def with_prefix(value: float) -> str:
    """Three significant digits and an SI prefix: 11689512 becomes `11.7 M`."""
    power = 0 if value == 0 else min(max(int(math.log10(abs(value)) // 3), 0), len(PREFIXES) - 1)
    if power and round(abs(value) / 1000**power, 1) >= 1000 and power + 1 < len(PREFIXES):
        power += 1
    scaled = value / 1000**power
    return (
        f"{scaled:.3g} {PREFIXES[power]}".rstrip() if abs(scaled) < 1000 else f"{scaled:.0f} {PREFIXES[power]}".rstrip()
    )


def percent(found: Interval) -> str:
    """`97.3 ± 0.4` from shares between 0 and 1."""
    return _plus_minus(f"{100 * found.mean:.1f}", found, f"{100 * found.half_width:.1f}")


def amount(found: Interval) -> str:
    """`11.7 k ± 0.2 k`; the half width is left out where all values are equal."""
    return _plus_minus(with_prefix(found.mean), found, with_prefix(found.half_width) if found.half_width > 0 else "")


def duration(found: Interval) -> str:
    """`4.2 ± 0.1`, in seconds."""
    return _plus_minus(f"{found.mean:.1f}", found, f"{found.half_width:.1f}")


def _plus_minus(mean: str, found: Interval, half_width: str) -> str:
    return f"{mean} ± {half_width}" if found.half_width > 0 else mean
