"""The controller: grows and prunes a model while it trains, one call per optimizer step."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from meristem.allocate import (
    Allocator,
    Proportional,
    Selection,
    at_most,
    axis_by_axis,
    choose,
    plan_growth,
    plan_pruning,
)
from meristem.axes import Axis, AxisMap, trace
from meristem.edit import Edit, StaleHolder, StatePolicy, Zeros
from meristem.errors import ConfigError
from meristem.grow import Growth, Method, require_gains
from meristem.grow import require_defined as require_growth
from meristem.plasticity.births import Births
from meristem.plasticity.event import Event
from meristem.plasticity.listening import Listening, Target, earliest
from meristem.plasticity.pending import Pending
from meristem.plasticity.state import State, resumed
from meristem.prune import Criterion, Removal
from meristem.prune import require_defined as require_criterion
from meristem.schedule import Demand, Moment, Schedule
from meristem.signals import Statistic, View

log = logging.getLogger("meristem.plasticity")


class Scaler(Protocol):
    """A gradient scaler, `torch.amp.GradScaler` for example."""

    def get_scale(self) -> float:
        """The factor by which losses are multiplied."""
        ...


class Plasticity:
    """Grows and prunes a model while it trains.

        plasticity = meristem.Plasticity(model, optimizer, x, grow=meristem.grow.ZeroFanOut(),
                                         schedule=meristem.schedule.Every(100, grow=0.1).until(parameters=1e6))
        for x, y in loader:
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            plasticity.step(loss)

    Between edits a step costs a few comparisons: no hooks, no reading of the loss, and nothing is traced again. Methods
    that need statistics of training listen to the last step before an edit, by hooks, without further passes; where an
    edit could not be known in advance (on a plateau, say) it happens `listen` steps later. Methods that evaluate the
    loss themselves need `plasticity.step(loss, closure)`.

    Args:
        model: the model itself, not a DDP, FSDP or compiled wrapper of it.
        optimizer: its optimizer, or several. State and parameter groups follow every edit.
        example: an input that the model can run on, as for `meristem.trace`: a tensor, a tuple of positional or a dict
            of keyword arguments; or the model's `AxisMap`, if it has been traced already.
        schedule: when to edit, and how much.
        grow: the growth method; needed if the schedule asks for growth.
        prune: the criterion; needed if the schedule asks for pruning.
        allocate: how an amount is divided over axes, and the limits of their sizes. Default: in proportion to size.
        integrate: what newborns' optimizer state starts from. Default: zeros.
        follow: copies of the model (EMA, `AveragedModel`) to which every edit is applied as well.
        axes: which axes may be edited: glob patterns of names, a predicate, or all editable ones (None). The choice is
            made once, here.
        listen: over how many optimizer steps before an edit statistics are added up, for methods that need some.
        scaler: the `GradScaler` by which losses are multiplied, so that statistics are those of the loss itself.
        seed: all randomness of an edit derives from it and from the step; torch's global generator is left alone.

    Attributes:
        model: the model.
        axes: today's map of it.
        optimizers: those whose state follows; give it others when training goes on with new ones.

    Raises:
        ConfigError: the schedule asks for growth or pruning without a method or criterion.
        EditError: the method or criterion is not defined for a chosen axis; the message names those that are.
        UnknownAxisError, FrozenAxisError: `axes` matches nothing that may be edited.
        TraceError, WrappedModelError: as `meristem.trace`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any | Sequence[Any],
        example: Any,
        *,
        schedule: Schedule,
        grow: Method | None = None,
        prune: Criterion | None = None,
        allocate: Allocator | None = None,
        integrate: StatePolicy | None = None,
        follow: Iterable[nn.Module] = (),
        axes: Selection = None,
        listen: int = 1,
        scaler: Scaler | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.axes = example if isinstance(example, AxisMap) else trace(model, example)
        self.optimizers: tuple[Any, ...] = tuple(optimizer) if isinstance(optimizer, (list, tuple)) else (optimizer,)
        self._schedule = schedule
        self._method = grow
        self._criterion = prune
        self._allocator = Proportional() if allocate is None else allocate
        self._policy = Zeros() if integrate is None else integrate
        self._follow = tuple(follow)
        self._names = tuple(axis.name for axis in choose(self.axes, axes))
        self._seed = seed
        self._step = 0
        self._memory = schedule.initial()
        self._births = Births()
        self._pending = Pending()
        self._require_settings()
        if listen < 1:
            raise ConfigError(f"listen= must be at least 1 step, got {listen!r}")
        self._listen = listen
        self._listening = Listening(listen, None if scaler is None else scaler.get_scale)
        self._due = schedule.next(0)
        self._wake = self._prepare()

    def step(self, loss: Tensor | float | None = None, closure: Callable[[], Tensor] | None = None) -> Event | None:
        """Counts one optimizer step, and edits the model if the schedule says so.

        Call it after `optimizer.step(); optimizer.zero_grad()`.

        Args:
            loss: the loss of this step; only schedules that watch it need it.
            closure: computes the training loss and returns it without a backward pass; only methods that evaluate the
                loss themselves need it, and call it only when they are due. Best on a batch that it draws at random by
                torch's generator: methods that train newborns then see another batch at every evaluation, and line
                searches compare on the same one. Afterwards the generator is as it was.

        Returns:
            what was edited, or None if nothing was.

        Raises:
            ConfigError: an edit is due whose method needs a closure, and none was given.
            SignalError: statistics could not be recorded.
        """
        self._step += 1
        if self._step < self._wake:
            return None
        event = self._act(loss, closure)
        self._wake = self._prepare()
        return event

    @property
    def steps(self) -> int:
        """Number of optimizer steps so far."""
        return self._step

    @property
    def history(self) -> tuple[Mapping[str, Any], ...]:
        """The JSON-able records of all edits, oldest first."""
        return self.axes.history

    @property
    def ages(self) -> Mapping[str, Tensor]:
        """By axis name, the age of every unit in optimizer steps: int64, shape (axis.size,), on the CPU.

        Units that no edit inserted have the largest int64; axes that no edit has touched are left out.
        """
        return self._births.ages(self._step)

    def state_dict(self) -> dict[str, Any]:
        """Everything the controller needs to go on, JSON-able: steps, history, births, what the schedule remembers.

        Weights and optimizer state are not in it: `model.state_dict()` and `optimizer.state_dict()` hold them. Or all
        of it goes into one file without pickle:

            meristem.save(path, plasticity.axes, optimizer, extra=plasticity.state_dict())

            axes = meristem.load(path, model, x, optimizers=optimizer)          # freshly built ones
            plasticity = meristem.Plasticity(model, optimizer, axes, ...)
            plasticity.load_state_dict(meristem.edit.extra_of(path))
        """
        return State(
            step=self._step,
            seed=self._seed,
            axes=self._names,
            history=self.history,
            births=self._births.steps,
            schedule=self._memory,
            pending=self._pending,
        ).plain()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Gives the model its saved structure by replaying the history, and goes on from the saved step, with the seed
        and the choice of axes of the saved run.

        Call it on the controller of a freshly built model, before the weights are loaded:

            plasticity.load_state_dict(saved["plasticity"])
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])

        A model that holds the history already, as `meristem.load` returns it, is left as it is. A resumed run equals
        the uninterrupted one, unless it was interrupted among several steps over which statistics were being added up
        (`listen` above 1): these begin anew.

        Raises:
            CheckpointError: the state is malformed, the saved history does not begin with the edits that the model
                already holds, or it was written under another kind of schedule.
        """
        saved = State.parse(state, self.axes, self._schedule.initial())
        self.axes = resumed(self.axes, saved.history, self.optimizers, self._follow)
        self._step, self._seed, self._names = saved.step, saved.seed, saved.axes
        self._births, self._memory = Births(saved.births), dict(saved.schedule)
        self._pending = saved.pending
        self._due = self._schedule.next(self._step)
        self._listening.cancel()
        self._wake = self._prepare()

    def _chosen(self) -> list[Axis]:
        return [self.axes.by_name[name] for name in self._names]

    def _require_settings(self) -> None:
        """Refuse at once what could only fail later."""
        chosen = self._chosen()
        for action, given in (("grow", self._method), ("prune", self._criterion)):
            if action in self._schedule.actions and given is None:
                raise ConfigError(f"the schedule asks to {action}, but Plasticity(..., {action}=...) was not given")
        if self._method is not None:
            require_growth(self._method, self.axes, chosen)
            if "grow" in self._schedule.actions and self._allocator.for_action("grow").wants_gains:
                require_gains(self._method, type(self._allocator).__name__)
        self._schedule.needs(self.axes, chosen)
        if self._criterion is not None:
            require_criterion(self._criterion, self.axes, chosen)

    def _act(self, loss: Tensor | float | None, closure: Callable[[], Tensor] | None) -> Event | None:
        """Carry out what is due at this step and can be: what lacks statistics waits for them."""
        signals = self._listening.results(self._step)
        demands: tuple[Demand, ...] = ()
        if self._step >= self._pending.step:
            demands, self._pending = self._pending.demands, Pending()
        if self._step >= self._due:
            looks = self._schedule.looks(self._step - 1) == self._step
            view = self._view(0, signals, closure) if looks else None
            moment = Moment(self._step, loss, view, self._chosen() if looks else ())
            more, self._memory = self._schedule.due(moment, self._memory)
            self._due = self._schedule.next(self._step)
            demands = (*demands, *more)
        return self._perform(demands, signals, closure) if demands else None

    def _perform(
        self, demands: Sequence[Demand], signals: Mapping[Statistic, Any], closure: Callable[[], Tensor] | None
    ) -> Event | None:
        """Carry out the demands of one step, one transaction each. Statistics do not outlive an edit."""
        before = self.axes
        done: list[Growth | Removal] = []
        stale: list[StaleHolder] = []
        for number, demand in enumerate(part for whole in demands for part in self._parts(whole)):
            if not all(any(known.covers(needed) for known in signals) for needed in self._needs(demand)):
                self._pending = self._pending.and_then(demand, self._step + self._listen)
                continue
            plans = self._plan(demand, self._view(number, signals, closure))
            births = [plan for plan in plans if isinstance(plan, Removal) or plan.births]
            if births:
                stale.extend(self._commit(births, self._random(number)))
                signals = {}
            done.extend(plans)
        if not done:
            if not self._pending.demands:
                log.info("step %d: nothing to edit within limits and budget (%s)", self._step, demands)
            return None
        event = Event.of(self._step, before, self.axes, done, stale)
        log.info("%s", event)
        return event

    def _parts(self, demand: Demand) -> Sequence[Demand]:
        if demand.action == "grow" and self._method is not None and self._method.one_axis_at_a_time:
            return axis_by_axis(self.axes, self._chosen(), demand, self._allocator)
        return (demand,)

    def _prepare(self) -> float:
        """Aim the recorder at the next edit or look that is known to come; the step at which to wake."""
        step, targets = self._step, []
        if self._pending.demands:
            targets.append(Target(self._pending.step, self._needs(*self._pending.demands)))
        announced = self._schedule.announced(step)
        if announced < inf:
            targets.append(Target(announced, self._needs(*self._schedule.foreseen(int(announced)))))
        looks = self._schedule.looks(step)
        if looks < inf:
            targets.append(Target(looks, self._schedule.needs(self.axes, self._chosen())))
        self._listening.aim(earliest(targets))
        self._listening.advance(step, self.axes)
        return min(self._due, self._pending.step, self._listening.wake(step))

    def _needs(self, *demands: Demand) -> tuple[Statistic, ...]:
        """The statistics without which demands cannot be carried out."""
        if self._method is None:
            return ()
        found: dict[Statistic, None] = {}
        for demand in demands:
            if demand.action == "grow":
                for axis, most in at_most(self.axes, self._chosen(), demand, self._allocator).items():
                    found.update(dict.fromkeys(self._method.needs(self.axes, axis, most)))
        return tuple(found)

    def _view(self, number: int, signals: Mapping[Statistic, Any], closure: Callable[[], Tensor] | None) -> View:
        generator = torch.Generator().manual_seed(self._random(number))
        return View(self.axes, self._step, self.ages, generator, signals, closure)

    def _plan(self, demand: Demand, view: View) -> Sequence[Growth | Removal]:
        if demand.action == "grow" and self._method is not None:
            if self._method.requires_closure and view.closure is None:
                raise ConfigError(
                    f"{type(self._method).__name__} evaluates the training loss itself: call "
                    "plasticity.step(loss, closure) with a function that computes it"
                )
            return plan_growth(view, self._chosen(), demand, self._method, self._allocator)
        if demand.action == "prune" and self._criterion is not None:
            return plan_pruning(view, self._chosen(), demand, self._criterion, self._allocator)
        raise ConfigError(f"the schedule asks to {demand.action}, but Plasticity has nothing that could")

    def _commit(self, plans: Sequence[Growth | Removal], seed: int) -> tuple[StaleHolder, ...]:
        """Carry out plans as one transaction; nothing of the old parameters is kept."""
        edit = Edit(self.axes, self.optimizers, self._follow, seed=seed, state=self._policy)
        births = self._births
        for plan in plans:
            if isinstance(plan, Growth):
                edit.gather(plan.axis, plan.gather, plan.start)
            else:
                edit.prune(plan.axis, plan.units)
            births = births.after(plan.axis, plan.gather, self._step)
        self._listening.cancel()
        commit = edit.commit()
        self.axes, self._births = commit.axes, births
        return commit.stale

    def _random(self, number: int) -> int:
        """The seed of the step's edit of this number: the same in a resumed run, and on every rank."""
        digest = hashlib.blake2b(f"{self._seed}/{self._step}/{number}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1
