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

from meristem.axes.map import Axis, AxisMap
from meristem.axes.path import End
from meristem.signals.backward import Backward, at_end, under_way
from meristem.signals.batch import Batch
from meristem.signals.composer import Composer, Heard
from meristem.signals.contraction import read_call
from meristem.signals.forward import Calls, Hear, whole
from meristem.signals.precision import precise, wide

Receive = Callable[[str, Batch], None]
"""(name of the axis, batch)."""


@dataclass(eq=False)
class _Pass:
    """One forward pass and what has come back of it."""

    calls: dict[str, int] = field(default_factory=dict)
    heard: dict[End, Heard] = field(default_factory=dict)
    hooked: set[End] = field(default_factory=set)
    waiting: dict[str, dict[End, Tensor | None]] = field(default_factory=dict)
    backward: int = -1
    """The backward pass at the end of which it is flushed."""


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
        asked = {axis.name: axis for axis in wanted}
        self._paths = {name: axes.paths[axis.index] for name, axis in asked.items()}
        self._composers = {name: Composer(axes, axis) for name, axis in asked.items()}
        self._backward = Backward(axes.model)
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
        return name in self._paths

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
        return parameter.register_hook(self._backward.only(lambda gradient: self._learnt.add(name)))

    # ------------------------------------------------------------------ forward

    def _enter(self) -> Hear:
        self._current = _Pass()
        return partial(self.hear, self._current)

    def _leave(self, result: Any) -> None:
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
        current.heard[end] = Heard(call.contraction, call.input.detach(), call.input._version, positions)
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
        if not self._open or not self._backward.trains():
            return
        delta = gradient.detach()
        factor = self._steps * (1.0 if self._scale is None else self._scale())
        if factor != 1:
            delta = delta.to(wide(delta)) / factor
        if current.backward != under_way():
            current.backward = under_way()
            at_end(lambda: self._flush(current))
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
        for name, waiting in current.waiting.items():
            if self._open and any(found is not None for found in waiting.values()):
                self._take(name, current, waiting)

    def _take(self, name: str, current: _Pass, waiting: dict[End, Tensor | None]) -> None:
        """Deliver what has come, unless a gradient has overflowed: such steps are skipped by a `GradScaler` too."""
        deltas = {end: found for end, found in waiting.items() if found is not None}
        waiting.update(dict.fromkeys(waiting))
        if all(bool(delta.sum(dtype=torch.float32).isfinite()) for delta in deltas.values()):
            with precise(next(iter(deltas.values())).device):
                batch = self._composers[name].batch(current.heard, deltas)
                if batch is not None:
                    self._receive(name, batch)
        else:
            self.overflowed = True
