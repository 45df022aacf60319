"""What is compared: the paper's protocol by masks, controls that it lacks, its interventions, and real insertion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from meristem.study.studies.stability.budgets import early_like_grown, early_like_pruned, pruned_like_grown
from meristem.study.studies.stability.early import Early
from meristem.study.studies.stability.experiment import Cycles
from meristem.study.studies.stability.inserted import Insert, Remove
from meristem.study.studies.stability.masked import Dense, Grow, Prune
from meristem.study.studies.stability.settings import Bench, Size
from meristem.study.studies.stability.turnover import Way
from meristem.study.study import Arm

PRUNED_LIKE_GROWN = "Prune, unit-epochs of Grow"
EARLY_LIKE_GROWN = "Early division, unit-epochs of Grow"
EARLY_LIKE_PRUNED = "Early division, operations of Prune"
"""Arms of an equal budget."""


def arms(size: Size) -> Sequence[Arm]:
    """All arms of a scale, bench by bench."""
    parts = (_protocol, _real, _further)
    return [arm for bench in size.benches for part in parts for arm in part(size, bench)]


def main(size: Size) -> list[str]:
    """The names of those that the study is about: what figures show first."""
    focused = [(bench, bench.focus) for bench in size.benches]
    ours = [early(*each) for each in focused] + [further(b, EARLY_LIKE_GROWN) for b in size.benches]
    papers = [name(*each) for name in (grow, prune) for each in focused]
    return [*ours, *papers, *(name(bench) for name in (insert, remove, dense) for bench in size.benches)]


def dense(bench: Bench) -> str:
    """The name of the arm without turnover."""
    return f"{bench.name} Dense"


def grow(bench: Bench, share: int) -> str:
    """The name of masked growth."""
    return f"{bench.name} Grow {share} %"


def prune(bench: Bench, share: int) -> str:
    """The name of masked pruning."""
    return f"{bench.name} Prune {share} %"


def insert(bench: Bench) -> str:
    """The name of growth by real insertion of random units."""
    return further(bench, "Insert at random")


def remove(bench: Bench) -> str:
    """The name of pruning by real removal."""
    return further(bench, "Remove")


def further(bench: Bench, what: str) -> str:
    """The name of a control or an intervention."""
    return f"{bench.name} {what}"


def early(bench: Bench, share: int) -> str:
    """The name of meristem's own way."""
    return f"{bench.name} Early division {share} %"


def lengths(bench: Bench) -> tuple[int, ...]:
    """Numbers of cycles into which the same number of epochs is divided."""
    return bench.cycles, 2 * bench.cycles, 4 * bench.cycles


def _protocol(size: Size, bench: Bench) -> Iterator[Arm]:
    """The paper's own arms."""
    yield _arm(size, bench, dense(bench), "all units take part, always", Dense())
    for share in bench.shares:
        seeds = _seeds(size, bench, share)
        again = {"retrain": bench.fresh_epochs if share == bench.focus else 0}
        start = f"masked: from 10 % of the units to {share} %, those that would be active most often; no rewind"
        yield _arm(size, bench, grow(bench, share), start, Grow(share=share / 100), seeds, **again)
        end = f"masked: from all units to {share} %, by magnitude; survivors are rewound after each cycle"
        yield _arm(size, bench, prune(bench, share), end, Prune(share=share / 100), seeds, **again)


def _seeds(size: Size, bench: Bench, share: int) -> int | None:
    """Of the paper's own arms: more where they are what early division is judged by, fewer where they say the same."""
    if bench.controls:
        return size.decisive_seeds if share == bench.focus else None
    return None if share in (bench.focus, min(bench.shares)) else size.control_seeds


def _real(size: Size, bench: Bench) -> Iterator[Arm]:
    """The same protocol without masks: units are really removed and inserted."""
    share, seeds = bench.focus / 100, size.decisive_seeds if bench.controls else None
    words = "real insertion, fan-in and fan-out at random, of incumbents' norm"
    yield _arm(size, bench, insert(bench), words, Insert(share=share, method="Random"), seeds)
    yield _arm(size, bench, remove(bench), "as Prune, units are really removed", Remove(share=share), seeds)


def _further(size: Size, bench: Bench) -> Iterator[Arm]:
    """Controls, interventions, and other ways of insertion."""
    if not bench.controls:
        return
    share, seeds = bench.focus / 100, size.control_seeds

    def arm(what: str, description: str, way: Way, **changes: Any) -> Arm:
        return _arm(size, bench, further(bench, what), description, way, seeds, **changes)

    yield arm("Dense + rewind", "hidden layers are rewound after each cycle", Dense(rewind=True))
    yield arm("Grow + rewind", "as Grow, with the rewind of Prune", _grow(bench, rewind=True))
    yield arm("Prune, no rewind", "as Prune, survivors keep their weights", _prune(bench, rewind=False))
    fewer = f"as Prune, with {pruned_like_grown(bench):.3g} epochs a cycle: as many unit-epochs as Grow"
    name = further(bench, PRUNED_LIKE_GROWN)
    yield _arm(size, bench, name, fewer, _prune(bench), size.decisive_seeds, epochs=pruned_like_grown(bench))
    yield arm(
        "Grow, by gradient", "as Grow, those whose fan-in would get most gradient", _grow(bench, select="gradient")
    )
    for cycles in lengths(bench)[1:]:
        epochs = bench.epochs * bench.cycles / cycles
        yield arm(
            f"Grow, {cycles} cycles", "as Grow, in more and shorter cycles", _grow(bench), cycles=cycles, epochs=epochs
        )
    yield arm("Grow, leaky", "as Grow, with Leaky-ReLU (0.1)", _grow(bench), activation="leaky")
    yield arm("Prune, leaky", "as Prune, with Leaky-ReLU (0.1)", _prune(bench), activation="leaky")
    yield arm("Grow, RSL", "as Grow, with Randomized Smooth-Leaky", _grow(bench), activation="rsl")
    yield from _ours(size, bench)
    random: dict[str, Any] = {"share": share, "method": "Random"}
    faster = "as Insert at random, newborns learn 5 times as fast at first"
    yield arm("Insert, two speeds", faster, Insert(**random, help="two speed"))
    carried = "as Insert at random, with a donor's momentum"
    yield arm("Insert, donor momentum", carried, Insert(**random, help="donor moments"))
    yield arm("Insert, unread", "real insertion, nothing reads newborns yet (ZeroFanOut)", Insert(share=share))
    yield arm("Insert copies", "real insertion of copies (Net2Wider)", Insert(share=share, method="Net2Wider"))


def _ours(size: Size, bench: Bench) -> Iterator[Arm]:
    """meristem's own answer, and what shows which part of it does what."""
    share = bench.focus / 100
    words = "real insertion: the busiest units divide (Mitosis), a few at a time in the first 30 % of the training"
    for each in bench.shares:
        yield _arm(size, bench, early(bench, each), words, Early(share=each / 100), _seeds(size, bench, each))
    for what, epochs, budget in (
        (EARLY_LIKE_GROWN, early_like_grown(bench), "unit-epochs as Grow"),
        (EARLY_LIKE_PRUNED, early_like_pruned(bench), "operations as Prune executes under masks"),
    ):
        again = f"as Early division, with {epochs:.3g} epochs a cycle: as many {budget}"
        name = further(bench, what)
        yield _arm(size, bench, name, again, Early(share=share), size.decisive_seeds, epochs=epochs)
    name = further(bench, "Insert, dividing")
    yield _arm(
        size, bench, name, "the busiest units divide (Mitosis), between cycles", Insert(share=share, method="Mitosis")
    )
    for method, what in (("ZeroFanOut", "unread"), ("Random", "at random")):
        name = further(bench, f"Early, {what}")
        yield _arm(size, bench, name, f"as early, by {method}", Early(share=share, method=method), size.control_seeds)


def _grow(bench: Bench, **changes: Any) -> Grow:
    return Grow(share=bench.focus / 100, **changes)


def _prune(bench: Bench, **changes: Any) -> Prune:
    return Prune(share=bench.focus / 100, **changes)


def _arm(
    size: Size, bench: Bench, name: str, description: str, way: Way, seeds: int | None = None, **changes: Any
) -> Arm:
    copied = ("net", "widths", "data", "images", "shrink", "epochs", "learning_rate", "cycles", "batch_size", "looks")
    settings = {key: getattr(bench, key) for key in copied}
    config = Cycles(**{**settings, "way": way, "device": size.device, **changes})
    return Arm(name, description, config, bench.group, seeds)
