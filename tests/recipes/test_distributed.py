"""Turnover under DistributedDataParallel: parameters stay the same objects, so nothing has to be wrapped again."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from meristem.edit import StaleParameterWarning
from meristem.recipes import continual_backprop
from tests.recipes.runs import mlp


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    warnings.simplefilter("error", StaleParameterWarning)
    model = mlp()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    plasticity = continual_backprop(model, optimizer, torch.zeros(2, 6).double(), rate=0.05, maturity=3)
    generator = torch.Generator().manual_seed(rank)
    births = []
    for _ in range(20):
        wrapped(torch.randn(8, 6, dtype=torch.float64, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        event = plasticity.step()
        births.append({} if event is None else dict(event.births))
    torch.save((births, model.state_dict(), plasticity.state_dict()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.heavy
def test_ranks_replace_the_same_units_and_stay_equal(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    (births, model, state), (others, other, memory) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert births == others
    assert sum(sum(found.values()) for found in births) > 8
    assert all(torch.equal(tensor, other[name]) for name, tensor in model.items())
    assert state == memory
