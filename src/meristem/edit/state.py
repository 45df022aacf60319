"""What the optimizer state of newborns starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from meristem.axes.map import Axis, AxisMap
from meristem.edit.compute import Change
from meristem.edit.gather import Gather
from meristem.edit.indices import Along, Indices, Recipe
from meristem.errors import ConfigError, EditError


@dataclass(frozen=True, eq=False)
class StateSlice:
    """One dimension of one state tensor in which units are born.

    Attributes:
        optimizer: the optimizer.
        key: the name of the state, "exp_avg" for example.
        name: the name of the parameter.
        dim: the dimension.
        old: the whole state tensor before the edit.
        shape: the shape of the entries that start from nothing: that of the new state, except along `dim`.
        sources: for each new index along `dim` the index of `old` that it copies, -1 for none.
        power: with which power of the gradient the state grows: 1 for first moments, 2 for second ones, 0 for what
            does not.
        others: the sources along the other dimensions that change.
    """

    optimizer: Optimizer
    key: str
    name: str
    dim: int
    old: Tensor
    shape: tuple[int, ...]
    sources: Tensor
    power: int = 1
    others: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Born:
    """The newborns of one axis, when it is decided whose state they take over.

    Attributes:
        axes: the map before the edit.
        axis: the axis, as it was.
        gather: what happens to its units.
        sizes: the size of every axis after the edit, by number.
        optimizers: all that follow; their state is still the old one.
        tensors: by its first name, every tensor that the edit changes: the old one and its new content.
    """

    axes: AxisMap
    axis: Axis
    gather: Gather
    sizes: Mapping[int, int]
    optimizers: Sequence[Optimizer]
    tensors: Mapping[str, tuple[Tensor, Tensor]]


@runtime_checkable
class StatePolicy(Protocol):
    """What the optimizer state of newborns without a source starts from. Derive from `StateStart` to say also whose
    state is taken over; with this alone copies take over that of their source."""

    def values(self, s: StateSlice) -> Tensor:
        """The entries of the new indices without a source; shape `s.shape`."""
        ...


class StateStart:
    """A `StatePolicy` that answers for every newborn. Frozen dataclasses derive from it and override what they change.

    The defaults: a copy takes over the state of the unit that it copies, multiplied as the growth method's
    `gradient_factor` says (second moments by its square); a newborn without a source starts from zero. Incumbents keep
    theirs bit for bit, unless their own gradients change by a known factor.
    """

    drops: ClassVar[bool] = False
    """Whether all state of all optimizers is forgotten instead."""

    @property
    def copied(self) -> float:
        """What the gradients of a copied layer or block are taken to be, as a multiple of those of its original: by
        that its first moments are multiplied, by its square the second ones."""
        return 1.0

    def values(self, s: StateSlice) -> Tensor:
        """The entries of the new indices without a source; shape `s.shape`."""
        return s.old.new_zeros(()).expand(s.shape)

    def sources(self, born: Born) -> Tensor:
        """For every new unit of the axis the old unit whose state it takes over along all tensors, -1 for none.

        Returns:
            int64, shape (new units,), on the CPU; for incumbents as `born.gather.index`.
        """
        return born.gather.index


@dataclass(frozen=True)
class ParentMoments(StateStart):
    """A copy takes over its parent's state; whatever has no parent starts from zero. The default of every edit.

    Exact where the growth method knows how gradients change. Net2Wider divides the fan-out of a unit by shares `a_j`:
    then `dL/dW'[j] = a_j dL/dW[g(j)]`, so first moments of fan-in are multiplied by `a_j`, second ones by `a_j ** 2`,
    and those of fan-out stay; the state is then what it would have been, had the wide model been trained from the
    start (from the exact relation of gradients; tested). Splits in halves likewise, up to the distance of the halves.

    How the gradient of a copied layer or block differs from that of its original no method knows: the block stands at
    another place. `gradient_factor` says what it is taken to be: then first moments are multiplied by it, second ones
    by its square, and the step count is copied. With Adam the factor cancels in the first update, up to epsilon; with
    the momentum of SGD the copy's first steps are that much shorter.

    Fails: state that is not a sum of powers of gradients (RMSprop's momentum, Rprop's step sizes) is copied as it is.

    Args:
        gradient_factor: of the gradients of copied layers and blocks; above 0. Default: 1, their state is copied as it
            is. `Zeros` lets them start without.

    Raises:
        ConfigError: the factor is not above 0.
    """

    gradient_factor: float = 1.0

    @property
    def copied(self) -> float:
        return self.gradient_factor

    def __post_init__(self) -> None:
        if not 0 < self.gradient_factor < float("inf"):
            raise ConfigError(
                f"ParentMoments: gradient_factor must be a number above 0, got {self.gradient_factor!r}; Zeros() lets "
                "copies start without state"
            )


@dataclass(frozen=True)
class Zeros(StateStart):
    """Zero for every newborn, even for copies; incumbents keep theirs bit for bit. What GradMax and RigL do.

    With Adam a newborn's first update is then up to `(1 - beta1) / sqrt(1 - beta2)` = 3.16 learning rates, because the
    step count that corrects the bias is the parameter's own: see `meristem.integrate.StepCounts`.
    """

    def sources(self, born: Born) -> Tensor:
        """None for newborns."""
        return born.gather.index.masked_fill(born.gather.newborn_mask, -1)


@dataclass(frozen=True)
class Reset(StateStart):
    """All state of all optimizers is forgotten, step counts too, as if training began with a new optimizer.

    What Firefly (arXiv 2102.08574) and SWE (arXiv 2509.18842) do. Simple, and with Adam free of bursts; incumbents pay
    for it: their moments have to be gathered anew. Schedulers and parameter groups stay.
    """

    drops: ClassVar[bool] = True


def is_dropped(policy: StatePolicy) -> bool:
    """Whether the policy forgets all state."""
    return isinstance(policy, StateStart) and policy.drops


def state_recipes(
    axes: AxisMap,
    changes: Sequence[Change],
    optimizers: Sequence[Optimizer],
    tensors: Mapping[str, tuple[Tensor, Tensor]],
    recipes: Mapping[str, Recipe],
    policy: StatePolicy,
) -> Mapping[str, Recipe]:
    """By which recipe the state of each edited tensor follows: its own, but for units that take over another's state.

    Args:
        axes: the map before the edit.
        changes: the edit.
        optimizers: all that follow.
        tensors: by its first name, every edited tensor: the old one and its new content.
        recipes: what happens to them.
        policy: whose state newborns take over.

    Raises:
        EditError: the policy names unknown units, or moves the state of incumbents.
    """
    gathers = {change.axis.index: change.gather for change in changes}
    if (
        not optimizers
        or not isinstance(policy, StateStart)
        or not any(gather.has_newborns for gather in gathers.values())
    ):
        return recipes
    sizes = {**dict(enumerate(axes.sizes)), **{axis: len(gather) for axis, gather in gathers.items()}}
    born = [Born(axes, change.axis, change.gather, sizes, optimizers, tensors) for change in changes]
    taken = {one.axis.index: _taken(policy, one) for one in born}
    if taken == gathers:
        return recipes
    indices = Indices(taken, axes.sizes)
    known: dict[int, Along] = {}  # what two dimensions share stays shared
    for name, recipe in recipes.items():
        for dim, along in recipe.items():
            if id(along) not in known:
                found = indices.along(axes.layouts[name].dims[dim], along.index.device)
                known[id(along)] = replace(found, gradient=along.gradient)
    return {name: {dim: known[id(along)] for dim, along in recipe.items()} for name, recipe in recipes.items()}


def _taken(policy: StateStart, born: Born) -> Gather:
    """The gather of an axis as its state sees it."""
    gather = born.gather
    if not gather.has_newborns:
        return gather
    sources = policy.sources(born)
    if sources is gather.index:
        return gather
    kept = ~gather.newborn_mask
    if sources.shape != gather.index.shape or not torch.equal(sources[kept], gather.index[kept]):
        raise EditError(
            f"{policy!r} must name one old unit of {born.axis.name} (or -1) for each of {len(gather)} new ones, and "
            f"leave incumbents theirs; it gave {sources.tolist()}"
        )
    if int(sources.max()) >= born.axis.size:
        raise EditError(f"{policy!r} names unit {int(sources.max())} of {born.axis.name}, which has {born.axis.size}")
    return Gather(tuple(sources.tolist()), gather.newborn)
