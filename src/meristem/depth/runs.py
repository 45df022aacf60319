"""Runs: blocks of equal structure that a container calls one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from meristem.axes.flow import Flow, Invocation, Version
from meristem.depth.container import Container
from meristem.depth.original import Original
from meristem.depth.rehearsal import rehearse
from meristem.depth.spliced import spliced
from meristem.depth.wiring import Apart, wiring
from meristem.edit.tree import Copied, Node, Old, TreeRecord


@dataclass(frozen=True)
class Run:
    """Blocks of equal structure in a row. The first tensor that each returns has the shape of the first that it gets.

    Any of them may be duplicated, removed or put elsewhere in the run.

    Attributes:
        container: the path of the module whose children they are.
        first: the position of the first child of the first block.
        period: of how many children a block consists: 3 where convolution, norm and activation repeat.
        blocks: by block, the paths of its children.
        frozen: why they cannot be rearranged, or None.
    """

    container: str
    first: int
    period: int
    blocks: tuple[tuple[str, ...], ...]
    frozen: str | None = None

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def name(self) -> str:
        """The path of the first block to that of the last, for people."""
        first, last = self.blocks[0][0], self.blocks[-1][-1]
        return first if first == last else f"{first}..{last.rpartition('.')[2]}"


def ordering(
    model: nn.Module, container: Container, run: Run, blocks: Sequence[tuple[int, bool]], *, fresh: bool = False
) -> TreeRecord:
    """The record that makes a run of these blocks: (number of a block, whether a copy of it). Copies may be `fresh`."""
    children = container.unchanged
    new: list[Node] = [
        Copied(copied=path, fresh=fresh) if copied else Old(old=path)
        for number, copied in blocks
        for path in run.blocks[number]
    ]
    last = run.first + run.period * len(run)
    return container.rearranged(model, [*children[: run.first], *new, *children[last:]])


def find_runs(original: Original, containers: Mapping[str, Container]) -> tuple[Run, ...]:
    """Every run, the longest ones first found, proven by rehearsals of a copy, of a removal and of another order."""
    found = [run for container in containers.values() for run in _candidates(original, container)]
    return tuple(replace(run, frozen=_reason(original, containers[run.container], run)) for run in found)


def _reason(original: Original, container: Container, run: Run) -> str | None:
    """Why a run cannot be rearranged."""
    count = len(run)
    everything = [(number, False) for number in range(count)]
    trials = [[*everything, (count - 1, True)]]
    if count > 1:
        trials += [everything[:-1], everything[::-1]]
    paths = {path for block in run.blocks for path in block}
    before = {flow: wiring(flow, apart=Apart(whole=paths)) for flow in original.flows}
    for trial in trials:
        order = [number for number, _ in trial]
        expected = {flow: spliced(steps, run.blocks, order) for flow, steps in before.items()}
        if any(steps is None for steps in expected.values()):
            return "its blocks are not called one after the other"
        found = rehearse(original.model, original.examples, ordering(original.model, container, run, trial))
        if isinstance(found, str):
            return found
        own = {id(original.model.get_submodule(path)) for path in paths} | {id(new) for _, new in found.planting.copies}
        blocks = {path for path, module in found.planting.modules.items() if id(module) in own}
        reason = original.differs(
            found,
            lambda flow, steps=expected: steps[flow] or (),
            lambda now, names=found.names, blocks=blocks: wiring(now, names, Apart(whole=blocks)),
        )
        if reason is not None:
            return reason
    return None


def _candidates(original: Original, container: Container) -> Iterator[Run]:
    model = original.model
    children = [container.child(position) for position in range(len(container.names))]
    signatures = [_signature(model.get_submodule(child)) for child in children]
    position = 0
    while position < len(children):
        best = (0, 0)
        parameters = any(True for _ in model.get_submodule(children[position]).parameters())
        for period in range(1, len(children) - position + 1) if parameters else ():
            repeats = _repeats(original.flows, children, signatures, position, period)
            if repeats * period > best[0] * best[1] and (repeats > 1 or period == 1):
                best = repeats, period
        repeats, period = best
        blocks = [tuple(children[position + n * period : position + (n + 1) * period]) for n in range(repeats)]
        if repeats and _is_worth(model, blocks):
            yield Run(container.path, position, period, tuple(blocks))
            position += repeats * period
        else:
            position += 1


def _is_worth(model: nn.Module, blocks: Sequence[Sequence[str]]) -> bool:
    """Whether blocks have parameters, and a single one is more than one layer."""
    modules = [model.get_submodule(path) for path in blocks[0]]
    if not any(True for module in modules for _ in module.parameters()):
        return False
    return len(blocks) > 1 or any(True for module in modules for _ in module.children())


def _repeats(
    flows: Sequence[Flow], children: Sequence[str], signatures: Sequence[object], first: int, period: int
) -> int:
    """How many blocks of so many children repeat from a position on, nobody else reading what is between them."""
    repeats, pattern = 0, signatures[first : first + period]
    while True:
        start = first + repeats * period
        block = children[start : start + period]
        if list(signatures[start : start + period]) != list(pattern) or not _is_block(flows, block):
            return repeats
        if repeats and not _leads_to(flows, children[start - 1], block):
            return repeats
        repeats += 1


def _is_block(flows: Sequence[Flow], block: Sequence[str]) -> bool:
    """Whether children run one after the other, and give back the shape that they get."""
    flow = flows[0]
    if not block or not all(path in flow.of and len(flow.of[path]) == len(flow.of[block[0]]) for path in block):
        return False
    if not all(call.inputs and call.outputs for path in block for call in flow.of[path]):
        return False
    if not all(_leads_to(flows, path, block[number + 1 :]) for number, path in enumerate(block[:-1])):
        return False
    return all(_same_shape(flow, a, b) for a, b in zip(flow.of[block[0]], flow.of[block[-1]], strict=True))


def _leads_to(flows: Sequence[Flow], one: str, others: Sequence[str]) -> bool:
    """Whether the first of some modules is given what another one returns, and nobody but these reads it then; the last
    may return it."""
    return follows(flows[0], one, others[0]) and all(
        reader < a.last or reader in range(first.first, last.last) or _first(flow, a) == _first(flow, last)
        for flow in flows
        for a, first, last in zip(*(flow.of.get(path, ()) for path in (one, others[0], others[-1])), strict=False)
        if a.outputs and last.outputs
        for reader in flow.readers.get(_first(flow, a), ())
    )


def _first(flow: Flow, call: Invocation) -> Version:
    """The first tensor that a module returns."""
    return flow.version(call.outputs[0], call.last)


def _same_shape(flow: Flow, first: Invocation, last: Invocation) -> bool:
    given, returned = flow.version(first.inputs[0], first.first), flow.version(last.outputs[0], last.last)
    return {given, returned} <= flow.active and flow.shape(given) == flow.shape(returned)


def follows(flow: Flow, one: str, two: str) -> bool:
    """Whether the second module is given what the first returns."""
    calls = zip(flow.of.get(one, ()), flow.of.get(two, ()), strict=False)
    return all(
        b.inputs and a.outputs and flow.version(b.inputs[0], b.first) == flow.version(a.outputs[0], a.last)
        for a, b in calls
    )


def _signature(module: nn.Module) -> tuple[tuple[str, type], ...]:
    """The structure of a module: its parts by name, with their classes."""
    return tuple((name, type(part)) for name, part in module.named_modules())
