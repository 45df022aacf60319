"""The map of a model: its axes, and where each axis occurs in its parameters, buffers and Python attributes."""

from __future__ import annotations

import difflib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import nn

from meristem.axes.counterpart import Counterpart
from meristem.axes.expression import ONE, Expression, Leaf, leaves, size_of
from meristem.axes.guards import Guard
from meristem.axes.path import End, Path
from meristem.errors import StaleMapError, UnknownAxisError

Example = tuple[tuple[Any, ...], Mapping[str, Any], bool]
"""Arguments, keyword arguments and mode (True: training) of one run of the model."""


class Role(str, Enum):
    """What a parameter's dimension does with the units of an axis."""

    PRODUCES = "produces"
    READS = "reads"
    CARRIES = "carries"


class Coupling(str, Enum):
    """Why inserting units with zero fan-out does not by itself preserve the function."""

    NORMALIZED = "normalized"
    REDUCED = "reduced"
    SOFTMAX = "softmax"
    BILINEAR = "bilinear"
    STANDARDIZED = "standardized"
    SCALED = "scaled"


@dataclass(frozen=True, slots=True)
class Axis:
    """One independent length of the model.

    Attributes:
        index: the axis's number in its map; `Leaf(index)` in expressions.
        name: unique in the map; the path of the first module that produces it.
        size: number of units.
        kind: what a unit is, for people: "channels", "features", "heads", "head size", "hidden", ...
        frozen: why it may not be edited, or None if it may.
        couplings: why growth with zero fan-out alone is not exact; empty if it is.
        minimum: the least number of units with which the model's code still works (2 where it squeezes all lengths 1).
        nonlinear: the roles in which weights meet it that are not linear in their parameters slice by slice: divided by
            a norm, say. With `reads`, fan-out of newborns that is not zero changes what incumbents' fan-out does; with
            `produces`, zero fan-in may be 0 / 0.
        counterpart: where two activations are contracted over it, what must be zero of newborns so that they add
            nothing; None if there is no such product, or that is not known, or not all that it takes.
    """

    index: int
    name: str
    size: int
    kind: str
    frozen: str | None
    couplings: frozenset[Coupling]
    minimum: int = 1
    nonlinear: frozenset[Role] = frozenset()
    counterpart: Counterpart | None = None

    @property
    def editable(self) -> bool:
        """Whether units may be inserted and removed."""
        return self.frozen is None

    @property
    def exact(self) -> bool:
        """Whether growth with zero fan-out, and a zero counterpart, preserves the function to float rounding."""
        return self.editable and not self.unsettled

    @property
    def unsettled(self) -> frozenset[Coupling]:
        """The couplings because of which newborns whose fan-out and whose counterpart are zero change the function."""
        return self.couplings - {Coupling.BILINEAR} if self.counterpart is not None else self.couplings


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """How one parameter or buffer is laid out over axes.

    Attributes:
        name: its first qualified name in the model.
        names: all its qualified names (several if tied).
        buffer: whether it is a buffer.
        dims: one expression per dimension.
        roles: for each dimension, the role that it has towards each axis in it (by axis number).
        neutral: the value that makes a carried entry do nothing (1 for scales and variances, 0 for biases and means),
            or None where no such value exists.
        joined: whether its entries do nothing but stand beside activations, as those of a learned token do.
        copied: the roles in which newborns' entries are copies of incumbents': those of a tensor that is transformed
            before it meets the units, so that no number is known to do nothing (carried), or to be finite (all roles).
    """

    name: str
    names: tuple[str, ...]
    buffer: bool
    dims: tuple[Expression, ...]
    roles: tuple[Mapping[int, frozenset[Role]], ...]
    neutral: float | None
    joined: bool = False
    copied: frozenset[Role] = frozenset()

    def shape(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The tensor's shape when axes have the given sizes."""
        return tuple(size_of(dim, sizes) for dim in self.dims)


@dataclass(frozen=True, slots=True)
class AttributeBinding:
    """A Python attribute that holds a length: it must change with the axes.

    Attributes:
        module: qualified name of the module.
        path: how to reach the value from it: attribute names and tuple or list positions, like
            `("normalized_shape", 0)`.
        value: the length as an expression.
    """

    module: str
    path: tuple[str | int, ...]
    value: Expression


@dataclass(frozen=True, slots=True)
class Cache:
    """An attribute in which a module keeps tensors that it computed from parameters: stale after an edit.

    Attributes:
        module: qualified name of the module.
        attribute: its name; an edit sets it back.
        before: what it held when the model was traced (of a container, its content).
    """

    module: str
    attribute: str
    before: Any


@dataclass(frozen=True, slots=True)
class Work:
    """One contraction of the forward pass: `2 * fixed * product(lengths)` floating-point operations.

    Attributes:
        module: qualified name of the module that ran it.
        fixed: the product of the lengths that no edit changes (batch, positions, kernel).
        lengths: the others.
    """

    module: str
    fixed: int
    lengths: tuple[Expression, ...]


@dataclass(frozen=True)
class Place:
    """One dimension of one tensor in which an axis occurs."""

    layout: TensorLayout
    dim: int
    roles: frozenset[Role]


@dataclass(frozen=True, repr=False)
class AxisMap:
    """All axes of one model. Immutable: an edit returns a new map.

    `paths` says, for each axis by number, how its units get from the weights that produce them to those that read
    them, as far as they can be followed; `kinds` the class of every module by its path, as it was traced; `examples`
    are the inputs that the model was traced with; `alike` are pairs of lengths for which an operator has a faster
    kernel where they are the same; `guards` are the comparisons of sizes on which the way through the code hangs;
    `contractions` are, by weight, the calls that contract activations with it, if that is all it is used for.
    Iterating yields every axis; `axes["layer1.0.conv1"]` finds one by its name, by the module that produces it or by
    the name of a tensor whose first dimension it is. Printed, it lists the editable axes.
    """

    axes: tuple[Axis, ...]
    layouts: Mapping[str, TensorLayout]
    attributes: tuple[AttributeBinding, ...]
    work: tuple[Work, ...]
    unreached: tuple[str, ...]
    model_reference: weakref.ref[nn.Module]
    history: tuple[Mapping[str, Any], ...] = ()
    caches: tuple[Cache, ...] = ()
    paths: Mapping[int, tuple[Path, ...]] = field(default_factory=dict)
    examples: tuple[Example, ...] = field(default=(), compare=False)
    alike: tuple[tuple[Expression, Expression], ...] = ()
    kinds: Mapping[str, type[nn.Module]] = field(default_factory=dict, compare=False)
    guards: tuple[Guard, ...] = ()
    contractions: Mapping[str, tuple[End, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bound = {axis: tuple(path.bound(self.model_reference) for path in paths) for axis, paths in self.paths.items()}
        object.__setattr__(self, "paths", bound)

    @property
    def model(self) -> nn.Module:
        """The model this map belongs to. Raises `StaleMapError` if it no longer exists."""
        model = self.model_reference()
        if model is None:
            raise StaleMapError("the traced model no longer exists; keep a reference to it, or trace the new model")
        return model

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The size of every axis, by its number."""
        return tuple(axis.size for axis in self.axes)

    @cached_property
    def editable(self) -> tuple[Axis, ...]:
        """The axes that may be edited, in the order of the forward pass."""
        return tuple(axis for axis in self.axes if axis.editable)

    @cached_property
    def by_name(self) -> Mapping[str, Axis]:
        """Every axis by its name."""
        return {axis.name: axis for axis in self.axes}

    @cached_property
    def places(self) -> Mapping[int, tuple[Place, ...]]:
        """Where each axis (by number) occurs: every dimension of every tensor, in the model's order."""
        found: dict[int, list[Place]] = {axis.index: [] for axis in self.axes}
        for layout in self.layouts.values():
            for dim, expression in enumerate(layout.dims):
                for axis in dict.fromkeys(leaves(expression)):
                    found[axis].append(Place(layout, dim, layout.roles[dim].get(axis, frozenset())))
        return {axis: tuple(places) for axis, places in found.items()}

    @cached_property
    def single(self) -> tuple[str, ...]:
        """What produces one unit from several, by the paths of modules: a length of 1 cannot be told from one that
        broadcasts, so it is no axis, and cannot be edited."""
        found: dict[str, None] = {}
        for layout in self.layouts.values():
            roles = {role for by_axis in layout.roles for several in by_axis.values() for role in several}
            if not layout.buffer and ONE in layout.dims and Role.READS in roles and Role.PRODUCES not in roles:
                found[layout.name.rpartition(".")[0] or layout.name] = None
        return tuple(found)

    def __repr__(self) -> str:
        return f"<AxisMap: {len(self.editable)} of {len(self)} axes editable>"

    def __str__(self) -> str:
        lines = [f"{axis.name}: {axis.size} {axis.kind}" for axis in self.editable]
        return "\n".join([f"{len(lines)} of {len(self)} axes editable{self._none}", *lines])

    @property
    def _none(self) -> str:
        """Why there are no axes, if there are none."""
        model = self.model_reference()
        if self.axes or model is None:
            return ""
        packed = [name for name, module in model.named_modules() if _packed(module)]
        if packed:
            return (
                f": the weights of {packed[0]!r}{' and others' if len(packed) > 1 else ''} are packed, as those of "
                "quantized layers are; edit the model first and quantize it then"
            )
        return ": no parameter or buffer has a dimension"

    def __iter__(self) -> Iterator[Axis]:
        return iter(self.axes)

    def __len__(self) -> int:
        return len(self.axes)

    def __getitem__(self, key: str) -> Axis:
        """The axis of that name, or the only one that the module or tensor of that name produces.

        Raises:
            UnknownAxisError: none or several match; the message lists them.
        """
        if key in self.by_name:
            return self.by_name[key]
        layout = self.layouts.get(key) or self.layouts.get(f"{key}.weight")
        found = list(dict.fromkeys(leaves(layout.dims[0]))) if layout is not None and layout.dims else []
        if len(found) == 1:
            return self.axes[found[0]]
        if found:
            names = ", ".join(self.axes[a].name for a in found)
            raise UnknownAxisError(f"several axes found for {key!r}; did you mean one of: {names}")
        if layout is not None and layout.dims and layout.dims[0] == ONE:
            raise UnknownAxisError(
                f"no axis found for {key!r}: the first dimension of {layout.name} has length 1, which cannot be told "
                "from one that broadcasts, so that a single unit cannot be followed. To grow or prune it, build it "
                f"with 2 units at least; the editable axes are {self._listed()}"
            )
        near = difflib.get_close_matches(key, list(self.by_name), n=5, cutoff=0.3)
        hint = f"did you mean one of: {', '.join(near)}" if near else f"the editable ones are {self._listed()}"
        raise UnknownAxisError(f"no axis found for {key!r}; {hint}")

    def _listed(self) -> str:
        names = [axis.name for axis in self.editable]
        return (
            ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
            or f"none at all{self._none}"
        )

    def dimension(self, tensor: str, dim: int) -> Expression:
        """The expression of one dimension of a parameter or buffer."""
        return self.layouts[tensor].dims[dim]

    def flops(self, sizes: Sequence[int] | None = None) -> int:
        """Floating-point operations of one forward pass on the example: contractions, 2 per multiply-add."""
        sizes = self.sizes if sizes is None else sizes
        total = 0
        for work in self.work:
            product = 2 * work.fixed
            for length in work.lengths:
                product *= size_of(length, sizes)
            total += product
        return total

    def parameter_count(self, sizes: Sequence[int] | None = None) -> int:
        """Number of parameters (tied ones once) when axes have the given sizes (default: today's)."""
        sizes = self.sizes if sizes is None else sizes
        total = 0
        for layout in self.layouts.values():
            if not layout.buffer:
                count = 1
                for length in layout.shape(sizes):
                    count *= length
                total += count
        return total

    def byte_count(self, sizes: Sequence[int] | None = None) -> int:
        """Memory of all parameters and buffers (tied ones once) when axes have the given sizes (default: today's)."""
        sizes = self.sizes if sizes is None else sizes
        model = self.model
        found = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        tensors = dict(found)
        return sum(prod(y.shape(sizes)) * tensors[y.name].element_size() for y in self.layouts.values())

    def turned(self, sizes: Sequence[int]) -> Guard | None:
        """What the code compares and what would come out differently if axes had the given sizes, so that nothing is
        known of the way that the code would go; None if there is nothing of the kind."""
        changed = {i for i, (one, other) in enumerate(zip(self.sizes, sizes, strict=True)) if one != other}
        return next((g for g in self.guards if not changed.isdisjoint(g.axes) and not g.kept(sizes)), None)

    def resized(self, sizes: Mapping[int, int], record: Mapping[str, Any]) -> AxisMap:
        """The map after an edit that gave some axes (by number) new sizes, with its record appended to the history."""
        axes = tuple(replace(a, size=sizes[a.index]) if a.index in sizes else a for a in self.axes)
        after, dims = tuple(axis.size for axis in axes), {name: layout.dims for name, layout in self.layouts.items()}
        return replace(
            self,
            axes=axes,
            history=(*self.history, record),
            paths={axis: tuple(path.resized(dims, after) for path in paths) for axis, paths in self.paths.items()},
            contractions={
                weight: tuple(end.resized(dims[weight], after) for end in ends)
                for weight, ends in self.contractions.items()
            },
        )


def _packed(module: nn.Module) -> bool:
    """Whether a module keeps something that is no tensor to Python."""
    return any(isinstance(held, torch.ScriptObject) for held in vars(module).values())


__all__ = ["AttributeBinding", "Axis", "AxisMap", "Cache", "Coupling", "Leaf", "Place", "Role", "TensorLayout", "Work"]
