"""Writes the leaderboard of the common benchmark from committed results: `make results`.

The study's own results are `benchmarks/results/studies/grid.json`; what others submitted lies beside them in
`benchmarks/results/submissions`, each as its `results.json` of `meristem study grid --submission FILE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import get_args

from study_pages import RESULTS, ROOT, table

from meristem.errors import ConfigError
from meristem.study.statistics import Interval
from meristem.study.stored import read_summary
from meristem.study.studies.grid.contender import Course, Level
from meristem.study.studies.grid.entries import NAIVE, PLAIN, SAFE, contest, final_net
from meristem.study.summary import ArmSummary, Summary

SUBMISSIONS, PAGE = ROOT / "benchmarks/results/submissions", ROOT / "docs/results/leaderboard.md"

ALLOWED = 1.02
"""More parameters than this, as a share of those with which the contest ends, are not ranked."""

MEMORY = "memory (MB)"
"""The head of a column that is left out where an entry has none: it could not be compared."""

TITLES = (
    "",
    "entry",
    "seeds",
    "final accuracy (%)",
    "over training (%)",
    "loss jumps",
    "lasting damage",
    "training FLOPs",
    "seconds",
    MEMORY,
    "parameters",
    "of those allowed (%)",
)

FREE = {"name", "seed", "level", "course", "way"}
"""Settings of a run in which entries differ; with and without batch normalization has tables of its own."""


@dataclass(frozen=True)
class Ranked:
    """An entry, and whether somebody submitted it."""

    arm: ArmSummary
    submitted: bool

    @property
    def accuracy(self) -> float:
        """At the end, on average; -inf without a value."""
        found = self.arm.interval("final accuracy")
        return -inf if found is None else found.mean

    def unranked(self, seeds: int) -> str:
        """Why it has no rank: it is larger than it should be, or has fewer seeds; empty if it has one."""
        found = self.arm.interval("size")
        if found is None or found.mean > ALLOWED:
            return "too large"
        return "few seeds" if len(self.arm.seeds) < seeds else ""


def main() -> None:
    """Write the page, if the study has been run."""
    source = RESULTS / "grid.json"
    if source.is_file():
        summary = read_summary(source)
        others = [read_summary(path) for path in sorted(SUBMISSIONS.glob("*.json"))]
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text("\n".join(page(summary, others)), encoding="utf-8")


def page(summary: Summary, others: Sequence[Summary]) -> Iterator[str]:
    """The leaderboard.

    Raises:
        ConfigError: a submission was run under another version of the protocol, at another scale, or with settings or
            seeds of its own.
    """
    for other in others:
        require_alike(summary, other)
    protocol, scale = summary.settings["protocol"], summary.scale
    yield "# Leaderboard\n\nWritten by `make results` from `benchmarks/results/studies/grid.json` and submissions.\n"
    yield (
        f"Growing and pruning VGG-11 under one protocol, version {protocol}, scale `{scale}`; what it is, is said in "
        "[](../submit.md), what was found in [](grid.md). Ranked by final test accuracy, mean ± 95 % interval: "
        "where intervals overlap, a rank says little; entries with fewer than "
        f"{summary.settings['core_seeds']} seeds have none. A net may end smaller where a method gives fewer newborns "
        "than it is asked for: see the last column. Seconds were measured beside other work, and what was submitted "
        "on another machine, or in another hour: compare operations. "
        "Training FLOPs are in units of those of the fixed net that is as large in the end, "
        "which stands above the entries and is not ranked. "
        f"{summary.machine}.\n"
    )
    entries = [Ranked(arm, False) for arm in summary.arms]
    entries += [Ranked(arm, True) for other in others for arm in other.arms if kind(arm) == "submitted"]
    for level in get_args(Level):
        for course in get_args(Course):
            yield from ranking(entries, level, course, int(summary.settings["core_seeds"]))


def require_alike(summary: Summary, other: Summary) -> None:
    """Raises `ConfigError` unless both were run under one protocol, with its settings and its seeds."""
    ours, theirs = ((s.study, s.scale, s.settings.get("protocol")) for s in (summary, other))
    entries = [arm for arm in other.arms if kind(arm) == "submitted"]
    if ours != theirs:
        named = ", ".join(arm.name for arm in entries)
        raise ConfigError(
            f"the submission {named!r} was run as {theirs} (study, scale, protocol); the leaderboard is of {ours}: "
            "run it again"
        )
    for arm in entries:
        require_settings(summary, arm)
        strange = sorted(set(arm.seeds) - set(range(int(summary.settings["core_seeds"]))))
        if strange or len(set(arm.seeds)) < len(arm.seeds):
            raise ConfigError(
                f"the submission {arm.name!r} was run with the seeds {list(arm.seeds)}; expected each of 0 to "
                f"{summary.settings['core_seeds'] - 1} once, as everybody has them: run it again"
            )


def require_settings(summary: Summary, arm: ArmSummary) -> None:
    """Raises `ConfigError` unless an entry was run with the settings of the others: data, net, steps, optimizer, ..."""
    known = (other.config for other in summary.arms if other.config["norm"] == arm.config["norm"])
    like = next(known, None)
    if like is None:
        raise ConfigError(f"there is nothing to compare the submission {arm.name!r} with; run the study itself first")
    for name in sorted({*like, *arm.config} - FREE):
        if like.get(name) != arm.config.get(name):
            raise ConfigError(
                f"the submission {arm.name!r} was run with {name} = {arm.config.get(name)!r}, the others with "
                f"{like.get(name)!r}: run it again"
            )


def kind(arm: ArmSummary) -> str:
    """Of what takes part: fixed, neurons, layers, cells, weights or submitted."""
    return arm.config["way"]["kind"]


def ranking(entries: Sequence[Ranked], level: Level, course: Course, seeds: int) -> Iterator[str]:
    """The tables of one contest: with batch normalization, and without; ranks are for so many seeds."""
    heading = f"## {contest(level, course).capitalize()}\n"
    for norm in (True, False):
        found = [
            e
            for e in entries
            if (e.arm.config["level"], e.arm.config["course"], e.arm.config["norm"]) == (level, course, norm)
            and not e.arm.name.startswith("fixed: ")
        ]
        if not found:
            continue
        name = final_net(level, course).entry(norm).name
        baseline = next((e for e in entries if e.arm.name == name), None)
        yield f"{heading}\n{'With' if norm else 'Without'} batch normalization:\n"
        heading = ""
        rows = [] if baseline is None else [row("", baseline, baseline)]
        ranks = iter(range(1, len(found) + 1))
        for entry in sorted(found, key=lambda e: -e.accuracy):
            rows.append(row(entry.unranked(seeds) or str(next(ranks)), entry, baseline))
        kept = [index for index, title in enumerate(TITLES) if title != MEMORY or all(line[index] for line in rows)]
        yield table([TITLES[index] for index in kept], [[line[index] for index in kept] for line in rows])


def row(rank: str, entry: Ranked, baseline: Ranked | None) -> tuple[str, ...]:
    """One entry."""
    arm = entry.arm
    flops = arm.interval("flops")
    reference = None if baseline is None else baseline.arm.interval("flops")
    share = "" if flops is None or reference is None else f"{flops.mean / reference.mean:.2f}"
    name = shown(arm.name)
    return (
        rank,
        f"**{name}** (submitted)" if entry.submitted else name,
        str(len(arm.seeds)),
        *(value(arm.interval(m), 100) for m in ("final accuracy", "mean accuracy")),
        *(value(arm.interval(m), 1) for m in ("jump", "damage")),
        share,
        mean(arm.interval("seconds"), 1, 1),
        mean(arm.interval("peak_bytes"), 1e-6, 0),
        mean(arm.interval("weights"), 1, 0),
        mean(arm.interval("size"), 100, 0),
    )


def shown(name: str) -> str:
    """An arm's name without its contest; how newborns are put in is said in words."""
    words = {f", {SAFE}": ", safe insertion", f", {NAIVE}": "", f", {PLAIN}": ""}
    _, _, name = name.partition(": ")
    for form, word in words.items():
        if form in name:
            return name.replace(form, word)
    return name.replace("|", "/")


def value(found: Interval | None, factor: float) -> str:
    """Mean and half width; of one run the mean alone."""
    if found is None:
        return ""
    half = "" if isnan(found.half_width) else f" ± {factor * found.half_width:.2g}"
    return f"{factor * found.mean:.3g}{half}"


def mean(found: Interval | None, factor: float, digits: int) -> str:
    """Without the interval, where it says nothing of the method."""
    return "" if found is None else f"{factor * found.mean:,.{digits}f}"


if __name__ == "__main__":
    main()
