"""Where a branch can be added: beside every module that computes what lies between two tensor edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from meristem.axes.expression import leaves
from meristem.axes.map import AxisMap
from meristem.axes.module_path import within
from meristem.depth.addition import FEWEST_UNITS, Addition, appended, branch_in, summed, summed_row
from meristem.depth.beside import Besides
from meristem.depth.branch import Join
from meristem.depth.container import Container
from meristem.depth.rehearsal import proven, rehearse
from meristem.depth.steps import Step
from meristem.depth.wiring import Apart, wiring
from meristem.edit.joints import Beside, Concat
from meristem.edit.tree import TreeRecord


def find_additions(search: Besides, join: Join) -> tuple[Addition, ...]:
    """Every place for a branch that is joined so, proven by rehearsals or frozen, in the order of the run.

    A branch may be put beside every module that returns a tensor, joined by a sum, and beside every module with units
    of its own, joined by a concatenation. What lies between two neighbours of a chain of tensor edges, or between the
    first and the last of one, and is computed by no module, has no place in the module tree: it is listed with the
    sums, as frozen. All other pairs of tensor edges with one entry and one exit are made of such neighbours.

    Args:
        search: finds what might be a place.
        join: how branches are joined.
    """
    axes, places = search.axes, list(search.modules(join))

    def judge(group: Sequence[Addition]) -> str | None:
        return _reason(search, group, [_record(axes, place) for place in group])

    reasons: dict[Addition, str | None] = {}
    for group in _groups(axes, [place for place in places if place.frozen is None]):
        reasons |= proven(group, judge)
    judged = [replace(place, frozen=reasons.get(place, place.frozen)) for place in places]
    return (*judged, *(search.without_module() if join == "add" else ()))


def judged_row(search: Besides, row: Sequence[str], container: Container) -> Addition | None:
    """The place for a branch, joined by a sum, beside neighbouring children of a container, proven by a rehearsal or
    frozen; None if they compute nothing.

    Args:
        search: finds what might be a place.
        row: the paths of the children, which can be held together.
        container: the container.
    """
    place = search.row(row)
    if place is None or place.frozen is not None:
        return place
    record = summed_row(search.axes.model, container, place.row)
    return replace(place, frozen=_reason(search, [place], [record]))


def _reason(search: Besides, places: Sequence[Addition], made: Sequence[TreeRecord]) -> str | None:
    """Why the model would not run as before with branches at these places, by these records."""
    original, record = search.original, TreeRecord()
    for one in made:
        record = record.joined(one)
    found = rehearse(original.model, original.examples, record, search.axes)
    if isinstance(found, str):
        return found
    paths = [found.path(found.planting.made[id(branch_in(one))]) for one in made]
    for before, now in original.pairs(found):
        for place, path in zip(places, paths, strict=True):
            if len(now.of.get(path, ())) != len(before.of.get(place.modules[0], ())):
                return "a branch would be called another number of times"
    kind = _kinds if places[0].join == "cat" else tuple
    return original.differs(
        found,
        lambda before: kind(original.wirings[before]),
        lambda now: kind(wiring(now, found.names, Apart(silent=paths))),
    )


def _record(axes: AxisMap, place: Addition) -> TreeRecord:
    return summed(axes.model, place.module) if place.join == "add" else appended(axes, place, FEWEST_UNITS)


def _groups(axes: AxisMap, places: Sequence[Addition]) -> list[list[Addition]]:
    """Places that are rehearsed at once: not in one joint, and none of them needs the units of another as they are."""
    over = {place: _lies_over(axes, place.module) for place in places if place.join == "cat"}
    joint = {place: _joint(axes, place.module) for place in places}

    def disturb(one: Addition, two: Addition) -> bool:
        if joint[one] is not None and joint[one] == joint[two]:
            return True
        return one.join == "cat" and (one.units in over[two] or two.units in over[one])

    groups: list[list[Addition]] = []
    for place in places:
        group = next((group for group in groups if not any(disturb(place, other) for other in group)), None)
        if group is None:
            groups.append([place])
        else:
            group.append(place)
    return groups


def _joint(axes: AxisMap, module: str) -> str | None:
    """The joint of an earlier edit that holds a module."""
    parent = module.rpartition(".")[0]
    return parent if type(axes.model.get_submodule(parent)) in (Beside, Concat) else None


def _lies_over(axes: AxisMap, module: str) -> frozenset[str]:
    """The axes over which tensors of a module lie."""
    layouts = [layout for layout in axes.layouts.values() if within(layout.name, module)]
    return frozenset(axes.axes[axis].name for layout in layouts for dim in layout.dims for axis in leaves(dim))


def _kinds(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps of a run in which there may be other numbers of units, and nothing else; its results have as many."""
    return (*(replace(step, plain=None, shapes=()) for step in steps[:-1]), steps[-1])
