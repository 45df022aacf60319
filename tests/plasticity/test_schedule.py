"""Schedules: when they are due, what they ask for, how they combine, and that their memory survives JSON."""

import json
import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meristem.axes import trace
from meristem.errors import ConfigError, EditError
from meristem.grow import Net2Wider, ZeroFanOut
from meristem.schedule import (
    After,
    At,
    Budget,
    Demand,
    Every,
    Moment,
    OnConvergence,
    OnEffectiveDimension,
    OnGain,
    OnPlateau,
    Schedule,
    effective_dimension,
    expansion_bar,
)
from meristem.signals import Activations, View
from tests.plasticity.models import build


def run(schedule: Schedule, losses, *, through_json: bool = False, look=None) -> dict[int, tuple[Demand, ...]]:
    """What a schedule asks for at each step at which it asks for anything.

    `look(step)` gives what it may look at: (view, chosen axes).
    """
    state, found = schedule.initial(), {}
    for step, loss in enumerate(losses, 1):
        seen = look(step) if look is not None and schedule.looks(step - 1) == step else (None, ())
        demands, state = schedule.due(Moment(step, loss, *seen), state)
        if through_json:
            state = json.loads(json.dumps(state, default=float))
        if demands:
            found[step] = demands
    return found


def test_at_is_due_at_its_times_only():
    assert run(At([3, 5], grow=4), [None] * 8) == {s: (Demand("grow", 4),) for s in (3, 5)}


def test_at_takes_a_single_time():
    assert list(run(At(2, grow=1), [None] * 5)) == [2]


@given(interval=st.integers(1, 7), start=st.integers(0, 9), length=st.none() | st.integers(0, 20))
def test_every_is_due_from_start_to_end(interval, start, length):
    end = None if length is None else start + length
    due = list(run(Every(interval, start=start, end=end, prune=0.1), [None] * 40))
    assert due == [s for s in range(start, 41 if end is None else min(end, 40) + 1, interval) if s >= 1]


@given(
    interval=st.integers(1, 7),
    start=st.integers(0, 9),
    length=st.none() | st.integers(0, 20),
    times=st.lists(st.integers(1, 30), min_size=1),
    step=st.integers(0, 40),
)
def test_next_is_the_next_step_that_is_due(interval, start, length, times, step):
    every = Every(interval, start=start, end=None if length is None else start + length, grow=1)
    at = At(times, grow=1)
    parts = (every, at, every | at, every.until(flops=1), every.after(steps=9), (at | every).until(steps=20))
    for schedule in parts:
        found = run(schedule, [None] * 60)
        assert schedule.next(step) == min((s for s in found if s > step), default=math.inf)
        assert schedule.announced(step) == schedule.next(step)
        assert schedule.foreseen(step + 1) == found.get(step + 1, ())
        assert schedule.looks(step) == math.inf
    mixed = every | OnPlateau(grow=1)
    assert mixed.next(step) == step + 1
    assert mixed.announced(step) == every.next(step)
    assert mixed.foreseen(step + 1) == every.foreseen(step + 1)
    assert OnPlateau(grow=1).announced(step) == math.inf


def test_epochs_are_multiples_of_steps_per_epoch():
    assert list(run(Every(1, steps_per_epoch=5, start=2, end=3, grow=1), [None] * 30)) == [10, 15]
    assert list(run(Every(0.5, steps_per_epoch=4, end=2, grow=1), [None] * 30)) == [2, 4, 6, 8]
    assert list(run(At([1, 2.5], steps_per_epoch=4, grow=1), [None] * 30)) == [4, 10]


def test_amounts_may_be_schedules():
    found = run(Every(2, grow=lambda step: step // 2), [None] * 6)
    assert [demands[0].amount for demands in found.values()] == [1, 2, 3]


def test_pruning_comes_before_growth_within_one_schedule():
    (demands,) = run(At(1, grow=2, prune=0.5), [None]).values()
    assert [d.action for d in demands] == ["prune", "grow"]


def test_together_keeps_the_order_written():
    schedule = Every(2, grow=0.1) | Every(3, start=6, prune=0.2) | At(6, grow=1)
    found = run(schedule, [None] * 6)
    assert list(found) == [2, 4, 6]
    assert found[6] == (Demand("grow", 0.1), Demand("prune", 0.2), Demand("grow", 1))
    assert schedule.actions == {"grow", "prune"}


def test_until_attaches_its_budget():
    found = run(Every(2, grow=3).until(parameters=100, flops=7), [None] * 2)
    assert found == {2: (Demand("grow", 3, Budget(100, 7)),)}


def test_budgets_of_nested_untils_hold_both():
    schedule = Every(1, grow=3).until(parameters=100, units=9).until(parameters=50, bytes=8)
    assert run(schedule, [None]) == {1: (Demand("grow", 3, Budget(parameters=50, units=9, bytes=8)),)}


@given(first=st.integers(0, 12), last=st.integers(1, 25), interval=st.integers(1, 5))
def test_after_and_until_cut_out_a_part(first, last, interval):
    whole = run(Every(interval, grow=1), [None] * 30)
    part = run(Every(interval, grow=1).after(steps=first).until(steps=last), [None] * 30)
    assert part == {step: demands for step, demands in whole.items() if first <= step <= last}


def test_a_warm_up_is_hidden_from_what_comes_after():
    flat = [5.0] * 20
    patient = OnPlateau(patience=3, window=1, grow=1)
    assert list(run(patient, flat)) == [4, 8, 12, 16, 20]
    assert list(run(patient.after(steps=10), flat)) == [13, 17]  # 10 is the first loss that it sees
    assert patient.after(steps=10).next(0) == 10
    assert patient.after(steps=10).until(steps=14).next(14) == math.inf


def test_amounts_may_say_what_each_axis_gets():
    assert run(At(1, grow={"0": 3}), [None]) == {1: (Demand("grow", {"0": 3}),)}


def check(values, threshold=1.0, interval=1, **settings):
    """When a schedule that watches these values at its checks is due."""
    metric = iter(values)
    schedule = OnConvergence(interval, threshold, lambda: next(metric), grow=2)
    return list(run(schedule, [None] * (interval * len(values)), **settings))


def test_convergence_is_due_when_the_metric_gains_too_little():
    # gains: 5, 5, 0.5 (grow), 3 (it helped), 0.9 (grow), 1 (helped: the threshold counts), 0 (grow), 0.5: stop for good
    values = [0, 5, 10, 10.5, 13.5, 14.4, 15.4, 15.4, 15.9, 15.9, 15.9]
    assert check(values) == [4, 6, 8]
    assert check(values, interval=3) == [12, 18, 24]
    assert check(values, through_json=True) == [4, 6, 8]
    assert check([0, 0, -1, -1, -1]) == [2], "an edit that did harm did not help"


def test_convergence_takes_what_is_not_finite_for_no_gain():
    assert check([math.nan, 0, math.nan, 5, 5]) == [3, 5]


def test_convergence_watches_the_mean_loss_of_an_interval():
    losses = [9.0, 7.0, 6.0, 4.0, 5.5, 4.0, 2.0, 2.0, 2.0, 2.5, 2.0, 2.0]  # means 8, 5, 4.75, 2, 2.25, 2
    schedule = OnConvergence(2, 1.0, grow=1)
    assert list(run(schedule, losses)) == [6, 10]
    assert run(schedule, losses, through_json=True) == run(schedule, losses)
    with pytest.raises(ConfigError, match=r"OnConvergence .*plasticity\.step\(loss\)"):
        run(schedule, [None] * 2)


def spectrum(singular, seed=0):
    """A Gram matrix with these singular values of H / sqrt(n), from activations."""
    generator = torch.Generator().manual_seed(seed)
    n = len(singular)
    u = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(50, n, dtype=torch.float64, generator=generator)).Q
    h = u @ torch.diag(torch.tensor(singular, dtype=torch.float64)) @ v.T * math.sqrt(50)
    return h @ h.T / 50, h


def test_effective_dimension_counts_singular_values():
    gram, h = spectrum([3.0, 1.0, 0.011, 0.009, 0.0])
    assert int((torch.linalg.svdvals(h / math.sqrt(50)) > 0.01).sum()) == 3
    assert effective_dimension(gram) == 3
    assert effective_dimension(gram, cutoff=0.5) == 2
    assert effective_dimension(gram, cutoff=0) == 4, "rounding is no direction"
    assert effective_dimension(gram.float()) == 3
    assert effective_dimension(torch.zeros(4, 4)) == 0


@given(rank=st.integers(0, 8), seed=st.integers(0, 20))
def test_effective_dimension_of_a_known_rank(rank, seed):
    assert effective_dimension(spectrum([2.0] * rank + [0.0] * (8 - rank), seed)[0]) == rank


MODEL, EXAMPLE = build("mlp")
AXES = trace(MODEL, EXAMPLE)


def dimensions(*values):
    """A view of the model whose first axis (10 units) has these effective dimensions look by look; the second has 7."""
    left = iter(values)

    def look(step):
        first = spectrum([1.0] * (d := next(left)) + [0.0] * (10 - d))[0]
        signals = {Activations("0"): first, Activations("3"): spectrum([1.0] * 3 + [0.0] * 4)[0]}
        return View(AXES, step, signals=signals), AXES.editable

    return look


def test_effective_dimension_grows_by_what_is_above_the_threshold():
    schedule = OnEffectiveDimension(interval=4, share=0.75, expected=1.0)
    # threshold floor(0.75 * 10) = 7 for the first axis, floor(0.75 * 7) = 5 for the second, whose dimension is 3
    found = run(schedule, [None] * 16, look=dimensions(6, 7, 8, 10))
    assert found == {12: (Demand("grow", {"0": 1}),), 16: (Demand("grow", {"0": 3}),)}
    assert schedule.actions == {"grow"}
    assert [schedule.looks(step) for step in (0, 3, 4)] == [4, 4, 8]
    assert schedule.next(5) == 8
    assert schedule.announced(0) == math.inf


def test_effective_dimension_is_measured_first_and_only_ever_raised():
    schedule = OnEffectiveDimension(interval=1, share=0.9)
    # expected per unit: 0.5, 0.5, 0.8, 0.8; thresholds floor(9 * that) = 4, 4, 7, 7. The second axis, 3 of 7 units:
    # floor(0.9 * 3) = 2, so it always has one to spare
    found = run(schedule, [None] * 4, look=dimensions(5, 4, 8, 7))
    assert [demands[0].amount for demands in found.values()] == [{"0": 1, "3": 1}, {"3": 1}, {"0": 1, "3": 1}, {"3": 1}]
    assert run(schedule, [None] * 4, look=dimensions(5, 4, 8, 7), through_json=True) == found


def test_effective_dimension_may_leave_the_amount_to_others():
    schedule = OnEffectiveDimension(interval=1, share=0.75, expected=1.0, grow=lambda step: 10 * step)
    found = run(schedule, [None] * 2, look=dimensions(7, 8))
    assert found == {2: (Demand("grow", 20),)}


def test_effective_dimension_needs_the_activations_of_the_chosen_axes():
    schedule = OnEffectiveDimension(interval=5) | Every(2, grow=1)
    assert schedule.needs(AXES, [AXES["3"]]) == (Activations("3"),)
    assert schedule.looks(0) == 5
    attention, x = build("attention")
    axes = trace(attention, x)
    blocked = [axis for axis in axes.editable if Activations(axis.name).undefined(axes, axis)]
    assert blocked
    with pytest.raises(EditError, match="OnEffectiveDimension cannot see"):
        schedule.needs(axes, blocked)


@dataclass(frozen=True)
class Predicting(ZeroFanOut):
    """Predicts given gains by axis name."""

    predicted: dict[str, list[float]] = field(default_factory=dict)

    def needs(self, axes, axis, count):
        return (Activations(axis.name),)

    def gains(self, view, axis, count):
        scale = 0.5**view.step
        return scale * torch.tensor(self.predicted[axis.name][:count], dtype=torch.float64)


METHOD = Predicting(predicted={"0": [8.0, 4.0, 2.0, 1.0], "3": [16.0, 1.0]})


def look(step):
    return View(AXES, step), AXES.editable


def test_gains_above_a_threshold_call_for_growth():
    schedule = OnGain(METHOD, threshold=1.0, interval=2)
    # gains at step 2: 2, 1, 0.5, 0.25 and 4, 0.25; at step 4: a quarter of it, 0.5 ... and 1; above counts, not equal
    assert run(schedule, [None] * 4, look=look) == {2: (Demand("grow", {"0": 1, "3": 1}),)}
    assert run(OnGain(METHOD, threshold=0.9, interval=2), [None] * 4, look=look) == {
        2: (Demand("grow", {"0": 2, "3": 1}),),
        4: (Demand("grow", {"3": 1}),),
    }
    assert run(OnGain(METHOD, interval=1, most=2), [None], look=look)[1][0].amount == {"0": 2, "3": 2}
    assert run(OnGain(METHOD, interval=1, grow=0.5), [None], look=look)[1][0].amount == 0.5
    assert schedule.needs(AXES, AXES.editable) == (Activations("0"), Activations("3"))


def test_gains_are_held_against_the_largest_so_far():
    schedule = OnGain(METHOD, relative=0.2, interval=1)
    # gains at step s: 0.5 ** s of (8, 4, 2, 1 and 16, 1); the bar stays at 0.2 * 8
    amounts = {step: demands[0].amount for step, demands in run(schedule, [None] * 5, look=look).items()}
    assert amounts == {1: {"0": 2, "3": 1}, 2: {"0": 1, "3": 1}, 3: {"3": 1}}
    assert run(schedule, [None] * 5, look=look) == run(schedule, [None] * 5, look=look, through_json=True)


def test_gains_are_held_against_a_reference():
    scores = {"0": 100.0, "3": 1000.0}
    schedule = OnGain(METHOD, relative=0.02, reference=lambda view, axis: scores[axis.name], interval=1)
    assert run(schedule, [None], look=look) == {1: (Demand("grow", {"0": 1}),)}  # 4 > 2, but not 8 > 20


def test_an_addition_must_pass_both_bars_of_senn():
    increase, score, gradient = 4.0, 100.0, 2000.0
    for relative in (0.039, 0.041):
        for absolute in (1.9e-3, 2.1e-3):
            accepted = increase / score > relative and increase / gradient > absolute
            assert (increase > expansion_bar(score, gradient, relative, absolute)) == accepted
    assert expansion_bar(1.0, 1.0) == 0.03
    assert expansion_bar(0.0, 1.0) == 2.5e-3


def test_gains_need_a_method_that_predicts_them():
    with pytest.raises(ConfigError, match=r"OnGain needs .* Net2Wider does not predict"):
        OnGain(Net2Wider(), interval=1)


def test_looking_without_a_view_says_what_is_missing():
    schedule = OnGain(METHOD, interval=3)
    assert not run(schedule, [None] * 2)
    with pytest.raises(ConfigError, match="OnGain looks at signals at step 3"):
        run(schedule, [None] * 3)


def test_triggers_combine_with_everything():
    trigger = OnGain(METHOD, threshold=0.1, interval=2)
    schedule = (trigger.after(steps=4).until(steps=6, units=40) | At(5, prune=1)) | OnPlateau(grow=1)
    assert [schedule.looks(step) for step in (0, 4, 6)] == [4, 6, math.inf]
    assert schedule.announced(0) == 5
    found = run(schedule, [None] * 8, look=look, through_json=True)
    assert list(found) == [4, 5, 6]
    assert found[4] == (Demand("grow", {"0": 3, "3": 1}, Budget(units=40)),)
    assert schedule.needs(AXES, AXES.editable) == (Activations("0"), Activations("3"))
    assert isinstance(trigger.after(steps=1), After)


def test_plateau_is_due_after_patience_windows_without_improvement():
    falling, flat = [10.0 - i for i in range(6)], [5.0] * 12
    found = run(OnPlateau(patience=3, window=2, threshold=0.0, grow=1), falling + flat)
    # windows of 2: means 9.5, 7.5, 5.5, 5.0, then 5.0 three times: due with window 7, and again 4 windows later
    assert list(found) == [14]


def test_plateau_starts_afresh_and_cools_down():
    found = run(OnPlateau(patience=1, window=1, cooldown=2, grow=1), [1.0] * 12)
    # 1: best. 2: stalled, due. 3, 4: cooling. 5: best. 6: due, and so on
    assert list(found) == [2, 6, 10]


def test_plateau_counts_relative_improvement():
    slowly = [100 * 0.995**i for i in range(6)]
    assert list(run(OnPlateau(patience=2, window=1, threshold=0.01, grow=1), slowly)) == [3, 6]
    assert not run(OnPlateau(patience=2, window=1, threshold=0.004, grow=1), slowly)


def test_a_diverged_loss_is_no_plateau_but_the_log_warns(caplog):
    losses = [1.0, float("nan"), float("inf"), 1.0, float("nan"), 1.0, 1.0]
    assert list(run(OnPlateau(patience=2, window=1, grow=1), losses)) == [6]
    assert len(caplog.records) == 3
    assert "diverged" in caplog.text


def test_a_loss_of_several_numbers_is_refused():
    with pytest.raises(ConfigError, match=r"shape \(3,\); pass its mean"):
        run(OnPlateau(grow=1), [torch.ones(3)])


def test_plateau_reads_losses_on_other_devices_at_the_end_of_a_window_only():
    losses = [torch.ones((), device="meta") for _ in range(5)]  # there is nothing to read on this device
    assert not run(OnPlateau(window=6, grow=1), losses)
    with pytest.raises(RuntimeError, match="meta"):
        run(OnPlateau(window=5, grow=1), losses)


def test_plateau_state_survives_json_bit_for_bit():
    torch.manual_seed(0)
    losses = list(torch.rand(200))
    schedule = OnPlateau(patience=2, window=3, grow=1, threshold=0.1)
    assert run(schedule, losses) == run(schedule, losses, through_json=True)


def test_plateau_without_a_loss_says_what_to_do():
    with pytest.raises(ConfigError, match=r"plasticity\.step\(loss\)"):
        run(OnPlateau(window=3, grow=1), [None] * 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: At([3]), "asks for nothing"),
        (lambda: At([0], grow=1), "step 1"),
        (lambda: At([], grow=1), "at least one time"),
        (lambda: Every(0, grow=1), "interval"),
        (lambda: Every(10, start=30, end=20, grow=1), "ends"),
        (lambda: Every(10, grow=-1), "grow="),
        (lambda: Every(10, grow=True), "grow="),
        (lambda: Every(10, prune=1.0), "below 1.0"),
        (lambda: Every(10, prune=float("nan")), "prune="),
        (lambda: Every(10, grow=json.loads('"many"')), "grow="),
        (lambda: Every(1, steps_per_epoch=0, grow=1), "steps_per_epoch"),
        (lambda: Every(1, grow=1).until(), "budget"),
        (lambda: Every(1, grow=1).until(parameters=-5), "parameters"),
        (lambda: Every(1, grow=1).until(units=0), "units"),
        (lambda: Every(1, prune=0.1).until(flops=0.5), r"at least 1, got 0\.5; .* 0\.5 \* axes\.flops\(\)"),
        (lambda: Every(1, prune=0.1).until(parameters=0.9), r"0\.5 \* axes\.parameter_count\(\)"),
        (lambda: Every(1, prune=0.1).until(bytes=math.nan), r"at least 1, got nan; .* axes\.byte_count\(\)"),
        (lambda: Every(1, prune=0.1).until(units=lambda step: 0.5).budget(3), "at least 1, got 0.5"),
        (lambda: Every(1, grow=1).until(steps=0), "steps"),
        (lambda: Every(1, grow=1).after(steps=-1), "steps"),
        (lambda: Every(1, grow={"0": 1.5}), "by axis name"),
        (lambda: Every(1, prune={"0": -1}), "by axis name"),
        (lambda: OnPlateau(patience=0, grow=1), "patience"),
        (lambda: OnConvergence(0, 0.1, grow=1), "interval"),
        (lambda: OnConvergence(1, math.nan, grow=1), "threshold"),
        (lambda: OnConvergence(1, 0.1), "asks for nothing"),
        (lambda: OnEffectiveDimension(interval=0), "interval"),
        (lambda: OnEffectiveDimension(interval=1, start=-1), "start"),
        (lambda: OnEffectiveDimension(interval=1, share=1.5), "share"),
        (lambda: OnEffectiveDimension(interval=1, expected=0), "expected"),
        (lambda: OnEffectiveDimension(interval=1, cutoff=-1), "cutoff"),
        (lambda: OnEffectiveDimension(interval=1, grow=-1), "grow="),
        (lambda: OnGain(METHOD, interval=1, most=0), "most"),
        (lambda: OnGain(METHOD, interval=1, relative=-1), "relative"),
        (lambda: run(Every(1, grow=lambda step: -step), [None]), "grow="),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
