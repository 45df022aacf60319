"""Writes a page of the documentation for every committed result of a study: `make results`.

The results are what `meristem study` writes as `results.json`, kept as `benchmarks/results/studies/NAME.json`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from math import isnan
from pathlib import Path

from drawing import draw

from meristem.report.figures import against_compute, against_seconds
from meristem.report.newborns import newborns_over_age
from meristem.report.table import seconds_note
from meristem.study.claim import Finding, Outcome
from meristem.study.statistics import Interval
from meristem.study.stored import read_summary
from meristem.study.study import Measure
from meristem.study.summary import ArmSummary, Summary

ROOT = Path(__file__).parents[1]
RESULTS, PAGES, FIGURES = ROOT / "benchmarks/results/studies", ROOT / "docs/results", ROOT / "docs/_static/studies"

IN_SECONDS = ("bottleneck",)
"""Studies that ask for time: their figures over seconds show all arms, with the caveat that tables have."""

COSTS = (Measure("flops", "training FLOPs"), Measure("seconds", "seconds"), Measure("peak_bytes", "memory (bytes)"))


def main() -> None:
    """Write all pages."""
    for path in sorted(RESULTS.glob("*.json")):
        summary = read_summary(path)
        PAGES.mkdir(parents=True, exist_ok=True)
        (PAGES / f"{path.stem}.md").write_text("\n".join(page(summary)), encoding="utf-8")


def page(summary: Summary) -> Iterator[str]:
    """The page of a study."""
    versions = ", ".join(f"{name} {number}" for name, number in summary.versions.items())
    counts = [len(arm.seeds) for arm in summary.arms]
    yield f"# {summary.title}\n\nWritten by `make results` from `benchmarks/results/studies/{summary.study}.json`.\n"
    yield f"{summary.question}\n\n{summary.paper}.\n"
    yield (
        f"Scale `{summary.scale}`: {sum(counts)} runs, {min(counts)} to {max(counts)} seeds an arm. "
        f"{summary.machine}; {versions}.\n"
    )
    if summary.missing or summary.failures:
        yield f"Incomplete: {summary.missing} runs are missing, {len(summary.failures)} failed.\n"
    yield f"{summary.notes}\n"
    yield from claims(summary.findings)
    for name, arms in summary.groups.items():
        yield from group(summary, name, arms)


def claims(findings: Sequence[Finding]) -> Iterator[str]:
    """Every claim with its verdict, and the tests that it stands by."""
    if not findings:
        return
    yield "## Claims\n"
    yield "What a claim is, and when it counts as reproduced, is said in [](../studies.md#claims-and-verdicts).\n"
    rows = []
    for finding in findings:
        source = f" ({finding.claim.source})" if finding.claim.source else ""
        rows.append((f"**{finding.claim.sentence}**{source}", "", "", f"**{finding.verdict}**"))
        rows += [(o.what, estimate(o), effect(o), verdict(o)) for o in finding.outcomes]
    yield table(("claim and its tests", "estimate, 95 % interval", "effect size", "verdict"), rows)


def estimate(outcome: Outcome) -> str:
    """The number with its interval."""
    return f"{outcome.estimate:.3g} [{outcome.low:.3g}, {outcome.high:.3g}]"


def effect(outcome: Outcome) -> str:
    """The size of the effect; there is none where all seeds give the same."""
    return "" if isnan(outcome.effect) else f"{outcome.effect:.2g} ({outcome.effect_name})"


def verdict(outcome: Outcome) -> str:
    """With how many seeds it would take."""
    if outcome.verdict != "undecided":
        return outcome.verdict
    return f"undecided ({'more than 1000' if outcome.needed is None else outcome.needed} needed)"


def group(summary: Summary, name: str, arms: Sequence[ArmSummary]) -> Iterator[str]:
    """The arms of one net and data set: table, costs, figures."""
    stem = slug(f"{summary.study} {name or 'all'}")
    shown = [m for m in summary.measures if any(arm.interval(m.name) for arm in arms)]
    yield f"## {name or 'Results'}\n"
    titles = ("arm", "seeds", *(m.head for m in (*shown, *COSTS)))
    rows = [
        (arm.name, str(len(arm.seeds)), *(cell(arm.interval(m.name), m.percent) for m in (*shown, *COSTS)))
        for arm in arms
    ]
    yield table(titles, rows)
    if caveat := seconds_note(summary):
        yield f"{caveat}\n"
    figures = {f"{stem}.svg": (against_compute(arms, summary.course, summary.main), "training compute")}
    everyone = summary.study in IN_SECONDS
    if timed := [arm for arm in arms if everyone or arm.name in summary.timed]:
        figures[f"{stem}-seconds.svg"] = (against_seconds(timed, summary.course, summary.main), "seconds of training")
    for target, (figure, clock) in figures.items():
        draw(figure, FIGURES / target, height=max(420, 24 * len(arms)))
        yield f"```{{image}} ../_static/studies/{target}\n:alt: {summary.course.title} against {clock}\n```\n"
    for arm in arms:
        found = newborns_over_age(arm.records)
        if found is not None:
            target = f"{stem}-{slug(arm.name)}.svg"
            draw(found, FIGURES / target, height=320)
            yield f"Newborns of *{arm.name}*:\n\n```{{image}} ../_static/studies/{target}\n:alt: parity over age\n```\n"


def slug(text: str) -> str:
    """Of a text, for names of files."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def cell(found: Interval | None, percent: bool) -> str:
    """Mean and half width."""
    if found is None:
        return ""
    factor = 100 if percent else 1
    return f"{factor * found.mean:.3g} ± {factor * found.half_width:.2g}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " --- |" * (len(titles) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


if __name__ == "__main__":
    main()
