"""What is measured of every unit, as one table an axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from meristem.axes.map import AxisMap, Role
from meristem.diagnose.record import MEASURES
from meristem.signals.step_activity import ActivitySums
from meristem.signals.weight_gradients import Slices, weights_of


@dataclass(frozen=True, eq=False)
class Sample:
    """What was measured in one step, not yet in its final form: that waits until somebody asks.

    Attributes:
        step: the optimizer step.
        silent: axes that were not heard, with the reason.
        sizes: by name of axis, its number of units.
        rows: for each of them, what sums of activities and sums of gradients are to be divided by.
        norms: by name of axes whose activity cannot be measured, the squared norms of fan-in and fan-out.
        numbers: sums, squares of norms, and anything where the utility will be: measure by measure, axis by axis.
    """

    step: int
    silent: Mapping[str, str]
    sizes: Mapping[str, int]
    rows: tuple[tuple[int, int], ...]
    norms: Mapping[str, tuple[Tensor, Tensor]]
    numbers: Tensor

    @property
    def finite(self) -> bool:
        """Whether every number is."""
        return not self.sizes or isfinite(self.numbers.sum(dtype=torch.float64).item())

    def tables(self) -> dict[str, Tensor]:
        """The measures of every unit, in the order of `MEASURES`.

        Returns:
            by name of axis: float64, shape (measures, axis.size), on the CPU.
        """
        if not self.sizes:
            return {}
        table = self.numbers.double().cpu().view(len(MEASURES), -1)
        sizes = list(self.sizes.values())
        read, given = torch.tensor(self.rows).repeat_interleave(torch.tensor(sizes), 0).unbind(1)
        table[_READ].div_(read)
        table[_GRADIENT].div_(given)
        table[_NORMS].sqrt_()
        torch.mul(table[_SIZE], table[_FAN_OUT], out=table[_UTILITY])
        return dict(zip(self.sizes, table.split(sizes, 1), strict=True))


class Weights:
    """The weights of some axes, as they are whenever they are asked for.

    Args:
        axes: the map.
        names: of the axes.
        others: of those whose activity cannot be measured.
    """

    def __init__(self, axes: AxisMap, names: Iterable[str], others: Iterable[str] = ()) -> None:
        self._model, self._others = axes.model, tuple(others)
        chosen = {name: axes.by_name[name] for name in (*names, *self._others)}
        self._used = tuple(dict.fromkeys(weight for axis in chosen.values() for weight in weights_of(axes, axis)))
        self._slices = {
            name: (Slices(axes, axis, Role.PRODUCES), Slices(axes, axis, Role.READS)) for name, axis in chosen.items()
        }

    def sample(self, sums: Mapping[str, ActivitySums], silent: Mapping[str, str], step: int) -> Sample:
        """What was heard of some of the axes, beside the norms of their weights."""
        tensors = {weight: self._model.get_parameter(weight).detach() for weight in self._used}
        rows: list[tuple[Tensor, ...]] = []
        for name, found in sums.items():
            active, size = found.sums
            into, out = (slices.squares(tensors) for slices in self._slices[name])
            rows.append((active, size, found.gradient, into, out, found.fan_in_squares, found.fan_out_squares, size))
        sizes = {name: len(found.gradient) for name, found in sums.items()}
        counts = tuple((found.read_rows, found.given_rows) for found in sums.values())
        norms: dict[str, tuple[Tensor, Tensor]] = {}
        for name in self._others:
            into, out = self._slices[name]
            norms[name] = into.squares(tensors), out.squares(tensors)
        return Sample(step, silent, sizes, counts, norms, _joined(rows))


def _joined(rows: list[tuple[Tensor, ...]]) -> Tensor:
    """Measure by measure, on the device of the first."""
    if not rows:
        return torch.zeros(0)
    device = rows[0][0].device
    return torch.cat([found.to(device) for measure in zip(*rows, strict=True) for found in measure])


_READ = slice(MEASURES.index("frequency"), MEASURES.index("size") + 1)
_GRADIENT = MEASURES.index("gradient")
_SIZE, _FAN_OUT, _UTILITY = (MEASURES.index(name) for name in ("size", "fan_out", "utility"))
_NORMS = slice(MEASURES.index("fan_in"), MEASURES.index("fan_out_gradient") + 1)
