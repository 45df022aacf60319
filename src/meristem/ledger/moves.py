"""What single weights could do: their gradients, also where they are not there, and how strongly they are driven."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from meristem.axes.map import AxisMap
from meristem.mask.inputs import energy
from meristem.signals.contraction import read_call
from meristem.signals.direct import Direct, Sums, Tap
from meristem.signals.forward import Calls
from meristem.signals.weight_gradients import Learner, hear_weights


@dataclass(frozen=True, eq=False)
class Moves:
    """The result of `WeightMoves`: float64 on the parameter's device, in its shape.

    Attributes:
        gradient: the mean over passes of dL/dw, for weights that are not there too.
        square: the mean over passes of its square.
        drive: the sum over positions of the square of what the weight is multiplied with, averaged over samples: how
            far, squared, the weight would move what its output is if it changed by 1.
    """

    gradient: Tensor
    square: Tensor
    drive: Tensor


@dataclass(frozen=True)
class WeightMoves(Direct):
    """The gradient and the drive of every weight of one parameter, by hooks, during ordinary training steps.

    Heard are linear maps and convolutions wherever the model calls them with the parameter itself. Passes whose
    gradients are not finite are left out. Over ranks everything adds up.

    Attributes:
        axis: here the name of the parameter.
    """

    @classmethod
    def tap(cls, axes: AxisMap, asked: Sequence[WeightMoves], scale: Callable[[], float]) -> Tap:
        return _Tap(axes, asked, scale)


@dataclass(eq=False)
class _Sums(Sums, Learner):
    kept: ClassVar[tuple[str, ...]] = ("totals", "counts")

    totals: Tensor
    """Gradients, their squares and drives, stacked."""
    counts: Tensor
    """Passes and samples."""
    overflow: Callable[[], None]

    def weights(self, axes: AxisMap, axis: Any) -> Sequence[str]:
        return ()

    def learn(self, weight: str, gradient: Tensor) -> None:
        found = gradient.to_dense().to(self.totals)
        if not bool(found.isfinite().all()):
            self.overflow()
            return
        self.totals[0] += found
        self.totals[1] += found.square()
        self.counts[0] += 1

    def drive(self, found: Tensor, samples: int) -> None:
        """Take in what a call was given."""
        self.totals[2] += found.to(self.totals)
        self.counts[1] += samples

    def parts(self) -> Sequence[Tensor]:
        return self.totals, self.counts

    def result(self) -> Moves:
        passes, samples = self.counts.tolist()
        return Moves(self.totals[0] / passes, self.totals[1] / passes, self.totals[2] / samples)


class _Tap(Tap):
    """Hooks on parameters, and a look at every call of a forward pass that contracts something with one of them."""

    def __init__(self, axes: AxisMap, asked: Sequence[WeightMoves], scale: Callable[[], float]) -> None:
        weights = {s.axis: axes.model.get_parameter(s.axis) for s in asked}
        self._by_weight = {id(weight): name for name, weight in weights.items()}
        self._found = {
            name: _Sums(
                torch.zeros(3, *w.shape, dtype=torch.float64, device=w.device),
                torch.zeros(2, dtype=torch.float64, device=w.device),
                self._overflow,
            )
            for name, w in weights.items()
        }
        self.sums: Mapping[Any, _Sums] = {s: self._found[s.axis] for s in asked}
        self._handles = hear_weights(axes.model, {name: [one] for name, one in self._found.items()}, scale)
        self._calls = Calls(axes.model, lambda: self.hear)

    def problem(self) -> str | None:
        silent = sorted(name for name, one in self._found.items() if not bool(one.counts.all()))
        if not silent:
            return None
        return (
            f"no finite gradient and no call was heard of {', '.join(silent)}. Single weights can be traded after a "
            "training step with loss.backward() between the calls of plasticity.step(), where a linear map or a "
            "convolution is called with the parameter itself; leave others out with Sparse(..., parameters=)"
        )

    def close(self) -> None:
        self._calls.close()
        for handle in self._handles:
            handle.remove()

    def hear(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """One call of the model's code."""
        call = read_call(function, args, kwargs)
        name = None if call is None else self._by_weight.get(id(call.weight))
        if call is not None and name is not None:
            spatial = len(call.contraction.kernel)
            batched = call.input.dim() > spatial + 1
            self._found[name].drive(energy(call, function, args, kwargs), len(call.input) if batched else 1)

    def _overflow(self) -> None:
        self.overflowed = True
