"""The rule for every statistic: a step in several passes gives what one pass over all its samples would."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from meristem.axes import trace
from meristem.diagnose import Monitor
from meristem.errors import SignalError
from meristem.plasticity.listening import Listening, Target
from meristem.signals import Directions, FanInGradient, UnitActivity
from meristem.signals.direct import Recording
from meristem.signals.reads import Reads
from meristem.signals.sensitivity import Sensitivity
from tests.signals.passes import built, convnet, loss_of, mlp
from tests.signals.table import assert_same, every_statistic, known, recorded

SPLITS = {"even": (4, 4), "uneven": (5, 1, 2)}


def accumulate(model, x, sizes, factor=1.0):
    """Passes with the share of the samples that each has."""
    for part in x.split(sizes):
        (factor * len(part) / len(x) * loss_of(model(part))).backward()


def test_every_statistic_is_in_the_table():
    assert {type(statistic) for statistic in every_statistic("0")} == known()


@pytest.mark.parametrize("sizes", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize(("make", "shape"), [(mlp, (8, 5)), (convnet, (8, 2, 8, 8))])
def test_passes_are_one_step(make, shape, sizes):
    model, x, axes = built(make, shape)
    asked = every_statistic("0")
    whole = recorded(axes, asked, lambda: accumulate(model, x, (8,)))
    assert_same(whole, recorded(axes, asked, lambda: accumulate(model, x, sizes)))


def images() -> nn.Module:
    """Where few directions are cheaper to follow than M is to form."""
    return nn.Sequential(
        nn.Conv2d(16, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 32, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.mark.parametrize("sizes", [(32,), (16, 16), (4,) * 8, (30, 2)], ids=len)
@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize(
    ("make", "shape", "count", "share"),
    [(mlp, (32, 5), 2, 0.9), (convnet, (32, 2, 8, 8), 3, 0.9), (images, (32, 16, 8, 8), 2, 0.85)],
    ids=["mlp", "convnet", "followed"],
)
def test_few_directions_are_nearly_the_best_however_a_step_is_cut(make, shape, count, share, whitened, sizes):
    """They were searched for on the first pass alone: of eight passes a third was left."""
    model, x, axes = built(make, shape)
    few, all_of_them = Directions("0", count, whitened), Directions("0", 10**6, whitened)
    found = recorded(axes, (few,), lambda: accumulate(model, x, sizes))[few].values
    best = recorded(axes, (all_of_them,), lambda: accumulate(model, x, (32,)))[all_of_them].values[:count]
    assert share < float(found.square().sum() / best.square().sum()) < 1 + 1e-9


def test_a_best_move_that_takes_too_much_memory_is_taken_away_of_one_pass_only(monkeypatch):
    monkeypatch.setattr("meristem.signals.best_move.MOST", 1)
    model, x, axes = built(mlp, (8, 5))
    asked = Directions("0", 2, whitened=True, residual=True)
    assert len(recorded(axes, (asked,), lambda: accumulate(model, x, (8,)))[asked]) == 2
    with pytest.raises(SignalError, match=r"several passes together.*best_move=False"):
        recorded(axes, (asked,), lambda: accumulate(model, x, (4, 4)))


def test_passes_are_one_step_under_a_scaler():
    model, x, axes = built(mlp, (8, 5))
    asked = every_statistic("0")
    whole = recorded(axes, asked, lambda: accumulate(model, x, (8,)))
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    scaled = recorded(
        axes, asked, lambda: accumulate(model, x, (5, 3), scaler.scale(torch.ones(()))), scale=scaler.get_scale
    )
    assert_same(whole, scaled)


def test_passes_are_one_step_under_autocast():
    model, x, axes = built(mlp, (8, 5), torch.float32)
    asked = UnitActivity("0", 0.3), Reads("0"), FanInGradient("0"), Sensitivity("0")

    def step(sizes):
        for part in x.split(sizes):
            with torch.autocast("cpu", torch.bfloat16):
                loss = len(part) / len(x) * loss_of(model(part).float())
            loss.backward()

    exact = recorded(axes, asked, lambda: accumulate(model, x, (8,)))
    found = recorded(axes, asked, lambda: step((5, 3)))
    assert all(value.dtype is torch.float64 for value in vars(found[asked[0]]).values())
    assert_same(exact, found, rtol=0.1, atol=0.02)


def test_the_gradient_is_the_norm_of_the_sum_not_the_mean_of_norms():
    model, x, axes = built(mlp, (8, 5))
    asked = FanInGradient("0")
    found = recorded(axes, (asked,), lambda: accumulate(model, x, (2, 3, 3)))[asked]
    torch.testing.assert_close(found, model[0].weight.grad.norm(dim=1))


def test_steps_are_averaged():
    model, x, axes = built(mlp, (8, 5))
    parts = x.split((5, 3))
    asked = Sensitivity("0"), FanInGradient("0"), Reads("0"), UnitActivity("0")
    recording = Recording(axes, asked, steps=2)
    singles, gradients = [], []
    for number, part in enumerate(parts):
        model.zero_grad()
        if number:
            recording.stepped()
            recording.stepped()  # nothing has come since
            recording.closing()
        accumulate(model, part, (2, len(part) - 2))
        gradients.append(model[0].weight.grad.clone())
    found = recording.finish()
    for part in parts:
        singles.append(recorded(axes, asked, lambda part=part: loss_of(model(part)).backward()))
    gate = sum(one[asked[0]].gate ** 2 for one in singles) / 2
    torch.testing.assert_close(found[asked[0]].gate, gate.sqrt())
    for key, squares in found[asked[0]].squares.items():
        torch.testing.assert_close(squares, sum(one[asked[0]].squares[key] for one in singles) / 2)
    torch.testing.assert_close(found[asked[1]], (sum(gradients) / 2).norm(dim=1))
    torch.testing.assert_close(found[asked[3]].fan_in_gradient, (sum(gradients) / 2).norm(dim=1))
    for gradient in (found[asked[3]].gradient, found[asked[2]]["2.weight"].gradient[0]):
        assert gradient.shape == (6,)
    rows = sum(len(part) * one[asked[3]].gradient for part, one in zip(parts, singles, strict=True)) / len(x)
    torch.testing.assert_close(found[asked[3]].gradient, rows)
    rows = sum(len(p) * one[asked[2]]["2.weight"].gradient for p, one in zip(parts, singles, strict=True)) / len(x)
    torch.testing.assert_close(found[asked[2]]["2.weight"].gradient, rows)


def test_gradients_of_ranks_are_summed_before_the_norm():
    model, x, axes = built(mlp, (8, 5))
    asked, found = FanInGradient("0"), []
    for part in x.split(4):
        model.zero_grad()
        recording = Recording(axes, [asked])
        loss_of(model(part)).backward()
        found.append(recording._taps[0].sums[asked])
        recording.finish()
    for mine, other in zip(*(one.parts() for one in found), strict=True):
        mine += other
    whole = recorded(axes, (asked,), lambda: (2 * loss_of(model(x))).backward())[asked]
    torch.testing.assert_close(found[0].result(), whole)


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_controller_tells_steps_apart(length):
    """As it listens, woken only where there is something to do: Taylor's mean over steps is one over steps."""
    model, x, axes = built(mlp, (8, 5))
    asked = Sensitivity("0")
    listening, due = Listening(length, None), 0.0
    listening.aim(Target(5, (asked,)))
    singles = []
    for step in range(6):
        if step >= due:
            found = listening.results(step)
            listening.advance(step, axes)
            due = listening.wake(step)
        part = x.roll(step, 0)[: 3 + step]
        accumulate(model, part, (2, len(part) - 2))
        singles.append(part)
    gates = [recorded(axes, (asked,), lambda p=part: loss_of(model(p)).backward())[asked].gate for part in singles]
    expected = torch.stack(gates[5 - length : 5]).square().mean(0).sqrt()
    torch.testing.assert_close(found[asked].gate, expected)


@pytest.mark.parametrize("sizes", SPLITS.values(), ids=SPLITS)
def test_a_monitor_logs_the_same(sizes):
    numbers = []
    for split in ((8,), sizes):
        model, x, axes = built(mlp, (8, 5))
        monitor = Monitor(1).begin(axes)
        accumulate(model, x, split)
        assert monitor.step()
        numbers.append(monitor.records[-1].numbers())
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-12)


@pytest.mark.parametrize("cut", [1, 2])
def test_what_was_recorded_is_saved_between_steps(cut):
    model, x, axes = built(mlp, (9, 5))
    asked = tuple(s for s in every_statistic("0") if type(s).__name__ != "StepActivity")  # it is of one step

    def run(recording, first, last):
        for number in range(first, last):
            if number:
                recording.stepped()
            if number == 2:
                recording.closing()
            model.zero_grad()
            accumulate(model, x[3 * number :][:3], (2, 1))

    whole, before = Recording(axes, asked, steps=3), Recording(axes, asked, steps=3)
    run(before, 0, cut)
    saved = copy.deepcopy(before.memory())
    before.cancel()
    whole.cancel()
    whole = Recording(axes, asked, steps=3)
    run(whole, 0, 3)
    expected = whole.finish()
    after = Recording(axes, asked, steps=3)
    after.recall(saved)
    run(after, cut, 3)
    assert_same(expected, after.finish())


def test_half_precision_gradients_are_added_up_in_float32():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).bfloat16()
    x = torch.randn(64, 5, dtype=torch.bfloat16)
    axes = trace(model, x)
    asked = FanInGradient("0"), UnitActivity("0")
    gradients: list[torch.Tensor] = []
    handle = model[0].weight.register_hook(lambda g: gradients.append(g.double()))
    found = recorded(axes, asked, lambda: accumulate(model, x, (1,) * 64))
    handle.remove()
    exact = sum(gradients).norm(dim=1)
    torch.testing.assert_close(found[asked[0]], exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(found[asked[1]].fan_in_gradient, exact, rtol=1e-5, atol=0)
