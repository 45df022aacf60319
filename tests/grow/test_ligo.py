"""LiGO: its maps select at first, learn, and leave nothing half done; AKI: newborns read what the next block reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import meristem
from meristem import depth
from meristem.axes import AxisMap
from meristem.edit import Edit, Gather
from meristem.errors import ConfigError, EditError, SignalError
from meristem.grow import AKI, HyperCloning, LiGO, Method, Net2Wider, ZeroFanOut
from meristem.grow.parts.learned import Learned
from meristem.grow.parts.next_block import following
from meristem.signals import View

SYMBOLS, WIDTH, SIZE = 7, 6, 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        parts = [p.unflatten(2, (-1, SIZE)).transpose(1, 2) for p in self.qkv(self.norm1(x)).chunk(3, 2)]
        x = x + self.out(scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Net(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.table = nn.Embedding(SYMBOLS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, SYMBOLS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def opened() -> tuple[nn.Module, AxisMap, Tensor]:
    torch.manual_seed(0)
    model = Net().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    x = torch.randint(SYMBOLS, (4, 9))
    return model, meristem.trace(model, x), x


def widening(axes: AxisMap, method: Method, optimizer: Any = (), but: tuple[str, ...] = ()) -> Edit:
    """Twice as many units of every axis for which the method is defined."""
    edit, view = Edit(axes, optimizer), View(axes)
    for axis in axes.editable:
        if method.undefined(axes, axis) is None and axis.name not in but:
            plan = method.propose(view, axis, axis.size)
            edit.gather(axis, plan.gather, plan.start)
    return edit


def predicting(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    return lambda: cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def both(axes: AxisMap, optimizer: Any = ()) -> Edit:
    """Twice as wide, and five blocks instead of three."""
    places = depth.places(axes)
    return widening(axes, HyperCloning(), optimizer).depth(depth.Arrange(places, "blocks", depth.stacked(3, 5)))


def test_ligo_begins_as_copies_in_width_and_depth() -> None:
    model, axes, x = opened()
    both(axes).commit()
    expected = state(model)
    model, axes, x = opened()
    axes = LiGO(steps=0, noise=0).commit(both(axes), predicting(model, x)).axes
    assert (len(model.blocks), model.table.embedding_dim) == (5, 2 * WIDTH)
    assert list(model.state_dict()) == list(expected)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-15)
    assert axes["table"].size == 2 * WIDTH


def test_ligo_widens_any_model() -> None:
    """Convolutions, a normalization and a flattening: selections divide fan-out wherever the map has the axis."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.Tanh(),
        nn.Linear(5, 2),
    ]
    model, x = nn.Sequential(*layers).double().eval(), torch.randn(6, 1, 4, 4, dtype=torch.float64)
    axes, before = meristem.trace(model, x), model(x).detach()
    edit = widening(axes, Net2Wider())
    assert [change.axis.size for change in edit.changes] == [3, 5]
    LiGO(steps=0, noise=0).commit(edit, lambda: model(x).square().mean())
    assert [p.shape[0] for p in model.parameters()] == [6, 6, 6, 6, 10, 10, 2, 2]
    torch.testing.assert_close(model(x).detach(), before, rtol=0, atol=1e-12)


def test_ligo_is_the_product_of_its_matrices() -> None:
    """W'_i = sum_j w_ij B_out W_j A_in^T by brute force, for matrices that are not selections."""
    model, axes, _ = opened()
    learned = Learned.of(both(axes), 0.5, torch.Generator().manual_seed(0))
    stream = learned.widening.matrices[axes["table"].index].detach()
    hidden = {j: learned.widening.matrices[axes[f"blocks.{j}.mlp.0"].index].detach() for j in range(3)}
    name = "blocks.4.mlp.0.weight"
    blend = learned.blends[name]
    assert blend.weights is not None
    with torch.no_grad():
        blend.weights.copy_(torch.randn(blend.weights.shape))
    old = dict(model.named_parameters())
    expected = sum(
        blend.weights[4, j] * hidden[j].double() @ old[f"blocks.{j}.mlp.0.weight"] @ (stream / 2).double().T
        for j in range(3)
    )
    torch.testing.assert_close(learned.tensor(name), expected.detach(), rtol=0, atol=1e-6, check_dtype=False)
    bias = sum(blend.weights[4, j] * hidden[j].double() @ old[f"blocks.{j}.mlp.0.bias"] for j in range(3))
    assert learned.blends["blocks.4.mlp.0.bias"].weights is not blend.weights
    with torch.no_grad():
        learned.blends["blocks.4.mlp.0.bias"].weights.copy_(blend.weights)
    torch.testing.assert_close(learned.tensor("blocks.4.mlp.0.bias"), bias, rtol=0, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(learned.tensor("table.weight"), old["table.weight"] @ stream.double().T)
    heads = learned.widening.matrices[axes["blocks.1.qkv"].index].detach().double()
    out = old["blocks.1.out.weight"].unflatten(1, (3, SIZE))
    expected = torch.einsum("as,shd,kh->akd", stream.double(), out, heads / 2).flatten(1)
    torch.testing.assert_close(
        learned.widening.widened(axes.layouts["blocks.1.out.weight"], old["blocks.1.out.weight"]), expected
    )


def test_ligo_learns_and_training_goes_on() -> None:
    model, axes, x = opened()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loss = predicting(model, x)
    for _ in range(3):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
    before = loss().item()
    unlearned = LiGO(steps=0, noise=0.03).commit
    trained = LiGO(steps=20, rate=0.01)
    model2, axes2, _ = opened()
    unlearned(both(axes2), predicting(model2, x))
    commit = trained.commit(both(axes, optimizer), loss)
    assert loss().item() < min(before, predicting(model2, x)().item())
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    halves = model.blocks[0].mlp[0].weight.detach().split(8)
    assert not torch.allclose(halves[0], halves[1])
    loss().backward()
    optimizer.step()
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in model.parameters())
    meristem.Edit(commit.axes, optimizer).grow("blocks.0.mlp.0", 1).commit()


def test_a_loss_that_fails_leaves_everything_as_it_was() -> None:
    model, axes, x = opened()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    expected, count = state(model), [0]

    def failing() -> Tensor:
        count[0] += 1
        return predicting(model, x)() if count[0] < 3 else torch.tensor(torch.nan, requires_grad=True)

    places = depth.places(axes)
    deeper = Edit(axes, optimizer).depth(depth.Arrange(places, "blocks", (0, 1, 2, 0)))
    for edit in (both(axes, optimizer), deeper):
        count[0] = 0
        with pytest.raises(SignalError, match="nan"):
            LiGO(steps=5).commit(edit, failing)
        assert count[0] == 3
        assert list(model.state_dict()) == list(expected)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert len(model.blocks) == 3


def test_ligo_refuses_what_is_no_copy() -> None:
    model, axes, x = opened()
    with pytest.raises(EditError, match="no source"):
        LiGO().commit(Edit(axes).grow("blocks.0.mlp.0", 2), predicting(model, x))
    inserted = depth.Insert(depth.places(axes), "after head", depth.ZeroResidual())
    with pytest.raises(EditError, match="inserts or replaces"):
        LiGO().commit(Edit(axes).depth(inserted), predicting(model, x))
    for bad in ({"steps": -1}, {"rate": 0.0}, {"noise": -0.1}):
        with pytest.raises(ConfigError):
            LiGO(**bad)


def test_fpi_is_exact_where_no_normalization_is_and_by_whole_copies_everywhere() -> None:
    """bert2BERT's function preserving initialization: Net2Wider for heads and hidden units, HyperCloning for all."""
    for method, but in ((Net2Wider(), ("table",)), (HyperCloning(), ())):
        model, axes, x = opened()
        before = model(x).detach()
        edit = widening(axes, method, but=but)
        assert len(edit.changes) == 7 - len(but)
        edit.commit()
        torch.testing.assert_close(model(x).detach(), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("base", [Net2Wider(), HyperCloning()])
def test_aki_takes_rows_of_newborns_from_the_next_block(base: Method) -> None:
    """Both as in the paper: first the columns are expanded, then rows of the expanded next block are appended."""
    model, axes, _ = opened()
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    edit = widening(axes, AKI(base))
    maps = {change.axis.name: change.gather.index for change in edit.changes}
    edit.commit()
    new = dict(model.named_parameters())

    def columns(name: str, index: Tensor) -> Tensor:
        return old[name][:, index] / torch.bincount(index)[index]

    def rows(own: Tensor, following: Tensor, index: Tensor) -> Tensor:
        size = len(own)
        return torch.cat([own, following[index[size:]]])

    stream = maps["table"]
    for block in range(3):
        pair = (f"blocks.{block}", f"blocks.{min(block + 1, 2)}")
        units = maps[f"blocks.{block}.mlp.0"]
        expanded = [columns(f"{path}.mlp.0.weight", stream) for path in pair]
        torch.testing.assert_close(new[f"{pair[0]}.mlp.0.weight"].data, rows(*expanded, units))
        biases = [old[f"{path}.mlp.0.bias"] for path in pair]
        torch.testing.assert_close(new[f"{pair[0]}.mlp.0.bias"].data, rows(*biases, units))
        expanded = [columns(f"{path}.mlp.2.weight", units) for path in pair]
        torch.testing.assert_close(new[f"{pair[0]}.mlp.2.weight"].data, rows(*expanded, stream))
        scales = [old[f"{path}.norm1.weight"] for path in pair]
        torch.testing.assert_close(new[f"{pair[0]}.norm1.weight"].data, rows(*scales, stream))
    torch.testing.assert_close(new["table.weight"].data, old["table.weight"][:, stream])
    torch.testing.assert_close(new["head.weight"].data, columns("head.weight", stream))


def test_the_next_block() -> None:
    model = Net()
    assert following(model, "blocks.0.mlp.2.bias") == "blocks.1.mlp.2.bias"
    assert following(model, "blocks.2.mlp.2.bias") is None
    assert following(model, "norm.weight") is None
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert [following(plain, f"{n}.weight") for n in (0, 2, 4)] == ["2.weight", None, None]


def test_aki_needs_copies() -> None:
    _, axes, _ = opened()
    with pytest.raises(EditError, match="copies"):
        AKI(ZeroFanOut()).propose(View(axes), axes["blocks.0.mlp.0"], 1)
    assert Gather.duplicate(8, [0]).sources == (*range(8), 0)
