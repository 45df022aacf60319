"""How the loss answers to the weights of a unit: gradients of parameters times the parameters, unit by unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.signals.direct import Direct, Sums, Tap
from meristem.signals.precision import wide
from meristem.signals.slices import sum_by_unit
from meristem.signals.uses import Uses, two_sided

ROUNDING = 1e-2
"""By how much calls may miss the whole, relative to the sizes of what is added; low-precision gradients do."""


@dataclass(frozen=True, eq=False)
class Sensitivities:
    """The result of `Sensitivity`: float64, shape (axis.size,) each; g is the gradient of a weight w in one pass.

    Attributes:
        gate: the root of the mean over passes of `(sum g w) ** 2`, summed over everything that reads the unit. The sum
            is the derivative of the loss in a factor on the unit at all its readers. Of a weight that reads it in one
            call and produces it in another (a tied embedding), g is what comes from the calls that read; NaN where the
            model's code calls it in a way that does not tell them apart.
        squares: by (name, dimension) of every parameter in which the unit occurs, the mean over passes of
            `sum (g w) ** 2` over its slice.
        sizes: the same of `sum |g w|`.
    """

    gate: Tensor
    squares: Mapping[tuple[str, int], Tensor]
    sizes: Mapping[tuple[str, int], Tensor]


@dataclass(frozen=True)
class Sensitivity(Direct):
    """How the loss answers to the weights of each unit, by hooks on parameters; on any axis.

    A gate that multiplies what all readers of a unit read has the derivative `sum g w` over its fan-out, exactly,
    wherever weights read linearly: so gates need not exist. Where two activations are contracted over the units
    (queries and keys), no weight reads them, and the gate does not see it. A pass is one call of `backward`; with
    gradient accumulation every micro-batch is one. Passes with gradients that are not finite are left out. Over ranks
    passes add up.

    The gradient of a weight that both reads and produces the units is a sum over calls. What comes from those that read
    is heard call by call, and held against the whole.
    """

    @classmethod
    def tap(cls, axes: AxisMap, asked: Sequence[Sensitivity], scale: Callable[[], float]) -> Tap:
        return _Tap(axes, asked, scale)


@dataclass(eq=False)
class _Sums(Sums):
    kept: ClassVar[tuple[str, ...]] = ("totals", "passes")

    axis: Axis
    places: Sequence[Place]
    totals: Tensor | None = None
    """Shape (1 + 2 * places, units): gates squared, then squares and sizes by place; summed over passes."""
    passes: Tensor | None = None
    current: dict[int, Tensor] = field(default_factory=dict)
    """By number of a place: sums of g w, of its square and of its absolute value, shape (3, units), in this pass."""
    uses: Uses | None = None
    """Tells calls of weights apart, where places need it."""

    def close_pass(self) -> bool:
        """Take in the pass, unless a gradient was not finite; whether all were."""
        found, self.current = self.current, {}
        if not all(bool(part.isfinite().all()) for part in found.values()):
            return False
        if not found:
            return True
        device = next(iter(found.values())).device
        parts = [found.get(i, torch.zeros(3, self.axis.size, dtype=torch.float64)) for i in range(len(self.places))]
        stacked = torch.stack([part.to(device) for part in parts])
        read = stacked[:, 0].clone()
        for number in found:
            if two_sided(self.places[number]):
                read[number] = self._read(number, found[number]).to(device)
        gate = read[[i for i, place in enumerate(self.places) if Role.READS in place.roles]].sum(0)
        new = torch.cat([gate.square()[None], stacked[:, 1], stacked[:, 2]])
        one = torch.ones(1, dtype=torch.float64, device=device)
        self.totals = new if self.totals is None else self.totals + new.to(self.totals.device)
        self.passes = one if self.passes is None else self.passes + one.to(self.passes.device)
        return True

    def _read(self, number: int, found: Tensor) -> Tensor:
        """`sum g w` over the calls that read, or NaN if they and the others do not add up to the whole."""
        whole, _, size = found
        heard = None if self.uses is None else self.uses.by_unit(self.axis, self.places[number])
        if heard is None:
            return torch.full_like(whole, torch.nan)
        read, rest = (part.to(whole.device) for part in heard)
        close = (read + rest - whole).abs() <= ROUNDING * (size + read.abs() + rest.abs())
        return torch.where(close, read, torch.nan)

    def parts(self) -> Sequence[Tensor]:
        return () if self.totals is None or self.passes is None else (self.totals, self.passes)

    def result(self) -> Sensitivities:
        assert self.totals is not None
        assert self.passes is not None
        mean = self.totals / self.passes
        keys = [(place.layout.name, place.dim) for place in self.places]
        squares, sizes = mean[1:].split(len(keys))
        return Sensitivities(mean[0].sqrt(), dict(zip(keys, squares, strict=True)), dict(zip(keys, sizes, strict=True)))


class _Tap(Tap):
    """Hooks on every parameter in which a wanted axis occurs."""

    def __init__(self, axes: AxisMap, asked: Sequence[Sensitivity], scale: Callable[[], float]) -> None:
        self._axes = axes
        self._scale = scale
        self._open, self._flushing = True, False
        found = {s: axes.by_name[s.axis] for s in asked}
        self.sums: dict[Any, _Sums] = {s: _Sums(axis, _parameters(axes, axis)) for s, axis in found.items()}
        mixed = [place for one in self.sums.values() for place in one.places if two_sided(place)]
        self._uses = Uses(axes, mixed, scale)
        takers: dict[str, list[tuple[_Sums, int]]] = {}
        for one in self.sums.values():
            one.uses = self._uses
            for number, place in enumerate(one.places):
                takers.setdefault(place.layout.name, []).append((one, number))
        self._handles = [
            parameter.register_hook(lambda g, p=parameter, wanted=wanted: self._arrived(g, p, wanted))
            for name, wanted in takers.items()
            if (parameter := axes.model.get_parameter(name)).requires_grad
        ]

    def problem(self) -> str | None:
        silent = sorted({s.axis for s, one in self.sums.items() if one.totals is None})
        if not silent:
            return None
        return (
            f"no finite gradient was seen at the weights of {', '.join(silent)}. It takes a training step with "
            "loss.backward() between the calls of plasticity.step(); a forward pass that does not use them, or a step "
            "that trains another module than the traced one, brings none"
        )

    def close(self) -> None:
        self._open = False
        self._uses.close()
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _arrived(self, gradient: Tensor, parameter: Tensor, wanted: Sequence[tuple[_Sums, int]]) -> None:
        if not self._open:
            return
        if not self._flushing:
            self._flushing = True
            torch.autograd.Variable._execution_engine.queue_callback(self._flush)
        dtype = wide(gradient)
        product = gradient.to_dense().to(dtype) * parameter.detach().to(dtype) / self._scale()
        kinds = (product, product.square(), product.abs())
        for one, number in wanted:
            place = one.places[number]
            others = [dim for dim in range(product.dim()) if dim != place.dim]
            along = [kind.sum(others).double() if others else kind.double() for kind in kinds]
            one.current[number] = torch.stack([sum_by_unit(x, self._axes, one.axis, place) for x in along])

    def _flush(self) -> None:
        """At the end of a backward pass."""
        self._flushing = False
        for one in self.sums.values():
            self.overflowed |= not one.close_pass()
        self._uses.clear()


def _parameters(axes: AxisMap, axis: Axis) -> tuple[Place, ...]:
    return tuple(place for place in axes.places[axis.index] if not place.layout.buffer)
