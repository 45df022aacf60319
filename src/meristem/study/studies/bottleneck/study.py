"""The study: arms, claims and scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from meristem.study.claim import Claim, Test
from meristem.study.comparisons import Greater
from meristem.study.studies.bottleneck.comparisons import CheaperThanAll, NotWorse
from meristem.study.studies.bottleneck.experiment import Growing
from meristem.study.studies.bottleneck.nets import Net
from meristem.study.study import Arm, Measure, Scale, Study

STARTS = ("1/4", "1/64")
"""Where growth begins, in shares of the full width."""

GRID = ("1/64", "1/8", "1/4", "1/2", "1")
"""The widths that a search would try."""

METHODS: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "TINY": ("TINY", {}, "best directions in the space of activations"),
    "GradMax": ("GradMax", {}, "newborns with the largest gradients"),
    "random": ("Random", {}, "newborns with random fan-in and fan-out"),
    "Net2Wider": ("Net2Wider", {"noise": 0.01}, "copies of incumbents, with a little noise"),
    "Mitosis": ("Mitosis", {}, "the busiest units divide (ours)"),
}
"""By label: class, settings, what it does."""

PREDICT_GAINS = ("TINY", "GradMax")
NO_NORM_ONLY = ("GradMax",)

MARGIN = 0.02
"""The accuracy that counts as the same, and the smallest difference in accuracy that matters."""


@dataclass(frozen=True)
class Size(Scale):
    """How large everything is.

    Attributes:
        data: the data set.
        nets: by name the settings of `Net`; each is run with all arms.
        settings: of all runs.
    """

    data: str
    nets: Mapping[str, Mapping[str, Any]] = field(hash=False)
    settings: Mapping[str, Any] = field(hash=False)


def arms(size: Size) -> Sequence[Arm]:
    """The grid of fixed nets, and growth from each start by every method."""
    return [arm for net in size.nets for arm in (*_grid(size, net), *_grown(size, net))]


def _grid(size: Size, net: str) -> list[Arm]:
    return [_arm(size, net, fixed(width), f"{width} of the width, fixed", share=_share(width)) for width in GRID]


def _grown(size: Size, net: str) -> list[Arm]:
    found: list[Arm] = []
    for start in STARTS:
        for label, (method, options, what) in METHODS.items():
            if label in NO_NORM_ONLY and not _bare(size, net):
                continue
            settings = {"share": _share(start), "method": method, "options": dict(options)}
            text = f"grown from {start} of the width to all of it: {what}"
            found.append(_arm(size, net, grown(label, start), f"{text}; every layer", **settings))
            if label in PREDICT_GAINS:
                name, where = grown(label, start, "bottleneck"), f"{text}; where most is gained"
                found.append(_arm(size, net, name, where, where="bottleneck", **settings))
    return found


def _arm(size: Size, net: str, label: str, description: str, **settings: Any) -> Arm:
    config = Growing(**{"data": size.data, "net": Net(**size.nets[net]), **size.settings, **settings})
    return Arm(at(label, net), description, config, group=net)


def _bare(size: Size, net: str) -> bool:
    """Whether a net has no BatchNorm."""
    return not Net(**size.nets[net]).norm


def _share(width: str) -> float:
    return float(Fraction(width))


def fixed(width: str) -> str:
    """The label of a net that keeps its width."""
    return f"fixed {width}"


def grown(method: str, start: str, where: str = "") -> str:
    """The label of a net that grows."""
    return f"{method} {where} from {start}" if where else f"{method} from {start}"


def at(label: str, net: str) -> str:
    """The name of an arm."""
    return f"{label}, {net}"


def main(size: Size) -> list[str]:
    """The names of the arms that figures show first."""
    from_quarter = [grown(method, STARTS[0]) for method in ("TINY", "Mitosis", "GradMax", "random")]
    labels = [*from_quarter, grown("TINY", STARTS[1]), fixed("1"), *map(fixed, STARTS)]
    return [at(label, net) for net in size.nets for label in labels]


def claims(size: Size) -> Sequence[Claim]:
    """Those of the paper, and two of our own."""
    nets, bare = tuple(size.nets), tuple(net for net in size.nets if _bare(size, net))

    def each(test: Any, label: str, other: str, among: Sequence[str] = nets, **settings: Any) -> list[Test]:
        return [test(first=at(label, net), second=at(other, net), **settings) for net in among]

    def reaches(label: str) -> list[Test]:
        return each(NotWorse, label, fixed("1"), metric="final accuracy", margin=MARGIN)

    def better(metric: str, label: str, other: str, among: Sequence[str] = nets) -> list[Test]:
        return each(Greater, label, other, among, metric=metric, margin=MARGIN / 2)

    tiny, far = (grown("TINY", start) for start in STARTS)
    rivals = [(name, start) for name in ("GradMax", "random") for start in STARTS]
    return [
        Claim("Grown from 1/4 of the width, TINY reaches the large net's accuracy.", reaches(tiny), "abstract"),
        Claim("Grown from 1/64 of the width, TINY reaches the large net's accuracy.", reaches(far), "abstract"),
        Claim(
            "Training takes fewer operations than that of the large net.",
            [test for label in (tiny, far) for test in each(Greater, fixed("1"), label, metric="flops")],
            "abstract: competitive training time",
        ),
        Claim(
            "Training takes fewer seconds than that of the large net.",
            [test for label in (tiny, far) for test in each(Greater, fixed("1"), label, metric="seconds")],
            "abstract: competitive training time; seconds depend on what else the machine did",
        ),
        Claim(
            "No width has to be searched for: growth from 1/64 costs less than the grid of fixed nets, and loses "
            "nothing against its largest net.",
            [
                *(CheaperThanAll("flops", at(far, n), tuple(at(fixed(w), n) for w in GRID)) for n in nets),
                *reaches(far),
            ],
            "abstract",
        ),
        Claim(
            "TINY ends with a higher accuracy than GradMax (without BatchNorm) and random growth.",
            [
                test
                for name, start in rivals
                for test in better(
                    "final accuracy", grown("TINY", start), grown(name, start), bare if name in NO_NORM_ONLY else nets
                )
            ],
            "section 5",
        ),
        Claim(
            "Where most is gained is a better place for newborns than every layer.",
            [
                test
                for start in STARTS
                for test in better("mean accuracy", grown("TINY", start, "bottleneck"), grown("TINY", start))
            ],
            "the idea of the title; the paper's own experiments grow every layer in turn",
        ),
        Claim(
            "Ours, not the paper's: Mitosis reaches the large net's accuracy from 1/4 of the width.",
            reaches(grown("Mitosis", "1/4")),
        ),
        Claim(
            "Ours, not the paper's: from 1/4 of the width Mitosis is more accurate during training than TINY.",
            better("mean accuracy", grown("Mitosis", "1/4"), tiny),
        ),
    ]


SCALES = {
    "smoke": Size(
        seeds=2,
        data="digits",
        nets={"VGG": {"widths": (4, 8), "hidden": 8, "norm": False}},
        settings={"images": (128, 64), "epochs": 1, "edits": 2, "last": 0.5, "listen": 1, "evaluations": 4},
    ),
    "cpu": Size(
        seeds=10,
        data="cifar10",
        nets={
            "VGG": {"widths": (16, 32), "hidden": 32, "norm": False},
            "ResNet": {"kind": "resnet", "widths": (12, 24), "blocks": 2},
        },
        settings={"images": (3000, 2000), "shrink": 2, "epochs": 10, "edits": 6, "last": 0.35},
    ),
    "full": Size(
        seeds=5,
        data="cifar100",
        nets={
            "VGG": {"widths": (64, 128, 256), "hidden": 256, "norm": False},
            "ResNet": {"kind": "resnet", "widths": (64, 256), "blocks": 8},
        },
        settings={"epochs": 300, "batch_size": 128, "edits": 12, "last": 0.2, "listen": 16, "evaluations": 60}
        | {"device": "cuda"},
    ),
}

STUDY = Study(
    name="bottleneck",
    title="From tiny nets to large ones (TINY)",
    question=(
        "Does a net that starts with 1/4 or 1/64 of its width and grows where it lacks expressivity reach the accuracy "
        "of the large net, for less, and without a search for its width?"
    ),
    paper="Verbockhaven, Rudkiewicz, Chevallier, Charpiat, Growing Tiny Networks, TMLR 2024, arXiv 2405.19816",
    scales=SCALES,
    arms=arms,
    claims=claims,
    main=list(dict.fromkeys(name for size in SCALES.values() for name in main(size))),
    measures=(
        Measure("final accuracy", percent=True),
        Measure("mean accuracy", "accuracy over training", percent=True),
        Measure("share of the large net", "parameters, of the large net's", percent=True),
    ),
    notes=(
        "The VGG has no BatchNorm, the residual net has; GradMax refuses BatchNorm (a constant has no variance) and is "
        "left out there. In the residual net only the channels inside blocks grow, as in the paper; its trunk keeps "
        "one width, unlike that of ResNet-18. Layers start with at least 2 units, since a dimension of size 1 is no "
        "axis: at cpu scale 1/64 of the width is 2 units everywhere. What a method does not give (GradMax and TINY "
        "give at most as many newborns as the candidate gradient has rank) it is asked for at the next edit. Growth "
        "ends after a share of the run that all methods have in common, and fixed nets train for as many steps; the "
        "paper grows to ResNet-18's size and then trains for 250 to 500 epochs. cpu: the first 3,000 training and "
        "2,000 test images of CIFAR-10, averaged over 2 x 2 pixels. full: CIFAR-100, on a GPU. Seconds of edits are "
        "longer than they would be if their operations were not counted; decompositions of matrices (TINY, GradMax) "
        "are in the seconds, not in the operations."
    ),
)
