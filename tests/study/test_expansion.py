"""The study of expansion: its measures, and that all of it runs."""

import math

import pytest
import torch
from torch import nn

import meristem
from meristem.study import judge
from meristem.study.catalogue import find
from meristem.study.execute import execute
from meristem.study.studies.expansion.experiment import idle
from meristem.study.studies.expansion.nets import GROWING, Part, Parts, Trunk, net, parts
from meristem.study.studies.expansion.study import STUDY, at
from meristem.train.data import load


def classifier(features=6, widths=(4, 4, 4), classes=3, trunk=None) -> nn.Sequential:
    torch.manual_seed(0)
    part = Part(torch.randn(8, features), torch.zeros(8, dtype=torch.int64))
    return net(Parts(part, part, part, trunk, classes), widths)


def test_idle_units_are_counted():
    model = classifier()
    axes = meristem.trace(model, torch.randn(2, 6))
    with torch.no_grad():
        model.get_submodule("layer1").weight[0] = 0
        model.get_submodule("layer1").bias[0] = -1.0  # never active
        model.get_submodule("layer3").weight[:, 1] = 0
        model.get_submodule("layer3").weight[0, 1] = 1e-6  # active, but hardly read
    model.get_submodule("layer2").bias.data[1] = 5.0
    torch.manual_seed(2)
    part = Part(torch.randn(50, 6), torch.randint(3, (50,)))
    oldest = torch.iinfo(torch.int64).max
    ages = {"layer1": torch.tensor([3, oldest, oldest, oldest]), "layer2": torch.tensor([oldest, oldest, 9, 9])}
    plain, found = idle(axes, {}, part), idle(axes, ages, part)
    assert math.isnan(plain["silent newborns"])
    silent = _silent(model, part)
    assert found["silent units"] == plain["silent units"] == pytest.approx(silent.sum() / 12)
    assert found["silent newborns"] == pytest.approx(float(silent[[0, 6, 7]].mean()))
    assert found["inactive units"] >= found["silent units"] + 1 / 12 - 1e-9
    assert all(parameter.grad is None for parameter in model.parameters())


def _silent(model: nn.Sequential, part: Part):
    x, found = part.x, []
    for name in GROWING:
        x = torch.relu(model.get_submodule(name)(x))
        found.append((x == 0).all(0))
    return torch.cat(found).double()


def test_the_trunk_learns_on_other_images_or_with_the_rest():
    data = load("digits")
    torch.manual_seed(0)
    frozen = parts(data, Trunk(channels=2, learning="before", images=100, epochs=1), (200, 50), 1, 0.2, "cpu")
    assert [len(part) for part in (frozen.train, frozen.validation, frozen.test)] == [160, 40, 50]
    assert frozen.trunk is None
    assert frozen.train.x.shape == (160, 16)
    assert not frozen.train.x.requires_grad
    assert torch.cat([frozen.train.x, frozen.validation.x]).std() == pytest.approx(1)
    learning = parts(data, Trunk(channels=2), (200, 50), 1, 0.2, "cpu")
    model = net(learning, (5, 5, 5))
    assert learning.train.x.shape == (160, 1, 8, 8)
    assert model.get_submodule("layer1").weight.shape == (5, 16)
    axes = meristem.trace(model, learning.train.x[:2])
    assert {axes.by_name[name].size for name in GROWING} == {5}
    assert min(float(model.get_submodule(name).bias.min()) for name in GROWING) >= 0


@pytest.mark.heavy
def test_the_study_runs_and_its_claims_can_be_judged(tmp_path):
    plan = find("expansion").plan("smoke", seeds=2)
    outcome = execute(plan, tmp_path, jobs=1)
    assert not outcome.failures
    (small, *_), size = outcome.runs[at("fixed small", "digits")], plan.study.scales["smoke"]
    assert not small.changes
    for arm, runs in outcome.runs.items():
        for run in runs:
            assert len(run.evaluations) == len(size.births) + 1
            assert 0 <= run.metrics["final accuracy"] <= 1
            if "fixed" not in arm and "GradMax" not in arm and "TINY" not in arm:
                assert run.metrics["units"] == 3 * size.width + sum(size.births)
                assert sum(sum(change.births.values()) for change in run.changes) == sum(size.births)
    findings = judge(plan.claims, outcome.runs)
    assert len(findings) == len(STUDY.claims(size))
    assert all(math.isfinite(o.estimate) for finding in findings for o in finding.outcomes)


@pytest.mark.parametrize("scale", ["cpu", "full"])
def test_nets_of_all_arms_end_with_as_many_units(scale):
    plan = STUDY.plan(scale)
    found = {sum(arm.config.widths) + sum(arm.config.births) * (arm.config.method is not None) for arm in plan.arms}
    small, *others = sorted(found)
    assert small == 3 * plan.study.scales[scale].width
    assert max(others) - min(others) <= 2
