"""Parallel branches: what runs side by side between a call that all pass and the sum or concatenation after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from meristem.axes.flow import Flow, Version
from meristem.axes.map import AxisMap
from meristem.axes.module_path import within
from meristem.depth.branch import Branch, leaves_fewer, removing_branches
from meristem.depth.candidates import Candidates, entries
from meristem.depth.container import Container
from meristem.depth.dominance import dominance
from meristem.depth.emptiness import unable
from meristem.depth.lengths import Lengths
from meristem.depth.rehearsal import Step, proven, rehearse, skeleton

Judge = Callable[[Sequence[Branch]], "str | None"]


def find_branches(
    axes: AxisMap,
    flow: Flow,
    lengths: Callable[[], Lengths],
    containers: Callable[[], Mapping[str, Container]],
) -> tuple[Branch, ...]:
    """Every parallel branch with parameters, proven removable by rehearsals, or frozen.

    Where the model cannot do without some of the modules before a branch's last one, they stay.

    Args:
        axes: the map of the model.
        flow: its run.
        lengths: gives the lengths of the run's tensors, if it is asked.
        containers: gives the modules whose children may change, likewise.
    """
    model = axes.model
    search = Candidates(model, flow, dominance(flow), lengths)
    found = tuple(search.find())

    def judge(branches: Sequence[Branch]) -> str | None:
        record = removing_branches(model, branches, containers)
        run = rehearse(model, axes.examples, record, axes)
        if isinstance(run, str):
            return run
        private = {call for branch in branches for call in search.private(branch.ways)}
        private |= {way.end for branch in branches if leaves_fewer(model, branch, branches) for way in branch.ways}
        gone = {axes[name].index for name in record.widths.emptied}
        modules = {module for branch in branches for module in branch.modules}
        remains = skeleton(flow, modules, private)
        expected = _resized(flow, lengths(), modules, private, gone) if gone else remains
        now = iter(skeleton(run.flows[0]))
        same = all(any(_alike(*pair, step) for step in now) for pair in zip(remains, expected, strict=True))
        return unable(run.flows[0]) if same else "the rest of the model would run differently"

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


def _resized(
    flow: Flow, lengths: Lengths, modules: Collection[str], private: Collection[int], gone: Collection[int]
) -> list[Step]:
    """What the rest of a model does if axes have no units."""

    def shape(number: int) -> tuple[int, ...]:
        return lengths.shape(number, gone) or flow.recording.shapes[number]

    return skeleton(flow, modules, private, shape)


def _alike(before: Step, expected: Step, now: Step) -> bool:
    """Whether a call is the expected one. The numbers that the code passes change with the lengths of the result."""
    return expected[0] == now[0] and expected[-1] == now[-1] and (before[-1] != expected[-1] or before == now)
