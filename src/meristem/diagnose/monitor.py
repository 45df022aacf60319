"""The monitor: what becomes of newborns and survivors, sampled from ordinary training steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor

from meristem.allocate import Selection, choose
from meristem.axes.map import AxisMap
from meristem.diagnose.course import ALWAYS_THERE, Course
from meristem.diagnose.hearing import Hearing
from meristem.diagnose.integration import Integration
from meristem.diagnose.memory import Memory
from meristem.diagnose.numbers import Sample
from meristem.diagnose.record import MEASURES, Death, Record
from meristem.diagnose.saved import Saved
from meristem.diagnose.watched import Watched
from meristem.errors import ConfigError
from meristem.signals.step_activity import StepActivity

Sink = Callable[[Record], object]
"""Is given every new record."""

WAITING = 16
"""Of so many samples records are made at once, unless somebody asks for them before."""


class Monitor:
    """Watches newborns beside incumbents while a model trains.

        monitor = Monitor()
        plasticity = meristem.Plasticity(model, optimizer, x, ..., monitor=monitor)
        ...                                                         # the usual loop
        print(monitor.records[-1])

    or without a controller:

        monitor = Monitor().begin(axes)
        for x, y in loader:
            ...                                                     # loss.backward(), optimizer.step(), zero_grad()
            monitor.step()
            if ...:
                axes = edit.commit().axes
                monitor.follow(axes)

    One step out of `every` is sampled, and the first one after an edit (unless that was done less than `every` steps
    ago): hooks listen to its forward and backward pass, no pass is added, and in between there are no hooks. The
    training is the same to the bit. A step in several passes is measured as one over all its samples, and only passes
    that train are heard, not those of `torch.autograd.grad` (see `Recorder`). Gradients of weights are those that
    `.grad` holds at the end of the step's last backward pass, before they are clipped.
    Records are made of samples when somebody asks for them, at every sample if there are sinks, else of 16 at once.
    A sample with gradients that are not finite (a step that a `GradScaler` skips) is ignored and made up for in the
    next step.

    A cohort are the units that were born at the same step; its incumbents are all units that are older (arXiv
    2605.15435: those that stood before the edit). In a distributed run each rank measures its own share of the batch,
    without communication; give sinks to rank 0 alone.

    Memory is bounded: of each record the `cohorts` youngest of every axis are told apart; of more than `keep` records
    every second one is dropped, so that they span the whole run ever more coarsely; of deaths and integrations the last
    `keep` are kept.

    Args:
        every: how many optimizer steps lie between samples.
        axes: which axes: patterns of names, a predicate, or all editable ones (None). Those whose activity cannot be
            measured are listed in `undefined`; of their newborns records have age, fan-in and fan-out (see
            `Record.unmeasured`).
        threshold: from where on a unit counts as active.
        cohorts: how many cohorts of an axis are told apart.
        keep: how many records are kept.

    Attributes:
        due: the next optimizer step at which `step` has something to do; inf before `begin`.
        skipped: how many samples were ignored because they were not finite.

    Raises:
        ConfigError: a number is below 1 (`keep`: below 2), or the threshold is negative.
    """

    def __init__(
        self,
        every: int = 10,
        *,
        axes: Selection = None,
        threshold: float = 0.05,
        cohorts: int = 8,
        keep: int = 200,
    ) -> None:
        for name, value, least in (("every", every, 1), ("cohorts", cohorts, 1), ("keep", keep, 2)):
            if value < least:
                raise ConfigError(f"Monitor({name}=...) must be at least {least}, got {value!r}")
        StepActivity("", threshold)
        self._every, self._selection, self._threshold, self._cohorts, self._keep = every, axes, threshold, cohorts, keep
        self._sinks: list[Sink] = []
        self._hearing: Hearing | None = None
        self._forget()

    def _forget(self) -> None:
        self.close()
        self.skipped = 0
        self._watched: Watched | None = None
        self._scale: Callable[[], float] | None = None
        self._memory = Memory(self._keep, self._cohorts)
        self._waiting: list[Sample] = []
        self._step = self._sample = 0
        self._extra: int | None = None

    # ------------------------------------------------------------------ calls of the loop

    def begin(
        self,
        axes: AxisMap,
        step: int = 0,
        ages: Mapping[str, Tensor] | None = None,
        scale: Callable[[], float] | None = None,
    ) -> Monitor:
        """Start watching a model; everything seen before is forgotten.

        Args:
            axes: its map.
            step: optimizer steps so far.
            ages: by name of axis, as `Plasticity.ages`; units of axes that are missing count as always there.
            scale: the factor by which the loss is multiplied before the backward pass (`GradScaler.get_scale`).

        Raises:
            UnknownAxisError, FrozenAxisError: `axes=` matches nothing that may be edited.
            ConfigError: there is no axis whose activity can be measured; the message has the reasons.
        """
        self._forget()
        watched = Watched.of(axes, choose(axes, self._selection))
        self._step, self._sample = step, self._next(step)
        for name in watched.known:
            born = torch.full((axes.by_name[name].size,), ALWAYS_THERE)
            age = (ages or {}).get(name)
            if age is not None:
                born = torch.where(age == torch.iinfo(torch.int64).max, born, step - age)
            self._memory.courses[name] = Course(name, tuple(born.tolist()))
        self._watch(watched, scale)
        return self

    def step(self, number: int | None = None) -> bool:
        """Counts one optimizer step, after `optimizer.step()` and before any edit of this step.

        Args:
            number: of the step; None counts on.

        Returns:
            whether this step was sampled; its record is then `monitor.records[-1]`.

        Raises:
            SignalError: no gradient was heard in a sampled step at all.
            StaleMapError: the model was edited, and `follow` was not called.
        """
        self._step = self._step + 1 if number is None else number
        if self._step < self.due:
            return False
        sampled = self._hearing is not None and self._hearing.open and self._take(self._hearing)
        self._aim()
        return sampled

    def follow(self, axes: AxisMap) -> None:
        """The model was edited. Who was born and who died is in the history of the map.

        Args:
            axes: the map that the commit returned.

        Raises:
            StaleMapError: the history of the map does not continue that of the map before.
        """
        before = self._watched
        if self._hearing is None or before is None or axes is before.axes:
            return
        watched = before.after(axes, self._selection)
        self._settled().edited(before.new_edits(axes), self._step)
        self._memory.courses = {name: self._memory.courses[name] for name in watched.known}
        self.close()
        if self._extra is None or self._step - self._extra >= self._every:
            self._extra, self._sample = self._step, self._step + 1
        self._watch(watched, self._scale)

    def close(self) -> None:
        """Stop watching: no hooks are left. What was seen is kept."""
        if self._hearing is not None:
            self._hearing.close()
        self._hearing = None
        self.due: float = inf

    # ------------------------------------------------------------------ what was seen

    @property
    def undefined(self) -> Mapping[str, str]:
        """By name of axis, why its activity cannot be measured."""
        return {} if self._watched is None else self._watched.undefined

    @property
    def records(self) -> tuple[Record, ...]:
        """Oldest first."""
        return tuple(self._settled().records)

    @property
    def deaths(self) -> tuple[Death, ...]:
        """Who was removed, when, and what was measured of them last; oldest first."""
        return tuple(self._settled().deaths)

    @property
    def integrations(self) -> tuple[Integration, ...]:
        """How long every cohort took to get as much gradient as its incumbents; in the order of birth."""
        return tuple(self._settled().integrations.values())

    @property
    def units(self) -> Mapping[str, Mapping[str, Tensor]]:
        """By axis and measure, what was measured of every unit last: float64, shape (axis.size,); NaN for units that
        were not there yet."""
        found = {name: course.last for name, course in self._settled().courses.items()}
        return {name: dict(zip(MEASURES, last, strict=True)) for name, last in found.items() if last is not None}

    def to(self, *sinks: Sink) -> Monitor:
        """Give every new record to these, too: `TensorBoard(...)`, `Tracker(...)`, `print`, any function."""
        self._settled()
        self._sinks.extend(sinks)
        return self

    def state_dict(self) -> dict[str, Any]:
        """Everything seen so far and when the next sample is due, JSON-able."""
        saved = Saved.of(self._settled(), self._step, self._sample, self._extra, self.skipped)
        return saved.model_dump(mode="json")

    def load_state_dict(
        self, state: Mapping[str, Any], axes: AxisMap, scale: Callable[[], float] | None = None
    ) -> Monitor:
        """Goes on from what `state_dict` gave, instead of `begin`; on a model that holds the edits of the saved run.

        Raises:
            CheckpointError: the state is malformed or belongs to another model.
        """
        saved = Saved.parse(state)
        self._forget()
        watched = saved.watched(axes, self._selection)
        self._memory = saved.memory(self._keep, self._cohorts)
        self._step, self._sample, self._extra, self.skipped = saved.step, saved.sample, saved.extra, saved.skipped
        self._watch(watched, scale)
        return self

    # ------------------------------------------------------------------ sampling

    def _watch(self, watched: Watched, scale: Callable[[], float] | None) -> None:
        self._watched, self._scale = watched, scale
        self._hearing = Hearing(watched, self._threshold, scale)
        self._aim()

    def _next(self, step: int) -> int:
        return (step // self._every + 1) * self._every

    def _aim(self) -> None:
        """Open the hooks if the next step is to be heard; say when there is something to do again."""
        if self._hearing is None or self._watched is None or not self._watched.names:
            self.due = inf
            return
        if self._step >= self._sample - 1:
            self._hearing.listen()
        self.due = self._sample if self._hearing.open else self._sample - 1

    def _take(self, hearing: Hearing) -> bool:
        """Sample the step that was heard; whether that was possible."""
        found = hearing.taken(self._step)
        if found is None:
            self.skipped += 1
            self._sample = self._step + 1
            return False
        self._sample = self._next(self._step)
        self._waiting.append(found)
        if self._sinks or len(self._waiting) == WAITING:
            self._settled()
        return True

    def _settled(self) -> Memory:
        """The memory, with records of all samples."""
        while self._waiting:
            sample = self._waiting.pop(0)
            record = self._memory.sampled(sample.tables(), sample.silent, sample.norms, sample.step)
            for sink in self._sinks:
                sink(record)
        return self._memory
