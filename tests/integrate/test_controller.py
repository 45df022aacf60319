"""Integrators in a Plasticity: several at once, through many edits, and across an interruption."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn, optim

import meristem
from meristem.errors import ConfigError, EditError
from meristem.grow import Paired, ZeroFanOut
from meristem.integrate import (
    DonorMoments,
    IncumbentMean,
    OpenGate,
    RateAdaptation,
    Reset,
    RunningStatistics,
    StepCounts,
    TwoSpeed,
    WarmUp,
    Zeros,
)
from meristem.integrate.last_batch import LastBatch
from meristem.prune import Magnitude
from meristem.schedule import At, Every
from tests.edit.models import subject

from .runs import mlp

MANY: tuple[Any, ...] = (StepCounts(), WarmUp(7), TwoSpeed(2, 3), RunningStatistics(tolerance=1e-9), OpenGate(steps=6))
SCHEDULE = Every(4, grow=2, end=20) | Every(5, prune=1, end=20)


class Training:
    """A model in training under a controller."""

    def __init__(self, *integrate: Any, schedule: Any = SCHEDULE, make: Any = optim.AdamW, grow: Any = None) -> None:
        self.model: Any = mlp(norm=True)
        self.optimizer = make(self.model.parameters(), lr=0.01)
        self.plasticity = self.controlled(self.model, self.optimizer, integrate, schedule, grow)

    @staticmethod
    def controlled(model: Any, optimizer: Any, integrate: Any, schedule: Any, grow: Any, example: Any = None) -> Any:
        example = torch.ones(7, 6, dtype=torch.float64) if example is None else example
        return meristem.Plasticity(
            model,
            optimizer,
            example,
            grow=ZeroFanOut() if grow is None else grow,
            prune=Magnitude(),
            schedule=schedule,
            integrate=list(integrate),
        )

    def run(self, steps: int, first: int) -> None:
        for step in range(first, first + steps):
            x = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
            self.model(x).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.plasticity.step()

    @property
    def hooks(self) -> int:
        return len(self.optimizer._optimizer_step_pre_hooks) + len(self.optimizer._optimizer_step_post_hooks)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("interrupted", [6, 8, 13])
def test_a_resumed_run_equals_the_uninterrupted_one(interrupted):
    whole, half, resumed = (Training(*MANY, grow=Paired()) for _ in range(3))
    whole.run(25, 0)
    half.run(interrupted, 0)
    saved = json.loads(json.dumps(half.plasticity.state_dict()))
    resumed.plasticity.load_state_dict(saved)
    resumed.model.load_state_dict(copy.deepcopy(half.model.state_dict()))
    resumed.optimizer.load_state_dict(copy.deepcopy(half.optimizer.state_dict()))
    resumed.run(25 - interrupted, interrupted)
    assert same(whole.model, resumed.model)


def test_a_run_resumes_from_one_file(tmp_path):
    whole, half = Training(*MANY, grow=Paired()), Training(*MANY, grow=Paired())
    whole.run(16, 0)
    half.run(9, 0)
    path = tmp_path / "run.safetensors"
    meristem.save(path, half.plasticity.axes, half.optimizer, extra=half.plasticity.state_dict())
    resumed = Training(*MANY)
    resumed.model = mlp(norm=True)
    resumed.optimizer = optim.AdamW(resumed.model.parameters(), lr=0.01)
    axes = meristem.load(path, resumed.model, torch.ones(7, 6, dtype=torch.float64), optimizers=resumed.optimizer)
    resumed.plasticity = Training.controlled(resumed.model, resumed.optimizer, MANY, SCHEDULE, Paired(), axes)
    resumed.plasticity.load_state_dict(meristem.edit.extra_of(path))
    resumed.run(7, 9)
    assert same(whole.model, resumed.model)


@pytest.mark.parametrize(
    "integrate",
    [
        *((one,) for one in MANY),
        (Zeros(),),
        (IncumbentMean(), WarmUp()),
        (DonorMoments(), RunningStatistics()),
        (Reset(), OpenGate()),
        (RateAdaptation(), StepCounts()),
        MANY,
    ],
    ids=lambda integrate: "+".join(type(one).__name__ for one in integrate),
)
@pytest.mark.parametrize("make", [optim.Adam, optim.SGD], ids=lambda make: make.__name__)
def test_every_combination_trains_through_births_and_deaths(integrate, make):
    training = Training(*integrate, make=make)
    training.run(24, 0)
    assert all(bool(tensor.isfinite().all()) for tensor in training.model.state_dict().values())
    assert len(training.plasticity.history) > 4
    training.model.eval()
    hooks = [h for m in training.model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert all(isinstance(hook, LastBatch) for hook in hooks)
    assert len(hooks) == any(isinstance(one, RunningStatistics) for one in integrate)


def test_hooks_come_with_the_first_birth_and_go_with_the_last_window():
    training = Training(WarmUp(3), OpenGate(steps=4), schedule=At([3, 5], grow=2))
    found = []
    for step in range(11):
        training.run(1, step)
        found.append(training.hooks)
    assert found == [0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0]


def test_growth_is_as_exact_as_without_them():
    model = mlp(norm=True).eval()
    x = torch.randn(7, 6, dtype=torch.float64)
    before = model(x)
    optimizer = optim.Adam(model.parameters())
    plasticity = meristem.Plasticity(
        model, optimizer, x, grow=ZeroFanOut(), schedule=At(1, grow=4), integrate=list(MANY)
    )
    plasticity.step()
    assert torch.allclose(model(x), before, rtol=0, atol=1e-12)


def test_what_cannot_be_done_is_refused_at_once():
    with pytest.raises(ConfigError, match="StepCounts under NAdam"):
        Training(StepCounts(), make=optim.NAdam)
    with pytest.raises(ConfigError, match="more than once"):
        Training(StepCounts(), IncumbentMean())
    with pytest.raises(ConfigError, match="got 'warm up'"):
        Training("warm up")
    found = subject("grouped_query")
    optimizer = optim.SGD(found.model.parameters())
    with pytest.raises(EditError, match=r"OpenGate cannot help newborns of .* Choose axes= among"):
        meristem.Plasticity(
            found.model, optimizer, found.axes, schedule=At(1, grow=1), grow=ZeroFanOut(), integrate=OpenGate()
        )


def test_new_optimizers_are_hooked_instead_of_the_old():
    training = Training(WarmUp(50), schedule=At(2, grow=2))
    training.run(3, 0)
    assert training.hooks == 2
    old, training.optimizer = training.optimizer, optim.SGD(training.model.parameters(), lr=0.1)
    training.plasticity.optimizers = (training.optimizer,)
    assert training.hooks == 2
    assert not old._optimizer_step_pre_hooks
