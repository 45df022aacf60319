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
        shape: channels, height and width of the images that the net sees, and `classes`: how many it tells apart.
        shares: of units that take part in the end, in percent.
        controls: whether the arms that the paper lacks, and its interventions, are run; at the share `focus`.
        fresh_epochs: for which nets are trained anew under the final masks, in all.
    """

    name: str
    net: Net
    widths: tuple[int, ...]
    data: str
    images: tuple[int | None, int | None]
    shrink: int
    shape: tuple[int, int, int]
    epochs: float
    learning_rate: float
    shares: tuple[int, ...]
    controls: bool
    fresh_epochs: float
    focus: int = 50
    cycles: int = 5
    batch_size: int = 32
    looks: int = 2
    classes: int = 10

    @property
    def group(self) -> str:
        """For heads of tables."""
        return f"{self.name} on {self.data}"


@dataclass(frozen=True)
class Size(Scale):
    """All benches of a scale.

    Attributes:
        benches: the net without a trunk first, then those with one.
        decisive_seeds: runs of the arms by which the project's own answer is judged: early division to the share
            `focus`, at every budget, and what it is compared with, on benches with controls.
        control_seeds: runs of arms that are no part of a main comparison, and of the paper's own arms at shares other
            than `focus` in the net without a trunk.
        device: where nets train.
    """

    benches: tuple[Bench, ...]
    decisive_seeds: int
    control_seeds: int
    device: str = "cpu"


MLP, CONV = (256, 256), (512, 512, 256)
TABLE = (20, 30, 40, 50)


def _smoke(name: str, net: Net, widths: tuple[int, ...], controls: bool, fresh: float) -> Bench:
    images = ("digits", (128, 100), 1, (1, 8, 8))
    return Bench(name, net, widths, *images, 1, 0.05, (50,), controls, fresh, cycles=3)


def _full(name: str, data: str, shape: tuple[int, int, int], classes: int = 10) -> Bench:
    images = (data, (None, None), 1, shape)
    if data == "mnist":
        return Bench(name, "mlp", MLP, *images, 20, 0.01, TABLE, False, 100, batch_size=128)
    return Bench(name, "conv", CONV, *images, 40, 0.01, TABLE, True, 100, batch_size=128, classes=classes)


SCALES = {
    "smoke": Size(
        seeds=2,
        benches=(_smoke("MLP", "mlp", (16, 16), False, 3), _smoke("Conv", "conv", (16, 16, 12), True, 1.5)),
        decisive_seeds=2,
        control_seeds=2,
    ),
    "cpu": Size(
        seeds=10,
        benches=(
            Bench("MLP", "mlp", MLP, "mnist", (5000, 2000), 1, (1, 28, 28), 4, 0.02, TABLE, False, 20, looks=1),
            Bench("Conv", "conv", CONV, "cifar10", (3000, 2000), 2, (3, 16, 16), 3, 0.02, (20, 50), True, 7.5, looks=1),
        ),
        decisive_seeds=20,
        control_seeds=4,
    ),
    "full": Size(
        seeds=10,
        benches=(
            _full("MLP", "mnist", (1, 28, 28)),
            _full("Conv", "cifar10", (3, 32, 32)),
            _full("C100", "cifar100", (3, 32, 32), classes=100),
        ),
        decisive_seeds=20,
        control_seeds=10,
        device="cuda",
    ),
}
"""`cpu`: the first images of each data set, CIFAR's averaged to 16 x 16 pixels. `full`: the paper's lengths. Nets are
trained anew for as long as they were trained (MNIST), or half as long (CIFAR), as in the paper: 100 epochs."""
