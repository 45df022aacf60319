"""Masks under DistributedDataParallel: all ranks choose what one process would on the whole batch, edits included."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from meristem import Edit, trace
from meristem.mask import SNIP, GraSP, RigL, Sparse
from tests.mask.models import batches, loss_of, mlp

UNITS = "RigL, and units that come and go"
METHODS = {
    UNITS: RigL(density=0.3, interval=2, end=8),
    "RigL": RigL(density=0.3, interval=2, end=8),
    "SNIP": SNIP(density=0.3),
    "GraSP": GraSP(density=0.3),
}


def run(part: slice, wrap: bool, seed: int) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Masks and weights after five steps on a part of every batch."""
    found = {}
    for name, method in METHODS.items():
        net, (first, *data) = mlp(), batches(6)
        torch.manual_seed(seed)
        trained: nn.Module = DistributedDataParallel(net) if wrap else net
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        sparse = Sparse(net, optimizer, method, closure=partial(loss_of, net, first[part]))
        axes = trace(net, first[:1])
        for step, x in enumerate(data):
            loss_of(trained, x[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
            if name == UNITS and step in (0, 2):
                edit = Edit(axes, optimizer, follow=[sparse], seed=4)
                axes = (edit.grow("0", 3) if step else edit.prune("2", [1, 5])).commit().axes
                trained = DistributedDataParallel(net) if wrap else net
        found[name] = dict(sparse.masks), net.state_dict()
    return found


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(run(slice(rank, None, 2), True, rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.heavy
def test_ranks_choose_what_one_process_does_on_the_whole_batch(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, (masks, weights) in run(slice(None), False, 2).items():
        for key, mask in masks.items():
            assert torch.equal(mask, first[name][0][key]), name
            assert torch.equal(mask, second[name][0][key]), name
        for key, weight in weights.items():
            assert torch.equal(first[name][1][key], second[name][1][key]), name
            assert torch.allclose(weight, first[name][1][key], rtol=0, atol=1e-12), name
