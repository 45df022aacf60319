"""What a study is: a question, arms that are compared over seeds, and claims that are tested on what comes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from meristem.errors import ConfigError
from meristem.study.claim import Claim
from meristem.train.experiment import Experiment


@dataclass(frozen=True)
class Scale:
    """How large a study is; studies derive their own with sizes and epochs.

    Attributes:
        seeds: runs of every arm, with the seeds 0, 1, ...
    """

    seeds: int


Size = TypeVar("Size", bound=Scale)


@dataclass(frozen=True, slots=True)
class Measure:
    """How a number of the runs is shown.

    Attributes:
        name: what `Run.value` knows (a metric, a cost, `parameters`), or a value of evaluations.
        title: for heads of columns and axes of figures; default: the name.
        percent: shown times 100.
    """

    name: str
    title: str = ""
    percent: bool = False

    @property
    def head(self) -> str:
        """Title and unit."""
        return f"{self.title or self.name} (%)" if self.percent else self.title or self.name


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the things that are compared.

    Attributes:
        name: short, for tables and folders.
        description: one sentence.
        config: the run; its name and seed are replaced.
        group: arms of one group share a table and a figure; such as the net, or the data set.
        seeds: how many, where they differ from those of the scale: fewer for a control, say.
    """

    name: str
    description: str
    config: Experiment
    group: str = ""
    seeds: int | None = None

    @property
    def folder(self) -> str:
        """The name without what folders should not have."""
        return re.sub(r"[^\w.+-]+", "-", self.name).strip("-.+") or "arm"


@dataclass(frozen=True, slots=True)
class Task:
    """One run of a study: an arm with one of its seeds, and the folder it is kept in."""

    arm: str
    config: Experiment
    folder: Path


def _none(scale: Scale) -> Sequence[Claim]:
    return ()


@dataclass(frozen=True)
class Study(Generic[Size]):
    """A question and how it is answered.

    Attributes:
        name: for the command line and folders.
        title: one line.
        question: what is asked, one to three sentences.
        paper: authors, title, arXiv id of what is reproduced; empty if there is none.
        scales: `smoke` (seconds), `cpu` (about 45 minutes on two cores), `full` (the paper's own setting).
        arms: what is compared at a scale.
        claims: what is tested at a scale. Default: nothing.
        measures: the columns of the table, in this order.
        course: what figures show over training: a value of evaluations.
        main: the arms that figures show first, in this order, before the reader asks for others; names that a scale
            does not have do not matter. Default: the first ones.
        notes: what a reader should know: deviations from the paper, limits.
        submitted: further arms from a file that somebody submits, and those that they are compared with; None: the
            study takes no submissions. Raises `ConfigError` if the file holds none.

    Raises:
        ConfigError: the name is no word.
    """

    name: str
    title: str
    question: str
    scales: Mapping[str, Size]
    arms: Callable[[Size], Sequence[Arm]]
    claims: Callable[[Size], Sequence[Claim]] = _none
    paper: str = ""
    measures: Sequence[Measure] = ()
    course: Measure = field(default=Measure("accuracy", "test accuracy", percent=True))
    main: Sequence[str] = ()
    notes: str = ""
    submitted: Callable[[Size, Path], Sequence[Arm]] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", self.name):
            raise ConfigError(f"a study's name should be a lower-case word, found {self.name!r}")

    def plan(self, scale: str, seeds: int | None = None, submission: Path | None = None) -> Plan:
        """What is done at a scale.

        Args:
            scale: one of `scales`.
            seeds: runs of every arm, instead of those of the scale and of the arms.
            submission: a file; its arms are run instead of those of the study, and no claims are tested.

        Raises:
            ConfigError: there is no such scale, two arms have the same folder, or the study takes no such file.
        """
        if scale not in self.scales:
            raise ConfigError(f"{self.name} has no scale {scale!r}; expected one of {', '.join(self.scales)}")
        size = self.scales[scale]
        arms = tuple(self.arms(size) if submission is None else self._submitted(size, submission))
        folders = [arm.folder for arm in arms]
        twice = sorted({name for name in folders if folders.count(name) > 1})
        if twice:
            raise ConfigError(f"{self.name}: several arms would share the folder {', '.join(twice)}; rename them")
        counts = {arm.name: seeds if seeds is not None else arm.seeds or size.seeds for arm in arms}
        claims = () if submission is not None else tuple(self.claims(size))
        return Plan(self, scale, arms, claims, counts)

    def _submitted(self, size: Size, path: Path) -> Sequence[Arm]:
        if self.submitted is None:
            raise ConfigError(f"{self.name} takes no submissions; 'meristem study grid --submission FILE' does")
        return self.submitted(size, path)


@dataclass(frozen=True)
class Plan:
    """A study at one of its scales.

    Attributes:
        study: whose plan it is.
        scale: its name.
        arms: what is compared.
        claims: what is tested.
        seeds: by arm, how many runs; seeds are 0, 1, ...
    """

    study: Study
    scale: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    seeds: Mapping[str, int]

    def tasks(self, folder: Path) -> list[Task]:
        """All runs, seed by seed, so that what is there early is balanced; each in a folder `arm/seed` of its own."""
        return [
            Task(
                arm.name,
                arm.config.model_copy(update={"seed": seed, "name": arm.folder}),
                folder / arm.folder / f"seed-{seed}",
            )
            for seed in range(max(self.seeds.values(), default=0))
            for arm in self.arms
            if seed < self.seeds[arm.name]
        ]
