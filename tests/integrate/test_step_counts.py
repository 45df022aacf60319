"""StepCounts: newborns under any stock Adam take the steps of an Adam that began at their birth."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn, optim

from meristem.edit import Gather
from meristem.errors import ConfigError
from meristem.integrate import IncumbentMean, ParentMoments, Reset, StepCounts, WarmUp, Zeros

from .runs import Run

MAKES = {
    "Adam": lambda p: optim.Adam(p, lr=0.01, eps=1e-30),
    "one by one": lambda p: optim.Adam(p, lr=0.01, eps=1e-30, foreach=False),
    "foreach": lambda p: optim.Adam(p, lr=0.01, eps=1e-30, foreach=True),
    "fused": lambda p: optim.Adam(p, lr=0.01, eps=1e-30, fused=True),
    "AMSGrad": lambda p: optim.Adam(p, lr=0.01, eps=1e-30, amsgrad=True),
    "L2": lambda p: optim.Adam(p, lr=0.01, eps=1e-30, weight_decay=0.1),
    "maximizing": lambda p: optim.Adam(p, lr=0.01, eps=1e-30, maximize=True),
    "tensor rate": lambda p: optim.Adam(p, lr=torch.tensor(0.01, dtype=torch.float64), eps=1e-30, foreach=False),
    "other betas": lambda p: optim.Adam(p, lr=0.01, eps=1e-30, betas=(0.8, 0.95)),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01, eps=1e-30, weight_decay=0.3),
    "AdamW fused": lambda p: optim.AdamW(p, lr=0.01, eps=1e-30, weight_decay=0.3, fused=True),
}
ADAM = MAKES["Adam"]


def shared(s: int) -> float:
    """The size of the s-th update in learning rates under a constant gradient, with the step count of old weights."""
    return (1 - 0.9**s) / math.sqrt(1 - 0.999**s)


class TestUpdatesUnderAConstantGradient:
    """In learning rates, after very many steps of the incumbents."""

    def updates(self, integrate, count):
        run = Run(ADAM, integrate)
        run.mature()
        run.grow(2)
        found = []
        for _ in range(count):
            before = run.model[0].weight.detach().clone()
            run.give(torch.ones_like)
            found.append((before - run.model[0].weight.detach())[5:] / 0.01)
        return torch.stack([update.mean() for update in found]).tolist()

    def test_zeros_with_the_shared_step_count_burst(self):
        found = self.updates(Zeros(), 100)
        assert found == pytest.approx([shared(s) for s in range(1, 101)], rel=1e-9)
        assert found[0] == pytest.approx(math.sqrt(10), rel=1e-9)
        assert max(found) == found[11] == pytest.approx(6.569, abs=1e-3)
        assert found[99] == pytest.approx(3.24, abs=1e-2)

    def test_own_step_counts_give_one_learning_rate_from_the_first_step(self):
        assert self.updates(StepCounts(), 100) == pytest.approx([1.0] * 100, rel=1e-9)

    def test_a_reset_does_too(self):
        assert self.updates(Reset(), 100) == pytest.approx([1.0] * 100, rel=1e-6)

    def test_warm_up_multiplies(self):
        found = self.updates([StepCounts(), WarmUp(10)], 12)
        assert found == pytest.approx([min(s / 10, 1) for s in range(1, 13)], rel=1e-9)
        found = self.updates(WarmUp(10), 12)
        assert found == pytest.approx([shared(s) * min(s / 10, 1) for s in range(1, 13)], rel=1e-9)

    def test_the_incumbents_mean_is_conservative(self):
        run = Run(ADAM, IncumbentMean())
        run.mature()
        for state in run.optimizer.state.values():
            state["exp_avg_sq"].fill_(1.0)
        run.grow(2)
        before = run.model[0].weight.detach().clone()
        run.give(torch.ones_like)
        update = (before - run.model[0].weight.detach())[5:] / 0.01
        assert torch.allclose(update, torch.full_like(update, 0.1), rtol=1e-9)


@pytest.mark.parametrize("name", MAKES)
def test_a_newborn_takes_the_steps_of_a_new_optimizer(name):
    make = MAKES[name]
    run = Run(make, StepCounts())
    run.random(40)
    run.grow(3)
    rows, column = (
        nn.Parameter(run.model[0].weight[5:].detach().clone()),
        nn.Parameter(run.model[2].weight[:, 5:].detach()),
    )
    bias = nn.Parameter(run.model[0].bias[5:].detach().clone())
    new = make([rows, bias, column])
    generator = torch.Generator().manual_seed(3)
    for step in range(30):
        scale = 10 ** (step % 4 - 2)
        run.give(lambda p: scale * torch.randn(p.shape, dtype=p.dtype, generator=generator))  # noqa: B023
        rows.grad, bias.grad = run.model[0].weight.grad[5:].clone(), run.model[0].bias.grad[5:].clone()
        column.grad = run.model[2].weight.grad[:, 5:].clone()
        new.step()
        for ours, theirs in (
            (run.model[0].weight[5:], rows),
            (run.model[0].bias[5:], bias),
            (run.model[2].weight[:, 5:], column),
        ):
            assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["Adam", "AdamW fused", "AMSGrad"])
def test_incumbents_are_the_same_bit_for_bit(name):
    plain, helped = Run(MAKES[name], Zeros()), Run(MAKES[name], [StepCounts(), WarmUp(5)])
    for run in (plain, helped):
        run.random(4)
        run.grow(2)
        run.random(20, seed=1)
    old = lambda run: [run.model[0].weight[:5], run.model[0].bias[:5], run.model[2].weight[:, :5], *run.values[3:]]  # noqa: E731
    assert all(torch.equal(a, b) for a, b in zip(old(plain), old(helped), strict=True))
    assert not torch.equal(plain.model[0].weight[5:], helped.model[0].weight[5:])


def test_crossing_newborns_have_the_age_of_the_younger():
    run = Run(ADAM, StepCounts())
    run.mature()
    run.grow(2, "0")
    run.random(7, seed=2)
    run.grow(2, "2")
    before = run.model[2].weight.detach().clone()
    run.give(torch.ones_like)
    update = (before - run.model[2].weight.detach()) / 0.01
    assert torch.allclose(update[4:], torch.ones_like(update[4:]), rtol=1e-9), "rows are new, crossings too"
    assert not torch.allclose(update[:4, 5:], torch.ones(4, 2, dtype=torch.float64), rtol=1e-3)


def test_counts_follow_further_edits():
    """Units that are moved, pruned around and joined by others go on as if nothing had happened to them."""
    still, moved = Run(ADAM, StepCounts()), Run(ADAM, StepCounts())
    for run in (still, moved):
        run.mature()
        run.grow(3)
        for _ in range(5):
            run.give(torch.ones_like)
    moved.edit(lambda edit: edit.prune("0", [0, 6]).permute("0", [5, 4, 3, 2, 1, 0]).permute("2", [3, 1, 2, 0]))
    moved.grow(2)
    where = [7, 5, 4, 3, 2, 1]
    for step in range(10):
        for run in (still, moved):
            run.give(lambda p: torch.full_like(p, 1.0 + step))  # noqa: B023
    assert torch.allclose(moved.model[0].weight[:6], still.model[0].weight[where], rtol=1e-12)
    assert torch.allclose(moved.model[2].weight[:, :6], still.model[2].weight[[3, 1, 2, 0]][:, where], rtol=1e-12)


def test_a_replacement_in_place_begins_anew():
    run = Run(ADAM, StepCounts())
    run.mature()
    weight = run.model[0].weight
    run.edit(lambda edit: edit.gather("0", Gather((0, -1, 2, 3, 4), (False, True, False, False, False))))
    assert run.model[0].weight is weight
    before = weight.detach().clone()
    run.give(torch.ones_like)
    assert torch.allclose((before - weight)[1] / 0.01, torch.ones(6, dtype=torch.float64), rtol=1e-9)


@pytest.mark.parametrize("integrate", [StepCounts(), Zeros()])
def test_a_replaced_unit_does_not_inherit_amsgrads_maximum(integrate):
    """The bug that is avoided: the maximum of old gradients would hold the newborn back for good."""
    run = Run(MAKES["AMSGrad"], integrate)
    run.mature()
    for state in run.optimizer.state.values():
        state["max_exp_avg_sq"].fill_(1e6)
    run.edit(lambda edit: edit.gather("0", Gather((0, -1, 2, 3, 4), (False, True, False, False, False))))
    before = run.model[0].weight.detach().clone()
    run.give(torch.ones_like)
    update = (before - run.model[0].weight.detach()) / 0.01
    assert update[1].min() > 0.99
    assert update[0].abs().max() < 0.01


def test_parameters_without_a_gradient_do_not_age():
    run = Run(ADAM, StepCounts())
    run.mature()
    run.grow(2)
    for _ in range(4):
        for parameter in run.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        run.model[0].weight.grad = None
        run.optimizer.step()
        run.steps += 1
    before = run.model[0].weight.detach().clone()
    run.give(torch.ones_like)
    update = (before - run.model[0].weight.detach())[5:] / 0.01
    assert torch.allclose(update, torch.ones_like(update), rtol=1e-9)


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_scaler_skips_do_not_count(fused):
    run = Run(lambda p: optim.Adam(p, lr=0.01, eps=1e-30, fused=fused), StepCounts())
    run.mature()
    run.grow(2)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    updates = []
    for overflow in (True, False, True, True, False, False):
        before = run.model[0].weight.detach().clone()
        scale = scaler.scale(torch.ones(())).item()
        for parameter in run.model.parameters():
            parameter.grad = torch.full_like(parameter, torch.inf if overflow else scale)
        scaler.step(run.optimizer)
        scaler.update()
        run.steps += 1
        updates.append(((before - run.model[0].weight.detach())[5:] / 0.01).mean().item())
    assert updates == pytest.approx([0, 1, 0, 0, 1, 1], rel=1e-9)
    memory = run.helpers.memory()
    assert memory["updates"].get("0.weight", memory["clock"]) == {"5": 3}


@pytest.mark.parametrize("name", ["Adam", "AdamW fused"])
def test_a_resumed_run_equals_the_uninterrupted_one(name):
    helpers = [StepCounts(), WarmUp(20)]
    run = Run(MAKES[name], helpers)
    run.random(10)
    run.grow(2)
    run.random(4, seed=1)
    run.model[4].bias.requires_grad_(True)
    run.grow(1, "2")
    run.random(3, seed=2)
    other = run.resumed(MAKES[name], helpers)
    for one in (run, other):
        one.random(8, seed=5)
        one.grow(1)
        one.random(3, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(run.values, other.values, strict=True))


def test_without_memory_a_resumed_run_goes_by_ages():
    run = Run(ADAM, StepCounts())
    run.mature()
    run.grow(2)
    run.random(4)
    other = run.resumed(ADAM, StepCounts())
    other.helpers.recall({})
    other.helpers.begin(other.axes, [other.optimizer], run.births.ages(run.steps), run.steps)
    run.random(3)
    other.random(3)
    assert all(torch.equal(a, b) for a, b in zip(run.values, other.values, strict=True))


def test_hooks_are_there_only_while_someone_is_young():
    run = Run(lambda p: optim.Adam(p, betas=(0.5, 0.5)), StepCounts(tolerance=0.1))
    assert run.hooks == 0
    run.random(3)
    run.grow(1)
    assert run.hooks == 2
    run.random(3)
    assert run.hooks == 2
    run.random(1)
    assert run.hooks == 0, "0.5 ** 4 is below 0.1 / 1.1"
    run.edit(lambda edit: edit.prune("0", [1]))
    assert run.hooks == 0
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in run.model.modules())


def test_grown_up_means_within_the_tolerance():
    settings, optimizer = StepCounts(), ADAM(Run(ADAM, None).model.parameters())
    last = settings.window(optimizer, optimizer.param_groups[0])
    assert last == 6213
    assert 1 / shared(int(last)) >= 1 - 1e-3
    assert 1 / shared(int(last) - 2) < 1 - 1e-3


def test_a_policy_alone_never_hooks():
    run = Run(ADAM, ParentMoments())
    run.grow(2)
    assert run.hooks == 0


def test_a_new_optimizer_needs_no_correction():
    run = Run(ADAM, StepCounts())
    run.mature()
    run.grow(2)
    run.random(6)
    run.optimizer = ADAM(run.model.parameters())
    run.helpers.begin(run.axes, [run.optimizer], run.births.ages(run.steps), run.steps)
    before = run.model[0].weight.detach().clone()
    run.give(torch.ones_like)
    update = (before - run.model[0].weight.detach()) / 0.01
    assert torch.allclose(update, torch.ones_like(update), rtol=1e-9)


@pytest.mark.parametrize("make", [optim.NAdam, optim.RAdam, optim.Adamax, optim.SparseAdam])
def test_other_optimizers_with_betas_are_refused(make):
    with pytest.raises(ConfigError, match=f"under {make.__name__}: it has betas.*IncumbentMean"):
        Run(lambda p: make(list(p), lr=0.01), StepCounts())


@pytest.mark.parametrize(
    "make",
    [lambda p: optim.SGD(p, lr=0.1, momentum=0.9), optim.RMSprop, optim.Adagrad, optim.Adadelta, optim.Adafactor],
)
def test_optimizers_without_bias_correction_are_left_alone(make):
    run = Run(make, StepCounts())
    run.random(2)
    run.grow(2)
    assert run.hooks == 0
    run.random(2)


def test_two_who_start_state_are_refused():
    with pytest.raises(ConfigError, match=r"more than once.*Zeros\(\), IncumbentMean\(\)"):
        Run(ADAM, [StepCounts(), IncumbentMean()])
    with pytest.raises(ConfigError, match="integrators and state policies"):
        Run(ADAM, StepCounts)
    with pytest.raises(ConfigError, match="tolerance"):
        StepCounts(tolerance=1)
