"""Where the exchange wins and where it loses, as tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meristem.study.claim import Claim
from meristem.study.comparisons import Below, Greater
from meristem.study.studies.exchange.arms import WAYS, Bench, Size, named

POINT = 0.005
"""Half a point of accuracy: the smallest difference that matters here."""

RIVALS = ("Small", "Prune", "Grow", "Grow, then prune", "Turnover")

SIZED = (None, "replace", "static", "rigl")
"""Ways whose operations follow from their settings, so that there is nothing to test."""

COUNTED = (
    ("Exchange, counted", "Small", "constant"),
    ("Exchange, shrinking, counted", "Prune", "falling"),
    ("Exchange, growing, counted", "Grow", "rising"),
)
"""Arms whose edits are paid for with steps, whose cost they are not to exceed, and their budget."""


def claims(size: Size) -> Sequence[Claim]:
    """All of a scale."""
    return [claim for bench in size.benches for claim in _claims(bench)]


def _claims(bench: Bench) -> Iterator[Claim]:
    def better(winner: str, loser: str) -> Greater:
        return Greater("final accuracy", named(bench, winner), named(bench, loser), POINT)

    for rival in RIVALS:
        yield Claim(
            f"{bench.name}: the exchange at constant operations is better than {rival.lower()}.",
            [better("Exchange", rival)],
        )
    yield Claim(
        f"{bench.name}: the exchange is better than a net of twice the operations that is trained half as long.",
        [better("Exchange", "Large")],
    )
    yield Claim(
        f"{bench.name}: under a falling budget the exchange is better than pruning alone.",
        [better("Exchange, shrinking", "Prune")],
    )
    yield Claim(
        f"{bench.name}: under a rising budget the exchange is better than growth alone.",
        [better("Exchange, growing", "Grow")],
    )
    for rival in RIVALS:
        yield Claim(
            f"{bench.name}: the exchange is better than {rival.lower()} also where its edits are paid for with steps.",
            [better("Exchange, counted", rival)],
        )
    for name, rival, budget in COUNTED[1:]:
        yield Claim(
            f"{bench.name}: under a {budget} budget, its edits paid for, it is better than {rival.lower()} alone.",
            [better(name, rival)],
        )
    yield Claim(
        f"{bench.name}: where edits are paid for, an exchange costs no more operations in all than what it is held "
        "against.",
        [Greater("flops", named(bench, rival), named(bench, name)) for name, rival, _ in COUNTED],
    )
    yield Claim(
        f"{bench.name}: the exchange repairs ill proportions; turnover within layers cannot.",
        [better("Odd, exchange", "Odd"), better("Odd, exchange", "Odd, turnover")],
    )
    yield Claim(
        f"{bench.name}: with weights in the ledger the exchange is better than sparse training of constant or rewired "
        "masks.",
        [better("Exchange, weights too", "Sparse"), better("Exchange, weights too", "RigL")],
    )
    yield Claim(
        f"{bench.name}: nets whose size changes end within the budget, and cost at most 5 % more than the fixed net to "
        "train, their edits not counted.",
        [
            Below(metric, named(bench, name), level)
            for name, _, settings in WAYS
            if settings.get("way") not in SIZED
            for metric, level in (("final operations", 1.001), ("training operations", 1.05))
        ],
    )
