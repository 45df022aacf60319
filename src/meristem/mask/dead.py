"""From weights to units: those that nothing reads, or that read nothing, and their removal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from meristem.axes.map import Axis, AxisMap, Role
from meristem.edit import Edit
from meristem.edit.checks import check_model
from meristem.errors import ConfigError
from meristem.mask.constant import Constant, constants
from meristem.mask.masks import Masks
from meristem.mask.sparse import Sparse
from meristem.signals import index_norms, sum_by_unit


@dataclass(frozen=True)
class Dead:
    """The units of one axis that contribute nothing that depends on the input.

    Attributes:
        axis: the name of the axis.
        unread: all weights that read them are zero.
        constant: all weights that produce them are zero, but some weight reads them: what they give is a constant.
    """

    axis: str
    unread: tuple[int, ...]
    constant: tuple[int, ...]


def dead_units(axes: AxisMap, masks: Mapping[str, Tensor] | None = None) -> dict[str, Dead]:
    """Units whose fan-in or fan-out is all zero, by axis; only axes that may be edited and have no couplings.

    Args:
        axes: the map of the model.
        masks: which weights are there, by parameter name. A weight that is there counts even if it is zero, as one that
            was just grown is. Parameters without a mask, or all of them (None): those that are not zero.

    Raises:
        StaleMapError: the model was edited since the map was made.
    """
    there = _there(axes, masks or {})
    found: dict[str, Dead] = {}
    for axis in axes.editable:
        reads, produces = (_counts(axes, axis, role, there) for role in (Role.READS, Role.PRODUCES))
        if axis.couplings or reads is None or produces is None:
            continue
        unread = (reads == 0).nonzero().flatten().tolist()
        constant = ((produces == 0) & (reads > 0)).nonzero().flatten().tolist()
        if unread or constant:
            found[axis.name] = Dead(axis.name, tuple(unread), tuple(constant))
    return found


@dataclass(frozen=True, eq=False)
class Cleared:
    """What `remove_dead` did.

    Attributes:
        axes: the map of the model as it is now.
        removed: how many units of each axis went.
        left: why constant units of an axis stay, by axis.
    """

    axes: AxisMap
    removed: Mapping[str, int]
    left: Mapping[str, str]


def remove_dead(
    axes: AxisMap,
    masks: Masks | Sparse | None = None,
    optimizers: Optimizer | Iterable[Optimizer] = (),
    follow: nn.Module | Iterable[nn.Module] = (),
) -> Cleared:
    """Remove dead units by structural edits, the function unchanged, until there are none: removing some may leave
    others dead. An axis keeps at least one unit.

    What a constant unit gives is added to the biases of those that read it: exact, in eval mode, for linear readers and
    convolutions without padding. Where it is not zero and that cannot be done, the unit stays, and `left` says why.

    Args:
        axes: the map of the model.
        masks: the masks, or the sparse training: they follow. None for a model whose weights are zero.
        optimizers, follow: as for `Edit`.

    Raises:
        EditError, StaleMapError: as `Edit.commit`. What was removed before stays removed.
        ConfigError: the method keeps its masks to a pattern (`NM`, `Rows`), which would cost weights that are there as
            its groups are torn apart; then `sparsity.close()`, and give `sparsity.masks`. Nothing is changed.
    """
    if isinstance(masks, Sparse) and masks.method.pattern is not None:
        raise ConfigError(
            f"removing units would tear the groups of {masks.method.pattern!r} apart, and weights that are there would "
            "have to go; end training by `sparsity.close()`, and call remove_dead(axes, sparsity.masks)"
        )
    followers = [*([follow] if isinstance(follow, nn.Module) else follow), *([] if masks is None else [masks])]
    removed: dict[str, int] = {}
    left: dict[str, str] = {}
    while True:
        dead = dead_units(axes, masks.masks if isinstance(masks, Sparse) else masks)
        for name, found in dead.items():
            axis = axes.by_name[name]
            silent = Constant({}, None)
            if found.constant:
                silent = constants(axes, axis, found.constant)
                if silent.obstacle is not None:
                    left[name] = silent.obstacle
            units = sorted({*found.unread, *silent.removable(found.constant)})[: axis.size - max(axis.minimum, 1)]
            if units:
                edit = Edit(axes, optimizers, followers).prune(axis, units)
                axes = edit.commit(lambda s=silent, u=units: s.steps(u)).axes
                removed[name] = removed.get(name, 0) + len(units)
                break
        else:
            return Cleared(axes, removed, left)


def _there(axes: AxisMap, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = check_model(axes, ())
    found: dict[str, Tensor] = {}
    for layout in axes.layouts.values():
        mask = next((masks[name] for name in layout.names if name in masks), None)
        tensor = tensors[layout.name].detach()
        if not layout.buffer and tensor.is_floating_point():
            found[layout.name] = (tensor != 0 if mask is None else mask).float()
    return found


def _counts(axes: AxisMap, axis: Axis, role: Role, there: Mapping[str, Tensor]) -> Tensor | None:
    """How many weights of each unit with a role towards it are there; None if none could be."""
    total: Tensor | None = None
    for place in axes.places[axis.index]:
        if role in place.roles and not place.layout.buffer:
            if place.layout.name not in there:
                return None
            here = sum_by_unit(index_norms(there[place.layout.name], place.dim, 1), axes, axis, place).cpu()
            total = here if total is None else total + here
    return total
