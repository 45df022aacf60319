"""Which axes of a trained model may shrink, and how far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from meristem.allocate import Limits, Selection, choose, fast_multiple, out_of_step
from meristem.axes import Axis, AxisMap
from meristem.axes.pattern import matches
from meristem.errors import ConfigError, UnknownAxisError
from meristem.prune import Criterion, require_defined
from meristem.prune.trained import FROZEN, all_frozen


def require_numbers(rounds: Any, steps: Any, floor: Any, multiple: Any) -> None:
    """Raise `ConfigError` if one is no number, or out of its range."""
    counts = (rounds, steps, 1 if multiple is None else multiple)
    counted = all(isinstance(count, int) and not isinstance(count, bool) and count >= 1 for count in counts)
    if not counted or not isinstance(floor, (int, float)) or not 0 <= floor < 1:
        raise ConfigError(
            "shrink: expected whole numbers (int) rounds >= 1, steps >= 1 and multiple >= 1, and 0 <= floor < 1; got "
            f"rounds={rounds!r}, steps={steps!r}, multiple={multiple!r} and floor={floor!r}"
        )


def require_sensible(criterion: Any, batches: Any, loss: Any, readings: int) -> None:
    """Raise `ConfigError` for what is easily mistaken for something else."""
    if criterion is not None and not isinstance(criterion, Criterion):
        got = f"the class {criterion.__name__}: call it" if isinstance(criterion, type) else repr(criterion)
        raise ConfigError(f"criterion= must be a criterion, such as meristem.prune.Magnitude(); got {got}")
    if isinstance(loss, nn.Module):
        raise ConfigError(
            f"loss= must be a function of the model and a batch, such as lambda model, batch: "
            f"criterion(model(batch[0]), batch[1]); got the module {type(loss).__name__}"
        )
    if readings > 1 and isinstance(batches, Iterator):
        raise ConfigError(
            f"batches= is a {type(batches).__name__}, which can be read once, but is read {readings} times, in each "
            "round and for a tolerance: give a DataLoader or a list"
        )


def limits_of(axes: AxisMap, axis: Axis, floor: float, multiple: int | None) -> Limits:
    """The sizes that an axis may be given: no less than a share of today's, and multiples of a number."""
    multiple = fast_multiple(axes, axis) if multiple is None else multiple
    return Limits(minimum=max(1, math.ceil(floor * axis.size)), multiple=multiple)


def chosen_axes(
    axes: AxisMap, criterion: Criterion, selection: Selection, keep: Sequence[str]
) -> tuple[list[Axis], dict[str, str]]:
    """The axes that may shrink, and why the other editable ones may not."""
    reasons: dict[str, str] = {}
    kept = (keep,) if isinstance(keep, str) else tuple(keep)
    for pattern in kept:
        if not any(matches(axis.name, pattern) for axis in axes):
            raise UnknownAxisError(
                f"keep={pattern!r} matches no axis: give glob patterns of axis names, such as "
                f"{', '.join(repr(axis.name) for axis in axes.editable[:3])}"
            )
    wanted = choose(axes, selection)
    for axis in axes.editable:
        if axis not in wanted:
            reasons[axis.name] = "not among `axes`"
        elif matches(axis.name, kept):
            reasons[axis.name] = "among `keep`"
        elif selection is None and (why := criterion.undefined(axes, axis)) is not None:
            reasons[axis.name] = why
    chosen = [axis for axis in wanted if axis.name not in reasons]
    if selection is None:
        for axis, other in out_of_step(axes, chosen).items():
            chosen.remove(axis)
            reasons[axis.name] = f"a fast kernel wants it as large as {other.name}"
    if not chosen:
        graded = all_frozen(axes) and any(criterion.undefined(axes, axis) for axis in wanted)
        hint = f". {type(criterion).__name__} is made of gradients: {FROZEN}" if graded else ""
        raise ConfigError(f"no axis is left that may shrink; {reasons or 'the model has no editable axis'}{hint}")
    require_defined(criterion, axes, chosen)
    return chosen, reasons
