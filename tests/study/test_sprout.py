"""Layers and branches whose units a growth method makes: exact, steep, and where they promise most."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import meristem
from meristem import depth
from meristem.diagnose import Monitor
from meristem.edit import Edit
from meristem.errors import EditError
from meristem.grow import GradMax
from meristem.integrate import OpenGate, RunningStatistics
from meristem.schedule import At, Moment, Together
from meristem.study.studies.grid.branches import EmptyBranch
from meristem.study.studies.grid.cells import Cells
from meristem.study.studies.grid.experiment import Contest
from meristem.study.studies.grid.insertion import BlindGradMax, UnreadGradMax, helpers, method
from meristem.study.studies.grid.layers import Layers
from meristem.study.studies.grid.net import first_net
from meristem.study.studies.grid.rounds import rounds
from meristem.study.studies.grid.sprout import EMPTY, Sprout, filled, hidden
from meristem.train.data import load
from meristem.train.experiment import carry_out

TINY = Contest(
    images=(64, 20), widths=(8,) * 8, steps=20, batch_size=16, tries=1, looks=1, learning_rate=0.02, level="layer"
)


def net(norm=False, channels=4):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, channels, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(channels * 25, 5)]
    if norm:
        layers.insert(1, nn.BatchNorm2d(channels))
    return nn.Sequential(*layers).double()


def batch(size=30):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 2, 5, 5, dtype=torch.float64, generator=generator)
    return x, torch.randint(5, (size,), generator=generator)


def with_branch(model, x, activation="ReLU", norm=False):
    """An empty branch behind the convolution, and the map."""
    axes = meristem.trace(model, x[:2])
    what = depth.ZeroResidual(hidden=EMPTY, activation=activation, norm=norm)
    done = Edit(axes).depth(depth.Insert(depth.places(axes), "after 0", what)).commit()
    return done.axes, done.inserted[0]


def squared_gradient(model, x, y, parameter):
    return torch.autograd.grad(cross_entropy(model(x), y), parameter)[0].square().sum().item()


def orthogonal(rows, columns, size):
    return torch.linalg.qr(torch.randn(columns, rows, dtype=torch.float64))[0].T * size


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("growing", "insertion"), [("GradMax", "safe"), ("GradMax-Opt", "safe")])
@pytest.mark.parametrize("where", ["behind", "beside"])
def test_what_nothing_reads_at_first_is_exact(norm, growing, insertion, where):
    model, (x, y) = net(norm), batch()
    before = model(x)
    if where == "behind":
        axes, path = with_branch(model, x, norm=norm)
    else:
        axes = meristem.trace(model[:2] if norm else model[:1], x[:2])
        model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(50, 5)).double()
        before, axes = model(x), meristem.trace(model, x[:2])
        done = Edit(axes).depth(EmptyBranch(depth.places(axes), "0", norm)).commit()
        axes, path = done.axes, done.inserted[0]
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    sprout = Sprout(growing, norm, insertion, tries=2, passes=2)
    plan = sprout.plan(axes, path, 3, lambda: cross_entropy(model(x), y), seed=0)
    axes = filled(axes, torch.optim.SGD(model.parameters(), 0.1), plan, seed=0)
    assert hidden(axes, path).size == 3
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


def test_no_random_fan_out_has_a_larger_gradient_than_that_of_gradmax():
    model, (x, y) = net(), batch()
    before = model(x)
    axes, path = with_branch(model, x)
    plan = Sprout("GradMax", norm=False, passes=1).plan(axes, path, 3, lambda: cross_entropy(model(x), y), seed=0)
    filled(axes, torch.optim.SGD(model.parameters(), 0.1), plan, seed=0)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-5)
    branch = model.get_submodule(path)
    first, *_, last = branch.children()
    assert not first.weight.any()
    found = squared_gradient(model, x, y, first.weight) + squared_gradient(model, x, y, first.bias)
    assert sum(plan.gains) == pytest.approx(found, rel=1e-4)
    size = last.weight.movedim(1, 0).flatten(1).norm(dim=1)
    assert size.tolist() == pytest.approx([size[0].item()] * 3)
    torch.manual_seed(2)
    for _ in range(100):
        with torch.no_grad():
            last.weight.copy_(orthogonal(3, 36, size[0]).reshape(3, 4, 3, 3).movedim(0, 1))
        assert squared_gradient(model, x, y, first.weight) + squared_gradient(model, x, y, first.bias) < found


def test_no_random_fan_in_has_a_larger_gradient_than_that_of_unread_gradmax():
    model, (x, y) = net(), batch()
    with torch.no_grad():  # small activations, so that tanh is linear, as the method takes every activation to be
        model[0].weight.mul_(1e-3)
        model[0].bias.mul_(1e-3)
    axes, path = with_branch(model, x, activation="Tanh")
    sprout = Sprout("GradMax", norm=False, insertion="safe", passes=1)
    plan = sprout.plan(axes, path, 3, lambda: cross_entropy(model(x), y), seed=0)
    filled(axes, torch.optim.SGD(model.parameters(), 0.1), plan, seed=0)
    first, *_, last = model.get_submodule(path).children()
    with torch.no_grad():
        first.bias.zero_()
    assert not last.weight.any()
    found = squared_gradient(model, x, y, last.weight)
    size = first.weight.flatten(1).norm(dim=1)
    torch.manual_seed(2)
    for _ in range(100):
        with torch.no_grad():
            first.weight.copy_(orthogonal(3, 36, size.mean()).reshape(3, 4, 3, 3))
        assert squared_gradient(model, x, y, last.weight) < found


def beginning(level, way):
    """A method at the beginning of a contest in float64, and the loss of a batch that stays the same."""
    torch.manual_seed(0)
    model = first_net(level, "growing", (1, 8, 8), 10, TINY.widths, False).double()
    x, y = torch.randn(32, 1, 8, 8, dtype=torch.float64), torch.randint(10, (32,))
    axes = meristem.trace(model, x[:2])
    config = TINY.model_copy(update={"level": level, "norm": False, "tries": 4})
    setting = config._setting(axes, torch.optim.SGD(model.parameters(), 0.1), x, Monitor())
    return way.begin(setting), setting, lambda: cross_entropy(model(x), y)


def tried(level, way, number):
    """The predicted gain of a branch at one place, of several that are tried, and how fast the loss falls as the real
    branch opens from nothing."""
    contender, setting, closure = beginning(level, way)
    parts = {each: contender._born(each) for each in NUMBERS}
    path, step = contender._path(parts[number]), setting.times[0]
    plan = contender._sprout.plan(contender.axes, path, contender._units(path), closure, step)
    filled(contender.axes, setting.optimizer, plan, seed=0)
    *_, last = setting.model.get_submodule(path).children()
    values = last.weight.detach().clone()
    nn.init.zeros_(last.weight)
    (gradient,) = torch.autograd.grad(closure(), last.weight)
    return sum(plan.gains), -(gradient * values).sum().item()


NUMBERS = (4, 6, 7, 8)


@pytest.mark.heavy
@pytest.mark.parametrize(("level", "way"), [("layer", Layers(grow="Firefly")), ("cell", Cells(grow="Firefly"))])
def test_firefly_takes_the_place_where_the_loss_falls_most(level, way):
    slopes = {}
    for number in NUMBERS:
        gain, slopes[number] = tried(level, way, number)
        assert gain == pytest.approx(slopes[number], rel=1e-9)
    assert len({round(slope, 9) for slope in slopes.values()}) == 4

    contender, setting, closure = beginning(level, way)
    (birth,) = contender.after(setting.times[0], closure().detach(), closure)[0]
    (part,) = contender._present
    assert contender._path(part) == birth
    assert part.number == max(slopes, key=slopes.__getitem__)


@pytest.mark.parametrize(
    ("course", "grow", "prune", "expected"),
    [
        ("growing", True, False, [(1, 0)] * 4),
        ("growing", True, True, [(1, 0), (2, 1), (2, 1), (2, 1)]),
        ("constant", True, True, [(1, 1)] * 4),
        ("shrinking", True, True, [(1, 2), (1, 2), (1, 2), (0, 1)]),
        ("shrinking", False, True, [(0, 1)] * 4),
    ],
)
def test_parts_reach_their_number_and_in_pairs_one_more_is_exchanged(course, grow, prune, expected):
    model = first_net("layer", course, (1, 8, 8), 10, TINY.widths, True)
    axes = meristem.trace(model, torch.zeros(2, 1, 8, 8))
    config = TINY.model_copy(update={"course": course})
    setting = config._setting(axes, torch.optim.SGD(model.parameters(), 0.1), torch.zeros(2, 1, 8, 8), Monitor())
    (part,) = rounds(setting, "fixed", 4, "convergent" if grow else None, prune)
    found = []
    for step in part.steps:
        counts = {demand.action: demand.amount for demand in part.schedule.due(Moment(step, 0.0), None)[0]}
        found.append((counts.get("deepen", 0), counts.get("shorten", 0)))
    assert found == expected


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("level", "way"),
    [
        ("layer", Layers(grow="GradMax-Opt", prune="polarization", insertion="safe")),
        ("cell", Cells(grow="Firefly", prune="L1")),
    ],
)
def test_pairs_end_at_their_size_and_passes_of_edits_are_counted(tmp_path, level, way):
    run = carry_out(
        TINY.model_copy(update={"level": level, "course": "constant", "way": way}), load("digits"), tmp_path
    )
    assert [(c.step, len(c.births), len(c.deaths)) for c in run.changes] == [(s, 1, 1) for s in (4, 6, 8, 10)]
    assert 0.9 < run.metrics["size"] < 1.02
    assert run.costs.edit_flops > 0


def test_units_that_cannot_be_made_are_refused():
    model, (x, y) = net(), batch()
    axes, path = with_branch(model, x, activation="Sigmoid")
    with pytest.raises(EditError, match="not 0 at 0"):
        Sprout("GradMax", norm=False).plan(axes, path, 3, lambda: cross_entropy(model(x), y), seed=0)
    with pytest.raises(EditError, match="expected one axis within 3"):
        hidden(axes, "3")


def test_either_half_of_what_is_safe_can_be_had_alone():
    kinds = {i: type(method("GradMax", True, i, 2)) for i in ("published", "safe", "side", "statistics")}
    unread, blind = (i for i in (UnreadGradMax, BlindGradMax))
    assert kinds == {"published": blind, "safe": unread, "side": unread, "statistics": blind}
    own = {i: [type(h) for h in helpers("Firefly", True, i, 5)] for i in kinds}
    both = [RunningStatistics, OpenGate]
    assert own == {"published": [], "safe": both, "side": both[1:], "statistics": both[:1]}
    assert helpers("Firefly", False, "safe", 5) == ()


def test_a_controller_inserts_an_empty_branch_and_grows_its_units():
    model, (x, y) = net(), batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    axes = meristem.trace(model, x[:2])
    known, made = {axis.name for axis in axes.editable}, []

    def units(step):
        return {axis.name: 3 for axis in made[0].axes.editable if axis.name not in known}

    schedule = Together((At([2], deepen=1), At([5], grow=units)))
    deepen = depth.Deepen(depth.ZeroResidual(hidden=EMPTY), at="after 0")
    made.append(meristem.Plasticity(model, optimizer, axes, schedule=schedule, deepen=deepen, grow=GradMax(), listen=2))
    jumps = []
    for _ in range(6):
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        before = model(x)
        if made[0].step(loss) is not None:
            jumps.append((model(x) - before).abs().max().item())
    assert hidden(made[0].axes, "1").size == EMPTY + 3
    assert len(jumps) == 2
    assert max(jumps) < 1e-5
