"""Tensors that modules computed from parameters and keep in plain attributes: set back, so that they are made anew."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import nn

from meristem.axes.map import Cache
from meristem.edit.journal import SetAttribute, Step


def cache_steps(model: nn.Module, caches: Iterable[Cache]) -> list[Step]:
    """Steps that set every cache back to what it held when the model was traced."""
    steps: list[Step] = []
    for cache in caches:
        module = model.get_submodule(cache.module)
        now = getattr(module, cache.attribute, None)
        if now is not None:
            steps.append(SetAttribute(module, cache.attribute, now, copy.copy(cache.before)))
    return steps
