"""Products of two activations: walking through the recordings from weights to what is multiplied.

Carried along is which entries of which parameters a tensor is made of, for as long as it is a sum of terms each of
which is zero where its entries are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from meristem.axes.contracted import bias, weight
from meristem.axes.entries import Chain, Entries, Held, Name, Site, Sum, expanded, joined, note
from meristem.axes.expression import leaves
from meristem.axes.map import TensorLayout
from meristem.axes.operators import elementwise, reshapes
from meristem.axes.recorder import Call, Recording, Ref, references
from meristem.axes.rules.contraction import letters_of
from meristem.axes.solution import Solution
from meristem.axes.trial import passes_zero

_FACTORS = {
    "aten.matmul": (0, 1), "aten.mm": (0, 1), "aten.bmm": (0, 1), "aten.linear": (0, 1), "aten.addmm": (1, 2),
    "aten.baddbmm": (1, 2), "aten.scaled_dot_product_attention": (0, 1),
}  # fmt: skip
"""Products of two activations: where they stand among the arguments."""
_MADE = {
    "aten.linear": (0, -1), "aten.conv1d": (0, 1), "aten.conv2d": (0, 1), "aten.conv3d": (0, 1),
    "aten.matmul": (-1, -1), "aten.mm": (-1, -1), "aten.addmm": (-1, -1), "aten.embedding": (-1, -1),
}  # fmt: skip
"""What weights make: which dimension of the weight produces, and which dimension of the result."""
_MATRICES = {"aten.matmul", "aten.mm", "aten.addmm"}
_LINEAR = {"aten.neg", "aten.dropout", "aten.feature_dropout", "aten.to", "aten._to_copy", "aten.type_as", "aten.float",
           "aten.half"}  # fmt: skip
_TOGETHER = {"aten.cat", "aten.stack", "aten.repeat", "aten.repeat_interleave", "aten.flip", "aten.roll"}
_ROOTS = {"aten.sqrt": 0.5, "aten.rsqrt": -0.5, "aten.reciprocal": -1.0, "aten.to": 1.0, "aten._to_copy": 1.0}


class Products:
    """One walk through every recording.

    Attributes:
        sites: all products over wanted axes that are understood.
        unknown: the axes, by number, over which there are others.
        escaped: by dimension of a parameter, which of its indices are in tensors that are used otherwise.
        bent: likewise, which went through an operator that is not linear, but gives zero for zero.
    """

    def __init__(
        self,
        solution: Solution,
        layouts: Mapping[str, TensorLayout],
        number: Mapping[int, int],
        wanted: Collection[int],
    ) -> None:
        self.solution, self.layouts, self.number, self.wanted = solution, layouts, number, frozenset(wanted)
        self.sites: list[Site] = []
        self.unknown: set[int] = set()
        self.escaped: dict[Name, Tensor] = {}
        self.bent: dict[Name, Tensor] = {}
        self._places = {place for powers in solution.powers.values() for place in powers}
        self._over: dict[tuple[int, int], set[int]] = {}
        for recording, call, length in solution.products:
            roots = solution.space.roots(length)
            self._over.setdefault((recording, call), set()).update(number[r] for r in roots if r in number)

    def walk(self, recording: int) -> None:
        self._recording: Recording = self.solution.recordings[recording]
        self._number = recording
        self._sums: dict[int, Sum] = {}
        self._products: dict[int, Held] = {}
        self._scalars: dict[int, Chain] = {}
        self._memory: dict[int, int] = {}
        for name, ref in self._recording.named.items():
            self._begin(name, ref)
        for index, call in enumerate(self._recording.calls):
            self._index = index
            self._call(call)
        self._escape(self._recording.results)

    def _begin(self, name: str, ref: int) -> None:
        """A parameter is itself."""
        layout, shape = self.layouts[name], self._recording.shapes[ref]
        if layout.buffer:
            return
        term = tuple(
            Entries.laid((name, dim), shape[dim], shape, [int(d == dim) for d in range(len(shape))])
            for dim, expression in enumerate(layout.dims)
            if self.wanted.intersection(leaves(expression))
        )
        if term:
            self._sums[ref] = Sum((term,), static=True)

    # ------------------------------------------------------------------ calls

    def _call(self, call: Call) -> None:
        over = self._over.get((self._number, self._index), set()) & self.wanted
        refs = tuple(dict.fromkeys(references(call)))
        self._written(call, refs)
        if over:
            self._site(call, over)
        elif not any(ref in self._sums or ref in self._products for ref in refs):
            self._scalar(call)
        elif not (self._rearranged(call, refs) or self._made(call) or self._met(call, refs)):
            self._escape(refs)
            for out in call.outputs:
                self._sums.pop(out, None)
                self._products.pop(out, None)

    def _written(self, call: Call, refs: Sequence[int]) -> None:
        """An operator that works in place changes all that shares the memory; nothing else is known of it then."""
        if not call.operator._schema.is_mutable or reshapes(call.operator):
            return
        for ref in set(call.outputs).intersection(refs):
            shared = self._memory.get(ref, ref)
            others = [r for r in (*self._sums, *self._products) if r != ref and self._memory.get(r, r) == shared]
            self._escape(others)
            for other in others:
                self._sums.pop(other, None)
                self._products.pop(other, None)

    def _rearranged(self, call: Call, refs: Sequence[int]) -> bool:
        views = reshapes(call.operator) or any(
            r.alias_info is not None and not r.alias_info.is_write for r in call.operator._schema.returns
        )
        if not (views or call.name == "aten._unsafe_view") or len(refs) != 1 or elementwise(call.operator):
            return False
        ref = refs[0]
        for out in call.outputs:
            self._memory[out] = self._memory.get(ref, ref)
        if ref in self._products:
            self._products.update(dict.fromkeys(call.outputs, self._products[ref]))
            return True
        held = self._sums[ref]
        if self._dtype(ref) != self._dtype(call.outputs[0]):
            return False  # seen as complex numbers, say

        def run(strided: Tensor) -> Any:
            args = [strided if isinstance(item, Ref) else item for item in call.args]
            return call.operator(*args, **call.kwargs)

        count = len(call.outputs)
        made = [[entries.viewed(run) or [entries.loose()] * count for entries in term] for term in held.terms]
        for place, out in enumerate(call.outputs):
            terms = tuple(tuple(entries[place] for entries in term) for term in made)
            self._sums[out] = replace(held, terms=terms)
        return True

    def _made(self, call: Call) -> bool:
        """What a weight makes of an activation."""
        if call.name == "aten.einsum":
            return self._made_by_einsum(call)
        place = call.args[0].value if call.name == "aten.embedding" else weight(call)
        held = self._sums.get(place) if place is not None else None
        if call.name not in _MADE or place is None or held is None or not held.static:
            return False
        rank = len(self._recording.shapes[place])
        if call.name in _MATRICES and rank != 2:
            return False
        produces, to = _MADE[call.name]
        found = self._laid(call.outputs[0], held, {produces % rank: to})
        given = [ref for ref in references(call) if ref != place]
        added = bias(call)
        if added is not None:
            given.remove(added)
            other = self._sums.get(added)
            if other is None or not other.static or len(self._recording.shapes[added]) != 1:
                return False
            found += self._laid(call.outputs[0], other, {0: to})
        self._escape(given)
        return self._hold(call.outputs[0], Sum(found, held.chain))

    def _made_by_einsum(self, call: Call) -> bool:
        refs = [item.value for item in call.args[1]]
        held = [self._sums.get(ref) for ref in refs]
        static = [i for i, one in enumerate(held) if one is not None and one.static]
        if len(refs) != 2 or len(static) != 1:
            return False
        inputs, output = letters_of(call.args[0], [len(self._recording.shapes[ref]) for ref in refs])
        fixed, own = held[static[0]], inputs[static[0]]
        assert fixed is not None
        kept = {dim: output.index(letter) for dim, letter in enumerate(own) if letter in output}
        found = self._laid(call.outputs[0], fixed, kept)
        self._escape([refs[1 - static[0]]])
        return self._hold(call.outputs[0], Sum(found, fixed.chain))

    def _laid(self, out: int, weight: Sum, kept: Mapping[int, int]) -> tuple[tuple[Entries, ...], ...]:
        """A weight's terms in what it makes: dimensions of the weight become dimensions of the result; others are
        summed up."""
        shape = self._recording.shapes[out]
        terms: list[tuple[Entries, ...]] = []
        for term in weight.terms:
            found: list[Entries] = []
            for entries in term:
                if entries.strides is None:
                    self._leave([entries])
                    continue
                given = entries.strides.stride()
                if any(stride for dim, stride in enumerate(given) if dim not in kept):
                    self._leave([entries])
                    continue
                strides = [0] * len(shape)
                for dim, to in kept.items():
                    strides[to] = given[dim]
                offset = entries.strides.storage_offset()
                found.append(Entries.laid(entries.name, entries.length, shape, strides, int(offset)))
            terms.append(tuple(found))
        return tuple(terms)

    def _met(self, call: Call, refs: Sequence[int]) -> bool:
        """Terms are added, multiplied or put side by side."""
        if len(call.outputs) != 1:
            return False
        out = call.outputs[0]
        product = [ref for ref in refs if ref in self._products]
        if product:
            return self._product_met(call, refs, product[0])
        if call.name in ("aten.add", "aten.sub"):
            return len(call.args) == 2 and not call.kwargs and self._added(out, self._operands(call))
        if call.name in _TOGETHER:
            return self._added(out, refs, loose=True)
        if call.name in ("aten.mul", "aten.div"):
            return self._multiplied(call, out)
        if len(refs) != 1 or not (elementwise(call.operator) or call.name in _LINEAR):
            return False
        if call.name not in _LINEAR:
            if not passes_zero(call):
                return False
            note(self.bent, self._sums[refs[0]].entries())
        self._sums[out] = self._sums[refs[0]]
        return True

    def _operands(self, call: Call) -> list[int] | None:
        return (
            [a.value for a in call.args if isinstance(a, Ref)] if all(isinstance(a, Ref) for a in call.args) else None
        )

    def _added(self, out: int, refs: Sequence[int] | None, *, loose: bool = False) -> bool:
        held = [self._sums.get(ref) for ref in refs or ()]
        if not held or any(one is None for one in held):
            return False
        sums = [one for one in held if one is not None]
        shape = self._recording.shapes[out]
        chains = {one.chain for one in sums}
        terms = tuple(
            term for one in sums for term in one.mapped(lambda e: e.loose() if loose else expanded(e, shape)).terms
        )
        static = all(one.static for one in sums)
        mixed = any(one.mixed for one in sums)
        return self._hold(out, Sum(terms, chains.pop() if len(chains) == 1 else None, static, mixed))

    def _multiplied(self, call: Call, out: int) -> bool:
        if len(call.args) != 2 or call.kwargs:
            return False
        first, second = call.args
        mine = [a for a in (first, second) if isinstance(a, Ref) and a.value in self._sums]
        active = [a for a in mine if not self._sums[a.value].static] or mine
        held = active[0]
        if call.name == "aten.div" and held is not first:
            return False
        other = second if held is first else first
        if isinstance(other, Ref) and other.value == held.value:
            return False
        self._escape([a.value for a in mine if a is not held])
        one = self._sums[held.value]
        mixed = one.mixed or len(active) > 1
        static = one.static and (not isinstance(other, Ref) or self._static(other.value))
        chain = joined(one.chain, self._factor(call, other, 1 if held is first else 0))
        shape = self._recording.shapes[out]
        return self._hold(
            out, replace(one.mapped(lambda e: expanded(e, shape)), chain=chain, static=static, mixed=mixed)
        )

    def _factor(self, call: Call, other: Any, position: int) -> Chain:
        """By which power of which numbers a call multiplies."""
        place = (self._number, self._index, (position,))
        chain: Chain = ((place, 1.0),) if place in self._places else ()
        if isinstance(other, Ref):
            chain = joined(self._scalars.get(other.value, ()), chain)
        sign = -1.0 if call.name == "aten.div" else 1.0
        return None if chain is None else tuple((place, sign * power) for place, power in chain)

    def _scalar(self, call: Call) -> None:
        """A number that the code makes of a length, and what it makes of that."""
        refs = [a for a in call.args if isinstance(a, Ref)]
        if len(refs) != 1 or call.args[0] is not refs[0] or len(call.outputs) != 1:
            return
        place = (self._number, self._index, (0,))
        chain = joined(self._scalars.get(refs[0].value, ()), ((place, 1.0),) if place in self._places else ())
        if chain and call.name in _ROOTS:
            chain = tuple((place, power * _ROOTS[call.name]) for place, power in chain)
            self._scalars[call.outputs[0]] = chain

    # ------------------------------------------------------------------ products

    def _site(self, call: Call, over: set[int]) -> None:
        places = _FACTORS.get(call.name)
        refs = [item.value for item in call.args[1]] if call.name == "aten.einsum" else None
        if places is not None:
            refs = [call.args[place].value for place in places]
        if refs is None or len(refs) != 2 or len(call.outputs) != 1:
            self.unknown |= over
            self._escape(references(call))
            return
        self._escape(ref for ref in references(call) if ref not in refs)
        factors = tuple((self._sums.get(ref), self._axes(ref)) for ref in refs)
        site = Site(frozenset(over), factors)
        self.sites.append(site)
        if call.name == "aten.scaled_dot_product_attention":
            self._attention(call, site, refs)
        elif call.name in ("aten.addmm", "aten.baddbmm"):
            place = (self._number, self._index, ("alpha",))
            site.chains.append(((place, 1.0),) if place in self._places else ())
        else:
            self._products[call.outputs[0]] = Held((site,))

    def _attention(self, call: Call, site: Site, refs: Sequence[int]) -> None:
        at = 6 if len(call.args) > 6 else "scale"
        scale = call.args[6] if len(call.args) > 6 else call.kwargs.get("scale")
        value = call.args[2] if len(call.args) > 2 else None
        if isinstance(value, Ref) and value.value in refs:
            self._escape([value.value])
        if scale is None:
            site.powers = ((self.solution.values[self._number][refs[0]].dims[-1], -0.5),)
        place = (self._number, self._index, (at,))
        site.chains.append(((place, 1.0),) if place in self._places else ())

    def _product_met(self, call: Call, refs: Sequence[int], product: int) -> bool:
        """Multiplied by a number it stays a product; everything else uses it as it is."""
        held = self._products[product]
        out = call.outputs[0]
        others = [ref for ref in refs if ref != product]
        if call.name in _LINEAR and not others:
            self._products[out] = held
            return True
        if call.name == "aten.add" and self._operands(call) and not call.kwargs:
            added = [self._products.get(ref) for ref in refs]
            alike = [one for one in added if one is not None and one.chain == held.chain]
            if len(alike) == len(added):
                self._products[out] = Held(tuple(site for one in alike for site in one.sites), held.chain)
                return True
        if call.name in ("aten.mul", "aten.div") and len(call.args) == 2 and not call.kwargs and len(others) < 2:
            first, second = call.args
            mine = first if isinstance(first, Ref) and first.value == product else second
            alone = not any(ref in self._products or ref in self._sums for ref in others)
            if alone and mine is not (second if call.name == "aten.div" else None) and first != second:
                other = second if mine is first else first
                chain = joined(held.chain, self._factor(call, other, 1 if mine is first else 0))
                self._products[out] = Held(held.sites, chain)
                return True
        return False

    # ------------------------------------------------------------------ what is known of tensors

    def _hold(self, out: int, found: Sum) -> bool:
        self._products.pop(out, None)
        if all(found.terms):
            self._sums[out] = found
        else:
            self._sums.pop(out, None)
            self._leave(found.entries())
        return True

    def _escape(self, refs: Iterable[int]) -> None:
        """These tensors are used in a way that is not followed."""
        for ref in refs:
            if ref in self._sums:
                self._leave(self._sums[ref].entries())
            if ref in self._products:
                self._products[ref].use()

    def _leave(self, entries: Iterable[Entries]) -> None:
        note(self.escaped, entries)

    def _axes(self, ref: int) -> tuple[frozenset[int], ...]:
        """The numbered axes in each dimension of a tensor."""
        value = self.solution.values[self._number].get(ref)
        dims = value.dims if value is not None else ()
        return tuple(frozenset(self.number.get(r, -1) for r in self.solution.space.roots(dim)) for dim in dims)

    def _static(self, ref: int) -> bool:
        value = self.solution.values[self._number].get(ref)
        return value is not None and value.static

    def _dtype(self, ref: int) -> torch.dtype:
        return self._recording.dtypes[ref]
