"""What is compared: plain learning, remedies, turnover, growth and pruning, and their controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from meristem.study.studies.continual.experiment import Lifelong
from meristem.study.studies.continual.learner import Way
from meristem.study.studies.continual.resized import Elastic, Growing, Pruned
from meristem.study.studies.continual.settings import Bench, Size
from meristem.study.studies.continual.still import Backprop, Perturbed, Protected, Pulled
from meristem.study.studies.continual.turnover import ContinualBackprop, Recycled, Renewed
from meristem.study.study import Arm


def arms(size: Size) -> Sequence[Arm]:
    """All arms of a scale, bench by bench."""
    return [arm for bench in size.benches for arm in _bench(size, bench)]


def named(bench: Bench, what: str) -> str:
    """The name of an arm."""
    return f"{bench.name} {what}"


def _bench(size: Size, bench: Bench) -> Iterator[Arm]:
    yield from _main(size, bench)
    yield from _remedies(size, bench)
    if bench.controls:
        yield from _controls(size, bench)


def _main(size: Size, bench: Bench) -> Iterator[Arm]:
    arm = _Maker(size, bench)
    yield arm("BP", "backpropagation with Adam, ReLU", Backprop())
    yield arm("Reset", "all weights drawn anew, Adam too, where a task begins", Backprop(reset=True))
    yield arm("leaky", "BP with Leaky-ReLU (0.1)", Backprop(), activation="leaky")
    yield arm("CReLU", "BP with CReLU", Backprop(), activation="crelu")
    yield arm("L2-init", "pulled to the initial weights", Pulled())
    yield arm("CBP", "Continual Backprop", _cbp(bench))
    yield arm("Prune", "from all units to half, by magnitude; survivors are rewound where a task begins", Pruned())
    yield arm("Grow", "from 20 % of the units to all, inserted at random where a task begins", Growing())
    yield arm("Elastic", "from 50 % of the units: the dead leave, random ones come where a task begins", Elastic())
    yield arm("Ours", "all along dormant units leave and fresh ones come; L2-init", Renewed())


def _remedies(size: Size, bench: Bench) -> Iterator[Arm]:
    arm = _Maker(size, bench)
    yield arm("S&P", "shrink and perturb, with fresh draws", Perturbed())
    yield arm("Smooth-Leaky", "BP with Smooth-Leaky", Backprop(), activation="smooth leaky")
    yield arm("ReDo", "dormant units begin anew", Recycled(tau=bench.tau, every=bench.period))
    yield arm("UPGD", "utility-based perturbed gradient descent, without Adam", Protected())


def _controls(size: Size, bench: Bench) -> Iterator[Arm]:
    arm = _Maker(size, bench)
    yield arm("Prune, no rewind", "as Prune, survivors keep their weights", Pruned(rewind=False))
    yield arm("Grow + rewind", "as Grow, with the rewind of Prune", Growing(rewind=True))
    yield arm("Elastic, keep the dead", "as Elastic, nobody leaves", Elastic(prune=False))
    yield arm("Ours, dividing", "as Ours, the busiest divide instead (Mitosis)", Renewed(method="mitosis"))
    yield arm("Ours, from small", "as Ours, from 50 % of the units", Renewed(start=0.5, births=0.2))
    leaky = {"activation": "leaky"}
    yield arm("Reset, leaky", "as Reset, with Leaky-ReLU", Backprop(reset=True), **leaky)
    yield arm("CBP, leaky", "as CBP, with Leaky-ReLU", _cbp(bench), **leaky)
    yield arm("Prune, leaky", "as Prune, with Leaky-ReLU", Pruned(), **leaky)
    yield arm("Grow, leaky", "as Grow, with Leaky-ReLU", Growing(), **leaky)
    yield arm("Ours, leaky", "as Ours, with Leaky-ReLU", Renewed(), **leaky)


def _cbp(bench: Bench) -> ContinualBackprop:
    return ContinualBackprop(rate=bench.rate)


class _Maker:
    """Makes the arms of one bench."""

    def __init__(self, size: Size, bench: Bench) -> None:
        self._device, self._bench = size.device, bench

    def __call__(self, what: str, description: str, way: Way, **changes: Any) -> Arm:
        bench = self._bench
        copied = ("data", "stream", "images", "pool", "shrink", "net", "widths", "tasks", "steps")
        settings = {key: getattr(bench, key) for key in (*copied, "batch_size", "learning_rate")}
        config = Lifelong(**{**settings, "way": way, "device": self._device, **changes})
        return Arm(named(bench, what), description, config, bench.group)
