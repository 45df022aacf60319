"""Masks that somebody else changes between two steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from meristem.errors import ConfigError
from meristem.mask import Sparse, Static


def trained() -> tuple[nn.Linear, torch.optim.Optimizer, Sparse]:
    torch.manual_seed(0)
    model = nn.Linear(6, 5)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    sparse = Sparse(model, optimizer, Static(density=0.5))
    for _ in range(2):
        model(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer, sparse


def test_weights_die_with_their_state_and_are_born_where_they_start() -> None:
    model, optimizer, sparse = trained()
    old, weight = sparse.masks["weight"].clone(), model.weight.detach().clone()
    new, start = ~old, torch.full((5, 6), 0.25) * ~old
    sparse.rewire({"weight": new}, {"weight": start})
    assert torch.equal(sparse.masks["weight"], new)
    assert torch.equal(model.weight.detach(), torch.where(new, 0.25, 0.0))
    assert not optimizer.state[model.weight]["exp_avg"].any()
    assert weight[old].all()
    sparse.rewire({"weight": new | old})
    assert sparse.masks.density == 1.0
    assert torch.equal(model.weight.detach(), torch.where(new, 0.25, 0.0))

    assert sparse.state_dict()["densities"] == {"weight": 1.0}


def test_other_shapes_are_refused_before_anything_changes() -> None:
    model, _, sparse = trained()
    before, mask = model.weight.detach().clone(), sparse.masks["weight"].clone()
    with pytest.raises(ConfigError, match="shape"):
        sparse.rewire({"weight": mask[:2]})
    with pytest.raises(ConfigError, match="not masked so"):
        sparse.rewire({"weight": ~mask}, {"weight": torch.ones(6)})
    assert torch.equal(model.weight.detach(), before)
    assert torch.equal(sparse.masks["weight"], mask)
