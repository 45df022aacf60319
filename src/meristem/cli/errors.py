"""Errors that were raised on purpose end a command with their message, not with a traceback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from meristem.errors import MeristemError

Command = TypeVar("Command", bound=Callable[..., Any])


def explained(command: Command) -> Command:
    """Wraps a command: a `MeristemError` prints its message and exits with status 1; anything else is a defect."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except MeristemError as error:
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from error

    return wrapped  # type: ignore[return-value]
