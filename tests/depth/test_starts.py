"""AutoGrow's initializers: what new blocks start from, and the one that is fitted by Adam."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from meristem import AxisMap, Edit, depth, trace
from meristem.errors import ConfigError, EditError, SignalError

from ..edit.snapshot import Snapshot, same, values
from .models import net

WIDTH = 4096


class Wide(nn.Module):
    """A residual block with many features and few parameters; its branch may end in a normalization."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(WIDTH, 2), nn.Linear(2, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.up(torch.relu(self.down(x))))


def grown(norm: bool, start: depth.CopyStart) -> nn.Module:
    """The new block, in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(Wide(norm), Wide(norm)), nn.Linear(WIDTH, 2)).double()
    axes = trace(model, torch.randn(3, WIDTH).double())
    Edit(axes, seed=1).depth(depth.duplicated(depth.places(axes), "0.1", 1, start)).commit()
    return model[0][2]


@pytest.mark.parametrize(
    ("start", "mean", "deviation", "kurtosis"),
    [
        (depth.AutoGrow("uniform"), 0.5, 12**-0.5, 1.8),
        (depth.AutoGrow(), 0.0, 1.0, 3.0),
        (depth.AutoGrow(deviation=0.2), 0.0, 0.2, 3.0),
    ],
    ids=["uniform", "gaussian", "narrow"],
)
def test_scales_have_the_moments_of_their_distribution(
    start: depth.AutoGrow, mean: float, deviation: float, kurtosis: float
) -> None:
    """Scale and shift of a last normalization are drawn; of 4096 numbers the moments are known to 5 standard errors."""
    block = grown(True, start)
    for drawn in (block.norm.weight, block.norm.bias):
        centred = drawn.detach() - mean
        assert abs(float(centred.mean())) < 5 * deviation / WIDTH**0.5
        assert float(centred.square().mean().sqrt()) == pytest.approx(deviation, rel=5 / (2 * WIDTH) ** 0.5)
        assert float(centred.pow(4).mean()) / deviation**4 == pytest.approx(kurtosis, rel=0.25)
        assert start.scale != "uniform" or bool(((drawn >= 0) & (drawn < 1)).all())
    assert not torch.equal(block.norm.weight, block.norm.bias)
    assert block.norm.running_var.unique().tolist() == [1.0]


def test_a_last_layer_is_its_own_start_times_a_number_for_each_feature() -> None:
    torch.manual_seed(0)
    block = grown(False, depth.AutoGrow(deviation=0.5))
    factors = block.up.weight.detach() * 2**0.5  # PyTorch starts uniformly on [-1, 1] / sqrt(fan-in)
    assert float(factors.square().mean()) == pytest.approx(0.25 / 3, rel=0.2)
    fresh = float(block.down.weight.detach().mul(WIDTH**0.5).square().mean())
    assert fresh == pytest.approx(1 / 3, rel=0.1)


def test_nothing_of_the_neighbour_is_left() -> None:
    """No optimizer state, newborn units, and copies of the model start from the same values."""
    model, x = net("residual").model(), net("residual").x()
    axes = trace(model, x)
    optimizer = torch.optim.Adam(model.parameters())
    model(x).square().mean().backward()
    optimizer.step()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    change = depth.duplicated(depth.places(axes), "stage.0", 1, depth.AutoGrow())
    commit = Edit(axes, optimizer, averaged).depth(change).commit()
    assert not any(p in optimizer.state for p in model.stage[1].parameters())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert "stage.1.conv1" in commit.record["after"]["born"]
    assert not commit.record["after"]["copies"]
    assert same(values(averaged.module.stage[1])[0], values(model.stage[1])[0])


def opened(name: str = "residual") -> tuple[nn.Module, AxisMap, Callable[[], Tensor]]:
    """A model, and a loss on batches that are drawn at random; the targets are those of the model."""
    model, shape = net(name).model().train(), net(name).x().shape
    teacher = copy.deepcopy(model)
    axes = trace(model, net(name).x())

    def loss() -> Tensor:
        x = torch.randn(4 * shape[0], *shape[1:], dtype=torch.float64)
        with torch.no_grad():
            wanted = teacher(x) + 0.3 * torch.randn(4 * shape[0], 5, dtype=torch.float64)
        return (model(x) - wanted).square().mean()

    return model, axes, loss


def mean_of(model: nn.Module, loss: Callable[[], Tensor]) -> float:
    """The mean loss on batches that were not fitted, in the mode that the model is in."""
    buffers = copy.deepcopy(dict(model.named_buffers()))
    torch.manual_seed(99)
    with torch.no_grad():
        found = sum(float(loss()) for _ in range(20)) / 20
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return found


def test_a_new_block_is_fitted_until_the_loss_is_back() -> None:
    model, axes, loss = opened()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss().backward()
    optimizer.step()
    before, state = values(model)[0], values(optimizer)["state"]
    wanted = mean_of(model, loss)
    fit = depth.AdamFit(steps=30, rounds=20, rate=0.02, tolerance=0.1)

    def change() -> depth.Change:
        return depth.duplicated(depth.places(axes), "stage.2", 1, depth.AutoGrow("gaussian"))

    averaged = torch.optim.swa_utils.AveragedModel(model)
    generator = torch.get_rng_state()
    commit = fit.commit(Edit(axes, optimizer, averaged).depth(change()), loss)
    assert torch.equal(torch.get_rng_state(), generator)
    found = mean_of(model, loss)
    assert found < wanted * 1.25
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[commit.moved[name]], before[name]) for name in before if name in parameters)
    assert same(values(optimizer)["state"], state)
    assert all(p.grad is None for p in model.stage[3].parameters())
    assert int(model.stage[3].bn2.num_batches_tracked) % 30 == 0
    assert int(model.stage[3].bn2.num_batches_tracked) > 0
    assert same(values(averaged.module.stage[3])[0], values(model.stage[3])[0])
    model.eval()
    assert mean_of(model, loss) < wanted * 1.5  # running statistics follow


def test_without_a_fit_the_loss_jumps() -> None:
    """What the test above fits away: the same block with its start."""
    model, axes, loss = opened()
    wanted = mean_of(model, loss)
    Edit(axes).depth(depth.duplicated(depth.places(axes), "stage.2", 1, depth.AutoGrow("gaussian"))).commit()
    assert mean_of(model, loss) > 1.5 * wanted


def test_a_silent_block_needs_one_round_and_keeps_near() -> None:
    model, axes, loss = opened()
    batches = int(model.stage[0].bn1.num_batches_tracked)
    change = depth.duplicated(depth.places(axes), "stage.0", 1, depth.Silent())
    depth.AdamFit(steps=3, rounds=50).commit(Edit(axes).depth(change), loss)
    assert int(model.stage[1].bn1.num_batches_tracked) == batches + 3
    assert float(model.stage[1].bn2.weight.detach().abs().max()) < 3 * 1.5e-3


def test_units_that_come_at_once_are_not_fitted() -> None:
    """A branch of a concatenation comes with columns in what reads it; only the branch is trained."""
    model, x = net("inception").model(), net("inception").x()
    axes = trace(model, x)
    head = model.head.weight.detach().clone()
    edit = Edit(axes).depth(depth.ConcatBranch(depth.places(axes), "wide", 3)).grow("stem", 1)
    depth.AdamFit(steps=2, rounds=1, rate=0.1).commit(edit, lambda: model(x).square().mean())
    assert torch.equal(model.head.weight[:, :9], head)
    assert not bool(model.head.weight[:, 9:].any())
    assert model.get_submodule("wide.1.0").weight.grad is None


@pytest.mark.parametrize("failure", ["no graph", "not finite", "nothing new"])
def test_a_failure_leaves_everything_as_it_was(failure: str) -> None:
    model, axes, loss = opened()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss().backward()
    optimizer.step()
    places = depth.places(axes)
    calls = 0

    def failing() -> Tensor:
        nonlocal calls
        calls += 1
        value = loss()
        if calls <= 6:  # once before the edit, once within it
            return value
        return value.detach() if failure == "no graph" else value * float("nan")

    change = depth.Remove(places, "stage.0") if failure == "nothing new" else depth.AddBranch(places, "stage.0.conv2")
    before = Snapshot([model], [optimizer])
    fit, edit = depth.AdamFit(steps=4), Edit(axes, optimizer).depth(change)
    with pytest.raises(EditError if failure == "nothing new" else SignalError):
        fit.commit(edit, failing)
    before.check()


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"steps": 0}, {"rounds": 0}, {"rate": 0.0}, {"tolerance": -1.0}, {"decay": float("nan")}):
        with pytest.raises(ConfigError, match="AdamFit"):
            depth.AdamFit(**wrong)
