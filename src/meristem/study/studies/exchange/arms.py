"""What is compared, at equal training operations and, but for the large net, at equal final ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meristem.study.studies.exchange.experiment import Trading
from meristem.study.studies.exchange.sizes import Course
from meristem.study.study import Arm, Scale


@dataclass(frozen=True)
class Bench:
    """A data set.

    Attributes:
        name: for the names of arms.
        data, images, shrink, steps, learning_rate: see `Trading`.
        odd: widths that take as many operations as those of the reference net, and suit images badly.
        counted: steps of the exchange at constant, falling and rising operations that cost, edits and all, no more than
            the small net, pruning alone and growth alone.
    """

    name: str
    data: str
    images: tuple[int | None, int | None]
    shrink: int
    steps: int
    odd: tuple[int, ...]
    counted: tuple[int, int, int]
    learning_rate: float = 0.05


@dataclass(frozen=True)
class Size(Scale):
    """The benches of a scale.

    Attributes:
        benches: data sets.
        widths: of the reference net.
        listen, interval: see `Trading`.
        device: where nets train.
    """

    benches: tuple[Bench, ...]
    widths: tuple[int, ...] = (8, 16, 32)
    listen: int = 2
    interval: float = 0.1
    device: str = "cpu"


SHRINKING: Course = ((0.1, 2.0), (0.6, 1.0))
GROWING: Course = ((0.1, 0.5), (0.6, 1.0))
ROUND: Course = ((0.1, 1.0), (0.35, 1.5), (0.6, 1.0))
LARGE: Course = ((0.0, 2.0),)

WAYS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Small", "a fixed net", {}),
    ("Large", "a fixed net of twice the operations, trained half as long", {"course": LARGE}),
    ("Prune", "from 2 to 1, by Taylor per operation", {"way": "prune", "course": SHRINKING}),
    ("Grow", "from 1/2 to 1, by TINY per operation", {"way": "grow", "course": GROWING}),
    ("Grow, then prune", "from 1 to 1.5 and back", {"way": "grow and prune", "course": ROUND}),
    ("Turnover", "at 1: the lowest by Taylor make room for as many by TINY on the same layer", {"way": "replace"}),
    ("Exchange", "at 1: units between and within layers", {"way": "exchange"}),
    ("Exchange, shrinking", "from 2 to 1", {"way": "exchange", "course": SHRINKING}),
    ("Exchange, growing", "from 1/2 to 1", {"way": "exchange", "course": GROWING}),
    ("Exchange, counted", "at 1, on so few steps that its edits are paid for", {"way": "exchange", "steps": 0}),
    (
        "Exchange, shrinking, counted",
        "from 2 to 1, on so few steps that its edits are paid for",
        {"way": "exchange", "course": SHRINKING, "steps": 1},
    ),
    (
        "Exchange, growing, counted",
        "from 1/2 to 1, on so few steps that its edits are paid for",
        {"way": "exchange", "course": GROWING, "steps": 2},
    ),
    ("Odd", "a fixed net of ill proportions", {"shape": "odd"}),
    ("Odd, turnover", "turnover from ill proportions", {"shape": "odd", "way": "replace"}),
    ("Odd, exchange", "exchange from ill proportions", {"shape": "odd", "way": "exchange"}),
    ("Sparse", "half of the weights of a net of twice the operations, at random", {"way": "static", "density": 0.5}),
    ("RigL", "the same, rewired by RigL", {"way": "rigl", "density": 0.5}),
    ("Exchange, weights too", "the same, weights and units traded in one ledger", {"way": "rewire", "density": 0.5}),
)
"""Name, description, settings; `steps` says which of `Bench.counted`."""


def arms(size: Size) -> Sequence[Arm]:
    """All arms of a scale, bench by bench."""
    return [
        Arm(named(bench, name), description, _config(size, bench, settings), bench.name)
        for bench in size.benches
        for name, description, settings in WAYS
    ]


def named(bench: Bench, name: str) -> str:
    """The name of an arm."""
    return f"{bench.name} {name}"


def _config(size: Size, bench: Bench, settings: dict[str, Any]) -> Trading:
    settings = {**settings, "shape": bench.odd} if "shape" in settings else settings
    settings = {**settings, "steps": bench.counted[settings["steps"]]} if "steps" in settings else settings
    own = {key: getattr(bench, key) for key in ("data", "images", "shrink", "steps", "learning_rate")}
    common = {key: getattr(size, key) for key in ("widths", "listen", "interval", "device")}
    return Trading(**{**own, **common, **settings})
