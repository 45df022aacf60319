"""Schedules: when they are due, what they ask for, how they combine, and that their memory survives JSON."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meristem.errors import ConfigError
from meristem.schedule import At, Budget, Demand, Every, Moment, OnPlateau, Schedule


def run(schedule: Schedule, losses, *, through_json: bool = False) -> dict[int, tuple[Demand, ...]]:
    """What a schedule asks for at each step at which it asks for anything."""
    state, found = schedule.initial(), {}
    for step, loss in enumerate(losses, 1):
        demands, state = schedule.due(Moment(step, loss), state)
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
    for schedule in (every, At(times, grow=1), every | At(times, grow=1), every.until(flops=1)):
        due = [s for s in run(schedule, [None] * 60) if s > step]
        assert schedule.next(step) == min(due, default=math.inf)
    assert (every | OnPlateau(grow=1)).next(step) == step + 1


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


def test_plateau_takes_a_diverged_loss_for_no_improvement():
    assert list(run(OnPlateau(patience=2, window=1, grow=1), [float("nan"), float("inf"), 1.0])) == [2]


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
        (lambda: OnPlateau(patience=0, grow=1), "patience"),
        (lambda: run(Every(1, grow=lambda step: -step), [None]), "grow="),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
