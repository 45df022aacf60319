"""Fixed nets, growth of one kind, and growth of both kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from meristem.study.studies.language.experiment import Learn
from meristem.study.studies.language.growth import Stage
from meristem.study.studies.language.net import Shape
from meristem.study.study import Arm, Scale

SCRATCH, SMALL = "from scratch", "fixed small"
STACKED, SILENT = "stacking", "zero residual"
CLONED, AKI = "HyperCloning", "AKI"
BOTH, LEARNED, OURS = "cloned and stacked", "LiGO", "cloned, silent blocks (ours)"
FORGOTTEN, COLD = "state forgotten", "no warm-up"


@dataclass(frozen=True)
class Size(Scale):
    """How large everything is.

    Attributes:
        data: the text; None: one that is made up.
        small, final: depths and widths; the final ones are multiples.
        at: the share of the budget after which nets grow.
        steps: so many steps of the final net are the budget.
        target: the test loss of the final net from scratch after them.
        learned: settings of `LiGO`.
        settings: of all runs.
    """

    data: Literal["tinyshakespeare"] | None
    small: tuple[int, int]
    final: tuple[int, int]
    at: float
    steps: int
    target: float
    learned: Mapping[str, Any] = field(hash=False)
    settings: Mapping[str, Any] = field(hash=False)


def arms(size: Size) -> Sequence[Arm]:
    """Fixed nets, growth of one kind, and growth of both."""
    small, final = (Shape(depth=depth, width=width) for depth, width in (size.small, size.final))
    narrow = Shape(depth=final.depth, width=small.width)
    shallow = Shape(depth=small.depth, width=final.width)

    def arm(name: str, description: str, start: Shape, **grown: Any) -> Arm:
        settings = {"steps": size.steps, "target": size.target, **size.settings}
        stage = {"at": size.at, "shape": final, "options": {"noise": NOISE}, **grown}
        stages = () if name in (SCRATCH, SMALL) else (Stage(**stage),)
        config = Learn(data=size.data, start=start, final=final, stages=stages, **settings)
        return Arm(name, description, config)

    return [
        arm(SCRATCH, "has its final shape from the start", final),
        arm(SMALL, "never grows", small),
        arm(STACKED, "grows in depth: all blocks once more on top (G_stack)", shallow),
        arm(SILENT, "grows in depth: copies whose branches end in zeros", shallow, copies="silent"),
        arm(CLONED, "grows in width: all units once more, with noise that cancels", narrow),
        arm(AKI, "grows in width: copies read what the next block reads (bert2BERT)", narrow, method="AKI", options={}),
        arm(BOTH, "grows in both: HyperCloning and stacking", small),
        arm(LEARNED, "the same with learned maps", small, learned=dict(size.learned)),
        arm(OURS, "grows in both: HyperCloning, and silent copies of blocks", small, copies="silent"),
        arm(FORGOTTEN, "as ours, but Adam begins anew", small, copies="silent", state="forgotten"),
        arm(COLD, "as ours, but the learning rate does not rise again", small, copies="silent", warm_up=False),
    ]


NOISE = 1.0
"""Of HyperCloning, in units of the weights that it is added to: with less, copies stay alike for long."""
