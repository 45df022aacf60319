"""What insertions are predicted to bring and cost, which one is chosen, and what becomes of the axes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from meristem import Edit, depth, trace
from meristem.errors import ConfigError, EditError
from meristem.signals import View

from .models import net


def opened(name: str):
    model, x = net(name).model(), net(name).x()
    axes = trace(model, x)
    return model, x, axes, depth.places(axes), lambda: model(x).square().mean()


@pytest.mark.parametrize(
    ("name", "what", "at"),
    [("transformer", depth.Silent(), None), ("residual", depth.ZeroResidual(hidden=3, norm=True), "after stage.[01]")],
)
def test_the_gain_is_what_a_small_step_of_the_new_parameters_brings(name, what, at) -> None:
    model, _, axes, places, loss = opened(name)
    model.train()
    changes = depth.Deepen(what, at=at).changes(places)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gains = depth.predicted_gains(axes, changes, loss)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert gains.shape == (len(changes),)
    for change, gain in zip(changes, gains, strict=True):
        fresh, x = net(name).model().train(), net(name).x()
        own = trace(fresh, x)
        place = depth.places(own)
        again = type(change)(place, change.at, *([what] if isinstance(change, depth.Insert) else [change.blocks, what]))
        edit = Edit(own).depth(again)
        old = {id(p) for p in fresh.parameters()}
        edit.commit()
        born = [p for p in fresh.parameters() if id(p) not in old]
        rate = 1e-7
        value = fresh(x).square().mean()
        gradients = torch.autograd.grad(value, born)
        with torch.no_grad():
            for parameter, gradient in zip(born, gradients, strict=True):
                parameter -= rate * gradient
            less = fresh(x).square().mean()
        measured = float(value.detach() - less) / rate
        own_gain = sum(float(g.square().sum()) for g in gradients)
        assert measured == pytest.approx(own_gain, rel=1e-4)
        if isinstance(what, depth.Silent):  # what is newly built starts from other random numbers there
            assert own_gain == pytest.approx(float(gain), rel=1e-9)


def test_no_gain_without_a_loss_or_for_what_is_not_exact() -> None:
    _, _, axes, places, loss = opened("residual")
    with pytest.raises(ConfigError, match="closure"):
        depth.predicted_gains(axes, depth.Deepen(depth.Silent()).changes(places))
    with pytest.raises(EditError, match="no gain is predicted for"):
        depth.predicted_gains(axes, depth.Deepen(depth.Plain()).changes(places), loss)


def test_the_cost_is_what_the_edit_really_adds() -> None:
    model, _, axes, places, _ = opened("transformer")
    block = sum(p.numel() for p in model.layers[0].parameters())
    (copied,) = depth.Deepen(depth.Silent()).changes(places)
    more = depth.cost(axes, copied)
    assert more.parameters == block
    assert more.bytes == 8 * block
    (less, *_) = depth.Shorten(depth.Gate()).changes(places)
    gone = depth.cost(axes, less)
    assert (gone.parameters, gone.flops, gone.bytes) == (-more.parameters, -more.flops, -more.bytes)
    after = Edit(axes).depth(copied).commit().axes
    assert after.flops() - axes.flops() == more.flops


class Stages(nn.Module):
    """Runs of three, one and two blocks."""

    def __init__(self) -> None:
        super().__init__()
        made = [nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4)) for _ in range(6)]
        self.stages = nn.ModuleList(nn.ModuleList(part) for part in (made[:3], made[3:4], made[4:]))

    def forward(self, x):
        for stage in self.stages:
            for block in stage:
                x = x + block(x)
        return x


def test_choosers() -> None:
    torch.manual_seed(0)
    model, x = Stages().double(), torch.randn(7, 4, dtype=torch.float64)
    axes = trace(model, x)
    places = depth.places(axes)
    inserted = depth.Deepen(depth.ZeroResidual(), at=("after stages.0.0", "after stages.0.1.0")).changes(places)
    assert len(inserted) == 2
    view = View(axes, closure=lambda: model(x).square().mean())
    assert depth.Evenly().scores(view, inserted).tolist() == [-1.0, -3.0]  # around the block; among three children
    twice = [depth.AtRandom().scores(View(axes), inserted) for _ in range(2)]
    assert torch.equal(*twice)
    gains = depth.predicted_gains(axes, inserted, view.closure)
    flops = [depth.cost(axes, change).flops for change in inserted]
    assert depth.ByGain().scores(view, inserted).tolist() == pytest.approx(
        [float(gain) / cost for gain, cost in zip(gains, flops, strict=True)]
    )


def test_evenly_gives_the_shortest_run_a_block_and_patterns_say_which() -> None:
    from tests.plasticity.test_layers import Net

    model = Net().double()
    axes = trace(model, torch.randn(7, 5, dtype=torch.float64))
    places = depth.places(axes)
    changes = depth.Deepen(depth.Silent()).changes(places)
    assert [change.at for change in changes] == ["first.0", "second.1"]
    assert depth.Evenly().scores(View(axes), changes).tolist() == [-1.0, -2.0]
    assert [change.at for change in depth.Deepen(depth.Silent(), at="second.0").changes(places)] == ["second.0"]
    with pytest.raises(EditError, match="no place to put it at 'after nothing'"):
        depth.Deepen(depth.ZeroResidual(), at="after nothing").require(places)
    with pytest.raises(EditError, match=r"Net2Deeper.*ZeroResidual instead"):
        depth.Deepen(depth.Net2Deeper(), at="after first.0").require(places)


@pytest.mark.parametrize(
    ("name", "make", "former", "born", "copies", "gone"),
    [
        (
            "transformer",
            lambda p: depth.duplicated(p, "layers.0", 1, depth.Silent()),
            {"layers.2.mlp.0": ["layers.1.mlp.0"], "layers.3.mlp.0": ["layers.2.mlp.0"]},
            {"layers.1.mlp.0": 10},
            ["layers.1.mlp.0"],
            [],
        ),
        (
            "residual",
            lambda p: depth.Insert(p, "after stem", depth.ZeroResidual(hidden=3)),
            {"stem.0": ["stem"]},
            {"stem.1.0": 3},
            [],
            ["stem"],
        ),
        (
            "residual",
            lambda p: depth.Remove(p, "stage.1.conv1"),  # what it was given and what it returned become one
            {"stem": ["stem", "stage.1.conv1"]},
            {},
            [],
            ["stage.1.conv1"],
        ),
        (
            "residual",
            lambda p: depth.Remove(p, "stage.0"),
            {"stage.0.conv1": ["stage.1.conv1"], "stage.1.conv1": ["stage.2.conv1"]},
            {},
            [],
            ["stage.2.conv1"],
        ),
    ],
    ids=["copied", "inserted", "merged", "removed"],
)
def test_a_record_says_which_axes_go_on_as_which(name, make, former, born, copies, gone) -> None:
    _model, _, axes, places, _ = opened(name)
    before = {axis.name: axis for axis in axes.editable}
    commit = Edit(axes).depth(make(places)).commit()
    after = commit.record["after"]
    assert (after["former"], after["born"], after["copies"], after["gone"]) == (former, born, copies, gone)
    assert set(commit.axes.by_name) >= {axis.name for axis in commit.axes.editable}
    stays = {axis.name for axis in commit.axes.editable} - former.keys() - born.keys()
    assert stays <= before.keys()
