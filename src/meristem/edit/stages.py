"""Histories with depth edits: replayed stage by stage, because every depth edit makes other axes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from meristem.axes.map import AxisMap
from meristem.axes.trace import traced_again
from meristem.edit.commit import Request, prepare
from meristem.edit.compute import Change
from meristem.edit.config_watch import ConfigurationWarning, described, undescribed
from meristem.edit.deepen import Replayed
from meristem.edit.gather import Gather
from meristem.edit.journal import Journal, Step
from meristem.edit.newborns import ZeroFanOut
from meristem.edit.optimizer import OptimizerStateWarning
from meristem.edit.rebuild import rebuild
from meristem.edit.record import EditRecord, Record, composed, parsed, spans
from meristem.edit.state import ParentMoments
from meristem.edit.tree import TreeRecord
from meristem.errors import EditError, FrozenAxisError, outside


def has_depth(history: Sequence[Record]) -> bool:
    """Whether a history edits the module tree. Raises `EditError` if it is malformed."""
    return any(record.depth is not None for record in parsed(history))


def replayed(
    history: Sequence[Record],
    axes: AxisMap,
    optimizers: Sequence[Optimizer] = (),
    follow: Sequence[nn.Module] = (),
    then: Callable[[AxisMap], Iterable[Step]] = lambda axes: (),
) -> AxisMap:
    """Apply the structural part of a history to a model, its optimizers and its copies, all or nothing.

    All unit-level edits between two depth edits are done as one.

    Args:
        history: records of edits, oldest first, that continue the map's history.
        axes: the map of the model as it was before the first of them.
        optimizers, follow: as for `Edit`.
        then: given the map of then, gives further steps of the same transaction, once the structure is in place.

    Returns:
        The map of the edited model, with `axes.history` and these records.

    Raises:
        EditError: the history is malformed or belongs to another model; nothing is touched.
        TraceError: the model cannot be run with this structure; nothing is touched.
    """
    total = (*axes.history, *history)
    configured = described(axes.model)
    with Journal() as journal:
        axes, resets = _put(journal, history, axes, optimizers, follow)
        journal.apply(then(axes))
    journal.forget()
    for reset in resets:
        warnings.warn(reset, OptimizerStateWarning, stacklevel=outside())
    if configured and (why := undescribed(axes)):
        warnings.warn(why, ConfigurationWarning, stacklevel=outside())
    return replace(axes, history=total)


def rehearsed(
    history: Sequence[Record], axes: AxisMap, optimizers: Sequence[Optimizer] = (), follow: Sequence[nn.Module] = ()
) -> AxisMap:
    """The map that `replayed` would return: everything is done, the model traced, and all taken back.

    Raises:
        EditError, TraceError: as `replayed`.
    """
    total = (*axes.history, *history)
    with Journal() as journal:
        try:
            axes, _ = _put(journal, history, axes, optimizers, follow)
        finally:
            journal.rollback()
    return replace(axes, history=total)


def _put(
    journal: Journal,
    history: Sequence[Record],
    axes: AxisMap,
    optimizers: Sequence[Optimizer],
    follow: Sequence[nn.Module],
) -> tuple[AxisMap, list[str]]:
    """Put the structure of a history in place; the map of then, and which optimizer state is lost, in words."""
    resets: list[str] = []
    for records, tree in stages(parsed(history)):
        gathered = gathers(records, axes)
        changes = tuple(Change(axes[name], gather, ZeroFanOut()) for name, gather in gathered.items())
        request = Request(axes, changes, tuple(optimizers), tuple(follow), 0, ParentMoments())
        if tree is not None:
            rebuilt = rebuild(journal, request, [Replayed(tree)])
            resets += [*rebuilt.prepared.resets, *rebuilt.deepening.resets]
            axes = traced_again(rebuilt.axes, axes.history)
        elif changes:
            prepared = prepare(request)
            journal.apply(prepared.steps)
            resets += prepared.resets
            axes = axes.resized({change.axis.index: len(change.gather) for change in changes}, {})
    return axes, resets


def gathers(records: Sequence[EditRecord], axes: AxisMap) -> Mapping[str, Gather]:
    """What unit-level edits amount to: a gather for each axis that they change.

    Raises:
        EditError: they belong to another model.
    """
    for name, (before, _) in spans(records).items():
        if name not in axes.by_name:
            raise EditError(f"the history edits the axis {name!r}, which this model does not have")
        if axes[name].size != before:
            raise EditError(f"the history begins with {before} units on {name}, this model has {axes[name].size}")
        if axes[name].frozen is not None:
            raise FrozenAxisError(f"{name} may not be edited: {axes[name].frozen}")
    found = composed(records)
    return {name: gather for name, gather in found.items() if not gather.is_identity(axes[name].size)}


def stages(records: Iterable[EditRecord]) -> Iterator[tuple[list[EditRecord], TreeRecord | None]]:
    """The unit-level edits up to each depth edit, with that; at last those after it."""
    waiting: list[EditRecord] = []
    for record in records:
        waiting.append(record)
        if record.depth is not None:
            yield waiting, record.depth
            waiting = []
    yield waiting, None
