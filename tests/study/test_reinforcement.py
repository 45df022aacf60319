"""The study of Q-learning: its memory, its target, its changes of width, and that all of it runs."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from meristem.errors import ConfigError
from meristem.study import judge
from meristem.study.catalogue import find
from meristem.study.execute import execute
from meristem.study.studies.reinforcement.learn import Learn, dormant
from meristem.study.studies.reinforcement.study import LARGE, METHODS, PRUNED, REDO, at, grown
from meristem.study.studies.reinforcement.width import Grown, Pruned, Renewed
from meristem.study.studies.reinforcement.world import Batch, Explorers, Replay, environment, mean_return
from meristem.train.experiment import carry_out

pytest.importorskip("gymnasium")


def test_the_memory_holds_the_last_transitions():
    memory = Replay(3, features=2)
    for k in range(5):
        memory.add(np.full(2, k), k, -k, np.full(2, k + 1), ended=k == 4)
    assert len(memory) == 3
    batch = memory.sample(200, np.random.default_rng(0))
    assert batch.actions.unique().tolist() == [2, 3, 4]
    assert torch.equal(batch.following, batch.observations + 1)
    assert torch.equal(batch.rewards, -batch.actions.float())
    assert torch.equal(batch.ended, (batch.actions == 4).float())


class Scripted:
    """An environment that is told what happens: `(reward, ended, late)` at every step."""

    class Space:
        n = 2

    action_space = Space()

    def __init__(self, script):
        self.script, self.step_number, self.resets = script, 0, 0

    def reset(self, seed=None):
        self.resets += 1
        return np.full(1, 100.0 * self.resets, np.float32), {}

    def step(self, action):
        reward, ended, late = self.script[self.step_number]
        self.step_number += 1
        return np.full(1, self.step_number, np.float32), reward, ended, late, {}


def test_explorers_remember_what_follows_and_begin_anew_after_an_end():
    memory = Replay(8, features=1)
    world = Scripted([(1, False, False), (2, True, False), (3, False, True), (4, False, False)])
    explorers = Explorers([world], memory, repeat=1, seed=0)
    for _ in range(4):
        explorers.step(lambda x: torch.tensor([[0.0, 1.0]]).expand(len(x), 2), 0.0, np.random.default_rng(0))
    batch = memory.sample(100, np.random.default_rng(0))
    order = batch.rewards.unique(return_inverse=True)[1]
    first = [int((order == k).nonzero()[0]) for k in range(4)]
    assert batch.actions[first].tolist() == [1, 1, 1, 1]
    assert batch.observations[first, 0].tolist() == [100, 1, 200, 300]  # 200 and 300: new episodes
    assert batch.following[first, 0].tolist() == [1, 2, 3, 4]
    assert batch.ended[first].tolist() == [0, 1, 0, 0]  # running out of time is no end


def test_repeated_actions_are_one_transition_that_stops_at_an_end():
    memory = Replay(8, features=1)
    world = Scripted([(1, False, False), (2, False, False), (3, False, False), (4, True, False)])
    explorers = Explorers([world], memory, repeat=3, seed=0)
    for _ in range(2):
        explorers.step(lambda x: torch.zeros(len(x), 2), 0.0, np.random.default_rng(0))
    batch = memory.sample(50, np.random.default_rng(0))
    seen = {tuple(row) for row in torch.stack([batch.rewards, batch.following[:, 0], batch.ended], 1).tolist()}
    assert seen == {(6, 3, 0), (4, 4, 1)}


def test_targets_are_those_of_double_q_learning():
    model, target = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [2.0]]))  # prefers action 1
        target.weight.copy_(torch.tensor([[50.0], [10.0]]))  # values it at 10 a unit
    ones = torch.ones(2, 1)
    batch = Batch(ones, torch.tensor([0, 1]), torch.tensor([3.0, 3.0]), ones, torch.tensor([0.0, 1.0]))
    wanted = torch.tensor([3 + 0.99 * 10, 3.0])
    expected = nn.functional.smooth_l1_loss(torch.tensor([1.0, 2.0]), wanted)
    torch.testing.assert_close(Learn()._loss(model, target, batch), expected)


def test_random_actions_become_fewer():
    config = Learn(updates=100, explore=0.5, random=0.1)
    assert [config._randomness(step) for step in (25, 50, 100)] == pytest.approx([0.55, 0.1, 0.1])


def test_dormant_units_are_counted_by_layer():
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0], [-1.0], [0.01]]))
        model[2].weight.fill_(1.0)
    assert dormant(model, torch.ones(3, 1)) == pytest.approx((2 / 4 + 0) / 2)


def test_the_better_action_has_the_higher_return():
    """In CartPole the best is to push to where the pole falls; always the same push ends after about ten steps."""

    def balanced(x):
        return torch.stack([-x[:, 2] - x[:, 3], x[:, 2] + x[:, 3]], 1)

    wise = mean_return("CartPole-v1", balanced, 0.0, 1, 3, seed=0)
    foolish = mean_return("CartPole-v1", lambda x: torch.zeros(len(x), 2), 0.0, 1, 3, seed=0)
    assert foolish < 12 < 100 < wise
    assert mean_return("CartPole-v1", balanced, 0.0, 1, 3, seed=0) == wise


def test_environments_of_another_kind_are_refused():
    with pytest.raises(ConfigError, match="numbered actions"):
        environment("Pendulum-v1")


@pytest.mark.parametrize(
    ("change", "sizes"),
    [(Grown(to=10, edits=3), [10, 10]), (Pruned(to=3, edits=4), [3, 3]), (Renewed(tau=0.9, edits=3), [6, 6])],
)
def test_nets_end_with_their_width_and_their_copy_follows(tmp_path, change, sizes):
    config = Learn(width=6, change=change, updates=40, begin=8, batch_size=8, evaluations=2, episodes=1)
    run = carry_out(config, None, tmp_path / "run")
    assert list(run.evaluations[-1].sizes.values()) == sizes
    assert {each.step for each in run.changes} <= set(change.due(40))
    assert run.changes


def test_runs_can_be_repeated(tmp_path):
    config = Learn(width=6, change=Grown(to=9, edits=2), updates=30, begin=8, batch_size=8, evaluations=2, episodes=1)
    first, second = (carry_out(config, None, tmp_path / name) for name in "ab")
    assert first.metrics == second.metrics
    assert [e.values["loss"] for e in first.evaluations] == [e.values["loss"] for e in second.evaluations]


@pytest.mark.heavy
def test_the_study_runs_and_its_claims_can_be_judged(tmp_path):
    plan = find("reinforcement").plan("smoke", seeds=2)
    outcome = execute(plan, tmp_path, jobs=1)
    assert not outcome.failures
    world = "CartPole-v1"
    for label in (*(grown(name) for name in METHODS), PRUNED):
        assert all(run.changes for run in outcome.runs[at(label, world)])
    for large, same in zip(outcome.runs[at(LARGE, world)], outcome.runs[at(REDO, world)], strict=True):
        assert large.value("parameters") == same.value("parameters")
    findings = judge(plan.claims, outcome.runs)
    assert len(findings) == len(plan.claims)
    assert all(math.isfinite(o.estimate) for finding in findings for o in finding.outcomes)
