"""The tables of the comparison, one for each data set, net and norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


def cells(row: Row) -> tuple[str, ...]:
    """One row as text, in the order of `TITLES`."""
    if "final_accuracy" not in row:
        return (row["arm"], *("",) * 6, remarks(row))
    return (
        row["arm"],
        text(row["final_accuracy"], 100),
        text(row["mean_accuracy"], 100),
        f"{row['parameters'][0]:,.0f}",
        text(row["flops"], 1e-9),
        text(row["seconds"], 1),
        text(row["inactive"], 100),
        remarks(row),
    )


def remarks(row: Row) -> str:
    """What a reader must know beside the numbers: undefined axes, runs that failed."""
    found = []
    if row["undefined"]:
        found.append(f"not defined for {len(row['undefined']) if 'final_accuracy' in row else 'all'} axes")
    if row["failures"]:
        found.append(f"{len(row['failures'])} runs failed")
    return "; ".join(found)


def text(number: Sequence[float | None], factor: float) -> str:
    """`82.4 ± 0.7`; three digits where the interval says nothing."""
    mean, half = number
    assert mean is not None
    return f"{factor * mean:.1f} ± {factor * half:.1f}" if half else f"{factor * mean:.3g}"
