"""How structure changes in one run: what is grown, pruned, replaced or exchanged, and when."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch.optim import Optimizer

from meristem.allocate import Limits, Ranked
from meristem.axes import AxisMap
from meristem.diagnose import Monitor
from meristem.grow import TINY
from meristem.ledger import Exchange, Units, Weights
from meristem.mask import RigL, Sparse, Static, Uniform
from meristem.plasticity import Plasticity
from meristem.prune import Protect, Taylor
from meristem.schedule import Every, Schedule
from meristem.study.studies.exchange.sizes import Course, bound

Way: TypeAlias = Literal["still", "grow", "prune", "grow and prune", "replace", "exchange", "static", "rigl", "rewire"]
"""`still`: nothing changes. `static` and `rigl`: masks of constant or changing places. `exchange`: of units; `rewire`:
of units and weights. The others: by schedules of their own."""

SPARSE = ("static", "rigl", "rewire")

AMPLITUDE = 256.0
"""At which TINY's line search begins: about the number of positions over which the nets' first layers are averaged."""

LEAST = 4
"""Units of a layer at least."""

TURNOVER = 0.1
"""Units that are replaced at one edit, as a share."""

AMOUNT = 0.5
"""Units that one edit inserts or removes at most, as a share: the budget decides."""


def masks(way: Way, axes: AxisMap, optimizer: Optimizer, density: float, interval: int, last: int) -> Sparse | None:
    """Sparse training, for ways that have any. Every layer gets the same density at first.

    Args:
        way: how structure changes.
        axes: the map.
        optimizer: trains it.
        density: share of the weights that are there.
        interval, last: steps between changes, and after which there are none.
    """
    if way not in SPARSE:
        return None
    even: dict[str, Any] = {"density": density, "distribution": Uniform()}
    method = RigL(end=last, interval=interval, **even) if way == "rigl" else Static(**even)
    return Sparse(axes.model, optimizer, method)


def controller(
    way: Way,
    axes: AxisMap,
    optimizer: Optimizer,
    sparse: Sparse | None,
    *,
    course: Course,
    operations: float,
    steps: int,
    interval: int,
    last: int,
    share: float,
    margin: float,
    listen: int,
    seed: int,
    monitor: Monitor,
) -> Plasticity | None:
    """What edits the net while it trains; None where nothing does.

    Args:
        way: how structure changes.
        axes: the map of the net.
        optimizer: trains it.
        sparse: keeps its masks.
        course, operations, steps: the budget, see `sizes.bound`.
        interval: steps between edits.
        last: the step after which there are none.
        share: of today's operations that an exchange may move.
        margin: see `Exchange`.
        listen: steps over which statistics are added up.
        seed: of edits.
        monitor: watches newborns.
    """
    if way in ("still", "static", "rigl"):
        return None
    limits = Limits(minimum=LEAST)
    grow, prune = TINY(amplitude=AMPLITUDE), Protect(Taylor(), age=interval)
    asked: dict[str, dict[str, Any]] = {
        "grow": {"grow": AMOUNT},
        "prune": {"prune": AMOUNT},
        "grow and prune": {"grow": AMOUNT, "prune": AMOUNT},
        "replace": {"replace": TURNOVER},
        "exchange": {"exchange": share},
        "rewire": {"exchange": share},
    }
    schedule: Schedule = Every(interval, end=last, **asked[way])
    given: dict[str, Any] = {"grow": grow, "prune": prune, "allocate": Ranked(limits, per="flop")}
    if way in ("exchange", "rewire"):
        units = Units(grow, prune, limits=limits)
        weights = [] if sparse is None else [Weights(sparse, AMPLITUDE, age=0)]  # as units may: at the next edit
        given = {"exchange": Exchange([units, *weights], margin)}
    if way != "replace":
        schedule = schedule.until(flops=bound(course, operations, steps))
    return Plasticity(
        axes.model,
        optimizer,
        axes,
        schedule=schedule,
        follow=[] if sparse is None else [sparse],
        listen=listen,
        seed=seed,
        monitor=monitor,
        **given,
    )


def shuffled(count: int, size: int, seed: int) -> Any:
    """The numbers of the examples of every batch, without end: each epoch in a new order, no incomplete batch."""
    order = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=order)[: count // size * size].split(size)
