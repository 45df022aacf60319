"""The study: arms, claims and scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meristem.study.claim import Claim, Test
from meristem.study.comparisons import Above, Below, Greater
from meristem.study.studies.bottleneck.comparisons import CheaperThanAll
from meristem.study.studies.tabular.boosting import Boosting
from meristem.study.studies.tabular.comparisons import NotWorseThanChosen
from meristem.study.studies.tabular.fit import Fit
from meristem.study.studies.tabular.width import Grow, Prune
from meristem.study.study import Arm, Measure, Scale, Study

METHODS: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "random": ("Random", {}, "newborns with random fan-in and fan-out"),
    "Net2Wider": ("Net2Wider", {"noise": 0.01}, "copies of incumbents, with a little noise"),
    "GradMax": ("GradMax", {}, "newborns with the largest gradients"),
    "TINY": ("TINY", {}, "best directions in the space of activations"),
    "Mitosis": ("Mitosis", {}, "the busiest units divide, which is `early_growth` (ours)"),
    "gentle Mitosis": ("Mitosis", {"kick": 0.25}, "the busiest units divide, their copies differ by a quarter (ours)"),
}
"""By label: class in `meristem.grow`, settings, what it does."""

OWN = ("TINY, own width", "pruned, own width", "grown and pruned, own width")
"""Arms that are given no width but the least and the most."""

BOOSTED = "boosted trees"

MARGIN = 0.01
"""The accuracy, or R2, that counts as the same, and the smallest difference that matters."""


@dataclass(frozen=True)
class Size(Scale):
    """How large everything is.

    Attributes:
        tables: by name what of `Fit` and `Boosting` says which data it is.
        grid: the widths that a search would try, the smallest and the largest of which growth and pruning begin with.
        settings: of all nets.
        below: of `Prune`.
    """

    tables: Mapping[str, Mapping[str, Any]] = field(hash=False)
    grid: tuple[int, ...] = (4, 16, 64, 128)
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    below: float = 3e-4


def arms(size: Size) -> Sequence[Arm]:
    """For each table: the grid, growth to its largest width, nets that find their own, and boosted trees."""
    return [arm for table in size.tables for arm in (*_fixed(size, table), *_grown(size, table), *_own(size, table))]


def _fixed(size: Size, table: str) -> list[Arm]:
    nets = [_arm(size, table, fixed(width), f"two layers of {width} units", width=width) for width in size.grid]
    text = "gradient boosting of decision trees (scikit-learn), stopped early: a reference from outside"
    return [*nets, Arm(at(BOOSTED, table), text, Boosting(**size.tables[table]), group=table)]


def _grown(size: Size, table: str) -> list[Arm]:
    first, *_, last = size.grid
    return [
        _arm(size, table, grown(label), f"grown from {first} to {last} units a layer: {what}",
             width=first, grow=Grow(to=last, method=method, options=dict(options)))
        for label, (method, options, what) in METHODS.items()
    ]  # fmt: skip


def _own(size: Size, table: str) -> list[Arm]:
    first, *_, last = size.grid
    prune = Prune(below=size.below)
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        OWN[0]: (
            f"grown from {first} units a layer by TINY, as long as newborns promise what they once did",
            {"width": first, "grow": Grow(to=last, method="TINY", decides="gain")},
        ),
        OWN[1]: (
            f"from {last} units a layer, those leave that the loss would hardly miss",
            {"width": last, "prune": prune},
        ),
        OWN[2]: (
            f"grown from {first} to {last} units a layer at random, then those leave that the loss would hardly miss",
            {
                "width": first,
                "grow": Grow(to=last, method="Random"),
                "prune": prune.model_copy(update={"first": 0.45}),
            },
        ),
    }
    return [_arm(size, table, label, text, **settings) for label, (text, settings) in ways.items()]


def _arm(size: Size, table: str, label: str, description: str, **settings: Any) -> Arm:
    config = Fit(**{**size.tables[table], **size.settings, **settings})
    return Arm(at(label, table), description, config, group=table)


def fixed(width: int) -> str:
    """The label of a net that keeps its width."""
    return f"fixed {width}"


def grown(method: str) -> str:
    """The label of a net that grows to the largest width."""
    return f"grown by {method}"


def at(label: str, table: str) -> str:
    """The name of an arm."""
    return f"{label}, {table}"


def claims(size: Size) -> Sequence[Claim]:
    """What would have to hold for a net that finds its own width to be worth it."""
    tables, grid = tuple(size.tables), tuple(fixed(width) for width in size.grid)
    largest, smallest = grid[-1], grid[0]

    def cheaper(label: str) -> list[Test]:
        return [CheaperThanAll("seconds", at(label, t), tuple(at(net, t) for net in grid)) for t in tables]

    def as_good(label: str) -> list[Test]:
        return [
            NotWorseThanChosen("final score", at(label, t), tuple(at(net, t) for net in grid), "held-out score", MARGIN)
            for t in tables
        ]

    def each(test: Any, metric: str, first: str, second: str, margin: float = 0.0) -> list[Test]:
        return [test(metric, at(first, t), at(second, t), margin=margin) for t in tables]

    return [
        Claim(
            "Width matters: the widest net of the grid is better than the narrowest.",
            each(Greater, "final score", largest, smallest, MARGIN),
        ),
        *(
            Claim(
                f"{label[0].upper()}{label[1:]}: as good as the best of the grid, chosen on held-out rows.",
                as_good(label),
            )
            for label in (*OWN, *(grown(name) for name in ("random", "TINY", "Mitosis", "gentle Mitosis")))
        ),
        Claim(
            "A net that finds its own width by growth or by pruning takes less time than the grid.",
            [test for label in OWN for test in cheaper(label)],
        ),
        Claim(
            "Growth whose edits cost operations, too, takes fewer than training at full width.",
            [test for name in ("GradMax", "TINY") for test in each(Greater, "flops", largest, grown(name))],
        ),
        Claim(
            "What it saves is paid for: over the training, growth has a lower score than the widest net.",
            [test for name in METHODS for test in each(Greater, "mean score", largest, grown(name), MARGIN / 2)],
        ),
        Claim(
            "Newborns starve here as well: random ones get less gradient than incumbents (R_grad < 0.9), though they "
            "are almost as active (R_act > 0.7).",
            [
                *(Below("R_grad", at(grown("random"), t), 0.9, margin=0.05) for t in tables),
                *(Above("R_act", at(grown("random"), t), 0.7, margin=0.05) for t in tables),
            ],
            "the question of arXiv 2605.15435, asked of tables",
        ),
        Claim(
            "Ours: units that divide do not leave newborns starved (R_grad > 0.9).",
            [
                Above("R_grad", at(grown(name), t), 0.9, margin=0.05)
                for name in ("Mitosis", "gentle Mitosis")
                for t in tables
            ],
        ),
        Claim(
            "Boosted trees are better than all of these nets.",
            [
                Greater("final score", at(BOOSTED, t), at(label, t), margin=MARGIN)
                for label in (largest, OWN[0], OWN[1], grown("Mitosis"), grown("TINY"))
                for t in tables
            ],
        ),
    ]


STUDY = Study(
    name="tabular",
    title="Tables: nets that find their own width",
    question=(
        "On tables, can a net that grows, shrinks or does both while it trains match the best of a grid of widths at "
        "less cost than the grid, and do newborns get as much gradient as incumbents there?"
    ),
    scales={
        "smoke": Size(
            seeds=2,
            tables={"numbers": {"kind": "numbers"}},
            grid=(2, 4, 8),
            settings={"steps": 40, "batch_size": 32, "evaluations": 2, "watch": 5},
        ),
        "cpu": Size(
            seeds=10,
            tables={"Adult": {"data": "adult"}, "California housing": {"data": "california_housing"}},
        ),
        "full": Size(
            seeds=20,
            tables={"Adult": {"data": "adult"}, "California housing": {"data": "california_housing"}},
            grid=(4, 8, 16, 32, 64, 128, 256, 512),
            settings={"steps": 10000, "evaluations": 50},
        ),
    },
    arms=arms,
    claims=claims,
    measures=(
        Measure("final score", "accuracy or R2", percent=True),
        Measure("best score", "at the best held-out score", percent=True),
        Measure("mean score", "over training", percent=True),
        Measure("width", "units a layer"),
        Measure("R_act"),
        Measure("R_grad"),
        Measure("fan-out ratio"),
    ),
    course=Measure("score", "accuracy or R2 on test rows", percent=True),
    notes=(
        "The score is the accuracy (Adult) or R2, the share of the variance that is explained (California housing), "
        "on the test rows; all choices are made on a fifth of the training rows, drawn anew for every seed. Nets have "
        "two hidden layers with ReLU; Adam with a learning rate of 0.003 along half a cosine, which was better for "
        "the fixed nets than 0.001; newborns have step counts of their own. Growth ends after 30 % of the training; "
        "TINY and GradMax give at most as many newborns at an edit as the candidate gradient has rank, which before "
        "the output layer is the number of outputs, so the second layer stays narrower than it was asked to be. TINY "
        "tries amplitudes on fresh batches; their operations are counted. R_act, R_grad and the ratio of fan-out "
        "norms are medians over all cohorts of at most 200 steps of age; looking at newborns is not timed. Boosted "
        "trees have scikit-learn's settings, stop early on a tenth of their rows, and have neither parameters nor "
        "operations that could be compared. Operations of small nets are few beside what a step costs anyway: see "
        "seconds as well, on one thread. Seconds of edits are longer than they would be if their operations were not "
        "counted."
    ),
)
