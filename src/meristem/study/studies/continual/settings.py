"""How large the study is: streams, nets and lengths of its scales."""

from __future__ import annotations

from dataclasses import dataclass

from meristem.study.studies.continual.nets import Net
from meristem.study.studies.continual.streams import Kind
from meristem.study.study import Scale


@dataclass(frozen=True)
class Bench:
    """A stream on a data set, and the net that learns it.

    Attributes:
        name: short, for the names of arms.
        data, stream, images, pool, shrink, net, widths, tasks, steps, batch_size, learning_rate: see
            `experiment.Lifelong`.
        controls: whether arms that only explain others are run, too.
        rate: of Continual Backprop, and of ours.
        period: optimizer steps between the replacements of ReDo.
        tau: its threshold.
    """

    name: str
    data: str
    stream: Kind
    images: int
    pool: int | None
    shrink: int
    tasks: int
    steps: int
    learning_rate: float
    controls: bool = False
    net: Net = "mlp"
    widths: tuple[int, ...] = (64, 64)
    batch_size: int = 16
    rate: float = 1e-3
    period: int = 100
    tau: float = 0.1

    @property
    def group(self) -> str:
        """For heads of tables."""
        return f"{self.stream} on {self.data}"


@dataclass(frozen=True)
class Size(Scale):
    """All benches of a scale.

    Attributes:
        benches: streams.
        device: where nets train.
    """

    benches: tuple[Bench, ...]
    device: str = "cpu"


def _full(
    name: str,
    data: str,
    stream: Kind,
    images: int,
    tasks: int,
    steps: int,
    net: Net = "mlp",
    controls: bool = False,
    batch_size: int = 16,
) -> Bench:
    """The papers' lengths."""
    widths = (100, 100) if net == "mlp" else (16, 16, 100, 100)
    return Bench(
        name,
        data,
        stream,
        images,
        None,
        1,
        tasks,
        steps,
        0.001,
        controls,
        net,
        widths,
        batch_size,
        rate=1e-4,
        period=1000,
        tau=0.025,
    )


SCALES = {
    "smoke": Size(
        seeds=2,
        benches=(
            Bench("RL", "digits", "random labels", 64, 200, 1, 3, 24, 0.01, True, widths=(12, 10), period=12),
            Bench("Conv", "digits", "5+1", 64, None, 1, 2, 12, 0.01, net="conv", widths=(4, 4, 8), period=12),
        ),
    ),
    "cpu": Size(
        seeds=5,
        benches=(
            Bench("RL-MNIST", "mnist", "random labels", 320, 2000, 2, 8, 400, 0.003, True),
            Bench("RL-CIFAR", "cifar10", "random labels", 320, 2000, 2, 8, 400, 0.003),
            Bench("Perm-MNIST", "mnist", "permuted pixels", 1600, 2000, 2, 30, 100, 0.01),
            Bench("LP-CIFAR", "cifar10", "permuted labels", 800, 4000, 2, 16, 150, 0.01),
            Bench("5+1", "cifar100", "5+1", 500, None, 2, 20, 120, 0.01),
            Bench("Binary", "cifar100", "binary", 200, None, 2, 25, 100, 0.015),
        ),
    ),
    "full": Size(
        seeds=5,
        benches=(
            _full("RL-MNIST", "mnist", "random labels", 1200, 50, 30_000, controls=True),
            _full("RL-CIFAR", "cifar10", "random labels", 1200, 50, 30_000, "conv", controls=True),
            _full("Perm-MNIST", "mnist", "permuted pixels", 10_000, 500, 625, controls=True),
            _full("LP-CIFAR", "cifar10", "permuted labels", 2500, 400, 156, "conv"),
            _full("5+1", "cifar100", "5+1", 2500, 30, 780, "conv", batch_size=32),
            _full("Binary", "cifar100", "binary", 1000, 500, 120, "conv", batch_size=100),
        ),
        device="cuda",
    ),
}
"""`cpu`: images averaged to half their width, tasks so short and rates so large that plasticity is lost soon. `full`:
the lengths of arXiv 2308.11958 (label permutations: of arXiv 2404.00781, in batches of 16)."""
