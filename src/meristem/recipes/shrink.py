"""Shrink: a trained model made smaller and faster, in one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from glob import escape
from itertools import cycle
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from meristem.allocate import Allocator, Limits, Ranked, Selection, choose, fast_multiple, out_of_step, require_known
from meristem.axes import Axis, AxisMap, trace
from meristem.edit import Edit, ZeroFanOut
from meristem.errors import ConfigError, UnknownAxisError
from meristem.prune import Criterion, GroupNorm, Removal, Taylor, measured, require_defined
from meristem.recipes.evidence import Loss, evaluating, evidence, supervised, taken
from meristem.recipes.goal import PER, CompensatedWherePossible, Goal, seconds, sizes_after
from meristem.recipes.shrunk import Shrunk, difference
from meristem.signals import View


def shrink(
    model: nn.Module,
    example: Any,
    *,
    flops: float | None = None,
    parameters: float | None = None,
    memory: float | None = None,
    latency: float | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss = supervised,
    steps: int = 16,
    criterion: Criterion | None = None,
    allocate: Allocator | None = None,
    axes: Selection = None,
    keep: Sequence[str] = (),
    floor: float = 0.1,
    multiple: int | None = None,
    compensate: bool = True,
    rounds: int = 1,
    finetune: Callable[[nn.Module], Any] | None = None,
    optimizers: Optimizer | Iterable[Optimizer] = (),
    confirm: Callable[[Shrunk], bool] | None = None,
    seed: int = 0,
) -> Shrunk:
    """Remove the units that matter least, until the model costs so much less.

        found = meristem.recipes.shrink(model, images, flops=0.5, batches=loader, finetune=train)
        print(found)                               # what went, and how much faster the model is
        meristem.save("small.safetensors", found.axes)

    In each round: scores from some batches (in eval mode, nothing is trained), one ranking of all units, the smallest
    removal that meets the target, one edit in place, `finetune`. With several rounds the share is approached in equal
    factors, and units are scored anew each time. Latency is measured on the device of the example, by bisection over
    amounts that are tried and taken back.

    It is made of `plan_pruning`, `least_within`, `Compensated` and `Edit`, and may be made of others; to prune while
    a model trains, use `Plasticity`.

    Args:
        model: the trained model, on the device where it is to be fast. It is edited in place.
        example: an input, as for `Plasticity`. FLOPs and latency are those of this input.
        flops, parameters, memory, latency: exactly one: the share of today's that may be left, above 0, below 1.
        batches: data to score with, iterated anew in each round. None: only weights are looked at.
        loss: gives the loss of a batch. Default: see `supervised`.
        steps: how many batches are looked at in each round.
        criterion: who goes. Default: `Taylor()` with batches, `GroupNorm()` without.
        allocate: how the amount is divided over axes, with limits of its own instead of `floor` and `multiple`.
            Default: `Ranked`, per cost of the target where the criterion predicts the loss.
        axes: which axes may shrink. Default: all editable ones for which the criterion is defined, but those that a
            fast kernel wants as large as one that stays (see `Allocator.links`).
        keep: glob patterns of the names of axes that lose nothing; each must match one.
        floor: the share of its units that every axis keeps at least.
        multiple: new sizes are multiples of this. Default: of what `fast_multiple` says, 8 or 1.
        compensate: whether, given batches, what units gave on average goes to the biases of their readers, on every
            axis for which that is defined (see `Compensated`).
        rounds: how many.
        finetune: called with the model after each round. Parameters are new objects then: build the optimizer in
            there, or give it as `optimizers`.
        optimizers: those whose state follows.
        confirm: called with what would be done, before anything is; unless it returns true, nothing is.
        seed: of everything random.

    Returns:
        what was done; or, if `confirm` refused, what would have been.

    Raises:
        ConfigError: not exactly one target, a number out of its range, or data are needed and there are none.
        EditError: the target is out of reach within the limits, or the criterion is not defined for an axis that was
            asked for. Unless it comes after the first round, nothing has been touched.
        TraceError, UnknownAxisError, FrozenAxisError, SignalError: as `Plasticity`.

    Fails: one round of a large share is more than first-order scores can foresee; take several, with training between
    them. What `confirm` is shown, and what is checked to be in reach, is one round all the way.
    """
    if rounds < 1 or steps < 1 or not 0 <= floor < 1:
        raise ConfigError(
            f"shrink: expected rounds >= 1, steps >= 1 and 0 <= floor < 1; got {rounds!r}, {steps!r} and {floor!r}"
        )
    _check(criterion, batches, loss, rounds)
    first = today = example if isinstance(example, AxisMap) else trace(model, example)
    criterion = criterion or (GroupNorm() if batches is None else Taylor())
    chosen, left = _chosen(first, criterion, axes, keep)
    goal = Goal.of(first, {"flops": flops, "parameters": parameters, "memory": memory, "latency": latency})
    if allocate is None:
        limits = {escape(axis.name): _limits(first, axis, floor, multiple) for axis in first}
        allocate = Ranked(limits=limits, per=PER[goal.cost] if criterion.predicts_loss else "unit")
    require_known(allocate.for_action("prune").limits, first)
    if compensate and batches is not None:
        criterion = CompensatedWherePossible(criterion)
    before = seconds(first)
    for number in range(1, rounds + 1):
        now = [today.by_name[axis.name] for axis in chosen]
        view = _looking(today, now, criterion, batches, loss, steps, seed + number)
        if number == 1:
            plans = goal.plans(view, now, criterion, allocate, 1)
            would = _foreseen(today, plans, before, left)
            if confirm is not None and not confirm(would):
                return would
        if rounds > 1:
            plans = goal.plans(view, now, criterion, allocate, number / rounds)
        today = _removed(today, plans, optimizers, seed)
        if finetune is not None:
            finetune(model)
    return Shrunk(today, difference(first, today.sizes), (before, seconds(today)), left, done=True)


def _check(criterion: Any, batches: Any, loss: Any, rounds: int) -> None:
    """Raise `ConfigError` for what is easily mistaken for something else."""
    if criterion is not None and not isinstance(criterion, Criterion):
        got = f"the class {criterion.__name__}: call it" if isinstance(criterion, type) else repr(criterion)
        raise ConfigError(f"criterion= must be a criterion, such as meristem.prune.Magnitude(); got {got}")
    if isinstance(loss, nn.Module):
        raise ConfigError(
            f"loss= must be a function of the model and a batch, such as lambda model, batch: "
            f"criterion(model(batch[0]), batch[1]); got the module {type(loss).__name__}"
        )
    if rounds > 1 and isinstance(batches, Iterator):
        raise ConfigError(
            f"batches= is a {type(batches).__name__}, which can be read once, but is read in each of {rounds} rounds: "
            "give a DataLoader or a list"
        )


def _limits(axes: AxisMap, axis: Axis, floor: float, multiple: int | None) -> Limits:
    """The sizes that an axis may be given."""
    multiple = fast_multiple(axes, axis) if multiple is None else multiple
    return Limits(minimum=max(1, math.ceil(floor * axis.size)), multiple=multiple)


def _chosen(
    axes: AxisMap, criterion: Criterion, selection: Selection, keep: Sequence[str]
) -> tuple[list[Axis], dict[str, str]]:
    """The axes that may shrink, and why the other editable ones may not."""
    reasons: dict[str, str] = {}
    kept = (keep,) if isinstance(keep, str) else tuple(keep)
    for pattern in kept:
        if not any(fnmatchcase(axis.name, pattern) for axis in axes):
            raise UnknownAxisError(
                f"keep={pattern!r} matches no axis: give glob patterns of axis names, such as "
                f"{', '.join(repr(axis.name) for axis in axes.editable[:3])}"
            )
    wanted = choose(axes, selection)
    for axis in axes.editable:
        if axis not in wanted:
            reasons[axis.name] = "not among `axes`"
        elif any(fnmatchcase(axis.name, pattern) for pattern in kept):
            reasons[axis.name] = "among `keep`"
        elif selection is None and (why := criterion.undefined(axes, axis)) is not None:
            reasons[axis.name] = why
    chosen = [axis for axis in wanted if axis.name not in reasons]
    if selection is None:
        for axis, other in out_of_step(axes, chosen).items():
            chosen.remove(axis)
            reasons[axis.name] = f"a fast kernel wants it as large as {other.name}"
    if not chosen:
        raise ConfigError(f"no axis is left that may shrink; {reasons or 'the model has no editable axis'}")
    require_defined(criterion, axes, chosen)
    return chosen, reasons


def _looking(
    axes: AxisMap,
    chosen: Sequence[Axis],
    criterion: Criterion,
    batches: Iterable[Any] | None,
    loss: Loss,
    steps: int,
    seed: int,
) -> Callable[[], View]:
    """Gives the model as it is now, with what the criterion needs, and each time the same randomness."""
    needed = list(dict.fromkeys(s for axis in chosen for s in criterion.needs(axes, axis)))
    model, asker = axes.model, type(criterion).__name__
    found = taken(batches, steps, asker) if needed or criterion.requires_closure else []
    signals = evidence(axes, needed, found, loss) if needed else {}
    endless = cycle(found)

    def closure() -> torch.Tensor:
        with evaluating(model):
            return loss(model, next(endless))

    view = partial(View, axes, signals=signals, closure=closure if found else None)
    return lambda: view(generator=torch.Generator().manual_seed(seed))


def _foreseen(axes: AxisMap, plans: Sequence[Removal], before: float, left: dict[str, str]) -> Shrunk:
    """What plans would come to."""
    after = measured(axes, plans, lambda: seconds(axes))
    return Shrunk(axes, difference(axes, sizes_after(axes, plans)), (before, after), left, done=False)


def _removed(axes: AxisMap, plans: Sequence[Removal], optimizers: Any, seed: int) -> AxisMap:
    """The map once plans are carried out."""
    if not plans:
        return axes
    edit = Edit(axes, optimizers, seed=seed)
    for plan in plans:
        edit.gather(plan.axis, plan.gather, plan.start or ZeroFanOut())
    return edit.commit().axes
