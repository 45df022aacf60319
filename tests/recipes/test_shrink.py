"""Shrinking a trained model: how much goes, which units, what is left of the function, and what is refused."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import meristem
from meristem.allocate import Proportional
from meristem.errors import ConfigError, EditError
from meristem.mask import RigL, Sparse
from meristem.prune import (
    LAMP,
    ActivationVariance,
    APoZ,
    Compensated,
    ContributionUtility,
    Criterion,
    Dormancy,
    GradientDormancy,
    GraSP,
    GroupNorm,
    Isomorphic,
    Magnitude,
    Normalized,
    Protect,
    Random,
    Taylor,
    WandaUnits,
)
from meristem.recipes import goal, shrink, supervised
from meristem.recipes.shrunk import Shrunk


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 3)).double()


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 2), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3),
    ).double()  # fmt: skip


def data(*shape: int, count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, *shape, dtype=torch.float64, generator=draw), torch.randint(3, (8,), generator=draw))
        for _ in range(count)
    ]


def spoilt(value: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of which one has a value that is not finite."""
    batches = data(4)
    batches[1][0][3, 2] = value
    return batches


X = torch.zeros(2, 4, dtype=torch.float64)
IMAGE = torch.zeros(2, 1, 6, 6, dtype=torch.float64)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# ------------------------------------------------------------------ frozen models, and those that hear of it


FORWARD = [WandaUnits(), Dormancy(), APoZ(), ActivationVariance(), GroupNorm(), Magnitude()]


@pytest.mark.parametrize("criterion", FORWARD, ids=lambda criterion: type(criterion).__name__)
def test_what_needs_no_gradient_works_on_a_frozen_model_and_finds_the_same(criterion):
    """Means for the biases too come from forward passes alone."""
    trained, frozen = mlp(), mlp().requires_grad_(False)
    for model in (trained, frozen):
        shrink(model, X, flops=0.5, batches=data(4), criterion=criterion)
    assert all(torch.equal(tensor, frozen.state_dict()[name]) for name, tensor in trained.state_dict().items())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert shrink(mlp().requires_grad_(False), X, tolerance=0.1, batches=data(4), criterion=criterion).done


@pytest.mark.parametrize("criterion", [None, Taylor(), GradientDormancy(), GraSP()])
def test_what_needs_gradients_says_how_a_frozen_model_gets_them(criterion):
    model = mlp().requires_grad_(False)
    before = state(model)
    with pytest.raises(ConfigError, match=r"call model\.requires_grad_\(True\)"):
        shrink(model, X, flops=0.5, batches=data(4), criterion=criterion)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_masks_follow():
    """With `follow=` training goes on with masks as large as the weights."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparse = Sparse(model, optimizer, RigL(density=0.3, end=100, interval=2))
    shrink(model, X, flops=0.5, batches=data(4), optimizers=optimizer, follow=[sparse], rounds=2)
    assert sparse.masks["0.weight"].shape == model[0].weight.shape
    for inputs, labels in data(4, count=3):
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not model[0].weight[~sparse.masks["0.weight"]].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flops": "0.5"}, "got {'flops': '0.5'}"),
        ({"flops": True}, "got {'flops': True}"),
        ({"flops": 0.5, "rounds": 2.0}, "rounds=2.0"),
        ({"flops": 0.5, "steps": "3"}, "steps='3'"),
        ({"flops": 0.5, "floor": "0.1"}, "floor='0.1'"),
        ({"flops": 0.5, "multiple": 8.0}, "multiple=8.0"),
    ],
)
def test_numbers_are_numbers(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        shrink(mlp(), X, batches=data(4), **settings)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, batch: 3.0, "gave a float"),
        (lambda model, batch: model(batch[0]).square(), r"gave a tensor of shape \(8, 3\)"),
        (lambda model, batch: model(batch[0]).square().mean().detach(), "the loss has no graph"),
    ],
)
def test_a_loss_is_a_scalar_with_a_graph(loss, message):
    with pytest.raises(ConfigError, match=message):
        shrink(mlp(), X, flops=0.5, batches=data(4), loss=loss)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_latency_of_a_model_whose_weights_hooks_compute(monkeypatch):
    """It is timed against a copy, though what hooks left in it cannot be copied as it is."""
    model = mlp()
    nn.utils.weight_norm(model[0])
    model(X)
    monkeypatch.setattr(goal, "latency_ratio", lambda model, other, *a, **runs: len(model[0].bias) / len(other[0].bias))
    found = shrink(model, X, latency=0.5)
    assert found.done
    assert model[0].out_features == 15


# ------------------------------------------------------------------ how much, and who


@pytest.mark.parametrize("share", [0.9, 0.5, 0.21])
@pytest.mark.parametrize(
    ("cost", "of"), [("flops", lambda n: n), ("parameters", lambda n: 8 * n + 3), ("memory", lambda n: 8 * n + 3)]
)
def test_as_few_units_go_as_meet_the_target_and_those_that_score_least(cost, of, share):
    model = mlp()
    left = max(n for n in range(1, 31) if of(n) <= share * of(30))
    norms = model[0].weight.square().sum(1).sqrt()
    expected = norms.topk(left).indices.sort().values
    weight = model[0].weight[expected].clone()
    found = shrink(model, X, **{cost: share}, criterion=Magnitude())
    assert found.axes["0"].size == left
    assert torch.equal(model[0].weight, weight)
    assert found.done


def test_latency_is_measured_while_amounts_are_tried(monkeypatch):
    """With a clock that counts hidden units, the result is known."""
    model = mlp()
    monkeypatch.setattr(goal, "latency", lambda model, args, kwargs, **runs: float(len(model[0].weight)))
    monkeypatch.setattr(
        goal, "latency_ratio", lambda model, other, args, kwargs, **runs: len(model[0].weight) / len(other[0].weight)
    )
    found = shrink(model, X, latency=0.4)
    assert found.axes["0"].size == 12
    assert found.seconds == (30.0, 12.0)
    assert found.missed is None


def test_latency_is_measured_once_more_and_a_target_that_was_missed_is_named(monkeypatch):
    """A clock that is right while amounts are tried, and shows no gain at all once the model has shrunk."""
    model = mlp()

    def clock(model, other, args, kwargs, **runs):
        return 0.9 if shrunk else len(model[0].weight) / len(other[0].weight)

    shrunk: list[nn.Module] = []
    monkeypatch.setattr(goal, "latency_ratio", clock)
    found = shrink(model, X, latency=0.4, finetune=shrunk.append)
    assert found.seconds[1] == pytest.approx(0.9 * found.seconds[0])
    assert found.missed == "target missed: asked for latency 0.4, measured 0.9 at the end"
    assert found.missed in str(found)


@pytest.mark.parametrize("rounds", [1, 2])
def test_as_much_goes_as_a_tolerance_of_the_loss_allows(rounds):
    """Of the mean over the first batches, in eval mode."""
    model, batches = convolutional(), data(1, 6, 6)

    def loss() -> float:
        with torch.no_grad():
            return sum(float(supervised(model.eval(), batch)) for batch in batches[:3]) / 3

    base = loss()
    settings = {"tolerance": 0.05, "batches": batches, "steps": 3, "rounds": rounds, "criterion": Taylor()}
    found = shrink(model, IMAGE, **settings)
    assert sum(axis.before - axis.after for axis in found.change.axes) > 0
    assert loss() <= 1.05 * base * (1 + 1e-12)
    assert found.missed is None
    with pytest.raises(EditError, match="no unit can go"):
        shrink(model, IMAGE, **{**settings, "tolerance": 1e-9, "criterion": Largest()})


def test_a_tolerance_that_training_gave_away_is_named():
    def spoil(model: nn.Module) -> None:
        with torch.no_grad():
            model[2].weight.mul_(100)

    found = shrink(mlp(), X, tolerance=0.05, batches=data(4), finetune=spoil)
    assert "target missed: asked for a loss of at most" in (found.missed or "")


def test_rounds_approach_the_target_in_equal_factors_and_score_anew():
    model, sizes, scored = mlp(), [], []

    def train(given: nn.Module) -> None:
        assert given is model
        sizes.append(len(given[0].weight))
        scored.append(given[0].weight.square().sum(1).sqrt().min().item())
        with torch.no_grad():  # the largest become the smallest
            norms = given[0].weight.norm(dim=1, keepdim=True)
            given[0].weight.div_(norms.square())

    once = mlp()
    shrink(once, X, flops=0.3, criterion=Magnitude())
    shrink(model, X, flops=0.3, criterion=Magnitude(), rounds=3, finetune=train)
    assert sizes == [int(30 * 0.3 ** (k / 3) + 1e-9) for k in (1, 2, 3)]
    assert not torch.equal(once[0].bias, model[0].bias)


def test_limits_hold():
    model = convolutional()
    found = shrink(model, IMAGE, parameters=0.6, floor=0.5, multiple=2, keep=["0*"])
    assert found.axes["0"].size == 12
    assert found.axes["3"].size == 8 == found.axes["3"].size // 2 * 2
    assert found.left["0"] == "among `keep`"


def test_an_allocator_brings_its_own_limits():
    found = shrink(convolutional(), IMAGE, flops=0.3, allocate=Proportional())
    shares = [axis.after / axis.before for axis in found.change.axes]
    assert max(shares) - min(shares) < 1 / 12


@dataclass(frozen=True)
class Largest(Criterion):
    """The most important go first: units with large weights."""

    def scores(self, view, axis):
        return -Magnitude().scores(view, axis)


# ------------------------------------------------------------------ what is left of the function


def test_units_that_are_constant_go_without_a_trace_if_compensated():
    """Ten units read nothing and give what their bias is: their readers' biases take that over exactly."""
    kept, lost = mlp(), mlp()
    for model in (kept, lost):
        with torch.no_grad():
            model[0].weight[5:15] = 0
            model[0].bias[5:15] = 1.5
    batches = data(4)
    before = kept(batches[0][0])
    for model, compensate in ((kept, True), (lost, False)):
        shrink(model, X, flops=2 / 3, batches=batches, criterion=ActivationVariance(), compensate=compensate)
        assert len(model[0].weight) == 20
    torch.testing.assert_close(kept(batches[0][0]), before)
    assert (lost(batches[0][0]) - before).abs().max() > 0.1


def test_a_criterion_that_compensates_is_taken_as_it_is():
    """And gives what `shrink` gives that compensates by itself."""
    models = [mlp() for _ in range(3)]
    for model, criterion in zip(models, (Taylor(), Compensated(Taylor()), Protect(Compensated(Taylor()))), strict=True):
        shrink(model, X, flops=0.5, batches=data(4), criterion=criterion)
    for other in models[1:]:
        assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), other.parameters(), strict=True))
    for wrapped in (Normalized(Magnitude()), LAMP(Magnitude()), Isomorphic(Taylor())):
        assert shrink(mlp(), X, flops=0.5, batches=data(4), criterion=wrapped).axes["0"].size == 15


def test_where_biases_cannot_take_it_over_pruning_is_plain():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 3, bias=False)).double()
    weight = model[2].weight.clone()
    found = shrink(model, X, flops=0.5, batches=data(4))
    assert found.axes["0"].size == 15
    columns = {tuple(column.tolist()) for column in weight.T}
    assert {tuple(column.tolist()) for column in model[2].weight.T} <= columns


def test_it_goes_on_with_the_optimizer_and_is_saved_with_its_history(tmp_path):
    model, batches = convolutional(), data(1, 6, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def train(given: nn.Module) -> None:
        for batch in batches:
            supervised(given, batch).backward()
            optimizer.step()
            optimizer.zero_grad()

    train(model)
    found = shrink(model, IMAGE, flops=0.5, batches=batches, rounds=2, finetune=train, optimizers=optimizer)
    assert found.axes.flops() <= 0.5 * found.change.flops[0]
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    meristem.save(tmp_path / "small.safetensors", found.axes, optimizer)
    again = convolutional()
    meristem.load(tmp_path / "small.safetensors", again, IMAGE)
    x = batches[0][0]
    assert torch.equal(again.eval()(x), model.eval()(x))


# ------------------------------------------------------------------ looking first


def test_what_is_shown_first_is_what_is_done_and_a_refusal_changes_nothing():
    model, shown = convolutional(), []
    model[1].eval()
    supervised(model, data(1, 6, 6)[0]).backward()
    before = state(model)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    settings = {"flops": 0.5, "batches": data(1, 6, 6), "criterion": Taylor()}
    random = torch.get_rng_state()
    refused = shrink(model, IMAGE, **settings, confirm=lambda would: shown.append(would) or False)
    assert torch.equal(torch.get_rng_state(), random)
    assert not refused.done
    assert refused.axes.history == ()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [m.training for m in (model, model[0], model[1])] == [True, True, False]
    done = shrink(model, IMAGE, **settings, confirm=lambda would: shown.append(would) or True)
    assert shown[0].change == shown[1].change == done.change
    assert done.done


def test_the_table_names_axes_costs_and_what_was_left():
    found = shrink(convolutional(), IMAGE, flops=0.5, keep=["3*"])
    text = str(found)
    for words in ("Shrunk", "parameters", "FLOPs", "memory (MiB)", "forward pass (ms)", "among `keep`"):
        assert words in text
    assert f"{found.change.flops[1]:,}" in text
    assert "Would be" in str(Shrunk(found.axes, found.change, found.seconds, {}, done=False))


# ------------------------------------------------------------------ data


def test_criteria_that_evaluate_the_loss_get_it_and_randomness_follows_the_seed():
    assert shrink(mlp(), X, flops=0.5, batches=data(4), criterion=GraSP(), loss=supervised).axes["0"].size == 15
    models = [mlp() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        shrink(model, X, flops=0.5, criterion=Random(), seed=seed)
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    assert not torch.equal(models[0][0].weight, models[2][0].weight)


def test_a_loss_of_ones_own_decides():
    """A loss that looks at the first output only makes units worthless that do not feed it."""
    model = mlp()
    with torch.no_grad():
        model[2].weight[0, ::2] = 0
    expected = model[0].weight[1::2].clone()
    shrink(model, X, flops=0.5, batches=data(4), loss=lambda net, batch: net(batch[0])[:, 0].sum())
    assert torch.equal(model[0].weight, expected)


def test_supervised_takes_pairs_and_batches_by_name():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x, labels=None):
            logits = self.net(x)
            loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
            return type("Output", (), {"logits": logits, "loss": loss})

    model, (x, y) = Named(), data(4)[0]
    expected = nn.functional.cross_entropy(model.net(x), y)
    assert torch.equal(supervised(model, (x, y)), expected)
    assert torch.equal(supervised(model, {"x": x, "labels": y}), expected)
    with pytest.raises(ConfigError, match="put labels into the batches"):
        supervised(model, {"x": x})
    with pytest.raises(ConfigError, match="expected batches that are pairs"):
        supervised(model, x)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ConfigError, "exactly one of flops"),
        ({"flops": 0.5, "memory": 0.5}, ConfigError, "exactly one of flops"),
        ({"flops": 2}, ConfigError, "above 0"),
        ({"flops": 0.5, "rounds": 0}, ConfigError, "rounds >= 1"),
        ({"flops": 0.5, "floor": 1.0}, ConfigError, "0 <= floor < 1"),
        ({"flops": 0.5, "multiple": 0}, ConfigError, "multiple >= 1"),
        ({"flops": 0.5, "keep": ["*"]}, ConfigError, "no axis is left"),
        ({"flops": 0.5, "keep": "*"}, ConfigError, "no axis is left"),
        ({"flops": 0.5, "keep": ["0", "stem*"]}, KeyError, r"keep='stem\*' matches no axis: .* such as '0'"),
        ({"flops": 0.5, "criterion": Taylor()}, ConfigError, "Taylor looks at data: give batches="),
        ({"flops": 0.5, "criterion": GraSP()}, ConfigError, "GraSP looks at data"),
        ({"flops": 0.5, "criterion": Magnitude}, ConfigError, "got the class Magnitude: call it"),
        ({"flops": 0.5, "criterion": "taylor"}, ConfigError, "got 'taylor'"),
        ({"flops": 0.5, "batches": data(4), "loss": nn.MSELoss()}, ConfigError, "got the module MSELoss"),
        ({"flops": 0.5, "batches": iter(data(4)), "rounds": 2}, ConfigError, "list_iterator, which can be read once"),
        ({"flops": 0.5, "batches": iter(())}, ConfigError, "gave none"),
        ({"flops": 0.5, "batches": data(4), "criterion": ContributionUtility()}, ConfigError, "Plasticity"),
        ({"flops": 0.05}, EditError, "0.1 at best"),
        ({"parameters": 1e-9}, EditError, "at best"),
        ({"flops": 0.5, "batches": spoilt(float("nan"))}, ConfigError, "the loss of batch 2 is nan.* in that batch"),
        ({"flops": 0.5, "batches": spoilt(float("inf"))}, ConfigError, "the loss of batch 2 is nan"),
        ({"tolerance": 0.1, "batches": spoilt(float("nan"))}, ConfigError, "mean loss of the first batches is nan"),
        ({"parameters": 0.5, "multiple": 40}, EditError, "cannot be brought"),
        ({"latency": 1e-9}, EditError, "latency cannot be brought"),
        ({"tolerance": 0.0, "batches": data(4)}, ConfigError, "the loss may rise, above 0"),
        ({"tolerance": 0.1}, ConfigError, "tolerance= looks at data"),
        ({"tolerance": 0.1, "batches": iter(data(4))}, ConfigError, "for a tolerance: give a DataLoader"),
        ({"tolerance": 0.1, "flops": 0.5, "batches": data(4)}, ConfigError, "exactly one of flops"),
        ({"flops": 0.5, "axes": "1"}, KeyError, "no axis"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_touched(settings, error, message):
    model = mlp()
    before, twin = state(model), copy.deepcopy(model)
    with pytest.raises(error, match=message):
        shrink(model, X, **settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(
        p.grad is None and p.shape == q.shape for p, q in zip(model.parameters(), twin.parameters(), strict=True)
    )
