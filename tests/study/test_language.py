"""The study of language: its text, its net, growth, what is measured, and that all of it runs."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

import meristem
from meristem.errors import ConfigError
from meristem.study import judge
from meristem.study.catalogue import find
from meristem.study.execute import execute
from meristem.study.studies.language.arms import BOTH, CLONED, FORGOTTEN, LEARNED, OURS, SCRATCH, SILENT, SMALL
from meristem.study.studies.language.equal import LowerAtEqual, loss_at
from meristem.study.studies.language.experiment import Learn
from meristem.study.studies.language.growth import Stage, grown
from meristem.study.studies.language.net import GPT, Shape
from meristem.study.studies.language.outcome import outcome
from meristem.study.studies.language.source import LETTERS, Windows, made_up
from meristem.study.studies.language.study import STUDY
from meristem.train.experiment import carry_out
from meristem.train.record import Costs, Evaluation, Run, RunFolder
from tests.study.toys import timed_looks


def test_a_made_up_text_is_always_the_same_and_has_words():
    text = made_up()
    assert torch.equal(text.train, made_up().train)
    assert (len(text.train), len(text.test)) == (18_000, 2_000)
    words = set(text.decode(text.train).split(" ")[:-1])
    assert 5 < len(words) <= 24
    assert text.symbols == LETTERS


def test_targets_are_the_characters_that_follow():
    windows = Windows(torch.arange(50), 8)
    for x, y in (windows.drawn(5, torch.Generator().manual_seed(0)), windows.spread(3)):
        assert torch.equal(y, x + 1)
        assert torch.equal(x, x[:, :1] + torch.arange(8))
    x, y = windows.spread(3)
    assert (x[0, 0], y[-1, -1]) == (0, 49)


def test_the_net_looks_only_back():
    torch.manual_seed(0)
    net = GPT(7, 8, Shape(depth=2, width=8), 4)
    x = torch.randint(7, (1, 8))
    later = x.clone()
    later[0, 5:] = (x[0, 5:] + 1) % 7
    with torch.no_grad():
        torch.testing.assert_close(net(later)[:, :5], net(x)[:, :5])
        assert not torch.allclose(net(later)[:, 5:], net(x)[:, 5:])


@pytest.mark.parametrize(("copies", "exact"), [("silent", True), ("plain", False)])
def test_growth_of_width_and_depth_in_one_edit(copies, exact):
    torch.manual_seed(0)
    net = GPT(7, 8, Shape(depth=2, width=8), 4)
    x = torch.randint(7, (4, 8))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    cross_entropy(net(x).flatten(0, 1), x.flatten()).backward()
    optimizer.step()
    before = net(x).detach()
    average = AveragedModel(net)
    stage = Stage(at=0.5, shape=Shape(depth=4, width=16), copies=copies, options={"noise": 0.1})
    axes, births = grown(meristem.trace(net, x), optimizer, stage, lambda: net(x).sum(), 0, average)
    assert len(axes.history) == 1
    assert (len(net.blocks), axes["characters"].size, births["blocks"], births["characters"]) == (4, 16, 2, 8)
    assert [p.shape for p in net.parameters()] == [p.shape for p in GPT(7, 8, stage.shape, 4).parameters()]
    assert torch.allclose(net(x), before, atol=1e-5) == exact
    assert torch.allclose(average(x), before, atol=1e-5) == exact
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in net.parameters())
    with pytest.raises(ConfigError, match="multiple"):
        grown(axes, optimizer, Stage(at=0.5, shape=Shape(depth=4, width=24)), lambda: net(x).sum(), 0, average)


def looks(*points):
    return [Evaluation(n, {"test loss": loss}, 1, flops, flops / 10, {}) for n, (flops, loss) in enumerate(points)]


def test_costs_are_read_off_the_course_where_it_crosses_the_target():
    found = outcome(looks((0, 4.0), (50, 3.0), (100, 2.0), (150, 1.0)), target=2.5, budget=125)
    assert found["FLOPs to target"] == pytest.approx(75 / 125)
    assert found["FLOPs saved"] == pytest.approx(1 - 75 / 125)
    assert found["70 % of FLOPs to target"] == pytest.approx(0.7 * 75 / 125)
    assert found["seconds to target"] == pytest.approx(7.5)
    assert (found["final loss"], found["reached"]) == (pytest.approx(1.5), 1.0)
    never = outcome(looks((0, 4.0), (50, 3.0), (130, 2.8)), target=2.5, budget=100)
    assert (never["reached"], never["FLOPs to target"], never["seconds to target"]) == (0.0, 1.3, 13.0)
    grown = outcome(looks((0, 4.0), (50, 2.0), (100, 3.0), (150, 2.0)), target=2.5, budget=100, since=60)
    assert grown["FLOPs to target"] == pytest.approx(1.25)
    at_once = outcome(looks((0, 4.0), (50, 2.0), (100, 1.5), (150, 1.0)), target=2.5, budget=100, since=60)
    assert (at_once["FLOPs to target"], at_once["seconds to target"]) == (1.0, 10.0)
    first = outcome(looks((0, 4.0), (50, 2.0), (100, 3.0), (150, 2.0)), target=3.0, budget=100)
    assert first["FLOPs to target"] == 0.25


def test_the_same_seed_gives_the_same_run_and_growth_is_paid_for(tmp_path):
    stage = Stage(at=0.4, shape=Shape(depth=2, width=8), learned={"steps": 2})
    settings = {"context": 8, "head": 4, "batch": 2, "windows": 8, "looks": 4, "limit": 1.0}
    config = Learn(start=Shape(depth=1, width=4), stages=(stage,), final=stage.shape, steps=6, seed=1, **settings)
    runs = [config.run(None, RunFolder(tmp_path), lambda done, total: None) for _ in range(2)]
    for run in runs:
        assert run.costs.edit_flops > 0
        assert len(run.changes) == 1
        assert run.evaluations[-1].flops == run.costs.flops
    metrics = [{k: v for k, v in run.metrics.items() if not k.startswith("seconds")} for run in runs]
    assert metrics[0] == metrics[1]
    assert runs[0].evaluations[-1].sizes["characters"] == 8


def learned(seed, *points):
    """A run with these looks: operations, seconds, loss."""
    looks = [Evaluation(i, {"test loss": p[2]}, 1, p[0], p[1], {}) for i, p in enumerate(points)]
    other = Evaluation(9, {"loss at birth": 9.0}, 1, points[-1][0], points[-1][1], {})
    return Run(seed, {}, (looks[0], other, *looks[1:]), (), Costs(0, 0, 0, 0, None))


def test_losses_are_compared_when_the_first_of_both_ends():
    slow = [learned(seed, (0, 0.0, 4.0), (10, 4.0, 3.0), (20, 8.0, 2.0 + seed)) for seed in range(3)]
    fast = [learned(seed, (0, 0.0, 4.0), (15, 2.0, 2.0), (30, 6.0, 1.0)) for seed in (0, 2, 5)]
    assert loss_at(slow[0], "seconds", 6.0) == pytest.approx(2.5)
    assert math.isnan(loss_at(slow[0], "flops", 21))
    results = {"slow": slow, "fast": fast}
    seconds = LowerAtEqual("seconds", "fast", "slow").outcome(results)
    assert seconds.estimate == pytest.approx(((2.5 - 1.0) + (3.5 - 1.0)) / 2)  # at 6 s, seeds 0 and 2
    assert seconds.what == "test loss at equal seconds: slow − fast"
    flops = LowerAtEqual("flops", "slow", "fast").outcome(results)
    assert flops.estimate == pytest.approx(((5 / 3 - 2.0) + (5 / 3 - 4.0)) / 2)  # at 20
    with pytest.raises(ConfigError, match="there is no arm 'quick'"):
        LowerAtEqual("flops", "quick", "slow").outcome(results)


@pytest.mark.parametrize("scale", STUDY.scales)
def test_all_arms_spend_the_same_and_end_alike(scale):
    size = STUDY.scales[scale]
    for arm in STUDY.arms(size):
        config = arm.config
        assert isinstance(config, Learn)
        assert (config.final.depth, config.final.width) == size.final
        ends = config.stages[-1].shape if config.stages else config.start
        assert (ends == config.final) == (arm.name != SMALL)
        ats = [stage.at for stage in config.stages]
        assert ats == sorted(ats)


@pytest.mark.heavy
def test_it_runs(tmp_path):
    plan = find("language").plan("smoke", seeds=1)
    result = execute(plan, tmp_path, jobs=1)
    assert result.failures == ()
    for arm in plan.arms:
        for run in result.runs[arm.name]:
            assert math.isfinite(run.value("final loss"))
            assert run.value("flops") > 0
    changed = {name: result.runs[name][0].value("change at birth") for name in (OURS, BOTH, FORGOTTEN, LEARNED)}
    assert changed[OURS] < 1e-5 < min(changed[BOTH], changed[LEARNED])
    assert all(run.value("change at birth") < 1e-5 for name in (CLONED, SILENT) for run in result.runs[name])
    assert all(math.isnan(result.runs[name][0].value("loss at birth")) for name in (SCRATCH, SMALL))
    assert len(judge(plan.claims, result.runs)) == len(plan.claims)


def test_looks_at_newborns_are_not_timed(monkeypatch, tmp_path):
    found = timed_looks(monkeypatch)
    config = next(arm.config for arm in find("language").plan("smoke").arms if arm.name == OURS)
    carry_out(config, None, tmp_path / "run")
    assert set(found) == {False}
