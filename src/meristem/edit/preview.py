"""What an edit would do, before it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from meristem.axes.map import AxisMap
from meristem.axes.running import untouched
from meristem.edit.commit import Request, prepare
from meristem.edit.journal import Journal
from meristem.edit.succession import Succession


@dataclass(frozen=True)
class AxisPreview:
    """What an edit would do to one axis: its size, its newborns, and why the function would change (`()`: it stays)."""

    name: str
    before: int
    after: int
    newborn: int
    removed: int
    inexact: tuple[str, ...]

    @property
    def exactness(self) -> str:
        """ "exact", or "inexact:" and why."""
        return f"inexact: {', '.join(self.inexact)}" if self.inexact else "exact"


@dataclass(frozen=True)
class Preview:
    """What an edit would do.

    Attributes:
        axes: one row per edited axis.
        parameters: their number before and after.
        flops: floating-point operations of one forward pass on the traced example, before and after.
        bytes: memory of parameters and buffers, before and after.
        drift: the largest change of any output entry on the batch, relative to the largest output entry; None if no
            batch was given. Measured in the mode that the model is in; in evaluation mode if it draws random numbers
            in training.
        map: for an edit of the module tree, the map of the model as it would be; else None.
        succession: likewise, which axes there would be.
        unreached: the parameters that no example reaches: what uses them may break.
    """

    axes: tuple[AxisPreview, ...]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    bytes: tuple[int, int]
    drift: float | None
    map: AxisMap | None = field(default=None, repr=False, compare=False)
    succession: Succession | None = field(default=None, repr=False, compare=False)
    unreached: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the function is preserved to float rounding, by the map."""
        return not any(axis.inexact for axis in self.axes)

    def __rich__(self) -> Table:
        exactness = "exact" if self.exact else "inexact"
        if self.drift is not None:  # what was measured comes before what is known of the map
            exactness = f"measured drift {self.drift:.2g}; {exactness} by the map"
        unseen = f"\nnot reached by any example: {', '.join(self.unreached)}" if self.unreached else ""
        table = Table(title="Edit", caption=f"{exactness}{unseen}")
        for column in ("axis", "before", "after", "function"):
            table.add_column(column, justify="left" if column in ("axis", "function") else "right")
        for axis in self.axes:
            table.add_row(axis.name, f"{axis.before:,}", f"{axis.after:,}", axis.exactness)
        table.add_section()
        for name, (before, after) in (("parameters", self.parameters), ("FLOPs", self.flops), ("bytes", self.bytes)):
            table.add_row(name, f"{before:,}", f"{after:,}", f"{(after - before) / max(before, 1):+.1%}")
        return table

    def __str__(self) -> str:
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def preview(request: Request, args: Any = None) -> Preview:
    """The preview of a collected edit; with a batch, given as to `trace`, the drift on it is measured."""
    axes, after = request.axes, request.sizes
    return Preview(
        axes=tuple(rows_of(request)),
        parameters=(axes.parameter_count(), axes.parameter_count(after)),
        flops=(axes.flops(), axes.flops(after)),
        bytes=(axes.byte_count(), axes.byte_count(after)),
        drift=None if args is None else _drift(request, args),
        unreached=axes.unreached,
    )


def rows_of(request: Request) -> Iterator[AxisPreview]:
    """What a collected edit would do to each axis."""
    for change in request.changes:
        kept = {source for source, new in zip(change.gather.sources, change.gather.newborn, strict=True) if not new}
        removed = change.axis.size - len(kept)
        reasons = list(change.start.inexact(change.axis, change.gather)) if change.gather.has_newborns else []
        if removed:
            reasons.insert(0, f"removes {removed} units")
        newborn = sum(change.gather.newborn)
        yield AxisPreview(change.axis.name, change.axis.size, len(change.gather), newborn, removed, tuple(reasons))


def _drift(request: Request, args: Any) -> float:
    """Commit, run, take everything back."""
    model = request.axes.model
    training = in_training(model, args)
    before = outputs_of(model, args, training=training)
    with Journal() as journal:
        journal.apply(prepare(request).steps)
        try:
            after = outputs_of(model, args, training=training)
        finally:
            journal.rollback()
    return drift_of(before, after)


def drift_of(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest change of any entry, relative to the largest entry before."""
    scale = max((float(out.abs().max()) for out in before if out.numel()), default=0.0)
    change = max((float((a - b).abs().max()) for a, b in zip(after, before, strict=True) if b.numel()), default=0.0)
    return change / scale if scale else change


def outputs_of(model: nn.Module, args: Any, *, training: bool = False, seed: int = 0) -> list[Tensor]:
    """All floating-point outputs, in float64. The model and the global random state stay as they are.

    Args:
        model: the model.
        args: a batch, given as to `trace`.
        training: whether to run in training mode, in which batch normalizations use their running statistics, too.
        seed: of what the model draws.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    try:
        with untouched(model), torch.random.fork_rng(devices=sorted(devices)), torch.no_grad():
            torch.manual_seed(seed)
            model.train(training)
            for module in model.modules():
                if isinstance(module, _BatchNorm) and module.running_mean is not None:
                    module.training = False
            outputs = tree_leaves(_call(model, args))
            return [out.double() for out in outputs if isinstance(out, Tensor) and out.is_floating_point()]
    finally:
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def in_training(model: nn.Module, args: Any) -> bool:
    """Whether drift is measured in training mode: the model is in it, runs on the batch, and draws nothing there that
    would be drawn otherwise after an edit."""
    if not model.training:
        return False
    try:
        one, two = (outputs_of(model, args, training=True, seed=seed) for seed in (0, 1))
    except Exception:  # whatever it is: such a batch is not for training
        return False
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def _call(model: nn.Module, args: Any) -> Any:
    if isinstance(args, Mapping):
        return model(**args)
    return model(*args) if isinstance(args, tuple) else model(args)
