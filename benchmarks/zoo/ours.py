"""Our side: half of every editable axis, at random, and nothing else said."""

from __future__ import annotations

import random
from typing import Any

from torch import nn

import meristem
from meristem.edit import Edit


def prune(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Trace, prune half of everything, commit."""
    edit = Edit(meristem.trace(model, args, kwargs))
    drawn = random.Random(0)
    for axis in edit.axes.editable:
        count = min(axis.size // 2, axis.size - axis.minimum)
        if count > 0:
            edit.prune(axis, drawn.sample(range(axis.size), count))
    edit.commit()
