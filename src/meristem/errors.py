"""Every error that meristem raises on purpose, and what all its warnings share.

Each message says what was expected, what came, and what to do. All derive from `MeristemError`, and each also
derives from the built-in exception that fits, so that generic handlers keep working.
"""

from __future__ import annotations

import os
import sys


class MeristemError(Exception):
    """Base class of all errors that meristem raises on purpose."""


class TraceError(MeristemError, RuntimeError):
    """The model could not be run for tracing; the message names the source line, the operator and the remedy."""


class WrappedModelError(MeristemError, TypeError):
    """The object is a wrapper (DDP, FSDP, a compiled or scripted module); the message says what to pass instead."""


class UnknownAxisError(MeristemError, KeyError):
    """No axis of that name, or several axes match it; the message lists the nearest ones."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class EditError(MeristemError, ValueError):
    """The requested edit is invalid; nothing was touched."""


class FrozenAxisError(EditError):
    """The axis may not be edited; the message carries the reason."""


class StaleMapError(EditError):
    """The model or its optimizer no longer matches the map; trace the model again."""


class SignalError(MeristemError, RuntimeError):
    """A statistic that a method needs could not be recorded; the message says what hides it."""


class CheckpointError(MeristemError, RuntimeError):
    """The checkpoint is truncated, corrupted, hostile, or belongs to another model; nothing was loaded."""


class DataError(MeristemError, RuntimeError):
    """A data set is missing or malformed; the message says where it was sought and how to get it."""


class ConfigError(MeristemError, ValueError):
    """A configuration value is invalid; the message names the field, the value and what is allowed."""


class UnreachedWarning(UserWarning):
    """No example that a model was traced with reaches some of its parameters: an edit may break what uses them."""


def outside() -> int:
    """The `stacklevel` at which a warning by the caller points to whoever called this library."""
    own = os.path.dirname(__file__) + os.sep
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(own):
        level, frame = level + 1, frame.f_back
    return level
