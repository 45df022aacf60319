"""The study of bottlenecks: its two tests, its nets, and that all of it runs."""

import math

import pytest
import torch
from torch import nn

from meristem.study import judge
from meristem.study.catalogue import find
from meristem.study.execute import execute
from meristem.study.studies.bottleneck.comparisons import CheaperThanAll, NotWorse
from meristem.study.studies.bottleneck.nets import Net, prepared
from meristem.study.studies.bottleneck.study import GRID, STUDY, at, fixed, grown
from meristem.train.data import load
from meristem.train.record import Costs, Run
from tests.study.toys import timed_looks


def runs(*values: float, flops: float = 0) -> list[Run]:
    return [Run(seed, {"a": v}, (), (), Costs(flops + seed, 0, 0, 0, None)) for seed, v in enumerate(values)]


@pytest.mark.parametrize(
    ("lead", "verdict"), [(0.0, "reproduced"), (0.3, "reproduced"), (-0.01, "reproduced"), (-0.1, "not reproduced")]
)
def test_not_worse_is_judged_against_the_margin(lead, verdict):
    base, noise = (0.5, 0.6, 0.4, 0.5, 0.55), (0.001, -0.001, 0.0, 0.002, -0.002)
    results = {"x": runs(*(b + lead + n for b, n in zip(base, noise, strict=True))), "y": runs(*base)}
    found = NotWorse("a", "x", "y", margin=0.02).outcome(results)
    assert found.verdict == verdict
    assert found.estimate == pytest.approx(lead)
    assert found.low < lead < found.high
    assert found.level == -0.02


def test_not_worse_is_undecided_where_the_interval_holds_the_margin():
    results = {"x": runs(0.5, 0.4, 0.6), "y": runs(0.5, 0.52, 0.5)}
    found = NotWorse("a", "x", "y", margin=0.02).outcome(results)
    assert found.low < -0.02 < found.high
    assert found.verdict == "undecided"
    assert found.needed is not None


def test_costs_of_several_arms_are_added_up():
    results = {"x": runs(1, 2, 3, flops=100), "y": runs(1, 2, 3, flops=40), "z": runs(1, 2, 3.5, flops=70)}
    found = CheaperThanAll("flops", "x", ("y", "z")).outcome(results)
    assert found.estimate == pytest.approx(sum(40 + 70 + 2 * s - (100 + s) for s in range(3)) / 3)
    assert found.verdict == "reproduced"
    assert CheaperThanAll("flops", "x", ("y",)).outcome(results).verdict == "not reproduced"


def test_nets_have_their_share_of_the_width_and_at_least_two_units():
    data = load("digits")
    settings = Net(widths=(16, 32), hidden=32, norm=False)
    assert list(settings.sizes(data, 1.0).values()) == [16, 16, 32, 32, 32]
    assert list(settings.sizes(data, 0.25).values()) == [4, 4, 8, 8, 8]
    assert list(settings.sizes(data, 1 / 64).values()) == [2, 2, 2, 2, 2]
    model = settings.build(data, 0.25)
    assert settings.parameters(data, 0.25) == sum(p.numel() for p in model.parameters())
    assert model.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    residual = Net(kind="resnet", widths=(6, 8), blocks=2)
    sizes = residual.sizes(data, 0.5)
    assert sorted(sizes.values()) == [4, 4, 6]
    state = torch.random.get_rng_state()
    residual.sizes(data, 0.5)
    assert torch.equal(state, torch.random.get_rng_state())


def test_images_are_the_first_and_averaged():
    data = load("digits")
    found = prepared(data, (10, 5), 2)
    assert found.train_images.shape == (10, 1, 4, 4)
    assert len(found.test_labels) == 5
    square = data.train_images[3, 0, 2:4, 4:6].float().mean().round()
    assert found.train_images[3, 0, 1, 2] == square
    assert prepared(data, (None, None), 1).train_images.shape == data.train_images.shape


@pytest.mark.heavy
def test_the_study_runs_and_its_claims_can_be_judged(tmp_path):
    plan = find("bottleneck").plan("smoke", seeds=2)
    outcome = execute(plan, tmp_path, jobs=1)
    assert not outcome.failures
    large = {run.seed: run.value("parameters") for run in outcome.runs[at(fixed("1"), "VGG")]}
    for arm, found in outcome.runs.items():
        for run in found:
            assert math.isfinite(run.metrics["mean accuracy"])
            share = run.value("parameters") / large[run.seed]
            assert run.metrics["share of the large net"] == pytest.approx(share)
            assert bool(run.changes) == ("from" in arm)
            assert share <= 1
            if arm.startswith(("random", "Net2Wider", "Mitosis")):
                assert share == 1
    findings = judge(plan.claims, outcome.runs)
    assert len(findings) == len(plan.claims)
    assert all(math.isfinite(o.estimate) for finding in findings for o in finding.outcomes)


@pytest.mark.heavy
def test_a_residual_net_grows_inside_its_blocks_only(tmp_path):
    from meristem.study.studies.bottleneck.experiment import Growing
    from meristem.train.experiment import carry_out

    config = Growing(
        data="digits", net=Net(kind="resnet", widths=(4, 8), blocks=2), share=0.25, method="TINY", where="bottleneck",
        epochs=1, edits=3, listen=1, images=(128, 64), evaluations=2,
    )  # fmt: skip
    run = carry_out(config, load("digits"), tmp_path / "run")
    assert run.evaluations[-1].sizes["trunk.conv"] == 4
    assert sum(sum(change.births.values()) for change in run.changes) > 0
    assert set().union(*(change.births for change in run.changes)) <= {"block1.inner.conv", "block2.inner.conv"}


@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
def test_arms_are_complete_and_grad_max_is_left_out_behind_batch_norm(scale):
    plan = STUDY.plan(scale)
    names = {arm.name for arm in plan.arms}
    for net, settings in plan.study.scales[scale].nets.items():
        assert {at(fixed(width), net) for width in GRID} <= names
        assert (at(grown("GradMax", "1/4"), net) in names) == (not Net(**settings).norm)
        assert at(grown("TINY", "1/64", "bottleneck"), net) in names


def test_looks_at_newborns_are_not_timed(monkeypatch, tmp_path):
    from meristem.study.studies.bottleneck.experiment import Growing
    from meristem.train.experiment import carry_out

    found = timed_looks(monkeypatch)
    config = Growing(
        data="digits", net=Net(widths=(4, 8), hidden=8, norm=False), share=0.5, method="Random", epochs=1, edits=2,
        listen=1, images=(128, 64), evaluations=2,
    )  # fmt: skip
    assert carry_out(config, load("digits"), tmp_path / "run").records
    assert set(found) == {False}
