"""What things cost, against what models really take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from meristem.axes import trace
from meristem.edit import Gather
from meristem.ledger import Account
from meristem.ledger.account import flops_per_weight
from tests.ledger.models import NETS


def masked(axes, density: float = 0.6) -> Account:
    torch.manual_seed(1)
    masks = {n: torch.rand(p.shape) < density for n, p in axes.model.named_parameters() if p.dim() > 1}
    return Account(axes, masks)


@pytest.mark.parametrize("name", NETS)
def test_weights_add_up_to_all_operations(name: str) -> None:
    net, x, _ = NETS[name]()
    axes = trace(net, x[:3])
    weights = [n for n, p in net.named_parameters() if p.dim() > 1]
    found = sum(flops_per_weight(axes, n) * net.get_parameter(n).numel() for n in weights)
    assert found == axes.flops() == Account(axes).flops


@pytest.mark.parametrize("name", NETS)
def test_a_death_frees_what_the_net_takes_less(name: str) -> None:
    net, x, _ = NETS[name]()
    axes = trace(net, x[:1])
    account = masked(axes)
    assert account.flops < axes.flops()
    for axis in axes.editable:
        costs = account.deaths(axis)
        for unit in range(axis.size):
            after = account.after({axis.index: Gather.prune(axis.size, [unit])}, account.masks)
            assert account.flops - after == pytest.approx(float(costs[unit]))


@pytest.mark.parametrize("name", NETS)
def test_a_birth_takes_what_the_net_takes_more(name: str) -> None:
    net, x, _ = NETS[name]()
    axes = trace(net, x[:1])
    account = masked(axes)
    for axis in axes.editable:
        after = account.after({axis.index: Gather.grow(axis.size, 1)}, account.masks)
        assert after - account.flops == pytest.approx(account.birth(axis))


def test_no_price_where_a_contraction_could_be_of_two_parameters() -> None:
    net = nn.LSTM(4, 4, batch_first=True)
    axes = trace(net, torch.randn(2, 5, 4))
    assert flops_per_weight(axes, "weight_hh_l0") is None
