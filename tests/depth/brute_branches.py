"""Branches found by brute force: the graph of the run by definition, every edit really made, the net really run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from meristem import AxisMap, depth, trace
from meristem.axes.flow import Flow
from meristem.axes.map import Role
from meristem.axes.module_path import within
from meristem.depth.edges import Edge
from meristem.edit.joints import Empty, Zero
from meristem.edit.rebuild import rebuilding
from meristem.errors import MeristemError

from .brute import REFUSALS, adjust, container, counted, in_each_mode, put, replaced, slots
from .models import Net


class Sum(nn.Module):
    """Two modules side by side."""

    def __init__(self, old: nn.Module, new: nn.Module) -> None:
        super().__init__()
        self.old, self.new = old, new

    def forward(self, *given: Any, **named: Any) -> Any:
        return self.old(*given, **named) + self.new(*given, **named)


def _worked(model: nn.Module, x: Tensor) -> int:
    """What PyTorch counts: floating-point operations of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


@in_each_mode
def brute_sums(found: Net) -> set[str]:
    """The modules beside which a copy can be put that returns zeros and learns: the parameters of one of its layers are
    zero, and these get a gradient. It is a layer: the net takes more operations."""
    expected = found.model()(found.x())
    return {path for path, _, _ in slots(found.model()) if any(_sums(found, path, expected))}


def _sums(found: Net, path: str, expected: Tensor) -> Iterator[bool]:
    names = [n for n, part in found.model().get_submodule(path).named_modules() if part._parameters]
    for name in names:
        model = found.model()
        originals = list(model.modules())
        _, before = counted(model, found.x())
        old = model.get_submodule(path)
        new = copy.deepcopy(old)
        zeros = [p for p in new.get_submodule(name)._parameters.values() if p is not None]
        for parameter in zeros:
            torch.nn.init.zeros_(parameter)
        returned: list[Any] = []
        new.register_forward_hook(lambda _m, _g, back, returned=returned: returned.append(back))
        replaced(model, old, Sum(old, new))
        try:
            result, after = counted(model, found.x())
            gradients = torch.autograd.grad(result.square().sum(), zeros, allow_unused=True)
        except REFUSALS:
            continue
        silent = all(isinstance(back, Tensor) and not back.any() for back in returned)
        called = all(before[id(m)] == after[id(m)] for m in originals) and before[id(old)] == after[id(new)]
        learns = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
        more = _worked(model, found.x()) > _worked(found.model(), found.x())
        yield more and silent and called and learns and torch.allclose(result, expected, rtol=0, atol=1e-12)


@in_each_mode
def brute_rows(found: Net) -> set[tuple[str, ...]]:
    """The neighbouring children of containers, two or three or all, beside which copies can be put that return zeros
    and learn, as `brute_sums` has it for one module; two that are all of a called container are that container."""
    model, works = found.model(), set[tuple[str, ...]]()
    expected, calls = counted(model, found.x())
    called = {name for name, part in model.named_modules() if calls[id(part)]}
    for path, parent in model.named_modules():
        names = [f"{path}.{name}" if path else name for name in parent._modules]
        for first, count in stretches(len(names)) if container(parent) else ():
            row = tuple(names[first : first + count])
            whole = len(names) == 2 and path and path in called
            if not whole and any(_row_sums(found, path, row, expected)):
                works.add(row)
    return works


def stretches(length: int) -> Iterator[tuple[int, int]]:
    """The first and the number of neighbours among so many: two, three, or all."""
    for count in sorted({2, 3, length} & {*range(2, length + 1)}):
        yield from ((first, count) for first in range(length - count + 1))


def _row_sums(found: Net, path: str, row: tuple[str, ...], expected: Tensor) -> Iterator[bool]:
    parts = [(c, n) for c in row for n, part in found.model().get_submodule(c).named_modules() if part._parameters]
    for child, name in parts:
        model = found.model()
        parent = model.get_submodule(path)
        old = [model.get_submodule(member) for member in row]
        new = [copy.deepcopy(member) for member in old]
        zeros = [p for p in new[row.index(child)].get_submodule(name)._parameters.values() if p is not None]
        for parameter in zeros:
            torch.nn.init.zeros_(parameter)
        before = counted(model, found.x())[1]
        names, children = list(parent._modules), list(parent.children())
        first = names.index(row[0].rpartition(".")[2])
        put(
            parent,
            [*names[: first + 1], *names[first + len(row) :]],
            [*children[:first], Sum(nn.Sequential(*old), nn.Sequential(*new)), *children[first + len(row) :]],
        )
        adjust(model, parent)
        returned: list[Any] = []
        new[-1].register_forward_hook(lambda _m, _g, back, returned=returned: returned.append(back))
        try:
            result, after = counted(model, found.x())
            gradients = torch.autograd.grad(result.square().sum(), zeros, allow_unused=True)
        except REFUSALS:
            continue
        silent = all(isinstance(back, Tensor) and not back.any() for back in returned)
        learns = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
        calls = {id(m): before[id(m)] for m in model.modules() if id(m) in before}
        called = all(after[key] == number for key, number in calls.items())
        same = result.shape == expected.shape and torch.allclose(result, expected, rtol=0, atol=1e-12)
        more = _worked(model, found.x()) > _worked(found.model(), found.x())
        yield bool(returned) and more and silent and learns and called and same


@in_each_mode
def brute_concatenations(found: Net) -> set[str]:
    """The modules beside which a copy can be put whose units are appended, whatever axis one takes them for, along
    whatever dimension: the edit is made without asking whether there is a place, and the model run."""
    model, x = found.model(), found.x()
    axes, expected = trace(model, x), model(x)
    shapes: dict[str, list[Any]] = {path: [] for path, _, _ in slots(model)}
    handles = [
        model.get_submodule(path).register_forward_hook(lambda _m, _g, back, seen=seen: seen.append(back))
        for path, seen in shapes.items()
    ]
    model(x)
    for handle in handles:
        handle.remove()
    works: set[str] = set()
    for path, seen in shapes.items():
        for axis in axes.editable:
            for dim in range(seen[0].dim()) if seen and isinstance(seen[0], Tensor) else ():
                place = dim if dim < seen[0].dim() - 1 else -1
                if not seen[0].shape[dim] % axis.size and _appends(axes, path, axis.name, place, x, expected):
                    works.add(path)
    return works


def _appends(axes: AxisMap, path: str, axis: str, dim: int, x: Tensor, expected: Tensor) -> bool:
    here = depth.Addition("cat", path, path, (0, 0), 0, axis, dim)
    anywhere: Any = SimpleNamespace(addition=lambda *_: here, axes=axes, check=lambda _: None)
    model = axes.model
    before = {name: tuple(p.shape) for name, p in model.named_parameters()}
    calls = counted(model, x)[1][id(model.get_submodule(path))]
    try:
        with rebuilding(axes, depth.ConcatBranch(anywhere, path, 2)) as rebuilt:
            (_, branch), *_ = rebuilt.deepening.plantings[0].copies
            result, after = counted(model, x)
            names = rebuilt.deepening.moved
            made = [old for old, new in names.items() if old in before and _longer(axes, old, before[old], model, new)]
            return (
                after[id(branch)] == calls
                and not any(not within(name, path) for name in made)
                and torch.allclose(result, expected, rtol=0, atol=1e-12)
            )
    except (MeristemError, RuntimeError, IndexError, AttributeError, ValueError):
        return False


def _longer(axes: AxisMap, old: str, shape: tuple[int, ...], model: nn.Module, new: str) -> bool:
    """Whether an old parameter produces more units now: then they are not the branch's alone."""
    now = tuple(model.get_parameter(new).shape)
    roles = axes.layouts[old].roles
    return any(
        a != b and any(Role.PRODUCES in kinds for kinds in roles[dim].values())
        for dim, (a, b) in enumerate(zip(shape, now, strict=True))
    )


@in_each_mode
def brute_branches(found: Net) -> set[str]:
    """The modules that end a branch, of a sum or of a concatenation, without which the model runs; of several that
    return the same the outermost one."""
    later = {path: _added(found, path) for path, _, _ in slots(found.model())}
    added = {path for path, after in later.items() if after is not None}
    works = {path for path in added if not (later[path] or set()) & added}
    works |= {path for path in later if _appended(found, path)}
    return {path for path in works if not any(path != outer and within(path, outer) for outer in works)}


class Sums(TorchFunctionMode):
    """Notes of every sum, by its node of the graph of derivatives, the nodes and the values of what it adds."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: dict[Any, list[tuple[Any, Tensor]]] = {}

    def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        operands = [(one.grad_fn, one.detach().clone()) for one in given if isinstance(one, Tensor)]
        result = function(*given, **(named or {}))
        if isinstance(result, Tensor) and result.grad_fn is not None and result.grad_fn.name() == "AddBackward0":
            self.operands.setdefault(result.grad_fn, operands)
        return result


def _added(found: Net, path: str) -> set[str] | None:
    """The modules that return what becomes of what a module returns, if zeros that it returns are zeros yet where they
    are added to what does not come from it but from the input; and if zeros like its input do the same in its place as
    zeros like its output. Otherwise None."""
    model, seen, made = found.model(), list[Any](), dict[Any, set[str]]()
    model.get_submodule(path).register_forward_hook(lambda _m, _g, back: _zeros(back))
    model.get_submodule(path).register_forward_hook(lambda _m, _g, back: seen.append(back))

    def note(name: str) -> Callable[..., None]:
        return lambda _m, _g, back: made.setdefault(getattr(back, "grad_fn", None), set()).add(name)

    for name, part in model.named_modules():
        part.register_forward_hook(note(name))
    with Sums() as sums:
        result, given = _differentiable(model, found.x())
    if not seen or not all(isinstance(back, Tensor) and back.grad_fn is not None for back in seen):
        return None
    graph = _graph(result.grad_fn)
    ways = [_to_a_sum(back.grad_fn, given, *graph, sums.operands) for back in seen]
    if any(way is None for way in ways):
        return None
    silent, without = found.model(), found.model()
    silent.get_submodule(path).register_forward_hook(lambda _m, _g, back: _zeros(back))
    replaced(without, without.get_submodule(path), Zero())
    try:
        if not torch.allclose(without(found.x()), silent(found.x()), rtol=0, atol=1e-14):
            return None
    except REFUSALS:
        return None
    return {name for way in ways for node in way or () for name in made.get(node, ())}


def _zeros(back: Any) -> Any:
    return back * 0 if isinstance(back, Tensor) else back


def _to_a_sum(
    last: Any,
    given: Any,
    above: dict[Any, list[Any]],
    below: dict[Any, list[Any]],
    sums: Mapping[Any, list[tuple[Any, Tensor]]],
) -> list[Any] | None:
    """The nodes on the way to where zeros are added; None if they are not."""
    node, way = last, list[Any]()
    while len(above.get(node, [])) == 1 and above[node][0] not in sums:
        (node,) = above[node]
        way.append(node)
    joins = above.get(node, [])
    summand = next((value for one, value in sums.get(joins[0], []) if one is node), None) if len(joins) == 1 else None
    if summand is None or bool(summand.any()):
        return None
    others = [one for one in below[joins[0]] if one is not node]
    active = [one for one in others if given in _all_below(one, below)]
    return way if active and not any(last in _all_below(one, below) for one in others) else None


def _differentiable(model: nn.Module, x: Tensor) -> tuple[Tensor, Any]:
    """The result, and the node of the graph that stands for the input, or for what is made of it at once."""
    if x.is_floating_point():
        x = x.requires_grad_()
        result = model(x)
        return result, torch.autograd.graph.get_gradient_edge(x).node
    seen: list[Tensor] = []
    embedding = next(m for m in model.modules() if isinstance(m, nn.Embedding))
    embedding.register_forward_hook(lambda _m, _g, back: seen.append(back))
    return model(x), seen[0].grad_fn if seen else None


def _graph(root: Any) -> tuple[dict[Any, list[Any]], dict[Any, list[Any]]]:
    """By node of the graph of derivatives, the nodes that read it and those that it reads."""
    above: dict[Any, list[Any]] = {}
    below: dict[Any, list[Any]] = {}
    frontier = [root]
    while frontier:
        node = frontier.pop()
        if node not in below:
            below[node] = [one for one, _ in node.next_functions if one is not None]
            for one in below[node]:
                above.setdefault(one, []).append(node)
            frontier += below[node]
    return above, below


def _all_below(node: Any, below: dict[Any, list[Any]]) -> set[Any]:
    found, frontier = set[Any](), [node]
    while frontier:
        one = frontier.pop()
        if one not in found:
            found.add(one)
            frontier += below[one]
    return found


def _appended(found: Net, path: str) -> bool:
    """Whether nothing can take the place of a module's units: some columns of one layer, cut out, do what zeros in them
    do."""
    widths: list[tuple[nn.Module, int, int]] = []
    for dim, key in ((1, "in_channels"), (-1, "in_features")):
        model = found.model()
        readers = [part for part in model.modules() if isinstance(getattr(part, key, None), int)]
        old, lengths = model.get_submodule(path), list[int]()
        old.register_forward_hook(lambda _m, _g, back, d=dim, seen=lengths: seen.append(_length(back, d)))
        model(found.x())
        replaced(model, old, Empty(dim))
        for reader in readers:
            reader.register_forward_pre_hook(
                lambda m, given, d=dim, k=key: widths.append((m, getattr(m, k), _length(given[0], d)))
            )
        try:
            model(found.x())
        except REFUSALS:
            missing = [(m, want, want - got) for m, want, got in widths if 0 < got < want]
            if len(missing) == 1 and len(set(lengths)) == 1 and missing[0][2] == lengths[0]:
                name = next(n for n, m in model.named_modules() if m is missing[0][0])
                starts = range(missing[0][1] - lengths[0] + 1)
                return any(_cut(found, path, dim, name, start, lengths[0]) for start in starts)
        widths.clear()
    return False


def _length(tensor: Any, dim: int) -> int:
    return tensor.shape[dim] if isinstance(tensor, Tensor) and tensor.dim() > 1 else 0


def _cut(found: Net, path: str, dim: int, reader: str, start: int, count: int) -> bool:
    zeros, cut = found.model(), found.model()
    weight = zeros.get_submodule(reader).weight
    assert isinstance(weight, nn.Parameter)
    with torch.no_grad():
        weight[:, start : start + count] = 0
    kept = [n for n in range(weight.shape[1]) if not start <= n < start + count]
    cut.get_submodule(reader).weight = nn.Parameter(cut.get_submodule(reader).weight[:, kept])
    replaced(cut, cut.get_submodule(path), Empty(dim))
    try:
        return torch.allclose(cut(found.x()), zeros(found.x()), rtol=0, atol=1e-12)
    except RuntimeError:
        return False


def brute_spans(flow: Flow, edges: Collection[Edge]) -> set[tuple[Edge, Edge]]:
    """All pairs of tensor edges that lie on a path, with one entry and one exit: cut one, and the other is cut off."""
    end = len(flow.recording.calls)
    inputs = {v for v in flow.active if v.call < 0}

    def reached(start: set[Any], cut: Edge | None) -> set[Any]:
        """Tensors and calls on paths that start so and do not pass the cut."""
        known, frontier = set[Any](), list(start)
        while frontier:
            node = frontier.pop()
            if node in known:
                continue
            known.add(node)
            if isinstance(node, int):
                frontier += [v for v in (flow.writes[node] if node < end else ()) if v in flow.active]
            else:
                readers = flow.readers.get(node, ())
                frontier += [r for r in readers if not (cut and cut.version == node and r in cut.readers)]
        return known

    def passed(edge: Edge, cut: Edge | None) -> bool:
        free = [r for r in edge.readers if not (cut and cut.version == edge.version and r in cut.readers)]
        return edge.version in reached(inputs, cut) and bool(free)

    def leads_on(edge: Edge, cut: Edge | None) -> bool:
        free = {r for r in edge.readers if not (cut and cut.version == edge.version and r in cut.readers)}
        return end in reached(free, cut)

    alive = [edge for edge in edges if passed(edge, None) and leads_on(edge, None)]
    return {
        (one, two) for one in alive for two in alive if one != two and not passed(two, one) and not leads_on(one, two)
    }
