"""What a controller saves, and how it goes on from there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from meristem.axes import AxisMap
from meristem.edit.history import replaying
from meristem.errors import CheckpointError


@dataclass(frozen=True)
class State:
    """Everything that a controller remembers between steps, apart from the model and its optimizers.

    Attributes:
        step: number of optimizer steps so far.
        seed: from which the randomness of edits derives.
        history: the records of all edits, oldest first.
        births: when every unit was born, by axis name; -1 for units that no edit inserted.
        schedule: what the schedule remembers.
    """

    step: int
    seed: int
    history: tuple[Mapping[str, Any], ...]
    births: Mapping[str, tuple[int, ...]]
    schedule: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """As nested dicts, lists, numbers and strings: what goes through JSON unchanged."""
        return _plain({name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def parse(cls, saved: Mapping[str, Any], like: State) -> State:
        """The state from what `plain` gave.

        Args:
            saved: the nested dicts.
            like: a state of the controller that goes on with it.

        Raises:
            CheckpointError: an entry is missing or malformed, or what the schedule remembers does not fit.
        """
        try:
            state = cls(
                step=int(saved["step"]),
                seed=int(saved["seed"]),
                history=tuple(saved["history"]),
                births={str(name): tuple(int(step) for step in steps) for name, steps in saved["births"].items()},
                schedule=_numbers(saved["schedule"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"this is no state of a Plasticity: {type(error).__name__}: {error}") from error
        if _skeleton(state.schedule) != _skeleton(like.schedule):
            raise CheckpointError(
                f"the state was saved under another schedule: it remembers {_skeleton(state.schedule)}, "
                f"this one {_skeleton(like.schedule)}; build the controller with the schedule of the saved run"
            )
        return state


def resumed(
    axes: AxisMap, history: Sequence[Mapping[str, Any]], optimizers: Sequence[Optimizer], follow: Sequence[nn.Module]
) -> AxisMap:
    """Give a model, its optimizers and its copies the structure of a saved history, as one edit.

    Args:
        axes: the map of the model, which holds a beginning of the history; usually nothing of it.
        history: the records of all edits.
        optimizers: they follow.
        follow: copies of the model that follow.

    Returns:
        the map of the model as it is then, with that history.

    Raises:
        CheckpointError: the history does not begin with the edits that the model already holds.
        EditError: the history is malformed or does not fit the model; nothing is touched.
    """
    done = len(axes.history)
    if list(history[:done]) != list(axes.history):
        raise CheckpointError(
            f"the model already holds {done} edits, with which the saved history does not begin; load the state into a "
            "freshly built model"
        )
    edit = replaying(history[done:], axes, optimizers, follow)
    after = edit.commit().axes if edit.changes else axes
    return replace(after, history=tuple(history))


def _plain(value: Any) -> Any:
    """Containers as dicts and lists, tensors as numbers, and what JSON has no number for as a string."""
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


def _skeleton(value: Any) -> Any:
    """The keys of nested dicts and lists, without the values."""
    if isinstance(value, Mapping):
        return {key: _skeleton(item) for key, item in sorted(value.items())}
    return [_skeleton(item) for item in value] if isinstance(value, (list, tuple)) else None
