"""Layers and branches of the benchmark: schedules side by side, and branches with normalizations of their own."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import meristem
from meristem import depth
from meristem.diagnose import Monitor
from meristem.edit import Edit
from meristem.errors import ConfigError, EditError
from meristem.grow import Random
from meristem.schedule import Moment
from meristem.study.studies.grid import Submission
from meristem.study.studies.grid.branches import EmptyBranch
from meristem.study.studies.grid.cells import Cells
from meristem.study.studies.grid.experiment import Contest
from meristem.study.studies.grid.layers import Layers
from meristem.study.studies.grid.net import REPEATED, first_net, last_net, vgg11
from meristem.study.studies.grid.rounds import rounds
from meristem.train.data import load
from meristem.train.experiment import carry_out
from tests.study.test_grid import TINY

COURSES = ("growing", "shrinking", "constant")


def asked(course, timing, pace, prune):
    """By step, how many of four parts die and are born in 200 steps."""
    shares, ends = (0.2, 0.3, 0.4, 0.5), {"growing": (0, 4), "shrinking": (4, 0), "constant": (4, 4)}
    config = TINY.model_copy(update={"level": "layer", "course": course, "steps": 200, "times": shares})
    model = first_net("layer", course, (1, 8, 8), 10, TINY.widths, True)
    axes = SimpleNamespace(model=model)
    setting = config._setting(axes, torch.optim.SGD(model.parameters(), 0.1), torch.zeros(2, 1, 8, 8), Monitor())
    parts, found = rounds(setting, timing, 4, pace, prune), {}
    present, last = ends[course]
    for step in range(1, 201):
        counts = {"shorten": 0, "deepen": 0}
        for part in parts:
            if part.schedule.next(step - 1) <= step:
                for demand in part.schedule.due(Moment(step, 0.0), part.schedule.initial())[0]:
                    assert step in part.steps
                    counts[demand.action] += demand.amount
        if any(counts.values()):
            found[step] = (counts["shorten"], counts["deepen"])
            present -= counts["shorten"]
            assert present >= 0
            present += counts["deepen"]
            assert present <= max(part.room for part in parts)
    assert present == last
    return found


@pytest.mark.parametrize(
    ("course", "pace", "prune", "expected"),
    [
        ("growing", "GradMax", False, {26: (0, 1), 49: (0, 1), 72: (0, 1), 96: (0, 1)}),
        ("growing", "GradMax", True, {26: (0, 2), 49: (0, 2), 72: (0, 1), 96: (0, 2), 100: (3, 0)}),
        ("shrinking", "GradMax-Opt", True, {26: (0, 1), 49: (0, 1), 96: (0, 1), 100: (7, 0)}),
        ("constant", "GradMax", True, {26: (0, 1), 49: (0, 1), 72: (0, 1), 96: (0, 1), 100: (4, 0)}),
        ("growing", "Firefly", False, {67: (0, 2), 133: (0, 2)}),
        ("growing", "Firefly", True, {67: (0, 4), 100: (3, 0), 133: (0, 3)}),
        ("shrinking", "Firefly", True, {67: (0, 3), 100: (7, 0)}),
        ("constant", "Firefly", True, {67: (0, 2), 100: (4, 0), 133: (0, 2)}),
        ("growing", "at once", True, {50: (0, 7), 100: (3, 0)}),
        ("shrinking", "at once", True, {50: (0, 3), 100: (7, 0)}),
    ],
)
def test_schedules_side_by_side_have_as_many_births_and_deaths_as_the_fixed_one(course, pace, prune, expected):
    own, fixed = (asked(course, timing, pace, prune) for timing in ("own", "fixed"))
    assert own == expected
    assert [sum(counts) for counts in zip(*own.values(), strict=True)] == [
        sum(counts) for counts in zip(*fixed.values(), strict=True)
    ]


@pytest.mark.parametrize(
    ("level", "course", "way", "changes"),
    [
        ("layer", "shrinking", Layers(grow="GradMax", prune="L1", schedule="own"), [(0, 3), (7, 0)]),
        (
            "normalized cell",
            "shrinking",
            Cells(grow="GradMax", prune="polarization", insertion="safe", schedule="own"),
            [(0, 3), (7, 0)],
        ),
        (
            "normalized cell",
            "shrinking",
            Cells(grow="random", prune="polarization", schedule="own", strength=2e-3),
            [(0, 3), (7, 0)],
        ),
        ("normalized cell", "shrinking", Cells(prune="polarization", strength=2e-3), [(1, 0)] * 4),
    ],
)
def test_several_parts_may_be_at_one_place_for_a_while(tmp_path, level, course, way, changes):
    run = carry_out(TINY.model_copy(update={"level": level, "course": course, "way": way}), load("digits"), tmp_path)
    assert [(sum(c.deaths.values()), sum(c.births.values())) for c in run.changes] == changes
    assert run.metrics["size"] == pytest.approx(1, abs=0.01)
    assert run.metrics["jump"] != 0


def setting_of(level, course):
    torch.manual_seed(0)
    model = first_net(level, course, (1, 8, 8), 10, TINY.widths, True)
    axes = meristem.trace(model, torch.randn(4, 1, 8, 8))
    config = TINY.model_copy(update={"level": level, "course": course})
    return config._setting(axes, torch.optim.SGD(model.parameters(), 0.1), torch.zeros(2, 1, 8, 8), Monitor())


def test_polarization_judges_branches_by_scales_of_their_own():
    setting = setting_of("normalized cell", "shrinking")
    contender = Cells(prune="polarization").begin(setting)
    scales = dict(zip(REPEATED, (0.4, 0.1, 0.3, 0.2), strict=True))
    norms = {number: setting.model.get_submodule(f"layer{number}.conv.1.norm") for number in REPEATED}
    assert all(bool((norm.weight == 0.5).all()) for norm in norms.values())
    with torch.no_grad():
        for number, norm in norms.items():
            norm.weight.fill_(scales[number])
            setting.model.get_submodule(f"layer{number}.conv.1.conv").weight.mul_(1 - scales[number])
    dead = [contender.after(step, torch.zeros(()), lambda: torch.zeros(()))[1] for step in setting.times]
    assert dead == [{f"layer{number}.conv.1": 1} for number in sorted(REPEATED, key=scales.__getitem__)]
    assert [name for name, _ in setting.model.layer6.named_children()] == ["conv", "norm", "relu"]


def test_deaths_come_where_most_are_and_nets_end_as_their_contest():
    setting = setting_of("cell", "growing")
    contender, closure = Cells(grow="copy", prune="L1", schedule="own").begin(setting), lambda: torch.zeros(())
    births, deaths = contender.after(5, torch.zeros(()), closure)
    assert sum(births.values()) == 7
    assert not deaths
    widths = [len(setting.model.get_submodule(f"layer{number}.conv")) for number in REPEATED]
    assert widths == [3, 3, 3, 2]
    with torch.no_grad():  # the only one at its place is worth least, and of others the first
        for number in REPEATED[:3]:
            setting.model.get_submodule(f"layer{number}.conv.2").weight.fill_(number)
            setting.model.get_submodule(f"layer{number}.conv.1").weight.fill_(2 * number)
    births, deaths = contender.after(10, torch.zeros(()), closure)
    assert (births, deaths) == ({}, {f"layer{number}.conv.2": 1 for number in REPEATED[:3]})
    expected = last_net("cell", "growing", (1, 8, 8), 10, TINY.widths, True)
    assert contender.weights() == sum(parameter.numel() for parameter in expected.parameters())


@pytest.mark.parametrize("what", ["copy", "empty"])
def test_branches_with_normalizations_are_silent_and_leave_no_trace(what):
    torch.manual_seed(0)
    model = vgg11((1, 8, 8), 10, TINY.widths, True).double()
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    axes, before, keys = meristem.trace(model, x), model(x), list(model.state_dict())
    for beside in ("layer6.conv..norm", "layer6.conv.0"):
        places = depth.places(axes)
        change = depth.AddBranch(places, beside) if what == "copy" else EmptyBranch(places, beside, True)
        axes = Edit(axes).depth(change).commit().axes
        torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    assert len(model.layer6.conv) == 3
    for _ in range(2):
        places = depth.places(axes)
        name = next(b.name for b in places.branches if b.name.startswith("layer6.conv.1"))
        axes = Edit(axes).depth(depth.RemoveBranch(places, name)).commit().axes
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


def test_fresh_branches_begin_as_the_net_does():
    setting = setting_of("normalized cell", "growing")
    contender = Cells(grow="random", prune="polarization").begin(setting)
    contender.after(setting.times[0], torch.zeros(()), lambda: torch.zeros(()))
    (norm,) = (m for m in setting.model.layer4.conv[1].modules() if isinstance(m, nn.BatchNorm2d))
    assert bool((norm.weight == 1).all())
    assert not torch.equal(setting.model.layer4.conv[0].conv.weight, setting.model.layer4.conv[1].conv.weight)


def test_parallel_normalized_convolutions_have_the_variance_of_one():
    torch.manual_seed(0)
    two = last_net("normalized cell", "growing", (1, 8, 8), 10, (64,) * 8, True)
    assert [len(getattr(two, f"layer{number}").conv) for number in REPEATED] == [2] * 4
    x = torch.randn(64, 64, 4, 4)
    assert two.layer4.conv(x).var().item() == pytest.approx(1, rel=0.1)


def test_what_needs_normalizations_of_its_own_is_refused_without_them():
    with pytest.raises(EditError, match="take the level 'normalized cell'"):
        Cells(prune="polarization").begin(setting_of("cell", "shrinking"))
    with pytest.raises(ValueError, match="norm should be True"):
        Contest(level="normalized cell", norm=False)
    with pytest.raises(ConfigError, match=r"norm=\.\.\.\) should be one of True; got False"):
        Submission(name="a", level="normalized cell", norm=False, start=lambda setting: None)
    with pytest.raises(ConfigError, match="for the level 'normalized cell' give start"):
        Submission(name="a", level="normalized cell", grow=Random())
