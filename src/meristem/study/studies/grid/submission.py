"""What somebody else sends in: one file with a `SUBMISSION`, which takes part in the benchmark."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias, get_args

from pydantic import Field

from meristem import mask
from meristem.allocate import Allocator
from meristem.errors import ConfigError
from meristem.grow import Method
from meristem.integrate import Integrator
from meristem.plasticity import Plasticity
from meristem.prune import Criterion
from meristem.schedule import Schedule
from meristem.study.studies.grid.contender import LISTEN, Contender, Controlled, Course, Level, Setting, norms
from meristem.study.studies.grid.schedules import fixed
from meristem.study.studies.grid.weights import Masked
from meristem.train.experiment import Strict

Scheduled: TypeAlias = "Schedule | Callable[[Setting], Schedule]"
Masking: TypeAlias = "mask.Method | Callable[[Setting], mask.Method]"

NAME = "SUBMISSION"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A method that takes part in one contest of the benchmark.

    At the level of neurons give `grow`, `prune` or both, and perhaps a schedule, an allocator and integrators. At the
    level of weights give `mask`. For anything else, layers and cells for example, give `start`.

    Attributes:
        name: short; under it the method stands on the leaderboard.
        description: one sentence.
        level: "neuron", "layer", "cell", "normalized cell" or "weight".
        course: "growing", "shrinking" or "constant".
        norm: whether the net has batch normalizations; normalized cells have.
        grow: a growth method.
        prune: a criterion.
        schedule: when, and how much; or a function that gives it for a setting. None: the protocol's fixed schedule.
        allocate: how an amount is divided over axes; None: in proportion to size. The fixed schedule needs none.
        integrate: what helps newborns.
        mask: a method of sparse training; or a function that gives it for a setting.
        start: gives what edits the net, for a setting.

    Raises:
        ConfigError: an unknown level or course, a wrong kind of object, or not exactly one way of taking part.
    """

    name: str
    description: str = ""
    level: Level = "neuron"
    course: Course = "growing"
    norm: bool = True
    grow: Method | None = None
    prune: Criterion | None = None
    schedule: Scheduled | None = None
    allocate: Allocator | None = None
    integrate: Integrator | Sequence[Integrator] = ()
    mask: Masking | None = None
    start: Callable[[Setting], Contender] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.strip()):
            raise ConfigError(f"Submission(name=...) should be a short text, got {self.name!r}")
        for field, known in (("level", get_args(Level)), ("course", get_args(Course)), ("norm", norms(self.level))):
            given, names = getattr(self, field), ", ".join(map(str, known))
            if given not in known:
                raise ConfigError(f"Submission({field}=...) should be one of {names}; got {given!r}")
        for field, kind in _KINDS.items():
            value = getattr(self, field)
            if value is not None and not isinstance(value, kind):
                raise ConfigError(f"Submission({field}=...) should be {_article(kind)}, got {value!r}")
        ways = {"grow or prune": self.grow or self.prune, "mask": self.mask, "start": self.start}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise ConfigError(
                f"Submission {self.name!r}: give exactly one of grow and/or prune, mask, start; got "
                f"{' and '.join(given) or 'none of them'}"
            )
        if self.start is None and self.level != ("neuron" if self.mask is None else "weight"):
            raise ConfigError(
                f"Submission {self.name!r}: grow and prune are for the level 'neuron', mask for 'weight'; "
                f"for the level {self.level!r} give start"
            )

    def begin(self, setting: Setting) -> Contender:
        """Starts it on a net.

        Raises:
            ConfigError: a function of the submission gave something else than it should.
            EditError: it is not defined for the net.
        """
        if self.start is not None:
            return _of_kind(self.start(setting), Contender, f"{self.name}: start(setting)")
        if self.mask is not None:
            given = self.mask if isinstance(self.mask, mask.Method) else self.mask(setting)
            return Masked(setting, _of_kind(given, mask.Method, f"{self.name}: mask(setting)"))
        made: list[Plasticity] = []
        grows, prunes = self.grow is not None, self.prune is not None
        given = self.schedule or fixed(setting, grows, prunes, lambda: made[0].axes if made else setting.axes)
        schedule = _of_kind(
            given if isinstance(given, Schedule) else given(setting), Schedule, f"{self.name}: schedule(setting)"
        )
        made.append(
            Plasticity(
                setting.model,
                setting.optimizer,
                setting.axes,
                schedule=schedule,
                grow=self.grow,
                prune=self.prune,
                allocate=self.allocate,
                integrate=self.integrate or None,
                axes=list(setting.sizes),
                listen=LISTEN,
                monitor=setting.monitor,
                seed=setting.seed,
            )
        )
        return Controlled(made[0], schedule)


class Submitted(Strict):
    """A submission as settings of a run: its text, so that whoever reads the results sees what was run.

    Attributes:
        source: the text of the file.
        number: of the submission in it, from 0.
    """

    kind: Literal["submitted"] = "submitted"
    source: str
    number: int = Field(default=0, ge=0)

    def begin(self, setting: Setting) -> Contender:
        """What does it. Raises `ConfigError` if the text holds no submission."""
        return found_in(self.source)[self.number].begin(setting)


def read(path: Path) -> tuple[str, tuple[Submission, ...]]:
    """The text of a file, and the submissions in it.

    Raises:
        ConfigError: there is no such file, it cannot be run, or it has no `SUBMISSION`.
    """
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return source, found_in(source, str(path))


@cache
def found_in(source: str, path: str = "the submission") -> tuple[Submission, ...]:
    """The submissions in a text: its `SUBMISSION`, one or a list. The text is run as a module of its own.

    Raises:
        ConfigError: it cannot be run, or has none; the message names the path.
    """
    name = f"submission_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    module = ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        exec(compile(source, path, "exec"), vars(module))
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    found: Any = vars(module).get(NAME)
    several = tuple(found) if isinstance(found, (list, tuple)) else (found,)
    if found is None or not several or not all(isinstance(one, Submission) for one in several):
        raise ConfigError(
            f"{path} should define {NAME} = Submission(...), or a list of them, with Submission from "
            f"meristem.study.studies.grid; found {found!r}"
        )
    return several


_KINDS: dict[str, tuple[type, ...]] = {"grow": (Method,), "prune": (Criterion,), "allocate": (Allocator,)}


def _article(kinds: tuple[type, ...]) -> str:
    return " or ".join(f"a meristem.{kind.__module__.split('.')[1]}.{kind.__name__}" for kind in kinds)


def _of_kind(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(f"{what} should give {_article((kind,))}, got {value!r}")
    return value
