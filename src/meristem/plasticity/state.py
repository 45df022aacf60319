"""What a controller saves, and how it goes on from there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from meristem.axes import AxisMap
from meristem.edit import Edit, Follower
from meristem.edit.deepen import Replayed
from meristem.edit.record import parsed, spans
from meristem.edit.stages import gathers, has_depth, rehearsed, stages
from meristem.errors import CheckpointError
from meristem.plasticity.pending import Pending


class State(BaseModel):
    """Everything that a controller remembers between steps, apart from the model and its optimizers.

    Attributes:
        step: number of optimizer steps so far.
        seed: from which the randomness of edits derives.
        axes: names of the axes that may be edited.
        history: the records of all edits, oldest first.
        births: by axis name, the step at which every unit was inserted; -1 for units that no edit inserted.
        schedule: what the schedule remembers.
        pending: what waits for statistics.
        owed: by axis name, the part of a unit by which replacement at a rate is behind; below `*` what rounding has
            left of shares to prune, below `**` the share that is `Gone`.
        running: what is averaged all along.
        helpers: what the integrators remember.
        monitor: what the monitor remembers; None if there is none.
        listening: what has been recorded of a window of several steps; None if there is nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: NonNegativeInt
    seed: int
    axes: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...]
    births: Mapping[str, tuple[int, ...]]
    schedule: Mapping[str, Any]
    pending: Pending = Pending()
    owed: Mapping[str, float] = {}
    running: Mapping[str, Any] = {}
    helpers: Mapping[str, Any] = {}
    monitor: Mapping[str, Any] | None = None
    listening: Mapping[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """As nested dicts, lists, numbers and strings: what goes through JSON unchanged."""
        return _plain({name: getattr(self, name) for name in type(self).model_fields})

    @classmethod
    def parse(cls, saved: Mapping[str, Any], schedule: Mapping[str, Any]) -> State:
        """The state from what `plain` gave.

        Args:
            saved: the nested dicts.
            schedule: what the schedule that is to go on with it remembers.

        Raises:
            CheckpointError: an entry is missing or malformed, or belongs to another schedule.
        """
        try:
            state = cls.model_validate(dict(saved))
        except (ValidationError, TypeError, ValueError) as error:
            raise CheckpointError(f"this is no state of a Plasticity: {_reasons(error)}") from error
        if not _fits(state.schedule, schedule):
            raise CheckpointError(
                f"the state was saved under another schedule: it remembers {dict(state.schedule)}, this one begins "
                f"with "
                f"{dict(schedule)}; build the controller with the schedule of the saved run"
            )
        return state.model_copy(
            update={name: _numbers(getattr(state, name)) for name in ("schedule", "running", "helpers", "monitor")}
        )

    def foreseen(self, axes: AxisMap) -> AxisMap:
        """The map of a model as it will be when it holds the history; afterwards it is as it was.

        Args:
            axes: the map of the model as it is.

        Raises:
            CheckpointError: the state is of another model, or its history does not begin with the edits that the model
                already holds.
            EditError, TraceError: the history is malformed or does not fit the model.
        """
        rest = _continued(axes, self.history)
        if has_depth(rest):
            after = rehearsed(rest, axes)
        else:
            sizes = {name: size for name, (_, size) in spans(parsed(rest)).items()}
            after = axes.resized({axis.index: sizes.get(axis.name, axis.size) for axis in axes}, {})
        unknown = [name for name in (*self.axes, *self.births) if name not in after.by_name]
        if unknown:
            raise CheckpointError(f"the state is of another model; this one has no axis {unknown[0]!r}")
        return after


def resumed(
    axes: AxisMap,
    history: Sequence[Mapping[str, Any]],
    optimizers: Sequence[Optimizer],
    follow: Sequence[nn.Module | Follower],
) -> AxisMap:
    """Give a model, its optimizers and its copies the structure of a saved history.

    Edits of units between two edits of the module tree are made as one. `State.foreseen` has tried it.

    Args:
        axes: the map of the model, which holds a beginning of the history; usually nothing of it.
        history: the records of all edits.
        optimizers: they follow.
        follow: copies of the model, and others, that follow.

    Returns:
        the map of the model as it is then, with that history.

    Raises:
        CheckpointError: the history does not begin with the edits that the model already holds.
        EditError: an optimizer or a copy is not of the model.
    """
    for records, tree in stages(parsed(_continued(axes, history))):
        edit = Edit(axes, optimizers, follow)
        for name, gather in gathers(records, axes).items():
            edit.gather(name, gather)
        axes = edit.commit().axes if edit.changes else axes
        if tree is not None:
            axes = Edit(axes, optimizers, follow).depth(Replayed(tree)).commit().axes
    return replace(axes, history=tuple(history))


def _continued(axes: AxisMap, history: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """What a saved history has beyond the edits that a model already holds."""
    done = len(axes.history)
    if list(history[:done]) != list(axes.history):
        raise CheckpointError(
            f"the model already holds {done} edits, with which the saved history does not begin; load the state into a "
            "freshly built model"
        )
    return history[done:]


def _reasons(error: Exception) -> str:
    """What is wrong, in one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)]
    return "; ".join(found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")


def _plain(value: Any) -> Any:
    """Containers as dicts and lists, tensors as numbers, and what JSON has no number for as a string."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, Tensor) else value
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    """What `_plain` wrote, with infinities and NaN as numbers again."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def _fits(saved: Any, fresh: Any) -> bool:
    """Whether nested dicts and lists have the same keys and lengths; a list that is empty at first may be filled."""
    if isinstance(fresh, Mapping):
        return (
            isinstance(saved, Mapping)
            and saved.keys() == fresh.keys()
            and all(_fits(saved[k], fresh[k]) for k in fresh)
        )
    if isinstance(fresh, (list, tuple)):
        filled = isinstance(saved, (list, tuple))
        return filled and (not fresh or (len(saved) == len(fresh) and all(map(_fits, saved, fresh))))
    return not isinstance(saved, (Mapping, list, tuple))
