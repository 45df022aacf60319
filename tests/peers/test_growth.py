"""What growth goes wrong on with other libraries: bias, twins, ReLU at zero, thresholds, borders, silence, waste."""

from __future__ import annotations

import copy
from collections import Counter
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

import meristem
from meristem.edit import Edit, Explicit, Gather
from meristem.grow import TINY, GradMax, Growth, Method, NorthPre, ZeroFanOut
from meristem.schedule import At
from meristem.signals import Directions, Recorder, SecondMoment, View, batch

FIRST_ORDER = pytest.mark.parametrize("method", [TINY(), GradMax()], ids=lambda m: type(m).__name__)


class Task:
    """A net with a batch and a loss; always the same."""

    def __init__(
        self, *layers: nn.Module, shape: tuple[int, ...], samples: int = 32, dtype: Any = torch.float64
    ) -> None:
        torch.manual_seed(0)
        self.model: Any = nn.Sequential(*copy.deepcopy(layers)).to(dtype)
        for layer in self.model:
            getattr(layer, "reset_parameters", lambda: None)()
        self.x = torch.randn(samples, *shape, dtype=dtype)
        self.target = torch.randn_like(self.model(self.x)).detach()
        self.axes = meristem.trace(self.model, self.x)
        self.scale = 1.0

    def loss(self) -> Tensor:
        return self.scale * (self.model(self.x) - self.target).square().mean()

    def value(self) -> float:
        return float(self.loss().detach())

    def plan(self, method: Method, count: int, axis: str = "0") -> Growth:
        """A plan from what one ordinary step shows."""
        recorder = Recorder(self.axes, method.needs(self.axes, self.axes[axis], count))
        recorder.closing()
        self.loss().backward()
        self.model.zero_grad()
        return method.propose(View(self.axes, signals=recorder.finish()), self.axes[axis], count)

    def carry_out(self, plan: Growth) -> None:
        self.axes = Edit(self.axes).gather(plan.axis, plan.gather, plan.start).commit().axes

    def train(self, steps: int) -> None:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            self.loss().backward()
            optimizer.step()
        optimizer.zero_grad()


def dense(activation: nn.Module, **settings: Any) -> Task:
    return Task(nn.Linear(5, 4), activation, nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), shape=(5,), **settings)


def convolutions(activation: nn.Module, **settings: Any) -> Task:
    return Task(
        nn.Conv2d(2, 4, 3, padding=1), activation, nn.Conv2d(4, 3, 3, padding=1), nn.Flatten(), nn.Linear(147, 3),
        shape=(2, 7, 7), **settings,
    )  # fmt: skip


@FIRST_ORDER
def test_a_convolution_with_bias_grows_twice(method: Method) -> None:
    t = convolutions(nn.ReLU())
    for channels in (6, 8):
        t.carry_out(t.plan(method, 2))
        t.train(2)
        assert t.model[0].weight.shape == (channels, 2, 3, 3)
        assert t.model[0].bias.shape == (channels,)
        assert t.model[2].weight.shape == (3, channels, 3, 3)
        assert t.loss().isfinite()


def test_twin_hidden_units_do_not_make_weights_explode() -> None:
    """What newborns read has a singular second moment; its inverse needs a ridge."""
    t = dense(nn.ReLU(), dtype=torch.float32)
    with torch.no_grad():
        for parameter in (t.model[0].weight, t.model[0].bias):
            parameter[2:] = parameter[:2]
    before = t.value()
    t.carry_out(t.plan(TINY(amplitude=0.1), 3, "2"))
    assert max(float(p.detach().abs().max()) for p in t.model.parameters()) < 10
    assert t.value() < before
    t.train(5)
    assert t.value() < before


def test_gradmax_in_front_of_relu_gives_newborns_that_learn() -> None:
    """Zero fan-in alone would never learn: `torch.relu` has derivative 0 at 0."""
    for awake in (True, False):
        t = dense(nn.ReLU())
        plan = t.plan(GradMax(), 2)
        assert isinstance(plan.start, Explicit)
        entries = plan.start.entries if awake else {k: v * (v.abs() > 1e-5) for k, v in plan.start.entries.items()}
        t.carry_out(Growth(plan.axis, Gather.grow(4, 2), Explicit("newborns", entries)))
        t.loss().backward()
        gradients = t.model[0].weight.grad[4:].abs().amax(1)
        assert bool((gradients > 0).all()) is awake
        assert bool((gradients > 0).any()) is awake


@pytest.mark.parametrize("factor", [1e-3, 0.01, 100.0])
@pytest.mark.parametrize("method", [TINY(threshold=0.2, steepness=inf), GradMax()], ids=lambda m: type(m).__name__)
def test_the_number_of_newborns_does_not_depend_on_the_scale_of_the_loss(method: Method, factor: float) -> None:
    t = dense(nn.Tanh())
    plan = t.plan(method, 6)
    t.scale = factor
    scaled = t.plan(method, 6)
    assert scaled.births == plan.births
    assert scaled.gains == pytest.approx([factor**2 * gain for gain in plan.gains], rel=1e-6)


@FIRST_ORDER
def test_asked_for_64_and_given_fewer_it_says_so(method: Method) -> None:
    t = dense(nn.Tanh())
    optimizer = torch.optim.SGD(t.model.parameters(), lr=0.01)
    plasticity = meristem.Plasticity(t.model, optimizer, t.axes, grow=method, schedule=At([1], grow=64), axes=["0"])
    t.loss().backward()
    optimizer.step()
    optimizer.zero_grad()
    event = plasticity.step()
    assert event is not None
    (note,) = event.notes
    assert 0 < event.births["0"] < 64
    assert f"0: {event.births['0']} of 64" in note


def test_statistics_of_bfloat16_under_autocast_are_kept_in_full_and_close() -> None:
    t = convolutions(nn.ReLU(), dtype=torch.float32)
    asked = (SecondMoment("0"), Directions("0", 2), Directions("0", 2, whitened=True))
    found = []
    for lowered in (False, True):
        recorder = Recorder(t.axes, asked)
        recorder.closing()
        with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
            answer = t.model(t.x)
        assert answer.dtype == (torch.bfloat16 if lowered else torch.float32)
        (answer.float() - t.target).square().mean().backward()
        found.append(recorder.finish())
    exact, close = found
    assert close[asked[0]].matrix.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(close[asked[0]].matrix, exact[asked[0]].matrix, rtol=1e-5, atol=1e-5)
    for statistic in asked[1:]:
        assert close[statistic].incoming.dtype in (torch.float32, torch.float64)
        torch.testing.assert_close(close[statistic].values, exact[statistic].values, rtol=0.02, atol=0)


def test_the_predicted_improvement_behind_relu_is_the_true_slope() -> None:
    """That of the linearised net is about twice as large, since half of the samples switch a newborn off."""
    t, method = convolutions(nn.ReLU()), TINY(amplitude=1e-9)
    recorder = Recorder(t.axes, method.needs(t.axes, t.axes["0"], 2))
    recorder.closing()
    t.loss().backward()
    signals = recorder.finish()
    (found,) = signals.values()
    plan = method.propose(View(t.axes, signals=signals), t.axes["0"], 2)
    before = t.value()
    t.carry_out(plan)
    assert before - t.value() == pytest.approx(sum(plan.gains), rel=1e-3)
    assert 1e-9 * float(found.values.sum()) > 1.4 * sum(plan.gains)


HEAVY = ("second_moment", "candidate_gradient", "fan_in_gradient", "fan_out_gradient", "response")


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ((TINY(), GradMax(), NorthPre()), {"second_moment": 1, "candidate_gradient": 1, "response": 2}),
        ((GradMax(),), {"candidate_gradient": 1, "response": 1}),
        ((NorthPre(),), {"second_moment": 1}),
        ((ZeroFanOut(),), {}),
    ],
)
def test_statistics_are_computed_once_and_only_those_that_are_needed(
    methods: tuple[Method, ...], expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    t, calls = convolutions(nn.ReLU()), Counter()
    for name in HEAVY:
        original = getattr(batch, name)
        counted = lambda *a, n=name, f=original: (calls.update([n]), f(*a))[1]  # noqa: E731
        monkeypatch.setattr(batch, name, counted)
    recorder = Recorder(t.axes, [s for m in methods for s in m.needs(t.axes, t.axes["0"], 2)])
    recorder.closing()
    t.loss().backward()
    recorder.finish()
    assert calls == expected


@FIRST_ORDER
@pytest.mark.parametrize("pooled", [False, True])
def test_growing_in_front_of_a_flattened_convolution_works(method: Method, pooled: bool) -> None:
    pooling = [nn.MaxPool2d(2)] if pooled else []
    t = Task(nn.Conv2d(2, 4, 3), nn.ReLU(), *pooling, nn.Flatten(), nn.Linear(16 if pooled else 64, 3), shape=(2, 6, 6))
    before, answer = t.value(), t.model(t.x).detach()
    t.carry_out(t.plan(method, 3))
    assert t.model[0].weight.shape[0] == 7
    assert t.model[-1].weight.shape[1] == (28 if pooled else 112)
    if isinstance(method, GradMax):
        torch.testing.assert_close(t.model(t.x).detach(), answer, rtol=0, atol=1e-5)
    t.train(5)
    assert t.value() < before


@pytest.mark.parametrize(("padding", "exact"), [(0, True), (1, False)])
def test_gradmax_is_exact_at_padded_borders_where_the_auxiliary_convolution_is_not(padding: int, exact: bool) -> None:
    """The published shortcut: patches of the gradient of one convolution as large as both together."""
    t = Task(
        nn.Conv2d(2, 4, 3, padding=padding, bias=False), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=padding), nn.Flatten(),
        nn.Linear(147 if padding else 27, 3), shape=(2, 7, 7),
    )  # fmt: skip
    plan = t.plan(GradMax(), 18)  # as many as M has columns
    consumer = t.model[2]
    size = 0.5 * float(consumer.weight.detach().transpose(0, 1).flatten(1).norm(dim=1).mean())
    read = t.model[:3](t.x).detach().requires_grad_()
    (delta,) = torch.autograd.grad((t.model[3:](read) - t.target).square().mean(), read)
    wide = conv2d_weight(t.x, (3, 2, 5, 5), delta, padding=2 * padding)
    shortcut = wide.unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 2, 3, 1, 4, 5).reshape(27, 18)
    published = (size * torch.linalg.svdvals(shortcut)[: plan.births]).square()
    t.carry_out(plan)
    t.loss().backward()
    true = t.model[0].weight.grad[4:].square().flatten(1).sum(1)
    torch.testing.assert_close(torch.tensor(plan.gains, dtype=torch.float64), true, rtol=1e-9, atol=0)
    off = float((published[0] - true[0]).abs() / true[0])
    assert off < 1e-9 if exact else off > 0.05
