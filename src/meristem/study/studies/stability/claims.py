"""What the paper says, and what its controls would say, as tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from meristem.study.claim import Claim, Test
from meristem.study.comparisons import Above, Below, Equivalent, Greater
from meristem.study.ranks import Correlated, Trend
from meristem.study.studies.bottleneck.comparisons import NotWorse
from meristem.study.studies.stability.arms import (
    EARLY_LIKE_GROWN,
    EARLY_LIKE_PRUNED,
    PRUNED_LIKE_GROWN,
    arms,
    dense,
    early,
    further,
    grow,
    insert,
    lengths,
    prune,
    remove,
)
from meristem.study.studies.stability.early import Early
from meristem.study.studies.stability.experiment import Cycles
from meristem.study.studies.stability.inserted import Insert
from meristem.study.studies.stability.masked import Grow
from meristem.study.studies.stability.metrics import SETTLED
from meristem.study.studies.stability.settings import Bench, Size

POINT = 0.01
"""One point of accuracy: the smallest difference that matters here."""

PARITY = 0.05
"""The smallest distance of a parity from 1 that matters here."""

OURS = "not in the paper"


def claims(size: Size) -> Sequence[Claim]:
    """All of a scale."""
    mlp, *trunks = size.benches
    found = [*_without_trunk(mlp), *map(_removal, size.benches)]
    for bench in trunks:
        found += [*_starvation(mlp, bench), *_accuracy(bench), *_interventions(size, bench), *_controls(bench)]
        found += _answer(bench)
    return found


def _without_trunk(mlp: Bench) -> Iterator[Claim]:
    same = [Equivalent("cycle accuracy", grow(mlp, c), prune(mlp, c), POINT) for c in mlp.shares]
    yield Claim("In an MLP growth and pruning end alike.", same, "Table: MLP")
    really = Equivalent("cycle accuracy", insert(mlp), remove(mlp), POINT)
    yield Claim("In an MLP real insertion and real removal end alike, too.", [really], OURS)
    anew = Equivalent("WT accuracy", grow(mlp, mlp.focus), prune(mlp, mlp.focus), POINT)
    yield Claim("MLPs trained anew under the final masks do not differ.", [anew], "Table: MLP")


def _removal(bench: Bench) -> Claim:
    masked, real = prune(bench, bench.focus), remove(bench)
    test = Equivalent("cycle accuracy", real, masked, POINT)
    return Claim(f"{bench.group}: real removal gives what masks give.", [test], OURS)


def _starvation(mlp: Bench, bench: Bench) -> Iterator[Claim]:
    grown = [grow(bench, share) for share in bench.shares]
    yield Claim(
        f"{bench.group}: newborns are as active as incumbents.",
        [Above("R_act early", arm, 1.0 - PARITY) for arm in grown],
        "forward-active: log R_act at least about 0",
    )
    yield Claim(
        f"{bench.group}: newborns get less gradient than incumbents, to the end of their cycle.",
        [Below(f"R_grad {when}", arm, 1.0, PARITY) for arm in grown for when in ("early", "late")],
        "backward-starved: log R_grad far below 0",
    )
    yield Claim(
        f"{bench.group}: the starvation is worse than in an MLP.",
        [
            test
            for share in bench.shares
            if share in mlp.shares
            for test in _more_starved(grow(bench, share), grow(mlp, share))
        ],
        "minor in the MLP, clear with a trunk",
    )
    yield Claim(
        f"{bench.group}: with real insertion the starvation is worse than in an MLP.",
        list(_more_starved(insert(bench), insert(mlp))),
        OURS,
    )


def _more_starved(arm: str, other: str) -> Iterator[Test]:
    """At the end of the cycle in which newborns were born, over their whole life, and at the worst look."""
    for when in ("late", "settled, cohorts", "least, cohorts"):
        yield Greater(f"R_grad {when}", other, arm, PARITY, paired=False)


def _accuracy(bench: Bench) -> Iterator[Claim]:
    pairs = [(grow(bench, share), prune(bench, share)) for share in bench.shares]
    yield Claim(
        f"{bench.group}: growth ends with the higher accuracy.",
        [Greater("cycle accuracy", grown, pruned, POINT) for grown, pruned in pairs],
        "Table: Cycle ACC",
    )
    yield Claim(
        f"{bench.group}: pruning has the higher accuracy on average over the cycles.",
        [Greater("TAA", pruned, grown, POINT) for grown, pruned in pairs],
        "Table: TAA",
    )
    yield Claim(
        f"{bench.group}: nets trained anew under the final masks do not differ.",
        [Equivalent("WT accuracy", grow(bench, bench.focus), prune(bench, bench.focus), POINT)],
        "Table: WT ACC; units of freshly initialized nets are exchangeable, so it could hardly be otherwise",
    )


def _interventions(size: Size, bench: Bench) -> Iterator[Claim]:
    if not bench.controls:
        return
    base, pruned = grow(bench, bench.focus), prune(bench, bench.focus)
    selected = further(bench, "Grow, by gradient")
    yield Claim(
        f"{bench.group}: choosing newborns by gradient does not help, and leaves them starved.",
        [
            Equivalent("cycle accuracy", selected, base, POINT),
            Equivalent("TAA", selected, base, POINT),
            Below("R_grad late", selected, 1.0, PARITY),
        ],
        "insertion, not selection, is the bottleneck",
    )
    births = tuple(_births(size, bench))
    yield Claim(
        f"{bench.group}: the more gradient newborns soon get in an arm, the higher its accuracy over the cycles.",
        [Correlated("R_grad early", "TAA", births), Correlated("R_act early", "TAA", births)],
        "Spearman .88 for gradient parity, .83 for activation parity",
    )
    over = {base: float(bench.cycles)} | {further(bench, f"Grow, {k} cycles"): float(k) for k in lengths(bench)[1:]}
    yield Claim(
        f"{bench.group}: more growth cycles in the same time lower the accuracy on the way.",
        [Trend("accuracy at fifths", over, "negative")],
        "K = 5, 10, 20, by TAA; which is taken at other moments then, so here at the same five",
    )
    weak = ("Insert, two speeds", "Insert, donor momentum", "Insert copies")
    yield Claim(
        f"{bench.group}: Two-Speed, moment transplant and Net2Wider leave growth behind pruning.",
        [Greater("TAA", pruned, further(bench, arm), POINT) for arm in weak],
        "weak interventions",
    )
    smooth = further(bench, "Grow, RSL")
    yield Claim(f"{bench.group}: RSL helps growth.", [Greater("TAA", smooth, base, POINT)], "best by far")


def _births(size: Size, bench: Bench) -> Iterator[str]:
    """The arms of a bench that have newborns, and the cycles and the activation function of the others."""
    for arm in arms(size):
        assert isinstance(arm.config, Cycles)
        alike = (arm.config.cycles, arm.config.epochs, arm.config.activation) == (bench.cycles, bench.epochs, "relu")
        if arm.group == bench.group and alike and isinstance(arm.config.way, (Grow, Insert, Early)):
            yield arm.name


def _controls(bench: Bench) -> Iterator[Claim]:
    if not bench.controls:
        return
    base, pruned = grow(bench, bench.focus), prune(bench, bench.focus)

    def ours(sentence: str, *tests: Test) -> Claim:
        return Claim(f"{bench.group}: {sentence}", tests, OURS)

    yield ours(
        "pruning leads over the cycles without the rewind, too.",
        Greater("TAA", further(bench, "Prune, no rewind"), base, POINT),
    )
    yield ours(
        "pruning leads over growth that is rewound as well.",
        Greater("TAA", pruned, further(bench, "Grow + rewind"), POINT),
    )
    yield ours(
        "a rewind alone costs a net without turnover accuracy.",
        Greater("cycle accuracy", dense(bench), further(bench, "Dense + rewind"), POINT),
    )
    yield ours(
        "pruning leads over the cycles when it is cut to the unit-epochs of growth, too.",
        Greater("TAA", further(bench, PRUNED_LIKE_GROWN), base, POINT),
    )
    yield ours(
        "pruning leads over the cycles with Leaky-ReLU, too.",
        Greater("TAA", further(bench, "Prune, leaky"), further(bench, "Grow, leaky"), POINT),
    )
    yield ours(
        "really inserted newborns that nothing reads yet are starved even more.",
        Greater("R_grad late", base, further(bench, "Insert, unread"), PARITY),
    )


def _parity(arm: str, what: str) -> Iterator[Test]:
    """Medians over newborns of at least this age, over all looks and at the worst of them."""
    for ratio in ("R_act", "R_grad"):
        for when in ("settled", "least"):
            yield Above(f"{ratio} {when}, {what}", arm, 0.9)


def _answer(bench: Bench) -> Iterator[Claim]:
    """What meristem's own way shall do."""
    if not bench.controls:
        return
    fewer, more = further(bench, EARLY_LIKE_GROWN), further(bench, EARLY_LIKE_PRUNED)
    dividing = (*(early(bench, share) for share in bench.shares), further(bench, "Insert, dividing"))

    def ours(sentence: str, *tests: Test) -> Claim:
        return Claim(f"{bench.group}: {sentence}", tests, "meristem")

    yield ours(
        "newborns that divide are as active as incumbents and get as much gradient, in the median over cohorts, from "
        f"{SETTLED} steps after their birth on.",
        *(test for arm in dividing for test in _parity(arm, "cohorts")),
    )
    yield ours("so it is where they have fewer epochs, at the unit-epochs of growth.", *_parity(fewer, "cohorts"))
    yield ours(
        "so it is in the median over newborn units, too.",
        *(test for arm in (*dividing, fewer) for test in _parity(arm, "units")),
    )
    for share in bench.shares:
        arm, pruned, grown = early(bench, share), prune(bench, share), grow(bench, share)
        yield ours(
            f"early division to {share} % has at least the accuracy of pruning over the cycles and ends with at least "
            "that of growth, to a point, in as many epochs.",
            *_at_least((arm, pruned), (arm, grown)),
        )
        yield ours(f"early division to {share} % is ahead of both.", *_ahead((arm, pruned), (arm, grown)))
    pruned, grown = prune(bench, bench.focus), grow(bench, bench.focus)
    yield from _equal(ours, "at no more unit-epochs than each of them has", (more, pruned), (fewer, grown))
    yield from _equal(
        ours, "at the unit-epochs of growth, against pruning with all of its own", (fewer, pruned), (fewer, grown)
    )
    yield from _equal(ours, "at the operations that masked pruning and growth execute", (more, pruned), (more, grown))
    arm, removed, inserted = early(bench, bench.focus), remove(bench), insert(bench)
    yield ours(
        "against real removal and real insertion, too, early division has at least the accuracy of pruning over the "
        "cycles and ends with at least that of growth, to a point.",
        *_at_least((arm, removed), (fewer, inserted)),
    )
    yield ours(
        "early growth alone is not enough, newborns must divide.",
        *(Greater("TAA", arm, further(bench, f"Early, {what}"), POINT) for what in ("unread", "at random")),
    )


def _equal(ours: Callable[..., Claim], budget: str, over: tuple[str, str], end: tuple[str, str]) -> Iterator[Claim]:
    yield ours(
        f"{budget}, early division has at least the accuracy of pruning over the cycles and ends with at least that of "
        "growth, to a point.",
        *_at_least(over, end),
    )
    yield ours(f"{budget}, early division is ahead of both.", *_ahead(over, end))


def _at_least(over: tuple[str, str], end: tuple[str, str]) -> tuple[Test, Test]:
    """Not worse by a point: the first arm of each pair, over the cycles and at the end."""
    return NotWorse("TAA", *over, POINT), NotWorse("cycle accuracy", *end, POINT)


def _ahead(over: tuple[str, str], end: tuple[str, str]) -> tuple[Test, Test]:
    return Greater("TAA", *over, POINT), Greater("cycle accuracy", *end, POINT)
