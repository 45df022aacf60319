"""A run that is killed at any step and resumed equals the uninterrupted one bit for bit."""

import copy
import json
from functools import cache

import pytest
import torch
from torch import nn

from meristem.axes import trace
from meristem.edit import extra_of, load, save
from meristem.errors import CheckpointError
from meristem.grow import Net2Wider, ZeroFanOut
from meristem.plasticity import Plasticity
from meristem.plasticity.pending import Pending
from meristem.plasticity.state import State
from meristem.prune import Gone, Magnitude, Protect, Random
from meristem.schedule import At, Below, Demand, Every, OnPlateau, Rate
from tests.plasticity.models import build

STEPS = 13
OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
}


class Run:
    """A training run with dropout, growth on plateau and in periods, and pruning with protection."""

    def __init__(self, kind: str, name: str) -> None:
        model, self.x = build(name, dtype=torch.float32)
        self.model = nn.Sequential(model, nn.Dropout(0.2))
        torch.manual_seed(11)
        self.optimizer = OPTIMIZERS[kind](self.model.parameters())
        self.kind = kind
        self.plasticity = self.controller(self.x)
        self.losses: list[float] = []
        self.events: list[str] = []

    def controller(self, example) -> Plasticity:
        return Plasticity(
            self.model,
            self.optimizer,
            example,
            grow=Net2Wider() if self.kind == "sgd" else ZeroFanOut(),
            prune=Protect(Random() if self.kind == "sgd" else Magnitude(1), age=3),
            schedule=Every(3, prune=0.3, grow=4) | OnPlateau(patience=1, window=2, threshold=0.5, cooldown=1, grow=3),
            axes=lambda axis: axis.exact,
            seed=5,
        )

    def train(self, steps: int) -> "Run":
        for _ in range(steps):
            loss = self.model(torch.randn_like(self.x)).pow(2).mean()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            event = self.plasticity.step(loss)
            self.losses.append(loss.item())
            self.events += [] if event is None else [str(event)]
        return self

    def checkpoint(self):
        return copy.deepcopy(
            (
                json.dumps(self.plasticity.state_dict()),
                self.model.state_dict(),
                self.optimizer.state_dict(),
                torch.get_rng_state(),
                self.losses,
                self.events,
            )
        )

    def restore(self, saved) -> "Run":
        plasticity, model, optimizer, random, self.losses, self.events = copy.deepcopy(saved)
        self.plasticity.load_state_dict(json.loads(plasticity))
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        torch.set_rng_state(random)
        return self


@cache
def uninterrupted(kind: str, name: str):
    run = Run(kind, name).train(STEPS)
    assert len(run.events) >= 4
    return run


@pytest.mark.parametrize("name", ["mlp", "attention"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("killed", [0, 1, 3, 4, 6, 8, 9, 12, 13])
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one(kind, name, killed):
    whole = uninterrupted(kind, name)
    saved = Run(kind, name).train(killed).checkpoint()
    torch.rand(3)
    resumed = Run(kind, name).restore(saved).train(STEPS - killed)
    assert resumed.losses == whole.losses
    assert resumed.events == whole.events
    assert resumed.plasticity.state_dict() == whole.plasticity.state_dict()
    assert resumed.plasticity.axes.axes == whole.plasticity.axes.axes
    for found, expected in (
        (resumed.model.state_dict(), whole.model.state_dict()),
        (resumed.optimizer.state_dict(), whole.optimizer.state_dict()),
        (resumed.plasticity.ages, whole.plasticity.ages),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_run_may_be_killed_twice():
    whole = uninterrupted("adamw", "mlp")
    saved = Run("adamw", "mlp").train(4).checkpoint()
    saved = Run("adamw", "mlp").restore(saved).train(5).checkpoint()
    resumed = Run("adamw", "mlp").restore(saved).train(STEPS - 9)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_a_choice_that_depends_on_sizes_is_that_of_the_saved_run():
    def controller(model, optimizer, example):
        return Plasticity(
            model, optimizer, example, grow=ZeroFanOut(), schedule=Every(1, grow=4), axes=lambda axis: axis.size < 12
        )

    model, x = build("mlp")
    optimizer = torch.optim.SGD(model.parameters())
    first = controller(model, optimizer, x)
    for _ in range(2):
        first.step()
    assert [axis.size for axis in first.axes.editable] == [14, 11]
    second = controller(model, optimizer, trace(model, x, history=first.history))
    second.load_state_dict(first.state_dict())
    event = second.step()
    assert event is not None
    assert event.births == {"0": 2, "3": 2}


def test_loading_a_beginning_of_the_same_history_goes_on_from_there():
    saved = Run("sgd", "mlp").train(9).checkpoint()
    run = Run("sgd", "mlp").train(4).restore(saved)
    other = Run("sgd", "mlp").restore(saved)
    torch.testing.assert_close(
        run.train(3).model.state_dict(), other.train(0).restore(saved).train(3).model.state_dict()
    )


def test_a_run_goes_on_from_one_file_without_pickle(tmp_path):
    whole = uninterrupted("adamw", "mlp")
    run = Run("adamw", "mlp").train(8)
    save(tmp_path / "run.safetensors", run.plasticity.axes, run.optimizer, extra=run.plasticity.state_dict())
    random = torch.get_rng_state()

    resumed = Run("adamw", "mlp")
    axes = load(tmp_path / "run.safetensors", resumed.model, resumed.x, optimizers=resumed.optimizer)
    resumed.plasticity = resumed.controller(axes)
    resumed.plasticity.load_state_dict(extra_of(tmp_path / "run.safetensors"))
    torch.set_rng_state(random)
    resumed.train(STEPS - 8)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.optimizer.state_dict(), whole.optimizer.state_dict(), rtol=0, atol=0)
    assert resumed.plasticity.state_dict() == whole.plasticity.state_dict()


def test_a_state_with_a_diverged_loss_is_json(tmp_path):
    model, x = build("mlp")
    optimizer = torch.optim.SGD(model.parameters())
    schedule = OnPlateau(window=5, grow=1)
    plasticity = Plasticity(model, optimizer, x, grow=ZeroFanOut(), schedule=schedule)
    plasticity.step(torch.tensor(float("inf")))
    saved = json.loads(json.dumps(plasticity.state_dict(), allow_nan=False))
    other = Plasticity(model, optimizer, plasticity.axes, grow=ZeroFanOut(), schedule=schedule)
    other.load_state_dict(saved)
    assert other.state_dict() == plasticity.state_dict()
    other.step(torch.tensor(1.0))
    assert other.state_dict()["schedule"]["sum"] == "inf"


@pytest.mark.parametrize("amount", [3, 0.5, {"a": 3}, Below(0), Below(-1.5), Rate(1), Rate(0.25), Gone(0.0), Gone(0.5)])
def test_a_demand_that_waits_is_the_same_after_json(amount):
    """Also if its number is a whole one."""
    state = State(
        step=4, seed=0, axes=(), history=(), births={}, schedule={}, pending=Pending(5, (Demand("prune", amount),))
    )
    again = State.parse(json.loads(json.dumps(state.plain())), {})
    assert again == state
    assert type(again.pending.demands[0].amount) is type(amount)


def test_copies_of_the_model_follow_the_replay():
    def controller():
        model, x = build("mlp")
        average = copy.deepcopy(model)
        optimizer = torch.optim.SGD(model.parameters())
        plasticity = Plasticity(model, optimizer, x, grow=ZeroFanOut(), schedule=At(1, grow=4), follow=[average])
        return average, plasticity

    first_average, first = controller()
    first.step()
    average, second = controller()
    second.load_state_dict(first.state_dict())
    assert average[0].weight.shape == first_average[0].weight.shape == (12, 6)


def test_a_model_with_other_edits_is_refused():
    saved = Run("sgd", "mlp").train(4).plasticity.state_dict()
    other = Run("adamw", "mlp").train(4)
    before = copy.deepcopy(other.model.state_dict())
    with pytest.raises(CheckpointError, match="freshly built model"):
        other.plasticity.load_state_dict(saved)
    torch.testing.assert_close(other.model.state_dict(), before, rtol=0, atol=0)


def test_another_model_is_refused():
    saved = Run("sgd", "mlp").train(4).plasticity.state_dict()
    with pytest.raises(CheckpointError, match="another model"):
        Run("sgd", "attention").plasticity.load_state_dict(saved)


def test_another_schedule_is_refused():
    def controller(schedule):
        model, x = build("mlp")
        return Plasticity(model, torch.optim.SGD(model.parameters()), x, grow=ZeroFanOut(), schedule=schedule)

    saved = controller(OnPlateau(grow=1)).state_dict()
    with pytest.raises(CheckpointError, match="another schedule"):
        controller(Every(3, grow=1)).load_state_dict(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"step": None},
        {"history": 3},
        {"births": [1]},
        {"births": {"0.0": ["x"]}},
        {"axes": ["nowhere"]},
        {"schedule": 3},
    ],
)
def test_a_malformed_state_is_refused(change):
    run = Run("sgd", "mlp")
    with pytest.raises(CheckpointError):
        run.plasticity.load_state_dict({**run.plasticity.state_dict(), **change})
    with pytest.raises(CheckpointError):
        run.plasticity.load_state_dict({})
