"""The map of places: where modules can be put, which can be taken out, and which blocks repeat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from torch import nn

from meristem.axes.flow import Flow, Version, record_flow
from meristem.axes.map import AxisMap
from meristem.depth.addition import Addition, alike
from meristem.depth.additions import find_additions, judged_row
from meristem.depth.beside import Besides
from meristem.depth.branch import Branch, Join
from meristem.depth.branches import find_branches
from meristem.depth.built_by import Builds
from meristem.depth.container import Container, container_at, is_container
from meristem.depth.counts import with_counts
from meristem.depth.insertions import Insertion, find_insertions
from meristem.depth.lengths import Lengths, features
from meristem.depth.original import Original, original
from meristem.depth.removals import Removal, find_removals
from meristem.depth.rows import Row, find_rows
from meristem.depth.runs import Run, find_runs
from meristem.depth.table import table
from meristem.errors import EditError, StaleMapError

Place = TypeVar("Place", Insertion, Removal, Run, Branch, Addition)


class Places:
    """All places of one model at which its depth can be edited: found from one run of the model, proven by rehearsals.

    Each kind is found when it is first asked for. After an edit the map of axes and this are stale.

    Attributes:
        axes: the map of the model that this belongs to.
        flow: the run.
    """

    def __init__(self, axes: AxisMap) -> None:
        if not axes.examples:
            raise EditError("this map holds no example to run on; make one with meristem.trace(model, example)")
        self.axes = axes
        self.flow = record_flow(axes.model, axes.examples[0])
        self._modules = _tree(axes.model)
        self._judged_rows: dict[str, Addition] = {}

    @property
    def model(self) -> nn.Module:
        """The model. Raises `StaleMapError` if its modules are others than when it was looked at."""
        self._check_current()
        return self.axes.model

    def _check_current(self) -> None:
        if _tree(self.axes.model) != self._modules:
            raise StaleMapError("the model has other modules now; find its places anew, with the map of today")

    def check(self, axes: AxisMap) -> None:
        """Raise `EditError` if the map is of another model, `StaleMapError` if its modules are others by now."""
        if self.model is not axes.model:
            raise EditError("these places are of another model")

    def now(self, axes: AxisMap) -> Flow:
        """The run of the model with the widths that it has now, which gathers of the same edit may have changed.

        Raises:
            EditError: the map is of another model.
        """
        self.check(axes)
        return self.flow if self._same_widths() else record_flow(axes.model, axes.examples[0])

    def _same_widths(self) -> bool:
        layouts, sizes = self.axes.layouts, self.axes.sizes
        return all(tuple(p.shape) == layouts[name].shape(sizes) for name, p in self.axes.model.named_parameters())

    @property
    def _unchanged(self) -> nn.Module:
        """The model, after `_check_unchanged`."""
        self._check_unchanged()
        return self.axes.model

    def _check_unchanged(self) -> None:
        """Raise `StaleMapError` if the model has been edited since it was looked at: rehearsals are compared with what
        it did then."""
        self._check_current()
        if not self._same_widths():
            raise StaleMapError("the model has other widths now; find its places anew, with the map of today")

    @cached_property
    def containers(self) -> Mapping[str, Container]:
        """By path, the modules whose children are called in a row and may change."""
        found: dict[str, Container] = {}
        builds = Builds(self._unchanged)
        for path, module in self._unchanged.named_modules():
            if is_container(module) and _runs_children(path, module, self.flow):
                container = container_at(self._unchanged, path)
                found[path] = with_counts(self._unchanged, self.axes.examples, self.flow, container, builds)
        return found

    @property
    def original(self) -> Original:
        """The model's runs in the modes in which it does different things, to compare rehearsals with."""
        self._check_unchanged()
        return self._original

    @cached_property
    def _original(self) -> Original:
        return original(self.axes.model, self.axes.examples, self.flow)

    @property
    def flows(self) -> tuple[Flow, ...]:
        """The model's runs in the modes in which it does different things, with the widths of then."""
        return self._original.flows

    @cached_property
    def features(self) -> Mapping[Version, int | None]:
        """By tensor, the dimension that layers produce or read."""
        self._check_unchanged()
        return features(self.flow, self.lengths.solution)

    @cached_property
    def lengths(self) -> Lengths:
        """The lengths of the tensors of the run."""
        self._check_unchanged()
        return Lengths(self.axes, self.flow)

    @cached_property
    def ways(self) -> tuple[Insertion, ...]:
        """Every way to put a module somewhere; several may lead to the same tensor edge."""
        return find_insertions(self.original, self.containers, self.features)

    @cached_property
    def removals(self) -> tuple[Removal, ...]:
        """Every module that the identity can replace."""
        return find_removals(self.original, self.containers)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Blocks of equal structure in a row."""
        return find_runs(self.original, self.containers)

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """Parallel branches between two calls."""
        return find_branches(self.axes, self.original, lambda: self.lengths, lambda: self.containers)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Neighbouring children of containers: beside any two or more of each a branch can be added."""
        return find_rows(self.original, self.containers)

    @cached_property
    def _search(self) -> Besides:
        return Besides(self.axes, self.original, lambda: self.lengths)

    @cached_property
    def sums(self) -> tuple[Addition, ...]:
        """Every way to add a branch that is joined by a sum; several may make no difference to where it is."""
        self._check_unchanged()
        return find_additions(self._search, "add")

    @cached_property
    def concatenations(self) -> tuple[Addition, ...]:
        """Every way to add a branch that is joined by a concatenation, likewise."""
        self._check_unchanged()
        return find_additions(self._search, "cat")

    @property
    def beside(self) -> tuple[Addition, ...]:
        """Both."""
        return (*self.sums, *self.concatenations)

    @property
    def additions(self) -> tuple[Addition, ...]:
        """One way to add a branch for each pair of tensor edges and each way to join it: if possible beside a module
        that is deep inside."""
        return tuple(ways[0] for ways in alike(self.beside))

    @property
    def insertions(self) -> tuple[Insertion, ...]:
        """One way to every tensor edge: if possible a new child of a container, after a module that is deep inside."""
        best: dict[int, Insertion] = {}
        for way in sorted(self.ways, key=_preference):
            best.setdefault(way.edge, way)
        return tuple(best[edge] for edge in sorted(best))

    def insertion(self, name: str) -> Insertion:
        """The way of that name, "after layer1.0" for example. Raises `EditError` if there is none or it is frozen."""
        return _open(name, sorted(self.ways, key=_preference), "module can be put")

    def removal(self, module: str) -> Removal:
        """The place of a module that can be removed. Raises `EditError` if it cannot."""
        return _open(module, self.removals, "module can be removed")

    def branch(self, module: str) -> Branch:
        """The branch of that name, the path of its last module. Raises `EditError` if it cannot be removed."""
        return _open(module, self.branches, "branch can be removed")

    def addition(self, join: Join, module: str) -> Addition:
        """The place for a branch beside a module, or beside a row of them, "stage.1..2". Raises `EditError` if there is
        none or it is frozen."""
        if ".." in module:
            return self._beside_row(join, module)
        if module not in self.flow.of:
            raise EditError(f"{module} is not called on the example, so that there is no place for a branch beside it")
        found, how = (self.sums, "added") if join == "add" else (self.concatenations, "appended")
        return _open(module, [place for place in found if place.module], f"place for a branch that is {how}")

    def _beside_row(self, join: Join, name: str) -> Addition:
        if join == "cat":
            raise EditError(f"{name}: a branch of a concatenation comes beside one module; hold these in one")
        if name not in self._judged_rows:
            found = next(((row, part) for row in self.rows if (part := row.named(name))), None)
            if found is None:
                names = ", ".join(row.name for row in self.rows if row.frozen is None)
                raise EditError(f"no neighbours of one row are {name!r}; rows are: {names or '(none)'}")
            row, part = found
            place = None
            if row.frozen is None:
                self._check_unchanged()
                place = judged_row(self._search, part, self.containers[row.container])
            self._judged_rows[name] = place or Addition(
                join, name, "", (-1, -1), frozen=row.frozen or "they compute nothing", row=part
            )
        return _open(name, [self._judged_rows[name]], "place for a branch that is added")

    def run(self, path: str) -> Run:
        """The run in a container, or that of a block. Raises `EditError` if there is none, several, or it is frozen."""
        found = [r for r in self.runs if path in (r.name, r.container) or any(path in block for block in r.blocks)]
        named = [r for r in found if r.name == path or any(path in block for block in r.blocks)]
        return _only(path, named or found, self.runs, "blocks repeat")

    def __rich__(self) -> Table:
        kinds = {"remove": self.removals, "run": self.runs, "branch": self.branches}
        return table(self.insertions, kinds, self.beside, self.rows)

    def __str__(self) -> str:
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def places(axes: AxisMap) -> Places:
    """Find every place at which a model's depth can be edited.

    The model runs on the example of the map, and a few dozen times more under fake tensors with an edited module tree,
    in evaluation mode and, if it does something else then, in training mode; afterwards it is exactly as it was. A
    model that holds a configuration object is also built anew from it, without memory for its tensors, to learn which
    entry is the number of blocks.

    Args:
        axes: the map of the model as it is now.

    Raises:
        EditError: the map was not made by `trace`, so that it holds no example.
    """
    return Places(axes)


def _tree(model: nn.Module) -> tuple[tuple[str, int], ...]:
    return tuple((path, id(module)) for path, module in model.named_modules(remove_duplicate=False))


def _runs_children(path: str, module: nn.Module, flow: Flow) -> bool:
    return any((f"{path}.{name}" if path else name) in flow.of for name in module._modules)


def _preference(way: Insertion) -> tuple[bool, bool, bool, int]:
    return way.frozen is not None, way.inside is None, way.side == "before", -way.module.count(".")


def _open(name: str, found: Iterator[Place] | list[Place] | tuple[Place, ...], what: str) -> Place:
    everything = list(found)
    place = next((p for p in everything if p.name == name), None)
    if place is None:
        names = list(dict.fromkeys(p.name for p in everything if p.frozen is None))
        raise EditError(f"no {what} at {name!r}; possible are: {', '.join(names) or '(none)'}")
    if place.frozen is not None:
        raise EditError(f"{name}: {place.frozen}")
    return place


def _only(path: str, found: list[Run], everything: tuple[Run, ...], what: str) -> Run:
    if len(found) != 1:
        names = ", ".join(r.name for r in everything)
        raise EditError(
            f"{len(found)} runs of blocks found at {path!r}, expected one; {what} at: {names or '(nowhere)'}"
        )
    return _open(found[0].name, found, what)
