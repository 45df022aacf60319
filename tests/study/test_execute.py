"""A protocol's runs in several processes: complete, in order, not repeated, and stopped by an error."""

import pytest

from meristem.errors import ConfigError, DataError
from meristem.study import Arm, Protocol
from meristem.study.execute import execute
from meristem.train.config import GrowConfig, ModelConfig, TrainConfig

BASE = TrainConfig(
    model=ModelConfig(name="mlp", options={"widths": [4]}), epochs=1, evaluations=2, grow=None, prune=None
)
GROWN = BASE.model_copy(update={"grow": GrowConfig(amount=2, start=0, stop=1, every=0.5)})


@pytest.mark.heavy
def test_all_arms_and_seeds_are_run_once(tmp_path):
    protocol = Protocol("title", (Arm("fixed", "", BASE), Arm("grown", "", GROWN)), seeds=(3, 4))
    seen: dict[tuple[str, int], tuple[int, int]] = {}
    results = execute(protocol, tmp_path, report=lambda arm, seed, done, of: seen.update({(arm, seed): (done, of)}))
    assert {arm: [run.seed for run in runs] for arm, runs in results.items()} == {"fixed": [3, 4], "grown": [3, 4]}
    assert set(seen.values()) == {(21, 21)}
    assert len(seen) == 4
    assert all(run.changes for run in results["grown"])
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(written) == 4
    assert execute(protocol, tmp_path) == results
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}


@pytest.mark.heavy
def test_an_error_in_a_run_reaches_the_caller(tmp_path):
    bad = BASE.model_copy(update={"batch_size": 5000})
    with pytest.raises(ConfigError, match="batch_size"):
        execute(Protocol("title", (Arm("bad", "", bad),), seeds=(0,)), tmp_path)


def test_a_missing_data_set_is_noticed_before_anything_runs(tmp_path):
    missing = BASE.model_copy(update={"data": "mnist"})
    with pytest.raises(DataError, match="mnist"):
        execute(Protocol("title", (Arm("bad", "", missing),), seeds=(0,)), tmp_path, data_dir=tmp_path)
