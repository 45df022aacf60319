"""The colours of lines."""

from __future__ import annotations

COLOURS = ("#d98c00", "#1a9e77", "#3b82c4", "#c8553d", "#8b6bb8", "#b0577f", "#6b8e23", "#4aa3a2")
"""Legible on white and on black, distinguishable for most colour-blind people; they repeat."""


def colour(index: int, opacity: float = 1.0) -> str:
    """The colour of the line with that index, as CSS."""
    red, green, blue = (int(COLOURS[index % len(COLOURS)][i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
