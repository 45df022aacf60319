"""The common benchmark: its protocol does what it says, its measures are exact, and others can take part."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

import meristem
from meristem.cli import app
from meristem.diagnose import Monitor
from meristem.edit import Edit
from meristem.errors import ConfigError
from meristem.grow import Random, ZeroFanOut
from meristem.mask import RigL, Scene
from meristem.prune import Magnitude
from meristem.schedule import Every, Moment
from meristem.signals import Recorder, View
from meristem.study.catalogue import find
from meristem.study.execute import Outcome, execute
from meristem.study.studies.grid import STUDY, Contender, Submission
from meristem.study.studies.grid.arms import arms
from meristem.study.studies.grid.cells import Cells
from meristem.study.studies.grid.claims import claims
from meristem.study.studies.grid.contender import LISTEN, Level, Still
from meristem.study.studies.grid.entries import final_net
from meristem.study.studies.grid.experiment import Contest, Fixed
from meristem.study.studies.grid.insertion import BlindGradMax, UnreadGradMax
from meristem.study.studies.grid.layers import Layers
from meristem.study.studies.grid.net import WIDTHS, first_net, last_net, vgg11
from meristem.study.studies.grid.neurons import Neurons
from meristem.study.studies.grid.rewired import Paced, Rewired
from meristem.study.studies.grid.rounds import rounds
from meristem.study.studies.grid.running import Running
from meristem.study.studies.grid.schedules import own
from meristem.study.studies.grid.settings import SCALES
from meristem.study.studies.grid.sprout import Sprouting
from meristem.study.studies.grid.submission import Submitted, found_in
from meristem.study.studies.grid.twin import Probe, Watch
from meristem.study.studies.grid.weights import Weights
from meristem.study.summary import summarize
from meristem.train.data import load
from meristem.train.experiment import carry_out
from meristem.train.log import Log

ROOT = Path(__file__).parents[2]
TINY = Contest(
    images=(64, 20),
    widths=(8, 8, 8, 8, 8, 8, 8, 8),
    steps=20,
    batch_size=16,
    tries=1,
    looks=1,
    learning_rate=0.02,
)


def ran(folder, **changes):
    return carry_out(TINY.model_copy(update=changes), load("digits"), folder)


def convolutions(eps=1e-5) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, eps), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten()]
    return nn.Sequential(*layers).double()


def proposed(method, model, count):
    """The plan of a method after one step on random images, and the images."""
    torch.manual_seed(1)
    x, y = torch.randn(12, 2, 5, 5, dtype=torch.float64), torch.randint(27, (12,))
    axes = meristem.trace(model, x[:2])
    axis = axes["0"]
    return (
        method.propose(View(axes, signals=heard(axes, method.needs(axes, axis, count), x, y)), axis, count),
        axes,
        x,
        y,
    )


def heard(axes, statistics, x, y):
    """The statistics of one step."""
    recorder = Recorder(axes, statistics)
    recorder.closing()
    cross_entropy(axes.model(x), y).backward()
    axes.model.zero_grad()
    return recorder.finish()


def test_vgg_11_is_configuration_a():
    net = vgg11((3, 32, 32), 10, WIDTHS, norm=False)
    sizes = [(m.in_channels, m.out_channels) for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert sizes == list(zip((3, *WIDTHS[:-1]), WIDTHS, strict=True))
    assert sum(isinstance(m, nn.MaxPool2d) for m in net) == 5
    assert net.head.weight.shape == (10, 512)
    assert sum(p.numel() for p in net.parameters()) == 9_225_610  # 9,220,480 of torchvision's vgg11().features


@pytest.mark.parametrize("level", get_args(Level))
def test_contests_begin_and_end_at_either_end(level):
    def size(net):
        return sum(p.numel() for p in net.parameters())

    given = ((1, 8, 8), 10, TINY.widths, True)
    grown, shrunk = (size(last_net(level, course, *given)) for course in ("growing", "shrinking"))
    assert size(first_net(level, "growing", *given)) == shrunk
    assert size(first_net(level, "shrinking", *given)) == grown
    assert size(first_net(level, "constant", *given)) == size(last_net(level, "constant", *given)) == grown
    assert (shrunk < grown) == (level != "weight")


@pytest.mark.parametrize(
    ("level", "course", "name"),
    [
        ("neuron", "constant", "VGG-11"),
        ("neuron", "shrinking", "VGG-11 at half the width"),
        ("layer", "growing", "VGG-11"),
        ("cell", "shrinking", "VGG-11"),
        ("cell", "constant", "VGG-11 with four branches more"),
        ("normalized cell", "growing", "VGG-11 with four normalized branches more"),
        ("weight", "growing", "VGG-11"),
        ("weight", "constant", "VGG-11 with a quarter of the weights"),
    ],
)
def test_nets_are_compared_with_fixed_ones_as_large(level, course, name):
    assert final_net(level, course).name == name


def test_parallel_convolutions_have_the_variance_of_one():
    torch.manual_seed(0)
    one, two = (vgg11((64, 8, 8), 10, (64,) * 8, False, doubled=d) for d in ((), (1, 2, 3, 4, 5, 6, 7, 8)))
    x = torch.randn(16, 64, 8, 8)
    assert two.layer1.conv(x).var().item() == pytest.approx(one.layer1.conv(x).var().item(), rel=0.1)


@pytest.mark.parametrize("train", [True, False])
def test_unread_newborns_are_not_noticed_behind_batch_normalization(train):
    model = convolutions()
    plan, axes, x, _ = proposed(UnreadGradMax(), model, 3)
    model.train(train)
    before = model(x)
    Edit(axes).gather(plan.axis, plan.gather, plan.start).commit()
    assert model[0].out_channels == 7
    fan_in = torch.cat([model[0].weight.flatten(1), model[0].bias[:, None]], 1)[4:]
    mean = model[0].weight[:4].flatten(1).norm(dim=1).mean().item()
    assert fan_in.norm(dim=1).tolist() == pytest.approx([mean] * 3)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


def test_unread_newborns_get_the_largest_gradient_of_their_fan_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 5)).double()
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.randint(5, (30,))
    axes = meristem.trace(model, x[:2])
    method = UnreadGradMax()
    signals = heard(axes, method.needs(axes, axes["0"], 2), x, y)
    plan = method.propose(View(axes, signals=signals), axes["0"], 2)
    size = model[0].weight.norm(dim=1).mean().item()
    z = model(x).detach().requires_grad_()
    delta = torch.autograd.grad(cross_entropy(z, y), z)[0]
    values = torch.linalg.svdvals(delta.T @ torch.cat([x, torch.ones(30, 1, dtype=x.dtype)], 1))
    Edit(axes).gather(plan.axis, plan.gather, plan.start).commit()
    model.zero_grad()
    cross_entropy(model(x), y).backward()
    found = model[1].weight.grad[:, 4:].norm(dim=0)
    assert found.tolist() == pytest.approx((size * values[:2]).tolist(), rel=1e-6)


def test_blind_newborns_get_gradients_that_grow_as_epsilon_falls():
    norms = []
    for eps in (1e-5, 4e-5):
        model = convolutions(eps)
        plan, axes, x, y = proposed(BlindGradMax(), model, 2)
        before = model(x)
        Edit(axes).gather(plan.axis, plan.gather, plan.start).commit()
        assert not model[0].weight[4:].any()
        torch.testing.assert_close(model(x), before, rtol=0, atol=1e-5)
        model.zero_grad()
        cross_entropy(model(x), y).backward()
        norms.append(model[0].weight.grad[4:].norm().item())
    assert norms[0] / norms[1] == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize(
    ("course", "prune", "sizes"),
    [
        ("growing", None, [5, 6, 7, 8]),
        ("growing", "L1", [3, 5, 4, 6, 5, 7, 6, 8]),
        ("shrinking", "L1", [6, 7, 5, 6, 4, 5, 3, 4]),
        ("constant", "L1", [7, 8, 7, 8, 7, 8, 7, 8]),
    ],
)
def test_the_fixed_schedule_goes_from_first_to_last(tmp_path, course, prune, sizes):
    way = Neurons(grow="random", prune=prune, insertion="safe")
    run = ran(tmp_path, course=course, way=way, steps=60)
    found, size = [], 4 if course == "growing" else 8
    for change in run.changes:
        assert len(change.births or change.deaths) == 8  # every convolution
        size += change.births.get("layer3.conv", 0) - change.deaths.get("layer3.conv", 0)
        found.append(size)
    assert found == sizes
    assert run.metrics["size"] == 1
    times = [12, 18, 24, 30]
    assert [c.step for c in run.changes] == (times if prune is None else [t + d for t in times for d in (0, 4)])


@pytest.mark.parametrize("course", ["growing", "shrinking", "constant"])
def test_pairs_on_their_own_schedules_are_born_and_die_as_on_the_fixed_one(tmp_path, course):
    found = {}
    for schedule in ("fixed", "own"):
        way = Neurons(grow="random", prune="L1", insertion="safe", schedule=schedule)
        run = ran(tmp_path / schedule, course=course, way=way)
        assert run.metrics["size"] == 1
        found[schedule] = [sum((Counter(dict(getattr(c, k))) for c in run.changes), Counter()) for k in KINDS]
    assert found["own"] == found["fixed"]
    assert [(c.step, bool(c.births), bool(c.deaths)) for c in run.changes] == [
        (3, True, False),
        (10, False, True),
        (10 + LISTEN, True, False),
    ]


KINDS = ("births", "deaths")


def setting_of(**changes):
    model = first_net("neuron", changes.get("course", "growing"), (1, 8, 8), 10, TINY.widths, True)
    axes = meristem.trace(model, torch.zeros(2, 1, 8, 8))
    config = TINY.model_copy(update=changes)
    return config._setting(axes, torch.optim.SGD(model.parameters(), 0.1), torch.zeros(2, 1, 8, 8), Monitor())


@pytest.mark.parametrize(("given", "deaths"), [(12, 4), (9, 1), (8, 0)])
def test_a_removal_leaves_what_is_planned_however_many_were_born(given, deaths):
    setting = setting_of(course="growing", steps=200)
    today = SimpleNamespace(by_name={name: SimpleNamespace(size=given) for name in setting.sizes})
    schedule = own(setting, "GradMax", "L1", lambda: today)
    demands = {step: schedule.due(Moment(step, 0.0), schedule.initial())[0] for step in range(1, 201)}
    times = {step: found for step, found in demands.items() if found}
    assert list(times) == [26, 49, 72, 96, 100]
    births = [demand.amount["layer3.conv"] for step in (26, 49, 72, 96) for demand in times[step]]
    assert sum(births) == 4 + 4 * max(1, round(8 / 8))  # to full width, and what turns over on the fixed schedule
    (removal,) = times[100]
    assert removal.action == "prune"
    assert removal.amount == (dict.fromkeys(setting.sizes, deaths) if deaths else {})


@pytest.mark.parametrize("prune", [None, "L1"])
def test_firefly_grows_by_the_same_factor_twice(prune):
    setting = setting_of(course="growing", steps=200, widths=(64,) * 8)
    schedule = own(setting, "Firefly", prune, lambda: setting.axes)
    births = {step: schedule.due(Moment(step, 0.0), schedule.initial())[0][0].amount for step in (67, 133)}
    first, second = (births[step]["layer3.conv"] for step in (67, 133))
    if prune is None:
        assert (first, second) == (45 - 32, 64 - 45)
    else:
        assert (first, second) == (32, 32)  # from 32 to 64, of which 32 die, to 64


def test_polarization_removes_in_one_ranking_and_newborns_do_not_come_with_a_removal():
    setting = setting_of(course="constant", steps=20)
    schedule = own(setting, "GradMax", "polarization", lambda: setting.axes)
    demands = {step: schedule.due(Moment(step, 0.0), schedule.initial())[0] for step in range(1, 21)}
    assert [(step, d.action) for step, found in demands.items() for d in found] == [
        (3, "grow"),
        (10, "prune"),
        (10 + LISTEN, "grow"),
    ]
    assert demands[10][0].amount == 8 * 2  # two newborns of each convolution are still to come


def test_mitosis_has_a_recipe_of_its_own():
    with pytest.raises(ValueError, match="leave prune out"):
        Neurons(grow="Mitosis", prune="L1", schedule="own")


LOSSES = [2.0] * 10 + [1.0] * 10 + [0.98] * 10 + [0.9] * 10 + [0.88] * 10 + [0.87] * 10 + [0.5] * 40


@pytest.mark.parametrize(
    ("pace", "prune", "expected"),
    [
        ("periodic", False, dict.fromkeys(range(5, 101, 5), (0, 1))),
        ("periodic", True, {50: (2, 0), **dict.fromkeys(range(55, 101, 5), (0, 1))}),
        ("at once", False, {25: (0, 4)}),
        ("at once", True, {50: (2, 0), 75: (0, 4)}),
        ("convergent", False, {30: (0, 1), 50: (0, 1)}),  # at 20 the gain is 1, at 40 it is 0.08; at 60 it did not help
        ("convergent", True, {50: (2, 0), 80: (0, 1)}),  # it begins anew when there is room
        (None, True, {50: (4, 0)}),
    ],
)
def test_layers_come_when_their_methods_say(pace, prune, expected):
    parts = rounds(SimpleNamespace(steps=100, course="constant"), "own", 4, pace, prune)
    states = [part.schedule.initial() for part in parts]
    found = {}
    for step, loss in enumerate(LOSSES, start=1):
        counts = Counter()
        for index, part in enumerate(parts):
            if part.schedule.next(step - 1) <= step:
                demands, states[index] = part.schedule.due(Moment(step, loss), states[index])
                counts.update({demand.action: demand.amount for demand in demands})
                assert not demands or step in part.steps
        if counts:
            found[step] = (counts["shorten"], counts["deepen"])
    assert found == expected


def test_parts_are_inserted_where_they_are_missing_and_the_weakest_die(tmp_path):
    run = ran(tmp_path, level="layer", course="constant", way=Layers(grow="identity", prune="L1", schedule="own"))
    assert [(c.step, len(c.births), len(c.deaths)) for c in run.changes] == [(10, 0, 2), (15, 2, 0)]
    assert run.metrics["size"] == 1


@pytest.mark.parametrize(
    ("level", "course", "way"),
    [
        ("neuron", "growing", Neurons(grow="GradMax", insertion="safe")),
        ("neuron", "growing", Neurons(grow="GradMax-Opt", insertion="safe", schedule="own")),
        ("neuron", "growing", Neurons(grow="Mitosis", schedule="own")),
        ("layer", "growing", Layers(grow="residual")),
        ("cell", "growing", Cells(grow="copy")),
    ],
)
def test_what_preserves_the_function_makes_no_jump(tmp_path, level, course, way):
    run = ran(tmp_path, level=level, course=course, way=way)
    assert run.metrics["size"] == pytest.approx(1, abs=0.02)
    assert run.metrics["edits"] > 0
    assert run.metrics["jump"] == pytest.approx(0, abs=1e-5)
    assert run.metrics["evaluation jump"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("level", "course", "way"),
    [
        ("layer", "shrinking", Layers(prune="polarization", strength=2e-3)),
        ("layer", "constant", Layers(grow="random", prune="L1")),
        ("cell", "constant", Cells(grow="random", prune="L1")),
        ("cell", "constant", Cells(grow="copy", prune="L1", schedule="own")),
        ("cell", "shrinking", Cells(prune="L1", schedule="own")),
        ("weight", "growing", Weights(drop=True, grow="gradient")),
        ("weight", "growing", Weights(drop=True, grow="gradient", schedule="own")),
        ("weight", "shrinking", Weights(drop=True, grow="random", schedule="own")),
        ("weight", "shrinking", Weights(named="GraNet")),
    ],
)
def test_every_level_ends_at_its_size(tmp_path, level, course, way):
    run = ran(tmp_path, level=level, course=course, way=way)
    assert run.metrics["size"] == pytest.approx(1, abs=0.01)
    assert run.metrics["edits"] > 0
    assert run.metrics["jump"] != 0
    assert set(run.metrics) == set(ran(tmp_path / "fixed", way=Fixed(), steps=4).metrics)


def test_polarization_ranks_all_scales_and_leaves_half_of_the_units(tmp_path):
    way = Neurons(prune="polarization", schedule="own", strength=5e-3)
    run = ran(tmp_path, course="shrinking", way=way)
    (change,) = run.changes
    assert change.step == 10
    assert sum(change.deaths.values()) == sum(TINY.widths) / 2
    assert len(set(change.deaths.values())) > 1


class Pretending(Still):
    """Says that it edits, and adds a number to the weights of the head."""

    def __init__(self, axes, amount):
        super().__init__(axes)
        self.amount = amount

    def edits(self, step):
        return step == 3

    def after(self, step, loss, closure):
        if step != 3:
            return None
        with torch.no_grad():
            self.axes.model.head.weight[0].add_(self.amount)
        return {"head": 1}, {}


@pytest.mark.parametrize("amount", [0.0, 1.0])
def test_a_twin_is_what_the_net_would_have_become(amount):
    torch.manual_seed(0)
    model = first_net("neuron", "growing", (1, 8, 8), 10, TINY.widths, True)
    x, y = torch.randn(10, 16, 1, 8, 8), torch.randint(10, (10, 16))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    contender = Pretending(meristem.trace(model, x[0, :2]), amount)
    watch = Watch(contender, optimizer, Probe(x[0], y[0]), (2, 5), 4)
    running = Running(model, optimizer, scheduler, contender, watch, Log(), lambda: torch.zeros(()))
    for step in range(10):
        running.step(step + 1, x[step], y[step])
    assert len(watch.damages) == len(watch.jumps) == 1
    if amount:
        assert watch.jumps[0] != 0
        assert watch.damages[0] != 0
    else:
        assert watch.jumps == watch.evaluation_jumps == watch.damages == [0]


def test_probes_leave_no_trace():
    model = first_net("neuron", "growing", (1, 8, 8), 10, TINY.widths, True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe = Probe(torch.randn(8, 1, 8, 8), torch.arange(8))
    assert probe.training_loss(model) == pytest.approx(cross_entropy(model(probe.x), probe.y).item())
    model.load_state_dict(before)
    assert probe.training_loss(model) != probe.evaluation_loss(model)
    assert model.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("grow", ["gradient", "random"])
@pytest.mark.parametrize(
    ("first", "last", "stay", "after"), [(0.5, 0.25, 21, 24), (0.5, 0.75, 28, 40), (0.5, 0.5, 28, 32)]
)
def test_an_eighth_of_the_weights_is_exchanged(grow, first, last, stay, after):
    torch.manual_seed(0)
    weight, gradient = torch.randn(8, 8), torch.randn(8, 8)
    there = torch.zeros(64).index_fill_(0, torch.randperm(64)[:32], 1).reshape(8, 8).bool()
    method = Rewired(first=first, last=last, times=(10, 20), drop=True, grow=grow)
    tensors, gradients = {"w": weight * there}, {"w": gradient}
    scene = Scene(step=10, seed=0, masks={"w": there}, parameters={}, tensors=tensors, gradients=gradients)
    mask = method.update(scene).masks["w"]
    assert int(mask.sum()) == after  # half the way
    best = torch.zeros(64).index_fill_(0, (weight.abs() * there).flatten().topk(stay).indices, 1).reshape(8, 8).bool()
    assert bool(mask[best].all())
    if grow == "gradient":
        expected = (gradient.abs() * ~best).flatten().topk(after - stay).indices
        assert sorted((mask & ~best).flatten().nonzero().flatten().tolist()) == sorted(expected.tolist())


def test_paced_densities_follow_their_curves_and_exchanges_end():
    grown = Paced(first=0.25, last=1.0, drop=True, grow="gradient", begin=0, end=60, interval=16)
    assert [step for step in range(1, 100) if grown.due(step)] == [16, 32, 48, 60]
    assert [grown.density(step) for step in (0, 30, 60)] == pytest.approx([0.25, 0.625, 1.0])
    assert [grown.turnover(step) for step in (0, 30, 60)] == pytest.approx([0.3, 0.15, 0.0])
    pruned = Paced(first=1.0, last=0.25, drop=True, grow="random", begin=20, end=60, interval=20)
    assert [step for step in range(1, 100) if pruned.due(step)] == [40, 60]
    assert [pruned.density(step) for step in (20, 40, 60)] == pytest.approx([1.0, 0.25 + 0.75 / 8, 0.25])
    with pytest.raises(ValueError, match="drops and grows by itself"):
        Weights(named="RigL", schedule="own")


@pytest.mark.parametrize("norm", [False, True])
def test_sparse_layers_without_normalization_keep_the_variance(norm):
    torch.manual_seed(0)
    model = first_net("weight", "constant", (1, 8, 8), 10, (64,) * 8, norm)
    before = model.layer2.conv.weight.detach().clone()
    axes = meristem.trace(model, torch.zeros(2, 1, 8, 8))
    config = TINY.model_copy(update={"level": "weight", "course": "constant", "norm": norm})
    setting = config._setting(axes, torch.optim.SGD(model.parameters(), 0.1), torch.zeros(2, 1, 8, 8), Monitor())
    Weights(drop=True, grow="random").begin(setting)
    weight = model.layer2.conv.weight
    there = weight != 0
    assert there.float().mean().item() == pytest.approx(0.25, abs=1e-3)
    torch.testing.assert_close(weight[there], before[there] * (1 if norm else 2), rtol=1e-3, atol=0)


def test_claims_are_about_arms_with_seeds_enough():
    for scale, size in SCALES.items():
        counts = {arm.name: arm.seeds or size.seeds for arm in arms(size)}
        assert len({arm.folder for arm in arms(size)}) == len(counts)
        for claim in claims(size):
            for test in claim.tests:
                for field in ("first", "second", "arm"):
                    given = getattr(test, field, ())
                    for name in (given,) if isinstance(given, str) else given:
                        assert scale == "smoke" or counts[name] >= 5, name
                        assert name in counts


def test_the_grid_is_whole():
    names = {arm.name for arm in arms(SCALES["cpu"])}
    for course in ("growing", "shrinking", "constant"):
        for prune in ("L1", "polarization"):
            for grow in ("GradMax", "GradMax-Opt", "Firefly", "random"):
                assert f"neuron, {course}: {prune} + {grow}, BN, safe" in names
                assert (f"neuron, {course}: {prune} + {grow}, no BN" in names) == (prune == "L1")
                assert f"neuron, {course}: {prune} + {grow}, BN, safe, own schedule" in names
        for grow in get_args(Sprouting):
            forms = ("BN",) if grow == "Firefly" else ("BN", "BN, safe")
            pairs = [("layer", "L1"), ("layer", "polarization"), ("cell", "L1"), ("normalized cell", "polarization")]
            for level, prune in pairs:
                found = {f"{level}, {course}: {prune} + {grow}, {form}" for form in forms}
                assert found | {f"{name}, own schedule" for name in found} <= names
        for grow in ("copy", "random"):
            assert f"normalized cell, {course}: polarization + {grow}, BN, own schedule" in names
    for level in get_args(Level):
        for course in ("growing", "shrinking", "constant"):
            found = {name for name in names if name.startswith(f"{level}, {course}: ")}
            assert found
            named = {f"{level}, {course}: {one}, BN" for one in ("RigL", "SET", "GradualMagnitude", "GraNet")}
            assert any(name.endswith(", own schedule") for name in found) or named & found
            assert final_net(level, course).entry(True).name in names


SUBMISSIONS = {
    "there is no file": None,
    "cannot be run: SyntaxError": "SUBMISSION = (",
    "cannot be run: ZeroDivisionError": "1 / 0",
    "should define SUBMISSION": "x = 1",
    "found 'Random'": "SUBMISSION = 'Random'",
    "give exactly one of": "SUBMISSION = Submission(name='a')",
    "exactly one of grow and/or prune, mask, start; got grow or prune and mask": (
        "SUBMISSION = Submission(name='a', grow=Random(), mask=RigL(end=9))"
    ),
    "should be one of neuron, layer, cell, normalized cell, weight": (
        "SUBMISSION = Submission(name='a', level='unit', grow=Random())"
    ),
    "should be one of growing, shrinking, constant": "SUBMISSION = Submission(name='a', course='up', grow=Random())",
    "should be a meristem.grow.Method": "SUBMISSION = Submission(name='a', grow=Random)",
    "for the level 'layer' give start": "SUBMISSION = Submission(name='a', level='layer', grow=Random())",
    "mask for 'weight'": "SUBMISSION = Submission(name='a', mask=RigL(end=9))",
    "should be a short text": "SUBMISSION = Submission(name=' ', grow=Random())",
}
IMPORTS = """
from meristem.grow import Random
from meristem.mask import RigL
from meristem.study.studies.grid import Submission
"""


@pytest.mark.parametrize("message", SUBMISSIONS)
def test_files_that_do_not_fit_are_refused(tmp_path, message):
    path, text = tmp_path / "mine.py", SUBMISSIONS[message]
    if text is not None:
        path.write_text(IMPORTS + text)
    with pytest.raises(ConfigError, match=re.escape(message if text is not None else "cannot read")):
        STUDY.plan("smoke", submission=path)


def test_only_studies_that_take_submissions_do(tmp_path):
    with pytest.raises(ConfigError, match="takes no submissions"):
        find("stability").plan("smoke", submission=tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("submission", "message"),
    [
        (Submission(name="a", grow=Random(), schedule=lambda setting: 3), r"schedule\(setting\) should give"),
        (Submission(name="a", level="weight", mask=lambda setting: RigL), r"mask\(setting\) should give"),
        (Submission(name="a", level="cell", start=lambda setting: None), r"start\(setting\) should give"),
    ],
)
def test_functions_of_submissions_must_give_what_is_asked_for(submission, message):
    model = first_net("neuron", "growing", (1, 8, 8), 10, TINY.widths, True)
    axes = meristem.trace(model, torch.zeros(2, 1, 8, 8))
    setting = TINY._setting(axes, torch.optim.SGD(model.parameters(), 0.1), torch.zeros(2, 1, 8, 8), Monitor())
    with pytest.raises(ConfigError, match=message):
        submission.begin(setting)


@pytest.mark.parametrize(
    "submission",
    [
        Submission(name="a", course="constant", grow=ZeroFanOut(), prune=Magnitude()),
        Submission(name="a", grow=ZeroFanOut(), schedule=Every(4, end=16, grow=0.1)),
        Submission(name="a", level="weight", course="constant", mask=lambda s: RigL(end=s.steps, interval=5)),
        Submission(name="a", level="layer", start=lambda setting: Still(setting.axes)),
    ],
)
def test_every_way_of_taking_part_begins(submission):
    model = first_net(submission.level, submission.course, (1, 8, 8), 10, TINY.widths, True)
    axes = meristem.trace(model, torch.zeros(2, 1, 8, 8))
    config = TINY.model_copy(update={"level": submission.level, "course": submission.course})
    setting = config._setting(axes, torch.optim.SGD(model.parameters(), 0.1), torch.zeros(2, 1, 8, 8), Monitor())
    contender = submission.begin(setting)
    assert isinstance(contender, Contender)
    assert any(contender.edits(step) for step in range(1, 21)) == (submission.start is None)


@pytest.mark.heavy
def test_the_page_shows_submissions_that_take_part(tmp_path):
    text = (ROOT / "docs/submit.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    levels = []
    for index, block in enumerate(blocks):
        for number, one in enumerate(found_in(block)):
            way = Submitted(source=block, number=number)
            place = tmp_path / f"{index}-{number}"
            run = ran(place, level=one.level, course=one.course, norm=one.norm, way=way)
            assert [bool(change.births) for change in run.changes] == [True] * 4
            assert 0.9 < run.metrics["size"] < 1.02
            assert one.level == "neuron" or run.metrics["jump"] == pytest.approx(0, abs=1e-5)
            levels.append(one.level)
    assert levels == ["neuron", "layer", "cell"]


@pytest.fixture
def board(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import leaderboard

    return leaderboard


def test_the_example_takes_part_and_stands_on_the_board(tmp_path, board):
    file, out = ROOT / "examples/submission.py", tmp_path / "out"
    command = ["study", "grid", "--submission", str(file), "--scale", "smoke", "--jobs", "1", "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    stored = json.loads((out / "results.json").read_text())
    ours = next(arm for arm in stored["arms"] if arm["name"] == "neuron, growing: Mirrored, early")
    assert ours["config"]["way"]["source"] == file.read_text()
    assert ours["values"]["jump"] == pytest.approx([0], abs=1e-5)
    assert ours["values"]["size"] == [1]
    assert not stored["failures"]
    assert not stored["findings"]
    assert stored["settings"]["protocol"] == "1.0"

    theirs = board.read_summary(out / "results.json")
    only = (*(arm.name for arm in theirs.arms if arm.name.startswith("fixed")), "neuron, growing: Mitosis, BN")
    size = replace(SCALES["smoke"], only=only)
    plan = replace(STUDY, scales={"smoke": size}, claims=lambda size: ()).plan("smoke")
    study = summarize(plan, execute(plan, tmp_path / "study", jobs=1))
    text = "\n".join(board.page(study, [theirs]))
    assert "| **Mirrored, early** (submitted) | 1 |" in text
    silent = (replace(arm, values={k: v for k, v in arm.values.items() if k != "peak_bytes"}) for arm in study.arms)
    assert "memory (MB)" not in "\n".join(board.page(replace(study, arms=tuple(silent)), [theirs]))
    ranks = re.findall(r"^\| \d \| (.*?) \|", text, re.M)
    accuracy = {arm.name: arm.values["final accuracy"][0] for arm in (*study.arms, *theirs.arms)}
    better = accuracy["neuron, growing: Mirrored, early"] > accuracy["neuron, growing: Mitosis, BN"]
    assert ranks[0].startswith("**Mirrored" if better else "Mitosis")
    assert re.search(r"^\|  \| VGG-11 \| 1 \|", text, re.M)

    with pytest.raises(ConfigError, match="run it again"):
        list(board.page(study, [replace(theirs, scale="cpu")]))
    arm = next(arm for arm in theirs.arms if "Mirrored" in arm.name)
    for message, changed in {
        "with steps = 40, the others with 20": replace(arm, config={**arm.config, "steps": 40}),
        "with protocol = None": replace(arm, config={k: v for k, v in arm.config.items() if k != "protocol"}),
        "with the seeds [3]; expected each of 0 to 0": replace(arm, seeds=(3,)),
        "with the seeds [0, 0]": replace(arm, seeds=(0, 0)),
        "nothing to compare": replace(arm, config={**arm.config, "norm": False}),
    }.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            list(board.page(study, [replace(theirs, arms=(changed,))]))
    large = replace(arm, values={**arm.values, "size": (1.5,)})
    assert "| too large | **Mirrored" in "\n".join(board.page(study, [replace(theirs, arms=(large,))]))
    more = replace(study, settings={**study.settings, "core_seeds": 2})
    assert "| few seeds | **Mirrored" in "\n".join(board.page(more, [theirs]))


def test_studies_without_runs_have_no_page(tmp_path, board, monkeypatch):
    monkeypatch.setattr(board, "RESULTS", tmp_path)
    monkeypatch.setattr(board, "SUBMISSIONS", tmp_path / "submissions")
    monkeypatch.setattr(board, "PAGE", tmp_path / "page.md")
    board.main()
    assert not (tmp_path / "page.md").exists()
    empty = summarize(STUDY.plan("smoke"), Outcome({arm.name: [] for arm in arms(SCALES["smoke"])}))
    empty.write(tmp_path / "grid.json")
    board.main()
    assert "version 1.0, scale `smoke`" in (tmp_path / "page.md").read_text()
