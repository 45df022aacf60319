"""The monitor: what it measures, follows, keeps and leaves alone."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import meristem
from meristem.diagnose import MEASURES, Cohort, Monitor, Record, verdict
from meristem.edit import Gather
from meristem.errors import CheckpointError, ConfigError, SignalError, StaleMapError
from meristem.signals import Recorder, UnitActivity, View, unit_norms
from tests.diagnose.test_parity import MODELS, convnet, grown, mlp

NEVER = torch.iinfo(torch.int64).max


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).sin().square().sum(1).mean()


class Loop:
    """An ordinary training loop with a monitor."""

    def __init__(self, every: int = 5, build=mlp, shape=(9, 5), **settings) -> None:
        torch.manual_seed(0)
        self.model = build().double()
        self.x = torch.randn(shape, dtype=torch.float64)
        self.model(self.x)
        self.axes = meristem.trace(self.model, self.x)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 0.01)
        self.monitor = Monitor(every, **settings).begin(self.axes)
        self.done = 0

    def backward(self) -> None:
        loss_of(self.model, self.x * math.cos(self.done)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1

    def run(self, steps: int) -> list[Record]:
        found = []
        for _ in range(steps):
            self.backward()
            if self.monitor.step():
                found.append(self.monitor.records[-1])
        return found

    def edit(self, *gathers: tuple[str, Gather]) -> None:
        edit = meristem.Edit(self.axes, [self.optimizer])
        for axis, gather in gathers:
            edit.gather(axis, gather)
        self.axes = edit.commit().axes
        self.monitor.follow(self.axes)


def hooks(model: nn.Module) -> int:
    modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return modules + sum(len(p._backward_hooks or ()) for p in model.parameters())


# ---------------------------------------------------------------------- what is measured


@pytest.mark.parametrize("scale", [1.0, 0.3, 2.5, 0.0])
@pytest.mark.parametrize("name", MODELS)
def test_clones_with_a_scaled_fan_out(name, scale):
    model, axes, x, ages = grown(name, scale)
    axis = axes[MODELS[name][2]]
    monitor = Monitor(1).begin(axes, ages={axis.name: ages}, step=7)
    loss_of(model, x).backward()
    assert monitor.step()
    record = monitor.records[-1]
    (cohort,) = record.axes[axis.name].cohorts
    assert (cohort.born, cohort.age, cohort.units, cohort.incumbents) == (0, 8, axis.size // 2, axis.size // 2)
    assert cohort.activation == pytest.approx(1, abs=1e-9)
    assert cohort.gradient == pytest.approx(scale, abs=1e-9)
    assert cohort.fan_out == pytest.approx(scale, abs=1e-9)
    assert cohort.ratios["fan_in"] == pytest.approx(1, abs=1e-9)
    assert cohort.ratios["fan_in_gradient"] == pytest.approx(scale, abs=1e-9)
    assert cohort.ratios["fan_out_gradient"] == pytest.approx(1, abs=1e-9)
    assert cohort.ratios["utility"] == pytest.approx(scale, abs=1e-9)
    numbers = record.numbers()
    assert numbers[f"{axis.name}/newborns/fan_out_ratio"] == cohort.fan_out
    if scale:
        assert numbers[f"{axis.name}/newborns/log_R_grad"] == pytest.approx(math.log(scale), abs=1e-9)
    else:
        assert f"{axis.name}/newborns/log_R_grad" not in numbers


@pytest.mark.parametrize(("build", "shape"), [(mlp, (9, 5)), (convnet, (9, 2, 10, 10))])
def test_units_are_measured_as_the_recorder_does(build, shape):
    loop = Loop(1, build, shape)
    recorder = Recorder(loop.axes, [UnitActivity(axis.name) for axis in loop.axes.editable])
    loop.backward()
    assert loop.monitor.step()
    before, activity = loop.monitor.records[-1], recorder.finish()
    for axis in loop.axes.editable:
        found, expected = loop.monitor.units[axis.name], activity[UnitActivity(axis.name)]
        view = View(loop.axes)
        fan_in, fan_out = (
            unit_norms(view, axis, role) for role in (meristem.axes.Role.PRODUCES, meristem.axes.Role.READS)
        )
        rows = [expected.frequency, expected.size, expected.gradient, fan_in, fan_out]
        rows += [expected.fan_in_gradient, expected.fan_out_gradient, expected.size * fan_out]
        for measure, row in zip(MEASURES, rows, strict=True):
            torch.testing.assert_close(found[measure], row, rtol=1e-12, atol=0)
            assert before.axes[axis.name].means[measure] == pytest.approx(float(row.mean()), rel=1e-12)


def test_micro_batches_and_clipping():
    whole, parts = Loop(1), Loop(1)
    whole.run(1)
    for part in parts.x.chunk(3):
        (loss_of(parts.model, part) / 3).backward()
    nn.utils.clip_grad_norm_(parts.model.parameters(), 1e-6)
    parts.optimizer.zero_grad(set_to_none=False)
    parts.monitor.step()
    for measure in ("frequency", "size", "gradient", "fan_in_gradient", "fan_out_gradient"):
        one, two = (loop.monitor.units["0"][measure] for loop in (whole, parts))
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


# ---------------------------------------------------------------------- when


def test_one_step_out_of_every_and_the_one_after_an_edit():
    loop = Loop(5)
    assert [record.step for record in loop.run(12)] == [5, 10]
    loop.edit(("0", Gather.grow(6, 2)))
    assert [record.step for record in loop.run(2)] == [13]
    loop.edit(("0", Gather.grow(8, 2)))  # too soon after the last one for another sample
    assert [record.step for record in loop.run(8)] == [15, 20]
    assert [record.step for record in loop.monitor.records] == [5, 10, 13, 15, 20]
    assert [cohort.age for cohort in loop.monitor.records[-1].axes["0"].cohorts] == [8, 6]


def test_steps_may_be_numbered_from_outside():
    loop = Loop(5)
    loop.monitor.begin(loop.axes, 103)
    found = []
    for step in range(104, 112):
        loop.backward()
        if loop.monitor.step(step):
            found.append(step)
    assert found == [105, 110] == [record.step for record in loop.monitor.records[-2:]]


# ---------------------------------------------------------------------- cohorts


def test_cohorts_through_edits_by_hand():
    loop = Loop(5, cohorts=8)
    loop.run(5)
    old = loop.monitor.units["0"]
    loop.edit(("0", Gather.grow(6, 3)))  # units 6, 7, 8
    loop.run(5)
    middle = loop.monitor.units["0"]
    # 1, 4 and 8 die; 6 comes first; a copy of 2 and one from nothing are born
    loop.edit(("0", Gather((6, 0, 2, 3, 5, 7, 2, -1), (False,) * 6 + (True,) * 2)), ("2", Gather.prune(4, [0])))
    assert torch.equal(loop.monitor.units["0"]["size"][:6], middle["size"][[6, 0, 2, 3, 5, 7]])
    assert loop.monitor.units["0"]["size"][6:].isnan().all()
    (record,) = loop.run(4)
    assert record.step == 11
    axis, numbers = record.axes["0"], loop.monitor.units["0"]
    assert (axis.size, axis.incumbents, axis.newborns) == (8, 4, 4)
    first, second = axis.cohorts
    assert (first.born, first.age, first.units, first.incumbents) == (5, 6, 2, 4)
    assert (second.born, second.age, second.units, second.incumbents) == (10, 1, 2, 6)
    for measure in MEASURES:
        row = numbers[measure]
        assert axis.means[measure] == pytest.approx(float(row[[1, 2, 3, 4]].mean()), rel=1e-12)
        assert first.means[measure] == pytest.approx(float(row[[0, 5]].mean()), rel=1e-12)
        ratio = float(row[[0, 5]].mean() / row[[1, 2, 3, 4]].mean())
        assert first.ratios[measure] == pytest.approx(ratio, rel=1e-12)
        ratio = float(row[[6, 7]].mean() / row[[0, 1, 2, 3, 4, 5]].mean())
        assert second.ratios[measure] == pytest.approx(ratio, rel=1e-12)
    assert record.axes["2"].cohorts == ()
    assert [(d.axis, d.unit, d.step, d.born, d.seen) for d in record.deaths] == [
        ("0", 1, 10, None, 10), ("0", 4, 10, None, 10), ("0", 8, 10, 5, 10), ("2", 0, 10, None, 10)
    ]  # fmt: skip
    assert record.deaths[2].last["gradient"] == float(middle["gradient"][8])
    assert record.deaths == loop.monitor.deaths
    assert len(old["size"]) == 6
    assert loop.run(1)[0].deaths == ()


def test_replaced_in_place_and_an_axis_of_newborns_alone():
    loop = Loop(1)
    loop.run(1)
    loop.edit(("0", Gather((0, 1, 2, 3, 4, -1), (False,) * 5 + (True,))))
    (record,) = loop.run(1)
    assert [(c.units, c.incumbents) for c in record.axes["0"].cohorts] == [(1, 5)]
    assert [(d.unit, d.born) for d in record.deaths] == [(5, None)]
    loop.edit(("0", Gather((-1,) * 6, (True,) * 6)))
    (record,) = loop.run(1)
    (cohort,) = record.axes["0"].cohorts
    assert record.axes["0"].means == {}
    assert set(cohort.ratios.values()) == {None}
    assert verdict(cohort) == "alone"
    assert [d.born for d in record.deaths] == [None] * 5 + [1]


def test_who_is_born_and_gone_between_two_samples_was_never_seen():
    loop = Loop(5)
    loop.run(6)
    loop.edit(("0", Gather.grow(6, 1)))
    loop.edit(("0", Gather.prune(7, [6])))
    (death,) = loop.monitor.deaths
    assert (death.born, death.seen, death.last) == (6, None, {})


def test_old_cohorts_become_incumbents():
    loop = Loop(100, cohorts=2)
    for _ in range(3):
        loop.run(1)
        loop.edit(("0", Gather.grow(loop.axes["0"].size, 1)))
    (record,) = loop.run(97)
    axis = record.axes["0"]
    assert [(c.born, c.incumbents) for c in axis.cohorts] == [(2, 7), (3, 8)]
    assert (axis.size, axis.incumbents) == (9, 7)


def test_survivors():
    loop = Loop(5)
    loop.run(10)
    first, second = loop.monitor.records
    assert (first.survivors, second.survivors) == ({}, {})
    before = {name: units["frequency"] for name, units in loop.monitor.units.items()}
    size = loop.monitor.units["0"]["size"]
    loop.edit(("0", Gather.prune(6, [0, 3])))
    (record,) = loop.run(1)
    found = record.survivors["0"]
    assert set(record.survivors) == {"0"}
    assert (found.survivors, found.removed, found.before, found.after) == (4, 2, 10, 11)
    kept, now = torch.tensor([1, 2, 4, 5]), loop.monitor.units["0"]
    assert found.frequency == pytest.approx(float((now["frequency"] - before["0"][kept]).abs().mean()), rel=1e-12)
    assert found.size == pytest.approx(float((now["size"] - size[kept]).abs().mean() / size[kept].mean()), rel=1e-12)
    assert found.usual_size > 0


def test_survivors_of_a_net_that_stands_still_do_not_change():
    loop = Loop(1)
    loop.optimizer.param_groups[0]["lr"] = 0.0
    loop.x = loop.x * 0 + loop.x[:1]
    loop.backward = lambda: loss_of(loop.model, loop.x).backward()
    loop.run(1)
    loop.edit(("2", Gather.prune(4, [0, 2])))
    (record,) = loop.run(1)
    assert record.survivors["2"].frequency == 0
    assert record.survivors["2"].size == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------------- bounds


def test_memory_is_bounded_and_spans_the_run():
    loop = Loop(1, keep=8)
    for i in range(30):
        loop.run(1)
        loop.edit(("0", Gather((*range(1, 6), -1), (False,) * 5 + (True,))))
        assert len(loop.monitor.records) <= 8
        assert loop.monitor.records[-1].step == i + 1
    assert loop.monitor.records[0].step < 15
    assert (len(loop.monitor.deaths), len(loop.monitor.integrations)) == (8, 8)


# ---------------------------------------------------------------------- what it leaves alone


def trained(monitored: bool, build=mlp, shape=(9, 5)) -> list[Tensor]:
    loop = Loop(3, build, shape)
    if not monitored:
        loop.monitor.close()
    for _ in range(2):
        loop.run(7)
        axis = loop.axes.editable[0]
        loop.edit((axis.name, Gather.grow(axis.size, 2)))
    loop.run(4)
    assert len(loop.monitor.records) == (7 if monitored else 0)
    return [p.detach() for p in loop.model.parameters()] + list(loop.model.buffers())


@pytest.mark.parametrize(("build", "shape"), [(mlp, (9, 5)), (convnet, (9, 2, 10, 10))])
def test_training_is_the_same_to_the_bit(build, shape):
    for one, two in zip(trained(True, build, shape), trained(False, build, shape), strict=True):
        assert torch.equal(one, two)


def test_no_hooks_between_samples():
    loop = Loop(5)
    counts = []
    for _ in range(10):
        loop.run(1)
        counts.append(hooks(loop.model))
    assert [count > 0 for count in counts] == [False, False, False, True, False] * 2
    loop.run(4)
    assert hooks(loop.model) > 0
    loop.monitor.close()
    assert hooks(loop.model) == 0
    assert loop.monitor.due == math.inf
    assert loop.run(10) == []


def test_an_edit_in_the_middle_of_a_sample_is_no_trouble(recwarn):
    loop = Loop(5)
    loop.run(4)
    assert hooks(loop.model) > 0
    loop.edit(("0", Gather.grow(6, 2)))
    (record,) = loop.run(1)
    assert record.axes["0"].size == 8
    assert hooks(loop.model) == 0
    assert [str(w.message) for w in recwarn if "still holds" in str(w.message)] == []


def test_a_step_that_overflows_is_made_up_for():
    loop = Loop(5)
    loop.run(4)
    (loss_of(loop.model, loop.x) * torch.inf).backward()
    loop.optimizer.zero_grad()
    assert not loop.monitor.step()
    assert (loop.monitor.skipped, loop.monitor.records) == (1, ())
    assert [record.step for record in loop.run(6)] == [6, 10]


def test_a_loss_scale_is_divided_out():
    plain, scaled = Loop(1), Loop(1)
    scaled.monitor.begin(scaled.axes, scale=lambda: 2.0**12)
    plain.run(1)
    (2.0**12 * loss_of(scaled.model, scaled.x)).backward()
    scaled.monitor.step()
    for measure in MEASURES:
        if "fan" not in measure or "gradient" in measure:
            one, two = (loop.monitor.units["0"][measure] for loop in (plain, scaled))
            if measure != "utility":
                torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------- resuming


@pytest.mark.parametrize("cut", [9, 11, 12])
def test_resumed_it_goes_on_as_if_nothing_had_happened(cut):
    def run(loop: Loop, start: int, end: int) -> None:
        for i in range(start, end):
            loop.run(1)
            if i == 10:
                loop.edit(("0", Gather((0, 1, 3, 4, 5, -1, -1), (False,) * 5 + (True,) * 2)))

    whole, first = Loop(5), Loop(5)
    run(whole, 0, 20)
    run(first, 0, cut)
    saved = json.loads(json.dumps(first.monitor.state_dict(), allow_nan=False))
    first.monitor.close()
    first.monitor = Monitor(5).load_state_dict(saved, first.axes)
    assert first.monitor.state_dict() == saved
    run(first, cut, 20)
    assert first.monitor.records == whole.monitor.records
    assert first.monitor.integrations == whole.monitor.integrations
    assert first.monitor.deaths == whole.monitor.deaths


def test_records_go_through_json():
    loop = Loop(5)
    loop.run(5)
    loop.edit(("0", Gather.grow(6, 2)))
    loop.run(6)
    for record in loop.monitor.records:
        assert Record.of(json.loads(json.dumps(record.plain(), allow_nan=False))) == record


def test_states_of_others_are_refused():
    loop = Loop(5)
    loop.run(5)
    saved = loop.monitor.state_dict()
    with pytest.raises(CheckpointError, match="no state of a Monitor"):
        Monitor().load_state_dict({**saved, "step": -1}, loop.axes)
    loop.edit(("0", Gather.grow(6, 2)))
    with pytest.raises(CheckpointError, match="another model, or its edits were not replayed"):
        Monitor().load_state_dict(saved, loop.axes)
    with pytest.raises(CheckpointError, match="no record of a Monitor"):
        Record.of({"step": 3})


# ---------------------------------------------------------------------- what cannot be


class Block(nn.Module):
    """A residual stream, one of whose producers is called where nothing can be heard; a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.up, self.down = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.embed.weight.T + self.embed.bias
        return self.head(x + self.down(self.up(self.norm(x)).relu()))


def test_axes_that_cannot_be_measured_are_listed_with_the_reason():
    loop = Loop(1, Block, (7, 4))
    assert set(loop.monitor.undefined) == {"embed"}
    assert loop.monitor.undefined["embed"] == "embed.weight produces it in a way that cannot be heard"
    (record,) = loop.run(1)
    assert set(record.axes) == {"up"}
    with pytest.raises(ConfigError, match="cannot be heard"):
        Monitor(axes="embed").begin(loop.axes)


def test_newborns_whose_activity_cannot_be_measured_are_told_all_the_same():
    loop = Loop(1, Block, (7, 4))
    (record,) = loop.run(1)
    assert str(record) == "step 1: no newborns"
    loop.edit(("embed", Gather.grow(6, 2)))
    (record,) = loop.run(1)
    weight = loop.model.get_parameter("embed.weight").detach()
    found = record.unmeasured["embed"]
    assert (found.born, found.age, found.units) == (1, 1, 2)
    assert found.fan_out is not None
    assert "embed: 2 newborns of age 1, whose activity cannot be measured, fan-out" in str(record)
    read = [loop.model.get_parameter(f"{name}.weight").detach() for name in ("up", "head")]
    out = torch.cat(read).norm(dim=0)
    assert found.fan_out == pytest.approx(float(out[6:].mean() / out[:6].mean()))
    assert weight.shape == (8, 4)
    assert Record.of(json.loads(json.dumps(record.plain()))) == record
    saved = json.loads(json.dumps(loop.monitor.state_dict()))
    again = Monitor(1).load_state_dict(saved, loop.axes)
    assert again.records == loop.monitor.records
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(record)
    assert "not measured" in console.export_text()


class Gated(nn.Module):
    """The second branch is used on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 5), nn.Linear(4, 3), nn.Linear(5, 2)
        self.also, self.open = nn.Linear(3, 2), True

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(self.one(x).relu())
        return y + self.also(self.two(x).relu()) if self.open else y


def test_an_axis_that_a_step_does_not_use_is_named():
    loop = Loop(1, Gated, (7, 4))
    (record,) = loop.run(1)
    assert (set(record.axes), record.silent) == ({"one", "two"}, {})
    loop.model.open = False
    (record,) = loop.run(1)
    assert set(record.axes) == {"one"}
    assert "no finite gradient" in record.silent["two"]


def test_a_step_without_any_gradient_is_refused():
    loop = Loop(2)
    loop.monitor.step()
    with pytest.raises(SignalError, match="no finite gradient"):
        loop.monitor.step()
    assert hooks(loop.model) == 0


def test_maps_that_do_not_follow_are_refused():
    loop = Loop(5)
    edited = meristem.Edit(loop.axes, [loop.optimizer]).grow("0", 2).commit().axes
    with pytest.raises(StaleMapError, match="follow"):
        loop.run(5)
    other = Loop(5)
    other.edit(("0", Gather.grow(6, 1)))
    with pytest.raises(StaleMapError, match="not a later one"):
        other.monitor.follow(edited)
    with pytest.raises(StaleMapError, match="not a later one"):
        other.monitor.follow(Loop(5).axes)


@pytest.mark.parametrize("settings", [{"every": 0}, {"cohorts": 0}, {"keep": 1}, {"threshold": -1.0}])
def test_settings_are_checked(settings):
    with pytest.raises(ConfigError, match="at least"):
        Monitor(**settings)


# ---------------------------------------------------------------------- in words


def cohort(activation: float | None, gradient: float | None) -> Cohort:
    ratios = dict.fromkeys(MEASURES, 1.0)
    return Cohort(0, 10, 2, 6, dict.fromkeys(MEASURES, 1.0), {**ratios, "frequency": activation, "gradient": gradient})


def test_verdicts():
    assert verdict(cohort(1.0, 0.9)) == "integrated"
    assert verdict(cohort(1.2, 0.89)) == "backward-starved"
    assert verdict(cohort(0.49, 1.0)) == "asleep"
    assert verdict(cohort(None, 1.0)) == "alone"


def test_lines_and_tables():
    loop = Loop(5)
    assert str(loop.run(5)[0]) == "step 5: no newborns"
    loop.edit(("0", Gather.grow(6, 2)), ("2", Gather.prune(4, [1])))
    (record,) = loop.run(1)
    found = str(record)
    assert found.startswith("step 6: 0: 2 newborns of age 1, R_act ")
    assert "fan-out" in found
    assert found.endswith("; 1 units died")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(record)
    shown = console.export_text()
    assert verdict(record.axes["0"].cohorts[0]) in shown
    assert "newborns at step 6" in shown
