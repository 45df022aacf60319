"""Activity of units against what autograd gives when it is asked directly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.axes import Role
from meristem.errors import ConfigError
from meristem.signals import Activations, Recorder, UnitActivity, activation_frequency, gradient_size
from meristem.signals.slices import index_norms, sum_by_unit
from tests.grow.sites import MANY_PRODUCERS, make, objective
from tests.signals.passes import built, convnet, loss_of, mlp, recorded


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected.double(), rtol=0, atol=1e-12)


def gradient_norms(axes: meristem.AxisMap, axis: meristem.Axis, role: Role) -> Tensor:
    """From the gradients that the parameters hold."""
    squares = torch.zeros(axis.size, dtype=torch.float64)
    for place in axes.places[axis.index]:
        if role in place.roles:
            gradient = axes.model.get_parameter(place.layout.name).grad
            squares += sum_by_unit(index_norms(gradient, place.dim, 2), axes, axis, place)
    return squares.sqrt()


CASES = [
    (name, activation)
    for name in MANY_PRODUCERS
    for activation in (nn.ReLU(), nn.ReLU(inplace=True), nn.Tanh())
    if name != "stream" or not getattr(activation, "inplace", False)  # it reads the same activation twice
]


@pytest.mark.parametrize(("name", "activation"), CASES, ids=str)
def test_gradients_are_those_of_autograd(name, activation):
    model, x, labels, axis_name = make(MANY_PRODUCERS[name], activation)
    axes = meristem.trace(model, x)
    axis = axes[axis_name]
    model.zero_grad()  # some sites share their modules
    produced: list[Tensor] = []

    def keep(module: nn.Module, args: object, result: Tensor) -> None:
        whole = result if result._base is None else result._base  # the hooks of a view modified in place are lost
        whole.register_hook(lambda gradient: produced.append(gradient.reshape(result.shape)))

    producers = [p.layout.name.removesuffix(".weight") for p in axes.places[axis.index] if Role.PRODUCES in p.roles]
    handles = [model.get_submodule(producer).register_forward_hook(keep) for producer in producers]
    found = recorded(axes, [UnitActivity(axis.name)], lambda: objective(model, x, labels)().backward())
    for handle in handles:
        handle.remove()
    activity = found[UnitActivity(axis.name)]
    channel = 1 if produced[0].dim() > 3 or name == "conv1d" else -1
    rows = torch.cat([gradient.movedim(channel, -1).flatten(0, -2) for gradient in produced])
    assert close(activity.gradient, rows.abs().mean(0))
    assert close(activity.fan_in_gradient, gradient_norms(axes, axis, Role.PRODUCES))
    assert close(activity.fan_out_gradient, gradient_norms(axes, axis, Role.READS))
    assert float(activity.gradient.min()) >= 0
    assert float(activity.gradient.max()) > 0


def test_activations_are_those_that_are_read():
    model, x, axes = built(convnet, (5, 2, 7, 7))
    activity = recorded(axes, [UnitActivity("0", 0.3)], lambda: loss_of(model(x)).backward())[UnitActivity("0", 0.3)]
    h = model[:2](x).detach()
    assert close(activity.frequency, (h > 0.3).double().mean((0, 2, 3)))
    assert close(activity.size, h.mean((0, 2, 3)))
    assert close(activity.frequency, activation_frequency(h, 0.3))


def test_both_signs_count_as_active():
    h = torch.tensor([[-1.0, 0.04], [1.0, -0.04], [0.0, 0.06]])
    assert activation_frequency(h).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert gradient_size(h).tolist() == pytest.approx([2 / 3, 0.14 / 3])


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, lambda n: nn.Identity()])
def test_normalizations_in_between_are_seen_as_they_are(norm):
    model, x, axes = built(lambda: nn.Sequential(nn.Linear(5, 6), norm(6), nn.GELU(), nn.Linear(6, 3)).eval(), (8, 5))
    model.train()
    kept: list[Tensor] = []
    handle = model[0].register_forward_hook(lambda _, args, z: kept.append(z) or z.retain_grad())
    activity = recorded(axes, [UnitActivity("0")], lambda: loss_of(model(x)).backward())[UnitActivity("0")]
    handle.remove()
    assert close(activity.gradient, gradient_size(kept[0].grad))


def test_passes_are_added_up_and_steps_averaged():
    model, x, axes = built(mlp, (8, 5))
    asked = UnitActivity("0")

    def halves() -> None:
        for part in x.split(4):
            (loss_of(model(part)) / 2).backward()

    def step() -> None:
        loss_of(model(x)).backward()

    once = recorded(axes, [asked], step)[asked]
    split = recorded(axes, [asked], halves)[asked]
    recorder = Recorder(axes, [asked], steps=2)
    step()
    recorder.closing()
    step()
    twice = recorder.finish()[asked]
    for other in (split, twice):
        assert close(other.frequency, once.frequency)
        assert close(other.fan_in_gradient, once.fan_in_gradient)
        assert close(other.fan_out_gradient, once.fan_out_gradient)
        assert close(other.gradient, once.gradient)


def test_ranks_are_put_together():
    model, x, axes = built(mlp, (8, 5))
    asked, accumulators = UnitActivity("0"), []
    for part in x.split(4):
        recorder = Recorder(axes, [asked])
        loss_of(model(part)).backward()
        accumulators.append(recorder._accumulators[asked])
        recorder.cancel()
    first, second = (accumulator.result() for accumulator in accumulators)
    for mine, other in zip(*(accumulator.parts() for accumulator in accumulators), strict=True):
        mine += other
    both, whole = accumulators[0].result(), recorded(axes, [asked], lambda: loss_of(model(x)).backward())[asked]
    assert close(both.frequency, whole.frequency)
    assert close(both.gradient, (first.gradient + second.gradient) / 2)
    assert close(both.fan_in_gradient, 2 * whole.fan_in_gradient)
    assert close(both.fan_out_gradient, 2 * whole.fan_out_gradient)


def test_gradients_of_weights_do_not_depend_on_what_is_accumulated_already_or_done_to_them_later():
    model, x, axes = built(mlp, (8, 5))
    asked = UnitActivity("0")
    alone = recorded(axes, [asked], lambda: loss_of(model(x)).backward())[asked]

    def clipped() -> None:
        loss_of(model(x)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
        model.zero_grad(set_to_none=False)

    for _ in range(2):
        again = recorded(axes, [asked], clipped)[asked]  # gradients of the first pass are still there
        assert close(again.fan_in_gradient, alone.fan_in_gradient)
        assert close(again.fan_out_gradient, alone.fan_out_gradient)
        model.zero_grad(set_to_none=True)
    scaled = recorded(axes, [asked], lambda: (1024 * loss_of(model(x))).backward(), scale=lambda: 1024.0)[asked]
    assert close(scaled.fan_in_gradient, alone.fan_in_gradient)


def test_passes_that_overflow_are_left_out():
    model, x, axes = built(mlp, (8, 5))
    asked = UnitActivity("0")

    def step() -> None:
        (loss_of(model(x)) * torch.inf).backward()
        loss_of(model(x)).backward()

    alone = recorded(axes, [asked], lambda: loss_of(model(x)).backward())[asked]
    assert all(close(vars(recorded(axes, [asked], step)[asked])[what], found) for what, found in vars(alone).items())


def test_a_recorder_may_begin_again():
    model, x, axes = built(mlp, (8, 5))
    asked = UnitActivity("0")
    recorder = Recorder(axes, [asked])
    loss_of(model(x)).backward()
    first = recorder.finish()[asked]
    old = loss_of(model(3 * x))
    recorder.restart()
    old.backward()  # a pass from before is not heard
    loss_of(model(x)).backward()
    again = recorder.finish()[asked]
    assert close(again.frequency, first.frequency)
    assert close(again.gradient, first.gradient)


def test_axes_that_were_heard_are_given_without_the_others():
    model, x, axes = built(mlp, (8, 5))
    model[4].requires_grad_(False)
    recorder = Recorder(axes, [UnitActivity("0"), UnitActivity("2")])
    model[:3](x).square().mean().backward()  # not through the model
    found, problems = recorder.heard()
    assert (found, set(problems)) == ({}, {"0", "2"})


def test_others_do_not_wait_and_are_the_same():
    model, x, axes = built(mlp, (8, 5))
    step = lambda: loss_of(model(x)).backward()  # noqa: E731
    alone = recorded(axes, [Activations("0"), Activations("2")], step)
    beside = recorded(axes, [Activations("0"), Activations("2"), UnitActivity("0")], step)
    assert all(torch.equal(alone[asked], beside[asked]) for asked in alone)


def test_a_frozen_producer_has_no_gradient():
    model, x, axes = built(mlp, (8, 5))
    model[0].requires_grad_(False)
    activity = recorded(axes, [UnitActivity("0")], lambda: loss_of(model(x)).backward())[UnitActivity("0")]
    assert activity.gradient.tolist() == [0.0] * 6
    assert float(activity.fan_out_gradient.min()) > 0


def test_thresholds_are_checked():
    with pytest.raises(ConfigError, match="at least 0"):
        UnitActivity("0", -0.1)
