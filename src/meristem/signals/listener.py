"""Listening to ordinary training steps: what weights read, and the gradients of what they give.

While listening, every forward pass of the model runs under a `TorchFunctionMode` that notices the contractions of the
wanted weights, whoever calls them, and hooks on their results wait for the backward pass. No pass is added. Gradients
are released as soon as the statistics of their axis have taken them in, everything else with the graph of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from meristem.axes.expression import units_along
from meristem.axes.map import Axis, AxisMap, Role
from meristem.axes.path import End, Path
from meristem.errors import SignalError
from meristem.signals.batch import Arrival, Batch, Block
from meristem.signals.contraction import Contraction, flattened, read_call, rows
from meristem.signals.forward import Calls, Hear
from meristem.signals.precision import precise, wide

Receive = Callable[[str, Batch], None]
"""(name of the axis, batch)."""


@dataclass(frozen=True, eq=False)
class _Heard:
    """One contraction of one pass."""

    contraction: Contraction
    x: Tensor
    version: int
    positions: tuple[int, ...]

    @property
    def changed(self) -> bool:
        """Whether the input was overwritten since, which autograd notices only where it needs the input itself."""
        return self.x._version != self.version


@dataclass(eq=False)
class _Pass:
    """One forward pass and what has come back of it."""

    calls: dict[str, int] = field(default_factory=dict)
    heard: dict[End, _Heard] = field(default_factory=dict)
    hooked: set[End] = field(default_factory=set)
    waiting: dict[str, dict[End, Tensor | None]] = field(default_factory=dict)
    flushing: bool = False


class Listener:
    """Hears one or more training steps.

    Args:
        axes: the map of the model.
        wanted: the axes to listen to; every path of each must be free of obstacles.
        receive: is given every batch of every axis once its gradients have arrived.
        scale: gives the factor by which the loss is multiplied before the backward pass (`GradScaler.get_scale`); it is
            divided out.
        steps: how many optimizer steps are heard: gradients are divided by it, so that they are those of the mean loss.
    """

    def __init__(
        self,
        axes: AxisMap,
        wanted: Iterable[Axis],
        receive: Receive,
        scale: Callable[[], float] | None = None,
        steps: int = 1,
    ) -> None:
        self._axes = axes
        self._wanted = {axis.name: axis for axis in wanted}
        self._paths = {name: axes.paths[axis.index] for name, axis in self._wanted.items()}
        self._receive = receive
        self._scale = scale
        self._steps = steps
        self.overflowed = False
        parameters = dict(axes.model.named_parameters(remove_duplicate=False))
        self._names = {id(tensor): name for name, tensor in reversed(parameters.items()) if name in axes.layouts}
        self._followers: dict[End, list[str]] = {}
        for name, paths in self._paths.items():
            for end in dict.fromkeys(path.consumer for path in paths):
                self._followers.setdefault(end, []).append(name)
        ends = {end for paths in self._paths.values() for path in paths for end in (path.producer, path.consumer)}
        self._ends = {(end.weight, end.call): end for end in ends}
        self._open = True
        self._current = _Pass()
        self._called: set[str] = set()
        self._hooked: set[str] = set()
        self._learnt: set[str] = set()
        self._handles = [
            self._watch(name, parameters[name]) for name, _ in self._ends if parameters[name].requires_grad
        ]
        self._calls = Calls(axes.model, self._enter, self._leave)

    def close(self) -> None:
        """Stop listening; the model is as if nobody ever had. Backward passes that are still to come are not heard."""
        self._open = False
        self._calls.close()
        for handle in self._handles:
            handle.remove()

    def wants(self, name: str) -> bool:
        """Whether it listens to that axis."""
        return name in self._wanted

    def unheard(self, name: str) -> frozenset[str]:
        """The weights at the ends of an axis' paths that got gradients although no call of them was ever heard."""
        producers = {path.producer.weight for path in self._paths[name]} - self._called
        readers = {path.consumer.weight for path in self._paths[name]} - self._hooked
        return frozenset((producers | readers) & self._learnt)

    def memory(self) -> dict[str, Any]:
        """What it knows of weights so far, for `recall`."""
        known = {"called": self._called, "hooked": self._hooked, "learnt": self._learnt}
        return {"overflowed": self.overflowed, **{name: sorted(weights) for name, weights in known.items()}}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.overflowed = bool(memory["overflowed"])
        self._called, self._hooked, self._learnt = (set(memory[name]) for name in ("called", "hooked", "learnt"))

    def _watch(self, name: str, parameter: Tensor) -> RemovableHandle:
        return parameter.register_hook(lambda gradient: self._learnt.add(name))

    # ------------------------------------------------------------------ forward

    def _enter(self) -> Hear:
        self._current = _Pass()
        return partial(self.hear, self._current)

    def _leave(self) -> None:
        self._await(self._current)

    def hear(self, current: _Pass, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """One call of the model's code."""
        call = read_call(function, args, kwargs)
        name = None if call is None else self._names.get(id(call.weight))
        if call is None or name is None:
            return
        self._called.add(name)
        number = current.calls.get(name, 0)
        current.calls[name] = number + 1
        end = self._ends.get((name, number))
        if end is None:
            return
        positions = tuple(result.shape[-len(call.contraction.kernel) :]) if call.contraction.kernel else ()
        current.heard[end] = _Heard(call.contraction, call.input.detach(), call.input._version, positions)
        if end in self._followers and result.requires_grad:
            current.hooked.add(end)
            self._hooked.add(name)
            shape = result.shape
            whole(result).register_hook(lambda gradient: self._arrived(current, end, gradient.reshape(shape)))

    def _await(self, current: _Pass) -> None:
        for name, paths in self._paths.items():
            readers = [path.consumer for path in paths if path.consumer in current.hooked]
            if readers:
                current.waiting[name] = dict.fromkeys(readers)

    # ------------------------------------------------------------------ backward

    def _arrived(self, current: _Pass, end: End, gradient: Tensor) -> None:
        if not self._open:
            return
        delta = gradient.detach()
        factor = self._steps * (1.0 if self._scale is None else self._scale())
        if factor != 1:
            delta = delta.to(wide(delta)) / factor
        if not current.flushing:
            current.flushing = True
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._flush(current))
        for name in self._followers[end]:
            waiting = current.waiting.get(name)
            if waiting is None:
                continue
            held = waiting[end]
            waiting[end] = delta if held is None else held + delta
            if all(found is not None for found in waiting.values()):
                self._take(name, current, waiting)

    def _flush(self, current: _Pass) -> None:
        """At the end of a backward pass: what has not come by now is zero, the loss does not depend on it."""
        current.flushing = False
        for name, waiting in current.waiting.items():
            if self._open and any(found is not None for found in waiting.values()):
                self._take(name, current, waiting)

    def _take(self, name: str, current: _Pass, waiting: dict[End, Tensor | None]) -> None:
        """Deliver what has come, unless a gradient has overflowed: such steps are skipped by a `GradScaler` too."""
        deltas = {end: found for end, found in waiting.items() if found is not None}
        waiting.update(dict.fromkeys(waiting))
        if all(bool(delta.sum(dtype=torch.float32).isfinite()) for delta in deltas.values()):
            self._deliver(name, current, deltas)
        else:
            self.overflowed = True

    def _deliver(self, name: str, current: _Pass, deltas: Mapping[End, Tensor]) -> None:
        paths = [path for path in self._paths[name] if path.consumer in deltas and path.producer in current.heard]
        if not paths:
            return
        changed = [end.weight for p in paths for end in (p.producer, p.consumer) if current.heard[end].changed]
        if changed:
            raise SignalError(
                f"what {changed[0]} read was overwritten before the backward pass; do not modify it in place"
            )
        with precise(next(iter(deltas.values())).device):
            axis = self._wanted[name]
            arrivals = tuple(
                _arrival(p, current.heard, deltas, self._channels(p.consumer.weight, axis, Role.READS)) for p in paths
            )
            into = {path.producer: current.heard[path.producer] for path in paths}
            out = {a.path.consumer.weight: a for a in arrivals}
            fan_in = tuple(
                Block(
                    end.weight, self._dim(end.weight, axis, Role.PRODUCES), _slice(h.contraction, ins=True), 0, end.bias
                )
                for end, h in {end.weight: (end, h) for end, h in into.items()}.values()
            )
            fan_out = tuple(
                Block(weight, self._dim(weight, axis, Role.READS), _slice(a.consumer, ins=False), a.positions)
                for weight, a in out.items()
            )
            self._receive(name, Batch(arrivals, fan_in, fan_out))

    def _channels(self, weight: str, axis: Axis, role: Role) -> Tensor:
        dim = self._axes.layouts[weight].dims[self._dim(weight, axis, role)]
        return (units_along(dim, axis.index, self._axes.sizes) >= 0).nonzero().flatten()

    def _dim(self, weight: str, axis: Axis, role: Role) -> int:
        roles = self._axes.layouts[weight].roles
        return next(dim for dim, found in enumerate(roles) if role in found.get(axis.index, ()))


def _arrival(path: Path, heard: Mapping[End, _Heard], deltas: Mapping[End, Tensor], columns: Tensor) -> Arrival:
    """Both ends in the form in which they are computed with."""
    before, after = heard[path.producer], heard[path.consumer]
    delta = deltas[path.consumer]
    consumer, positions = after.contraction, 0
    if before.contraction.kernel and not consumer.kernel:
        probe = path.middle(delta.new_zeros(1, 1, *before.positions, dtype=torch.float32))
        consumer, positions = flattened(consumer, tuple(probe.shape[2:])), probe[0, 0].numel()
        delta = delta.reshape(*delta.shape[:2], *(1 for _ in probe.shape[2:]))
    x, delta = rows(before.x, before.contraction), rows(delta, consumer)
    reads = rows(after.x, after.contraction)
    return Arrival(path, x, delta, before.contraction, consumer, positions, reads, after.contraction, columns)


def whole(result: Tensor) -> Tensor:
    """What a result is a view of, if it only has another shape: hooks of a view are lost if it is modified in place."""
    base = result._base if result._is_view() else None
    same = base is not None and base.is_contiguous() and result.is_contiguous() and base.numel() == result.numel()
    return base if same and base is not None else result


def _slice(contraction: Contraction, *, ins: bool) -> tuple[int, ...]:
    return (contraction.ins if ins else contraction.outs, *contraction.kernel)
