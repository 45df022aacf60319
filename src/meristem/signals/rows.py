"""What is read of units, number by number, in forward passes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.signals.contraction import read_call
from meristem.signals.ends import Ends
from meristem.signals.forward import Calls


@dataclass(eq=False)
class Rows:
    """What the first reader of each axis reads, in all its calls.

    Attributes:
        found: by name of axis, one tensor a call, shape (samples * positions, units); float32 or better. An axis of
            which no reader was called is missing.
    """

    axes: AxisMap
    wanted: Sequence[Axis]
    found: dict[str, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ends = Ends(self.axes, self.wanted)
        names = {name for names in self._ends.weights for name in names}
        self._names = {id(self.axes.model.get_parameter(name)): name for name in names}
        self._ranks: dict[str, int] = {}

    def of(self, name: str) -> Tensor:
        """All rows of one axis, shape (rows, units)."""
        return torch.cat(self.found[name])

    def hear(self, calls: dict[str, int], function: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """One call of the model's code."""
        call = read_call(function, args, kwargs)
        weight = None if call is None else self._names.get(id(call.weight))
        if call is None or weight is None:
            return
        number = calls.get(weight, 0)
        calls[weight] = number + 1
        x = call.input.detach()
        for side in self._ends.readers(weight, number):
            name = self.wanted[side.number].name
            known = self._ranks.setdefault(name, side.rank)
            if side.rank > known:
                continue
            if side.rank < known:
                self._ranks[name], self.found[name] = side.rank, []
            rows = side.channels.rows(x, x.dim() - 1 - len(call.contraction.kernel))
            self.found.setdefault(name, []).append(rows.to(torch.promote_types(rows.dtype, torch.float32)))


@contextmanager
def rows_read(axes: AxisMap, wanted: Sequence[Axis]) -> Iterator[Rows]:
    """Within it the forward passes of the model that record gradients are heard; nothing is left behind."""
    rows = Rows(axes, wanted)
    calls = Calls(axes.model, lambda: partial(rows.hear, {}))
    try:
        yield rows
    finally:
        calls.close()
