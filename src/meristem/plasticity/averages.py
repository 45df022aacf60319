"""Running quantities: measured all along, carried through edits, saved and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import inf
from typing import Any, TypeAlias

import torch
from torch import Tensor

from meristem.axes import AxisMap
from meristem.axes.expression import Expression, gather_index, leaves, size_of
from meristem.edit import Gather
from meristem.edit.succession import Succession
from meristem.errors import CheckpointError
from meristem.signals import Average, Running, Statistic, View
from meristem.signals.direct import Recording

Kept: TypeAlias = Mapping[Running, Mapping[str, Average]]


class Averages:
    """All running quantities of one controller, and the recording that measures the next values.

    Args:
        axes: the map of the model.
        asked: what is averaged.
        scale: gives the factor by which the loss is multiplied before the backward pass; None for none.
    """

    def __init__(self, axes: AxisMap, asked: Iterable[Running], scale: Callable[[], float] | None) -> None:
        self._scale = scale
        self._kept: Kept = {
            running: {
                name: Average.empty(size_of(expression, axes.sizes)) for name, expression in running.along(axes).items()
            }
            for running in asked
        }
        self._recording: Recording | None = None

    @property
    def results(self) -> Mapping[Statistic, Mapping[str, Tensor]]:
        """The means so far."""
        return {
            running: {name: average.mean(running.decay) for name, average in kept.items()}
            for running, kept in self._kept.items()
        }

    @property
    def listening(self) -> bool:
        """Whether a step is being listened to, or has been and is not yet taken in."""
        return self._recording is not None

    def wake(self, step: int) -> float:
        """The next step after which `advance` or `measure` has something to do."""
        soon = (due + offset for due in (self._due(step), self._due(step + 1)) for offset in (-1, 0))
        return min((at for at in soon if at > step), default=inf)

    def advance(self, step: int, axes: AxisMap) -> None:
        """Listen to the next step if it is to be measured."""
        wanted = [source for running in self._kept if not (step + 1) % running.every for source in running.sources()]
        if wanted and self._recording is None:
            self._recording = Recording(axes, wanted, self._scale)

    def measure(self, view: View) -> None:
        """Take in the step that has been listened to, if it has; but not one whose gradients overflowed.

        Raises:
            SignalError: it could not be heard.
        """
        recording, self._recording = self._recording, None
        if recording is None:
            return
        if recording.overflowed and not recording.complete:
            recording.cancel()
            return
        view = View(view.axes, view.step, view.ages, view.generator, recording.finish())
        self._kept = {
            running: _measured(running, kept, view) if not view.step % running.every else kept
            for running, kept in self._kept.items()
        }

    def cancel(self) -> None:
        """Stop listening; what has been averaged stays."""
        if self._recording is not None:
            self._recording.cancel()
        self._recording = None

    def followed(self, before: AxisMap, gathers: Mapping[int, Gather]) -> Kept:
        """What is kept after an edit.

        Args:
            before: the map before it.
            gathers: by number of an axis.
        """
        return {
            running: {
                name: _followed(average, running.along(before)[name], before, gathers) for name, average in kept.items()
            }
            for running, kept in self._kept.items()
        }

    def moved(
        self, axes: AxisMap, asked: Iterable[Running], succession: Succession, names: Mapping[str, str | None]
    ) -> None:
        """Go on after an edit of the module tree: what is averaged goes by the names of now, what is new begins.

        Args:
            axes: the map after it.
            asked: what is averaged from now on.
            succession: which axes there are after it.
            names: what every parameter and buffer of before is called now, None where it is gone.
        """
        before = {new: old for old, new in names.items() if new is not None}
        kept: dict[Running, dict[str, Average]] = {}
        for running in asked:
            former = [replace(running, axis=name) for name in succession.before(running.axis)]
            known = next((self._kept[one] for one in former if one in self._kept), {})
            kept[running] = {}
            for name, expression in running.along(axes).items():
                average, length = known.get(before.get(name, name)), size_of(expression, axes.sizes)
                fits = average is not None and len(average.total) == length
                kept[running][name] = average if average is not None and fits else Average.empty(length)
        self._kept = kept

    def keep(self, kept: Kept) -> None:
        """Go on from there."""
        self._kept = kept

    def plain(self) -> dict[str, Any]:
        """As JSON, by what is averaged."""
        return {
            repr(running): {name: average.plain() for name, average in kept.items()}
            for running, kept in self._kept.items()
        }

    def parsed(self, saved: Mapping[str, Any], axes: AxisMap) -> Kept:
        """What `plain` gave, for the model as it is.

        Raises:
            CheckpointError: other quantities were averaged, or they do not fit the model.
        """
        if saved.keys() != {repr(running) for running in self._kept}:
            raise CheckpointError(
                f"the state was saved while averaging {sorted(saved)}, this controller averages "
                f"{sorted(map(repr, self._kept))}; build it with the criterion of the saved run"
            )
        found: dict[Running, dict[str, Average]] = {}
        for running in self._kept:
            lengths = {name: size_of(expression, axes.sizes) for name, expression in running.along(axes).items()}
            try:
                found[running] = {name: Average.parse(entry) for name, entry in saved[repr(running)].items()}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CheckpointError(f"the averages of {running!r} are malformed: {error}") from error
            shapes = {name: (tuple(a.total.shape), tuple(a.count.shape)) for name, a in found[running].items()}
            if shapes != {name: ((length,), (length,)) for name, length in lengths.items()}:
                raise CheckpointError(f"the averages of {running!r} do not fit the model")
        return found

    def _due(self, step: int) -> float:
        """The next step that is measured."""
        return min((step + running.every - step % running.every for running in self._kept), default=inf)


def _measured(running: Running, kept: Mapping[str, Average], view: View) -> Mapping[str, Average]:
    values = running.values(view)
    return {name: average.with_value(values[name], running.decay) for name, average in kept.items()}


def _followed(average: Average, along: Expression, before: AxisMap, gathers: Mapping[int, Gather]) -> Average:
    concerned = {axis: gathers[axis] for axis in leaves(along) if axis in gathers}
    if not concerned:
        return average
    sources = {axis: torch.where(gather.newborn_mask, -1, gather.index) for axis, gather in concerned.items()}
    return average.gathered(gather_index(along, sources, before.sizes))
