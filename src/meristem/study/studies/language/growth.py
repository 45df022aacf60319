"""Growth of a language model to another shape, in width, in depth, or both at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from meristem import depth
from meristem.axes import AxisMap
from meristem.axes.map import Coupling
from meristem.edit import Edit, ParentMoments, Reset, Zeros
from meristem.errors import ConfigError
from meristem.grow import LiGO
from meristem.signals import View
from meristem.study.studies.language.net import Shape
from meristem.train.build import GROWTH
from meristem.train.experiment import Strict

STATES = {"carried": ParentMoments(), "zero": Zeros(), "forgotten": Reset()}
"""What becomes of the optimizer's state: copies take over that of what they copy; theirs is zero; all of it goes."""

COPIES = {"plain": depth.Plain(), "silent": depth.Silent(), "fresh": depth.AutoGrow("zero")}
"""What new blocks start as: copies; copies whose branches end in zeros; new blocks whose branches do."""

ORDERS = {"stacked": depth.stacked, "interlaced": depth.interlaced}


class Stage(Strict):
    """One growth.

    Attributes:
        at: the share of the budget after which it is due.
        shape: to which the net grows: a multiple of the width, at least as many blocks. The same: nothing grows.
        method: a growth method of `meristem.grow` and its `options`, for the width.
        inner: another one for heads and hidden units, whose newborns no normalization notices; None: the same.
        copies: what new blocks start as.
        order: which blocks they copy.
        learned: settings of `LiGO`, which then carries out the growth; None: copies stay copies.
        state: what becomes of the optimizer's state.
        rate: the learning rate from then on, in units of the one at first.
        warm_up: whether it rises anew.
    """

    at: float = Field(ge=0, le=1)
    shape: Shape
    method: str = "HyperCloning"
    options: dict[str, Any] = Field(default={})
    inner: str | None = None
    copies: Literal["plain", "silent", "fresh"] = "plain"
    order: Literal["stacked", "interlaced"] = "stacked"
    learned: dict[str, Any] | None = None
    state: Literal["carried", "zero", "forgotten"] = "carried"
    rate: float = Field(default=1.0, gt=0)
    warm_up: bool = True


def grown(
    axes: AxisMap, optimizer: Optimizer, stage: Stage, loss: Callable[[], Tensor], seed: int, average: nn.Module
) -> tuple[AxisMap, dict[str, int]]:
    """Carry out a growth, width and depth in one edit.

    Args:
        axes: the map of the net.
        optimizer: follows.
        stage: what is to be done.
        loss: on a batch that is drawn by torch's generator, for what trains before it is put in.
        seed: of everything random.
        average: of the weights; it grows along.

    Returns:
        the new map, and how many units each axis gained; blocks count as those of `blocks`.

    Raises:
        ConfigError: the width is no multiple of the present one.
    """
    edit = Edit(axes, optimizer, average, seed=seed, state=STATES[stage.state])
    births = _widen(edit, stage, loss, seed)
    places = depth.places(axes)
    before = len(places.run("blocks"))
    if stage.shape.depth > before:
        blocks = ORDERS[stage.order](before, stage.shape.depth)
        edit.depth(depth.Arrange(places, "blocks", blocks, COPIES[stage.copies]))
        births["blocks"] = stage.shape.depth - before
    if not births:
        return axes, births
    if stage.learned is not None:
        return LiGO(**stage.learned, seed=seed).commit(edit, loss).axes, births
    return edit.commit().axes, births


def _widen(edit: Edit, stage: Stage, loss: Callable[[], Tensor], seed: int) -> dict[str, int]:
    """Collect growth of all axes for which the method is defined, by the same factor."""
    axes, births = edit.axes, dict[str, int]()
    factor, rest = divmod(stage.shape.width, axes["characters"].size)
    if rest or not factor:
        raise ConfigError(
            f"language: {axes['characters'].size} features grow to a multiple of that, not to {stage.shape.width}"
        )
    if factor == 1:
        return births
    stream = GROWTH[stage.method](**stage.options)
    inner = stream if stage.inner is None else GROWTH[stage.inner]()
    view = View(axes, generator=torch.Generator().manual_seed(seed), closure=loss)
    for axis in axes.editable:
        method = stream if axis.couplings else inner
        if Coupling.BILINEAR not in axis.couplings and method.undefined(axes, axis) is None:
            plan = method.propose(view, axis, (factor - 1) * axis.size)
            edit.gather(axis, plan.gather, plan.start)
            births[axis.name] = plan.births
    return births
