"""The study of the exchange: its courses of operations, and that all of it runs."""

from __future__ import annotations

import pytest
import torch

import meristem
from meristem.study import judge
from meristem.study.catalogue import find
from meristem.study.execute import execute
from meristem.study.studies.exchange.arms import GROWING, ROUND, SHRINKING, WAYS
from meristem.study.studies.exchange.sizes import at, bound, flops, mean, scaled
from meristem.study.studies.exchange.ways import shuffled
from meristem.train.models import conv


def test_courses_are_linear_between_points():
    assert [at(SHRINKING, t) for t in (0.0, 0.1, 0.35, 0.6, 1.0)] == pytest.approx([2, 2, 1.5, 1, 1])
    assert at(ROUND, 0.35) == 1.5
    assert bound(GROWING, 100.0, 20)(20) == 100


def test_means_are_areas():
    assert mean(SHRINKING, 9.0) == pytest.approx(0.1 * 2 + 0.5 * 1.5 + 0.4, abs=1e-3)
    assert mean(GROWING, 0.49) == pytest.approx(0.1 * 0.5 + 0.5 * 0.75 + 0.4, abs=1e-3)
    assert mean(((0.0, 2.0),), 1.9) == pytest.approx(1.9)


def test_nets_take_what_they_are_asked_to_take_or_less():
    axes = meristem.trace(conv((1, 8, 8), 10, (8, 16, 32)), torch.randn(2, 1, 8, 8))
    assert flops(axes, (8, 16, 32)) == axes.flops()
    assert scaled(axes, (8, 16, 32), axes.flops()) == [8, 16, 32]
    for share in (0.5, 1.5, 2.0):
        found = flops(axes, scaled(axes, (8, 16, 32), share * axes.flops()))
        assert 0.85 * share * axes.flops() < found <= share * axes.flops()


def test_batches_are_whole_and_repeat():
    first, second = (shuffled(10, 4, seed) for seed in (3, 3))
    found = [next(first) for _ in range(5)]
    assert all(torch.equal(a, next(second)) for a in found)
    assert len(set(torch.cat(found[:2]).tolist())) == 8


@pytest.mark.heavy
def test_everything_runs(tmp_path):
    study = find("exchange")
    plan = study.plan("smoke", seeds=1)
    done = execute(plan, tmp_path, jobs=1)
    assert not done.failures
    assert len(done.runs) == len(WAYS)
    for arm, (run,) in done.runs.items():
        assert run.metrics["final operations"] <= (2.0 if arm == "Digits Large" else 1.1)  # edits are few here
        assert 0 <= run.metrics["final accuracy"] <= 1
    assert {run.metrics["traded"] > 0 for arm, (run,) in done.runs.items() if "xchange" in arm} == {True}
    assert judge(plan.claims, done.runs)
