"""What is heard is training: passes that accumulate gradients, and nothing else."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import meristem
from meristem.axes import trace
from meristem.diagnose import Monitor
from meristem.errors import SignalError
from meristem.signals import BestMove, FanInGradient, UnitActivity
from meristem.signals.backward import Backward
from meristem.signals.reads import Reads
from meristem.signals.sensitivity import Sensitivity
from tests.signals.passes import built, loss_of, mlp
from tests.signals.table import assert_same, every_statistic, recorded


def saliency(model: nn.Module, x: Tensor) -> None:
    inputs = (7 * x).requires_grad_()
    torch.autograd.grad(1e3 * model(inputs).sum(), inputs)


def attack(model: nn.Module, x: Tensor) -> None:
    inputs = (7 * x).requires_grad_()
    loss_of(model(inputs)).backward(inputs=[inputs])


def gradient_norm(model: nn.Module, x: Tensor) -> None:
    torch.autograd.grad(1e3 * loss_of(model(7 * x)), list(model.parameters()))


def differentiable(model: nn.Module, x: Tensor) -> None:
    torch.autograd.grad(1e3 * loss_of(model(7 * x)), list(model.parameters()), create_graph=True)


LOOKS = (saliency, attack, gradient_norm, differentiable)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("first", [True, False])
def test_looks_at_gradients_change_nothing(look, first):
    model, x, axes = built(mlp, (8, 5))
    asked = every_statistic("0")

    def step() -> None:
        for number, part in enumerate(x.split((5, 3))):
            if first or number:
                look(model, x)
            (len(part) / 8 * loss_of(model(part))).backward()
            if not first:
                look(model, x)

    def alone() -> None:
        for part in x.split((5, 3)):
            (len(part) / 8 * loss_of(model(part))).backward()

    assert_same(recorded(axes, asked, alone), recorded(axes, asked, step))


def test_a_look_at_the_graph_of_the_step_changes_nothing():
    model, x, axes = built(mlp, (8, 5))
    asked = every_statistic("0")

    def step() -> None:
        y = model(x)
        torch.autograd.grad(1e3 * y.sum(), list(model.parameters()), retain_graph=True)
        loss_of(y).backward()

    assert_same(recorded(axes, asked, lambda: loss_of(model(x)).backward()), recorded(axes, asked, step))


@pytest.mark.parametrize("look", LOOKS)
def test_looks_alone_are_silence(look):
    model, x, axes = built(mlp, (8, 5))
    for asked in (UnitActivity("0"), BestMove("0"), FanInGradient("0"), Reads("0")):
        with pytest.raises(SignalError):
            recorded(axes, (asked,), partial(look, model, x))


@pytest.mark.parametrize("look", LOOKS)
def test_a_monitor_does_not_see_them(look):
    numbers = []
    for looking in (False, True):
        model, x, axes = built(mlp, (8, 5))
        monitor = Monitor(1).begin(axes)
        if looking:
            look(model, x)
        loss_of(model(x)).backward()
        monitor.step()
        numbers.append(monitor.records[-1].numbers())
    assert numbers[0] == numbers[1]


# ---------------------------------------------------------------------- what trains


def by_name(loss: Tensor, model: nn.Module) -> None:
    loss.backward(inputs=list(model.parameters()))


def with_graph(loss: Tensor, model: nn.Module) -> None:
    loss.backward(create_graph=True)


def one_by_one(loss: Tensor, model: nn.Module) -> None:
    """Steps during the backward pass, as optimizers do that keep no gradients."""

    def step(parameter: nn.Parameter) -> None:
        parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(step) for parameter in model.parameters()]
    loss.backward()
    for handle in handles:
        handle.remove()


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("train", [by_name, with_graph, one_by_one])
def test_these_train(train):
    model, x, axes = built(mlp, (8, 5))
    asked = tuple(s for s in every_statistic("0") if train is not one_by_one or type(s).__name__ != "StepActivity")
    expected = recorded(axes, asked, lambda: loss_of(model(x)).backward())
    model.zero_grad()
    assert_same(expected, recorded(axes, asked, lambda: train(loss_of(model(x)), model)))


def test_all_that_is_asked_may_be_frozen_as_long_as_something_trains():
    """As with adapters: the weights of the axis get no gradients, but what they give does."""
    model, x, axes = built(mlp, (8, 5))
    expected = recorded(axes, (UnitActivity("2"),), lambda: loss_of(model(x)).backward())[UnitActivity("2")]
    for index in (2, 4):
        model[index].requires_grad_(False)

    def step() -> None:
        saliency(model, x)
        loss_of(model(x)).backward()

    found = recorded(axes, (UnitActivity("2"),), step)[UnitActivity("2")]
    torch.testing.assert_close(found.gradient, expected.gradient)
    torch.testing.assert_close(found.frequency, expected.frequency)
    assert float(found.fan_in_gradient.max()) == 0


class Segmented(nn.Module):
    """All but the head is recomputed in the backward pass."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(5, 5), nn.Linear(5, 6), nn.Linear(6, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        body = nn.Sequential(self.up, nn.Tanh())
        h = self.stem(x)
        plain = self.reentrant is None or not torch.is_grad_enabled()
        return self.down(body(h) if plain else checkpoint(body, h, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_passes_train(reentrant):
    """Where calls are hidden (reentrant), gradients of weights still come."""
    names = ("FanInGradient", "Sensitivity", "Reads") if reentrant else ()
    asked = tuple(s for s in every_statistic("up") if not names or type(s).__name__ in names)
    results = []
    for how in (None, reentrant):
        model, x, axes = built(lambda how=how: Segmented(how), (6, 5))
        results.append(recorded(axes, asked, lambda model=model, x=x: loss_of(model(x)).backward()))
    assert_same(*results)


def test_passes_within_passes_are_told_apart():
    model, x, _ = built(lambda: Segmented(True), (6, 5))
    backward, heard = Backward(model), []
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda _, name=name: heard.append((name, backward.trains())))
    loss_of(model(x)).backward()
    assert {name for name, trains in heard if trains} == {name for name, _ in model.named_parameters()}


def test_a_pass_that_fails_leaves_nothing_behind():
    model, x, axes = built(mlp, (8, 5))
    asked = (Sensitivity("0"),)

    def failing() -> None:
        y = model(x)
        handle = model[0].weight.register_hook(lambda _: (_ for _ in ()).throw(ZeroDivisionError))
        with pytest.raises(ZeroDivisionError):
            loss_of(y).backward()
        handle.remove()
        model.zero_grad()

    expected = recorded(axes, asked, lambda: loss_of(model(x)).backward())
    assert_same(expected, recorded(axes, asked, lambda: (failing(), loss_of(model(x)).backward())))


# ---------------------------------------------------------------------- through two graphs


def penalized(model: nn.Module, x: Tensor) -> Tensor:
    """A loss with the norm of the model's own gradient in it."""
    inputs = x.clone().requires_grad_()
    y = model(inputs)
    (slope,) = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    return loss_of(y) + slope.square().sum(1).mean()


def test_a_gradient_penalty_is_part_of_the_loss():
    """dL/dz is that of the whole loss: against central differences in z itself, the inner gradient following."""
    model, x, axes = built(mlp, (4, 5))
    asked = UnitActivity("0"), FanInGradient("0")
    found = recorded(axes, asked, lambda: penalized(model, x).backward())
    torch.testing.assert_close(found[asked[1]], model[0].weight.grad.norm(dim=1))
    torch.testing.assert_close(found[asked[0]].fan_in_gradient, model[0].weight.grad.norm(dim=1))
    shift = torch.zeros(4, 6, dtype=torch.float64)
    handle = model[0].register_forward_hook(lambda *args: args[2] + shift)
    step, rows = 1e-6, torch.zeros(4, 6, dtype=torch.float64)
    for entry in range(24):
        values = []
        for sign in (step, -step):
            shift.view(-1)[entry] = sign
            values.append(float(penalized(model, x).detach()))
        shift.view(-1)[entry] = 0
        rows.view(-1)[entry] = (values[0] - values[1]) / (2 * step)
    handle.remove()
    torch.testing.assert_close(found[asked[0]].gradient, rows.abs().mean(0), rtol=1e-6, atol=1e-9)


def test_losses_of_one_graph_one_after_the_other():
    """Gradients of weights add up exactly; sizes of gradients of activations call by call."""
    model, x, axes = built(mlp, (8, 5))
    asked = UnitActivity("0"), FanInGradient("0"), Reads("0")

    def separately() -> None:
        y = model(x)
        loss_of(y).backward(retain_graph=True)
        (3 * y.sum(1).mean()).backward()

    def together() -> None:
        y = model(x)
        (loss_of(y) + 3 * y.sum(1).mean()).backward()

    whole, found = recorded(axes, asked, together), recorded(axes, asked, separately)
    torch.testing.assert_close(found[asked[1]], whole[asked[1]])
    for what in ("frequency", "size", "fan_in_gradient", "fan_out_gradient"):
        torch.testing.assert_close(getattr(found[asked[0]], what), getattr(whole[asked[0]], what))
    torch.testing.assert_close(found[asked[2]]["2.weight"].mean, whole[asked[2]]["2.weight"].mean)
    assert bool((found[asked[0]].gradient >= whole[asked[0]].gradient - 1e-12).all())


def test_growth_is_planned_as_without_the_look():
    """The whole way: GradMax in a controller, with an attack in every step."""
    weights = []
    for looking in (False, True):
        torch.manual_seed(0)
        model, x, axes = built(mlp, (8, 5))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        plasticity = meristem.Plasticity(
            model, optimizer, axes, grow=meristem.grow.GradMax(), schedule=meristem.schedule.At(2, grow=2), axes=["0"]
        )
        for _ in range(3):
            optimizer.zero_grad()
            if looking:
                attack(model, x)
            loss = loss_of(model(x))
            loss.backward()
            optimizer.step()
            plasticity.step(loss)
        weights.append([p.detach().clone() for p in model.parameters()])
    assert weights[0][0].shape == (8, 5)
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))


def test_a_model_without_parameters_that_train_is_trained_by_nobody():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).requires_grad_(False)
    x = torch.randn(2, 3, requires_grad=True)
    axes = trace(model, x.detach())
    with pytest.raises(SignalError):
        recorded(axes, (UnitActivity("0"),), lambda: model(x).sum().backward())
