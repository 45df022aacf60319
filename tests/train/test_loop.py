"""The reference loop trains fixed, grown and pruned nets, the same way every time, and leaves a complete record."""

import dataclasses
import json
import re
import sys

import pytest
import torch

from meristem.errors import ConfigError
from meristem.train.config import GrowConfig, ModelConfig, PruneConfig, TrainConfig, parse_config
from meristem.train.data import load
from meristem.train.data.text import Text
from meristem.train.experiment import carry_out

DIGITS = load("digits")
SMALL = ModelConfig(name="resnet", options={"width": 4, "inner": 6, "blocks": 1})
FIXED = TrainConfig(model=SMALL, epochs=2, evaluations=4, grow=None, prune=None)
GROWN = FIXED.model_copy(update={"grow": GrowConfig(amount=0.5, start=0.5, stop=1.5, every=0.5)})
BOTH = GROWN.model_copy(update={"prune": PruneConfig(amount=3, start=1.75, stop=2.0, every=1.0)})


def untimed(run):
    return [dataclasses.replace(evaluation, seconds=0.0) for evaluation in run.evaluations], run.changes


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("config", [FIXED, BOTH], ids=["fixed", "grown and pruned"])
def test_the_same_seed_gives_the_same_run_bit_for_bit(tmp_path, config):
    first = carry_out(config, DIGITS, tmp_path / "first")
    torch.rand(3)
    second = carry_out(config, DIGITS, tmp_path / "second")
    other = carry_out(config.model_copy(update={"seed": 1}), DIGITS, tmp_path / "other")
    assert untimed(first) == untimed(second)
    assert untimed(first) != untimed(other)


def test_a_fixed_net_learns_and_keeps_its_structure(tmp_path):
    steps: list[tuple[int, int]] = []
    run = carry_out(FIXED, DIGITS, tmp_path, lambda done, of: steps.append((done, of)))
    assert steps == [(n, 42) for n in range(1, 43)]
    assert [e.step for e in run.evaluations] == [10, 21, 32, 42]
    assert run.evaluations[-1].values["loss"] < run.evaluations[0].values["loss"]
    assert run.value("final accuracy") > 0.15  # chance is 0.1
    assert not run.changes
    first, *_, last = run.evaluations
    assert last.sizes == first.sizes
    assert last.flops / last.step == pytest.approx(first.flops / first.step)
    assert last.parameters == 4 * 9 + 8 + (4 * 9 * 6 + 12) + (6 * 9 * 4 + 8) + 50


def test_growth_and_pruning_are_recorded(tmp_path):
    run = carry_out(BOTH, DIGITS, tmp_path)
    births = sum(sum(change.births.values()) for change in run.changes)
    deaths = sum(sum(change.deaths.values()) for change in run.changes)
    last = run.evaluations[-1]
    assert sum(last.sizes.values()) == 4 + 6 + births - deaths
    assert births > 0
    assert deaths == 3
    history = json.loads((tmp_path / "history.json").read_text())
    assert len(history) == len(run.changes)
    rates = [
        (b.flops - a.flops) / (b.step - a.step) for a, b in zip(run.evaluations, run.evaluations[1:], strict=False)
    ]
    assert rates[0] < rates[1]


def test_growth_stops_at_a_number_of_parameters(tmp_path):
    limit = 900
    config = FIXED.model_copy(update={"grow": GrowConfig(amount=0.5, start=0, stop=2, every=0.25, parameters=limit)})
    last = carry_out(config, DIGITS, tmp_path).evaluations[-1]
    assert 0.8 * limit < last.parameters <= limit


def test_a_finished_run_is_not_run_again(tmp_path):
    first = carry_out(FIXED, DIGITS, tmp_path)

    def never(done: int, of: int) -> None:
        raise AssertionError("it trains again")

    assert carry_out(FIXED, DIGITS, tmp_path, never) == first
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [e.step for e in first.evaluations]


def test_a_run_that_was_killed_begins_afresh(tmp_path):
    def kill(done: int, of: int) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(FIXED, DIGITS, tmp_path / "killed", kill)
    again = carry_out(FIXED, DIGITS, tmp_path / "killed")
    assert untimed(again) == untimed(carry_out(FIXED, DIGITS, tmp_path / "whole"))
    assert len((tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_folder_with_another_run_is_left_alone(tmp_path):
    carry_out(FIXED, DIGITS, tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(ConfigError, match=r"another configuration \(epochs was 2, is 3\)"):
        carry_out(FIXED.model_copy(update={"epochs": 3}), DIGITS, tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before


@pytest.mark.parametrize("options", [{"width": -1}, {"wide": 3}, {"width": "x"}])
def test_options_that_the_model_refuses(tmp_path, options):
    config = FIXED.model_copy(update={"model": ModelConfig(name="resnet", options=options)})
    with pytest.raises(ConfigError, match=r"model\.options"):
        carry_out(config, DIGITS, tmp_path)


def test_a_batch_larger_than_the_data(tmp_path):
    with pytest.raises(ConfigError, match="batch_size"):
        carry_out(FIXED.model_copy(update={"batch_size": 5000}), DIGITS, tmp_path)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("name", ["mlp", "conv", "vgg"])
def test_every_model_grows_and_is_pruned_with_every_optimizer(tmp_path, name, optimizer):
    options = {"widths": [4, 4]}
    content = BOTH.model_dump() | {"model": {"name": name, "options": options}, "epochs": 2}
    content["optimizer"] = {"name": optimizer, "learning_rate": 0.003}
    content["grow"]["method"] = "Net2Wider" if optimizer == "adam" else "ZeroFanOut"
    content["prune"]["criterion"] = "random" if optimizer == "adam" else "magnitude"
    run = carry_out(TrainConfig.model_validate(content), DIGITS, tmp_path)
    assert len(run.changes) >= 2


def test_any_growth_method_with_its_settings(tmp_path):
    content = TrainConfig().model_dump(mode="json")
    content |= {"epochs": 2, "evaluations": 1, "prune": None, "axes": ["*.inner.conv"]}
    content["grow"] |= {"method": "TINY", "options": {"threshold": 0.01}, "start": 1, "stop": 1, "amount": 4}
    run = carry_out(parse_config(content), DIGITS, tmp_path / "run")
    assert sum(sum(change.births.values()) for change in run.changes) == 4
    content["grow"]["options"] = {"treshold": 0.01}
    with pytest.raises(ConfigError, match=r"grow\.options does not fit TINY"):
        carry_out(parse_config(content), DIGITS, tmp_path / "other")


def test_settings_that_a_folder_does_not_have_yet_have_their_defaults(tmp_path):
    """So what an earlier version finished is not run again once there is one more setting."""
    first = carry_out(BOTH, DIGITS, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["allocate"], stored["prune"]["options"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert carry_out(BOTH, None, tmp_path) == first
    with pytest.raises(ConfigError, match=r"allocate was 'proportional', is 'uniform'"):
        carry_out(BOTH.model_copy(update={"allocate": "uniform"}), None, tmp_path)


MINE = """
from dataclasses import dataclass
import torch
from meristem.axes import Role
from meristem.grow import ZeroFanOut
from meristem.prune import Criterion

@dataclass(frozen=True)
class Ones(ZeroFanOut):
    value: float = 1.0
    def values(self, s):
        return torch.full(s.shape, self.value) if s.roles == {Role.PRODUCES} else super().values(s)

@dataclass(frozen=True)
class Last(Criterion):
    def scores(self, view, axis):
        return -torch.arange(axis.size).float()
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of a user's own, in the current folder."""
    (tmp_path / "own_methods.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_methods", raising=False)


def test_methods_and_criteria_of_ones_own(mine, tmp_path):
    content = {
        "model": {"name": "mlp", "options": {"widths": [4]}},
        "epochs": 1,
        "evaluations": 1,
        "grow": {"method": "own_methods:Ones", "options": {"value": 0.5}, "start": 0.25, "stop": 0.25, "amount": 3},
        "prune": {"criterion": "own_methods:Last", "start": 0.5, "stop": 0.5, "amount": 2},
    }
    run = carry_out(parse_config(content), DIGITS, tmp_path / "run")
    assert run.changes[0].births == {"layer1": 3}
    assert run.changes[1].deaths == {"layer1": 2}
    history = json.loads((tmp_path / "run/history.json").read_text())
    assert history[0]["axes"][0]["start"] == "Ones(value=0.5)"
    assert history[1]["axes"][0]["units"] == [[0, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grow": {"method": "own_methods:Twos"}}, "own_methods:Twos cannot be imported"),
        ({"grow": {"method": "own_methods:Last"}}, "own_methods:Last makes a Last; expected a Method"),
        (
            {"grow": {"method": "own_methods:Ones", "options": {"values": 2}}},
            "grow.options does not fit own_methods:Ones",
        ),
        ({"prune": {"criterion": "Taylor", "options": {"p": 2}}}, "prune.options does not fit Taylor"),
        ({"prune": {"criterion": "own_methods:Ones"}}, "expected a Criterion"),
        ({"prune": {"criterion": "Normalized"}}, "give that as its option `criterion`"),
        ({"prune": {"criterion": "LAMP", "options": {"criterion": "tailor"}}}, "no such criterion: 'tailor'"),
    ],
)
def test_what_is_no_method_is_refused(mine, tmp_path, content, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        carry_out(parse_config(content), DIGITS, tmp_path / "run")


def test_only_images_are_trained_on(tmp_path):
    text = Text("letters", torch.zeros(9, dtype=torch.int64), torch.zeros(9, dtype=torch.int64), "a")
    with pytest.raises(ConfigError, match="'letters' are no images, but a Text"):
        carry_out(FIXED.model_copy(update={"data": "letters"}), text, tmp_path)
