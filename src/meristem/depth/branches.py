"""Parallel branches: what runs side by side between a call that all pass and the sum or concatenation after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from meristem.axes.flow import Flow, Version
from meristem.axes.map import AxisMap
from meristem.axes.module_path import within
from meristem.depth.branch import Branch, removing_branches
from meristem.depth.candidates import Candidates, entries
from meristem.depth.container import Container
from meristem.depth.dominance import dominance
from meristem.depth.emptiness import unable
from meristem.depth.lengths import Lengths
from meristem.depth.original import Original, missing
from meristem.depth.rehearsal import in_mode, proven, rehearse
from meristem.depth.wiring import Apart, wiring
from meristem.edit.joints import Empty, Zero

Judge = Callable[[Sequence[Branch]], "str | None"]


def find_branches(
    axes: AxisMap,
    original: Original,
    lengths: Callable[[], Lengths],
    containers: Callable[[], Mapping[str, Container]],
) -> tuple[Branch, ...]:
    """Every parallel branch with parameters, proven removable by rehearsals, or frozen.

    Where the model cannot do without some of the modules before a branch's last one, they stay.

    Args:
        axes: the map of the model.
        original: the model and its runs.
        lengths: gives the lengths of the run's tensors, if it is asked.
        containers: gives the modules whose children may change, likewise.
    """
    model, flow = original.model, original.flow
    search = Candidates(model, flow, dominance(flow), lengths)
    found = tuple(search.find())

    def judge(branches: Sequence[Branch]) -> str | None:
        record = removing_branches(model, branches, containers)
        found = rehearse(model, original.examples, record, axes)
        if isinstance(found, str):
            return found
        gone = {axes[name].index for name in record.widths.emptied}
        modules = {module for branch in branches for module in branch.modules}
        instead = {found.path(part) for part in found.planting.built if type(part) in (Zero, Empty)}
        for example, (before, now) in zip(original.examples, original.pairs(found), strict=True):
            shape = None
            if gone:
                shape = _resized(before, lengths() if before is flow else Lengths(axes, before), gone)
            expected = wiring(before, apart=Apart(silent=modules), shape=shape)
            reason = missing(expected, wiring(now, found.names, Apart(silent=instead))) or unable(now)
            if reason is not None:
                return in_mode(example, reason)
        return None

    def second(branch: Branch) -> Branch:
        """A refused branch, removed in another way: with as many of its modules as the model can do without."""
        if branch.dim is not None:
            flat = replace(branch, dim=None)
            if judge([flat]) is None:
                return flat
        kept = replace(branch, others=())
        if not branch.others or judge([kept]) is not None:
            return branch
        for module in branch.others:
            more = replace(kept, others=(*kept.others, module))
            kept = more if judge([more]) is None else kept
        return replace(kept, parameters=entries(model, kept.modules))

    reasons: dict[Branch, str | None] = {}
    for group in _groups(flow, [branch for branch in found if branch.frozen is None]):
        reasons |= proven(group, judge)
    best = [second(branch) if reasons.get(branch) else branch for branch in found]
    return tuple(
        branch if branch is not old else replace(old, frozen=old.frozen or reasons.get(old))
        for old, branch in zip(found, best, strict=True)
    )


def _groups(flow: Flow, branches: Sequence[Branch]) -> list[list[Branch]]:
    """Branches that are rehearsed at once: they have no module in common and leave something of every concatenation."""
    groups: list[list[Branch]] = []
    for branch in branches:
        fitting = (g for g in groups if not any(_overlap(branch, o) for o in g) and _leaves(flow, [*g, branch]))
        group = next(fitting, None)
        if group is None:
            groups.append([branch])
        else:
            group.append(branch)
    return groups


def _leaves(flow: Flow, branches: Sequence[Branch]) -> bool:
    ways = [way for branch in branches if branch.join == "cat" for way in branch.ways]
    gone: set[Version] = {way.operand for way in ways}
    ends = {way.end for way in ways}
    return all(any(v in flow.active and v not in gone for v in flow.reads[end]) for end in ends)


def _overlap(one: Branch, two: Branch) -> bool:
    return any(within(a, b) or within(b, a) for a in one.modules for b in two.modules)


def _resized(flow: Flow, lengths: Lengths, gone: Collection[int]) -> Callable[[int], tuple[int, ...]]:
    """The shape of every tensor if axes have no units."""
    return lambda number: lengths.shape(number, gone) or flow.recording.shapes[number]
