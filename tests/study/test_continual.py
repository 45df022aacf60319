"""The study of continual learning: tasks are what their papers say, ways of learning do what they claim to."""

import json
import math
from typing import get_args

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from meristem.cli import app
from meristem.diagnose import Monitor
from meristem.errors import ConfigError
from meristem.study.catalogue import find
from meristem.study.claim import Verdict
from meristem.study.studies.continual.experiment import Lifelong, metrics
from meristem.study.studies.continual.learner import Setting, zeroed
from meristem.study.studies.continual.nets import build
from meristem.study.studies.continual.resized import Elastic, Growing, Pruned, even
from meristem.study.studies.continual.settings import SCALES
from meristem.study.studies.continual.still import Backprop, Perturbed, Pulled
from meristem.study.studies.continual.streams import Stream, Task, batches
from meristem.study.studies.continual.turnover import Renewed
from meristem.train.data import load
from meristem.train.experiment import carry_out

WIDTHS = {"fc1": 10, "fc2": 8}

KINDS = ("permuted pixels", "random labels", "permuted labels", "5+1", "binary")


def stream(kind, seed=0, images=20, classes=12):
    g = torch.Generator().manual_seed(7)
    return Stream(kind, torch.randn(60, 2, 3, 3, generator=g), torch.arange(60) % classes, classes, images, seed)


def same(a: Task, b: Task) -> bool:
    return a.inputs.equal(b.inputs) and a.labels.equal(b.labels)


def places(task: Task, whole: Stream) -> list[int]:
    """Which images of the whole a task consists of."""
    return [int((whole.inputs == image).flatten(1).all(1).nonzero()) for image in task.inputs]


def setting(begins=1.0, per_task=4, tasks=5) -> Setting:
    torch.manual_seed(0)
    model = build("mlp", (2, 3, 3), 3, [round(begins * width) for width in WIDTHS.values()], "relu")
    adam = torch.optim.Adam(model.parameters(), 0.01)
    return Setting(model, adam, torch.randn(16, 2, 3, 3), WIDTHS, per_task, tasks, 0, Monitor())


def trained(learner, setting: Setting, tasks: int):
    """So many tasks, and what is done at the beginning of the next."""
    sizes = []
    for step in range(1, tasks * setting.per_task + 1):
        loss = learner.loss(learner.model(setting.example), torch.arange(16) % 3)
        loss.backward()
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        learner.after(step, loss)
        if step % setting.per_task == 0:
            learner.between()
            sizes.append([axis.size for axis in learner.axes.editable])
    return sizes


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_a_function_of_seed_and_number(kind):
    first, again = stream(kind), stream(kind)
    later = again.task(1)
    assert same(first.task(0), again.task(0))
    assert same(first.task(1), later)
    assert not same(first.task(0), first.task(1))
    assert not same(first.task(0), stream(kind, seed=1).task(0))


def test_pixels_are_permuted_alike_in_all_images_and_channels_and_labels_stay():
    whole = stream("permuted pixels")
    one, other = whole.task(0), whole.task(1)
    assert one.labels.equal(other.labels)
    a, b = one.inputs.flatten(2), other.inputs.flatten(2)
    order = [int((b == a[:, :, k : k + 1]).all(0).all(0).nonzero()) for k in range(9)]
    assert sorted(order) == list(range(9))
    assert a.equal(b[:, :, order])


def test_random_labels_change_and_images_stay():
    whole = stream("random labels", images=60)
    one, other = whole.task(0), whole.task(1)
    assert one.inputs.equal(other.inputs)
    assert set(one.labels.tolist()) <= set(range(12))
    assert float((one.labels == other.labels).double().mean()) < 0.4


def test_permuted_labels_are_a_permutation_of_the_classes_of_other_images():
    whole = stream("permuted labels", images=60)
    task = whole.task(3)
    true = whole.labels[places(task, whole)]
    found = {(int(a), int(b)) for a, b in zip(true, task.labels, strict=True)}
    assert len(found) == len({a for a, _ in found}) == len({b for _, b in found}) == 12
    some = stream("permuted labels")
    assert places(some.task(0), some) != places(some.task(1), some)


def test_five_and_one_in_turn_until_the_classes_are_used_up():
    whole = stream("5+1")
    seen = []
    for number, (classes, counts) in enumerate([(5, True), (1, False), (5, True), (1, False)]):
        task = whole.task(number)
        assert task.counts is counts
        assert len(set(task.labels.tolist())) == classes
        assert task.labels.equal(whole.labels[places(task, whole)])
        seen += set(task.labels.tolist())
    assert sorted(seen) == list(range(12))
    with pytest.raises(ConfigError, match="beyond the 12"):
        whole.task(4)


def test_binary_tasks_tell_two_classes_apart():
    whole = stream("binary")
    assert whole.outputs == 2
    task = whole.task(0)
    true = whole.labels[places(task, whole)]
    assert len(task.labels) == 10
    assert {(int(a), int(b)) for a, b in zip(true, task.labels, strict=True)} == {
        (int(true[task.labels == label][0]), label) for label in (0, 1)
    }


def test_batches_go_through_all_images_in_every_epoch():
    task = Task(torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10))
    found = [y.tolist() for _, y in batches(task, 7, 3, torch.Generator().manual_seed(0))]
    assert len(found) == 7
    for epoch in (found[0:3], found[3:6]):
        assert len({y for batch in epoch for y in batch}) == 9
    assert found[0:3] != found[3:6]
    with pytest.raises(ConfigError, match="a batch has 11"):
        next(batches(task, 1, 11, torch.Generator()))


def test_too_few_images_are_refused():
    with pytest.raises(ConfigError, match="a task has 61 images"):
        stream("random labels", images=61)


def test_metrics_compare_the_first_and_the_last_quarter_of_what_counts():
    looks = [{"online accuracy": a, "units": 4.0, "weight magnitude": 1.0, "dead": a} for a in (0.8, 0.6, 0.4, 0.2)]
    between = [{"units": 4.0, "weight magnitude": 1.0, "dead": 0.2}] * 4
    found = metrics([look for pair in zip(looks, between, strict=True) for look in pair])
    assert found["online accuracy"] == pytest.approx(0.5)
    assert found["loss of plasticity"] == pytest.approx(0.6)
    assert found["half the loss"] == pytest.approx(0.3)
    assert found["rise of dead units"] == pytest.approx(0.2 - 0.8)
    assert math.isnan(found["effective rank"])


def test_amounts_of_all_tasks_add_up():
    s = setting(tasks=6)
    amounts = even(s, {"fc1": 2, "fc2": 8}, {"fc1": 10, "fc2": 8})
    given = [amounts(step) for step in s.boundaries]
    assert sum(found.get("fc1", 0) for found in given) == 8
    assert not any("fc2" in found for found in given)


def test_growth_reaches_the_full_width_and_pruning_its_share_in_the_last_task():
    small = setting(0.5)
    assert trained(Growing(start=0.5).begin(small), small, 4)[-1] == list(WIDTHS.values())
    full = setting()
    assert trained(Pruned(share=0.5).begin(full), full, 4)[-1] == [5, 4]


def test_a_rewind_gives_survivors_their_first_weights_and_empties_the_optimizer():
    s = setting()
    before = s.model.get_parameter("fc1.weight").detach().clone()
    learner = Pruned(share=0.5).begin(s)
    trained(learner, s, 2)
    after = s.model.get_parameter("fc1.weight")
    assert len(after) < len(before)
    assert all((before == row).all(1).any() for row in after)
    assert not learner.optimizer.state
    kept = Pruned(share=0.5, rewind=False).begin(setting())
    trained(kept, setting(), 2)
    assert kept.optimizer.state


def test_a_reset_draws_everything_anew():
    s = setting()
    learner = Backprop(reset=True).begin(s)
    before = {name: p.detach().clone() for name, p in s.model.named_parameters()}
    learner.between()
    assert not any(p.equal(before[name]) for name, p in s.model.named_parameters())
    assert [p.shape for p in s.model.parameters()] == [p.shape for p in before.values()]


def test_elastic_removes_exactly_the_dead():
    s = setting(per_task=3)
    layer = s.model.get_submodule("fc1")
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.bias[[2, 5]] = -1000.0
    learner = Elastic(start=1.0, births=0.1).begin(s)
    trained(learner, s, 1)
    assert learner.changes()[1]["fc1"] >= 2
    assert bool((layer.bias > -100).all())
    assert learner.axes.by_name["fc1"].size == len(layer.bias)


def test_ours_replaces_dormant_units_by_divided_ones_and_keeps_the_width():
    s = setting(per_task=6)
    layer = s.model.get_submodule("fc1")
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.bias[[0, 7]] = -1000.0
    learner = Renewed(every=3, listen=1).begin(s)
    assert trained(learner, s, 1)[-1] == list(WIDTHS.values())
    births, deaths = learner.changes()
    assert births == deaths
    assert births["fc1"] >= 2
    assert bool((layer.bias > -100).all())


def test_the_pull_of_l2_init_and_the_shrinking_of_perturbation():
    s = setting()
    learner = Pulled(strength=0.5).begin(s)
    outputs, labels = s.model(s.example), torch.arange(16) % 3
    plain = nn.functional.cross_entropy(outputs, labels)
    assert float(learner.loss(outputs, labels).detach()) == pytest.approx(float(plain.detach()))
    with torch.no_grad():
        s.model.get_parameter("fc1.bias").add_(1.0)
    assert float(learner.loss(outputs, labels).detach()) == pytest.approx(float(plain.detach()) + 0.5 * 10)
    other = setting()
    before = other.model.get_parameter("fc1.weight").detach().clone()
    halved = Perturbed(shrink=0.5, fresh=0.0, every=2).begin(other)
    halved.after(1, plain)
    assert other.model.get_parameter("fc1.weight").equal(before)
    halved.after(2, plain)
    assert other.model.get_parameter("fc1.weight").equal(before / 2)


def test_a_zeroed_head_gives_zero():
    layer = nn.Linear(3, 2)
    zeroed(layer)
    assert not layer(torch.randn(4, 3)).any()


def test_crelu_doubles_what_is_read():
    model = build("conv", (1, 8, 8), 3, (4, 4, 6), "crelu")
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    assert model.get_parameter("head.weight").shape == (3, 12)


def test_a_run_is_a_function_of_its_settings(tmp_path):
    config = Lifelong(images=32, pool=100, tasks=2, steps=6, widths=(8, 6), way=Renewed(every=3, listen=1))
    data = load("digits", tmp_path)
    one, other = (carry_out(config, data, tmp_path / name) for name in ("a", "b"))
    assert one.metrics == other.metrics
    assert len(one.evaluations) == 2


@pytest.mark.parametrize("scale", SCALES)
def test_claims_are_about_arms_and_metrics_that_exist(scale):
    plan = find("continual").plan(scale, seeds=1)
    names = {arm.name for arm in plan.arms}
    for claim in plan.claims:
        for test in claim.tests:
            for field in ("first", "second", "arm"):
                assert getattr(test, field, next(iter(names))) in names, claim.sentence
    assert len({arm.name for arm in plan.arms}) == len(plan.arms)


@pytest.mark.heavy
def test_the_whole_study_runs(tmp_path):
    words = ["study", "continual", "--scale", "smoke", "--seeds", "2", "--jobs", "2", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["missing"] == 0
    assert len(found["findings"]) == len(find("continual").plan("smoke").claims)
    verdicts = set(get_args(Verdict))
    assert {finding["verdict"] for finding in found["findings"]} <= verdicts
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert all(math.isfinite(arm["values"]["online accuracy"][0]) for arm in arms.values())
    assert arms["RL Grow"]["values"]["mean units"][0] < arms["RL BP"]["values"]["mean units"][0]
    assert (tmp_path / "report.html").is_file()
