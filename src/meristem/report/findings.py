"""What became of the claims of a study, as people read it: the same words in the terminal and on the page."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from meristem.report.numbers import with_prefix
from meristem.study.claim import Finding, Outcome
from meristem.study.statistics import MOST
from meristem.study.summary import Summary

COLOURS = {"reproduced": "green", "smaller than matters": "cyan", "not reproduced": "red", "undecided": "yellow"}
"""Of verdicts in the terminal."""

LARGE = 1e5
"""Estimates of at least this size are written with SI prefixes."""


@dataclass(frozen=True, slots=True)
class TestRow:
    """One test of a claim as text.

    Attributes:
        what: the number.
        estimate: with its interval.
        expected: what the paper says.
        effect: its size.
        p: as it is, and after Holm's correction.
        test: which.
        verdict: of this test.
        note: what it would take, and what was left out; may be empty.
    """

    __test__ = False  # not one of pytest's

    what: str
    estimate: str
    expected: str
    effect: str
    p: str
    test: str
    verdict: str
    note: str


def rows(summary: Summary, finding: Finding) -> list[TestRow]:
    """All tests of a claim."""
    percent = {measure.name for measure in summary.measures if measure.percent}
    return [_row(outcome, outcome.metric in percent) for outcome in finding.outcomes]


def deciding(summary: Summary, finding: Finding) -> TestRow:
    """The test that decides the verdict of a claim.

    A claim that is reproduced stands by its weakest test, the one with the largest p-value; any other has its verdict
    by the first test that says so.
    """
    like = [index for index, outcome in enumerate(finding.outcomes) if outcome.verdict == finding.verdict]
    if finding.verdict == "reproduced":
        like.sort(key=lambda index: -finding.outcomes[index].p if not math.isnan(finding.outcomes[index].p) else 0.0)
    return rows(summary, finding)[like[0]]


def tally(summary: Summary) -> str:
    """How many claims there are of each verdict, in one line; empty without claims."""
    verdicts = [finding.verdict for finding in summary.findings]
    return ", ".join(f"{verdicts.count(v)} {v}" for v in COLOURS if v in verdicts)


def correction(summary: Summary) -> str:
    """What the number of tests does to those that are significant."""
    tests = [o for finding in summary.findings for o in finding.outcomes if not math.isnan(o.p)]
    found = sum(o.p < 0.05 for o in tests)
    kept = sum(o.p_holm < 0.05 for o in tests)
    return (
        f"{len(tests)} tests, {found} of them with p < 0.05; after Holm's correction for their number {kept} of them. "
        "Verdicts follow from the intervals and are not corrected."
    )


def findings_table(summary: Summary) -> Table:
    """The verdict of every claim, for the terminal."""
    table = Table(title="Claims", caption=tally(summary))
    for head in ("claim", "estimates", "verdict"):
        table.add_column(head, overflow="fold")
    for finding in summary.findings:
        lines = [f"{row.what}: {row.estimate} {row.note}".rstrip() for row in rows(summary, finding)]
        verdict = Text(finding.verdict, COLOURS[finding.verdict])
        table.add_row(Text(finding.claim.sentence), Text("\n".join(lines)), verdict)
    return table


def _row(outcome: Outcome, percent: bool) -> TestRow:
    unit = " %" if percent and outcome.level > 0 else " points" if percent else ""  # differences go below 0
    factor = 100 if percent else 1
    return TestRow(
        what=outcome.what,
        estimate=_estimate(outcome, factor) + unit,
        expected=_expected(outcome, factor) + unit
        if outcome.expected in ("above", "below", "within")
        else f"{outcome.expected} correlation",
        effect="" if math.isnan(outcome.effect) else f"{outcome.effect_name} = {outcome.effect:.2f}",
        p="" if math.isnan(outcome.p) else f"{_p(outcome.p)} ({_p(outcome.p_holm)})",
        test=outcome.test,
        verdict=outcome.verdict,
        note=_note(outcome),
    )


def _estimate(outcome: Outcome, factor: float) -> str:
    if math.isnan(outcome.estimate):
        return "too few values"
    numbers = [factor * x for x in (outcome.estimate, outcome.low, outcome.high)]
    digits = _decimals(numbers[2] - numbers[1])
    large = max(map(abs, numbers)) >= LARGE
    middle, low, high = (with_prefix(x) if large else f"{x:.{digits}f}" for x in numbers)
    return f"{middle} [{low}, {high}]"


def _decimals(width: float) -> int:
    """Such that an interval of that width shows two digits; at most six."""
    return 3 if not width > 1e-12 else min(6, max(1, 1 - math.floor(math.log10(width))))


def _expected(outcome: Outcome, factor: float) -> str:
    level, margin = f"{factor * outcome.level:g}", f"{factor * outcome.margin:g}"
    if outcome.expected == "within":
        return f"{level} within {margin}"
    return f"{outcome.expected} {level}" + (f" ({margin} would matter)" if outcome.margin else "")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _note(outcome: Outcome) -> str:
    unit = "seeds" if outcome.effect_name != "ρ" else "arms" if outcome.test.endswith("arms") else "runs"
    parts = []
    if outcome.verdict == "undecided":
        found = f"about {outcome.needed}" if outcome.needed is not None else f"more than {MOST}"
        parts.append(f"would take {found} {unit}")
    if outcome.left_out:
        parts.append(f"{outcome.left_out} runs without a value left out")
    return "; ".join(parts)
