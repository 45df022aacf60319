"""Which modules can be taken out because what remains still fits: their result has the shape of what they are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from meristem.axes.flow import Flow, Invocation
from meristem.depth.container import Container
from meristem.depth.memory import to_copy
from meristem.depth.original import Original
from meristem.depth.rehearsal import proven, rehearse
from meristem.depth.wiring import Apart, wiring
from meristem.edit.tree import Built, Node, Old, TreeRecord


@dataclass(frozen=True)
class Removal:
    """A module in whose place the identity fits.

    Attributes:
        module: its path.
        inside: the container that simply loses it; None: an empty chain, the identity, takes its place. Where operators
            that work in place would then overwrite what others need, `Fresh`, a copy of what it is given, takes it.
        parameters: number of entries of its parameters.
        frozen: why it cannot be removed, or None.
    """

    module: str
    inside: str | None
    parameters: int
    frozen: str | None = None

    @property
    def name(self) -> str:
        """The module's path."""
        return self.module


def removing(
    containers: Mapping[str, Container], model: nn.Module, flows: Sequence[Flow], wanted: Sequence[Removal]
) -> TreeRecord:
    """The record that removes these modules, none of which is inside another; where somebody works in place, a copy of
    what it is given may have to stand for one."""
    copied = to_copy(flows, (r.module for r in wanted))
    slots: dict[str, Node] = {module: Built(build="Fresh") for module in copied}
    slots |= {r.module: Built(build="Chain") for r in wanted if r.inside is None and r.module not in copied}
    record = TreeRecord(slots=slots)
    leaving = [r for r in wanted if r.inside is not None and r.module not in copied]
    for path in dict.fromkeys(r.inside for r in leaving if r.inside is not None):
        container = containers[path]
        gone = {r.module for r in leaving if r.inside == path}
        children: list[Node] = [n for n in container.unchanged if isinstance(n, Old) and n.old not in gone]
        record = record.joined(container.rearranged(model, children))
    return record


def find_removals(original: Original, containers: Mapping[str, Container]) -> tuple[Removal, ...]:
    """Every module whose result has the shape of what it is given, proven by rehearsals or frozen.

    Children of one container are rehearsed at once (lists that the code runs through together stay apart), as are all
    modules of one level of the tree that the identity replaces. Where a container cannot do without its child, the
    identity takes the child's place.
    """
    model, flow = original.model, original.flow
    candidates = list(_candidates(model, flow, containers))

    def judge(removals: Sequence[Removal]) -> str | None:
        found = rehearse(model, original.examples, removing(containers, model, original.flows, removals))
        if isinstance(found, str):
            return found
        gone = Apart(passing={removal.module for removal in removals})
        return original.differs(found, lambda before: wiring(before, apart=gone), lambda now: wiring(now, found.names))

    reasons: dict[Removal, str | None] = {}
    levels: dict[int, list[Removal]] = {}
    for removal in candidates:
        if removal.frozen is None:
            levels.setdefault(removal.module.count("."), []).append(removal)
    for level in levels.values():
        for path in dict.fromkeys(removal.inside for removal in level):
            reasons.update(proven([removal for removal in level if removal.inside == path], judge))
    judged = [replace(removal, frozen=reasons.get(removal, removal.frozen)) for removal in candidates]
    return tuple(_best(judged))


def _best(judged: Sequence[Removal]) -> Iterator[Removal]:
    """Of the ways to remove one module the first that works, else the first."""
    ways: dict[str, list[Removal]] = {}
    for removal in judged:
        ways.setdefault(removal.module, []).append(removal)
    for found in ways.values():
        yield next((removal for removal in found if removal.frozen is None), found[0])


def _candidates(model: nn.Module, flow: Flow, containers: Mapping[str, Container]) -> Iterator[Removal]:
    for module, calls in flow.of.items():
        if not module or not all(keeps_shape(flow, call) for call in calls):
            continue
        parent = module.rpartition(".")[0]
        past = any(flow.reaches_past(call) for call in calls)
        reason = "tensors get into it or out of it by other ways than its arguments and its result" if past else None
        size = sum(parameter.numel() for parameter in model.get_submodule(module).parameters())
        removal = Removal(module, None, size, reason)
        if parent in containers:
            yield replace(removal, inside=parent)
        if all(call.leads and call.returns for call in calls):
            yield removal


def keeps_shape(flow: Flow, call: Invocation) -> bool:
    """Whether the first tensor that a module returns has the shape and type of the first that it is given."""
    if not (call.inputs and call.outputs):
        return False
    given, returned = flow.version(call.inputs[0], call.first), flow.version(call.outputs[0], call.last)
    types = flow.recording.dtypes
    return (
        {given, returned} <= flow.active
        and flow.shape(given) == flow.shape(returned)
        and types[given.number] == types[returned.number]
    )
