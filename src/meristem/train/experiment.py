"""What one run does: a configuration that can be run, of whatever kind of learning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meristem.errors import ConfigError
from meristem.train.record import Run, RunFolder

Progress = Callable[[int, int], None]
"""Called now and then with the number of steps done and of all steps."""


def silent(done: int, total: int) -> None:
    """Shows no progress."""


class Strict(BaseModel):
    """Immutable; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Experiment(Strict, ABC):
    """The settings of one run, JSON-able, and how to run it.

    The same settings give the same run, bit for bit, on the same machine with the same number of threads: all
    randomness follows from the seed.

    Attributes:
        name: short, for folders.
        data: the name of the data set (see `meristem.train.data`), or None if the run makes its own data.
        seed: of everything.
    """

    name: str = Field(default="run", pattern=r"^[\w][\w.+-]*$")
    data: str | None = None
    seed: int = Field(default=0, ge=0)

    @abstractmethod
    def run(self, data: Any, place: RunFolder, progress: Progress) -> Run:
        """Does it.

        Args:
            data: what `load(self.data)` gives, read once for many runs: not to be changed. None without data.
            place: the folder of the run, which exists; `result.json` is written there by whoever calls this.
            progress: to be called now and then with the number of steps done and of all steps.
        """


def carry_out(experiment: Experiment, data: Any, folder: Path | str, progress: Progress = silent) -> Run:
    """Runs an experiment, unless the folder already holds its finished run.

    Args:
        experiment: what to do.
        data: the data set that it names.
        folder: where `config.json`, `metrics.jsonl`, `history.json` and `result.json` go.
        progress: called with the number of steps done and the number of all steps.

    Raises:
        ConfigError: the folder holds another run, or a setting does not fit.
    """
    found = finished_run(experiment, folder)
    if found is not None:
        return found
    place = RunFolder(folder)
    place.start(experiment.model_dump(mode="json"))
    run = experiment.run(data, place, progress)
    place.finish(run)
    return run


def finished_run(experiment: Experiment, folder: Path | str) -> Run | None:
    """The run of these settings, if the folder holds it in full.

    Settings that a folder written earlier does not have yet count as having their defaults.

    Raises:
        ConfigError: the folder holds a run with other settings; the message names some.
    """
    place = RunFolder(folder)
    found = place.config
    if found is not None and found != (wanted := experiment.model_dump(mode="json")):
        known = _as_today(type(experiment), found)
        other = [name for name in wanted if name not in known or known[name] != wanted[name]]
        if other or known.keys() - wanted.keys():
            named = "; ".join(f"{name} was {known.get(name)!r}, is {wanted[name]!r}" for name in other[:3])
            raise ConfigError(
                f"{place.path} holds a run with another configuration{f' ({named})' if named else ''}; choose another "
                "folder or remove it"
            )
    return place.finished


def _as_today(kind: type[Experiment], found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Stored settings with defaults for what they lack; as they are if they are not of this kind."""
    try:
        return kind.model_validate(found).model_dump(mode="json")
    except ValidationError:
        return found
