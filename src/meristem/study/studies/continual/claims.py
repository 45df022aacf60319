"""What the papers say, and what their controls would say, as tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meristem.study.claim import Claim, Test
from meristem.study.comparisons import Above, Equivalent, Greater
from meristem.study.studies.continual.arms import named
from meristem.study.studies.continual.settings import Bench, Size

POINTS = 0.02
"""Two points of accuracy: the smallest difference that matters here."""

FEW = 0.01
"""The smallest rise of a share of units that matters here."""

OURS = "not in the papers"

REMEDIES = {
    "S&P": "arXiv 1910.08475",
    "ReDo": "arXiv 2302.12902",
    "UPGD": "arXiv 2404.00781",
    "Smooth-Leaky": "arXiv 2509.22562",
}

LOSS, ONLINE, LATE = "loss of plasticity", "online accuracy", "late accuracy"


def claims(size: Size) -> Sequence[Claim]:
    """All of a scale."""
    found: list[Claim] = []
    for bench in size.benches:
        found += [*_everywhere(bench), *(_in_depth(bench) if bench.controls else ())]
    return found


class _About:
    """Sentences about one bench."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def arm(self, what: str) -> str:
        return named(self._bench, what)

    def claim(self, sentence: str, source: str, *tests: Test) -> Claim:
        return Claim(f"{self._bench.group}: {sentence}", tests, source)

    def more(self, metric: str, first: str, second: str, margin: float = POINTS, against: str = "") -> Greater:
        return Greater(metric, self.arm(first), self.arm(second), margin, against=against)


def _everywhere(bench: Bench) -> Iterator[Claim]:
    about = _About(bench)
    claim, more = about.claim, about.more
    yield claim(
        "backpropagation loses plasticity.",
        "arXiv 2306.13812, 2308.11958",
        Above(LOSS, about.arm("BP"), 0.0, POINTS),
    )
    yield claim("Continual Backprop loses less of it.", "arXiv 2306.13812", more(LOSS, "BP", "CBP"))
    yield claim("L2-init loses less of it.", "arXiv 2308.11958", more(LOSS, "BP", "L2-init"))
    yield claim("CReLU loses less of it.", "arXiv 2303.07507", more(LOSS, "BP", "CReLU"))
    for remedy, source in REMEDIES.items():
        yield claim(f"{remedy} loses less plasticity than backpropagation.", source, more(LOSS, "BP", remedy))
    yield claim(
        "Leaky-ReLU alone removes most of the loss.",
        "arXiv 2509.22562, table 2",
        more("half the loss", "BP", "leaky", 0.0, against=LOSS),
    )
    yield claim(
        "pruning with rewind is better than the dense net.",
        "arXiv 2605.15435: 97.9 against 46.3 on random labels of CIFAR",
        more(ONLINE, "Prune", "BP"),
    )
    yield claim("a mere reset is better than the dense net, too.", OURS, more(ONLINE, "Reset", "BP"))
    yield claim("pruning with rewind is better than a mere reset.", OURS, more(ONLINE, "Prune", "Reset"))
    yield claim(
        "growth is worse than the dense net.",
        "arXiv 2605.15435, of masked growth: 15.4 against 46.3 on random labels of CIFAR",
        more(ONLINE, "BP", "Grow"),
    )
    yield claim("growth by real insertion loses less plasticity.", OURS, more(LOSS, "BP", "Grow"))
    yield claim("ours loses less plasticity than backpropagation.", OURS, more(LOSS, "BP", "Ours"))
    yield claim(
        "ours is better late than each of its rivals.",
        OURS,
        *(more(LATE, "Ours", rival, FEW) for rival in ("CBP", "L2-init", "CReLU", "Elastic", "Reset")),
    )


def _in_depth(bench: Bench) -> Iterator[Claim]:
    about = _About(bench)
    claim, more = about.claim, about.more
    yield claim(
        "pruning is better late than the dense net without the rewind, too.", OURS, more(LATE, "Prune, no rewind", "BP")
    )
    yield claim("growth gains from a rewind.", OURS, more(LATE, "Grow + rewind", "Grow"))
    yield claim(
        "a net that only gains units loses less plasticity although the dead fraction rises.",
        "arXiv 2608.01475",
        more(LOSS, "BP", "Elastic, keep the dead"),
        Above("rise of dead units", about.arm("Elastic, keep the dead"), 0.0, FEW),
    )
    yield claim(
        "without its dead units it is as accurate, and smaller.",
        "arXiv 2608.01475",
        Equivalent(ONLINE, about.arm("Elastic"), about.arm("Elastic, keep the dead"), POINTS),
        more("mean units", "Elastic, keep the dead", "Elastic", 1.0),
    )
    yield claim("with Leaky-ReLU, pruning is better than the dense net.", OURS, more(ONLINE, "Prune, leaky", "leaky"))
    yield claim("with Leaky-ReLU, growth is better late.", OURS, more(LATE, "Grow, leaky", "leaky"))
    yield claim("with Leaky-ReLU, a mere reset is better.", OURS, more(ONLINE, "Reset, leaky", "leaky"))
    yield claim("with Leaky-ReLU, ours is better late than CBP.", OURS, more(LATE, "Ours, leaky", "CBP, leaky", FEW))
    yield claim(
        "in ours, fresh newborns are better late than halves of busy units.",
        OURS,
        more(LATE, "Ours", "Ours, dividing", FEW),
    )
    yield claim("ours is better late if it begins small.", OURS, more(LATE, "Ours, from small", "Ours", FEW))
    yield claim("ours costs less than Continual Backprop.", OURS, more("flops", "CBP", "Ours", 0.0))
