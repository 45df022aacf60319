"""How the loss answers to the weights of a unit: gradients of parameters times the parameters, unit by unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.signals.backward import Backward, at_end, under_way
from meristem.signals.direct import Direct, Sums, Tap
from meristem.signals.precision import wide
from meristem.signals.slices import sum_by_unit
from meristem.signals.uses import Uses, two_sided

ROUNDING = 1e-2
"""By how much calls may miss the whole, relative to the sizes of what is added; low-precision gradients do."""


@dataclass(frozen=True, eq=False)
class Sensitivities:
    """The result of `Sensitivity`: float64, shape (axis.size,) each; g is the gradient of a weight w in one step.

    Attributes:
        gate: the root of the mean over steps of `(sum g w) ** 2`, summed over everything that reads the unit. The sum
            is the derivative of the loss in a factor on the unit at all its readers. Of a weight that reads it in one
            call and produces it in another (a tied embedding), g is what comes from the calls that read; NaN where the
            model's code calls it in a way that does not tell them apart.
        squares: by (name, dimension) of every parameter in which the unit occurs, the mean over steps of
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
    (queries and keys), no weight reads them, and the gate does not see it. All passes of a step (gradient accumulation)
    make one g, of which a copy is held until the step is over; see `Recording.stepped`. Passes with gradients that are
    not finite are left out. Over ranks steps add up.

    The gradient of a weight that both reads and produces the units is a sum over calls. What comes from those that read
    is heard call by call, and held against the whole of each pass.
    """

    @classmethod
    def tap(cls, axes: AxisMap, asked: Sequence[Sensitivity], scale: Callable[[], float]) -> Tap:
        return _Tap(axes, asked, scale)


@dataclass(eq=False)
class _Sums(Sums):
    kept: ClassVar[tuple[str, ...]] = ("totals", "steps")

    axes: AxisMap
    axis: Axis
    places: Sequence[Place]
    uses: Uses
    """Tells calls of weights apart, where places need it."""
    totals: Tensor | None = None
    """Shape (1 + 2 * places, units): gates squared, then squares and sizes by place; summed over steps."""
    steps: Tensor | None = None
    read: dict[int, Tensor] = field(default_factory=dict)
    """By number of a place of which only some calls read: their sum of g w, in this step so far."""

    def passed(self, products: Mapping[str, Tensor]) -> None:
        """Take in g w of a pass where it takes more than their sum over passes."""
        for number, place in enumerate(self.places):
            if two_sided(place) and place.layout.name in products:
                found = self._read(place, products[place.layout.name])
                self.read[number] = self.read[number] + found if number in self.read else found

    def stepped(self, products: Mapping[str, Tensor]) -> None:
        """Take in a step: g w of every parameter, g summed over its passes."""
        read, self.read = self.read, {}
        named = [place.layout.name for place in self.places]
        device = next((products[name].device for name in named if name in products), None)
        if device is None:
            return
        gate = torch.zeros(self.axis.size, dtype=torch.float64, device=device)
        squares = torch.zeros(len(named), self.axis.size, dtype=torch.float64, device=device)
        sizes = torch.zeros_like(squares)
        for number, place in enumerate(self.places):
            product = products.get(place.layout.name)
            if product is not None:
                squares[number] = self._by_unit(product.square(), place)
                sizes[number] = self._by_unit(product.abs(), place)
                if Role.READS in place.roles:
                    gate += read[number].to(device) if number in read else self._by_unit(product, place).to(device)
        new, one = torch.cat([gate.square()[None], squares, sizes]), torch.ones(1, dtype=torch.float64, device=device)
        self.totals = new if self.totals is None else self.totals + new.to(self.totals.device)
        self.steps = one if self.steps is None else self.steps + one.to(self.steps.device)

    def _by_unit(self, entries: Tensor, place: Place) -> Tensor:
        others = [dim for dim in range(entries.dim()) if dim != place.dim]
        along = entries.sum(others) if others else entries
        return sum_by_unit(along.double(), self.axes, self.axis, place)

    def _read(self, place: Place, product: Tensor) -> Tensor:
        """`sum g w` over the calls that read, or NaN if they and the others do not add up to the whole."""
        whole, size = self._by_unit(product, place), self._by_unit(product.abs(), place)
        heard = self.uses.by_unit(self.axis, place)
        if heard is None:
            return torch.full_like(whole, torch.nan)
        read, rest = (part.to(whole.device) for part in heard)
        close = (read + rest - whole).abs() <= ROUNDING * (size + read.abs() + rest.abs())
        return torch.where(close, read, torch.nan)

    def parts(self) -> Sequence[Tensor]:
        return () if self.totals is None or self.steps is None else (self.totals, self.steps)

    def result(self) -> Sensitivities:
        assert self.totals is not None
        assert self.steps is not None
        mean = self.totals / self.steps
        keys = [(place.layout.name, place.dim) for place in self.places]
        squares, sizes = mean[1:].split(len(keys))
        return Sensitivities(mean[0].sqrt(), dict(zip(keys, squares, strict=True)), dict(zip(keys, sizes, strict=True)))


class _Tap(Tap):
    """Hooks on every parameter in which a wanted axis occurs."""

    def __init__(self, axes: AxisMap, asked: Sequence[Sensitivity], scale: Callable[[], float]) -> None:
        self._scale = scale
        self._open = True
        self._backward = Backward(axes.model)
        self._passes: dict[int, dict[str, Tensor]] = {}
        self._step: dict[str, Tensor] = {}
        found = {s: axes.by_name[s.axis] for s in asked}
        places = {s: _parameters(axes, axis) for s, axis in found.items()}
        mixed = [place for several in places.values() for place in several if two_sided(place)]
        self._uses = Uses(axes, mixed, scale)
        self.sums: dict[Any, _Sums] = {s: _Sums(axes, axis, places[s], self._uses) for s, axis in found.items()}
        names = dict.fromkeys(place.layout.name for several in places.values() for place in several)
        self._handles = [
            parameter.register_hook(self._backward.only(partial(self._arrived, name, parameter)))
            for name in names
            if (parameter := axes.model.get_parameter(name)).requires_grad
        ]

    def problem(self) -> str | None:
        silent = sorted({s.axis for s, one in self.sums.items() if one.totals is None and not self._seen(one)})
        if not silent:
            return None
        return (
            f"no finite gradient was seen at the weights of {', '.join(silent)}. It takes a training step with "
            "loss.backward() between the calls of plasticity.step(); a forward pass that does not use them, or a step "
            "that trains another module than the traced one, brings none"
        )

    def stepped(self) -> None:
        self._passes.clear()  # of those that failed
        step, self._step = self._step, {}
        for one in self.sums.values():
            one.stepped(step)

    def close(self) -> None:
        self._open = False
        self._uses.close()
        for handle in self._handles:
            handle.remove()

    def _seen(self, one: _Sums) -> bool:
        return any(place.layout.name in self._step for place in one.places)

    @torch.no_grad()
    def _arrived(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        if not self._open:
            return
        now = under_way()
        if now not in self._passes:
            self._passes[now] = {}
            at_end(partial(self._passed, now))
        dtype = wide(gradient)
        product = gradient.to_dense().to(dtype) * parameter.detach().to(dtype) / self._scale()
        _add(self._passes[now], name, product)

    @torch.no_grad()
    def _passed(self, number: int) -> None:
        """At the end of a backward pass: it counts if all its gradients are finite."""
        products = self._passes.pop(number, {})
        if all(isfinite(product.sum().item()) for product in products.values()):
            for one in self.sums.values():
                one.passed(products)
            for name, product in products.items():
                _add(self._step, name, product)
        else:
            self.overflowed = True
        self._uses.clear()


def _add(sums: dict[str, Tensor], name: str, new: Tensor) -> None:
    sums[name] = sums[name] + new if name in sums else new


def _parameters(axes: AxisMap, axis: Axis) -> tuple[Place, ...]:
    return tuple(place for place in axes.places[axis.index] if not place.layout.buffer)
