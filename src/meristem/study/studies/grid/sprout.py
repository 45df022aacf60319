"""Layers and branches that are born empty, and whose units a growth method makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch.optim import Optimizer

from meristem.axes import Axis, AxisMap
from meristem.axes.module_path import within
from meristem.depth.criterion import undisturbed
from meristem.edit import Edit
from meristem.errors import EditError
from meristem.grow import Firefly, Method
from meristem.grow.method import Growth
from meristem.signals import Recorder, Statistic, View
from meristem.study.studies.grid.contender import LISTEN, Closure, Setting
from meristem.study.studies.grid.insertion import Insertion, method

Sprouting: TypeAlias = Literal["GradMax", "GradMax-Opt", "Firefly"]

EMPTY = 2
"""Hidden units of an empty branch: a single one could not be told from a length that broadcasts."""

COMPETING = 2
"""For each hidden unit that is wanted so many new units compete under Firefly: about half of all help."""


@dataclass(frozen=True)
class Sprout:
    """A branch `x -> V s(norm(W x))` is born empty, with V = 0, and a growth method for units makes its hidden ones.

    A new layer or branch is the growth of a hidden width from nothing. What GradMax (Evci et al., ICLR 2022, arXiv
    2201.05125, equations 5 to 8) maximises for new units between two layers it maximises here for W and V: M is the
    candidate gradient between what the branch reads and the gradient of what it adds to. The new layers of Firefly (Wu
    et al., NeurIPS 2020, arXiv 2102.08574, section 2), its third kind of candidates, are such branches: their units are
    trained, judged by gates and kept as new units of a layer are, and of several places that one is taken where the
    kept ones promise most (derived, with the sum of their gains as the gain of the layer).

    Units that stand for the width of the empty branch leave when the method has made others. A method that makes none
    leaves the branch empty.

    Preserved: what the method preserves.

    Attributes:
        growing, norm, insertion, tries: see `insertion.method`; of Firefly's new units twice as many compete as are
            wanted.
        passes: over so many batches statistics are added up.
    """

    growing: Sprouting
    norm: bool
    insertion: Insertion = "published"
    tries: int = 100
    passes: int = LISTEN

    @property
    def chooses(self) -> bool:
        """Whether the method says where, too."""
        return self.growing == "Firefly"

    def plan(self, axes: AxisMap, path: str, count: int, closure: Closure, seed: int) -> Growth:
        """The units of an empty branch.

        Args:
            axes: today's map.
            path: of the branch.
            count: how many units are wanted.
            closure: computes the loss of a batch that is drawn at random.
            seed: of everything random; places are compared on the same batches.

        Raises:
            EditError: nothing of the branch can be grown.
        """
        axis, made = hidden(axes, path), self._method(count)
        why = made.undefined(axes, axis)
        if why is not None:
            raise EditError(f"{made} makes no units for {path}: {why}")
        signals = _heard(axes, made.needs(axes, axis, count), closure, self.passes, seed)
        generator = torch.Generator().manual_seed(seed)
        return made.propose(View(axes, signals=signals, closure=closure, generator=generator), axis, count)

    def _method(self, count: int) -> Method:
        found = method(self.growing, self.norm, self.insertion, self.tries)
        return replace(found, fresh=COMPETING * count) if isinstance(found, Firefly) else found


def sprout_of(grow: str | None, setting: Setting, insertion: Insertion) -> Sprout | None:
    """What makes the units of newborns, if a growth method for units does."""
    for growing in get_args(Sprouting):
        if growing == grow:
            return Sprout(growing, setting.norm, insertion, setting.tries)
    return None


def filled(axes: AxisMap, optimizer: Optimizer, plan: Growth, seed: int) -> AxisMap:
    """The map after the units of a plan have taken the place of those of the empty branch."""
    if not plan.births:
        return axes
    grown = Edit(axes, optimizer, seed=seed).gather(plan.axis, plan.gather, plan.start).commit().axes
    return Edit(grown, optimizer, seed=seed).prune(plan.axis.name, range(plan.axis.size)).commit().axes


def hidden(axes: AxisMap, path: str) -> Axis:
    """The axis that lies within a module.

    Raises:
        EditError: there is none, or more than one.
    """
    found = [axis for axis in axes.editable if all(within(p.layout.name, path) for p in axes.places[axis.index])]
    if len(found) != 1:
        raise EditError(f"expected one axis within {path}, found {[axis.name for axis in found]}")
    return found[0]


def _heard(
    axes: AxisMap, statistics: Sequence[Statistic], closure: Closure, passes: int, seed: int
) -> Mapping[Statistic, Any]:
    """Statistics of some batches; the net, its gradients and torch's generators are afterwards as they were."""
    if not statistics:
        return {}
    recorder = Recorder(axes, statistics, steps=passes)
    with undisturbed(axes.model):
        torch.manual_seed(seed)
        for number in range(1, passes + 1):
            if number == passes:
                recorder.closing()
            closure().backward()
            axes.model.zero_grad()
    return recorder.finish()
