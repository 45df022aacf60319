"""Permissible means proven: give every candidate axis a new size at once, rehearse, and explain what differs.

A difference is explained in one of three ways, and the rehearsal is repeated until nothing differs: an attribute of a
module holds the old number (it is bound to the length, and lengths that share it become one axis); the number follows
another length (the two become one axis); or neither: the axis is frozen, with the line of code that fixes its size.

All new sizes are larger than the old ones, and all different. What other sizes may do, smaller ones or equal ones, is
seen from the comparisons that the code makes meanwhile: as long as each of them comes out as it did, the code goes the
way that was proven, be it that of the old sizes or that of the new ones. They are the map's guards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn
from torch._ops import OpOverload

from meristem.axes.explain import Explainer
from meristem.axes.expression import Leaf, leaves
from meristem.axes.guards import Guard, Quantity, computed, either, replaced
from meristem.axes.map import AttributeBinding, Coupling, Example
from meristem.axes.rehearsal import Mismatch, Outcome, rehearse
from meristem.axes.scaled import scaled
from meristem.axes.solution import Solution

_ROUNDS = 40
_BRIEF = 2
"""So many rehearsals may be brief: the first binds attributes, the second ties the numbers that follow from them."""


class Proof:
    """The proof that a solved model can be edited; it binds, ties and freezes axes of the solution until it holds."""

    def __init__(
        self, model: nn.Module, examples: Sequence[Example], solution: Solution, known: Callable[[OpOverload], bool]
    ) -> None:
        self.model = model
        self.examples = examples
        self.solution = solution
        self.space = solution.space
        self._known = known
        self._explainer = Explainer(model, solution)

    def run(self) -> tuple[AttributeBinding, ...]:
        """Rehearse until all candidates can be resized at once. Returns the attributes that must change with them."""
        self._explainer.begin()
        brief = _BRIEF
        for _ in range(_ROUNDS):
            candidates = self.candidates()
            new_sizes = self._distinct(candidates)
            outcome = self._rehearse(new_sizes, brief=brief > 0, watched=True) if candidates else None
            brief -= 1
            if outcome is None:
                break
            if outcome.passed:
                outcome = self._drop_needless(outcome, new_sizes)
                self._couple_scaled(outcome, new_sizes)
                self._guard(outcome, new_sizes)
                break
            if self._explainer.explain(outcome, new_sizes):
                continue
            if outcome.cut:
                brief = 0  # see all of it before anything is given up
            else:
                self._give_up(outcome, candidates)
        else:
            self._freeze_culprits(self.candidates())
            new_sizes = self._distinct(self.candidates())
            outcome = self._rehearse(new_sizes, watched=True)
            self._couple_scaled(outcome, new_sizes)
            self._guard(outcome, new_sizes)
        return self._explainer.attribute_bindings()

    def _drop_needless(self, outcome: Outcome, new_sizes: Mapping[int, int]) -> Outcome:
        """Unbind attributes that were bound on suspicion, all of one name at once, if the rehearsal passes without.
        Returns the outcome with those that stay."""
        bindings = self._explainer.bindings
        for path in {path for _, path in self._explainer.guessed}:
            kept = {key: value for key, value in bindings.items() if key in self._explainer.guessed and key[1] == path}
            for key in kept:
                del bindings[key]
            without = self._rehearse(new_sizes, watched=True)
            if without.passed:
                outcome = without
            else:
                bindings.update(kept)
        return outcome

    def candidates(self) -> list[int]:
        """Representative axes of parameters and buffers that nothing has frozen yet."""
        found: dict[int, None] = {}
        for dims in self.solution.layouts.values():
            for dim in dims:
                found.update(dict.fromkeys(leaves(self.space.resolve(dim))))
        return [axis for axis in found if not self.space.reasons[axis]]

    def _rehearse(self, new_sizes: Mapping[int, int], **how: bool) -> Outcome:
        bindings = self._explainer.attribute_bindings()
        return rehearse(self.model, self.examples, self.solution, bindings, new_sizes, self._known, **how)

    def _distinct(self, candidates: Iterable[int]) -> dict[int, int]:
        """New sizes, all different and far from the old ones, so that a number tells its axis; less far where a
        rehearsal computes on real tensors, which products of new sizes would make very large."""
        real = any(recording.real for recording in self.solution.recordings)
        least, apart = (17, 0) if real else (97, 6)
        chosen: dict[int, int] = {}
        taken = set(self.space.sizes)
        for step, axis in enumerate(candidates):
            size = self.space.sizes[axis] + least + apart * step
            while size in taken:
                size += 1
            taken.add(size)
            chosen[axis] = size
        return chosen

    def _couple_scaled(self, outcome: Outcome, new_sizes: Mapping[int, int]) -> None:
        """A number that is not a length changed with the sizes, 1/sqrt(head size) say: growth is not exact."""
        dims = (dim for values in self.solution.values for value in values.values() for dim in value.dims)
        for axis, powers in scaled(outcome, new_sizes, self.space, dims, self._rehearse).items():
            self.space.couplings[axis].add(Coupling.SCALED)
            self.solution.powers[axis] = powers

    def _guard(self, outcome: Outcome, new_sizes: Mapping[int, int]) -> None:
        """Keep what the code compared: an edit must not turn it. Where comparisons came out differently at the new
        sizes, two ways through the code are proven, and sizes must lead to one of them."""
        if not outcome.comparisons:
            return
        sizes = {**dict(enumerate(self.space.sizes)), **new_sizes}
        before = self._compared(self._rehearse({}, watched=True))  # the numbers of the code, as they are now
        kept = {guard: None for guard in before if guard.kept(sizes)}
        found = dict(kept)
        single = {axis for guard in found if guard.only_single for axis in guard.axes}
        if single:
            alone = {axis: 1 if axis in single else size for axis, size in new_sizes.items()}
            if self._rehearse(alone, lenient=True).passed:
                found = {guard: None for guard in found if not guard.only_single}
        self.solution.guards.update(found)
        self.solution.guards.update(dict.fromkeys(self._ways(before, self._compared(outcome), kept, new_sizes)))

    def _compared(self, outcome: Outcome) -> dict[Guard, None]:
        """What the code compared on its way through a rehearsal that an edit may turn."""
        found: dict[Guard, None] = {}
        for guard in outcome.comparisons:
            left, right = (replaced(side, self._resolved) for side in (guard.left, guard.right))
            guard = replace(guard, left=left, right=right)
            if any(not self.space.reasons[axis] for axis in guard.axes) and left != right and not guard.trivial:
                found.setdefault(guard)
        return found

    def _ways(
        self, before: Iterable[Guard], after: Iterable[Guard], kept: Mapping[Guard, None], new_sizes: Mapping[int, int]
    ) -> Iterator[Guard]:
        """That what came out differently at the new sizes does so as a whole, or not at all; for axes apart that have
        nothing to do with one another. One comparison for itself may come out as it likes."""
        one, other = ([guard for guard in way if guard not in kept] for way in (before, after))
        groups = [group for group in _connected([*one, *other, *kept], new_sizes) if _over(one + other, group)]
        if len(groups) > 1 and not self._apart(groups, one, other, kept, new_sizes):
            groups = [frozenset().union(*groups)]
        for group in groups:
            ways = _over(one, group), _over(other, group)
            if all(ways) and len({guard.compared for way in ways for guard in way}) > 1:
                yield either(*ways)

    def _apart(
        self,
        groups: Sequence[frozenset[int]],
        one: Sequence[Guard],
        other: Sequence[Guard],
        kept: Mapping[Guard, None],
        new_sizes: Mapping[int, int],
    ) -> bool:
        """Whether groups of axes change the way independently: rehearsed in turn with new sizes for about half of them,
        so that each two come to differ both ways."""
        for bit in range((len(groups) - 1).bit_length()):
            for side in (0, 1):
                new = frozenset().union(*(group for n, group in enumerate(groups) if n >> bit & 1 == side))
                outcome = self._rehearse({axis: new_sizes[axis] for axis in new}, watched=True)
                foretold = {*_over(other, new), *(guard for guard in one if new.isdisjoint(guard.axes))}
                if not outcome.passed or {*self._compared(outcome)} - kept.keys() != foretold:
                    return False
        return True

    def _resolved(self, leaf: Leaf) -> Quantity:
        return computed(self.space.resolve(leaf), lambda root: root)

    def _give_up(self, outcome: Outcome, candidates: Sequence[int]) -> None:
        """Freeze what cannot be explained."""
        for mismatch in outcome.mismatches:
            reason = _reason(outcome, mismatch)
            if mismatch.literal is not None:
                self.space.freeze(mismatch.literal.value, reason)
                continue
            values = self.solution.values[mismatch.recording]
            for output in self.solution.recordings[mismatch.recording].calls[mismatch.call].outputs:
                for dim in values[output].dims:
                    self.space.freeze(dim, reason)
        if len(self.candidates()) == len(candidates):
            self._freeze_culprits(candidates)

    def _freeze_culprits(self, candidates: Sequence[int]) -> None:
        """Find by bisection the axes whose change alone makes the rehearsal fail, and freeze them."""
        sizes = self._distinct(self.candidates())
        chosen = {axis: sizes[axis] for axis in candidates if axis in sizes}
        outcome = self._rehearse(chosen) if chosen else None
        if outcome is None or outcome.passed:
            return
        axes, before = list(chosen), len(sizes)
        if len(axes) > 1:
            middle = len(axes) // 2
            self._freeze_culprits(axes[:middle])
            self._freeze_culprits(axes[middle:])
        if len(self.candidates()) == before:  # a single one, or several that only fail together
            for axis in axes:
                self.space.reasons[axis].setdefault(_reason(outcome, next(iter(outcome.mismatches), None)))


def _connected(guards: Iterable[Guard], axes: Iterable[int]) -> list[frozenset[int]]:
    """Groups of axes: those that some comparison is about are in one."""
    groups: list[frozenset[int]] = []
    for guard in guards:
        joined = guard.axes.intersection(axes)
        met = [group for group in groups if not group.isdisjoint(joined)]
        groups = [*(group for group in groups if group not in met), joined.union(*met)]
    return [group for group in groups if group]


def _over(guards: Iterable[Guard], axes: frozenset[int]) -> list[Guard]:
    """The comparisons that are about some of these axes."""
    return [guard for guard in guards if not axes.isdisjoint(guard.axes)]


def _reason(outcome: Outcome, mismatch: Mismatch | None) -> str:
    """Why an axis is frozen, by what a rehearsal with its size changed ran into."""
    if mismatch is not None:
        return f"the code at {mismatch.site.where} fixes its size"
    divergence = outcome.divergence
    assert divergence is not None, "a rehearsal without mismatch or divergence has passed"
    return f"the code at {divergence.where} fixes its size ({divergence.message.splitlines()[0]})"
