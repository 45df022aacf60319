"""The places of the small nets, found once for all tests that only look at them."""

from __future__ import annotations

from functools import cache

from torch import nn

from meristem import depth, trace

from .models import net


@cache
def looked_at(name: str) -> tuple[nn.Module, depth.Places]:
    """A net and its places. Nobody may change it."""
    model = net(name).model()
    return model, depth.places(trace(model, net(name).x()))
