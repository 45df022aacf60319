"""Writes a page of the documentation for every committed result of a study: `make results`.

The results are what `meristem study` writes as `results.json`, kept as `benchmarks/results/studies/NAME.json`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from drawing import draw

from meristem.report.figures import against_compute, against_seconds
from meristem.report.findings import correction, rows
from meristem.report.newborns import newborns_over_age
from meristem.report.table import seconds_note
from meristem.study.claim import Finding
from meristem.study.statistics import Interval
from meristem.study.stored import read_summary
from meristem.study.study import Measure
from meristem.study.summary import ArmSummary, Summary

ROOT = Path(__file__).parents[1]
RESULTS, PAGES, FIGURES = ROOT / "benchmarks/results/studies", ROOT / "docs/results", ROOT / "docs/_static/studies"

IN_SECONDS = ("bottleneck",)
"""Studies that ask for time: their figures over seconds show all arms, with the caveat that tables have."""

ALONE = {
    "language": (
        "from scratch",
        "fixed small",
        "stacking",
        "zero residual",
        "HyperCloning",
        "LiGO",
        "AKI",
        "cloned and stacked",
        "cloned, silent blocks (ours)",
    )
}
"""By study the arms of committed results whose runs had a core to themselves; the machine did other work during all
others that were made before results told how many runs shared it."""

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
    counts = sorted({len(arm.seeds) for arm in summary.arms})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    runs = sum(len(arm.seeds) for arm in summary.arms)
    yield f"# {summary.title}\n\nWritten by `make results` from `benchmarks/results/studies/{summary.study}.json`.\n"
    yield f"{summary.question}\n"
    if summary.paper:
        yield f"{summary.paper}.\n"
    yield f"Scale `{summary.scale}`: {runs} runs, {seeds} seeds an arm. {summary.machine}; {versions}.\n"
    if summary.missing or summary.failures:
        yield f"Incomplete: {summary.missing} runs are missing, {len(summary.failures)} failed.\n"
    yield f"{summary.notes}\n"
    yield from claims(summary)
    for name, arms in summary.groups.items():
        yield from group(summary, name, arms)


def claims(summary: Summary) -> Iterator[str]:
    """Every claim with its verdict, and the tests that it stands by."""
    if not summary.findings:
        return
    yield "## Claims\n"
    yield "What a claim is, and when it counts as reproduced, is said in [](../studies.md#claims-and-verdicts).\n"
    yield f"{correction(summary)}\n"
    titles = ("claim and its tests", "estimate, 95 % interval", "expected", "effect size", "p (Holm)", "verdict")
    yield table(titles, (row for finding in summary.findings for row in tested(summary, finding)))


def tested(summary: Summary, finding: Finding) -> Iterator[tuple[str, ...]]:
    """A claim, and its tests as the report has them."""
    source = f" ({finding.claim.source})" if finding.claim.source else ""
    yield f"**{finding.claim.sentence}**{source}", "", "", "", "", f"**{finding.verdict}**"
    for test in rows(summary, finding):
        note = f" ({test.note})" if test.note else ""
        yield test.what, test.estimate, test.expected, test.effect, test.p, f"{test.verdict}{note}"


def group(summary: Summary, name: str, arms: Sequence[ArmSummary]) -> Iterator[str]:
    """The arms of one net and data set: table, costs, figures."""
    stem = slug(f"{summary.study} {name or 'all'}")
    shown = [m for m in (*summary.measures, *COSTS) if any(arm.interval(m.name) for arm in arms)]
    yield f"## {name or 'Results'}\n"
    found = [(arm.name, str(len(arm.seeds)), *(cell(arm.interval(m.name), m.percent) for m in shown)) for arm in arms]
    yield table(("arm", "seeds", *(m.head for m in shown)), found)
    yield f"{caveat(summary)}\n"
    figures = {f"{stem}.svg": (against_compute(arms, summary.course, summary.main), "training compute")}
    everyone = summary.study in IN_SECONDS
    if timed := [arm for arm in arms if everyone or arm.name in ALONE.get(summary.study, ())]:
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


def caveat(summary: Summary) -> str:
    """What seconds are worth: as the results tell, and of those that do not, as it was."""
    if summary.sittings:
        return seconds_note(summary)
    alone = ALONE.get(summary.study, ())
    but = f", but for those of {', '.join(alone)}, which had a core to themselves," if alone else ""
    return (
        f"Seconds{but} were measured while the machine did other work at the same time, other runs among it, and vary "
        "with that work from run to run; operations do not."
    )


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
