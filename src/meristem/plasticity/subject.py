"""The model that is edited while it trains, with everything that follows every edit of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from meristem.axes import AxisMap
from meristem.diagnose import Monitor
from meristem.edit import Commit, Edit, Follower
from meristem.edit.deepen import DepthChange
from meristem.edit.record import parsed
from meristem.edit.succession import Succession
from meristem.integrate import Helpers
from meristem.plasticity.averages import Averages
from meristem.plasticity.births import Births
from meristem.plasticity.planner import Plan
from meristem.plasticity.state import State, resumed
from meristem.signals import Running

Succeed: TypeAlias = "Callable[[AxisMap, Succession], Sequence[Running]]"


class Subject:
    """A model's map, ages and averages, its optimizers and copies, and who helps and watches its newborns.

    Args:
        axes: the map of the model.
        optimizers: they follow every edit.
        follow: copies of the model, and others, that follow.
        helpers: the integrators at work.
        monitor: watches newborns, or None.
        running: what is averaged all along.
        scale: gives the factor by which the loss is multiplied before the backward pass; None for none.

    Attributes:
        axes: today's map.
        optimizers: they follow every edit.
        averages: the running quantities.
    """

    def __init__(
        self,
        axes: AxisMap,
        optimizers: tuple[Any, ...],
        follow: Iterable[nn.Module | Follower],
        helpers: Helpers,
        monitor: Monitor | None,
        running: Sequence[Running],
        scale: Callable[[], float] | None,
    ) -> None:
        self.axes = axes
        self.optimizers = optimizers
        self.averages = Averages(axes, running, scale)
        self._follow = tuple(follow)
        self._helpers = helpers
        self._monitor = monitor
        self._scale = scale
        self._births = Births()
        self._begin(0, None)

    def ages(self, step: int) -> dict[str, Tensor]:
        """The ages of all units, see `Births.ages`."""
        return self._births.ages(step)

    def stepped(self, step: int) -> None:
        """Note an optimizer step."""
        if self._monitor is not None:
            self._monitor.step(step)

    def retrain(self, optimizers: tuple[Any, ...], step: int) -> None:
        """Go on with other optimizers."""
        self.optimizers = optimizers
        self._helpers.begin(self.axes, optimizers, self.ages(step), step)

    def commit(self, plans: Sequence[Plan], step: int, seed: int) -> Commit:
        """Carry out plans as one transaction; nothing of the old parameters is kept."""
        edit = self._edit(seed)
        births = self._births
        for plan in plans:
            given = () if plan.start is None else (plan.start,)
            edit.gather(plan.axis, plan.gather, *given)
            births = births.after(plan.axis, plan.gather, step)
        kept = self.averages.followed(self.axes, {plan.axis.index: plan.gather for plan in plans})
        self.averages.cancel()
        commit = edit.commit()
        self.axes, self._births = commit.axes, births
        self.averages.keep(kept)
        self._helpers.follow(self.axes, self.optimizers, self.ages(step), step)
        if self._monitor is not None:
            self._monitor.follow(self.axes)
        return commit

    def rebuild(self, changes: Sequence[DepthChange], step: int, seed: int, succeed: Succeed) -> Commit:
        """Carry out changes of the module tree as one transaction.

        Args:
            changes: what changes.
            step: number of optimizer steps so far.
            seed: of everything random.
            succeed: told which axes there are after it, says what is averaged from then on.
        """
        edit = self._edit(seed)
        for change in changes:
            edit.depth(change)
        self.averages.cancel()
        tensors = tuple(self.axes.layouts)
        commit = edit.commit()
        after = parsed([commit.record])[0].after
        assert after is not None, "an edit of the module tree says which axes there are"
        names = {name: commit.moved.get(name) for name in tensors}
        self.axes, self._births = commit.axes, self._births.through(after, step)
        self.averages.moved(self.axes, succeed(self.axes, after), after, names)
        self._helpers.follow(self.axes, self.optimizers, self.ages(step), step, names)
        if self._monitor is not None:
            self._monitor.follow(self.axes)
        return commit

    def _edit(self, seed: int) -> Edit:
        return Edit(self.axes, self.optimizers, self._follow, seed=seed, state=self._helpers.state)

    def memory(self) -> Mapping[str, Any]:
        """What has to be saved of it: entries of `State`."""
        return {
            "history": self.axes.history,
            "births": self._births.steps,
            "running": self.averages.plain(),
            "helpers": self._helpers.memory(),
            "monitor": None if self._monitor is None else self._monitor.state_dict(),
        }

    def resume(self, saved: State, after: AxisMap, running: Sequence[Running]) -> None:
        """Take on the structure and the memory of a saved run.

        Args:
            saved: its state.
            after: the map of the model as it will be, see `foreseen`.
            running: what is averaged from now on.

        Raises:
            CheckpointError: the memory is malformed or of another model. Unless it is the monitor's memory, nothing has
                been edited then.
            EditError: as `resumed`.
        """
        averages = Averages(after, running, self._scale)
        averages.keep(averages.parsed(saved.running, after))
        self._helpers.recall(saved.helpers)
        self.averages.cancel()
        self.averages = averages
        self.axes = resumed(self.axes, saved.history, self.optimizers, self._follow)
        self._births = Births(saved.births)
        self._begin(saved.step, saved.monitor)

    def _begin(self, step: int, watched: Mapping[str, Any] | None) -> None:
        self._helpers.begin(self.axes, self.optimizers, self.ages(step), step)
        if self._monitor is None:
            return
        if watched is None:
            self._monitor.begin(self.axes, step, self.ages(step), self._scale)
        else:
            self._monitor.load_state_dict(watched, self.axes, self._scale)
