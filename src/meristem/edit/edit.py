"""The transaction: gathers are collected, previewed, and committed all or nothing."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from meristem.axes.map import Axis, AxisMap
from meristem.axes.trace import traced_again
from meristem.edit.commit import Request, prepare, validate
from meristem.edit.compute import Change
from meristem.edit.config_watch import ConfigurationWarning, described, undescribed
from meristem.edit.deep_preview import deep_preview
from meristem.edit.deepen import DepthChange
from meristem.edit.followers import Follower, Told
from meristem.edit.gather import Gather
from meristem.edit.indices import Recipe
from meristem.edit.journal import Journal, SetAttribute, Step
from meristem.edit.newborns import Newborns, ZeroFanOut
from meristem.edit.optimizer import OptimizerStateWarning
from meristem.edit.preview import Preview, preview
from meristem.edit.rebuild import Rebuilt, rebuild
from meristem.edit.record import record_of
from meristem.edit.stale import Replaced, StaleHolder, StaleParameterWarning, stale_holders
from meristem.edit.state import ParentMoments, StatePolicy
from meristem.errors import EditError, FrozenAxisError, outside

RANDOM = ZeroFanOut()
PARENTS = ParentMoments()


@dataclass(frozen=True, eq=False)
class Commit:
    """An edit that was done.

    Attributes:
        axes: the map of the model as it is now; the old map is stale.
        record: the edit as JSON, the last entry of `axes.history`.
        replaced: which parameter or buffer followed which, without keeping any alive: `replaced.get(p, p)` is the
            tensor that stands for one that somebody held. What keeps its shape is edited in place and not listed.
        stale: who still holds parameters that were replaced or removed.
        moved: after a depth edit, the new name of every parameter and buffer that stayed, by its old one; else empty.
        inserted, removed: after a depth edit, the paths of the outermost modules with parameters that are new, as they
            are called now, and of those that left, as they were called.
        followed: after a depth edit, by its name now, how units were gathered in each parameter and buffer that stayed;
            empty if no units changed. Tensors of its shape follow with `meristem.edit.compute.gathered`.
        shapes: likewise, by its name now, the shape that each had before.
    """

    axes: AxisMap
    record: Mapping[str, Any]
    replaced: Mapping[Tensor, Tensor]
    stale: tuple[StaleHolder, ...]
    moved: Mapping[str, str] = field(default_factory=dict)
    inserted: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    followed: Mapping[str, Recipe] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class Edit:
    """One change of a model's structure, of any number of axes, applied all or nothing.

        axes = Edit(axes, optimizer).prune("encoder.0", [3, 5]).grow("encoder.2", 8).commit().axes

    Every method checks what it is given at once, changes nothing but this collection, and returns it. Several calls for
    the same axis follow one another: units are numbered as the earlier ones left them.

    Args:
        axes: the map of the model.
        optimizers: the optimizer or optimizers that train it; their groups and state follow.
        follow: copies of the model that follow, an `AveragedModel` or a `copy.deepcopy`: they keep their own incumbents
            and get the model's newborns; and any `Follower`, which is told at the end of the transaction.
        seed: of everything random. Two successive edits with one seed draw different numbers.
        state: what newborns' optimizer state starts from.

    Attributes:
        result: the `Commit`, once it is done; also where `commit` was interrupted, or a filter turned a warning of it
            into an exception, after that. Without it, nothing has changed.

    Raises:
        EditError: an optimizer or a copy is not what is expected.
    """

    def __init__(
        self,
        axes: AxisMap,
        optimizers: Optimizer | Iterable[Optimizer] = (),
        follow: nn.Module | Follower | Iterable[nn.Module | Follower] = (),
        *,
        seed: int = 0,
        state: StatePolicy = PARENTS,
    ) -> None:
        self.axes = axes
        self.optimizers = _sequence(optimizers, Optimizer, "optimizers")
        followers = _sequence(follow, (nn.Module, Follower), "follow")
        self.follow: tuple[nn.Module, ...] = tuple(f for f in followers if isinstance(f, nn.Module))
        self.followers: tuple[Follower, ...] = tuple(f for f in followers if not isinstance(f, nn.Module))
        self.seed = seed
        self.state = state
        self._changes: dict[int, Change] = {}
        self._depth: list[DepthChange] = []
        self.result: Commit | None = None

    @property
    def changes(self) -> tuple[Change, ...]:
        """What has been collected, one entry per axis."""
        return tuple(self._changes.values())

    @property
    def layers(self) -> tuple[DepthChange, ...]:
        """The changes of the module tree that have been collected."""
        return tuple(self._depth)

    def prune(self, axis: Axis | str, units: Iterable[int] | Tensor) -> Edit:
        """Remove units, given by number or by a mask."""
        found = self._axis(axis)
        return self.gather(found, Gather.prune(self._size(found), units))

    def keep(self, axis: Axis | str, units: Iterable[int] | Tensor) -> Edit:
        """Remove all units but these, which keep their order."""
        found = self._axis(axis)
        return self.gather(found, Gather.keep(self._size(found), units))

    def permute(self, axis: Axis | str, order: Iterable[int] | Tensor) -> Edit:
        """Reorder the units: the new unit `i` is the old unit `order[i]`."""
        found = self._axis(axis)
        gather = Gather.permute(order)
        if len(gather) != self._size(found):
            raise EditError(f"{found.name} has {self._size(found)} units, the order names {len(gather)}")
        return self.gather(found, gather)

    def grow(self, axis: Axis | str, count: int, start: Newborns = RANDOM) -> Edit:
        """Append newborn units."""
        found = self._axis(axis)
        return self.gather(found, Gather.grow(self._size(found), count), start)

    def gather(self, axis: Axis | str, gather: Gather, start: Newborns = RANDOM) -> Edit:
        """Any gather along an axis; `start` says what its newborns start from.

        Raises:
            UnknownAxisError: no such axis.
            FrozenAxisError: it may not be edited; the message says why.
            EditError: an axis of another map, an unknown unit, a `start` that is none, a second growth method on the
                same axis, or a further gather of it after one that moves incumbents.
        """
        found = self._axis(axis)
        self._check_open()
        if not isinstance(start, Newborns):
            raise EditError(
                f"`start` says what newborns start from, as edit.ZeroFanOut() does; got {start!r}. Growth methods that "
                "look at signals go to Plasticity(grow=...)"
            )
        if max(gather.sources) >= self._size(found):
            raise EditError(
                f"unknown unit {max(gather.sources)}: {found.name} has {self._size(found)} units, numbered from 0"
            )
        earlier = self._changes.get(found.index)
        if earlier is not None:
            if earlier.gather.has_newborns and gather.has_newborns and earlier.start != start:
                raise EditError(
                    f"{found.name} grows by {earlier.start} already and now by {start}; commit the first "
                    "before the second"
                )
            if any(earlier.start.shift(layout) is not None for layout in self.axes.layouts.values()):
                raise EditError(
                    f"{earlier.start} moves incumbents along with {found.name}, which is to change once more; commit "
                    "the first before the second"
                )
            start = earlier.start if earlier.gather.has_newborns else start
            gather = earlier.gather.then(gather)
        self._changes[found.index] = Change(found, gather, start)
        return self

    def depth(self, change: DepthChange) -> Edit:
        """Change the module tree: see `meristem.depth`. It is done after all gathers of this edit, whenever called,
        and the model is traced again in the same transaction.

        Raises:
            EditError: the map was not made by `trace`, or this is no change of the module tree.
        """
        self._check_open()
        if not isinstance(change, DepthChange):
            raise EditError(f"expected a change of the module tree, such as meristem.depth.Remove, got {change!r}")
        if not self.axes.examples:
            raise EditError("this map holds no example to trace the model with again; make one with meristem.trace")
        self._depth.append(change)
        return self

    def preview(self, batch: Any = None) -> Preview:
        """What would change. With a batch, given as the example to `trace`, the drift of the outputs on it is measured:
        the edit is done, the model run in the mode that it is in (in evaluation mode if it draws random numbers in
        training), and everything taken back bit for bit.

        Raises:
            EditError: as `commit`.
        """
        request = self._request()
        validate(request)
        if self._depth:
            return deep_preview(request, self._depth, batch)
        return preview(request, batch)

    def commit(self, then: Callable[[], Iterable[Step]] = tuple) -> Commit:
        """Do it. Whatever goes wrong, model, optimizers, copies and followers are afterwards as they were, bit for bit.
        Once it is done, and `result` says so, only the search for stale parameters is left and, after a depth edit, a
        look at the model's `config`, which change nothing. A `ConfigurationWarning` says if that named the model's
        parameters before and describes another model now. (After gathers alone no model is built to see: call
        `fit_config`.)

        Tensors whose shape changes become new objects: graphs that are still alive stay valid, and everything that
        holds a parameter is told, in the model, the optimizers and the copies. If anything else still holds an old one,
        a `StaleParameterWarning` says who. Tensors that keep their shape stay the same objects, as does the optimizer's
        state for them, and get new content; graphs that need the old one raise in their backward pass, as they do after
        a step of an optimizer. (Parameters that share memory with others are replaced all the same.)

        Args:
            then: gives further steps of the same transaction, once the new tensors are in place.

        Raises:
            EditError: nothing was collected, it was committed before, or no optimizer holds an edited parameter.
            StaleMapError: the model, a copy or an optimizer changed since the map was made.
        """
        request = self._request()
        configured = bool(self._depth) and described(self.axes.model)
        done = _swap(request, self._depth, then, self._told)
        self.result = replace(done.commit, stale=stale_holders(done.stale()))
        for reset in done.resets:
            warnings.warn(reset, OptimizerStateWarning, stacklevel=outside())
        for holder in self.result.stale:
            warnings.warn(str(holder), StaleParameterWarning, stacklevel=outside())
        if configured and (why := undescribed(self.result.axes)):
            warnings.warn(why, ConfigurationWarning, stacklevel=outside())
        return self.result

    def _told(self, commit: Commit) -> Iterator[Step]:
        """The last steps: everybody learns of the edit."""
        yield from Told.each(self.followers, commit)
        yield SetAttribute(self, "result", None, commit)

    def _request(self) -> Request:
        self._check_open()
        if not self._changes and not self._depth:
            raise EditError("nothing to do: call prune, keep, grow, permute, gather or depth first")
        return Request(self.axes, self.changes, self.optimizers, self.follow, self.seed, self.state)

    def _check_open(self) -> None:
        if self.result is not None:
            raise EditError("this edit was committed already; start another one on the map that commit() returned")

    def _size(self, axis: Axis) -> int:
        change = self._changes.get(axis.index)
        return axis.size if change is None else len(change.gather)

    def _axis(self, axis: Axis | str) -> Axis:
        if isinstance(axis, str):
            found = self.axes[axis]
        elif not isinstance(axis, Axis):
            raise EditError(f"expected an axis or its name, got {axis!r}")
        elif axis.index >= len(self.axes) or self.axes.axes[axis.index] != axis:
            raise EditError(f"the axis {axis.name} is not of this map; use the map returned last")
        else:
            found = axis
        if found.frozen is not None:
            raise FrozenAxisError(f"{found.name} may not be edited: {found.frozen}")
        return found


@dataclass(frozen=True, eq=False)
class _Done:
    """What an edit has done; keeps no old tensor alive."""

    commit: Commit
    old: Mapping[str, weakref.ref[Any]]
    resets: Sequence[str]
    former: Sequence[weakref.ref[nn.Module]] = ()

    def stale(self) -> Mapping[str, weakref.ref[Any]]:
        """The parameters of before, but for those of removed modules that somebody keeps."""
        modules = [module for reference in self.former if (module := reference()) is not None]
        kept = {id(p) for module in modules for p in module._parameters.values()}
        return {name: reference for name, reference in self.old.items() if id(reference()) not in kept}


def _swap(
    request: Request,
    depth: Sequence[DepthChange],
    then: Callable[[], Iterable[Step]],
    told: Callable[[Commit], Iterable[Step]],
) -> _Done:
    """Compute and swap in everything or nothing; no reference to an old tensor survives."""
    axes = request.axes
    record: Mapping[str, Any] = record_of(request.changes)
    rebuilt: Rebuilt | None = None
    with Journal() as journal:
        if depth:
            rebuilt = rebuild(journal, request, depth)
            prepared = rebuilt.prepared
        else:
            prepared = prepare(request)
            axes = axes.resized({change.axis.index: len(change.gather) for change in request.changes}, record)
            journal.apply(prepared.steps)
        journal.apply(then())
        if rebuilt is not None:
            axes = traced_again(rebuilt.axes, axes.history)
            record = record_of(request.changes, rebuilt.deepening.record, rebuilt.succession(axes))
            axes = replace(axes, history=(*request.axes.history, record))
        gone = rebuilt.deepening.gone if rebuilt is not None else {}
        commit = Commit(axes, record, Replaced(p for name, p in prepared.replaced.items() if name not in gone), ())
        if rebuilt is not None:
            tree = rebuilt.deepening
            commit = replace(
                commit,
                moved=tree.moved,
                inserted=tree.inserted,
                removed=tree.removed,
                followed=rebuilt.followed,
                shapes=rebuilt.shapes,
            )
        journal.apply(told(commit))
    journal.forget()
    old = {
        name: weakref.ref(tensor) for name, (tensor, _) in prepared.replaced.items() if isinstance(tensor, nn.Parameter)
    }
    if rebuilt is None:
        return _Done(commit, old, prepared.resets)
    tree = rebuilt.deepening
    return _Done(commit, {**old, **tree.gone}, [*prepared.resets, *tree.resets], tree.former)


def _sequence(given: Any, kinds: type | tuple[type, ...], what: str) -> tuple[Any, ...]:
    if isinstance(given, kinds):
        return (given,)
    found = tuple(given) if isinstance(given, Iterable) else (given,)
    expected = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
    for entry in found:
        if not isinstance(entry, kinds):
            raise EditError(f"{what}: expected {expected} objects, got {type(entry).__name__}")
    return found
