"""What units meet in operators besides themselves: entries of their own that do nothing, and numbers that all share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from meristem.axes.attributes import mentioned, numbers_of
from meristem.axes.expression import Expression, leaves
from meristem.axes.live import Computed, Live, Model, owner
from meristem.axes.map import TensorLayout
from meristem.axes.operators import elementwise
from meristem.axes.path import Born, Slot, Step
from meristem.axes.recorder import Call, Recording, Ref, Site, references
from meristem.axes.solution import Value


class Operands:
    """The operands of one recording, noted call by call.

    Args:
        recording: the calls.
        values: what is known of each tensor, by its number.
        layouts: the finished layouts.
        model: the model, for numbers that it holds.
        dims: gives the dimensions of a tensor over numbered axes.
    """

    def __init__(
        self,
        recording: Recording,
        values: Mapping[int, Value],
        layouts: Mapping[str, TensorLayout],
        model: Model,
        dims: Callable[[int], tuple[Expression, ...]],
    ) -> None:
        self._recording, self._values, self._layouts, self._model, self._dims = recording, values, layouts, model, dims
        self._held = frozenset(recording.named.values())
        self._live: dict[int, Live] = {}
        for name, ref in recording.named.items():
            module, _, own = name.rpartition(".")
            self._live[ref] = Live(module, (own,))

    def note(self, call: Call) -> None:
        """Take a call into account: what it makes of one number that a module holds is such a number too."""
        made = self._made(call)
        for out in call.outputs:
            if made is not None and len(call.outputs) == 1:
                self._live[out] = made
            elif out not in self._held:
                self._live.pop(out, None)

    def _made(self, call: Call) -> Live | None:
        sources = dict.fromkeys(references(call))
        source = self._live.get(next(iter(sources), -1)) if len(sources) == 1 else None
        drawn = torch.Tag.nondeterministic_seeded in call.operator.tags
        if source is None or drawn or self._held.intersection(call.outputs):
            return None  # what a module holds is read as it is when the model has run, in-place operators and all
        if not (elementwise(call.operator) or call.name == "aten.select" or self._alone(*sources)):
            return None
        args, kwargs = self.arguments(call, lambda _: Slot())
        return Live(source.module, source.path, (*source.steps, Step(call.operator, args, kwargs)))

    def shared(self, ref: int) -> bool:
        """Whether an operand is one number that is known at any time, the same for all units."""
        return ref in self._live and self._alone(ref)

    def neutral(self, ref: int, axis: int) -> float | None:
        """The entry with which newborns of an axis are born in an operand that is made of parameters and carries it, or
        None if no one number is known."""
        value = self._values.get(ref)
        if value is None or not value.static:
            return None
        carrying = (o for dim, o in zip(self._dims(ref), value.origins, strict=True) if axis in leaves(dim))
        found = {self._layouts[name].neutral for origins in carrying for name, _ in origins}
        return found.pop() if len(found) == 1 else None

    def step(self, call: Call, source: int, born: Mapping[int, float] | None = None) -> Step:
        """A call in which units meet nothing but shared numbers, and numbers of their own that newborns are born with.

        Args:
            call: the call.
            source: the units.
            born: the numbers of newborns, by operand.
        """
        own = {ref: Born(number) for ref, number in (born or {}).items()}

        def filled(ref: int) -> Slot | Born | Live:
            return Slot() if ref == source else own[ref] if ref in own else self._live[ref]

        args, kwargs = self.arguments(call, filled)
        args = tuple(self._number(item, call.site) for item in args)
        return Step(call.operator, args, {key: self._number(item, call.site) for key, item in kwargs.items()})

    def _alone(self, ref: int) -> bool:
        return torch.Size(self._recording.shapes[ref]).numel() == 1

    @staticmethod
    def arguments(call: Call, filled: Callable[[int], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call, tensors replaced."""

        def visit(item: Any) -> Any:
            if isinstance(item, Ref):
                return filled(item.value)
            return type(item)(visit(i) for i in item) if isinstance(item, (list, tuple)) else item

        return tuple(visit(arg) for arg in call.args), {key: visit(value) for key, value in call.kwargs.items()}

    def _number(self, item: Any, site: Site) -> Any:
        """A number with where it comes from: a constant of the code, an attribute of the module that is being run, or,
        where the code mentions attributes that are no whole numbers, perhaps computed from these. What else code
        computes numbers from is not known; they count as constants."""
        if not isinstance(item, (int, float)) or isinstance(item, bool):
            return item
        written = (constant for code in site.code for constant in code.co_consts if type(constant) is type(item))
        constant, held = item in written, tuple(self._mentioned(site))
        same = [path for path, number in held if number == item]
        if len(same) == 1 and not constant:
            return Live(site.module, same[0])
        watched = tuple((p, n) for p, n in held if n == item or (isinstance(n, float) and not constant))
        return Computed(item, site.module, watched, site.where) if watched else item

    def _mentioned(self, site: Site) -> Iterator[tuple[tuple[str | int, ...], int | float]]:
        for path, number in numbers_of(owner(self._model, site.module)):
            if mentioned(path, site.code):
                yield path, number
