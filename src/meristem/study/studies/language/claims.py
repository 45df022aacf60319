"""What the papers say of growth, as far as a small net can tell, and what is ours."""

from __future__ import annotations

from collections.abc import Sequence

from meristem.study.claim import Claim
from meristem.study.comparisons import Below, Greater
from meristem.study.studies.language.arms import (
    AKI,
    BOTH,
    CLONED,
    COLD,
    FORGOTTEN,
    LEARNED,
    OURS,
    SCRATCH,
    SILENT,
    SMALL,
    STACKED,
    Size,
)
from meristem.study.studies.language.equal import LowerAtEqual

PAPERS = (STACKED, SILENT, CLONED, LEARNED)
"""Arms that grow as papers do."""

MATTERS = 0.02
"""The smallest difference in operations that matters, as a share of the budget."""

LESS = 0.01
"""The smallest difference in the test loss that matters, in nats a character."""

NOTHING = 1e-4
"""The largest change of the loss, in nats a character, that counts as none."""


def claims(size: Size) -> Sequence[Claim]:
    """Savings against the net from scratch, losses at birth, and what makes the difference."""

    def sooner(first: str, second: str) -> Greater:
        return Greater("FLOPs to target", second, first, MATTERS)

    def further(first: str, second: str) -> Greater:
        return Greater("final loss", second, first, LESS)

    return [
        Claim(
            "Growth in width and depth reaches the loss of the net from scratch with at least 30 % fewer operations.",
            [Greater("70 % of FLOPs to target", SCRATCH, OURS, MATTERS, against="FLOPs to target")],
        ),
        Claim("It saves seconds, too.", [Greater("seconds to target", SCRATCH, OURS)]),
        Claim("It ends with a lower loss than the net from scratch at equal operations.", [further(OURS, SCRATCH)]),
        Claim(
            "At equal seconds, too, its loss is lower.",
            [LowerAtEqual("seconds", OURS, SCRATCH, LESS)],
        ),
        Claim("The small net, trained on alone, saves operations: its head start.", [sooner(SMALL, SCRATCH)]),
        Claim("Growth saves more than this head start.", [sooner(OURS, SMALL)]),
        Claim("It ends with a lower loss than the small net that never grows.", [further(OURS, SMALL)]),
        Claim("Stacking alone saves operations.", [sooner(STACKED, SCRATCH)], "Du et al. 2024, arXiv 2405.15319"),
        Claim("HyperCloning alone does.", [sooner(CLONED, SCRATCH)], "Samragh et al. 2024, arXiv 2409.12903"),
        Claim("bert2BERT's AKI alone does.", [sooner(AKI, SCRATCH)], "Chen et al. 2022, arXiv 2110.07143"),
        Claim("LiGO does.", [sooner(LEARNED, SCRATCH)], "Wang et al. 2023, arXiv 2303.00980"),
        Claim(
            "Each method of the papers saves seconds.", [Greater("seconds to target", SCRATCH, arm) for arm in PAPERS]
        ),
        Claim(
            "At equal seconds the loss of each is lower.",
            [LowerAtEqual("seconds", arm, SCRATCH, LESS) for arm in PAPERS],
        ),
        Claim(
            "HyperCloning and silent copies leave the loss as it is at birth.",
            [Below("change at birth", arm, NOTHING) for arm in (SILENT, CLONED, OURS)],
            "Samragh et al. 2024; Goyal et al. 2017",
        ),
        Claim(
            "Learned maps begin at a lower loss than the copies that they begin from.",
            [Greater("loss at birth", BOTH, LEARNED, LESS)],
            "Wang et al. 2023, arXiv 2303.00980",
        ),
        Claim(
            "Copies that read what the next block reads (AKI) get further than plain copies.",
            [further(AKI, CLONED)],
            "Chen et al. 2022, arXiv 2110.07143: AKI and FPI",
        ),
        Claim("Silent copies of blocks get further than plain ones.", [further(OURS, BOTH)]),
        Claim("Optimizer state that is carried over lowers the loss at equal operations.", [further(OURS, FORGOTTEN)]),
        Claim("A learning rate that rises anew does, too.", [further(OURS, COLD)]),
    ]
