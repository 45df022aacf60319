"""A plan's runs in several processes: complete, not repeated, each failure on its own, and none outlives the parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meristem.errors import ConfigError, MeristemError
from meristem.study.environment import machine
from meristem.study.execute import collect, execute, require_complete
from meristem.train.config import GrowConfig, ModelConfig, TrainConfig
from meristem.train.experiment import carry_out
from tests.study.toys import Coin, plan

ROOT = Path(__file__).parents[2]

BASE = TrainConfig(
    model=ModelConfig(name="mlp", options={"widths": [4]}), epochs=1, evaluations=2, grow=None, prune=None
)
GROWN = BASE.model_copy(update={"grow": GrowConfig(amount=2, start=0, stop=1, every=0.5)})


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}


@pytest.mark.heavy
def test_all_arms_and_seeds_are_run_once(tmp_path):
    both = plan(2, fixed=BASE, grown=GROWN)
    seen: dict[tuple[str, int], tuple[int, int]] = {}
    outcome = execute(both, tmp_path, report=lambda arm, seed, done, of: seen.update({(arm, seed): (done, of)}))
    assert {arm: [run.seed for run in runs] for arm, runs in outcome.runs.items()} == {"fixed": [0, 1], "grown": [0, 1]}
    assert set(seen.values()) == {(1, 1)}
    assert len(seen) == 4
    assert all(run.changes for run in outcome.runs["grown"])
    (sitting,) = outcome.sittings
    assert (sitting.jobs, sitting.runs, sitting.machine) == (2, 4, machine())
    assert sum(run.costs.seconds for runs in outcome.runs.values() for run in runs) / 2 < sitting.seconds < 300
    before = written(tmp_path)
    assert len(before) == 4
    assert execute(both, tmp_path) == outcome
    assert written(tmp_path) == before
    more = execute(plan(3, fixed=BASE, grown=GROWN), tmp_path)
    assert {arm: runs[:2] for arm, runs in more.runs.items()} == outcome.runs
    assert more.sittings[0] == sitting
    assert [each.runs for each in collect(plan(3, fixed=BASE, grown=GROWN), tmp_path).sittings] == [4, 2]
    assert before.items() <= written(tmp_path).items()
    assert len(written(tmp_path)) == 6


@pytest.mark.heavy
def test_a_failure_and_a_death_leave_the_others_alone_and_are_tried_again(tmp_path):
    arms = {"good": Coin(), "bad": Coin(fails=True), "dead": Coin(dies=True), "late": Coin(heads=0.9)}
    outcome = execute(plan(2, **arms), tmp_path, jobs=2)
    assert {arm: len(runs) for arm, runs in outcome.runs.items()} == {"good": 2, "bad": 0, "dead": 0, "late": 2}
    assert all(run.metrics["threads"] == 1 for run in outcome.runs["good"])
    errors = {(failure.arm, failure.seed): failure.error for failure in outcome.failures}
    assert sorted(errors) == [("bad", 0), ("bad", 1), ("dead", 0), ("dead", 1)]
    assert errors["bad", 0] == "ValueError: the coin stood on its edge"
    assert "killed" in errors["dead", 1]
    assert "stood on its edge" in (tmp_path / "bad" / "seed-0" / "failure.txt").read_text()
    with pytest.raises(MeristemError, match="4 runs failed"):
        require_complete(outcome)
    assert len(execute(plan(2, **arms), tmp_path).failures) == 4


@pytest.mark.heavy
def test_what_a_run_takes_does_not_depend_on_the_runs_before_it(tmp_path):
    both = plan(2, first=Coin(kept=2**28), second=Coin())
    outcome = execute(both, tmp_path, jobs=1)
    first, second = ([run.costs.peak_bytes for run in outcome.runs[arm]] for arm in ("first", "second"))
    assert max(second) - min(second) < 2**22
    assert 2**28 - 2**22 < min(first) - max(second) < 2**28 + 2**22
    assert len({mark.read_text() for mark in tmp_path.rglob("alive")}) == 4


KILLED = """
import signal
import sys
from pathlib import Path
from meristem.study.execute import execute
from meristem.train.experiment import carry_out
from tests.study.toys import Coin, plan

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
    execute(plan(2, slow=Coin(seconds=60)), Path(sys.argv[1]), jobs=2)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_run_outlives_a_parent_that_is_killed_and_it_resumes(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    command = [sys.executable, str(script), str(tmp_path / "runs")]
    parent = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL)
    marks = [tmp_path / "runs" / "slow" / f"seed-{seed}" / "alive" for seed in (0, 1)]
    wait_until(lambda: all(mark.is_file() and mark.read_text() for mark in marks))
    workers = [int(mark.read_text()) for mark in marks]
    assert all(alive(pid) for pid in workers)
    parent.send_signal(how)
    parent.wait(30)
    wait_until(lambda: not any(alive(pid) for pid in workers))
    assert collect(plan(2, slow=Coin(seconds=60)), tmp_path / "runs").missing == 2
    for folder in (tmp_path / "runs" / "slow").iterdir():
        config = folder / "config.json"
        config.write_text(config.read_text().replace('"seconds": 60.0', '"seconds": 0.0'))
    for task in plan(2, slow=Coin()).tasks(tmp_path / "runs"):
        resumed = carry_out(task.config, None, task.folder)
        assert resumed == carry_out(task.config, None, task.folder)
        whole = carry_out(task.config, None, tmp_path / "whole" / task.folder.name)
        assert (resumed.metrics, resumed.evaluations[-1].values) == (whole.metrics, whole.evaluations[-1].values)
    assert collect(plan(2, slow=Coin()), tmp_path / "runs").missing == 0


def wait_until(condition) -> None:
    """For processes of the operating system, which tell nothing; pytest's own time limit ends it."""
    with subprocess.Popen(["sleep", "200"]) as patience:
        while not condition():
            assert patience.poll() is None
        patience.kill()


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended but was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_folder_with_other_settings_is_left_alone(tmp_path):
    folder = tmp_path / "coin" / "seed-0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="another configuration"):
        execute(plan(1, coin=Coin()), tmp_path)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


@pytest.mark.heavy
def test_a_missing_data_set_is_told_for_each_run(tmp_path):
    missing = BASE.model_copy(update={"data": "mnist"})
    (failure,) = execute(plan(1, bad=missing), tmp_path, data_dir=tmp_path).failures
    assert str(tmp_path / "mnist.npz") in failure.error
