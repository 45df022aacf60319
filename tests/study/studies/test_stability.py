"""The study of growth against pruning: its masks, its real edits and its diagnosis do what the paper says."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from meristem.cli import app
from meristem.errors import ConfigError
from meristem.study.catalogue import find
from meristem.study.studies.stability.budgets import early_like_grown, early_like_pruned, operations, pruned_like_grown
from meristem.study.studies.stability.early import Early
from meristem.study.studies.stability.experiment import Cycles
from meristem.study.studies.stability.inserted import Insert, Remove
from meristem.study.studies.stability.masked import Dense, Grow, Prune
from meristem.study.studies.stability.metrics import at_fifths, unit_metrics
from meristem.study.studies.stability.nets import Gated, build, hidden, linear
from meristem.study.studies.stability.probe import MEASURES, Newborn, Units, measure, newborns, record
from meristem.study.studies.stability.settings import SCALES
from meristem.study.studies.stability.turnover import Setting, due, share_of
from meristem.train.data import load
from meristem.train.experiment import carry_out

WIDTHS = (12, 10)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def single():
    torch.set_default_dtype(torch.float32)
    return load("digits")


def setting(masked: bool, cycles: int = 5, per_cycle: int = 3, seed: int = 0) -> Setting:
    torch.manual_seed(seed)
    model = build("mlp", (1, 4, 4), 3, WIDTHS, "relu", masked)
    batch = (torch.randn(40, 1, 4, 4), torch.arange(40) % 3)
    widths = dict(zip(hidden(model), WIDTHS, strict=True))
    return Setting(model, lambda net: torch.optim.SGD(net.parameters(), 0.1, 0.9), widths, cycles, per_cycle, batch, 0)


def trained(turnover, steps: int) -> None:
    """Some steps, with what happens after each."""
    x, y = turnover.setting.batch
    for step in range(1, steps + 1):
        turnover.optimizer.zero_grad()
        loss = cross_entropy(turnover.model(x), y)
        loss.backward()
        turnover.optimizer.step()
        turnover.after(step, loss, lambda: cross_entropy(turnover.model(x), y))


def active(turnover) -> list[int]:
    return [int(units.active.sum()) for units in turnover.units().values()]


@pytest.mark.parametrize(("left", "cycles"), [(0, 5), (1, 5), (7, 5), (8, 2), (100, 20)])
def test_all_edits_together_reach_the_target_before_the_last_cycle(left, cycles):
    done = []
    for cycle in range(1, cycles + 1):
        done.append(due(left - sum(done), cycle, cycles))
    assert sum(done) == left
    assert done[-1] == 0
    assert max(done[:-1], default=0) - min(d for d in done[:-1] if d or not left) <= 1


def test_both_directions_reach_the_same_sizes():
    grown, pruned = Grow(share=0.5).begin(setting(True)), Prune(share=0.5).begin(setting(True))
    assert active(grown) == share_of(WIDTHS, 0.1)
    assert active(pruned) == list(WIDTHS)
    trained(grown, 15)
    trained(pruned, 15)
    assert active(grown) == active(pruned) == share_of(WIDTHS, 0.5)


def test_units_that_take_no_part_keep_their_initial_weights_and_join_with_them():
    turnover = Grow(share=0.5).begin(setting(True))
    before = turnover.units()["fc1"].active
    trained(turnover, 2)
    weight, initial = linear(turnover.model, "fc1").weight.detach(), turnover.initial["fc1.weight"]
    assert torch.equal(weight[~before], initial[~before])
    assert not torch.equal(weight[before], initial[before])
    readers, first = linear(turnover.model, "fc2").weight.detach(), turnover.initial["fc2.weight"]
    assert torch.equal(readers[:, ~before], first[:, ~before])
    trained(turnover, 3)
    after = turnover.units()["fc1"]
    joined = after.active & ~before
    assert joined.any()
    assert torch.equal(linear(turnover.model, "fc1").weight.detach()[joined], initial[joined])
    assert after.born[joined].tolist() == [3] * int(joined.sum())


def test_those_join_that_would_be_active_most_often():
    turnover = Grow(share=0.5, start=0.25).begin(setting(True, per_cycle=1))
    x, y = turnover.setting.batch
    before = turnover.units()["fc1"].active
    often = (turnover.model[:2](x).relu() > 0.05).double().mean(0)
    turnover.after(1, cross_entropy(turnover.model(x), y), lambda: cross_entropy(turnover.model(x), y))
    joined = turnover.units()["fc1"].active & ~before
    left = ~turnover.units()["fc1"].active
    assert joined.any()
    assert often[joined].min() >= often[left].max()


def test_a_gate_that_listens_gives_the_same_and_lets_gradients_through():
    gate, x = Gated(nn.ReLU(), 3), torch.rand(5, 3, requires_grad=True)
    gate.mask[1] = 0
    closed = gate(x)
    assert (torch.autograd.grad(closed.sum(), x)[0][:, 1] == 0).all()
    gate.listening = True
    heard = gate(x)
    assert torch.equal(heard, closed)
    assert (torch.autograd.grad(heard.sum(), x)[0] == 1).all()


@pytest.mark.parametrize("rewind", [True, False])
def test_masks_and_real_removal_are_the_same_net(rewind):
    masked, real = Prune(share=0.5, rewind=rewind).begin(setting(True)), Remove(share=0.5, rewind=rewind)
    real = real.begin(setting(False))
    trained(masked, 3)
    trained(real, 3)
    x = masked.setting.batch[0]
    torch.testing.assert_close(masked.model(x), real.model(x))
    trained(masked, 2)
    trained(real, 2)
    torch.testing.assert_close(masked.model(x), real.model(x))
    assert active(real) == active(masked) < list(WIDTHS)


def test_a_rewind_gives_survivors_their_first_weights_and_an_empty_momentum():
    turnover = Prune(share=0.5).begin(setting(True))
    trained(turnover, 3)
    rows = turnover.units()["fc2"].active
    layer = linear(turnover.model, "fc2")
    assert torch.equal(layer.weight.detach()[rows], turnover.initial["fc2.weight"][rows])
    assert not torch.equal(layer.weight.detach()[~rows], turnover.initial["fc2.weight"][~rows])
    assert not turnover.optimizer.state[layer.weight]["momentum_buffer"][rows].any()
    head = linear(turnover.model, "head")
    assert turnover.optimizer.state[head.weight]["momentum_buffer"].any()


def test_real_growth_starts_from_the_net_of_masked_growth():
    masked, real = Grow(share=0.5, start=0.25).begin(setting(True)), Insert(share=0.5, start=0.25).begin(setting(False))
    x = masked.setting.batch[0]
    torch.testing.assert_close(masked.model(x), real.model(x))
    trained(masked, 2)
    trained(real, 2)
    torch.testing.assert_close(masked.model(x), real.model(x))
    trained(real, 15)
    assert active(real) == share_of(WIDTHS, 0.5)
    assert sorted(set(real.units()["fc1"].born.tolist())) == [-1, 3, 6, 9]  # three births of each four edits


@pytest.mark.parametrize("scale", [0.0, 0.3, 2.0])
def test_fan_out_alone_scales_the_gradient_of_newborns_in_the_last_hidden_layer(scale):
    model = build("mlp", (1, 4, 4), 3, WIDTHS, "relu", True)
    layer, reader = linear(model, "fc2"), linear(model, "head")
    with torch.no_grad():
        layer.weight[5:], layer.bias[5:] = layer.weight[:5], layer.bias[:5]
        reader.weight[:, 5:] = scale * reader.weight[:, :5]
    tables = measure(model, torch.randn(30, 1, 4, 4), torch.arange(30) % 3)
    born = torch.tensor([-1] * 5 + [7] * 5)
    everyone = {name: Units(torch.ones(width, dtype=torch.bool), torch.full((width,), -1)) for name, width in
                zip(hidden(model), WIDTHS, strict=True)}  # fmt: skip
    found = record(9, tables, everyone | {"fc2": Units(torch.ones(10, dtype=torch.bool), born)})
    (cohort,) = found.axes["fc2"].cohorts
    assert (cohort.born, cohort.age, cohort.units, cohort.incumbents) == (7, 2, 5, 5)
    assert cohort.activation == pytest.approx(1.0)
    assert cohort.gradient == pytest.approx(scale)
    assert cohort.fan_out == pytest.approx(scale)
    assert found.axes["fc1"].cohorts == ()
    assert json.loads(json.dumps(found.plain())) == json.loads(json.dumps(found.plain()))


def test_a_probe_measures_gradients_of_the_loss_and_leaves_training_alone():
    model = build("mlp", (1, 4, 4), 3, WIDTHS, "rsl", True)
    x, y = torch.randn(30, 1, 4, 4), torch.arange(30) % 3
    state = torch.get_rng_state()
    tables = measure(model, x, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    model.eval()
    cross_entropy(model(x), y).backward()
    weight = linear(model, "fc2").weight
    assert weight.grad is not None
    torch.testing.assert_close(tables["fc2"][MEASURES.index("fan_in_gradient")], weight.grad.norm(dim=1))
    torch.testing.assert_close(tables["fc1"][MEASURES.index("fan_out_gradient")], weight.grad.norm(dim=0))


def test_ways_that_are_brought_to_a_budget_take_it():
    bench = SCALES["cpu"].benches[1]
    share, start = bench.focus / 100, Early(share=bench.focus / 100).start
    grown, pruned = Grow(share=share).shares(bench.cycles), Prune(share=share).shares(bench.cycles)
    assert pruned_like_grown(bench) * sum(pruned) == pytest.approx(bench.epochs * sum(grown))
    course = [start + (share - start) * min(1.0, k / 3000) ** 0.5 for k in range(10_000)]
    epochs = early_like_grown(bench) * bench.cycles
    assert epochs * sum(course) / len(course) == pytest.approx(bench.epochs * sum(grown), rel=0.01)
    spent = sum(operations(bench, each) for each in course) / len(course)
    assert early_like_pruned(bench) * spent == pytest.approx(bench.epochs * operations(bench, 1.0), rel=0.01)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_operations_are_those_that_a_step_takes(single, name):
    bench = next(bench for bench in SCALES["smoke"].benches if bench.net == name)
    for share in (1.0, 0.5):
        widths = [round(share * width) for width in bench.widths]
        net = build(bench.net, bench.shape, bench.classes, widths, "relu", False)
        with FlopCounterMode(display=False) as counter:
            net(torch.randn(1, *bench.shape)).sum().backward()
        assert counter.get_total_flops() == 2 * operations(bench, share)


def test_every_bench_knows_the_images_of_its_net(single):
    for bench in SCALES["smoke"].benches:
        data = load(bench.data)
        assert (*data.train_images.shape[1:],) == bench.shape
        assert data.classes == bench.classes


def test_units_are_judged_one_by_one_and_cohorts_by_their_means():
    young = [Newborn(200, 1.0, 0.1), Newborn(200, 1.0, 0.2), Newborn(200, 1.0, 3.0), Newborn(199, 9.0, 9.0)]
    later = [Newborn(300, 2.0, 0.4), Newborn(300, 2.0, math.nan), Newborn(300, 2.0, 0.8)]
    found = unit_metrics([[], young, later])
    assert found["R_grad settled, units"] == pytest.approx(0.4)
    assert found["R_grad least, units"] == pytest.approx(0.2)
    assert found["R_act least, units"] == pytest.approx(1.0)
    assert found["starved units"] == pytest.approx(3 / 5)
    assert all(math.isnan(number) for number in unit_metrics([[Newborn(199, 1.0, 1.0)]]).values())


def test_a_cohort_is_the_mean_of_its_units():
    model = build("mlp", (1, 4, 4), 3, WIDTHS, "relu", True)
    tables = measure(model, torch.randn(30, 1, 4, 4), torch.arange(30) % 3)
    units = {name: Units(torch.ones(width, dtype=torch.bool), torch.tensor([-1] * 4 + [3] * 3 + [7] * (width - 7)))
             for name, width in zip(hidden(model), WIDTHS, strict=True)}  # fmt: skip
    single, cohorts = newborns(9, tables, units), record(9, tables, units)
    expected = [c for axis in cohorts.axes.values() for c in axis.cohorts]
    assert [each.age for each in single] == [c.age for c in expected for _ in range(c.units)]
    parts = iter(single)
    for found in expected:
        each = [next(parts) for _ in range(found.units)]
        assert sum(unit.gradient for unit in each) / found.units == pytest.approx(found.gradient)
        assert sum(unit.activation for unit in each) / found.units == pytest.approx(found.activation)


DIGITS = {"data": "digits", "widths": WIDTHS, "images": (64, 50), "cycles": 3, "epochs": 1, "learning_rate": 0.05}


def test_a_run_is_the_same_again_and_tells_what_claims_need(single, tmp_path):
    config = Cycles(**DIGITS, way=Grow(share=0.5), retrain=2)
    first, second = (carry_out(config, single, tmp_path / name) for name in ("a", "b"))
    assert [e.values for e in first.evaluations] == [e.values for e in second.evaluations]
    assert first.metrics == pytest.approx(second.metrics, nan_ok=True)
    ends = [value for step, value in first.series("accuracy") if step % 2 == 0]
    assert first.metrics["TAA"] == pytest.approx(sum(ends) / 3)
    assert first.metrics["cycle accuracy"] == ends[-1]
    assert {"WT accuracy", "R_grad early", "R_grad late fc2", "starved units"} <= set(first.metrics)
    assert sum(sum(change.births.values()) for change in first.changes) == sum(share_of(WIDTHS, 0.5)) - 2
    assert first.metrics["unit-epochs"] == pytest.approx((2 + 7 + 11) / 22, abs=0.1)


def test_activation_functions_are_those_asked_for():
    net = build("conv", (3, 8, 8), 10, (4, 4, 4), "leaky", False)
    assert sum(isinstance(module, nn.LeakyReLU) for module in net) == 5
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_a_cycle_without_a_step_is_refused(single, tmp_path):
    with pytest.raises(ConfigError, match="has no step"):
        carry_out(Cycles(**DIGITS | {"epochs": 0.001}, way=Dense()), single, tmp_path)


def test_the_study_has_enough_seeds_where_it_claims():
    plan = find("stability").plan("cpu")
    assert min(plan.seeds[arm.name] for arm in plan.arms if arm.seeds is None) >= 10
    judged = [arm for arm in plan.arms if "unit-epochs of" in arm.name or "operations of" in arm.name]
    assert len(judged) == 3
    for arm in (*(arm.name for arm in judged), "Conv Grow 50 %", "Conv Prune 50 %", "Conv Early division 50 %"):
        assert plan.seeds[arm] == 20


@pytest.mark.heavy
def test_the_command_runs_it_at_the_smallest_scale_and_writes_its_report(single, tmp_path):
    words = ["study", "stability", "--scale", "smoke", "--seeds", "1", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["findings"]) == len(find("stability").plan("smoke").claims)
    assert found["missing"] == 0
    births = next(arm for arm in found["arms"] if arm["name"] == "Conv Grow 50 %")
    assert births["records"]
    page = (tmp_path / "report.html").read_text()
    assert "Newborns over age" in page
    assert "Widths, births and deaths" in page
    (tmp_path / "report.html").unlink()
    assert CliRunner().invoke(app, [*words, "--report-only"]).exit_code == 0
    assert (tmp_path / "report.html").is_file()
    assert math.isfinite(births["values"]["R_grad late"][0])


def test_more_cycles_are_read_at_the_same_five_moments():
    assert at_fifths([1.0, 2.0, 3.0, 4.0, 6.0]) == pytest.approx(16 / 5)
    assert at_fifths([float(k) for k in range(1, 11)]) == pytest.approx((2 + 4 + 6 + 8 + 10) / 5)
    assert at_fifths([1.0, 2.0, 4.0]) == pytest.approx((1 + 2 + 2 + 4 + 4) / 5)
