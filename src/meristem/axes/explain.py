"""Explaining a rehearsal: which attribute holds a number that stayed, which length does one that changed follow?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from torch import nn

from meristem.axes.attributes import Path, lengths_of, lengths_of_children, mentioned, read, written
from meristem.axes.expression import Concat, Expression, Product, size_of
from meristem.axes.map import AttributeBinding
from meristem.axes.module_path import within
from meristem.axes.recorder import Site, references
from meristem.axes.rehearsal import Divergence, Mismatch, Outcome
from meristem.axes.solution import INPUT, Literal, Solution


class Explainer:
    """What has been learned so far of how the model's Python code comes by its numbers.

    Attributes:
        bindings: the length that each attribute holds, by (module, path). Lengths that share an attribute are one.
        guessed: those of them that no number has confirmed.
    """

    def __init__(self, model: nn.Module, solution: Solution) -> None:
        self.solution = solution
        self.space = solution.space
        self.bindings: dict[tuple[str, Path], Expression] = {}
        self.guessed: set[tuple[str, Path]] = set()
        self._tried: dict[tuple[int, int, tuple[int | str, ...]], tuple[str, Path]] = {}
        self._wrong: set[tuple[Expression, str, Path]] = set()
        self._fresh: set[tuple[str, Path]] = set()
        self._sizes: Mapping[int, int] = {}
        self._can_be_set: dict[tuple[str, Path], bool] = {}
        self._model = model
        self._names = {id(module): name for name, module in model.named_modules()}
        self._by_name = dict(model.named_modules())

    def begin(self) -> None:
        """Bind what needs no rehearsal: the attributes of PyTorch's own layers."""
        self._bind_facts()

    def attribute_bindings(self) -> tuple[AttributeBinding, ...]:
        """The bindings whose value some editable axis changes."""
        return tuple(
            AttributeBinding(module, path, self.space.resolve(value))
            for (module, path), value in self.bindings.items()
            if not self.space.frozen(value)
        )

    def explain(self, outcome: Outcome, new_sizes: Mapping[int, int]) -> bool:
        """Whether anything new was learned. Attributes first: other numbers may follow from them."""
        numbers = [(m, m.literal) for m in outcome.mismatches if m.literal is not None]
        constant = [(m, literal) for m, literal in numbers if m.actual == self.space.size(literal.value)]
        other = [(m, literal) for m, literal in numbers if m.actual != self.space.size(literal.value)]
        self._fresh.clear()
        self._sizes = {**dict(enumerate(self.space.sizes)), **new_sizes}
        for _, literal in constant:
            self._reject(literal)
        learned = [self._bind_constant(m.site, literal) for m, literal in constant]
        if any(learned):
            return True
        learned = [self._bind_whole(literal) for _, literal in constant]
        if any(learned):
            return True
        if self._tie(other):
            return True
        learned = [self._bind_whole(literal) for _, literal in other]
        if any(learned):
            return True
        return outcome.divergence is not None and self._explain_divergence(outcome.divergence)

    def _bind_facts(self) -> None:
        """PyTorch's own layers keep lengths under the operator's argument names."""
        for fact in self.solution.facts:
            for name in fact.modules:
                module = self._by_name.get(name)
                value = None if module is None else read(module, fact.path)
                if isinstance(value, int) and value == self.space.size(fact.value):
                    self._bind(name, fact.path, fact.value)

    def _bind(self, module: str, path: Path, value: Expression) -> bool:
        """Tie an attribute to a length. Returns whether that said anything new."""
        held = self.bindings.get((module, path))
        if held is not None:
            return self._unify(held, value)
        if not self._settable(module, path):
            return False
        self.bindings[module, path] = value
        self._fresh.add((module, path))
        return True

    def _settable(self, module: str, path: Path) -> bool:
        """Whether an attribute takes another number: not that of a frozen configuration, or a property."""
        known = self._can_be_set.get((module, path))
        if known is None:
            known = self._can_be_set[module, path] = self._takes(module, path, read(self._by_name[module], path) + 1)
        return known

    def _takes(self, module: str, path: Path, value: int) -> bool:
        try:
            with written(self._model, [(module, path, value)]):
                return read(self._by_name[module], path) == value
        except Exception:  # whatever it is, an edit would meet it as well
            return False

    def _bind_constant(self, site: Site, literal: Literal) -> bool:
        """The code passed the old number again: find the attribute that holds it, innermost module first.

        Whether it was the right one shows in the next rehearsal; if not, the next one is tried.
        """
        for distance, name in enumerate(_outward(site.module)):
            for path in self._held(site, literal.value, name):
                new = [self._try(literal, name, path), self._bind_alike(literal, distance, path)]
                if any(new):
                    return True
        return False

    def _try(self, literal: Literal, module: str, path: Path) -> bool:
        """Bind an attribute because of a number that did not change.

        One that is bound already says nothing: if it has just been bound, the next rehearsal shows whether this number
        follows it as well; if it was bound before and has changed, this number does not.
        """
        held = self.bindings.get((module, path))
        if held is None:
            self._tried[_key(literal)] = module, path
            return self._bind(module, path, literal.value)
        changed = (module, path) in self._fresh or self._new_size(held) != self.space.size(held)
        return not changed and self._unify(held, literal.value)

    def _reject(self, literal: Literal) -> None:
        """The attribute that was bound because of a number did not change it: unbind it, for good."""
        wrong = self._tried.pop(_key(literal), None)
        if wrong is not None:
            self.bindings.pop(wrong, None)
            self._wrong.add((self.space.resolve(literal.value), *wrong))

    def _new_size(self, value: Expression) -> int:
        """The size of a length in the last rehearsal."""
        return size_of(self.space.resolve(value), self._sizes)

    def _bind_whole(self, literal: Literal) -> bool:
        """The code computes the number from a longer length that an attribute holds, half of all channels say; or from
        that and what else it consists of."""
        call, values = self.solution.recordings[literal.recording].calls[literal.call], self.solution.values
        roots = self.space.roots(literal.value)
        operands = [values[literal.recording][n] for n in references(call) if n in values[literal.recording]]
        wholes = [dim for value in operands for dim in value.dims if roots & self.space.roots(dim)]
        parts = [part for whole in map(self.space.resolve, wholes) if isinstance(whole, Concat) for part in whole.parts]
        rest = [part for part in parts if not roots & self.space.roots(part)]
        return self._bind_any(call.site, literal, wholes) or self._bind_any(call.site, literal, rest)

    def _bind_any(self, site: Site, literal: Literal, lengths: Iterable[Expression]) -> bool:
        """Bind attributes that hold any of these lengths because of a number that is computed from them."""
        learned = [self._bind_constant(site, replace(literal, value=length)) for length in lengths]
        return any(learned)

    def _bind_alike(self, literal: Literal, distance: int, path: Path) -> bool:
        """Bind the attribute of every other module that runs the same line of code on the same number."""
        new = []
        for other in self._alike(literal):
            owner = _nth(_outward(self._site(other).module), distance)
            if owner in self._by_name and read(self._by_name[owner], path) == self.space.size(other.value):
                wrong = (self.space.resolve(other.value), owner, path) in self._wrong
                new.append(not wrong and self._try(other, owner, path))
        return any(new)

    def _held(self, site: Site, value: Expression, name: str) -> list[Path]:
        """The attributes of a module that the code around a number mentions and that hold it; the shallowest ones.

        If it has none itself, those of its children.
        """
        module, size = self._by_name.get(name), self.space.size(value)
        if module is None:
            return []
        for lengths in (lengths_of(module), lengths_of_children(module)):
            found = [path for path, held in lengths if held == size and mentioned(path, site.code)]
            found = [path for path in found if (self.space.resolve(value), name, path) not in self._wrong]
            found = [path for path in found if self._settable(name, path)]
            if found:
                return [path for path in found if len(path) == min(map(len, found))]
        return []

    def _site(self, literal: Literal) -> Site:
        return self.solution.recordings[literal.recording].calls[literal.call].site

    def _alike(self, literal: Literal) -> list[Literal]:
        """The same argument of the same line of code, for every module that runs it."""
        where = self._site(literal).where
        return [o for o in self.solution.literals if o.path == literal.path and self._site(o).where == where]

    def _tie(self, other: Sequence[tuple[Mismatch, Literal]]) -> bool:
        """Numbers that became others than foretold: tie each to the length that it follows.

        An attribute that was bound because of such a number, or by a guess, may have been mistaken for another one that
        holds as much: it is bound to what follows it. Any other makes two lengths one.
        """
        doubtful = {self._tried[_key(literal)] for _, literal in other if _key(literal) in self._tried} | self.guessed
        found = [(literal, self._attribute(m, literal)) for m, literal in other]
        pairs: list[tuple[Expression, Expression]] = []
        for (mismatch, literal), (_, at) in zip(other, found, strict=True):
            if at is None:
                pairs += self._followed(mismatch, literal)
            elif at[1:] not in doubtful:
                pairs += [(literal.value, self.bindings[at[1:]]), *self._attribute_pairs(literal, at[0], at[2])]
        learned = [self._rebind(literal, *at[1:]) for literal, at in found if at is not None and at[1:] in doubtful]
        learned = learned if any(learned) else [self._unify(first, second) for first, second in pairs]
        return any(learned)

    def _attribute(self, mismatch: Mismatch, literal: Literal) -> tuple[int, str, Path] | None:
        """The bound attribute that a number follows: how far out, the module and the path."""
        old = self.space.size(literal.value)
        for distance, owner in enumerate(_outward(mismatch.site.module)):
            for (name, path), held in self.bindings.items():
                if name == owner and self.space.size(held) == old and self._new_size(held) == mismatch.actual:
                    return distance, name, path
        return None

    def _rebind(self, literal: Literal, module: str, path: Path) -> bool:
        """Bind an attribute to the length that follows it, instead of another one of the same size."""
        held, value = self.bindings[module, path], self.space.resolve(literal.value)
        if (value, module, path) in self._wrong or value == self.space.resolve(held):
            return self._unify(held, literal.value)
        self._wrong.add((self.space.resolve(held), module, path))
        self.bindings[module, path] = literal.value
        self.guessed.discard((module, path))
        self._tried = {key: at for key, at in self._tried.items() if at != (module, path)}
        self._tried[_key(literal)] = module, path
        return True

    def _followed(self, mismatch: Mismatch, literal: Literal) -> list[tuple[Expression, Expression]]:
        """The length that a number follows, as two lengths that are the same."""
        value, old, new = literal.value, self.space.size(literal.value), mismatch.actual
        seen = [(other, self.space.size(other), size_of(other, self._sizes)) for other in self._lengths_seen(mismatch)]
        for other, whole, new_whole in seen:
            if whole == old and new_whole == new:
                return [(value, other)]
        call = self.solution.recordings[mismatch.recording].calls[mismatch.call]
        for sibling in self.solution.values[mismatch.recording][
            call.outputs[0]
        ].dims:  # a quotient: the code divides one length by another
            divisor, new_divisor = self.space.size(sibling), self._new_size(sibling)
            for other, whole, new_whole in seen if not self._given(sibling) else ():
                if divisor > 1 and whole == divisor * old and new_whole // new_divisor == new:
                    return [(other, Product((sibling, value)))]
        return []

    def _given(self, value: Expression) -> bool:
        """Whether a length is that of the example, its batch size say: another example has another one."""
        return all(INPUT in self.space.reasons[axis] for axis in self.space.roots(value))

    def _attribute_pairs(self, literal: Literal, distance: int, path: Path) -> list[tuple[Expression, Expression]]:
        """A number follows a bound attribute, and so do those of other modules that run the same line of code."""
        pairs = []
        for other in self._alike(literal):
            bound = self.bindings.get((_nth(_outward(self._site(other).module), distance), path))
            if bound is not None and self.space.size(bound) == self.space.size(other.value):
                pairs.append((other.value, bound))
        return pairs

    def _lengths_seen(self, mismatch: Mismatch) -> Iterator[Expression]:
        """Every length that some axis can change, of tensors seen up to a call; its own module's and latest first."""
        recording, values = self.solution.recordings[mismatch.recording], self.solution.values[mismatch.recording]
        before = recording.calls[: mismatch.call]
        module = mismatch.site.module
        near = [call for call in before if within(call.site.module, module)]
        numbers = [n for call in (*reversed(near), *reversed(before)) for n in (*call.outputs, *references(call))]
        seen: set[Expression] = set()
        for dim in (d for n in dict.fromkeys(numbers) if n in values for d in values[n].dims):
            resolved = self.space.resolve(dim)
            if resolved not in seen and not self.space.frozen(resolved):
                seen.add(resolved)
                yield resolved

    def _unify(self, first: Expression, second: Expression) -> bool:
        """Whether making two lengths one says anything new."""
        before = self.space.resolve(first), self.space.resolve(second)
        return before[0] != before[1] and self.space.unify(first, second)

    def _explain_divergence(self, divergence: Divergence) -> bool:
        """The model's code raised: perhaps it compares attributes. Bind those of the innermost module, and the same
        ones of all modules of its kind: the same code is ahead there."""
        module = divergence.module
        if module is None:
            return False
        learned = self._bind_compared(module, divergence, [path for path, _ in lengths_of(module)])
        for other in self._by_name.values() if learned else ():
            if type(other) is type(module) and other is not module:
                self._bind_compared(other, divergence, learned)
        return bool(learned)

    def _bind_compared(self, module: nn.Module, divergence: Divergence, paths: Sequence[Path]) -> list[Path]:
        """Bind attributes of a module that the code mentions, or equate lengths of the size of one that is bound.
        Returns the paths of those that said anything new."""
        name, lengths = self._names[id(module)], self._lengths_of_module(self._names[id(module)], divergence.recording)
        free = [value for value in lengths if not any(self.space.reasons[axis] for axis in self.space.roots(value))]
        for known in (free, lengths):  # a product with the batch size, say, last
            fitting = [
                (path, [value for value in known if held == self.space.size(value)])
                for path, held in sorted(lengths_of(module), key=lambda found: -found[1])
                if path in paths and mentioned(path, divergence.code)
            ]
            new = [path for path, values in fitting if values and self._guess(name, path, values, lengths)]
            new = new or [next((p for p, values in fitting if self._equate(name, p, values, lengths)), ())]
            if any(new):
                return new
        return []

    def _guess(self, module: str, path: Path, values: Sequence[Expression], lengths: Sequence[Expression]) -> bool:
        """Bind an attribute, unless it is bound, to one of several lengths of its size, best to one that no other
        attribute holds and by which the code divides another."""
        if (module, path) in self.bindings or not self._settable(module, path):
            return False
        held = {self.space.resolve(v) for (m, p), v in self.bindings.items() if m == module and p != path}
        self.guessed.add((module, path))
        free = [v for v in values if self.space.resolve(v) not in held] or values
        return self._bind(module, path, next((v for v in free if self._divides(v, lengths)), free[0]))

    def _equate(self, module: str, path: Path, values: Sequence[Expression], lengths: Sequence[Expression]) -> bool:
        """That an attribute is bound did not help: all lengths of its size are one, but for those of which a third
        length is the product. One attribute at a time, the largest first: one of them may have been enough."""
        bound = self.bindings.get((module, path))
        if bound is None:
            return False
        learned = [self._unify(bound, v) for v in values if not self._multiplied(bound, v, lengths)]
        return any(learned)

    def _divides(self, value: Expression, lengths: Iterable[Expression]) -> bool:
        """Whether some length is a product with this one: to split it, the code must know a number."""
        products = [length for length in map(self.space.resolve, lengths) if isinstance(length, Product)]
        return any(self.space.resolve(value) in product.factors for product in products)

    def _multiplied(self, first: Expression, second: Expression, lengths: Iterable[Expression]) -> bool:
        """Whether some length is a product of two others."""
        pair = [self.space.resolve(first), self.space.resolve(second)]
        products = [length for length in map(self.space.resolve, lengths) if isinstance(length, Product)]
        return pair[0] != pair[1] and any(all(one in product.factors for one in pair) for product in products)

    def _lengths_of_module(self, name: str, recording: int) -> list[Expression]:
        """Lengths of the tensors that a module owns or works on."""
        values = self.solution.values[recording]
        found: dict[Expression, None] = {}
        for call in self.solution.recordings[recording].calls:
            if within(call.site.module, name):
                for output in call.outputs:
                    found.update(dict.fromkeys(self.space.resolve(dim) for dim in values[output].dims))
        for tensor, dims in self.solution.layouts.items():
            if tensor.startswith(f"{name}."):
                found.update(dict.fromkeys(self.space.resolve(dim) for dim in dims))
        return [value for value in found if not self.space.frozen(value)]


def _key(literal: Literal) -> tuple[int, int, tuple[int | str, ...]]:
    return literal.recording, literal.call, literal.path


def _nth(items: Iterable[str], n: int) -> str:
    """The n-th of some names, or a name that no module has."""
    return next(islice(items, n, None), "(none)")


def _outward(name: str) -> Iterator[str]:
    """A module's name, then its parents'."""
    while True:
        yield name
        if not name:
            return
        name = name.rpartition(".")[0]
