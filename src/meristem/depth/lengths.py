"""The lengths of the tensors of a run, over the axes of the map."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

from torch import nn

from meristem.axes.expression import Concat, Expression, Leaf, Product, size_of
from meristem.axes.flow import Flow, Version
from meristem.axes.map import AxisMap, Role
from meristem.axes.rules import find
from meristem.axes.running import canonical_tensors
from meristem.axes.solution import Solution
from meristem.axes.solver import solve
from meristem.axes.space import concat


class Lengths:
    """What the operators' rules say about one run of a model.

    Args:
        axes: the map of the model.
        flow: the run, with the widths of the map.
    """

    def __init__(self, axes: AxisMap, flow: Flow) -> None:
        self.axes = axes
        self.solution = _solved(axes.model, flow)

    def of(self, version: Version) -> tuple[Expression | None, ...]:
        """The dimensions of a tensor over the axes of the map; None where a dimension is made of other lengths, too."""
        value = self.solution.values[0].get(version.number)
        dims = () if value is None else value.dims
        return tuple(self._over_axes(self.solution.space.resolve(dim)) for dim in dims)

    def shape(self, number: int, without: Collection[int]) -> tuple[int, ...] | None:
        """The shape that a tensor of the run has if axes of the map, by number, have no units."""
        value = self.solution.values[0].get(number)
        if value is None:
            return None
        sizes = [0 if axis.index in without else axis.size for axis in self.axes]
        known = dict(enumerate(self.solution.space.sizes))
        known |= {length: size_of(expression, sizes) for length, expression in self._expressions.items()}
        return tuple(size_of(self.solution.space.resolve(dim), known) for dim in value.dims)

    def _over_axes(self, expression: Expression) -> Expression | None:
        if isinstance(expression, Leaf):
            return self._expressions.get(expression.axis)
        inner = expression.factors if isinstance(expression, Product) else expression.parts
        found = [one for part in inner if (one := self._over_axes(part)) is not None]
        if len(found) < len(inner):
            return None
        if isinstance(expression, Concat):
            return concat(found)
        return Product(tuple(f for one in found for f in (one.factors if isinstance(one, Product) else (one,))))

    @cached_property
    def _expressions(self) -> dict[int, Expression]:
        """What lengths of the run are: an axis, or several; they stand at the same place of a parameter."""
        found: dict[int, Expression] = {}
        for name, dims in self.solution.layouts.items():
            for one, two in zip(dims, self.axes.layouts[name].dims, strict=True):
                _pair(self.solution.space.resolve(one), two, found)
        return found


def _solved(model: nn.Module, flow: Flow) -> Solution:
    tensors = canonical_tensors(model)
    shapes = {name: tuple(tensor.shape) for name, (tensor, _) in tensors.items()}
    buffers = {name for name, (tensor, _) in tensors.items() if not isinstance(tensor, nn.Parameter)}
    return solve([flow.recording], shapes, buffers, find)


def _pair(one: Expression, two: Expression, found: dict[int, Expression]) -> None:
    """Pair the axes of an expression with what stands at their places in another one."""
    if isinstance(one, Leaf):
        found.setdefault(one.axis, two)
        return
    inner: tuple[tuple[Expression, ...], tuple[Expression, ...]] = (), ()
    if isinstance(one, Product) and isinstance(two, Product):
        inner = one.factors, two.factors
    elif isinstance(one, Concat) and isinstance(two, Concat):
        inner = one.parts, two.parts
    if len(inner[0]) == len(inner[1]):
        for first, second in zip(*inner, strict=True):
            _pair(first, second, found)


def features(flow: Flow, solution: Solution) -> Mapping[Version, int | None]:
    """By tensor, the dimension that weights produce: the last, or the one after the batch. Where none is produced, the
    one that weights read."""
    roots: dict[Role, set[int]] = {role: set() for role in Role}
    for mark in solution.marks:
        roots[mark.role] |= solution.space.roots(mark.within)
    found: dict[Version, int | None] = {}
    for version in flow.active:
        value = solution.values[0].get(version.number)
        dims = value.dims if value is not None else ()
        for role in (Role.PRODUCES, Role.READS):
            own = [d for d, dim in enumerate(dims) if solution.space.roots(dim) & roots[role]]
            one = next((d for d in (len(dims) - 1, 1) if d in own), None)
            if one is not None:
                found[version] = one
                break
    return found
