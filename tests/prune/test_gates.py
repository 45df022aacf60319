"""The gate of Taylor where a unit is not simply produced by some weights and read by others."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import meristem
from meristem.allocate import Limits, Ranked, choose, choose_among
from meristem.axes import AxisMap, Coupling
from meristem.errors import EditError, SignalError
from meristem.prune import (
    ActivationVariance,
    Compensated,
    ContributionUtility,
    Criterion,
    Magnitude,
    NormProduct,
    Protect,
    Removal,
    Taylor,
    TaylorWeights,
    WandaUnits,
    measured,
    require_defined,
)
from meristem.recipes import evidence, shrink
from meristem.recipes.taylor import TaylorWherePossible
from meristem.signals import View


class Language(nn.Module):
    """Embeddings that are also the head, by one way or another of reading with them."""

    def __init__(self, read: str, padding: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6, padding_idx=padding)
        self.wide, self.narrow = nn.Linear(6, 8), nn.Linear(8, 6)
        self.read, self.gate = read, torch.ones(6, dtype=torch.float64)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        w = self.embedding.weight
        h = w[tokens] if self.read == "index" else self.embedding(tokens)
        h = (h + self.narrow(torch.relu(self.wide(h * self.gate)))) * self.gate
        if self.read == "einsum":
            return torch.einsum("btd,vd->btv", h, w)
        return h @ w.T if self.read == "transposed" else functional.linear(h, w)


class Attention(nn.Module):
    """Queries, keys and values by one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.out = nn.Linear(5, 12), nn.Linear(12, 48), nn.Linear(16, 12)
        self.head = nn.Linear(12, 3)
        self.heads, self.size = 2, 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.enter(x)
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(-2)
        return self.head(h + self.out(y)).mean(1)


def test_a_name_with_brackets_is_a_name_everywhere():
    """`qkv[0]` is no set of characters where it is the name of an axis; patterns go on to match it."""
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5)
    model = Attention()
    axes = meristem.trace(model, x)
    name = next(axis.name for axis in axes.editable if "[" in axis.name)
    size = axes[name].size
    for keep in (name, [name], "qkv*"):
        assert shrink(Attention(), x, parameters=0.8, keep=keep).left[name] == "among `keep`"
    limits = {name: Limits(minimum=size)}
    assert shrink(Attention(), x, parameters=0.8, allocate=Ranked(limits=limits)).axes[name].size == size
    protected = Protect(Magnitude(), axes=(name,)).scores(View(axes), axes[name])
    assert protected.tolist() == [torch.inf] * size
    assert [axis.name for axis in choose(axes, [name])] == [name]
    assert [axis.name for axis in choose_among(axes, [name], [name, "out"])] == [name]


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(144, 4),
    )  # fmt: skip


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    return torch.randint(11, (4, 5), generator=draw), torch.randint(11, (4, 5), generator=draw)


def crossed(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())


def scored(criterion: Criterion, axes: AxisMap, name: str, batches: list, loss) -> torch.Tensor:
    axis = axes.by_name[name]
    return criterion.scores(View(axes, signals=evidence(axes, criterion.needs(axes, axis), batches, loss)), axis)


def of_the_gate(model: nn.Module, batch, loss) -> torch.Tensor:
    """The derivative in a real gate."""
    model.gate.requires_grad_(True)
    (found,) = torch.autograd.grad(loss(model, batch), model.gate)
    model.gate.requires_grad_(False)
    return found.abs()


# ------------------------------------------------------------------ one weight that reads and produces


@pytest.mark.parametrize(("read", "padding"), [("linear", None), ("linear", 3), ("linear", -2)])
def test_of_tied_embeddings_only_what_reads_counts(read, padding):
    torch.manual_seed(0)
    model, batch = Language(read, padding).double(), tokens()
    axes = meristem.trace(model, batch[0])
    gate = of_the_gate(model, batch, crossed)
    torch.testing.assert_close(scored(Taylor(), axes, "embedding", [batch], crossed), gate)


def test_calls_that_cannot_be_told_apart_are_an_error_that_names_what_works():
    """The map knows the head; the look-up is an index, which is not heard, so that calls do not add up to the whole."""
    torch.manual_seed(0)
    model, batch = Language("index").double(), tokens()
    axes = meristem.trace(model, batch[0])
    (name,) = (axis.name for axis in axes if axis.size == 6)
    with pytest.raises(SignalError, match="take TaylorWeights"):
        scored(Taylor(), axes, name, [batch], crossed)
    weights = scored(TaylorWeights(), axes, name, [batch], crossed)
    assert weights.isfinite().all()
    assert torch.equal(scored(TaylorWherePossible(), axes, name, [batch], crossed), weights)


class Indexed(nn.Module):
    """A table that is a parameter, looked up by an index."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(11, 6))
        self.wide, self.narrow, self.head = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        h = self.table[tokens]
        return self.head(h + self.narrow(torch.relu(self.wide(h))))


@pytest.mark.parametrize("build", [Indexed, lambda: Language("index")])
def test_by_default_a_stream_that_is_looked_up_by_an_index_is_scored(build):
    torch.manual_seed(0)
    model, batch = build().double(), tokens()
    axes = meristem.trace(model, batch[0])
    (name,) = (axis.name for axis in axes if axis.size == 6)
    found = shrink(model, axes, flops=0.9, batches=[batch], loss=crossed)
    assert found.done
    assert name not in found.left


@pytest.mark.parametrize("read", ["einsum", "transposed"])
def test_what_the_map_cannot_follow_is_refused_at_once(read):
    torch.manual_seed(0)
    model = Language(read).double()
    axes = meristem.trace(model, tokens()[0])
    (axis,) = (axis for axis in axes if axis.size == 6)
    assert "both reads and produces it" in (Taylor().undefined(axes, axis) or "")
    assert TaylorWherePossible().undefined(axes, axis) is None


# ------------------------------------------------------------------ queries and keys


def head_size(axes: AxisMap) -> meristem.axes.Axis:
    (axis,) = (axis for axis in axes.editable if Coupling.BILINEAR in axis.couplings)
    return axis


@pytest.mark.parametrize(
    "criterion", [Taylor(), WandaUnits(), NormProduct(), ActivationVariance(), ContributionUtility()]
)
def test_who_looks_at_readers_alone_refuses_the_size_of_heads(criterion):
    """A unit whose values nobody reads still counts, by its queries and keys; the scores were 0."""
    torch.manual_seed(0)
    model, x = Attention().double(), torch.randn(8, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        model.out.weight.unflatten(1, (2, 8))[:, :, 1] = 0
        model.qkv.weight[:32] *= 4
    axes = meristem.trace(model, x)
    axis, y = head_size(axes), model(x).detach()
    assert measured(axes, [Removal(axis, (1,))], lambda: float((model(x) - y).abs().max())) > 1e-3
    with pytest.raises(EditError, match="two activations are contracted over its units"):
        require_defined(criterion, axes, [axis])
    assert criterion.undefined(axes, axes["qkv[0]"]) is None  # the number of heads


def test_shrink_scores_them_by_weights():
    torch.manual_seed(0)
    model, x = Attention().double(), torch.randn(8, 6, 5, dtype=torch.float64)
    batch = (x, torch.randint(3, (8,)))
    axes = meristem.trace(model, x)
    name = head_size(axes).name
    assert "TaylorWeights" in (Taylor().undefined(axes, axes.by_name[name]) or "")
    for axis, other in ((name, TaylorWeights()), ("enter", Taylor())):
        found, expected = (scored(c, axes, axis, [batch], classified) for c in (TaylorWherePossible(), other))
        assert torch.equal(found, expected)
    order = scored(TaylorWeights(), axes, name, [batch], classified).argsort()
    bias = model.qkv.bias.detach().unflatten(0, (3, 2, 8))[..., order[2:].sort().values].flatten().clone()
    found = shrink(model, x, parameters=0.9, batches=[batch], axes=[name.replace("[", "[[]")], multiple=6)
    assert name not in found.left
    assert found.axes.by_name[name].size == 6
    assert torch.equal(model.qkv.bias.detach(), bias)


# ------------------------------------------------------------------ worth


def classified(model: nn.Module, batch) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def pictures() -> tuple[nn.Module, list]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(256, 1, 8, 8, generator=draw)
    y = (x[:, :, :4].mean((1, 2, 3)) > 0).long() * 2 + (x[..., :4].mean((1, 2, 3)) > 0).long()
    return convolutional(), [*zip(x.double().split(32), y.split(32), strict=True)]


def sequences() -> tuple[nn.Module, list]:
    """Which of the vectors is most like the first."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(256, 6, 5, generator=draw)
    y = (x[:, :1] * x[:, 1:]).sum(-1).amax(1)
    return Attention(), [
        *zip(x.double().split(32), torch.bucketize(y, torch.tensor([1.5, 3.0])).split(32), strict=True)
    ]


def learned(task, seed: int) -> tuple[nn.Module, AxisMap, list]:
    """A net that has learned something and is not done."""
    torch.manual_seed(seed)
    model, batches = task()
    model.double()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(10 if task is sequences else 6):
        for batch in batches:
            optimizer.zero_grad()
            classified(model, batch).backward()
            optimizer.step()
    return model, meristem.trace(model.eval(), batches[0][0]), batches


@pytest.mark.parametrize(
    ("task", "criterion", "names"),
    [
        (pictures, Taylor(), ["0", "3"]), (pictures, TaylorWeights(), ["0", "3"]),
        (sequences, TaylorWherePossible(), ["enter", "qkv[1]"]),
    ],
)  # fmt: skip
def test_scores_rank_like_brute_force_removal(task, criterion, names):
    """On three nets, the mean rank correlation with what removal really changes the loss by."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(3):
        model, axes, batches = learned(task, seed)

        def loss(model=model, batches=batches) -> float:
            with torch.no_grad():
                return sum(float(classified(model, batch)) for batch in batches) / len(batches)

        base = loss()
        for name in names:
            axis = axes.by_name[name]
            removal = [abs(measured(axes, [Removal(axis, (unit,))], loss) - base) for unit in range(axis.size)]
            scores = scored(criterion, axes, name, batches, classified)
            ranks = torch.stack([torch.as_tensor(v).argsort().argsort().double() for v in (removal, scores)])
            found[name].append(float(torch.corrcoef(ranks)[0, 1]))
    assert all(sum(values) / 3 > 0.7 for values in found.values()), found


# ------------------------------------------------------------------ streams that begin at embeddings


@pytest.mark.parametrize("criterion", [WandaUnits(), ActivationVariance(), Compensated(Magnitude())])
def test_what_is_read_of_embeddings_is_heard(criterion):
    """They were refused, though whoever reads them calls their weights as ever."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    axes, (x, _) = meristem.trace(model, tokens()[0]), tokens()
    batch = (x, torch.randint(3, (4, 5)))
    axis = axes.by_name["0"]
    assert criterion.undefined(axes, axis) is None
    found = scored(criterion, axes, "0", [batch], crossed)
    if isinstance(criterion, WandaUnits):
        rms = model[0](x).flatten(0, 1).square().mean(0).sqrt()
        torch.testing.assert_close(found, (model[1].weight.abs().sum(0) * rms).detach())
    assert found.shape == (6,)
