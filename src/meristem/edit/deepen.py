"""A depth edit worked out: what happens to a model, the copies that follow, and the optimizers."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim import Optimizer

from meristem.axes.map import AxisMap
from meristem.edit.caches import cache_steps
from meristem.edit.checks import check_optimizers, tensors_of, unwrapped
from meristem.edit.groups import group_steps
from meristem.edit.journal import Step
from meristem.edit.plant import Planting, plant, setting_steps
from meristem.edit.state import StatePolicy
from meristem.edit.tree import TreeRecord, Widths
from meristem.errors import EditError, StaleMapError


@runtime_checkable
class DepthChange(Protocol):
    """A change of the module tree. Frozen dataclasses implement it, one for each kind."""

    def widths(self, axes: AxisMap) -> Widths:
        """Which units go with modules, and where room is made for those of new ones. It is done before all else.

        Args:
            axes: the map of the model.
        """
        ...

    def tree(self, axes: AxisMap) -> TreeRecord:
        """What happens to the module tree.

        Args:
            axes: the map of the model; unit-level changes of the same edit, and those of `widths`, are done already, so
                lengths are those of the model's tensors.

        Raises:
            EditError: it cannot be done; says why.
        """
        ...

    def start(self, record: TreeRecord, planting: Planting, axes: AxisMap) -> None:
        """Give the new modules, which are not in place yet, the values that they start from.

        Args:
            record: what `tree` returned.
            planting: of the model, or of a copy that follows; `planting.made` finds the module of each node.
            axes: as for `tree`.
        """
        ...

    def inexact(self) -> tuple[str, ...]:
        """Why the function changes; nothing if it is preserved."""
        ...


class Replayed:
    """A change that is only a record, as a history holds it."""

    def __init__(self, record: TreeRecord) -> None:
        self.record = record

    def widths(self, axes: AxisMap) -> Widths:
        """As recorded."""
        return self.record.widths

    def tree(self, axes: AxisMap) -> TreeRecord:
        """The record."""
        return self.record

    def start(self, record: TreeRecord, planting: Planting, axes: AxisMap) -> None:
        """Copies start as copies, what is built as PyTorch builds it."""

    def inexact(self) -> tuple[str, ...]:
        """A history does not say."""
        return ("a replayed edit",)


@dataclass(frozen=True, eq=False)
class Deepening:
    """A depth edit that is ready to be put in place.

    Attributes:
        record: what happens to the module tree.
        plantings: that of the model, and those of the copies that follow.
        optimizers: how they follow.
        resets: which optimizer state is lost, in words.
        axes: the map of the model before.
        moved: the new name of every parameter and buffer of the model that stays, by its old one.
        gone: the parameters that leave the model, by their names, without keeping them alive.
        former: the modules that leave it, likewise.
        copied: the names of the new parameters and buffers that are copies of others.
        inserted, removed: the paths of the outermost modules with parameters that are new, and that leave.
    """

    record: TreeRecord
    plantings: tuple[Planting, ...]
    optimizers: tuple[Step, ...]
    resets: tuple[str, ...]
    axes: AxisMap
    moved: Mapping[str, str]
    gone: Mapping[str, weakref.ref[Any]]
    former: tuple[weakref.ref[nn.Module], ...]
    copied: tuple[str, ...]
    inserted: tuple[str, ...]
    removed: tuple[str, ...]

    def steps(self) -> Iterator[Step]:
        """What to do, in order; later steps are worked out when the earlier ones are done."""
        for planting in self.plantings:
            yield from cache_steps(planting.model, self.axes.caches)
            yield from planting.steps
        model, *follow = (planting.model for planting in self.plantings)
        yield from setting_steps(model, self.record.settings, follow)
        yield from self.optimizers


def deepen(
    axes: AxisMap,
    changes: Sequence[DepthChange],
    optimizers: Sequence[Optimizer],
    follow: Sequence[nn.Module],
    policy: StatePolicy,
    seed: int,
) -> Deepening:
    """Work out depth changes. Nothing is touched.

    Raises:
        EditError: a change cannot be done, or two contradict one another.
        StaleMapError: an optimizer or a copy is not of this model.
    """
    model = axes.model
    check_optimizers(optimizers, tensors_of(model), ())
    records = [change.tree(axes) for change in changes]
    record = TreeRecord()
    for each in records:
        record = record.joined(each)
    number = _number(axes, seed)
    plantings = []
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(number)
        for root in (model, *map(_checked(model), follow)):
            planting = plant(root, record, seed=number)
            for change, own in zip(changes, records, strict=True):
                change.start(own, planting, axes)
            plantings.append(planting)
        for planting in plantings[1:]:
            _like_the_model(plantings[0], planting)
        steps, resets = group_steps(optimizers, plantings[0], policy)
    own = plantings[0]
    stay = {id(module) for module in own.modules.values()}
    return Deepening(
        record=record,
        plantings=tuple(plantings),
        optimizers=tuple(steps),
        resets=tuple(resets),
        axes=axes,
        moved=own.moved,
        gone={name: weakref.ref(t) for name, t in own.gone.items() if isinstance(t, nn.Parameter)},
        former=tuple(weakref.ref(module) for module in model.modules() if id(module) not in stay),
        copied=own.copied,
        inserted=own.inserted,
        removed=own.removed,
    )


def _checked(model: nn.Module) -> Callable[[nn.Module], nn.Module]:
    """A function that gives the copy inside a wrapper, after a check that its modules are those of the model."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]

    def checked(copy: nn.Module) -> nn.Module:
        root = unwrapped(copy)
        if root is model:
            raise EditError("the model itself is given in `follow`; give only copies of it")
        if [name for name, _ in root.named_modules(remove_duplicate=False)] != names:
            raise StaleMapError(f"the {type(copy).__name__} in `follow` is no copy of the model as it is now")
        return root

    return checked


def _like_the_model(model: Planting, copy: Planting) -> None:
    """What was newly built for a copy of the model starts from the same values; copied blocks are its own."""
    for name, tensor in copy.born.items():
        if id(tensor) not in copy.origins:
            tensor.copy_(model.born[name])


def _number(axes: AxisMap, seed: int) -> int:
    """From which everything random starts: another one for every edit."""
    key = repr((seed, len(axes.history), axes.sizes, "depth")).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
