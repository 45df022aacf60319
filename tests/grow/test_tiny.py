"""TINY: the loss falls by what is predicted, and the activations move as well as any newborns could move them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.edit import Explicit
from meristem.errors import ConfigError, EditError
from meristem.grow import TINY
from meristem.signals import Batch, BestMove, Directions, Move, Recorder, View
from meristem.signals.best_move import without_best_move
from meristem.signals.listener import Listener
from tests.grow.sites import BENT, SITES, commit, make, objective, planned

SMALL = 1e-9


@pytest.mark.parametrize("site", SITES)
def test_gains_are_the_slope_of_the_loss_behind_gelu(site: str) -> None:
    """It bends at the scale of the amplitude's root."""
    model, x, labels, axis = make(SITES[site], nn.GELU())
    loss = objective(model, x, labels)
    axes, _, plan = planned(TINY(amplitude=SMALL), model, loss, x, axis, 2)
    before = float(loss().detach())
    commit(axes, plan)
    decrease = before - float(loss().detach())
    assert decrease == pytest.approx(sum(plan.gains), rel=1e-2)
    assert decrease > 0


def vectors(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A linear site with identity in between: inputs, wanted moves, singular values, fan-ins, fan-outs."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 6)).double()
    x, wanted = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, 6, dtype=torch.float64)
    axes = meristem.trace(model, x)
    asked = Directions("0", count, whitened=True, ridge=1e-12)
    recorder = Recorder(axes, [asked])
    recorder.closing()
    (-(model(x) * wanted).sum() / len(x)).backward()  # the loss asks for the move `wanted` of every sample
    found = View(axes, signals=recorder.finish()).recorded(asked)
    return x, wanted, found.values, found.incoming, found.outgoing


def bottleneck(x: Tensor, wanted: Tensor, incoming: Tensor, outgoing: Tensor) -> float:
    return float((wanted - x @ incoming.T @ outgoing).square().sum(1).mean())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_bottleneck_falls_by_the_sum_of_squares_and_no_other_newborns_do_better(count: int) -> None:
    x, wanted, values, incoming, outgoing = vectors(count)
    none = float(wanted.square().sum(1).mean())
    best = bottleneck(x, wanted, values[:, None] * incoming, -outgoing)
    assert none - best == pytest.approx(float(values.square().sum()), rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):  # for random fan-ins the best fan-outs are a least-squares solution
        h = x @ torch.randn(5, count, dtype=torch.float64, generator=generator)
        other = torch.linalg.lstsq(h, wanted).solution
        assert float((wanted - h @ other).square().sum(1).mean()) >= best - 1e-9


def test_many_directions_equal_the_leading_ones_of_all() -> None:
    """Random projection finds what the full decomposition finds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 8), nn.Tanh(), nn.Linear(8, 60), nn.Tanh(), nn.Linear(60, 5)).double()
    x, labels = torch.randn(200, 40, dtype=torch.float64), torch.randint(5, (200,))
    found = []
    for count in (3, 60):
        _, _, plan = planned(TINY(), model, objective(model, x, labels), x, "0", count)
        found.append(plan.gains[:3])
    assert found[0] == pytest.approx(found[1], rel=0.02)


@pytest.mark.parametrize("site", ["linear", "same", "strided", "flattened", "shared"])
def test_the_loss_falls_with_a_line_search(site: str) -> None:
    model, x, labels, axis = make(SITES[site], nn.ReLU())
    loss = objective(model, x, labels)
    axes, _, plan = planned(TINY(), model, loss, x, axis, 2, closure=True)
    before = float(loss().detach())
    commit(axes, plan)
    assert float(loss().detach()) < before - 1e-3


def normed(affine: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, affine=affine), nn.ReLU(), nn.Conv2d(4, 5, 3),
        nn.Flatten(), nn.Linear(80, 3),
    ).double()  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_does_nothing_to_newborns(training: bool) -> None:
    """In train mode the batch, in eval mode the running statistics give each newborn scale 1 and shift 0."""
    model = normed()
    x, labels = torch.randn(16, 2, 6, 6, dtype=torch.float64), torch.randint(3, (16,))
    model(x)
    model.train(training)
    loss = objective(model, x, labels)
    before = float(loss().detach())
    axes, _, plan = planned(TINY(amplitude=1e-4), model, loss, x, "0", 2)
    after = commit(axes, plan)
    assert before - float(loss().detach()) == pytest.approx(sum(plan.gains), rel=5e-2)
    z = model[0](x)[:, -2:]
    torch.testing.assert_close(model[1](model[0](x))[:, -2:], z, rtol=1e-4, atol=1e-6)
    assert after["0"].size == 6


def test_constant_inputs_give_at_most_one_newborn() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, labels = torch.ones(20, 6, dtype=torch.float64), torch.randint(3, (20,))
    _, _, plan = planned(TINY(), model, objective(model, x, labels), x, "0", 3)
    assert plan.births == 1
    assert plan.note is not None
    assert "1 of 3" in plan.note


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_statistics_are_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    x, labels = torch.randn(64, 6), torch.randint(3, (64,))
    gains = []
    for precision in (torch.float64, dtype):
        m = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
        m.load_state_dict(model.state_dict())
        m = m.to(precision)
        inputs = x.to(precision)
        _, _, plan = planned(
            TINY(), m, lambda m=m, i=inputs: nn.functional.cross_entropy(m(i).float(), labels), inputs, "0", 2
        )
        assert all(torch.isfinite(p).all() for p in m.parameters())
        gains.append(sum(plan.gains))
    assert gains[1] == pytest.approx(gains[0], rel=0.1)


def test_refusals() -> None:
    model = normed(affine=False)
    axes = meristem.trace(model, torch.randn(2, 2, 6, 6, dtype=torch.float64))
    with pytest.raises(EditError, match="without scale and shift"):
        meristem.grow.require_defined(TINY(), axes, [axes["0"]])
    for wrong in ({"threshold": 1.0}, {"ridge": 0.0}, {"amplitude": -1.0}, {"amplitude": math.nan}, {"steepness": 0.0}):
        with pytest.raises(ConfigError):
            TINY(**wrong)


@pytest.mark.parametrize("name", BENT)
@pytest.mark.parametrize("best_move", [False, True])
def test_where_small_newborns_are_not_proportional_it_is_refused(name: str, best_move: bool) -> None:
    """A constant cannot be predicted by a slope at zero; next to nothing is starved from both sides."""
    model = nn.Sequential(nn.Linear(5, 4), BENT[name], nn.Linear(4, 3))
    axes = meristem.trace(model, torch.randn(2, 5))
    reason = "flat at 0" if name == "squared relu" else "not 0 at 0"
    with pytest.raises(EditError, match=f"{reason}.*defined: .*ZeroFanOut"):
        meristem.grow.require_defined(TINY(best_move=best_move), axes, [axes["0"]])


class Shifted(nn.Module):
    """A number that is learned is added in front of the activation function, and one multiplies behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)
        self.shift, self.gate = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gate * torch.tanh(self.first(x) + self.shift))


@pytest.mark.parametrize(("shift", "gate", "births"), [(0.0, 0.0, 0), (0.0, 0.5, 2), (0.3, 0.5, 0)])
def test_numbers_that_the_model_learns_decide_on_the_day(shift: float, gate: float, births: int) -> None:
    torch.manual_seed(0)
    model, x, labels = Shifted().double(), torch.randn(24, 5, dtype=torch.float64), torch.randint(3, (24,))
    axes = meristem.trace(model, x)
    loss = objective(model, x, labels)
    method, axis = TINY(amplitude=SMALL), axes["first"]
    meristem.grow.require_defined(method, axes, [axis])
    with torch.no_grad():
        model.shift.fill_(shift)
        model.gate.fill_(gate)
    recorder = Recorder(axes, method.needs(axes, axis, 2))
    recorder.closing()
    loss().backward()
    view = View(axes, signals=recorder.finish())
    plan, before = method.propose(view, axis, 2), float(loss().detach())
    assert (plan.births, len(method.gains(view, axis, 2))) == (births, births)
    assert (plan.note is None) == bool(births)
    commit(axes, plan)
    assert before - float(loss().detach()) == pytest.approx(sum(plan.gains), rel=1e-2)


def test_units_are_given_best_first() -> None:
    model, x, labels, axis = make(SITES["linear"], nn.Tanh())
    _, _, plan = planned(TINY(), model, objective(model, x, labels), x, axis, 4)
    assert list(plan.gains) == sorted(plan.gains, reverse=True)
    assert isinstance(plan.start, Explicit)
    assert replace(plan, gains=()).births == plan.births


@pytest.mark.parametrize("site", ["linear", "tokens", "same", "strided", "flattened", "into transposed", "shared"])
def test_the_best_move_is_a_least_squares_solution_and_the_loss_falls_as_predicted(site: str) -> None:
    model, x, labels, axis = make(SITES[site], nn.Tanh())
    loss = objective(model, x, labels)
    axes = meristem.trace(model, x)
    asked = BestMove(axis, ridge=1e-12)
    recorder = Recorder(axes, [asked])
    recorder.closing()
    loss().backward()
    move: Move = recorder.finish()[asked]
    model.zero_grad()
    before = float(loss().detach())
    with torch.no_grad():
        model.get_parameter(move.weight).add_(SMALL * move.laid_out)
        if move.bias is not None:
            model.get_parameter(move.bias).add_(SMALL * move.delta_bias)
    assert before - float(loss().detach()) == pytest.approx(SMALL * move.decrease, rel=1e-3)
    assert move.decrease > 0


def test_what_the_best_move_leaves_is_uncorrelated_with_what_is_read() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 6)).double()
    x, wanted = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, 6, dtype=torch.float64)
    h = torch.cat([model[1](model[0](x)), torch.ones(40, 1, dtype=torch.float64)], 1).detach()
    solution = torch.linalg.lstsq(h, wanted).solution
    axes = meristem.trace(model, x)
    asked = BestMove("0", ridge=1e-13)
    left: list[Tensor] = []

    def receive(name: str, batch: Batch) -> None:
        left.append(without_best_move(batch, 1e-13).arrivals[0].delta)

    listener = Listener(axes, [axes["0"]], receive)
    recorder = Recorder(axes, [asked])
    recorder.closing()
    (-(model(x) * wanted).sum() / len(x)).backward()
    listener.close()
    move = recorder.finish()[asked]
    torch.testing.assert_close(torch.cat([move.delta, move.delta_bias[:, None]], 1).T, solution, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(h.T @ left[0], torch.zeros(5, 6, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("site", ["linear", "same", "flattened", "into transposed"])
def test_growth_with_the_best_move_decreases_the_loss(site: str) -> None:
    model, x, labels, axis = make(SITES[site], nn.Tanh())
    loss = objective(model, x, labels)
    method = TINY(amplitude=SMALL, best_move=True)
    axes, _, plan = planned(method, model, loss, x, axis, 2)
    recorder = Recorder(axes, [BestMove(axis)])
    recorder.closing()
    loss().backward()
    move = recorder.finish()[BestMove(axis)]
    before = float(loss().detach())
    commit(axes, plan)
    decrease = before - float(loss().detach())
    assert decrease == pytest.approx(SMALL * move.decrease + sum(plan.gains), rel=1e-2)


def slopes(residual: bool, activation: nn.Module, passes: int, steps: int, samples: int) -> tuple[Tensor, Tensor]:
    """Slopes and singular values from so many steps in so many passes, the first ones all over the same samples."""
    model, x, labels, axis = make(SITES["linear"], activation, samples)
    axes = meristem.trace(model, x)
    asked = Directions(axis, 3, whitened=True, residual=residual)
    recorder = Recorder(axes, [asked], steps=steps)
    for step in range(steps):
        if step == steps - 1:
            recorder.closing()
        for some, theirs in zip(x.chunk(passes), labels.chunk(passes), strict=True):
            (nn.functional.cross_entropy(model(some), theirs) / passes).backward()
    found = View(axes, signals=recorder.finish()).recorded(asked)
    return found.slopes, found.values


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [nn.GELU(), nn.ReLU()])
def test_slopes_of_equal_steps_are_those_of_one(residual: bool, activation: nn.Module) -> None:
    torch.testing.assert_close(slopes(residual, activation, 1, 3, 24), slopes(residual, activation, 1, 1, 24))


def test_slopes_behind_a_smooth_function_are_those_of_all_passes() -> None:
    found, values = slopes(False, nn.GELU(), 4, 2, 24)
    torch.testing.assert_close(found, -values, rtol=1e-4, atol=0)
    torch.testing.assert_close(found, slopes(False, nn.GELU(), 1, 1, 24)[0], rtol=1e-4, atol=0)


def test_two_readers_have_no_best_move() -> None:
    model, x, _, axis = make(SITES["two readers"], nn.Tanh())
    axes = meristem.trace(model, x)
    assert "2 weights read it" in str(TINY(best_move=True).undefined(axes, axes[axis]))
