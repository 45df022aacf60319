"""A user's own code: what builds the model, the loader and the loss. Its errors are said to be its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from meristem.errors import ConfigError, MeristemError
from meristem.recipes.evidence import Loss, scalar


@contextmanager
def own(what: str) -> Iterator[None]:
    """Raises whatever is raised within as a `ConfigError` that names the option, with the error as its cause; errors of
    the library stay what they are."""
    try:
        yield
    except MeristemError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(f"{what} failed: {said(error)}") from error


def said(error: BaseException) -> str:
    """An error in one line: its kind, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@dataclass(frozen=True)
class Batches:
    """What a loader gives, iterated anew each time.

    Attributes:
        given: the loader.
        path: its import path.
    """

    given: Iterable[Any]
    path: str

    def __iter__(self) -> Iterator[Any]:
        with own(f"--loader {self.path}"):
            yield from self.given


@dataclass(frozen=True)
class OwnLoss:
    """A loss of a model on a batch.

    Attributes:
        given: the function.
        what: how it is called in messages.
    """

    given: Loss
    what: str

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        with own(self.what):
            found = self.given(model, batch)
        try:
            return scalar(found)
        except ConfigError as error:
            raise ConfigError(f"{self.what}: {error}") from error
