"""The places of a model as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from meristem.depth.addition import Addition, alike
from meristem.depth.branch import Branch
from meristem.depth.insertions import Insertion
from meristem.depth.removals import Removal
from meristem.depth.rows import Row
from meristem.depth.runs import Run


def table(
    insertions: Iterable[Insertion],
    kinds: Mapping[str, Iterable[Removal | Run | Branch]],
    beside: Sequence[Addition],
    rows: Iterable[Row],
) -> Table:
    """What can be done where, or why not.

    Args:
        insertions: where modules can be put.
        kinds: by a word for them, places where something stands that can go or be copied.
        beside: where branches can be added.
        rows: beside which neighbours.
    """
    found = Table(title="Places")
    for column in ("what", "where", "how"):
        found.add_column(column)
    for way in insertions:
        inside = "around it" if way.inside is None else f"in {way.inside or 'the model'}"
        found.add_row("insert", way.name, way.frozen or inside)
    for kind, places in kinds.items():
        found.add_section()
        for place in places:
            found.add_row(kind, place.name, place.frozen or _shown(place))
    found.add_section()
    for first, *others in alike(beside):
        what = "add a branch" if first.join == "add" else "append a branch"
        found.add_row(what, first.name, first.frozen or _copied(first, others))
    for row in rows:
        found.add_row("add a branch", row.name, row.frozen or "copies, beside any neighbours of these")
    return found


def _shown(place: Removal | Run | Branch) -> str:
    if isinstance(place, Run):
        period = f" of {place.period}" if place.period > 1 else ""
        return f"{len(place)} block{'s' if len(place) > 1 else ''}{period}"
    if isinstance(place, Branch):
        how = ", its units go with it" if place.units else ""
    else:
        how = "" if place.inside is not None else ", replaced by the identity"
    return f"{place.parameters:,} parameters{how}"


def _copied(place: Addition, others: Sequence[Addition]) -> str:
    units = f", units beside those of {place.units}" if place.units else ""
    too = ", ".join(other.name for other in others if other.frozen is None)
    return f"a copy, {place.parameters:,} parameters{units}{f'; or of {too}' if too else ''}"
