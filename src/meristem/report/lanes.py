"""Lines side by side, as few as possible."""

from __future__ import annotations

from collections.abc import Sequence


def lanes_of(spans: Sequence[tuple[int, int, int]]) -> dict[int, int]:
    """Gives each line (number, first row, last row) the leftmost lane that is free all along; long ones first."""
    taken: list[list[tuple[int, int]]] = []
    lanes: dict[int, int] = {}
    for line, first, last in sorted(spans, key=lambda span: (span[1] - span[2], span[1])):
        free = (n for n, lane in enumerate(taken) if all(last < a or first > b for a, b in lane))
        lane = next(free, len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((first, last))
        lanes[line] = lane
    return lanes
