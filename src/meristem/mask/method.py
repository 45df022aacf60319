"""What a method is: which weights are there at the start, and how that changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from meristem.errors import ConfigError
from meristem.mask.distribution import Counted, Distribution
from meristem.mask.scene import Plan, Scene


class Method(ABC):
    """Says which weights a model has while it trains. Methods are frozen dataclasses of their settings.

    Attributes:
        replaces_step: whether an update takes the place of the gradient step, in all parameters, as in RigL.
        dense_state: whether the optimizer's state of weights that are not there lives on, as in SNFS.
        requires_closure: whether `start` evaluates the training loss.
        by_places: whether updates name the places that they change (`Plan.swaps`), so that they cost what they change.
    """

    replaces_step: ClassVar[bool] = False
    dense_state: ClassVar[bool] = False
    requires_closure: ClassVar[bool] = False
    by_places: ClassVar[bool] = False

    @property
    def wants_gradient(self) -> bool:
        """Whether `update` reads the dense gradient of its step."""
        return False

    @property
    def pattern(self) -> Distribution | None:
        """What masks keep to beyond counts, at every moment, also when structural edits move weights (a distribution
        that is not `Counted`); None: nothing."""
        return None

    @property
    def obstacle(self) -> str | None:
        """Why nobody else may change the masks (`Sparse.rewire`, an exchange of single weights), or None."""
        return None if self.pattern is None else f"its masks keep to the pattern of {self.pattern!r}"

    @abstractmethod
    def start(self, scene: Scene) -> Plan:
        """The masks before the first step, one for each of `scene.masks`."""

    def due(self, step: int) -> bool:
        """Whether an update belongs to the optimizer step of this number, counted from 1."""
        return False

    def comes_back(self, step: int) -> bool:
        """Whether there is an update after a step that is not due if a parameter has not as many weights as it is to
        have: after a structural edit when exchanges are over."""
        return False

    def update(self, scene: Scene) -> Plan:
        """What happens after a step that is due, or with which parameters come back to their densities."""
        return Plan()

    def before(self, scene: Scene) -> Plan | None:
        """What happens before every optimizer step, when gradients are there. None: nothing."""
        return None

    def after(self, scene: Scene) -> Plan | None:
        """What happens after every optimizer step, before weights that are not there become zero. None: nothing."""
        return None


class Patterned(Method):
    """A method whose masks are always as its distribution chose them, and so keep to its pattern.

    Attributes:
        distribution: over layers.
    """

    distribution: Distribution

    @property
    def pattern(self) -> Distribution | None:
        return None if isinstance(self.distribution, Counted) else self.distribution


def check_counted(method: Method, *distributions: Distribution) -> None:
    """Raise `ConfigError` if a method that exchanges weights by counts is given a pattern, which it would lose."""
    for distribution in distributions:
        if not isinstance(distribution, Counted):
            raise ConfigError(
                f"{type(method).__name__} exchanges weights by counts, which would lose the pattern of "
                f"{distribution!r}; give a distribution that counts (Uniform, ERK, Global, PerLayer), or a method that "
                "keeps patterns (Static, Fixed, SNIP, GraSP, TopKAST, GradualMagnitude, IterativeMagnitude)"
            )


def every(step: int, interval: int, end: int | None, start: int = 0) -> bool:
    """Whether a step is one of `start + interval`, `start + 2 * interval`, ... up to and including `end`."""
    return step > start and (step - start) % interval == 0 and (end is None or step <= end)


def check_times(method: Method, interval: int, end: int | None) -> None:
    """Raise `ConfigError` unless both are numbers of optimizer steps."""
    if interval < 1 or (end is not None and end < 1):
        raise ConfigError(
            f"{type(method).__name__}(interval={interval!r}, end={end!r}): times are numbers of optimizer steps >= 1"
        )
