"""Numbers as people read them."""

from __future__ import annotations

import math

PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def with_prefix(value: float, unit: str = "") -> str:
    """Three significant digits and an SI prefix: 11689512 becomes `11.7 M`, or with the unit FLOP `11.7 MFLOP`."""
    power = 0 if value == 0 else min(max(int(math.log10(abs(value)) // 3), 0), len(PREFIXES) - 1)
    if power and round(abs(value) / 1000**power, 1) >= 1000 and power + 1 < len(PREFIXES):
        power += 1
    scaled = value / 1000**power
    digits = f"{scaled:.3g}" if abs(scaled) < 1000 else f"{scaled:.0f}"
    return f"{digits} {PREFIXES[power]}{unit}".rstrip()
