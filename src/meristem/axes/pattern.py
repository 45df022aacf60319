"""What a pattern of names means."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def matches(name: str, patterns: str | Iterable[str]) -> bool:
    """Whether a name is meant: a pattern is that very name, or a glob pattern that it matches.

    Names of axes may hold brackets, as `qkv[0]` does, which a glob pattern would read as a set of characters.

    Args:
        name: of an axis, a module or a parameter.
        patterns: one, or several of which one is enough.
    """
    several = (patterns,) if isinstance(patterns, str) else patterns
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in several)
