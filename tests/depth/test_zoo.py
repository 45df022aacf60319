"""Every edit that calls itself exact preserves the function, over the zoo's own small models."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from meristem import Edit, depth, trace
from meristem.errors import EditError

from ..grow.judge import ZOO
from ..zoo.models import row

Make = Callable[[depth.Places], depth.Change]

CONTRACTING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def edits(model: nn.Module, places: depth.Places) -> Iterator[Make]:
    """Some of each kind, at places drawn at random."""
    draw = random.Random(0)
    ways = [found.name for found in places.insertions if found.frozen is None]
    modules = [name for name, module in model.named_modules() if name and isinstance(module, CONTRACTING)]
    draw.shuffle(ways)
    draw.shuffle(modules)
    yield from (lambda p, at=at: depth.Insert(p, at, depth.ZeroResidual()) for at in ways[:1])
    yield from (lambda p, at=at: depth.Insert(p, at, depth.ZeroResidual(norm=True)) for at in ways[1:2])
    yield from (lambda p, at=at: depth.Insert(p, at, depth.Net2Deeper()) for at in ways[:3])
    yield from (lambda p, at=at: depth.Insert(p, at, depth.ResidualCopy()) for at in ways[:1])
    yield from (lambda p, at=at: depth.AddBranch(p, at) for at in modules[:1])
    yield from (lambda p, at=at: depth.ConcatBranch(p, at, 2) for at in modules[:2])


def outputs(model: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        found = tree_leaves(model(*args, **kwargs))
    return [x for x in found if isinstance(x, Tensor) and x.is_floating_point()]


@pytest.mark.heavy
@pytest.mark.parametrize("name", ZOO)
def test_what_calls_itself_exact_is(name: str) -> None:
    base, (args, kwargs) = row(name).model().double().eval(), row(name).example()
    places = depth.places(trace(base, args, kwargs))
    exact = 0
    for make in edits(base, places):
        model = copy.deepcopy(base)
        axes = trace(model, args, kwargs)
        before = outputs(model, args, kwargs)
        try:
            change = make(depth.places(axes))
            inexact = change.inexact()
            Edit(axes).depth(change).commit()
            exact += not inexact
        except EditError:  # refused: the model is what it was
            inexact = ()
        if not inexact:
            for old, new in zip(before, outputs(model, args, kwargs), strict=True):
                torch.testing.assert_close(new, old, rtol=0, atol=1e-12)
    assert exact or not any(found.frozen is None for found in places.insertions)
