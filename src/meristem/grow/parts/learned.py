"""Parameters of a grown model as linear functions of those of the small one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meristem.axes.expression import size_of
from meristem.axes.map import AxisMap, TensorLayout
from meristem.edit import Edit
from meristem.edit.tree import Built, Copied, TreeRecord
from meristem.errors import EditError
from meristem.grow.parts.operators import Widening


@dataclass(frozen=True, eq=False)
class Blend:
    """A parameter of a grown model: which old ones it blends, with a row of a matrix.

    Attributes:
        sources: names of old parameters.
        weights: the matrix, shape (new blocks, old blocks), or None: the only source as it is.
        row: which row of it.
        columns: which of its columns, one for each source.
    """

    sources: tuple[str, ...]
    weights: Tensor | None = None
    row: int = 0
    columns: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Learned:
    """The linear maps of an edit, and what they are applied to.

    Attributes:
        widening: the maps along axes.
        blends: by its new name, every parameter that the edit changes.
        small: by name, the parameters before the edit.
        layouts: theirs.
    """

    widening: Widening
    blends: Mapping[str, Blend]
    small: Mapping[str, Tensor]
    layouts: Mapping[str, TensorLayout]

    @classmethod
    def of(cls, edit: Edit, noise: float, generator: torch.Generator) -> Learned:
        """The maps that copy what the edit copies, with noise on the rows of newborn units.

        Raises:
            EditError: the edit has newborns without a source, or changes the module tree otherwise than by copies.
        """
        axes = edit.axes
        for change in edit.changes:
            if min(change.gather.sources) < 0:
                raise EditError(f"LiGO maps old units to new ones; some newborns of {change.axis.name} have no source")
        named = dict(axes.model.named_parameters(remove_duplicate=False))
        firsts = {id(parameter): name for name, parameter in axes.model.named_parameters()}
        small = {name: p.detach().clone() for name, p in named.items() if p.is_floating_point()}
        layouts = {name: axes.layouts[firsts[id(named[name])]] for name in small}
        like = torch.promote_types(next(iter(small.values())).dtype, torch.float32)
        place = torch.zeros((), dtype=like, device=next(iter(small.values())).device)
        widening = Widening.copying(edit.changes, axes.sizes, place)
        for change in edit.changes:
            matrix = widening.matrices[change.axis.index]
            drawn = torch.randn(matrix.shape, generator=generator, dtype=torch.float64).to(matrix)
            born = change.gather.newborn_mask.to(matrix)[:, None]
            matrix.add_(drawn * born, alpha=noise / math.sqrt(matrix.shape[1])).requires_grad_()
        blends = _blends(axes, edit, small, layouts, widening, place)
        return cls(widening, blends, small, layouts)

    @property
    def leaves(self) -> list[Tensor]:
        """What can be trained."""
        found = {id(blend.weights): blend.weights for blend in self.blends.values() if blend.weights is not None}
        return [*self.widening.matrices.values(), *found.values()]

    def targets(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters of the grown model that are computed, by name; tied ones once."""
        found: dict[int, tuple[str, nn.Parameter]] = {}
        for name in self.blends:
            parameter = model.get_parameter(name)
            found.setdefault(id(parameter), (name, parameter))
        return dict(found.values())

    def tensor(self, name: str) -> Tensor:
        """A parameter of the grown model. Differentiable in the leaves."""
        blend = self.blends[name]
        parts = [self.widening.widened(self.layouts[source], self.small[source]) for source in blend.sources]
        if blend.weights is None:
            return parts[0]
        weights = blend.weights[blend.row, list(blend.columns)].to(parts[0].dtype)
        return torch.tensordot(weights, torch.stack(parts), dims=1)


def _blends(
    axes: AxisMap,
    edit: Edit,
    small: Mapping[str, Tensor],
    layouts: Mapping[str, TensorLayout],
    widening: Widening,
    like: Tensor,
) -> dict[str, Blend]:
    """Which old parameters every changed one comes from."""
    record = TreeRecord()
    for change in edit.layers:
        record = record.joined(change.tree(axes))
    if record.slots:
        raise EditError(f"LiGO arranges blocks, but this edit inserts or replaces modules at {', '.join(record.slots)}")
    sizes = [len(widening.matrices.get(axis.index, range(axis.size))) for axis in axes]
    shapes = {name: tuple(size_of(dim, sizes) for dim in layouts[name].dims) for name in small}
    found: dict[str, Blend] = {}
    inside: set[str] = set()
    for container in record.containers:
        if any(other != container and f"{other}.".startswith(f"{container}.") for other in record.containers):
            raise EditError(f"LiGO arranges blocks at one level, but this edit changes {container!r} and what is in it")
        inside |= {name for name in small if name.startswith(f"{container}." if container else "")}
        found |= _arranged(axes.model, container, record, shapes, like)
    others = {name: Blend((name,)) for name in small if name not in inside and widening.touches(layouts[name])}
    return {**others, **found}


def _arranged(
    model: nn.Module, container: str, record: TreeRecord, shapes: Mapping[str, tuple[int, ...]], like: Tensor
) -> dict[str, Blend]:
    """The parameters of the children of one container: each blends those of all old children that are alike."""
    start = f"{container}." if container else ""
    old = [f"{start}{name}" for name, _ in model.get_submodule(container).named_children()]
    own = {path: {n[len(path) + 1 :]: s for n, s in shapes.items() if n.startswith(f"{path}.")} for path in old}
    children = record.containers[container]
    weights: dict[str, Tensor] = {}
    found: dict[str, Blend] = {}
    for row, (name, node) in enumerate(children.items()):
        if isinstance(node, Built):
            raise EditError(f"LiGO arranges blocks, but this edit builds a new one, {start}{name}")
        source = node.copied if isinstance(node, Copied) else node.old
        alike = [column for column, path in enumerate(old) if own[path] == own[source]]
        for rest in own[source]:
            if rest not in weights:
                weights[rest] = torch.zeros(len(children), len(old)).to(like)
            weights[rest][row, old.index(source)] = 1
            found[f"{start}{name}.{rest}"] = Blend(
                tuple(f"{old[column]}.{rest}" for column in alike), weights[rest], row, tuple(alike)
            )
    for matrix in weights.values():
        matrix.requires_grad_()
    return found
