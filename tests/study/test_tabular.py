"""The study of tables: its rows, its search, its ways to a width, and that all of it runs."""

import math

import pytest
import torch

import meristem
from meristem.errors import ConfigError
from meristem.study import judge
from meristem.study.catalogue import find
from meristem.study.execute import execute
from meristem.study.studies.tabular.comparisons import NotWorseThanChosen, chosen
from meristem.study.studies.tabular.fit import Fit
from meristem.study.studies.tabular.rows import Part, made_up, split
from meristem.study.studies.tabular.study import METHODS, OWN, at, grown
from meristem.study.studies.tabular.width import Grow, Prune, controller
from meristem.train.experiment import carry_out
from meristem.train.models import mlp
from meristem.train.record import Costs, Run


def run(seed: int, **metrics: float) -> Run:
    return Run(seed, metrics, (), (), Costs(0, 0, 0, 0, None))


def test_rows_are_held_out_by_the_seed_and_only_once():
    table = made_up("numbers")
    rows = split(table, seed=3)
    assert len(rows.held_out.targets) == round(0.2 * len(table.train_targets))
    together = torch.cat([rows.train.inputs, rows.held_out.inputs])
    assert torch.equal(together.sort(0).values, table.train_inputs.sort(0).values)
    assert torch.equal(rows.test.inputs, table.test_inputs)
    assert torch.equal(split(table, seed=3).train.inputs, rows.train.inputs)
    assert not torch.equal(split(table, seed=4).train.inputs, rows.train.inputs)


def test_scores_are_accuracy_and_the_share_of_the_variance():
    numbers, classes = split(made_up("numbers"), 0), split(made_up("classes"), 0)
    part = Part(torch.zeros(4, 1), torch.tensor([1.0, 2.0, 3.0, 6.0]))
    answers = torch.tensor([1.0, 2.0, 4.0, 4.0])
    assert numbers.score(answers, part) == pytest.approx(1 - (1 + 4) / (4 + 1 + 0 + 9))
    assert numbers.score(torch.full((4,), 3.0), part) == pytest.approx(0)
    assert classes.score(torch.tensor([0, 1, 1, 0]), Part(part.inputs, torch.tensor([0, 1, 0, 0]))) == 0.75
    assert (numbers.outputs, classes.outputs) == (1, 2)
    torch.testing.assert_close(numbers.loss(answers[:, None], part.targets), torch.tensor(5 / 4))


def test_a_search_chooses_by_what_it_may_know():
    results = {
        "narrow": [run(0, ho=0.9, a=0.5), run(1, ho=0.1, a=0.9)],
        "wide": [run(0, ho=0.2, a=0.8), run(1, ho=0.3, a=0.7)],
        "own": [run(0, ho=0.0, a=0.6), run(1, ho=0.0, a=0.6)],
    }
    best = chosen(results, ("narrow", "wide"), "ho", "a")
    assert {one.seed: one.value("a") for one in best} == {0: 0.5, 1: 0.7}
    found = NotWorseThanChosen("a", "own", ("narrow", "wide"), "ho", margin=0.05).outcome(results)
    assert found.estimate == pytest.approx(0.0)
    assert found.level == -0.05
    with pytest.raises(ConfigError, match="nobody"):
        NotWorseThanChosen("a", "own", ("narrow", "nobody"), "ho", margin=0.05).outcome(results)


def test_what_a_method_does_not_give_it_is_asked_for_again():
    """GradMax gives no more newborns than there are outputs: one at a time before the last layer."""
    torch.manual_seed(0)
    rows = split(made_up("numbers"), 0)
    model = mlp((6,), 1, [2, 2])
    axes = meristem.trace(model, rows.train.inputs[:2])
    optimizer = torch.optim.Adam(model.parameters())
    grow = Grow(to=10, method="GradMax", by=1.0, edits=4)
    plasticity = controller(axes, optimizer, grow, None, 40, 2, 0)
    births = []
    for _ in range(40):
        rows.loss(model(rows.train.inputs), rows.train.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        event = plasticity.step()
        if event:
            births.append(dict(event.births))
    assert grow.due(40) == [10, 20, 30, 40]
    assert [each["layer2"] for each in births] == [1, 1, 1, 1]
    sizes = [round(2 + 8 * math.sqrt(step / 40)) for step in grow.due(40)]
    assert sum(each.get("layer1", 0) for each in births) == sizes[-1] - 2
    assert plasticity.axes.by_name["layer1"].size == 10


def test_units_leave_that_the_loss_would_hardly_miss(tmp_path):
    config = Fit(kind="numbers", width=8, steps=40, batch_size=32, evaluations=2)
    kept = carry_out(config.model_copy(update={"prune": Prune(below=1e-30)}), None, tmp_path / "kept")
    gone = carry_out(config.model_copy(update={"prune": Prune(below=1e9)}), None, tmp_path / "gone")
    assert kept.metrics["width"] > 6  # all but units that are dead
    assert gone.metrics["width"] == 2  # the least
    assert gone.costs.flops < kept.costs.flops


def test_a_batch_must_fit_into_the_rows(tmp_path):
    with pytest.raises(ConfigError, match="batch_size is 4096"):
        carry_out(Fit(batch_size=4096), None, tmp_path)


@pytest.mark.heavy
def test_the_study_runs_and_its_claims_can_be_judged(tmp_path):
    plan = find("tabular").plan("smoke", seeds=2)
    outcome = execute(plan, tmp_path, jobs=1)
    assert not outcome.failures
    for name in METHODS:
        for found in outcome.runs[at(grown(name), "numbers")]:
            assert found.changes
            assert math.isfinite(found.metrics["R_grad"])
            assert found.records
            assert 2 < found.metrics["width"] <= 8
    for name in OWN:
        assert all(2 <= found.metrics["width"] <= 8 for found in outcome.runs[at(name, "numbers")])
    trees = outcome.runs[at("boosted trees", "numbers")]
    assert all(found.metrics["final score"] > 0.5 for found in trees)
    assert all(math.isnan(found.value("flops")) for found in trees)
    findings = judge(plan.claims, outcome.runs)
    assert all(math.isfinite(o.estimate) for finding in findings for o in finding.outcomes)


def test_classes_are_learnt_as_well(tmp_path):
    found = carry_out(
        Fit(width=16, steps=150, batch_size=32, learning_rate=0.01, grow=Grow(to=24, edits=2)), None, tmp_path / "run"
    )
    assert found.metrics["final score"] > 0.75
    assert found.metrics["width"] == 24
