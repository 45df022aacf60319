"""How tensors shaped like parameters follow an edit, or a history of edits, by its record."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from meristem.axes.map import AxisMap
from meristem.edit import Commit, Edit
from meristem.edit.compute import gathered
from meristem.edit.deepen import Replayed
from meristem.edit.gather import Gather
from meristem.edit.indices import Indices, Recipe
from meristem.edit.record import Record, parsed
from meristem.edit.stages import gathers, stages
from meristem.errors import StaleMapError
from meristem.mask.best import top


def recipes(commit: Commit) -> tuple[dict[str, Recipe], dict[str, tuple[int, ...]]]:
    """What an edit did to each tensor that it changed, and the shape of each before, by all its names."""
    axes = commit.axes
    (record,) = parsed([commit.record])
    before = list(axes.sizes)
    for entry in record.axes:
        before[axes.by_name[entry.axis].index] = entry.before
    return _recipes(axes, {axes.by_name[entry.axis].index: entry.gather() for entry in record.axes}, before)


def _recipes(
    axes: AxisMap, gathers: Mapping[int, Gather], before: Sequence[int]
) -> tuple[dict[str, Recipe], dict[str, tuple[int, ...]]]:
    """As `recipes`, given what happened to each axis by number, and the sizes of all before."""
    indices = Indices(gathers, before)
    found: dict[str, Recipe] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for layout in axes.layouts.values():
        edited = [dim for dim, expression in enumerate(layout.dims) if indices.edited(expression)]
        recipe = {dim: indices.along(layout.dims[dim], torch.device("cpu")) for dim in edited}
        if recipe:
            found.update(dict.fromkeys(layout.names, recipe))
            shapes.update(dict.fromkeys(layout.names, layout.shape(before)))
    return found, shapes


def deep(commit: Commit) -> bool:
    """Whether an edit changed the tree of modules, so that names moved."""
    (record,) = parsed([commit.record])
    return record.depth is not None


def follow(commit: Commit, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Those of some tensors, by parameter name, that an edit changed.

    Returns:
        by name: the tensor after the edit, with zeros where there is no source; and where that is (bool), or None.

    Raises:
        StaleMapError: a tensor has not the shape that its parameter had before the edit.
    """
    changed, shapes = recipes(commit)
    return _followed(changed, shapes, tensors)


def _followed(
    changed: Mapping[str, Recipe], shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor | None]]:
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, tensor in tensors.items():
        if name in changed:
            _check(name, tensor, shapes[name])
            found[name] = _gathered(tensor, changed[name])
    return found


def renamed(commit: Commit, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Tensors, by parameter name, after an edit of the module tree: those of parameters that stayed, by the new names.

    Returns:
        as `follow`, of all of them: units may go or come in the same edit, by themselves or with a branch.

    Raises:
        StaleMapError: a tensor has not the shape that its parameter had before the edit.
    """
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, tensor in tensors.items():
        if name in commit.moved:
            _check(name, tensor, commit.shapes.get(commit.moved[name]))
            recipe = commit.followed.get(commit.moved[name], {})
            found[commit.moved[name]] = _gathered(tensor, recipe) if recipe else (tensor, None)
    return found


def through(history: Sequence[Record], axes: AxisMap, *kinds: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Tensors, by parameter name, after a history of edits: those of parameters that stayed, by the new names.

    Args:
        history: records of edits, oldest first.
        axes: the map of a model as it was before the first of them. If they edit its module tree, this model is edited,
            too, as far as the last of these; otherwise only the map is read.
        kinds: tensors in the shapes of that model's parameters and buffers, several of each if need be.

    Returns:
        for each of the kinds the tensors, with zeros where there is no source. What new modules hold is not among them.

    Raises:
        EditError, TraceError: the history is of another model.
        StaleMapError: a tensor has not the shape that its parameter had.
    """
    found = [dict(tensors) for tensors in kinds]
    for records, tree in stages(parsed(history)):
        changes = gathers(records, axes)
        if tree is None:  # the last stage
            changed, shapes = _recipes(axes, {axes[name].index: g for name, g in changes.items()}, axes.sizes)
            for tensors in found:
                tensors |= {name: moved for name, (moved, _) in _followed(changed, shapes, tensors).items()}
        else:
            edit = Edit(axes).depth(Replayed(tree))
            for name, gather in changes.items():
                edit.gather(name, gather)
            commit = edit.commit()
            found = [{name: moved for name, (moved, _) in renamed(commit, tensors).items()} for tensors in found]
            axes = commit.axes
    return found


def _check(name: str, tensor: Tensor, before: tuple[int, ...] | None) -> None:
    if before is not None and tuple(tensor.shape) != before:
        raise StaleMapError(
            f"what follows {name} has the shape {tuple(tensor.shape)}, but before this edit it was {before}; an "
            "earlier edit was missed, or this one was followed already"
        )


def _gathered(tensor: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor | None]:
    """A tensor by a recipe, with zeros where there is no source; and where that is, or None."""
    recipe = {dim: along.to(tensor.device) for dim, along in recipe.items()}
    fresh = None
    if any(along.fresh is not None for along in recipe.values()):
        fresh = ~gathered(torch.ones_like(tensor, dtype=torch.bool), recipe)
    return gathered(tensor, recipe), fresh


def newborn(fresh: Tensor, density: float, key: object) -> Tensor:
    """A random share of the entries that are fresh; `round(density * number)` of them."""
    if density >= 1:
        return fresh
    scores = uniform(fresh.shape, key).to(fresh.device)
    return top(scores.masked_fill(~fresh, -torch.inf), round(density * int(fresh.count_nonzero())))


def uniform(shape: torch.Size, key: object) -> Tensor:
    """Random numbers in [0, 1) on the CPU: a function of the key alone, the same on every rank and in a resumed run."""
    return torch.rand(shape, generator=generator(key), device="cpu")


def generator(key: object) -> torch.Generator:
    """A source of randomness on the CPU that is a function of the key's `repr`."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest, "big") >> 1)
