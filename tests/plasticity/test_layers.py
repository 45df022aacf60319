"""The controller inserts and removes layers, and everything that it keeps lives through that."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem import depth
from meristem.diagnose import Monitor
from meristem.errors import CheckpointError, ConfigError, EditError
from meristem.grow import ZeroFanOut
from meristem.integrate import RunningStatistics, StepCounts, TwoSpeed
from meristem.mask import RigL, Sparse
from meristem.prune import ContributionUtility, Protect
from meristem.schedule import At, Every, OnConvergence, OnPlateau, Rate


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.BatchNorm1d(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    """Two stages of residual blocks, of one and of two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.first = nn.Sequential(Block(6, 4))
        self.between = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.second = nn.Sequential(Block(8, 5), Block(8, 5))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.between(self.first(self.stem(x)))))


class Loop:
    """Training with a controller; everything that a checkpoint needs."""

    def __init__(self, schedule: Any, *, sparse: bool = False, average: bool = False, **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = Net()
        self.x = torch.randn(16, 5)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.average = copy.deepcopy(self.model) if average else None
        self.sparse = Sparse(self.model, self.optimizer, RigL(density=0.5, end=40, interval=2)) if sparse else None
        self.follow = [one for one in (self.average, self.sparse) if one is not None]
        self.settings = {"deepen": depth.Silent(), "shorten": depth.Gate(), "schedule": schedule, **settings}
        self.plasticity = self.controller(self.x)
        self.losses: list[float] = []
        self.events: list[str] = []
        self.reported: dict[int, meristem.plasticity.Event] = {}

    def controller(self, example: Any) -> meristem.Plasticity:
        return meristem.Plasticity(self.model, self.optimizer, example, follow=self.follow, seed=3, **self.settings)

    def loss(self) -> Tensor:
        return (self.model(self.x) - 1).square().mean()

    def train(self, steps: int, **given: Any) -> Loop:
        for _ in range(steps):
            loss = (self.model(torch.randn_like(self.x)) - 1).square().mean()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            event = self.plasticity.step(loss, **given)
            self.losses.append(loss.item())
            if event is not None:
                self.reported[event.step] = event
                self.events.append(str(event))
            if self.average is not None:
                with torch.no_grad():
                    for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
                        mean.lerp_(now, 0.1)
        return self

    def checkpoint(self) -> Any:
        sparse = None if self.sparse is None else json.dumps(self.sparse.state_dict())
        average = None if self.average is None else self.average.state_dict()
        states = self.model.state_dict(), self.optimizer.state_dict(), average, sparse
        return copy.deepcopy(
            (json.dumps(self.plasticity.state_dict()), states, torch.get_rng_state(), self.losses, self.events)
        )

    def restore(self, saved: Any) -> Loop:
        state, (model, optimizer, average, sparse), random, self.losses, self.events = copy.deepcopy(saved)
        self.plasticity.load_state_dict(json.loads(state))
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        if self.average is not None:
            self.average.load_state_dict(average)
        if self.sparse is not None:
            self.sparse.load_state_dict(json.loads(sparse))
        torch.set_rng_state(random)
        return self

    def equals(self, other: Loop) -> None:
        assert self.losses == other.losses
        assert self.events == other.events
        assert self.plasticity.state_dict() == other.plasticity.state_dict()
        pairs = [
            (self.model.state_dict(), other.model.state_dict()),
            (self.optimizer.state_dict(), other.optimizer.state_dict()),
            (dict(self.plasticity.ages), dict(other.plasticity.ages)),
        ]
        if self.average is not None and other.average is not None:
            pairs.append((self.average.state_dict(), other.average.state_dict()))
        if self.sparse is not None and other.sparse is not None:
            assert self.sparse.state_dict() == other.sparse.state_dict()
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def everything() -> Loop:
    """Units and layers are born and die, and everything follows that can."""
    return Loop(
        Every(6, deepen=1)
        | Every(2, grow=3, prune=0.1)
        | Every(7, shorten=1)
        | Every(3, replace=Rate(0.1))
        | OnPlateau(patience=1, window=3, threshold=0.9, cooldown=1, deepen=lambda step: step % 2),
        sparse=True,
        average=True,
        grow=ZeroFanOut(),
        prune=Protect(ContributionUtility(every=2), age=3),
        integrate=[StepCounts(0.3), TwoSpeed(), RunningStatistics(0.2)],
        monitor=Monitor(every=2),
        deepen=depth.Deepen(depth.ZeroResidual(hidden=3, norm=True), at=("after first.*", "after second.*")),
    )


STEPS = 17


KILLED = (3, 6, 7, 13)


@cache
def uninterrupted() -> tuple[Loop, dict[int, Any]]:
    loop, saved = everything(), {}
    for step in range(1, STEPS + 1):
        loop.train(1)
        saved[step] = loop.checkpoint() if step in KILLED else None
    assert sum(bool(event.inserted) for event in loop.reported.values()) >= 2
    assert sum(bool(event.removed) for event in loop.reported.values()) >= 1
    return loop, saved


@pytest.mark.heavy
@pytest.mark.parametrize("killed", KILLED)
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one(killed: int) -> None:
    whole, saved = uninterrupted()
    torch.rand(3)
    everything().restore(saved[killed]).train(STEPS - killed).equals(whole)


@pytest.mark.heavy
def test_a_run_with_layers_goes_on_from_one_file_without_pickle(tmp_path: Any) -> None:
    def made() -> Loop:
        return Loop(
            Every(4, deepen=1) | Every(3, grow=2) | Every(5, shorten=1), grow=ZeroFanOut(), monitor=Monitor(every=2)
        )

    whole, run = made().train(11), made().train(8)
    path = tmp_path / "run.safetensors"
    meristem.save(path, run.plasticity.axes, run.optimizer, extra=run.plasticity.state_dict())
    random = torch.get_rng_state()
    resumed = made()
    axes = meristem.load(path, resumed.model, resumed.x, optimizers=resumed.optimizer)
    resumed.plasticity = resumed.controller(axes)
    resumed.plasticity.load_state_dict(meristem.edit.extra_of(path))
    torch.set_rng_state(random)
    resumed.train(3)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.optimizer.state_dict(), whole.optimizer.state_dict(), rtol=0, atol=0)
    assert resumed.plasticity.state_dict() == whole.plasticity.state_dict()


def test_layers_are_inserted_when_the_loss_stalls() -> None:
    """On a plateau, and by the convergent driver of AutoGrow."""
    loop = Loop(OnPlateau(patience=1, window=2, threshold=1.0, deepen=1).until(steps=9))
    loop.train(9)
    first, second = loop.reported.values()
    assert first.inserted == ("first.1",)  # the stage with the fewest blocks
    assert second.inserted == ("first.2",)  # the earlier one of two with as many
    assert first.parameters[1] > first.parameters[0]
    assert (first.births, first.deaths, first.removed) == ({}, {}, ())
    assert "layers born: first.1" in str(first)
    assert len(loop.model.first) == 3
    loop = Loop(OnConvergence(interval=2, threshold=10.0, deepen=1)).train(9)
    assert [event.inserted for event in loop.reported.values()] == [("first.1",)]  # then it did not help: never again


def test_what_is_inserted_is_trained_and_preserves_the_function() -> None:
    loop = Loop(At(3, deepen=2)).train(2)
    loop.model.eval()
    reference = copy.deepcopy(loop.model)
    loop.plasticity.step()
    torch.testing.assert_close(loop.model(loop.x), reference(loop.x))
    held = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in loop.model.parameters()}
    born = loop.model.first[1]
    before = copy.deepcopy(born.state_dict())
    loop.model.train()
    loop.train(2)
    assert all(not torch.equal(before[name], p) for name, p in born.named_parameters())


def test_ages_and_chosen_axes_follow_the_names() -> None:
    deepen = depth.Deepen(depth.Silent(), at="second.0")
    loop = Loop(
        At(2, grow={"second.1.up": 2}) | At(4, deepen=1) | At(6, grow={"second.2.up": 1, "second.1.up": 1}),
        grow=ZeroFanOut(),
        deepen=deepen,
        axes="second.*.up",
    ).train(7)
    ages, oldest = loop.plasticity.ages, torch.iinfo(torch.int64).max
    assert ages["second.2.up"].tolist() == [oldest] * 5 + [5, 5, 1]  # it was called second.1.up
    assert ages["second.1.up"].tolist() == [3] * 5 + [1]  # born with its layer
    assert set(loop.plasticity.state_dict()["axes"]) == {"second.0.up", "second.1.up", "second.2.up"}


def test_axes_that_were_not_chosen_stay_out_and_those_that_vanish_leave() -> None:
    loop = Loop(
        At(2, deepen=1) | At(4, shorten=1), axes="first.0.up", shorten=depth.Shorten(depth.Gate(), at="first.0")
    )
    loop.train(3)
    assert loop.plasticity.state_dict()["axes"] == ["first.0.up"]
    loop.train(2)
    assert loop.reported[4].removed == ("first.0",)
    assert loop.plasticity.state_dict()["axes"] == []
    loop.train(2)


def test_the_weakest_block_goes_and_one_of_each_run_stays() -> None:
    loop = Loop(Every(2, shorten=1))
    with torch.no_grad():
        for parameter in loop.model.second[1].down.parameters():
            parameter.mul_(1e-3)
    loop.train(6)
    assert {step: event.removed for step, event in loop.reported.items()} == {2: ("second.1",)}
    assert "layers gone: second.1" in str(loop.reported[2])


def test_a_budget_bounds_layers() -> None:
    second = {"deepen": depth.Deepen(depth.Silent(), at="second*")}
    bound = Loop(At(1, deepen=3), **second).train(1).reported[1].parameters[1] - 1
    loop = Loop(At(1, deepen=3).until(parameters=bound), **second).train(1)
    assert loop.reported[1].inserted == ("second.2", "second.3")
    assert loop.plasticity.axes.parameter_count() <= bound
    units = sum(axis.size for axis in loop.plasticity.axes.editable)
    assert not Loop(At(1, deepen=1).until(units=units - 6), **second).train(1).reported
    assert Loop(At(1, deepen=1).until(units=units - 5), **second).train(1).reported
    assert not Loop(At(1, shorten=1).until(flops=1e9)).train(1).reported
    moving = Loop(Every(1, deepen=1).until(parameters=lambda step: bound if step == 2 else 1)).train(3)
    assert list(moving.reported) == [2]


def test_what_needs_the_loss_says_so_and_gets_it() -> None:
    by_gain = depth.Deepen(depth.Silent(), choose=depth.ByGain())
    for settings in ({"deepen": by_gain}, {"shorten": depth.BranchTaylor()}):
        loop = Loop(At(1, **dict.fromkeys(settings, 1)), **settings)
        with pytest.raises(ConfigError, match="closure"):
            loop.train(1)
        loop = Loop(At(1, **dict.fromkeys(settings, 1)), **settings)
        buffers = {name: buffer.clone() for name, buffer in loop.model.named_buffers()}
        event = loop.plasticity.step(None, loop.loss)
        assert event is not None
        kept = [name for name in buffers if name in dict(loop.model.named_buffers())]
        assert all(torch.equal(buffers[name], loop.model.get_buffer(name)) for name in kept if "first" in name)


def test_impossible_wishes_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"Plasticity\(\.\.\., deepen="):
        Loop(At(1, deepen=1), deepen=None)
    with pytest.raises(EditError, match="no block to copy at 'third"):
        Loop(At(1, deepen=1), deepen=depth.Deepen(depth.Silent(), at="third*"))
    with pytest.raises(EditError, match=r"matches no module that could be removed; possible are: second\.0, second\.1"):
        Loop(At(1, shorten=1), shorten=depth.Shorten(depth.Gate(), at="third"))
    for wrong in ({"deepen": 0.5}, {"shorten": -1}, {"deepen": {"first": 1}}, {"exchange": 1.5}, {"exchange": "all"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            At(1, **wrong)


def test_a_failed_edit_of_layers_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(At(3, deepen=1), average=True, monitor=Monitor(every=2)).train(2)
    state, names = loop.checkpoint(), [name for name, _ in loop.model.named_modules()]
    monkeypatch.setattr("meristem.edit.edit.traced_again", lambda *_: (_ for _ in ()).throw(MemoryError("injected")))
    with pytest.raises(MemoryError):
        loop.plasticity.step()
    assert [name for name, _ in loop.model.named_modules()] == names
    torch.testing.assert_close(loop.model.state_dict(), state[1][0], rtol=0, atol=0)
    assert loop.plasticity.history == ()


def test_a_state_of_another_model_is_refused_before_anything_is_edited() -> None:
    saved = Loop(At(1, deepen=1)).train(1).plasticity.state_dict()
    other = Loop(At(1, deepen=1))
    del other.model.first[0]
    other.model.first.append(nn.Identity())
    fresh = meristem.Plasticity(other.model, other.optimizer, other.x, deepen=depth.Silent(), schedule=At(1, deepen=1))
    before = [name for name, _ in other.model.named_modules()]
    with pytest.raises(CheckpointError, match=r"no axis 'first\.0\.up'"):
        fresh.load_state_dict(saved)
    assert [name for name, _ in other.model.named_modules()] == before


def test_the_monitor_sees_layers_come_and_go() -> None:
    monitor = Monitor(every=1)
    loop = Loop(At(2, deepen=1) | At(5, shorten=1), shorten=depth.Shorten(depth.Gate(), at="first.0"), monitor=monitor)
    loop.train(4)
    cohort = monitor.records[-1].axes["first.1.up"]
    assert [(c.born, c.units) for c in cohort.cohorts] == [(2, 4)]
    loop.train(3)
    assert "first.1.up" not in monitor.records[-1].axes  # it is called first.0.up now
    assert [(c.born, c.units) for c in monitor.records[-1].axes["first.0.up"].cohorts] == [(2, 4)]
    assert [(death.axis, death.step) for death in monitor.deaths] == [("first.0.up", 5)] * 4
