"""`fit_config`: the configuration from which a model of the edited structure is built."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from meristem.axes import AxisMap
from meristem.axes.attributes import Path, read, write
from meristem.axes.trace import mapped
from meristem.errors import EditError, TraceError

Sizes = Mapping[str, tuple[int, ...]]
"""Sizes by parameter, or one size by axis."""

Change = tuple[Path, int]
"""A number of a configuration, by path, and its new value."""


def fit_config(axes: AxisMap, build: Callable[[Any], nn.Module] | None = None) -> dict[str, tuple[int | None, int]]:
    """Bring a model's configuration up to date with its structure, so that a model built from it is the same.

        axes = edit.commit().axes
        meristem.edit.fit_config(axes)
        model.save_pretrained(folder)                    # and `from_pretrained(folder)` gives the edited model

    Which numbers change is found out, not looked up: where a size in the model differs from that of one built from the
    configuration, numbers of the configuration are changed in the same proportion, and kept if more sizes are right
    then. In the end the shapes of all parameters and the sizes of all axes must be (the number of heads shows in no
    shape). Models are built on the meta device, which takes no memory.

    Args:
        axes: the map of an edited model that has a `config` from which its class is built, like those of Hugging Face.
        build: makes a model of a configuration. Default: the model's own class.

    Returns:
        what changed, old (None where nothing was said) and new, by name; names inside of nested configurations and
        lists are joined by dots.

    Raises:
        EditError: there is no configuration, no model can be built from it, or none can say what the model looks like
            (layers of different width, say). Nothing has changed then.
    """
    model = axes.model
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "__dict__"):
        raise EditError(f"{type(model).__name__} has no `config`; save the model with meristem.save")
    plan, trial = _Plan(axes, type(model) if build is None else build), copy.deepcopy(config)
    for sizes in (plan.shapes, plan.axes):
        trial = _fitted(config, trial, sizes)
    changed = {path: (old, read(trial, path)) for path, old in _entries(config) if read(trial, path) != old}
    for path, (_, new) in changed.items():
        write(config, path, new)
    return {".".join(map(str, path)): values for path, values in changed.items()}


@dataclass(frozen=True, eq=False)
class _Plan:
    """What a model of a configuration has to be like.

    Attributes:
        edited: the map of the edited model.
        build: makes a model of a configuration.
    """

    edited: AxisMap
    build: Callable[[Any], nn.Module]

    def shapes(self, config: Any | None) -> Sizes:
        """The shapes of all parameters in a model of this configuration; None: in the edited model.

        Raises:
            EditError: there is no such model.
        """
        model = self.edited.model if config is None else self._built(config)
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    def axes(self, config: Any | None) -> Sizes:
        """The sizes of all axes in a model of this configuration; None: in the edited model.

        Raises:
            EditError: there is no such model, or it cannot be run.
        """
        found = self.edited
        if config is not None:
            if self.shapes(config) != self.shapes(None):  # cheap to see, and a trace is not
                raise EditError("a model of this configuration has other shapes")
            found = self._traced(self._built(config))
        return {axis.name: (axis.size,) for axis in found}

    def _traced(self, model: nn.Module) -> AxisMap:
        examples = tree_map_only(Tensor, lambda given: given.to("meta"), self.edited.examples)
        try:
            return mapped(model, examples)
        except TraceError as error:
            raise EditError(f"a model of this configuration cannot be run: {error}") from error

    def _built(self, config: Any) -> nn.Module:
        """A model of this configuration on the meta device, of the edited model's type."""
        types = {p.dtype for p in self.edited.model.parameters() if p.is_floating_point()}
        found = built_from(config, self.build)
        return found.to(next(iter(types))) if len(types) == 1 else found


def built_from(config: Any, build: Callable[[Any], nn.Module]) -> nn.Module:
    """A model of a configuration on the meta device, without memory for its tensors; no random number is drawn.

    Raises:
        EditError: there is no such model.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return build(copy.deepcopy(config))
    except Exception as error:  # whatever a builder refuses a configuration with
        raise EditError(f"no model can be built from this configuration: {error}") from error


def _fitted(config: Any, trial: Any, sizes: Callable[[Any | None], Sizes]) -> Any:
    """The trial, changed until all these sizes are right."""
    wanted, found = sizes(None), sizes(trial)
    while found != wanted:
        step = _best_step(trial, wanted, found, sizes)
        if step is None:
            raise EditError(_inexpressible(config, wanted, found))
        trial, found = step
    return trial


def _best_step(trial: Any, wanted: Sizes, found: Sizes, sizes: Callable[[Any], Sizes]) -> tuple[Any, Sizes] | None:
    """The configuration with one number changed with which most sizes are right, and its sizes; with two numbers
    changed where one does not help (a width that is a multiple of another number); None if nothing does."""
    proposals = list(_proposals(trial, wanted, found))
    for count in (1, 2):
        best, step = _misfits(wanted, found), None
        for several in itertools.combinations(proposals, count):
            try:
                changed = _changed(trial, several)
                now = sizes(changed)
            except EditError:
                continue
            if _misfits(wanted, now) < best:
                best, step = _misfits(wanted, now), (changed, now)
        if step is not None:
            return step
    return None


def _changed(config: Any, changes: Sequence[Change]) -> Any:
    """A copy with other numbers. Raises `EditError` if the configuration does not take them."""
    changed = copy.deepcopy(config)
    for path, new in changes:
        try:
            write(changed, path, new)
        except Exception as error:  # configurations check what they are given, each in its own way
            raise EditError(f"{type(config).__name__} does not take {new} at {path}: {error}") from error
    return changed


def _proposals(config: Any, wanted: Sizes, found: Sizes) -> Iterator[Change]:
    """Numbers of a configuration changed in the proportions in which sizes differ; where nothing is said, the sizes."""
    factors = _factors(wanted, found)
    for path, old in _entries(config):
        news = {a for a, _ in factors} if old is None else {old * a // b for a, b in factors if old * a % b == 0}
        for new in sorted(news - {old}):
            yield path, new


def _misfits(wanted: Sizes, found: Sizes) -> int:
    """How many sizes differ; of a tensor that only one of them has, all."""
    total = 0
    for name in wanted.keys() | found.keys():
        one, other = wanted.get(name), found.get(name)
        if one is None or other is None or len(one) != len(other):
            total += 1 + len(one or other or ())
        else:
            total += sum(a != b for a, b in zip(one, other, strict=True))
    return total


def _factors(wanted: Sizes, found: Sizes) -> set[tuple[int, int]]:
    """By which proportions sizes differ, and the numbers of blocks."""
    sizes = {(a, b) for name in wanted.keys() & found.keys() for a, b in zip(wanted[name], found[name], strict=False)}
    counts = {(_counted(wanted, kind), _counted(found, kind)) for kind in map(_kind, wanted.keys() ^ found.keys())}
    return {(a, b) for a, b in sizes | counts if a != b and a and b}


def _kind(name: str) -> str:
    """A tensor's name without the numbers of blocks."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _counted(shapes: Sizes, kind: str) -> int:
    return sum(_kind(name) == kind for name in shapes)


def _entries(config: Any, prefix: Path = ()) -> Iterator[tuple[Path, int | None]]:
    """All whole numbers above 0 and all entries that say nothing, in a configuration and in the configurations and
    lists in it, by path."""
    inside = enumerate(config) if isinstance(config, (list, tuple)) else vars(config).items()
    for name, value in list(inside):
        path = (*prefix, name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            yield path, value
        elif isinstance(value, (list, tuple)) or _related(value, config):
            yield from _entries(value, path)


def _related(value: Any, config: Any) -> bool:
    """Whether two objects are of one family of classes: a configuration inside of another one."""
    return bool(set(type(value).__mro__) & set(type(config).__mro__) - {object})


def _inexpressible(config: Any, wanted: Sizes, found: Sizes) -> str:
    names = [name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)]
    shown = ", ".join(f"{name} {wanted.get(name)} (would be {found.get(name)})" for name in names[:3])
    return (
        f"no {type(config).__name__} describes this model: {shown}{', ...' if names[3:] else ''}. A configuration has "
        "one width for all layers: edit them alike (`allocate=meristem.allocate.Alike(...)`), or save the model with "
        "meristem.save"
    )
