"""Groups of neighbouring inputs are the same for NM and for one-shot methods, however weights are laid out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from meristem.errors import ConfigError
from meristem.mask import NM, Fixed, OneShot, Rows, Sparse, SparseGPT, Static, Wanda, one_shot
from meristem.mask.arrangement import Arrangements


class Turned(nn.Module):
    """A linear layer whose weight is (inputs, outputs), as in GPT-2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Times(nn.Module):
    """The same by an operator."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


CASES = {
    "linear": (lambda: nn.Linear(16, 6), (30, 16), 1),
    "addmm": (lambda: Turned(16, 6), (3, 10, 16), 0),
    "square": (lambda: Times(8), (30, 8), 0),
    "conv2d": (lambda: nn.Conv2d(8, 6, 3, padding=1), (4, 8, 5, 5), 1),
    "grouped": (lambda: nn.Conv1d(8, 6, 3, groups=2), (6, 8, 9), 1),
    "transposed": (lambda: nn.ConvTranspose2d(8, 6, 3), (3, 8, 4, 4), 0),
    "grouped transposed": (lambda: nn.ConvTranspose1d(8, 6, 3, groups=2), (6, 8, 9), 0),
}
METHODS = (Wanda(density=0.5, m=4), SparseGPT(density=0.5, m=4))


def built(case: str) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    make, shape, _ = CASES[case]
    return nn.Sequential(make()).double(), torch.randn(shape, dtype=torch.float64)


def counts(mask: Tensor, dim: int) -> set[int]:
    """How many stay of every four neighbours along a dimension."""
    return set(mask.movedim(dim, -1).unflatten(-1, (-1, 4)).sum(-1).flatten().tolist())


@pytest.mark.parametrize("case", CASES)
def test_the_dimension_of_inputs_is_found(case: str) -> None:
    net, _ = built(case)
    found = Arrangements(net).of("0.weight")
    weight = torch.arange(net[0].weight.numel()).view_as(net[0].weight)
    expected = weight.movedim(1 - CASES[case][2], 0)
    if case == "grouped transposed":  # outputs of one group after those of the other, each with inputs of its own
        expected = torch.cat([expected[:, :4], expected[:, 4:]])
    assert torch.equal(found.seen(weight), expected)
    assert torch.equal(found.back(found.seen(weight), weight), weight)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("case", CASES)
def test_masks_of_one_shot_methods_have_the_pattern(case: str, method: OneShot) -> None:
    net, x = built(case)
    masks = one_shot(net, method, lambda: net(x))
    assert counts(masks["0.weight"], CASES[case][2]) == {2}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sparsity = Sparse(net, optimizer, Fixed(masks=masks, distribution=NM(m=4)))
    assert torch.equal(sparsity.masks["0.weight"], masks["0.weight"])


@pytest.mark.parametrize("case", CASES)
def test_patterns_are_along_inputs(case: str) -> None:
    net, _ = built(case)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    nm = Sparse(net, optimizer, Static(density=0.5, distribution=NM(m=4)))
    assert counts(nm.masks["0.weight"], CASES[case][2]) == {2}
    nm.close()
    rows = Sparse(net, optimizer, Static(density=0.5, distribution=Rows()))
    outputs = rows.masks["0.weight"].movedim(1 - CASES[case][2], 0).flatten(1)
    if case == "grouped transposed":
        outputs = torch.cat(outputs.chunk(2, 1))
    assert set(outputs.sum(1).tolist()) == {outputs.shape[1] // 2}


def test_wanda_compares_channels_at_the_same_position() -> None:
    """By brute force, for a convolution."""
    net, x = built("conv2d")
    weight = net[0].weight.detach().clone()
    patches = nn.functional.unfold(x, 3, padding=1).square().sum((0, 2)).sqrt().view(8, 3, 3)
    mask = one_shot(net, METHODS[0], lambda: net(x))["0.weight"]
    worth = weight.abs() * patches
    for out in range(6):
        for position in range(9):
            for group in (slice(0, 4), slice(4, 8)):
                scores = worth[out, group].flatten(1)[:, position]
                chosen = mask[out, group].flatten(1)[:, position]
                assert int(chosen.sum()) == 2
                assert scores[chosen].min() > scores[~chosen].max()


def test_sparse_gpt_of_a_convolution_is_that_of_its_patches() -> None:
    """The same as of a linear layer that reads patches, all channels of a position one after the other."""
    net, x = built("conv2d")
    patches = nn.functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
    patches = patches.view(-1, 8, 9).transpose(1, 2).flatten(1)
    layer = nn.Linear(72, 6, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(net[0].weight.view(6, 8, 9).transpose(1, 2).flatten(1))
    one_shot(net, METHODS[1], lambda: net(x))
    one_shot(layer, METHODS[1], lambda: layer(patches))
    found = net[0].weight.view(6, 8, 9).transpose(1, 2).flatten(1)
    assert torch.allclose(found, layer.weight, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_channels_that_are_no_multiple_are_refused(method: OneShot) -> None:
    net = nn.Sequential(nn.Conv2d(6, 4, 2)).double()  # 24 entries in a row are a multiple of 4, 6 channels are none
    before = net[0].weight.detach().clone()
    with pytest.raises(ConfigError, match="6 inputs, no multiple of m=4"):
        one_shot(net, method, lambda: net(torch.randn(2, 6, 4, 4, dtype=torch.float64)))
    assert torch.equal(net[0].weight, before)
