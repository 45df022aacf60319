"""The demo: small, large, grown from small and pruned from large, on real handwritten digits."""

from __future__ import annotations

from typing import Any

from meristem.study.protocol import Arm, Protocol
from meristem.train.config import GrowConfig, ModelConfig, PruneConfig, TrainConfig

SMALL, LARGE = 4, 32
"""Channels of the small and of the large net, in the residual stream and in every block."""

TARGET = 15_000
"""Number of parameters at which growth and pruning stop: about those of the same net with 16 channels."""


def demo_protocol(seeds: int = 5, epochs: int = 20) -> Protocol:
    """The demo's four arms. Everything but the structure is the same: data, optimizer, number of steps.

    An edit falls halfway between two evaluations.
    """
    when = {"start": 0.125 * epochs, "stop": 0.625 * epochs, "every": 0.05 * epochs, "parameters": TARGET}
    growth, pruning = GrowConfig(amount=0.25, **when), PruneConfig(amount=0.1, **when)
    arms = (
        _arm("small", f"a residual net with {SMALL} channels, fixed", SMALL, epochs),
        _arm(
            "grown", f"from the small one, grown to {TARGET:,} parameters while it trains", SMALL, epochs, grow=growth
        ),
        _arm(
            "pruned",
            f"from the large one, pruned to {TARGET:,} parameters while it trains",
            LARGE,
            epochs,
            prune=pruning,
        ),
        _arm("large", f"the same net with {LARGE} channels, fixed", LARGE, epochs),
    )
    return Protocol("Growing and pruning a net while it learns to read digits", arms, tuple(range(seeds)))


def _arm(name: str, description: str, width: int, epochs: int, **edits: Any) -> Arm:
    model = ModelConfig(name="resnet", options={"width": width, "inner": width, "blocks": 3})
    config = TrainConfig(name=f"demo-{name}", model=model, epochs=epochs, **{"grow": None, "prune": None, **edits})
    return Arm(name, description, config)
