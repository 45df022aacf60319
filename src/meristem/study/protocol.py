"""What a study compares: arms, each a configuration, each over the same seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meristem.train.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the things that are compared.

    Attributes:
        name: short, for tables and folders.
        description: one sentence.
        config: the training run; its seed is replaced by those of the protocol.
    """

    name: str
    description: str
    config: TrainConfig


@dataclass(frozen=True, slots=True)
class Task:
    """One run of a protocol: an arm with one of the seeds, and the folder it is kept in."""

    arm: str
    config: TrainConfig
    folder: Path


@dataclass(frozen=True, slots=True)
class Protocol:
    """What a study does.

    Attributes:
        title: what is asked.
        arms: what is compared.
        seeds: every arm runs once with each; initialization, order of the data and all choices follow from it.
    """

    title: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]

    def tasks(self, folder: Path) -> list[Task]:
        """All runs, seed by seed, each in a folder `arm/seed` of its own."""
        return [
            Task(arm.name, arm.config.model_copy(update={"seed": seed}), folder / arm.name / f"seed-{seed}")
            for seed in self.seeds
            for arm in self.arms
        ]
