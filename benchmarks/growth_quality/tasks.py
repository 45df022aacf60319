"""What is run: every data set, net and norm, with every growth method and with two fixed nets, over the seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.growth_quality.settings import DATA, NORMS, SCALES, Scale
from meristem.errors import ConfigError
from meristem.grow import METHODS, Method, Mitosis

SMALL, LARGE = "fixed small", "fixed large"


def label(method: Method) -> str:
    """The name of a method: its class, with the settings that are not the defaults."""
    default, name = type(method)(), type(method).__name__
    changed = [f.name for f in fields(method) if getattr(method, f.name) != getattr(default, f.name)]  # type: ignore
    return name + "".join(f" {field}={getattr(method, field)}" for field in changed)


GENTLE = Mitosis(kick=0.5)
"""Copies that differ by half as much as by default: what its card advises near the largest stable rate."""

GROWING: dict[str, Method] = {label(method): method for method in (*METHODS, GENTLE)}
"""Every growth method by its name; a new one joins by itself."""

ARMS = (SMALL, LARGE, *GROWING)


@dataclass(frozen=True)
class Task:
    """One run.

    Attributes:
        scale: a name in `SCALES`.
        data: a data set.
        net: a factory of `meristem.train.models`.
        norm: whether with BatchNorm.
        arm: one of `ARMS`.
        seed: initialization, order of the data and all choices follow from it.
    """

    scale: str
    data: str
    net: str
    norm: bool
    arm: str
    seed: int

    @property
    def settings(self) -> Scale:
        """Those of its scale."""
        return SCALES[self.scale]

    @property
    def method(self) -> Method | None:
        """What makes newborns, or None for a fixed net."""
        return GROWING.get(self.arm)

    @property
    def case(self) -> str:
        """What is the same for all arms."""
        return f"{self.data}, {self.net}, {'BatchNorm' if self.norm else 'no norm'}"

    @property
    def config(self) -> dict[str, Any]:
        """Everything that the result depends on, as JSON has it."""
        content = {"task": asdict(self), "settings": asdict(self.settings), "method": repr(self.method)}
        return json.loads(json.dumps(content))

    def path(self, runs: Path) -> Path:
        """The file of its result."""
        parts = (self.scale, self.case.replace(", ", "-"), self.arm, f"seed-{self.seed}.json")
        return runs.joinpath(*(part.replace(" ", "_") for part in parts))

    def result(self, runs: Path) -> dict[str, Any] | None:
        """The result, if it is there and the run did not fail.

        Raises:
            ConfigError: the file holds a run with other settings.
        """
        path = self.path(runs)
        if not path.is_file():
            return None
        content = json.loads(path.read_text())
        if "failed" in content:
            return None
        if content["config"] != self.config:
            raise ConfigError(
                f"{path} holds a run with other settings: expected {self.config}, found {content['config']}; remove it "
                "to run it again, or choose another folder with --runs"
            )
        return content

    def failure(self, runs: Path) -> str | None:
        """The error with which the last attempt ended, if it did."""
        path = self.path(runs)
        return json.loads(path.read_text()).get("failed") if path.is_file() else None


def all_tasks(scale: str) -> Iterator[Task]:
    """Every run of a scale, seed by seed."""
    settings = SCALES[scale]
    for seed in range(settings.seeds):
        for data in DATA:
            for net in settings.nets:
                for norm in NORMS:
                    for arm in ARMS:
                        yield Task(scale, data, net, norm, arm, seed)
