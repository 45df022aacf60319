"""What a run leaves behind: one folder with its configuration, evaluations, edits and result."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meristem.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One look at a net in training.

    Attributes:
        step: optimizer steps taken.
        loss: mean training loss since the evaluation before.
        accuracy: share of right answers on the test images.
        parameters: number of parameters.
        flops: floating-point operations spent on training so far, forward and backward.
        seconds: time spent on training so far, edits included, evaluations not.
        sizes: units of every editable axis, by name.
    """

    step: int
    loss: float
    accuracy: float
    parameters: int
    flops: float
    seconds: float
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Change:
    """One edit during training: how many units each axis gained and lost (axes that kept all are left out)."""

    step: int
    births: Mapping[str, int]
    deaths: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    name: str
    seed: int
    evaluations: tuple[Evaluation, ...]
    changes: tuple[Change, ...]

    @property
    def final_accuracy(self) -> float:
        """Accuracy at the last evaluation."""
        return self.evaluations[-1].accuracy

    @property
    def mean_accuracy(self) -> float:
        """Accuracy averaged over all evaluations of the run, which lie equally far apart."""
        return sum(e.accuracy for e in self.evaluations) / len(self.evaluations)


class RunFolder:
    """The folder of one run. A run counts as finished once `result.json` is there; it is written last, atomically."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def finished(self, config: Mapping[str, Any]) -> Run | None:
        """The run, if this folder holds it in full, else None.

        Raises:
            ConfigError: the folder holds a run with another configuration.
        """
        known = self.path / "config.json"
        if known.is_file() and json.loads(known.read_text()) != config:
            raise ConfigError(f"{self.path} holds a run with another configuration; choose another folder or remove it")
        result = self.path / "result.json"
        return load_run(result) if result.is_file() else None

    def start(self, config: Mapping[str, Any]) -> None:
        """Begins the run afresh."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "metrics.jsonl").unlink(missing_ok=True)
        write_json(self.path / "config.json", config)

    def append(self, evaluation: Evaluation) -> None:
        """Adds one line to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(asdict(evaluation)) + "\n")

    def finish(self, run: Run, history: Iterable[Mapping[str, Any]]) -> None:
        """Writes the history of edits and, last, the result."""
        write_json(self.path / "history.json", list(history))
        write_json(self.path / "result.json", asdict(run))


def load_run(path: Path) -> Run:
    """The run in a `result.json`."""
    content = json.loads(path.read_text())
    evaluations = tuple(Evaluation(**e) for e in content["evaluations"])
    changes = tuple(Change(**c) for c in content["changes"])
    return Run(content["name"], content["seed"], evaluations, changes)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file such that a kill in the middle leaves the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)
