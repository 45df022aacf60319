"""The controller: grows and prunes a model while it trains, one call per optimizer step."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from meristem.allocate import Allocator, Proportional, Selection, choose
from meristem.axes import Axis, AxisMap, trace
from meristem.depth import CopyStart, Deepen, DepthCriterion, Inserted, Joined, Shorten
from meristem.diagnose import Monitor
from meristem.edit import Commit, Follower, StatePolicy
from meristem.edit.succession import Succession
from meristem.errors import ConfigError, EditError, UnreachedWarning, outside
from meristem.grow import Method
from meristem.integrate import Helpers, Integrator
from meristem.ledger import Exchange
from meristem.plasticity.choice import Choice
from meristem.plasticity.done import Done
from meristem.plasticity.event import Event
from meristem.plasticity.given import Scaler, require_axes, require_kinds, several
from meristem.plasticity.layers import Layers
from meristem.plasticity.listening import Listening, Target, earliest
from meristem.plasticity.pending import Pending
from meristem.plasticity.planner import Decision, Planner
from meristem.plasticity.state import State
from meristem.plasticity.subject import Subject
from meristem.plasticity.unseen import leaving_out, unseen
from meristem.prune import Criterion
from meristem.schedule import Demand, Moment, Schedule
from meristem.signals import Running, Statistic, View

log = logging.getLogger("meristem.plasticity")


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
        grow: the growth method; needed if the schedule asks for growth or replacement.
        prune: the criterion; needed if the schedule asks for pruning or replacement.
        exchange: what trades structure of all levels, `meristem.ledger.Exchange`; needed if the schedule asks for it.
        deepen: what is inserted where, if the schedule asks for it: a `meristem.depth.Deepen`, or only what (a start of
            copies, a kind of module or of branch), anywhere.
        shorten: who goes, if the schedule asks for it: a `meristem.depth.Shorten`, or only the criterion for blocks.
        allocate: how an amount is divided over axes, and the limits of their sizes. Default: in proportion to size.
        integrate: what helps newborns, one integrator or several: optimizer state to start from, a learning rate of
            their own, ... Default: state is zero, but that of copies, which take over that of what they copy.
        monitor: watches newborns and incumbents all along, and is saved and resumed with the controller; or None.
        follow: copies of the model (EMA, `AveragedModel`) to which every edit is applied as well, and whatever else
            must hear of edits (`meristem.mask.Sparse`).
        axes: which axes may be edited: glob patterns of names, a predicate, or all editable ones (None), but for those
            that parameters may share which no example reaches: an `UnreachedWarning` names them. The choice is made
            once, here; axes of layers that are inserted join if they are meant too, and what was given can edit them.
        listen: over how many optimizer steps before an edit statistics are added up, for methods that need some.
        scaler: the `GradScaler` by which losses are multiplied, so that statistics are those of the loss itself.
        seed: all randomness of an edit derives from it and from the step; torch's global generator is left alone.

    Attributes:
        model: the model.

    Raises:
        ConfigError: an argument is not what it should be; the schedule asks for something without what does it, or for
            edits of units where no axis may be edited; or integrators contradict each other, or cannot help what the
            optimizer trains.
        EditError: the method or criterion is not defined for a chosen axis; the message names those that are. Or there
            is no place for what is to be inserted.
        UnknownAxisError, FrozenAxisError: `axes` matches nothing that may be edited, or a limit no axis.
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
        exchange: Exchange | None = None,
        deepen: Deepen | CopyStart | Inserted | Joined | None = None,
        shorten: Shorten | DepthCriterion | None = None,
        allocate: Allocator | None = None,
        integrate: Integrator | StatePolicy | Sequence[Integrator | StatePolicy] | None = None,
        monitor: Monitor | None = None,
        follow: Iterable[nn.Module | Follower] = (),
        axes: Selection = None,
        listen: int = 1,
        scaler: Scaler | None = None,
        seed: int = 0,
    ) -> None:
        if listen < 1:
            raise ConfigError(f"listen= must be at least 1 step, got {listen!r}")
        require_kinds(
            schedule=schedule,
            grow=grow,
            prune=prune,
            exchange=exchange,
            deepen=deepen,
            shorten=shorten,
            allocate=allocate,
        )
        self.model = model
        found = example if isinstance(example, AxisMap) else trace(model, example)
        left = unseen(found) if axes is None else {}
        chosen = tuple(axis for axis in choose(found, axes) if axis.name not in left)
        optimizers, helpers = several(optimizer), Helpers(integrate)
        self._schedule = schedule
        layers = Layers(
            Deepen(deepen) if isinstance(deepen, (CopyStart, Inserted, Joined)) else deepen,
            Shorten(shorten) if isinstance(shorten, DepthCriterion) else shorten,
        )
        self._planner = Planner(grow, prune, Proportional() if allocate is None else allocate, exchange, layers)
        self._planner.require(schedule, found, chosen)
        require_axes(schedule, found, chosen, left)
        if left:
            warnings.warn(leaving_out(found, left), UnreachedWarning, stacklevel=outside())
        schedule.needs(found, chosen)
        helpers.require(found, chosen, optimizers)
        self._helpers = helpers
        self._choice = Choice(tuple(axis.name for axis in chosen), axes, self._unable)
        self._seed = seed
        self._step = 0
        self._memory = schedule.initial()
        self._owed: Mapping[str, float] = {}
        self._pending = Pending()
        self._listen = listen
        scale = None if scaler is None else scaler.get_scale
        self._listening = Listening(listen, scale)
        running = self._planner.running(found, chosen)
        self._subject = Subject(found, optimizers, follow, helpers, monitor, running, scale)
        self._due = schedule.next(0)
        self._busy = self._prepare()

    def __repr__(self) -> str:
        name, axes = type(self.model).__name__, self.axes
        size = f"{len(self._chosen())} axes to edit, {axes.parameter_count():,} parameters, {axes.flops():,} FLOPs"
        return f"Plasticity of {name}: step {self._step}, {len(self.history)} edits, {size}"

    @property
    def axes(self) -> AxisMap:
        """Today's map of the model."""
        return self._subject.axes

    @property
    def optimizers(self) -> tuple[Any, ...]:
        """Those whose state follows; set it when training goes on with new ones."""
        return self._subject.optimizers

    @optimizers.setter
    def optimizers(self, given: Any | Sequence[Any]) -> None:
        optimizers = several(given)
        self._helpers.require(self.axes, self._chosen(), optimizers)
        self._subject.retrain(optimizers, self._step)

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
        self._subject.stepped(self._step)
        if self._step < self._due and self._step < self._busy:
            return None
        return self._act(loss, closure)

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
        return self._subject.ages(self._step)

    def state_dict(self) -> dict[str, Any]:
        """Everything the controller needs to go on, JSON-able: steps, history, births, averages, what the schedule, the
        integrators and the monitor remember.

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
            axes=self._choice.names,
            schedule=self._memory,
            pending=self._pending,
            owed=self._owed,
            listening=self._listening.memory(),
            **self._subject.memory(),
        ).plain()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Gives the model its saved structure by replaying the history, and goes on from the saved step, with the seed
        and the choice of axes of the saved run.

        Call it on the controller of a freshly built model, before the weights are loaded:

            plasticity.load_state_dict(saved["plasticity"])
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])

        A model that holds the history already, as `meristem.load` returns it, is left as it is. A resumed run equals
        the uninterrupted one. Only of a distributed run that was interrupted among several steps over which statistics
        were being added up (`listen` above 1) these begin anew: they were those of one rank.

        Raises:
            CheckpointError: the state is malformed, the saved history does not begin with the edits that the model
                already holds, or it was written under another kind of schedule.
        """
        saved = State.parse(state, self._schedule.initial())
        after = saved.foreseen(self.axes)
        choice = replace(self._choice, names=saved.axes)
        running = self._planner.running(after, choice.axes(after))
        self._listening.resume(saved.listening)
        self._subject.resume(saved, after, running)
        self._step, self._seed, self._choice = saved.step, saved.seed, choice
        self._memory, self._owed, self._pending = dict(saved.schedule), saved.owed, saved.pending
        self._due = self._schedule.next(self._step)
        self._busy = self._prepare()

    def _chosen(self) -> list[Axis]:
        return self._choice.axes(self.axes)

    def _unable(self, axes: AxisMap, axis: Axis) -> str | None:
        """Why an axis of a new layer cannot be edited by what was given, or None if it can."""
        if self._choice.selection is None and axis.name in (left := unseen(axes)):
            return leaving_out(axes, {axis.name: left[axis.name]})
        try:
            self._schedule.needs(axes, [axis])
            self._helpers.require(axes, [axis], self.optimizers)
        except EditError as error:
            return str(error)
        return self._planner.unable(axes, axis)

    def _act(self, loss: Tensor | float | None, closure: Callable[[], Tensor] | None) -> Event | None:
        """Carry out what is due at this step and can be: what lacks statistics waits for them."""
        busy = self._step >= self._busy
        signals = self._heard() if busy else {}
        demands = self._demands(loss, signals, closure)
        event = self._perform(demands, signals, closure) if demands else None
        if busy or demands:
            self._busy = self._prepare()
        return event

    def _heard(self) -> Mapping[Statistic, Any]:
        """The statistics that were recorded for this step."""
        if self._subject.averages.listening:
            self._subject.averages.measure(self._view(0, {}, None))
        return self._listening.results(self._step)

    def _demands(
        self, loss: Tensor | float | None, signals: Mapping[Statistic, Any], closure: Callable[[], Tensor] | None
    ) -> tuple[Demand, ...]:
        """What waited for this step, and what the schedule asks for."""
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
        return demands

    def _perform(
        self, demands: Sequence[Demand], signals: Mapping[Statistic, Any], closure: Callable[[], Tensor] | None
    ) -> Event | None:
        """Carry out the demands of one step, one after another. Statistics do not outlive an edit."""
        before, done = self.axes, Done()
        for number, demand in enumerate(self._parts(demands, done, closure)):
            needed = self._planner.needs(self.axes, self._chosen(), (demand,))
            if not all(any(known.covers(one) for known in signals) for one in needed):
                self._pending = self._pending.and_then(demand, self._step + self._listen)
                continue
            view = self._view(number, {**signals, **self._subject.averages.results}, closure)
            decision = self._planner.plan(view, self._choice, demand, self._owed)
            if decision.edits or decision.rewirings or decision.changes:
                self._listening.cancel()
                signals = {}
            self._owed = decision.owed
            done.add(decision, self._carry_out(decision, self._random(number)))
        if not done:
            if not self._pending.demands:
                log.info("step %d: nothing to edit within limits and budget (%s)", self._step, demands)
            return None
        event = Event.of(self._step, before, self.axes, done)
        log.info("%s", event)
        return event

    def _parts(self, demands: Sequence[Demand], done: Done, closure: Callable[[], Tensor] | None) -> Iterator[Demand]:
        """Demands in the parts in which they are carried out, of the axes that there are then."""
        for number, whole in enumerate(demands, start=1):
            parts = self._planner.parts(self._view(-number, {}, closure), self._chosen(), whole)
            done.notes.update(dict.fromkeys(parts.notes))
            yield from parts.demands

    def _carry_out(self, decision: Decision, seed: int) -> list[Commit]:
        """Units, then single weights, then layers; the edits that were made."""
        commits = [self._subject.commit(decision.edits, self._step, seed)] if decision.edits else []
        for rewiring in decision.rewirings:
            rewiring.after(commits[0] if commits else None)
        if decision.changes:
            commits.append(self._subject.rebuild(decision.changes, self._step, seed, self._succeed))
        return commits

    def _succeed(self, axes: AxisMap, after: Succession) -> Sequence[Running]:
        """Know all axes by the names that they have after an edit of the module tree; what is averaged from now on."""
        self._choice = self._choice.after(axes, after)
        self._owed = after.carried(self._owed, sum)
        self._pending = self._pending.moved(after)
        self._memory = self._schedule.moved(self._memory, after)
        return self._planner.running(axes, self._choice.axes(axes))

    def _prepare(self) -> float:
        """Aim the recorder at the next edit or look that is known to come; the next step at which something is to be
        done that the schedule does not ask for: listen, or carry out what waits."""
        step, targets = self._step, []
        if self._pending.demands:
            targets.append(Target(self._pending.step, self._needs(self._pending.demands)))
        announced = self._schedule.announced(step)
        if announced < inf:
            targets.append(Target(announced, self._needs(self._schedule.foreseen(int(announced)))))
        looks = self._schedule.looks(step)
        if looks < inf:
            targets.append(Target(looks, self._schedule.needs(self.axes, self._chosen())))
        self._listening.aim(earliest(targets))
        self._listening.advance(step, self.axes)
        averages = self._subject.averages
        averages.advance(step, self.axes)
        return min(self._pending.step, self._listening.wake(step), averages.wake(step))

    def _needs(self, demands: Sequence[Demand]) -> tuple[Statistic, ...]:
        return self._planner.needs(self.axes, self._chosen(), demands)

    def _view(self, number: int, signals: Mapping[Statistic, Any], closure: Callable[[], Tensor] | None) -> View:
        generator = torch.Generator().manual_seed(self._random(number))
        return View(self.axes, self._step, self.ages, generator, signals, closure)

    def _random(self, number: int) -> int:
        """The seed of the step's edit of this number: the same in a resumed run, and on every rank."""
        digest = hashlib.blake2b(f"{self._seed}/{self._step}/{number}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1
