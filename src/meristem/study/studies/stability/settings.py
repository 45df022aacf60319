"""How large the study is: nets, data and lengths of its scales."""

from __future__ import annotations

from dataclasses import dataclass

from meristem.study.studies.stability.nets import Net
from meristem.study.study import Scale


@dataclass(frozen=True)
class Bench:
    """A net on a data set.

    Attributes:
        name: short, for the names of arms.
        net, widths, data, images, shrink, epochs, batch_size, learning_rate, looks: see `experiment.Cycles`; epochs are
            those of one of `cycles` cycles.
        shares: of units that take part in the end, in percent.
        controls: whether the arms that the paper lacks, and its interventions, are run; at the share `focus`.
    """

    name: str
    net: Net
    widths: tuple[int, ...]
    data: str
    images: tuple[int | None, int | None]
    shrink: int
    epochs: float
    learning_rate: float
    shares: tuple[int, ...]
    controls: bool
    focus: int = 50
    cycles: int = 5
    batch_size: int = 32
    looks: int = 2

    @property
    def group(self) -> str:
        """For heads of tables."""
        return f"{self.name} on {self.data}"


@dataclass(frozen=True)
class Size(Scale):
    """All benches of a scale.

    Attributes:
        benches: the net without a trunk first, then those with one.
        decisive_seeds: runs of the arms by which the project's own answer is judged: early division, and the paper's
            Grow and Prune on benches with controls.
        control_seeds: runs of arms that are no part of the paper's main comparison.
        device: where nets train.
    """

    benches: tuple[Bench, ...]
    decisive_seeds: int
    control_seeds: int
    device: str = "cpu"


MLP, CONV = (256, 256), (512, 512, 256)

SCALES = {
    "smoke": Size(
        seeds=2,
        benches=(
            Bench("MLP", "mlp", (16, 16), "digits", (128, 100), 1, 1, 0.05, (50,), False, cycles=3),
            Bench("Conv", "conv", (16, 16, 12), "digits", (128, 100), 1, 1, 0.05, (50,), True, cycles=3),
        ),
        decisive_seeds=2,
        control_seeds=2,
    ),
    "cpu": Size(
        seeds=10,
        benches=(
            Bench("MLP", "mlp", MLP, "mnist", (5000, 2000), 1, 4, 0.02, (20, 30, 40, 50), False),
            Bench("Conv", "conv", CONV, "cifar10", (3000, 2000), 2, 3, 0.02, (20, 50), True),
        ),
        decisive_seeds=20,
        control_seeds=4,
    ),
    "full": Size(
        seeds=10,
        benches=(
            Bench("MLP", "mlp", MLP, "mnist", (None, None), 1, 20, 0.01, (20, 30, 40, 50), False, batch_size=128),
            Bench("Conv", "conv", CONV, "cifar10", (None, None), 1, 40, 0.01, (20, 30, 40, 50), True, batch_size=128),
            Bench("C100", "conv", CONV, "cifar100", (None, None), 1, 40, 0.01, (20, 30, 40, 50), True, batch_size=128),
        ),
        decisive_seeds=20,
        control_seeds=10,
        device="cuda",
    ),
}
"""`cpu`: the first images of each data set, CIFAR's averaged to 16 x 16 pixels. `full`: the paper's lengths.
The decisive arms had 10 seeds at first; the claim about early division to half was undecided then, with 19 needed."""
