"""When the controller listens, and what happens to edits whose statistics are not there yet."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import meristem
from meristem.errors import ConfigError, SignalError
from meristem.grow import TINY, Candidates, GradMax, ZeroFanOut
from meristem.schedule import At, Every, OnPlateau, Schedule


class Loop:
    """An ordinary training loop on fixed data, with plasticity."""

    def __init__(self, schedule: Schedule, grow: Any, **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)).double()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.x, self.labels = torch.randn(30, 5, dtype=torch.float64), torch.randint(3, (30,))
        self.plasticity = meristem.Plasticity(
            self.model, self.optimizer, self.x, grow=grow, schedule=schedule, **settings
        )
        self.events: dict[int, meristem.plasticity.Event] = {}

    def loss(self) -> Tensor:
        return cross_entropy(self.model(self.x), self.labels)

    def run(self, steps: int, closure: Callable[[], Tensor] | None = None) -> Loop:
        for _ in range(steps):
            loss = self.loss()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            event = self.plasticity.step(loss, closure)
            if event is not None:
                self.events[event.step] = event
        return self

    @property
    def hooks(self) -> int:
        return len(self.model._forward_hooks) + len(self.model._forward_pre_hooks)


@pytest.mark.parametrize("listen", [1, 3])
def test_announced_edits_happen_on_time(listen: int) -> None:
    loop = Loop(At([4, 9], grow=2), GradMax(), listen=listen).run(12)
    assert list(loop.events) == [4, 9]


@pytest.mark.parametrize("listen", [1, 3])
def test_the_model_is_listened_to_just_before_an_edit_and_never_else(listen: int) -> None:
    loop = Loop(At([6], grow=2), GradMax(), listen=listen)
    heard = []
    for _ in range(8):
        heard.append(loop.hooks > 0)
        loop.run(1)
    assert heard == [6 - listen <= step < 6 for step in range(8)]


def test_methods_that_need_nothing_are_not_listened_for() -> None:
    loop = Loop(At([2], grow=2), ZeroFanOut())
    assert [loop.hooks] + [loop.run(1).hooks for _ in range(3)] == [0, 0, 0, 0]


@pytest.mark.parametrize("listen", [1, 2])
def test_an_edit_on_a_plateau_waits_for_its_statistics(listen: int) -> None:
    flat = OnPlateau(patience=1, window=2, threshold=1.0, grow=2)
    plain = Loop(flat, ZeroFanOut()).run(8)
    loop = Loop(flat, GradMax(), listen=listen).run(8)
    assert min(loop.events) == min(plain.events) + listen


def test_statistics_do_not_outlive_an_edit() -> None:
    """Units are removed first; growth then waits for statistics of the net as it is."""
    schedule = At([3], grow=2, prune=1)
    loop = Loop(schedule, GradMax(), prune=meristem.prune.Magnitude(), axes=["0"]).run(6)
    assert (loop.events[3].deaths, loop.events[3].births) == ({"0": 1}, {})
    assert (loop.events[4].deaths, loop.events[4].births) == ({}, {"0": 2})


def test_an_edit_at_the_first_step() -> None:
    assert list(Loop(At([1], grow=2), TINY()).run(2).events) == [1]


@pytest.mark.parametrize("stop", [2, 3, 4, 5, 6])
def test_resuming_at_any_step_equals_the_uninterrupted_run(stop: int) -> None:
    schedule = Every(3, grow=1) | OnPlateau(patience=1, window=2, threshold=1.0, grow=1)
    whole = Loop(schedule, TINY()).run(9)
    first = Loop(schedule, TINY()).run(stop)
    saved = json.loads(json.dumps(first.plasticity.state_dict()))
    second = Loop(schedule, TINY())
    second.plasticity.load_state_dict(saved)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.run(9 - stop)
    assert second.plasticity.history == whole.plasticity.history
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_scaled_loss_gives_the_same_newborns() -> None:
    class Scaler:
        def get_scale(self) -> float:
            return 1024.0

    models = []
    for factor, scaler in ((1.0, None), (1024.0, Scaler())):
        loop = Loop(At([1], grow=2), TINY(), scaler=scaler)
        loop.optimizer.param_groups[0]["lr"] = 0.0
        (loop.loss() * factor).backward()
        loop.plasticity.step()
        models.append(loop.model.state_dict())
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-5, atol=1e-7)


def test_several_steps_are_added_up() -> None:
    """Two steps on half of the data each give the directions of one step on all of it."""
    found = []
    for batches in (1, 2):
        loop = Loop(At([2], grow=1), GradMax(), listen=batches, axes=["0"])
        loop.optimizer.param_groups[0]["lr"] = 0.0
        loop.run(1) if batches == 1 else None
        for x, labels in zip(loop.x.chunk(batches), loop.labels.chunk(batches), strict=True):
            cross_entropy(loop.model(x), labels).backward()
            loop.plasticity.step()
        found.append(loop.model[2].weight.detach()[:, -1])
    cosine = torch.nn.functional.cosine_similarity(found[0], found[1], dim=0)
    assert abs(float(cosine)) == pytest.approx(1, abs=1e-9)


def test_what_a_method_could_not_give_is_told() -> None:
    loop = Loop(At([1], grow={"0": 40}), GradMax()).run(1)
    assert loop.events[1].births["0"] < 40
    assert "of 40" in " ".join(loop.events[1].notes)
    assert "of 40" in str(loop.events[1])


def test_a_step_without_a_backward_pass_is_refused() -> None:
    loop = Loop(At([1], grow=1), TINY())
    with pytest.raises(SignalError, match="gradient was seen"):
        loop.plasticity.step()
    assert loop.hooks == 0


def test_a_method_that_evaluates_the_loss_needs_a_closure() -> None:
    loop = Loop(At([1], grow=1), Candidates())
    with pytest.raises(ConfigError, match="closure"):
        loop.run(1)
    loop = Loop(At([1], grow=1), Candidates())
    loop.run(1, loop.loss)
    assert sum(loop.events[1].births.values()) == 1


def test_listening_to_no_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="listen"):
        Loop(At([1], grow=1), TINY(), listen=0)
