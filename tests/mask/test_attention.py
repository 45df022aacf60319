"""GraSP through PyTorch's own attention: masks are those of the same attention written out."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.mask import GraSP, Sparse


class Attention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv, self.fused = nn.Linear(8, 24), fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return torch.softmax(q @ k.mT / 8**0.5, -1) @ v


class Layer(nn.TransformerEncoderLayer):
    """A layer whose fused attention is hidden in `nn.MultiheadAttention`; asked for its weights, it is written out."""

    def __init__(self, fused: bool) -> None:
        super().__init__(8, 2, 16, dropout=0.0, batch_first=True)
        self.fused = fused

    def _sa_block(self, x: Tensor, *masks: object, is_causal: bool = False) -> Tensor:
        return cast(Tensor, self.self_attn(x, x, x, need_weights=not self.fused)[0])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Attention, Layer])
def test_grasp_differentiates_attention_twice(kind: type[nn.Module], training: bool) -> None:
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {}
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), kind(fused), nn.Tanh(), nn.Linear(8, 3)).double().train(training)
        sparsity = Sparse(
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            GraSP(density=0.3),
            closure=lambda model=model: model(x).square().mean(),
        )
        found[fused] = dict(sparsity.masks)
    assert found[True].keys() == found[False].keys()
    assert all(torch.equal(mask, found[False][name]) for name, mask in found[True].items())
