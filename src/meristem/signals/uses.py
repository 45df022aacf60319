"""Weights that read an axis in one call and produce it in another: what of their gradient comes from which calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.signals.backward import Backward
from meristem.signals.contraction import Call, read_call, rows
from meristem.signals.forward import Calls
from meristem.signals.precision import precise, wide
from meristem.signals.slices import sum_by_unit

_Key = tuple[str, int]


def two_sided(place: Place) -> bool:
    """Whether a dimension reads its units in some calls and does something else with them in others."""
    return Role.READS in place.roles and len(place.roles) > 1


def inseparable(axes: AxisMap, axis: Axis) -> str | None:
    """Why it cannot be told what those calls give that read an axis, or None if it can, as far as the map knows."""
    followed = {path.consumer.weight for path in axes.paths.get(axis.index, ())}
    names = [p.layout.name for p in axes.places[axis.index] if two_sided(p) and not p.layout.buffer]
    hidden = next((name for name in names if name not in followed), None)
    return None if hidden is None else f"{hidden} both reads and produces it, in a way that cannot be followed"


class Uses:
    """Hears in a backward pass that trains, for every call of a weight, `sum g w` along its dimensions, g the gradient
    that comes from this call alone.

    With `y = x W'` and the gradient e of y, `sum_o g_oi w_oi = sum_n x_ni (e W)_ni` and `sum_i g_oi w_oi = sum_n e_no
    (x W')_no`. Heard are linear maps with the parameter itself, and look-ups in an embedding.

    Args:
        axes: the map.
        places: the dimensions that are wanted, of matrices; of others nothing is heard.
        scale: gives the factor by which the loss is multiplied before the backward pass.
    """

    def __init__(self, axes: AxisMap, places: Iterable[Place], scale: Callable[[], float]) -> None:
        self._axes = axes
        self._scale = scale
        self._backward = Backward(axes.model)
        self._wanted = {(place.layout.name, place.dim) for place in places if len(place.layout.dims) == 2}
        self._names = {id(axes.model.get_parameter(name)): name for name, _ in self._wanted}
        self._read: dict[_Key, Tensor] = {}
        self._rest: dict[_Key, Tensor] = {}
        self._calls = Calls(axes.model, lambda: self.hear) if self._wanted else None

    def close(self) -> None:
        """Stop listening."""
        if self._calls is not None:
            self._calls.close()

    def clear(self) -> None:
        """Begin another pass."""
        self._read.clear()
        self._rest.clear()

    def by_unit(self, axis: Axis, place: Place) -> tuple[Tensor, Tensor] | None:
        """From the calls that read, and from the others: float64, shape (axis.size,) each; None if none reads."""
        key = (place.layout.name, place.dim)
        if key not in self._read:
            return None
        read = self._read[key]
        rest = self._rest.get(key, torch.zeros_like(read))
        return sum_by_unit(read, self._axes, axis, place), sum_by_unit(rest, self._axes, axis, place)

    def hear(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """One call of the model's code."""
        if not isinstance(result, Tensor) or not result.requires_grad:
            return
        call = read_call(function, args, kwargs)
        if call is not None:
            name = self._names.get(id(call.weight))
            if name is not None and not call.contraction.kernel:
                result.register_hook(self._backward.only(lambda e: self._contracted(name, call, e)))
        elif function is functional.embedding:
            self._looked_up(result, *args, **kwargs)

    def _contracted(self, name: str, call: Call, gradient: Tensor) -> None:
        """What a linear map gives along the dimension with which it reads, and along the one that it produces."""
        with precise(gradient.device):
            dtype = wide(gradient, call.weight)
            x, e = rows(call.input.detach(), call.contraction).to(dtype), rows(gradient, call.contraction).to(dtype)
            matrix = call.weight.detach().to(dtype)  # (out, in), or (in, out)
            matrix = matrix.T if call.weight_is_transposed else matrix
            reading = 0 if call.weight_is_transposed else 1
            if (name, reading) in self._wanted:
                self._add(self._read, (name, reading), (x * (e @ matrix)).sum(0))
            if (name, 1 - reading) in self._wanted:
                self._add(self._rest, (name, 1 - reading), (e * (x @ matrix.T)).sum(0))

    def _looked_up(
        self, result: Tensor, input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any
    ) -> None:
        name = self._names.get(id(weight))
        if name is None or (name, 1) not in self._wanted:
            return
        free = None if padding_idx is None else input != padding_idx % len(weight)

        def arrived(gradient: Tensor) -> None:
            product = (gradient * result.detach()).to(wide(gradient))
            product = product if free is None else product[free]
            self._add(self._rest, (name, 1), product.reshape(-1, product.shape[-1]).sum(0))

        result.register_hook(self._backward.only(arrived))

    def _add(self, sums: dict[_Key, Tensor], key: _Key, new: Tensor) -> None:
        new = new.double() / self._scale()
        sums[key] = sums[key] + new if key in sums else new
