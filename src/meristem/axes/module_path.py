"""Paths of modules."""

from __future__ import annotations


def within(inner: str, outer: str) -> bool:
    """Whether a path is that of a module or of something in it."""
    return inner == outer or inner.startswith(f"{outer}.")
