"""Shrink: a trained model made smaller and faster, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from glob import escape
from itertools import cycle
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from meristem.allocate import Allocator, Ranked, Selection, require_known
from meristem.axes import Axis, AxisMap, trace
from meristem.edit import Edit, Follower, ZeroFanOut
from meristem.errors import EditError
from meristem.prune import Criterion, GroupNorm, Removal, measured
from meristem.recipes.choice import chosen_axes, limits_of, require_numbers, require_sensible
from meristem.recipes.evidence import Loss, evaluating, evidence, scalar, supervised, taken
from meristem.recipes.goal import PER, CompensatedWherePossible, Cost, Goal, seconds, sizes_after
from meristem.recipes.shrunk import Shrunk, difference
from meristem.recipes.taylor import TaylorWherePossible
from meristem.signals import View


def shrink(
    model: nn.Module,
    example: Any,
    *,
    flops: float | None = None,
    parameters: float | None = None,
    memory: float | None = None,
    latency: float | None = None,
    tolerance: float | None = None,
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
    follow: Iterable[nn.Module | Follower] = (),
    confirm: Callable[[Shrunk], bool] | None = None,
    seed: int = 0,
) -> Shrunk:
    """Remove the units that matter least, until the model costs so much less.

        found = meristem.recipes.shrink(model, images, flops=0.5, batches=loader, finetune=train)
        print(found)                               # what went, and how much faster the model is
        meristem.save("small.safetensors", found.axes)

    In each round: scores from some batches (in eval mode, nothing is trained), one ranking of all units, the smallest
    removal that meets the target, one edit in place, `finetune`. With several rounds the share is approached in equal
    factors, and units are scored anew each time. For a target of operations, parameters or memory the removal is the
    first in the order of the ranking, and what of it can stay does: no axis could keep more, unless another loses more.
    Latency is measured on the device of the example, in turn with a copy of the model from before, by bisection over
    amounts that are tried and taken back; so is the loss for a tolerance, where it is the largest removal that is
    looked for. What is measured need not follow the amount, so another amount may meet these as well.

    It is made of `plan_pruning`, `least_within`, `Compensated` and `Edit`, and may be made of others; to prune while
    a model trains, use `Plasticity`.

    Args:
        model: the trained model, on the device where it is to be fast. It is edited in place.
        example: an input, as for `Plasticity`. FLOPs and latency are those of this input.
        flops, parameters, memory, latency: the share of today's that may be left, above 0, below 1. Exactly one of
            these, or a tolerance.
        tolerance: instead: by which share of today's the loss may rise, such as 0.05; the mean over the first `steps`
            batches, in eval mode. With several rounds it is approached in equal steps, each after `finetune`.
        batches: data to score with, iterated anew in each round. None: only weights are looked at.
        loss: gives the loss of a batch. Default: see `supervised`.
        steps: how many batches are looked at in each round.
        criterion: who goes. Default: `GroupNorm()` without batches; with batches `Taylor()`, and `TaylorWeights()` on
            axes for which that is not defined, such as the size of query and key heads.
        allocate: how the amount is divided over axes, with limits of its own instead of `floor` and `multiple`.
            Default: `Ranked`, per cost of the target where the criterion predicts the loss.
        axes: which axes may shrink. Default: all editable ones for which the criterion is defined, but those that a
            fast kernel wants as large as one that stays (see `Allocator.links`).
        keep: names or glob patterns of axes that lose nothing; each must match one.
        floor: the share of its units that every axis keeps at least.
        multiple: new sizes are multiples of this. Default: of what `fast_multiple` says, 8 or 1.
        compensate: whether, given batches, what units gave on average goes to the biases of their readers, on every
            axis for which that is defined (see `Compensated`).
        rounds: how many.
        finetune: called with the model after each round. Parameters are new objects then: build the optimizer in
            there, or give it as `optimizers`.
        optimizers: those whose state follows.
        follow: copies of the model, and what else must hear of edits (`meristem.mask.Sparse`), as for `Plasticity`.
        confirm: called with what would be done, before anything is; unless it returns true, nothing is.
        seed: of everything random.

    Returns:
        what was done; or, if `confirm` refused, what would have been. Latency and tolerance are measured once more at
        the end; if they are not met, `missed` says so.

    Raises:
        ConfigError: not exactly one target, a number out of its range, or data are needed and there are none.
        EditError: the target is out of reach within the limits, no unit can go within the tolerance, or the criterion
            is not defined for an axis that was asked for. Unless it comes after the first round, nothing has been
            touched.
        TraceError, UnknownAxisError, FrozenAxisError, SignalError: as `Plasticity`.

    Fails: one round of a large share is more than first-order scores can foresee; take several, with training between
    them. What `confirm` is shown, and what is checked to be in reach, is one round all the way.
    """
    require_numbers(rounds, steps, floor, multiple)
    require_sensible(criterion, batches, loss, rounds if tolerance is None else rounds + 1)
    first = today = example if isinstance(example, AxisMap) else trace(model, example)
    criterion = criterion or (GroupNorm() if batches is None else TaylorWherePossible())
    chosen, left = chosen_axes(first, criterion, axes, keep)
    shares: dict[Cost, float | None] = {
        "flops": flops, "parameters": parameters, "memory": memory, "latency": latency, "tolerance": tolerance
    }  # fmt: skip
    goal = Goal.of(first, shares, partial(_mean_loss, model, loss, _measured_on(tolerance, batches, steps)))
    if allocate is None:
        limits = {escape(axis.name): limits_of(first, axis, floor, multiple) for axis in first}
        allocate = Ranked(limits=limits, per=PER[goal.cost] if criterion.predicts_loss else "unit")
    require_known(allocate.for_action("prune").limits, first)
    if compensate and batches is not None:
        criterion = CompensatedWherePossible(criterion)
    follow = tuple(follow)
    before = seconds(first)
    for number in range(1, rounds + 1):
        now = [today.by_name[axis.name] for axis in chosen]
        view = _looking(today, now, criterion, batches, loss, steps, seed + number)
        if number == 1:
            plans = goal.plans(view, now, criterion, allocate, 1)
            if not plans and tolerance is not None:
                raise EditError(f"no unit can go without raising the loss by more than tolerance={tolerance!r} of it")
            would = _foreseen(today, plans, goal, before, left)
            if confirm is not None and not confirm(would):
                return would
        if rounds > 1:
            plans = goal.plans(view, now, criterion, allocate, number / rounds)
        today = _removed(today, plans, optimizers, follow, seed)
        if finetune is not None:
            finetune(model)
    after = goal.seconds(today, before)
    missed = goal.missed(after / before if goal.cost == "latency" else goal.measure(today))
    return Shrunk(today, difference(first, today.sizes), (before, after), left, done=True, missed=missed)


def _measured_on(tolerance: float | None, batches: Iterable[Any] | None, steps: int) -> list[Any]:
    """The batches on which a loss is held against a tolerance: the same all along."""
    return [] if tolerance is None else taken(batches, steps, "tolerance=")


@torch.no_grad()
def _mean_loss(model: nn.Module, loss: Loss, batches: Sequence[Any]) -> float:
    with evaluating(model):
        return sum(float(scalar(loss(model, batch))) for batch in batches) / len(batches)


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
            return scalar(loss(model, next(endless)))

    view = partial(View, axes, signals=signals, closure=closure if found else None)
    return lambda: view(generator=torch.Generator().manual_seed(seed))


def _foreseen(axes: AxisMap, plans: Sequence[Removal], goal: Goal, before: float, left: dict[str, str]) -> Shrunk:
    """What plans would come to."""
    after = measured(axes, plans, lambda: goal.seconds(axes, before))
    return Shrunk(axes, difference(axes, sizes_after(axes, plans)), (before, after), left, done=False)


def _removed(axes: AxisMap, plans: Sequence[Removal], optimizers: Any, follow: Any, seed: int) -> AxisMap:
    """The map once plans are carried out."""
    if not plans:
        return axes
    edit = Edit(axes, optimizers, follow, seed=seed)
    for plan in plans:
        edit.gather(plan.axis, plan.gather, plan.start or ZeroFanOut())
    return edit.commit().axes
