"""What a run leaves behind: one folder with its configuration, evaluations, edits and result."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from meristem.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One look at a net in training.

    Attributes:
        step: optimizer steps taken.
        values: what was measured by name, such as `loss` and `accuracy`; not every look must measure everything.
        parameters: number of parameters.
        flops: floating-point operations spent on training so far, forward and backward, those of edits included.
        seconds: time spent on training so far, edits included, evaluations not.
        sizes: units of every editable axis, by name.
    """

    step: int
    values: Mapping[str, float]
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
class Costs:
    """What a whole run took.

    Attributes:
        flops: floating-point operations of training, forward and backward, those of edits included.
        edit_flops: those of passes that edits made by themselves (decompositions of matrices are not counted).
        seconds: of training, edits included, evaluations not.
        edit_seconds: of edits.
        peak_bytes: the most memory: on a GPU what was allocated, else the resident memory of the process, with the
            interpreter, its libraries and the data. None where the system does not tell.
    """

    flops: float
    edit_flops: float
    seconds: float
    edit_seconds: float
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, of whatever kind.

    Attributes:
        seed: initialization, order of the data and all choices followed from it.
        metrics: what came of it, by name: the numbers that a study compares. NaN where one has no value.
        evaluations: looks at the net, in the order of their steps.
        changes: its edits.
        costs: what it took.
        records: what a monitor of newborns noted (`meristem.diagnose`), as JSON has it.
    """

    seed: int
    metrics: Mapping[str, float]
    evaluations: tuple[Evaluation, ...]
    changes: tuple[Change, ...]
    costs: Costs
    records: tuple[Mapping[str, Any], ...] = ()

    def value(self, name: str) -> float:
        """A metric, a cost by its name in `Costs`, or `parameters`: those at the end. NaN if it is not known.

        Raises:
            ConfigError: there is nothing of that name.
        """
        if name in self.metrics:
            return float(self.metrics[name])
        costs = {field.name: getattr(self.costs, field.name) for field in fields(self.costs)}
        known = {**costs, "parameters": self.evaluations[-1].parameters if self.evaluations else None}
        if name not in known:
            raise ConfigError(f"runs have no {name!r}; expected one of {', '.join([*self.metrics, *known])}")
        return float("nan") if known[name] is None else float(known[name])

    def series(self, name: str) -> list[tuple[int, float]]:
        """Step and value at every look that measured it."""
        return [(e.step, e.values[name]) for e in self.evaluations if name in e.values]


class RunFolder:
    """The folder of one run. A run counts as finished once `result.json` is there; it is written last, atomically."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The configuration of the run that this folder holds, in full or not; None without one."""
        known = self.path / "config.json"
        return json.loads(known.read_text()) if known.is_file() else None

    @property
    def finished(self) -> Run | None:
        """The run, if this folder holds it in full, else None."""
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

    def history(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Writes the history of edits, `history.json`."""
        write_json(self.path / "history.json", list(history))

    def finish(self, run: Run) -> None:
        """Writes the result; from now on the run counts as finished."""
        write_json(self.path / "result.json", asdict(run))


def load_run(path: Path) -> Run:
    """The run in a `result.json`."""
    return parse_run(json.loads(path.read_text()))


def parse_run(content: Mapping[str, Any]) -> Run:
    """The run that `dataclasses.asdict` made plain."""
    return Run(
        seed=content["seed"],
        metrics=content["metrics"],
        evaluations=tuple(Evaluation(**e) for e in content["evaluations"]),
        changes=tuple(Change(**c) for c in content["changes"]),
        costs=Costs(**content["costs"]),
        records=tuple(content["records"]),
    )


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file such that a kill in the middle leaves the old one."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Writes a file such that a kill in the middle leaves the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(path)
