"""All runs of a study in one record: what `results.json` holds, and all that a report shows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meristem.study.claim import Finding, judge
from meristem.study.course import Course, courses
from meristem.study.environment import Sitting, machine, versions
from meristem.study.execute import Failure
from meristem.study.execute import Outcome as Done
from meristem.study.statistics import Interval, interval
from meristem.study.structure import Structure, structure
from meristem.study.study import Arm, Measure, Plan
from meristem.train.record import Run, write_text

COSTS = ("flops", "edit_flops", "seconds", "edit_seconds", "peak_bytes", "parameters")
"""What every run has beside its metrics."""

RUNS, RECORDS = 3, 60
"""Of so many runs, and of so many records each, a summary keeps what monitors noted."""


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm over its seeds.

    Attributes:
        seeds: of its runs.
        values: by name, every metric and cost of each of them, in this order.
        courses: by name, every value of evaluations, and `parameters`.
        structure: of the first run.
        records: what monitors noted of newborns: the ratios of the youngest cohort of every axis, of a few runs.
        config: the settings, as JSON has them; the seed is that of the first run.
    """

    name: str
    group: str
    description: str
    config: Mapping[str, Any]
    seeds: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]
    courses: Mapping[str, Course]
    structure: Structure
    records: tuple[Mapping[str, Any], ...]

    def interval(self, name: str) -> Interval | None:
        """Mean and 95 % interval of a value, over the seeds that have one; None if none has."""
        found = [value for value in self.values.get(name, ()) if math.isfinite(value)]
        return interval(found) if found else None


@dataclass(frozen=True, slots=True)
class Summary:
    """A study at one scale, as far as it has been run.

    Attributes:
        study, title, question, paper, notes: see `Study`.
        scale: its name, and `settings`: its numbers.
        measures, course, main: what is shown.
        arms: those that have runs.
        findings: what became of the claims; empty as long as an arm has no run.
        failures: what ended with an error.
        missing: how many runs are not there.
        versions, machine: what produced the numbers.
        sittings: when the runs were made, as far as it is known.
    """

    study: str
    title: str
    question: str
    paper: str
    notes: str
    scale: str
    settings: Mapping[str, Any]
    measures: tuple[Measure, ...]
    course: Measure
    arms: tuple[ArmSummary, ...]
    findings: tuple[Finding, ...]
    failures: tuple[Failure, ...]
    missing: int
    versions: Mapping[str, str]
    machine: str
    sittings: tuple[Sitting, ...] = ()
    main: tuple[str, ...] = ()

    @property
    def groups(self) -> dict[str, list[ArmSummary]]:
        """Arms by group, in their order."""
        return {name: [a for a in self.arms if a.group == name] for name in dict.fromkeys(a.group for a in self.arms)}

    @property
    def effort(self) -> str:
        """How many runs took how long by the clock, how many at a time; empty if it is not known."""
        runs, seconds = (sum(getattr(sitting, name) for sitting in self.sittings) for name in ("runs", "seconds"))
        jobs = " or ".join(str(number) for number in sorted({sitting.jobs for sitting in self.sittings}))
        long = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
        return f"{runs} runs in {long} by the clock, {jobs} at a time" if runs else ""

    def write(self, path: Path) -> None:
        """As JSON; numbers that are not finite become null."""
        content = asdict(self)
        content["findings"] = [
            {
                "sentence": f.claim.sentence,
                "source": f.claim.source,
                "verdict": f.verdict,
                "tests": [asdict(outcome) for outcome in f.outcomes],
            }
            for f in self.findings
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, _lines(_plain(content)))


def summarize(plan: Plan, done: Done) -> Summary:
    """The record of what there is of a plan."""
    study = plan.study
    complete = all(done.runs[arm.name] for arm in plan.arms)
    return Summary(
        study=study.name,
        title=study.title,
        question=study.question,
        paper=study.paper,
        notes=study.notes,
        scale=plan.scale,
        settings=asdict(study.scales[plan.scale]),
        measures=tuple(study.measures),
        course=study.course,
        arms=tuple(summarize_arm(arm, done.runs[arm.name]) for arm in plan.arms if done.runs[arm.name]),
        findings=tuple(judge(plan.claims, done.runs)) if complete else (),
        failures=done.failures,
        missing=sum(plan.seeds.values()) - sum(map(len, done.runs.values())),
        versions=versions(),
        machine="; ".join(dict.fromkeys(sitting.machine for sitting in done.sittings)) or machine(),
        sittings=done.sittings,
        main=tuple(name for name in study.main if name in plan.seeds),
    )


def summarize_arm(arm: Arm, runs: Sequence[Run]) -> ArmSummary:
    """The record of one arm that has runs."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    everywhere = [name for name in names if all(name in run.metrics for run in runs)]
    return ArmSummary(
        name=arm.name,
        group=arm.group,
        description=arm.description,
        config=arm.config.model_dump(mode="json"),
        seeds=tuple(run.seed for run in runs),
        values={name: tuple(run.value(name) for run in runs) for name in (*everywhere, *COSTS)},
        courses=courses(runs),
        structure=structure(runs[0]),
        records=tuple(record for run in runs[:RUNS] for record in youngest(run.records)),
    )


def youngest(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of every record (of at most `RECORDS` of a run, equally far apart) what figures of newborns show."""
    chosen = records[:: max(1, -(-len(records) // RECORDS))]
    return [
        {
            "step": record["step"],
            "axes": {
                name: {"cohorts": [_ratios(cohort) for cohort in axis["cohorts"][-1:]]}
                for name, axis in record["axes"].items()
            },
        }
        for record in chosen
        if any(axis["cohorts"] for axis in record["axes"].values())
    ]


def _ratios(cohort: Mapping[str, Any]) -> dict[str, Any]:
    ratios = {name: None if ratio is None else float(f"{ratio:.4g}") for name, ratio in cohort["ratios"].items()}
    return {"born": cohort["born"], "age": cohort["age"], "ratios": ratios}


def _lines(content: Mapping[str, Any]) -> str:
    """JSON with one line an entry, and one line an arm or finding."""
    parts = []
    for key, value in content.items():
        text = json.dumps(value, ensure_ascii=False)
        if key in ("arms", "findings") and value:
            text = "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in value) + "\n]"
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _plain(content: Any) -> Any:
    """Without numbers that are not finite, which JSON does not know."""
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
