"""From what was solved and proven to the finished, immutable map."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from meristem.axes.branches import contractions_of, joined
from meristem.axes.expression import Concat, Expression, Leaf, Product, leaves
from meristem.axes.factors import find_counterparts
from meristem.axes.follow import follow
from meristem.axes.guards import Guard, Quantity, computed, replaced
from meristem.axes.map import AttributeBinding, Axis, AxisMap, Example, Role, TensorLayout, Work
from meristem.axes.solution import Solution

_PRIORITY = ("head size", "heads", "groups", "hidden", "channels", "features")


def build(
    model: weakref.ref[nn.Module],
    solution: Solution,
    bindings: Sequence[AttributeBinding],
    names: Mapping[str, tuple[str, ...]],
    parameters: set[str],
    unreached: tuple[str, ...],
    history: tuple[Mapping[str, Any], ...],
    examples: Sequence[Example],
) -> AxisMap:
    """Number the axes in the order of the forward pass, name them, and write everything over these numbers."""
    space = solution.space
    dims = {name: tuple(space.resolve(d) for d in expressions) for name, expressions in solution.layouts.items()}
    placed = {root for expressions in dims.values() for expression in expressions for root in leaves(expression)}
    bindings = [binding for binding in bindings if placed.intersection(leaves(binding.value))]
    order: dict[int, None] = {}
    for mark in solution.marks:
        if mark.role is Role.PRODUCES:
            order.update(dict.fromkeys(leaves(dims[mark.origin[0]][mark.origin[1]])))
    for expressions in (*dims.values(), [binding.value for binding in bindings]):
        for expression in expressions:
            order.update(dict.fromkeys(leaves(expression)))
    number = {root: index for index, root in enumerate(order)}

    def numbered(expression: Expression) -> Expression:
        if isinstance(expression, Leaf):
            return Leaf(number[expression.axis])
        if isinstance(expression, Product):
            return Product(tuple(numbered(factor) for factor in expression.factors))
        return Concat(tuple(numbered(part) for part in expression.parts))

    roles = _roles(solution, dims, number)
    layouts = {
        name: TensorLayout(
            name=name,
            names=names[name],
            buffer=name not in parameters,
            dims=tuple(numbered(dim) for dim in expressions),
            roles=tuple(roles.get((name, i), {}) for i in range(len(expressions))),
            neutral=solution.neutrals.get(name),
            joined=solution.joined.get(name, False),
            copied=_copied(solution, name),
        )
        for name, expressions in dims.items()
    }
    guards = _guards(solution, number)
    least = _least(guards, [space.sizes[root] for root in number])
    kinds = _kinds(solution)
    titles = _titles(solution, dims, order)
    nonlinear = _nonlinear(solution)
    trained = {name for name, parameter in _parameters(model) if parameter.requires_grad}
    counterparts = find_counterparts(solution, layouts, number, trained.__contains__)
    axes = tuple(
        Axis(
            index=index,
            name=titles[root],
            size=space.sizes[root],
            kind=kinds.get(root, "units"),
            frozen="; ".join(space.reasons[root]) or (None if root in placed else "no parameter is laid out over it"),
            couplings=frozenset(space.couplings[root]),
            minimum=max(space.minimums[root], least.get(index, 1)),
            nonlinear=nonlinear.get(root, frozenset()),
            counterpart=counterparts.get(index),
        )
        for root, index in number.items()
    )
    attributes = tuple(AttributeBinding(b.module, b.path, numbered(b.value)) for b in bindings)
    caches = tuple({(c.module, c.attribute): c for r in solution.recordings for c in r.caches}.values())
    work = _work(solution, number, numbered)
    runs = follow(solution, layouts, number, model, examples)
    alike = _alike(solution, number, numbered)
    return AxisMap(
        axes,
        layouts,
        attributes,
        work,
        unreached,
        model,
        history,
        caches,
        joined(runs),
        alike=alike,
        guards=guards,
        contractions=contractions_of(runs),
    )


def _guards(solution: Solution, number: Mapping[int, int]) -> tuple[Guard, ...]:
    """What the code compares, over numbered axes; the sizes of what no tensor is laid out over are constants."""
    space = solution.space

    def named(leaf: Leaf) -> Quantity:
        return computed(
            space.resolve(leaf), lambda root: Leaf(number[root.axis]) if root.axis in number else space.sizes[root.axis]
        )

    found = (replace(g, left=replaced(g.left, named), right=replaced(g.right, named)) for g in solution.guards)
    return tuple(dict.fromkeys(guard for guard in found if guard.axes and guard.left != guard.right))


def _least(guards: Sequence[Guard], sizes: Sequence[int]) -> dict[int, int]:
    """The least number of units of each axis with which every comparison in which it is the only one comes out as it
    did."""
    found: dict[int, int] = {}
    for guard in guards:
        if len(guard.axes) == 1:
            (axis,) = guard.axes
            found[axis] = max(found.get(axis, 1), guard.least(sizes[axis]))
    return found


def _parameters(model: weakref.ref[nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    held = model()
    return iter(()) if held is None else held.named_parameters(remove_duplicate=False)


def _copied(solution: Solution, name: str) -> frozenset[Role]:
    """In which roles nothing but an incumbent's entry is known to suit a newborn."""
    if name in solution.bent:
        return frozenset(Role)
    return frozenset({Role.CARRIES}) if name in solution.unknown else frozenset()


def _roles(
    solution: Solution, dims: Mapping[str, tuple[Expression, ...]], number: Mapping[int, int]
) -> dict[tuple[str, int], dict[int, frozenset[Role]]]:
    roles: dict[tuple[str, int], dict[int, frozenset[Role]]] = {}
    for mark in solution.marks:
        name, dim = mark.origin
        both = set(leaves(dims[name][dim])) & solution.space.roots(mark.within)
        found = roles.setdefault((name, dim), {})
        for root in both:
            found[number[root]] = found.get(number[root], frozenset()) | {mark.role}
    return roles


def _nonlinear(solution: Solution) -> dict[int, frozenset[Role]]:
    """In which roles weights that are not linear slice by slice meet each axis."""
    found: dict[int, frozenset[Role]] = {}
    for role, length, along in solution.nonlinear:
        computed = {root for expression in along for root in solution.space.roots(expression)}
        for root in solution.space.roots(length) & computed:
            found[root] = found.get(root, frozenset()) | {role}
    return found


def _kinds(solution: Solution) -> dict[int, str]:
    """What a unit of each axis is called; the more specific word wins."""
    kinds: dict[int, str] = {}
    for expression, word in solution.kinds:
        for root in solution.space.roots(expression):
            held = kinds.get(root)
            if held is None or _PRIORITY.index(word) < _PRIORITY.index(held):
                kinds[root] = word
    return kinds


def _titles(
    solution: Solution, dims: Mapping[str, tuple[Expression, ...]], order: Mapping[int, None]
) -> dict[int, str]:
    """The path of the first module that produces an axis; numbered where one dimension holds several axes."""
    wished: dict[int, str] = {}
    producers = [mark.origin for mark in solution.marks if mark.role is Role.PRODUCES]
    anywhere = [(name, dim) for name, expressions in dims.items() for dim in range(len(expressions))]
    for known, origins in ((True, producers), (False, anywhere)):
        for name, dim in origins:
            roots = list(dict.fromkeys(leaves(dims[name][dim])))
            editable = [root for root in roots if not solution.space.reasons[root]]
            own = editable if known and editable else roots
            base = name.rpartition(".")[0] or name if known else f"{name}.{dim}"
            for position, root in enumerate(own):
                wished.setdefault(root, base if len(own) == 1 else f"{base}[{position}]")
    taken: dict[str, int] = {}
    titles: dict[int, str] = {}
    for root in order:
        base = wished.get(root, "unnamed")
        taken[base] = taken.get(base, 0) + 1
        titles[root] = base if taken[base] == 1 else f"{base}#{taken[base]}"
    return titles


def _work(solution: Solution, number: Mapping[int, int], numbered: Any) -> tuple[Work, ...]:
    """Contractions of the first example, lengths that no edit changes multiplied out."""
    work = []
    space = solution.space
    for operations in solution.operations:
        if operations.recording != 0:
            continue
        fixed, lengths = 1, []
        for length in map(space.resolve, operations.lengths):
            if space.frozen(length) or not set(leaves(length)) <= number.keys():
                fixed *= space.size(length)
            else:
                lengths.append(numbered(length))
        work.append(Work(operations.module, fixed, tuple(lengths)))
    return tuple(work)


def _alike(solution: Solution, number: Mapping[int, int], numbered: Any) -> tuple[tuple[Expression, Expression], ...]:
    """The pairs of different lengths that a kernel wants to be the same, where both are laid out in tensors."""
    pairs = [(solution.space.resolve(first), solution.space.resolve(second)) for first, second in solution.alike]
    known = [pair for pair in pairs if pair[0] != pair[1] and {*leaves(pair[0]), *leaves(pair[1])} <= number.keys()]
    return tuple(dict.fromkeys((numbered(first), numbered(second)) for first, second in known))
