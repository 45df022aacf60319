"""`nn.MultiheadAttention` computes inside one function of PyTorch; criteria hear it as if it were spelled out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import meristem
from meristem.edit import Explicit
from meristem.mask import SparseGPT, Wanda, one_shot
from meristem.prune import (
    ActivationVariance,
    Compensated,
    ContributionUtility,
    Criterion,
    Dormancy,
    GradientDormancy,
    GroupNorm,
    Taylor,
    TaylorWeights,
    WandaUnits,
)
from meristem.recipes import evidence, shrink, supervised
from meristem.schedule import At
from meristem.signals import View

HEARD = (ActivationVariance(), Dormancy(), GradientDormancy(), Taylor(), TaylorWeights(), WandaUnits())


class Spelled(nn.MultiheadAttention):
    """The same in the model's own code."""

    def forward(self, query: Tensor, *_: Tensor, **__: object) -> tuple[Tensor, None]:  # pyright: ignore
        q, k, v = functional.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        heads = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        found = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return functional.linear(found, self.out_proj.weight, self.out_proj.bias), None


class Block(nn.Module):
    """As torchvision writes the encoder of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))

    def forward(self, input: Tensor) -> Tensor:
        x = self.ln_1(input)
        x = self.attention(x, x, x, need_weights=False)[0] + input
        return x + self.mlp(self.ln_2(x))


class Inner(nn.Module):
    """Attention whose width nothing else shares."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.stem, self.head = nn.Linear(12, 8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(self.attention(h, h, h, need_weights=False)[0])


def net(block: type[Block | Inner]) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 12), block(), nn.LayerNorm(12), nn.Flatten(), nn.Linear(72, 3)).double()
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def encoder(**settings: object) -> nn.Sequential:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True, **settings)
    layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not settings)
    return nn.Sequential(nn.Linear(5, 12), layers, nn.Flatten(), nn.Linear(72, 3)).double()


X = torch.randn(4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
BATCHES = [(X, torch.tensor([0, 1, 2, 0])), (X.flip(0), torch.tensor([1, 1, 0, 2]))]


def both(model: nn.Sequential, criterion: Criterion) -> tuple[View, View]:
    """What a criterion looks at, with attention as PyTorch computes it and spelled out; of one map."""
    axes = meristem.trace(model, X)
    defined = [axis for axis in axes.editable if criterion.undefined(axes, axis) is None]
    needed = [s for axis in defined for s in criterion.needs(axes, axis)]
    fused = evidence(axes, needed, BATCHES, supervised)
    model[1].attention.__class__ = Spelled
    spelled = evidence(axes, needed, BATCHES, supervised)
    model[1].attention.__class__ = nn.MultiheadAttention
    return View(axes, signals=fused), View(axes, signals=spelled)


@pytest.mark.parametrize("block", [Block, Inner])
@pytest.mark.parametrize("criterion", HEARD, ids=lambda criterion: type(criterion).__name__)
def test_scores_are_those_of_attention_that_is_spelled_out(block, criterion):
    model = net(block)
    fused, spelled = both(model, criterion)
    defined = [axis for axis in fused.axes.editable if criterion.undefined(fused.axes, axis) is None]
    assert "heads" in {axis.kind for axis in defined}
    for axis in defined:
        torch.testing.assert_close(criterion.scores(fused, axis), criterion.scores(spelled, axis))


@pytest.mark.parametrize("block", [Block, Inner])
def test_what_is_made_up_for_is_that_of_attention_that_is_spelled_out(block):
    model, criterion = net(block), Compensated(GroupNorm())
    views = both(model, criterion)
    heads = next(axis for axis in views[0].axes.editable if axis.kind == "heads")
    fused, spelled = (criterion.removal(view, heads, [1]).start for view in views)
    assert isinstance(fused, Explicit)
    assert isinstance(spelled, Explicit)
    torch.testing.assert_close(dict(fused.moves), dict(spelled.moves))
    assert {"1.attention.in_proj_bias", "1.attention.out_proj.bias"} <= fused.moves.keys()


@pytest.mark.parametrize(("training", "frozen"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("make", [encoder, lambda: encoder(norm_first=True), lambda: net(Block)])
def test_models_with_attention_shrink_by_default(make, training, frozen):
    """In eval mode PyTorch would compute a frozen layer by one fused operator if nobody listened."""
    model = make().train(training)
    found = shrink(
        model.requires_grad_(not frozen), X, flops=0.6, batches=BATCHES, criterion=GroupNorm() if frozen else None
    )
    assert found.done
    assert found.change.flops[1] <= 0.6 * found.change.flops[0]
    assert model.training is training
    assert model(X).isfinite().all()


def test_utility_is_averaged_over_attention_too():
    model = net(Block)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    criterion, schedule = Compensated(ContributionUtility()), At(2, prune={"0[0]": 1})
    plasticity = meristem.Plasticity(model, optimizer, X, prune=criterion, schedule=schedule, axes="0[[]0]")
    for inputs, labels in BATCHES:
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        plasticity.step()
    assert model[1].attention.num_heads == 2


@pytest.mark.parametrize("method", [Wanda(density=0.5), SparseGPT(density=0.5)], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("training", [True, False])
def test_single_weights_of_attention_are_pruned_as_if_it_were_spelled_out(method, training):
    models = [net(Block).train(training) for _ in range(2)]
    models[1][1].attention.__class__ = Spelled
    fused, spelled = ((one_shot(model, method, lambda m=model: m(X)), model) for model in models)
    assert "1.attention.in_proj_weight" in fused[0]
    assert fused[0].keys() == spelled[0].keys()
    assert all(torch.equal(mask, spelled[0][name]) for name, mask in fused[0].items())
    torch.testing.assert_close(fused[1].state_dict(), spelled[1].state_dict())
