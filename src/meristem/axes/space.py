"""The algebra: which axes are one and the same, and into which axes a length divides.

A `Space` begins with one fresh axis per dimension of each parameter. Three operations do everything: `unify` (these
two lengths are the same), `cut` (this length is several pieces side by side) and `reshape` (regroup factors row-major).
What cannot be reconciled is frozen with a reason: a wrong coupling would be a defect, a frozen axis is only a lost
chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meristem.axes.expression import ONE, Concat, Expression, Leaf, Product, leaves, size_of
from meristem.axes.map import Coupling

CONFLICT = "its size could not be reconciled with that of another dimension"
SINGLE = "a single unit of a concatenation: it cannot be told from a length that broadcasts"


class IrreconcilableError(Exception):
    """Two lengths cannot be brought into one expression."""


class Space:
    """All axes of one model while it is being traced: a union-find whose classes may be replaced by expressions.

    Attributes:
        sizes: the length of every axis ever made, by number.
        reasons: for each axis why it is frozen (first reason first); empty if it is not.
        couplings: for each axis why growth is not exact.
        minimums: for each axis the least number of units with which the code still works.
        pieces: every axis that was made by cutting another.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.reasons: list[dict[str, None]] = []
        self.couplings: list[set[Coupling]] = []
        self.minimums: list[int] = []
        self.pieces: list[Leaf] = []
        self._links: list[Expression | None] = []
        self._roots: dict[int, tuple[Expression, frozenset[int]]] = {}  # by identity, until a link is made

    # ------------------------------------------------------------------ making and reading

    def axis(self, size: int, reason: str | None = None) -> Expression:
        """A fresh axis (frozen if a reason is given), or `ONE` for length 1."""
        return ONE if size == 1 else self._new(size, reason)

    def single(self, reason: str = SINGLE) -> Leaf:
        """A frozen axis of length 1: a real unit in a concatenation, so that offsets stay right."""
        return self._new(1, reason)

    def _new(self, size: int, reason: str | None = None) -> Leaf:
        self.sizes.append(size)
        self.reasons.append({reason: None} if reason else {})
        self.couplings.append(set())
        self.minimums.append(1)
        self._links.append(None)
        return Leaf(len(self.sizes) - 1)

    def size(self, expression: Expression) -> int:
        """The length of a dimension."""
        return size_of(expression, self.sizes)

    def resolve(self, expression: Expression) -> Expression:
        """The expression over representatives: links followed, nested products and concatenations flattened.

        A concatenation as outermost factor is distributed over the product, so that equal lengths look equal.
        """
        if isinstance(expression, Leaf):
            link = self._links[expression.axis]
            if link is None:
                return expression
            resolved = self.resolve(link)
            self._links[expression.axis] = resolved
            return resolved
        if isinstance(expression, Product):
            return self._product([self.resolve(factor) for factor in expression.factors])
        return concat([self.resolve(part) for part in expression.parts])

    def _product(self, factors: Sequence[Expression]) -> Expression:
        flat: list[Expression] = []
        for factor in factors:
            flat.extend(factor.factors if isinstance(factor, Product) else [factor])
        flat = [
            factor for factor in flat if self.size(factor) != 1
        ]  # length 1 occurs frozen only: it multiplies by one
        if len(flat) == 1:
            return flat[0]
        if flat and isinstance(flat[0], Concat):
            return concat([self._product([part, *flat[1:]]) for part in flat[0].parts])
        return Product(tuple(flat))

    def roots(self, expression: Expression) -> frozenset[int]:
        """The numbers of the representatives in an expression."""
        found = self._roots.get(id(expression))
        if found is None:
            found = self._roots[id(expression)] = expression, frozenset(leaves(self.resolve(expression)))
        return found[1]

    def frozen(self, expression: Expression) -> bool:
        """Whether every axis of an expression is frozen (so also for `ONE`)."""
        return all(self.reasons[axis] for axis in self.roots(expression))

    # ------------------------------------------------------------------ statements about axes

    def freeze(self, expression: Expression, reason: str) -> None:
        """Freeze every axis of an expression."""
        for axis in self.roots(expression):
            self.reasons[axis].setdefault(reason)

    def couple(self, expression: Expression, coupling: Coupling) -> None:
        """Note on every axis of an expression why growth is not exact."""
        for axis in self.roots(expression):
            self.couplings[axis].add(coupling)

    def require(self, expression: Expression, minimum: int) -> None:
        """A length that is one axis needs this many units; one that is made of several axes, one of which suffices."""
        resolved = self.resolve(expression)
        if isinstance(resolved, Leaf):
            self.minimums[resolved.axis] = max(self.minimums[resolved.axis], minimum)

    def unify(self, first: Expression, second: Expression) -> bool:
        """State that two lengths are the same. Returns whether they could be reconciled; if not, both are frozen."""
        try:
            self._unify(first, second)
        except IrreconcilableError:
            self.freeze(first, CONFLICT)
            self.freeze(second, CONFLICT)
            return False
        return True

    def _unify(self, first: Expression, second: Expression) -> None:
        a, b = self.resolve(first), self.resolve(second)
        if a == b or self.size(a) == self.size(b) == 1:
            return
        if self.size(a) != self.size(b):
            raise IrreconcilableError
        if isinstance(a, Leaf):
            self._link(a, b)
        elif isinstance(b, Leaf):
            self._link(b, a)
        elif isinstance(a, Concat) and isinstance(b, Concat):
            self._unify_concats(a, b)
        elif isinstance(a, Product) and isinstance(b, Product):
            self._unify_products(a, b)
        elif isinstance(a, Concat):
            self._unify_concat_product(a, b)
        elif isinstance(b, Concat):
            self._unify_concat_product(b, a)

    def _link(self, leaf: Leaf, target: Expression) -> None:
        if leaf.axis in leaves(target) or target == ONE:
            raise IrreconcilableError
        self._links[leaf.axis] = target
        self._roots.clear()
        for axis in leaves(target):
            self.reasons[axis].update(self.reasons[leaf.axis])
            self.couplings[axis] |= self.couplings[leaf.axis]
        if isinstance(target, Leaf):
            self.minimums[target.axis] = max(self.minimums[target.axis], self.minimums[leaf.axis])

    def _unify_concats(self, a: Concat, b: Concat) -> None:
        borders = sorted(set(self._borders(a)) | set(self._borders(b)))
        lengths = [end - start for start, end in zip([0, *borders[:-1]], borders, strict=True)]
        for left, right in zip(self._cut(a, lengths), self._cut(b, lengths), strict=True):
            self._unify(left, right)

    def _borders(self, expression: Concat) -> Iterable[int]:
        offset = 0
        for part in expression.parts:
            offset += self.size(part)
            yield offset

    def _unify_products(self, a: Product, b: Product) -> None:
        f, g = a.factors[0], b.factors[0]
        outer = min(self.size(f), self.size(g))
        a_outer, a_inner = self._divide(a, outer)
        b_outer, b_inner = self._divide(b, outer)
        self._unify(a_outer, b_outer)
        self._unify(a_inner, b_inner)

    def _unify_concat_product(self, a: Concat, b: Expression) -> None:
        lengths = [self.size(part) for part in a.parts]
        for left, right in zip(a.parts, self._cut(b, lengths), strict=True):
            self._unify(left, right)

    # ------------------------------------------------------------------ cutting

    def cut(self, expression: Expression, lengths: Sequence[int]) -> list[Expression]:
        """Pieces of the given lengths (which add up), from first to last; frozen ones where no clean cut exists."""
        wanted = [length for length in lengths if length]
        try:
            pieces = iter(self._cut(expression, wanted))
        except IrreconcilableError:
            self.freeze(expression, "it is cut where its inner structure has no border")
            pieces = iter([self.axis(n, "a piece of an axis that is cut where it has no border") for n in wanted])
        return [next(pieces) if length else Concat(()) for length in lengths]

    def _cut(self, expression: Expression, lengths: Sequence[int]) -> list[Expression]:
        e = self.resolve(expression)
        if len(lengths) == 1:
            return [e]
        if isinstance(e, Leaf):
            parts = [self._new(n, SINGLE if n == 1 else None) for n in lengths]
            self._link(e, Concat(tuple(parts)))
            self.pieces.extend(parts)
            return [self.resolve(part) for part in parts]
        if isinstance(e, Product):
            outer, rest = e.factors[0], Product(e.factors[1:])
            inner = self.size(rest)
            if any(length % inner for length in lengths):
                raise IrreconcilableError
            return [self.resolve(Product((o, rest))) for o in self._cut(outer, [n // inner for n in lengths])]
        return self._cut_concat(e, lengths)

    def _cut_concat(self, e: Concat, lengths: Sequence[int]) -> list[Expression]:
        pieces: list[Expression] = []
        queue = list(e.parts)
        for length in lengths:
            taken: list[Expression] = []
            while length:
                part = queue.pop(0)
                n = self.size(part)
                if n > length:
                    part, rest = self._cut(part, [length, n - length])
                    queue.insert(0, rest)
                    n = length
                taken.append(part)
                length -= n
            pieces.append(concat([self.resolve(part) for part in taken]))
        return pieces

    # ------------------------------------------------------------------ regrouping

    def reshape(self, dims: Sequence[Expression], sizes: Sequence[int]) -> list[Expression]:
        """The dimensions after a row-major reshape to the given sizes; frozen ones where it cannot be expressed."""
        groups = matching_groups([self.size(dim) for dim in dims], sizes)
        result: list[Expression] = []
        for which, targets in groups:
            result.extend(self._regroup(dims[which], targets))
        return result

    def _regroup(self, dims: Sequence[Expression], sizes: Sequence[int]) -> list[Expression]:
        if len(dims) == 1 and [n for n in sizes if n != 1] == [self.size(dims[0])]:
            return [dims[0] if n != 1 else ONE for n in sizes]
        try:
            whole = self._product([self.resolve(dim) for dim in dims])
            result: list[Expression] = []
            for n in sizes[:-1]:
                outer, whole = self._divide(whole, n)
                result.append(outer)
            return [*(self.resolve(dim) for dim in result), self.resolve(whole)] if sizes else []
        except IrreconcilableError:
            for dim in dims:
                self.freeze(dim, "it is reshaped across its inner structure")
            return [self.axis(n, "the result of a reshape across an axis's inner structure") for n in sizes]

    def _divide(self, expression: Expression, outer: int) -> tuple[Expression, Expression]:
        """Write a length as `outer_part * inner_part` with the given outer size."""
        e = self.resolve(expression)
        total = self.size(e)
        if outer == 1:
            return ONE, e
        if outer == total:
            return e, ONE
        if total % outer:
            raise IrreconcilableError
        if isinstance(e, Leaf):
            parts = self._new(outer), self._new(total // outer)
            self._link(e, Product(parts))
            return parts
        if isinstance(e, Product):
            return self._divide_product(e, outer)
        return self._divide_concat(e, total // outer)

    def _divide_product(self, e: Product, outer: int) -> tuple[Expression, Expression]:
        taken: list[Expression] = []
        rest = list(e.factors)
        while outer > 1:
            factor = rest.pop(0)
            n = self.size(factor)
            if n > outer:
                factor, inner = self._divide(factor, outer)
                rest.insert(0, inner)
                n = outer
            if outer % n:
                raise IrreconcilableError
            taken.append(factor)
            outer //= n
        return self._product([self.resolve(f) for f in taken]), self._product([self.resolve(f) for f in rest])

    def _divide_concat(self, e: Concat, inner: int) -> tuple[Expression, Expression]:
        """(a * r + b * r) = (a + b) * r."""
        outers: list[Expression] = []
        common: Expression | None = None
        for part in e.parts:
            n = self.size(part)
            if n % inner:
                raise IrreconcilableError
            outer, rest = self._divide(part, n // inner)
            if common is not None:
                self._unify(common, rest)
            common = rest if common is None else common
            outers.append(self._new(1, SINGLE) if outer == ONE else outer)
        assert common is not None
        return concat([self.resolve(o) for o in outers]), self.resolve(common)


def concat(parts: Sequence[Expression]) -> Expression:
    """Pieces side by side, nested concatenations flattened; a single piece is itself."""
    flat: list[Expression] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Concat) else [part])
    return flat[0] if len(flat) == 1 else Concat(tuple(flat))


def matching_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[slice, list[int]]]:
    """Split a reshape into the smallest independent ones: ranges of old dimensions and the new sizes they become."""
    groups: list[tuple[slice, list[int]]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        start, targets = i, [new[j]]
        left, right = old[i], new[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left *= old[i]
                i += 1
            else:
                right *= new[j]
                targets.append(new[j])
                j += 1
        groups.append((slice(start, i), targets))
    if i < len(old) or j < len(new):  # what remains has length 1
        groups.append((slice(i, len(old)), list(new[j:])))
    return groups
