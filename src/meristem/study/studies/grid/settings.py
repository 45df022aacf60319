"""The protocol of the benchmark, and how large it is at its scales."""

from __future__ import annotations

from dataclasses import dataclass

from meristem.study.studies.grid.net import WIDTHS
from meristem.study.study import Scale

PROTOCOL = "1.0"
"""The version of everything that decides what a number on the leaderboard means: net, data, steps, optimizer, times of
the fixed schedule, first and final structure, what is measured. Results of other versions are not ranked together."""


SHOWN = (
    "fixed: VGG-11, BN",
    "fixed: VGG-11 at half the width, BN",
    "neuron, growing: GradMax, BN",
    "neuron, growing: GradMax, BN, safe",
    "neuron, growing: Mitosis, BN, own schedule",
    "neuron, constant: polarization + random, BN, safe",
    "layer, growing: identity, BN, safe",
    "layer, growing: GradMax, BN, safe",
    "layer, shrinking: L1, BN",
    "cell, growing: copy, BN",
    "cell, constant: L1 + Firefly, BN",
    "cell, shrinking: L1, BN",
    "normalized cell, constant: polarization + copy, BN",
    "weight, constant: L1 + gradient, BN",
    "weight, constant: RigL, BN",
)
"""Arms of `smoke`: every level, every kind of edit."""


@dataclass(frozen=True)
class Size(Scale):
    """The protocol at one scale.

    Attributes:
        core_seeds: runs of the arms by which claims are tested, of fixed nets, and of submissions.
        further_seeds: runs of own schedules in forms that no claim is about, and of normalized cells.
        protocol: its version.
        data: the data set.
        images: training and test images, the first ones; None: all.
        shrink: images are averaged over squares of so many pixels.
        widths: of VGG-11's convolutions when it is large.
        steps: of the optimizer: SGD with Nesterov momentum 0.9.
        batch_size: images in a step.
        learning_rate: at the beginning, with batch normalization; it falls to 0 along half a cosine.
        plain_rate: the same, of nets without batch normalization.
        weight_decay: of all parameters.
        times: when the fixed schedule edits, as shares of the steps.
        horizon: how long a twin that is not edited lives, as a share of the steps; every other edit of the fixed
            schedule gets one.
        tries: evaluations of the loss for each axis and edit that methods may make before birth.
        looks: evaluations, equally far apart, the last at the end.
        only: the names of the arms that are run; empty: all.
        strength: of the polarization penalty.
        device: where nets train.
    """

    core_seeds: int
    further_seeds: int
    data: str
    images: tuple[int | None, int | None]
    shrink: int
    widths: tuple[int, ...]
    steps: int
    batch_size: int
    learning_rate: float
    plain_rate: float
    tries: int
    strength: float
    weight_decay: float = 2e-4
    times: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5)
    horizon: float = 0.1
    looks: int = 5
    only: tuple[str, ...] = ()
    device: str = "cpu"
    protocol: str = PROTOCOL


SCALES = {
    "smoke": Size(
        seeds=1,
        core_seeds=1,
        further_seeds=1,
        data="digits",
        images=(256, 100),
        shrink=1,
        widths=(4, 4, 4, 4, 4, 4, 4, 4),
        steps=20,
        batch_size=16,
        learning_rate=0.05,
        plain_rate=0.02,
        tries=2,
        strength=2e-3,
        looks=2,
        only=SHOWN,
    ),
    "cpu": Size(
        seeds=5,
        core_seeds=5,
        further_seeds=2,
        data="cifar10",
        images=(4000, 1500),
        shrink=2,
        widths=tuple(width // 8 for width in WIDTHS),
        steps=200,
        batch_size=64,
        learning_rate=0.05,
        plain_rate=0.02,
        tries=2,
        strength=2e-3,
        looks=4,
    ),
    "full": Size(
        seeds=3,
        core_seeds=10,
        further_seeds=3,
        data="cifar10",
        images=(None, None),
        shrink=1,
        widths=WIDTHS,
        steps=78_200,
        batch_size=128,
        learning_rate=0.1,
        plain_rate=0.1,
        tries=100,
        strength=3e-5,
        looks=50,
        device="cuda",
    ),
}
"""`cpu`: an eighth of the width, images averaged to 16 x 16 pixels. `full`: width, steps, batches, optimizer and
learning rate of GradMax's code for VGG-11, which trains without batch normalization; images as they are."""
