"""Finding counterparts: which factor of the products over an axis stands for fan-out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce

import torch
from torch import Tensor

from meristem.axes.counterpart import Counterpart, Part, Scale
from meristem.axes.entries import Entries, Name, Sum, joined
from meristem.axes.expression import Expression, leaves, size_of
from meristem.axes.map import Coupling, Role, TensorLayout
from meristem.axes.products import Products
from meristem.axes.scaled import Place
from meristem.axes.solution import Solution


def find_counterparts(
    solution: Solution,
    layouts: Mapping[str, TensorLayout],
    number: Mapping[int, int],
    trained: Callable[[str], bool],
) -> dict[int, Counterpart]:
    """The counterparts of all axes that have one, by number.

    Args:
        solution: what was solved and proven.
        layouts: the finished layouts, over numbered axes.
        number: the number of each axis in the map, by its root.
        trained: whether a parameter is trained.
    """
    space = solution.space
    wanted = {
        number[root]: root
        for root in number
        if {Coupling.BILINEAR} <= space.couplings[root] <= {Coupling.BILINEAR, Coupling.SCALED}
        and not space.reasons[root]
    }
    if not wanted:
        return {}
    products = Products(solution, layouts, number, wanted)
    for recording in range(len(solution.recordings)):
        products.walk(recording)
    found = {axis: _Choice(products, axis, root, trained).best() for axis, root in wanted.items()}
    return {axis: counterpart for axis, counterpart in found.items() if counterpart is not None}


class _Choice:
    """Which factor of each product over an axis is its counterpart: the same of all, the second if it will do."""

    def __init__(self, products: Products, axis: int, root: int, trained: Callable[[str], bool]) -> None:
        self._products, self._axis, self._root, self._trained = products, axis, root, trained
        self._sites = [site for site in products.sites if axis in site.axes]
        self._space = products.solution.space
        self._sizes = [self._space.sizes[r] for r in products.number]
        self._frozen = [number for r, number in products.number.items() if self._space.reasons[r]]

    def best(self) -> Counterpart | None:
        """The second factors or, if these will not do or do less well, the first ones."""
        if not self._sites or self._axis in self._products.unknown:
            return None
        found = [c for factor in (1, 0) if (c := self._counterpart(factor)) is not None]
        return max(found, key=self._worth, default=None)

    def _worth(self, counterpart: Counterpart) -> tuple[bool, bool]:
        return any(map(self._trained, counterpart.names)), counterpart.scale is not None

    def _counterpart(self, factor: int) -> Counterpart | None:
        masks: dict[Name, Tensor] = {}
        for site in self._sites:
            held, dims = site.factors[factor]
            if held is None or sum(self._axis in found for found in dims) != 1:
                return None
            for term in held.terms:
                own = [entries for entries in term if self._axis in leaves(self._dim(entries.name))]
                if len(own) != 1 or self._products.layouts[own[0].name[0]].copied:
                    return None
                found = own[0].indices()
                masks[own[0].name] = masks.get(own[0].name, torch.zeros_like(found)) | found
        if any(not self._alive(site.factors[1 - factor][0], masks) for site in self._sites):
            return None
        parts = []
        for (name, dim), mask in masks.items():
            part = Part.of(mask, self._dim((name, dim)), self._sizes, self._frozen)
            if part is None:
                return None
            parts.append((name, dim, part))
        return Counterpart(tuple(parts), self._scale(factor, masks))

    def _dim(self, name: Name) -> Expression:
        return self._products.layouts[name[0]].dims[name[1]]

    def _alive(self, other: Sum | None, masks: Mapping[Name, Tensor]) -> bool:
        """Whether a factor is not zero for newborns that are zero in all of these entries."""
        if other is None or other.mixed:
            escaped = self._products.escaped.items()
            return not any(bool((masks[name] & mask).any()) for name, mask in escaped if name in masks)
        return any(any(map(self._drawn, term)) and not any(_within(e, masks) for e in term) for term in other.terms)

    def _drawn(self, entries: Entries) -> bool:
        """Whether newborns of the axis get random entries there."""
        name, dim = entries.name
        roles = self._products.layouts[name].roles[dim].get(self._axis, frozenset())
        return Role.PRODUCES in roles and Role.READS not in roles

    # ------------------------------------------------------------------ scale

    def _scale(self, factor: int, masks: Mapping[Name, Tensor]) -> Scale | None:
        if Coupling.SCALED not in self._space.couplings[self._root]:
            return Scale()
        if len({name for name, _ in masks}) < len(masks) or self._used_otherwise(factor, masks):
            return None
        known = self._products.solution.powers.get(self._root, {})
        met: set[Place] = set()
        scales: set[Scale | None] = set()
        for site in self._sites:
            sums = [held for held, _ in site.factors if held is not None]
            for chain in site.chains:
                whole = reduce(joined, [held.chain for held in sums], chain)
                if whole is None:
                    return None
                met |= {place for place, _ in whole}
                followed = [[(length, power * times) for length, power in known[p]] for p, times in whole if p in known]
                scales.add(self._total([*followed, *([power] for power in site.powers)]))
        return scales.pop() if len(scales) == 1 and met >= known.keys() else None

    def _used_otherwise(self, factor: int, masks: Mapping[Name, Tensor]) -> bool:
        """Whether anything but these factors is made of the entries, so that multiplying them changes it."""
        others = [
            site.factors[i][0]
            for site in self._products.sites
            for i in range(2)
            if i != factor or self._axis not in site.axes
        ]
        used = [e for held in others if held is not None for e in held.entries()]
        met = [(e.name, e.indices()) for e in used if e.name in masks]
        for known in (self._products.escaped, self._products.bent):
            met += [(name, mask) for name, mask in known.items() if name in masks]
        return any(bool((masks[name] & mask).any()) for name, mask in met)

    def _total(self, followed: Iterable[Iterable[tuple[Expression, float]]]) -> Scale | None:
        """The product of powers of lengths, of each of which it is not known which it is of several, as a function of
        the axis' size."""
        total, others = 0.0, 0.0
        for powers in followed:
            found = {(power, self._counted(length)) for length, power in powers}
            power, counted = found.pop() if len(found) == 1 else (0.0, None)
            if counted is None or (total and others != counted):
                return None
            total, others = total + power, counted
        return Scale(total, others)

    def _counted(self, length: Expression) -> float | None:
        """Which constant number of units is in a length beside those of the axis, in units of what one of these counts;
        None if it is not constant."""
        resolved, sizes = self._space.resolve(length), dict(enumerate(self._space.sizes))
        none, one, two = (size_of(resolved, {**sizes, self._root: n}) for n in range(3))
        rest = set(leaves(resolved)) - {self._root}
        if one == none or two - one != one - none or (none and not all(self._space.reasons[r] for r in rest)):
            return None
        return none / (one - none)


def _within(entries: Entries, masks: Mapping[Name, Tensor]) -> bool:
    """Whether all these entries are among others."""
    mask = masks.get(entries.name)
    return mask is not None and not bool((entries.indices() & ~mask).any())
