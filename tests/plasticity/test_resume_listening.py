"""A run that is killed among several steps over which statistics are added up goes on as if it never had been."""

import copy
import importlib
import json
import pkgutil
from collections.abc import Iterator

import pytest
import torch

import meristem
from meristem.errors import CheckpointError
from meristem.grow import METHODS
from meristem.plasticity import Plasticity
from meristem.prune import CRITERIA, Compensated, Magnitude
from meristem.schedule import At
from meristem.signals import Accumulator
from meristem.signals.memory import plain, restored
from tests.plasticity.models import build

WINDOW, EDIT, STEPS = 4, 6, 8
MODEL, X = build("mlp")
AXES = meristem.trace(MODEL, X)
GROWING = {
    type(m).__name__: {"grow": m}
    for m in METHODS
    if m.undefined(AXES, AXES["3"]) is None and m.needs(AXES, AXES["3"], 2)
}
CHOSEN = (*(c for c in CRITERIA if c.undefined(AXES, AXES["3"]) is None), Compensated(Magnitude()))
PRUNING = {type(c).__name__: {"prune": c} for c in CHOSEN if c.needs(AXES, AXES["3"])}
GIVEN = {**GROWING, **PRUNING}


class Run:
    """An MLP that is edited once, after statistics of four steps."""

    def __init__(self, given, **changes) -> None:
        self.model, self.x = build("mlp", dtype=torch.float32)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        demand = {"grow": 2} if "grow" in given else {"prune": 2}
        settings = {"axes": ["3"], "listen": WINDOW, "seed": 3, **given, **changes}
        self.plasticity = Plasticity(self.model, self.optimizer, self.x, schedule=At([EDIT], **demand), **settings)

    def train(self, begin: int, end: int) -> "Run":
        for step in range(begin, end):
            torch.manual_seed(step)

            def closure():
                return self.model(torch.randn_like(self.x)).square().mean()

            loss = closure()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.plasticity.step(loss, closure)
        return self

    def checkpoint(self):
        return copy.deepcopy(
            (json.dumps(self.plasticity.state_dict()), self.model.state_dict(), self.optimizer.state_dict())
        )

    def restore(self, saved) -> "Run":
        plasticity, model, optimizer = copy.deepcopy(saved)
        self.plasticity.load_state_dict(json.loads(plasticity))
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        return self


@pytest.mark.parametrize("killed", [EDIT - WINDOW, EDIT - WINDOW + 1, EDIT - 1])
@pytest.mark.parametrize("name", GIVEN)
def test_a_run_that_is_killed_within_a_window_goes_on_bit_for_bit(name, killed):
    whole = Run(GIVEN[name]).train(0, STEPS)
    assert len(whole.plasticity.history) == 1
    saved = Run(GIVEN[name]).train(0, killed).checkpoint()
    resumed = Run(GIVEN[name]).restore(saved).train(killed, STEPS)
    assert resumed.plasticity.history == whole.plasticity.history
    for found, expected in (
        (resumed.model.state_dict(), whole.model.state_dict()),
        (resumed.optimizer.state_dict(), whole.optimizer.state_dict()),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_window_matters_so_the_test_above_can_fail():
    """Without what was added up the newborns are others."""
    saved = list(Run(GIVEN["TINY"]).train(0, EDIT - 1).checkpoint())
    state = json.loads(saved[0])
    assert state["listening"]["recording"]
    whole = Run(GIVEN["TINY"]).restore(saved).train(EDIT - 1, STEPS)
    saved[0] = json.dumps({**state, "listening": None})
    anew = Run(GIVEN["TINY"]).restore(saved).train(EDIT - 1, STEPS)
    assert not torch.equal(anew.model[3].weight, whole.model[3].weight)


def test_nothing_is_kept_between_windows_or_of_a_single_step():
    assert Run(GIVEN["TINY"]).train(0, 1).plasticity.state_dict()["listening"] is None
    assert Run(GIVEN["TINY"], listen=1).train(0, EDIT - 1).plasticity.state_dict()["listening"] is None
    assert Run(GIVEN["TINY"]).train(0, EDIT).plasticity.state_dict()["listening"] is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda recording: recording.pop("heard"),
        lambda recording: recording["heard"]["sums"].pop(),
        lambda recording: recording["heard"]["sums"][0].popitem(),
        lambda recording: recording["heard"]["sums"][0].update(basis={"tensor": ["nn", [1], "", "cpu"]}),
        lambda recording: recording["heard"]["sums"][0].update(basis={"tensor": ["float32", [9], "AAAA", "cpu"]}),
    ],
)
def test_what_is_malformed_is_refused(spoil):
    run = Run(GIVEN["TINY"]).train(0, EDIT - 2)
    state = json.loads(json.dumps(run.plasticity.state_dict()))
    spoil(state["listening"]["recording"])
    resumed = Run(GIVEN["TINY"])
    with pytest.raises(CheckpointError, match="recorded"):
        resumed.plasticity.load_state_dict(state)
    resumed.plasticity.load_state_dict({**state, "listening": None})


def accumulators(kind: type = Accumulator) -> Iterator[type]:
    for found in kind.__subclasses__():
        yield found
        yield from accumulators(found)


def test_every_accumulator_that_a_controller_records_says_what_it_keeps():
    for module in pkgutil.walk_packages(meristem.__path__, "meristem."):
        if module.name.split(".")[1] in ("signals", "grow", "prune", "ledger", "schedule"):
            importlib.import_module(module.name)
    found = [
        kind for kind in accumulators() if kind.__module__.startswith("meristem.") and not kind.__abstractmethods__
    ]
    assert len(found) > 8
    probes = {kind.__qualname__ for kind in found if kind.kept is None}
    assert probes <= {"_Kept", "_OfStep"}, "these are heard within one call or one step"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_tensors_go_through_json_bit_for_bit(dtype, shape):
    value = (torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    found = restored(json.loads(json.dumps(plain({"x": [value, None, 0.1, float("inf"), 3, True]}))))
    torch.testing.assert_close(found["x"][0], value, rtol=0, atol=0)
    assert found["x"][1:] == [None, 0.1, float("inf"), 3, True]
    assert found["x"][0].data_ptr() != value.data_ptr() or not value.numel()


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="cannot be kept"):
        plain({"x": object()})
