"""Permissible means proven: give every candidate axis a new size at once, rehearse, and explain what differs.

A difference is explained in one of three ways, and the rehearsal is repeated until nothing differs:
an attribute of a module holds the old number (it is bound to the length, and lengths that share it become one axis); the
number follows another length (the two become one axis); or neither: the axis is frozen, with the line of code that fixes
its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from torch import nn
from torch._ops import OpOverload

from meristem.axes.attributes import Path, lengths_of, mentioned, read
from meristem.axes.expression import Expression, Product, leaves, size_of
from meristem.axes.map import AttributeBinding, Coupling
from meristem.axes.recorder import Site, references
from meristem.axes.rehearsal import Divergence, Mismatch, Outcome, rehearse
from meristem.axes.solver import Literal, Solution

Example = tuple[tuple[Any, ...], Mapping[str, Any], bool]

_ROUNDS = 40


class Proof:
    """The proof that a solved model can be edited, and what had to be assumed for it.

    Attributes:
        bindings: attributes that must change with the axes, by (module, path).
    """

    def __init__(
        self, model: nn.Module, examples: Sequence[Example], solution: Solution, known: Callable[[OpOverload], bool]
    ) -> None:
        self.model = model
        self.examples = examples
        self.solution = solution
        self.space = solution.space
        self.bindings: dict[tuple[str, Path], Expression] = {}
        self._known = known
        self._names = {id(module): name for name, module in model.named_modules()}
        self._by_name = dict(model.named_modules())

    def run(self) -> None:
        """Bind, tie and freeze until a rehearsal with all candidates resized goes as predicted."""
        self._bind_facts()
        self._bind_likely()
        for _ in range(_ROUNDS):
            candidates = self.candidates()
            if not candidates:
                return
            new_sizes = self._distinct(candidates)
            outcome = self._rehearse(new_sizes)
            self._note_scalars(outcome, new_sizes)
            if outcome.passed:
                return
            if not self._explain(outcome, new_sizes):
                self._give_up(outcome, candidates)
        self._freeze_culprits(self.candidates(), "meristem could not prove that it may be edited")

    def candidates(self) -> list[int]:
        """Representative axes of parameters and buffers that nothing has frozen yet."""
        found: dict[int, None] = {}
        for dims in self.solution.layouts.values():
            for dim in dims:
                found.update(dict.fromkeys(leaves(self.space.resolve(dim))))
        return [axis for axis in found if not self.space.reasons[axis]]

    def attribute_bindings(self) -> tuple[AttributeBinding, ...]:
        """The bindings whose value some editable axis changes."""
        return tuple(
            AttributeBinding(module, path, self.space.resolve(value))
            for (module, path), value in self.bindings.items()
            if not self.space.frozen(value)
        )

    def _rehearse(self, new_sizes: Mapping[int, int]) -> Outcome:
        return rehearse(self.model, self.examples, self.solution, self.attribute_bindings(), new_sizes, self._known)

    def _distinct(self, candidates: Iterable[int]) -> dict[int, int]:
        """New sizes such that no two axes of equal size stay equal, far from all old ones, so that a number tells its axis."""
        return {axis: self.space.sizes[axis] + 97 + 6 * step for step, axis in enumerate(candidates)}

    # ------------------------------------------------------------------ bindings

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
        held = self.bindings.setdefault((module, path), value)
        if held is value:
            return True
        return self._unify(held, value)

    # ------------------------------------------------------------------ explanations

    def _explain(self, outcome: Outcome, new_sizes: Mapping[int, int]) -> bool:
        """Whether anything new was learned. Attributes first: other numbers may follow from them."""
        numbers = [(m, m.literal) for m in outcome.mismatches if m.literal is not None]
        constant = [m for m, literal in numbers if m.actual == self.space.size(literal.value)]
        if any([self._bind_constant(m.site, literal) for m, literal in numbers if m in constant]):
            return True
        if any([self._bind_whole(literal) for m, literal in numbers if m in constant]):
            return True
        pairs = [pair for m, literal in numbers if m not in constant for pair in self._followed(m, literal, new_sizes)]
        if any([self._unify(first, second) for first, second in pairs]):
            return True
        return outcome.divergence is not None and self._explain_divergence(outcome.divergence)

    def _bind_likely(self) -> None:
        """A number that the code around it takes from one attribute only: bound at once, which saves rehearsals."""
        found: dict[tuple[str, Path], dict[Expression, None]] = {}
        for literal in self.solution.literals:
            if not self.space.frozen(literal.value):
                site = self._site(literal)
                held = self._held(site, literal.value, site.module)
                if len(held) == 1:
                    found.setdefault((site.module, held[0]), {})[self.space.resolve(literal.value)] = None
        for (name, path), values in found.items():
            if len(values) == 1:
                self._bind(name, path, next(iter(values)))

    def _bind_constant(self, site: Site, literal: Literal) -> bool:
        """The code passed the old number again: find the attribute that holds it, innermost module first."""
        for distance, name in enumerate(_outward(site.module)):
            for path in self._held(site, literal.value, name):
                new = [self._bind(name, path, literal.value), self._bind_alike(literal, distance, path)]
                if any(new):
                    return True
        return False

    def _bind_whole(self, literal: Literal) -> bool:
        """The code computes the number from a longer length that an attribute holds, half of all channels say."""
        call, values = self.solution.recordings[literal.recording].calls[literal.call], self.solution.values
        roots = self.space.roots(literal.value)
        operands = [values[literal.recording][n] for n in references(call) if n in values[literal.recording]]
        wholes = [dim for value in operands for dim in value.dims if roots & self.space.roots(dim)]
        return any([self._bind_constant(call.site, replace(literal, value=whole)) for whole in wholes])

    def _bind_alike(self, literal: Literal, distance: int, path: Path) -> bool:
        """Bind the attribute of every other module that runs the same line of code on the same number."""
        new = []
        for other in self._alike(literal):
            owner = nth(_outward(self._site(other).module), distance)
            if owner in self._by_name and read(self._by_name[owner], path) == self.space.size(other.value):
                new.append(self._bind(owner, path, other.value))
        return any(new)

    def _held(self, site: Site, value: Expression, name: str) -> list[Path]:
        """The attributes of a module that the code around a number mentions and that hold it; the shallowest ones."""
        module, size = self._by_name.get(name), self.space.size(value)
        found = [] if module is None else [p for p, n in lengths_of(module) if n == size and mentioned(p, site.code)]
        return [path for path in found if len(path) == min(map(len, found))]

    def _site(self, literal: Literal) -> Site:
        return self.solution.recordings[literal.recording].calls[literal.call].site

    def _alike(self, literal: Literal) -> list[Literal]:
        """The same argument of the same line of code, for every module that runs it."""
        where = self._site(literal).where
        return [o for o in self.solution.literals if o.path == literal.path and self._site(o).where == where]

    def _followed(
        self, mismatch: Mismatch, literal: Literal, new_sizes: Mapping[int, int]
    ) -> list[tuple[Expression, Expression]]:
        """The code passed another new number: the length that it follows, as two lengths that are the same."""
        value = literal.value
        sizes = {**dict(enumerate(self.space.sizes)), **new_sizes}
        old, new = self.space.size(value), mismatch.actual
        for distance, owner in enumerate(_outward(mismatch.site.module)):
            for (name, path), other in self.bindings.items():
                same = name == owner and self.space.size(other) == old
                if same and size_of(self.space.resolve(other), sizes) == new:
                    return [(value, other), *self._attribute_pairs(literal, distance, path)]
        seen = [(other, self.space.size(other), size_of(other, sizes)) for other in self._lengths_seen(mismatch)]
        for other, whole, new_whole in seen:
            if whole == old and new_whole == new:
                return [(value, other)]
        call = self.solution.recordings[mismatch.recording].calls[mismatch.call]
        for sibling in self.solution.values[mismatch.recording][
            call.outputs[0]
        ].dims:  # a quotient: the code divides one length by another
            divisor, new_divisor = self.space.size(sibling), size_of(self.space.resolve(sibling), sizes)
            for other, whole, new_whole in seen:
                if divisor > 1 and whole == divisor * old and new_whole // new_divisor == new:
                    return [(other, Product((sibling, value)))]
        return []

    def _attribute_pairs(self, literal: Literal, distance: int, path: Path) -> list[tuple[Expression, Expression]]:
        """A number follows a bound attribute, and so do those of other modules that run the same line of code."""
        pairs = []
        for other in self._alike(literal):
            bound = self.bindings.get((nth(_outward(self._site(other).module), distance), path))
            if bound is not None and self.space.size(bound) == self.space.size(other.value):
                pairs.append((other.value, bound))
        return pairs

    def _lengths_seen(self, mismatch: Mismatch) -> Iterator[Expression]:
        """Every length that some axis can change, of the tensors seen up to a call: its own module's first, latest first."""
        recording, values = self.solution.recordings[mismatch.recording], self.solution.values[mismatch.recording]
        before = recording.calls[: mismatch.call]
        module = mismatch.site.module
        near = [call for call in before if call.site.module == module or call.site.module.startswith(f"{module}.")]
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
        """The model's code raised: perhaps it compares attributes. Bind those of the innermost module."""
        module = divergence.module
        if module is None:
            return False
        name = self._names[id(module)]
        new = [
            self._bind(name, path, value)
            for path, held in lengths_of(module)
            if mentioned(path, divergence.code)
            for value in self._lengths_of_module(name, divergence.recording)
            if self.space.size(value) == held
        ]
        return any(new)

    def _lengths_of_module(self, name: str, recording: int) -> list[Expression]:
        """Lengths of the tensors that a module owns or works on."""
        values = self.solution.values[recording]
        found: dict[Expression, None] = {}
        for call in self.solution.recordings[recording].calls:
            if call.site.module == name or call.site.module.startswith(f"{name}."):
                for output in call.outputs:
                    found.update(dict.fromkeys(self.space.resolve(dim) for dim in values[output].dims))
        for tensor, dims in self.solution.layouts.items():
            if tensor.startswith(f"{name}."):
                found.update(dict.fromkeys(self.space.resolve(dim) for dim in dims))
        return [value for value in found if not self.space.frozen(value)]

    def _note_scalars(self, outcome: Outcome, new_sizes: Mapping[int, int]) -> None:
        """A number that is not a length changed with the sizes, 1/sqrt(head size) say: growth is not exact."""
        for _recording, _call, ratio in outcome.scalars:
            exact = [
                axis
                for axis, new in new_sizes.items()
                for power in (-1.0, -0.5, 0.5, 1.0)
                if abs((new / self.space.sizes[axis]) ** power / ratio - 1) < 1e-9
            ]
            for axis in exact or new_sizes:
                self.space.couplings[axis].add(Coupling.SCALED)

    # ------------------------------------------------------------------ giving up

    def _give_up(self, outcome: Outcome, candidates: Sequence[int]) -> None:
        """Freeze what cannot be explained."""
        for mismatch in outcome.mismatches:
            reason = f"the code at {mismatch.site.where} fixes its size"
            if mismatch.literal is not None:
                self.space.freeze(mismatch.literal.value, reason)
                continue
            values = self.solution.values[mismatch.recording]
            for output in self.solution.recordings[mismatch.recording].calls[mismatch.call].outputs:
                for dim in values[output].dims:
                    self.space.freeze(dim, reason)
        if not outcome.mismatches and outcome.divergence is not None:
            divergence = outcome.divergence
            reason = f"the code at {divergence.where} fixes its size ({divergence.message.splitlines()[0]})"
            self._freeze_culprits(candidates, reason)

    def _freeze_culprits(self, candidates: Sequence[int], reason: str) -> None:
        """Find by bisection the axes whose change alone makes the rehearsal fail, and freeze them."""
        if not candidates:
            return
        sizes = self._distinct(self.candidates())
        chosen = {axis: sizes[axis] for axis in candidates if axis in sizes}
        if not chosen or self._rehearse(chosen).passed:
            return
        if len(chosen) == 1:
            self.space.reasons[next(iter(chosen))].setdefault(reason)
            return
        axes = list(chosen)
        middle = len(axes) // 2
        before = len(self.candidates())
        self._freeze_culprits(axes[:middle], reason)
        self._freeze_culprits(axes[middle:], reason)
        if len(self.candidates()) == before:  # neither half fails alone: they only fail together
            for axis in axes:
                self.space.reasons[axis].setdefault(reason)


def nth(items: Iterable[str], n: int) -> str:
    """The n-th of some names, or a name that no module has."""
    return next(islice(items, n, None), "(none)")


def _outward(name: str) -> Iterator[str]:
    """A module's name, then its parents'."""
    while True:
        yield name
        if not name:
            return
        name = name.rpartition(".")[0]
