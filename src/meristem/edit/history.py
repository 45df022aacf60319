"""The replay of a history on a freshly built model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from meristem.axes import AxisMap, trace
from meristem.edit.edit import Edit
from meristem.edit.record import Record, composed, parsed, spans
from meristem.errors import EditError


def replay(history: Sequence[Record], model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None) -> AxisMap:
    """Apply the structural part of a history to a freshly built model, all edits as one.

    Args:
        history: `axes.history` of an edited model, or the same read back from JSON.
        model: a model as it was before the first edit.
        args, kwargs: example inputs, as for `trace`.

    Returns:
        The map of the edited model; its history is `history`. Newborns start anew as in random growth: what they have
        learned is in a checkpoint, not in the history.

    Raises:
        EditError: the history is malformed or belongs to another model; nothing is touched.
        TraceError: the model could not be run on the example.
    """
    axes = trace(model, args, kwargs)
    edit = replaying(history, axes)
    result = edit.commit().axes if edit.changes else axes
    return replace(result, history=tuple(history))


def replaying(
    history: Sequence[Record],
    axes: AxisMap,
    optimizers: Optimizer | Iterable[Optimizer] = (),
    follow: nn.Module | Iterable[nn.Module] = (),
) -> Edit:
    """The edit that a history amounts to, not yet committed; without changes if the history has no effect.

    Raises:
        EditError: the history is malformed or belongs to another model.
    """
    records = parsed(history)
    for name, (before, _) in spans(records).items():
        if name not in axes.by_name:
            raise EditError(f"the history edits the axis {name!r}, which this model does not have")
        if axes[name].size != before:
            raise EditError(f"the history begins with {before} units on {name}, this model has {axes[name].size}")
    edit = Edit(axes, optimizers, follow)
    for name, gather in composed(records).items():
        if not gather.is_identity(axes[name].size):
            edit.gather(name, gather)
    return edit
