"""What a log collects: operations with those of edits, losses between looks, structure and costs."""

import json

import pytest
import torch
from torch import nn

from meristem.errors import ConfigError
from meristem.grow import Random
from meristem.plasticity import Plasticity
from meristem.schedule import At
from meristem.train.log import Log
from meristem.train.memory import Memory
from meristem.train.record import Run, RunFolder, load_run

X, W = torch.ones(4, 5), torch.ones(5, 6, requires_grad=True)
FLOPS = 2 * 4 * 5 * 6


def test_a_run_from_its_first_step_to_its_file(tmp_path):
    place = RunFolder(tmp_path)
    place.start({})
    log = Log(place)
    for step in range(1, 5):
        with log.timing():
            with log.counting(4):
                X @ W
            if step == 2:
                with log.editing():
                    X @ W
                log.changed(step, {"a": 3}, {})
        log.loss(float(step))
        if step % 2 == 0:
            log.evaluated(step, {"score": step / 10, **({"rare": 1.0} if step == 4 else {})}, None, 30, {"a": 6})
    run = log.finish(7, {"best": 0.4, "none": float("nan")})
    assert [e.flops for e in run.evaluations] == [3 * FLOPS, 5 * FLOPS]
    assert [e.values["loss"] for e in run.evaluations] == [1.5, 3.5]
    assert (run.costs.flops, run.costs.edit_flops) == (5 * FLOPS, FLOPS)
    assert run.costs.seconds >= run.costs.edit_seconds > 0
    assert run.series("rare") == [(4, 1.0)]
    assert log.mean("score") == pytest.approx(0.3)
    assert (run.value("best"), run.value("parameters"), run.value("flops")) == (0.4, 30, 5 * FLOPS)
    with pytest.raises(ConfigError, match="expected one of best, none, flops"):
        run.value("worst")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    place.finish(run)
    again = load_run(tmp_path / "result.json")
    assert (again.evaluations, again.changes, again.costs) == (run.evaluations, run.changes, run.costs)
    assert json.loads((tmp_path / "result.json").read_text())["seed"] == 7


def test_a_step_that_records_statistics_is_counted_by_itself():
    log = Log()
    for anew in (False, True, False):
        with log.counting(4, anew=anew):
            X @ W
            if anew:
                X @ W
        log.evaluated(1, {})
    assert [e.flops for e in log.finish(0, {}).evaluations][0:2] == [FLOPS, 3 * FLOPS]


def begun() -> tuple[Memory, int]:
    """A reading of memory, and where it stands."""
    memory = Memory()
    before = memory.peak()
    if before is None:
        pytest.skip("this system does not tell")
    return memory, before


def test_memory_grows_with_what_is_held():
    memory, before = begun()
    held = torch.ones(50_000_000)
    after = memory.peak()
    assert after is not None
    assert after - before > 0.8 * held.numel() * 4


def test_newborns_are_watched_for_the_figures_and_cost_no_operations():
    def run(watched: bool) -> Run:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        optimizer, x, log = torch.optim.SGD(model.parameters(), 0.1), torch.randn(8, 4), Log()
        monitor = log.monitor(60) if watched else None
        schedule = At([20, 40], grow=2)
        plasticity = Plasticity(model, optimizer, x, grow=Random(), schedule=schedule, monitor=monitor)
        for step in range(1, 61):
            with log.counting(len(x)):
                loss = model(x).square().mean()
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            with log.editing():
                event = plasticity.step(loss)
            if event:
                log.changed(step, event.births, event.deaths)
        return log.finish(0, {"loss": loss.item()})

    seen, unseen = run(True), run(False)
    assert (seen.metrics, seen.costs.flops) == (unseen.metrics, unseen.costs.flops)
    assert not unseen.records
    ages = [cohort["age"] for record in seen.records for cohort in record["axes"]["0"]["cohorts"]]
    assert len(ages) > 15
    assert (min(ages), max(ages)) == (1, 20)


def test_a_log_within_a_run_does_not_lower_the_peak_of_that_run():
    """One that trains once more at the end, with a log of its own."""
    outer, before = begun()
    held = torch.ones(50_000_000)
    size = held.numel() * held.element_size()
    del held
    inner = Memory()
    peaks = outer.peak(), inner.peak()
    assert None not in peaks
    assert peaks[0] - before > 0.8 * size
    assert peaks[0] - peaks[1] > 0.8 * size
