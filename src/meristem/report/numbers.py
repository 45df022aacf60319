"""Numbers as people read them."""

from __future__ import annotations

import math

PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def with_prefix(value: float, unit: str = "") -> str:
    """Three significant digits and an SI prefix: 11689512 becomes `11.7 M`, or with the unit FLOP `11.7 MFLOP`."""
    scale, prefix = power(value)
    scaled = value / scale
    digits = f"{scaled:.3g}" if abs(scaled) < 1000 else f"{scaled:.0f}"
    return f"{digits} {prefix}{unit}".rstrip()


def power(value: float) -> tuple[float, str]:
    """The power of 1000 that a number is counted in, and its SI prefix: of 11689512 a million and `M`."""
    found = 0 if value == 0 else min(max(int(math.log10(abs(value)) // 3), 0), len(PREFIXES) - 1)
    if found and round(abs(value) / 1000**found, 1) >= 1000 and found + 1 < len(PREFIXES):
        found += 1
    return 1000.0**found, PREFIXES[found]
