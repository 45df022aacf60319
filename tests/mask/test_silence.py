"""What is not there is zero, whatever stood there: also what is infinite or no number, in every type and layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from meristem.mask import Masks, RigL, Sparse, Static
from meristem.mask.masks import silence
from tests.mask.models import OPTIMIZERS, batches, loss_of, mlp

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.int64)
WORST = (torch.inf, -torch.inf, torch.nan, -0.0, 3.0)


def half(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type(dtype: torch.dtype) -> None:
    mask = half(6, 10)
    worst = torch.tensor(WORST if dtype.is_floating_point or dtype.is_complex else (1.0, -1.0, 2.0, 5.0, 0.0))
    before = worst.repeat(12).view(6, 10).to(dtype)
    tensor = before.clone()
    silence(mask, [tensor])
    assert not tensor[~mask].any()
    there = tensor[mask], before[mask]
    assert torch.equal(*(torch.view_as_real(t) if t.is_complex() else t for t in map(torch.nan_to_num, there)))


@pytest.mark.parametrize(
    "lay",
    [
        lambda t: t,
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t.transpose(0, 1).clone().transpose(0, 1),
    ],
)
def test_every_layout(lay) -> None:
    mask = half(4, 3, 5, 5)
    for there in (mask, lay(mask)):
        tensor = lay(torch.full((4, 3, 5, 5), torch.inf))
        silence(there, [tensor])
        assert torch.equal(tensor, torch.where(mask, torch.inf, 0.0))


def test_a_write_is_seen_by_graphs() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    loss = weight.square().sum()
    with torch.no_grad():
        silence(half(2, 2), [weight])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_sparse_gradients() -> None:
    table, mask = nn.Embedding(5, 4, sparse=True), half(5, 4)
    (table(torch.tensor([1, 1, 3])) * torch.inf).sum().backward()
    assert table.weight.grad is not None
    Masks(table, {"weight": mask}).apply_to_gradients()
    expected = torch.zeros(5, 4)
    expected[[1, 3]] = torch.inf
    assert torch.equal(table.weight.grad.to_dense(), torch.where(mask, expected, 0))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    "method", [Static(density=0.3), RigL(density=0.3, end=100, interval=4)], ids=["static", "rigl"]
)
def test_a_gradient_that_overflows_where_no_weight_is_does_no_harm(method, kind: str, value: float) -> None:
    """The run is the one in which it did not overflow."""
    ends = []
    for overflows in (False, True):
        net = mlp()
        optimizer = OPTIMIZERS[kind](net.parameters())
        sparsity = Sparse(net, optimizer, method)
        for number, x in enumerate(batches(6)):
            loss_of(net, x).backward()
            if overflows and number == 2:
                gradient = net.get_parameter("0.weight").grad
                assert gradient is not None
                gradient[~sparsity.masks["0.weight"]] = value
            optimizer.step()
            optimizer.zero_grad()
        ends.append([parameter.detach() for parameter in net.parameters()])
    assert all(map(torch.equal, *ends))
