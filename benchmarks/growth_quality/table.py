"""The tables of the comparison, one for each data set, net and norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.growth_quality.tasks import LARGE, SMALL

TITLES = (
    "start or method",
    "final accuracy (%)",
    "over training (%)",
    "parameters",
    "training GFLOPs",
    "seconds",
    "inactive newborns (%)",
    "remarks",
)

Row = Mapping[str, Any]


def by_case(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by case, in their order."""
    return {case: [row for row in rows if row["case"] == case] for case in dict.fromkeys(r["case"] for r in rows)}


def asked(rows: Sequence[Row]) -> float | None:
    """How many parameters nets of one case should have at the end: those of the large one. None if it was not run."""
    return next((row["parameters"][0] for row in rows if row["arm"] == LARGE and "parameters" in row), None)


def cells(row: Row, whole: float | None = None, seeds: int | None = None) -> tuple[str, ...]:
    """One row as text, in the order of `TITLES`.

    Args:
        row: one arm of one case.
        whole: how many parameters its net should have at the end.
        seeds: how many there should be.
    """
    if "final_accuracy" not in row:
        return (row["arm"], *("",) * 6, remarks(row, whole, seeds))
    return (
        row["arm"],
        text(row["final_accuracy"], 100),
        text(row["mean_accuracy"], 100),
        f"{row['parameters'][0]:,.0f}",
        text(row["flops"], 1e-9),
        text(row["seconds"], 1),
        text(row["inactive"], 100),
        remarks(row, whole, seeds),
    )


def remarks(row: Row, whole: float | None, seeds: int | None) -> str:
    """What a reader must know beside the numbers: nets that ended smaller than asked for, undefined axes, runs that
    failed. Arguments as for `cells`."""
    found = []
    if whole and row["arm"] not in (SMALL, LARGE) and "parameters" in row and row["parameters"][0] < whole:
        found.append(f"ended at {min(99, round(100 * row['parameters'][0] / whole))} % of the size asked for")
    if row["undefined"]:
        found.append(f"not defined for {len(row['undefined']) if 'final_accuracy' in row else 'all'} axes")
    if row.get("seeds", 0) and seeds and row["seeds"] < seeds:
        found.append(f"{row['seeds']} of {seeds} seeds")
    if row["failures"]:
        found.append(f"{len(row['failures'])} run{'s' if len(row['failures']) > 1 else ''} failed")
    return "; ".join(found)


def text(number: Sequence[float | None], factor: float) -> str:
    """`82.4 ± 0.7`; three digits where the interval says nothing."""
    mean, half = number
    assert mean is not None
    return f"{factor * mean:.1f} ± {factor * half:.1f}" if half else f"{factor * mean:.3g}"
