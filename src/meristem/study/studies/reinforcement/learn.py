"""One run: double deep Q-learning in one environment, with a net whose width may change while it learns."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

import meristem
from meristem.diagnose import dormant_fraction
from meristem.study.studies.reinforcement.width import AnyChange, Setting
from meristem.study.studies.reinforcement.world import Batch, Explorers, Replay, environment, mean_return
from meristem.train.experiment import Experiment, Progress
from meristem.train.log import Log
from meristem.train.models import mlp
from meristem.train.record import Run, RunFolder

PROBED = 512
"""Remembered observations on which dormant units are counted."""


class Learn(Experiment):
    """A run.

    Double Q-learning (van Hasselt, Guez, Silver, arXiv 1509.06461): the net chooses the next action, its copy, which
    follows it slowly (Lillicrap et al., arXiv 1509.02971), values it.
    Epsilon-greedy actions, uniform replay, Huber's loss, Adam.

    Attributes:
        world: an environment of Gymnasium; observations must be vectors, actions numbered.
        width: of both hidden layers, at first.
        change: how it changes; None: not at all.
        updates: optimizer steps.
        lanes: environments side by side; each takes one action before every optimizer step.
        repeat: every action is taken so many times in a row, as one.
        begin: actions of each before the first optimizer step, at random.
        batch_size: transitions of an optimizer step.
        learning_rate: of Adam.
        discount: of rewards, a step.
        pace: the share of the way to the net that its copy goes after every optimizer step.
        explore: the share of the run over which random actions become fewer, down to the share `random`.
        capacity: transitions that are remembered.
        listen: optimizer steps over which statistics of an edit are added up.
        evaluations: equally far apart, the last one at the end, over `episodes` each, with the share `random` of random
            actions (Mnih et al., Nature 518, 2015), so that a net does not go in circles for ever.
    """

    data: None = None
    world: str = "CartPole-v1"
    width: int = Field(default=128, ge=2)
    change: AnyChange | None = None
    updates: int = Field(default=2000, ge=10)
    lanes: int = Field(default=4, ge=1)
    repeat: int = Field(default=1, ge=1)
    begin: int = Field(default=250, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=5e-4, gt=0)
    discount: float = Field(default=0.99, gt=0, lt=1)
    pace: float = Field(default=0.01, gt=0, le=1)
    explore: float = Field(default=0.3, gt=0, le=1)
    random: float = Field(default=0.05, ge=0, le=1)
    capacity: int = Field(default=20000, ge=1)
    listen: int = Field(default=4, ge=1)
    evaluations: int = Field(default=8, ge=1)
    episodes: int = Field(default=6, ge=1)

    def run(self, data: Any, place: RunFolder, progress: Progress) -> Run:
        """Learns. Raises `ConfigError` without Gymnasium, or for an environment of another kind; `EditError` if a
        method is not defined for the net."""
        torch.manual_seed(self.seed)
        draw = np.random.default_rng(self.seed)
        worlds = [environment(self.world) for _ in range(self.lanes)]
        shape, actions = worlds[0].observation_space.shape, int(worlds[0].action_space.n)
        model = mlp(shape, actions, [self.width, self.width])
        target = deepcopy(model)
        axes = meristem.trace(model, torch.zeros(2, *shape))
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        log = Log(place)
        setting = Setting(axes, optimizer, target, self.updates, self.listen, self.seed, log.monitor(self.updates))
        plasticity = self.change.begin(setting) if self.change else None
        due = set(self.change.due(self.updates)) if self.change else set()
        heard = {step for at in due for step in (at - self.listen + 1, at + 1)}
        looks = {round(self.updates * k / self.evaluations) for k in range(1, self.evaluations + 1)}
        memory = Replay(self.capacity, shape[0])
        explorers = Explorers(worlds, memory, self.repeat, 1000 * self.seed)
        found: dict[str, float] = {}

        for _ in range(self.begin):
            explorers.step(model, 1.0, draw)
        for step in range(1, self.updates + 1):
            with log.timing():
                explorers.step(model, self._randomness(step), draw)
                batch = memory.sample(self.batch_size, draw)
                with log.counting(self.batch_size, anew=step in heard):
                    loss = self._loss(model, target, batch)
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if plasticity:
                    with log.editing() if step in due else nullcontext():
                        event = plasticity.step(loss)
                    if event:
                        axes = plasticity.axes
                        log.changed(step, event.births, event.deaths)
                _follow(target, model, self.pace)
            log.loss(loss.item())
            if step in looks:
                seen = memory.sample(PROBED, np.random.default_rng(self.seed)).observations
                first = 1000 * self.seed + 500
                reached = mean_return(self.world, model, self.random, self.repeat, self.episodes, first)
                found = {"return": reached, "dormant": dormant(model, seen)}
                log.evaluated(step, found, axes)
            progress(step, self.updates)
        last = {f"final {name}": value for name, value in found.items()}
        return log.finish(self.seed, {**last, **{f"mean {name}": log.mean(name) for name in found}}, axes)

    def _randomness(self, step: int) -> float:
        """The share of random actions before an optimizer step."""
        return max(self.random, 1 - (1 - self.random) * step / (self.explore * self.updates))

    def _loss(self, model: nn.Module, target: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            best = model(batch.following).argmax(1, keepdim=True)
            value = target(batch.following).gather(1, best)[:, 0]
            wanted = batch.rewards + self.discount * (1 - batch.ended) * value
        return smooth_l1_loss(model(batch.observations).gather(1, batch.actions[:, None])[:, 0], wanted)


def _follow(target: nn.Module, model: nn.Module, pace: float) -> None:
    """Move a copy a share of the way to the net."""
    with torch.no_grad():
        for copied, own in zip(target.parameters(), model.parameters(), strict=True):
            copied.lerp_(own, pace)


def dormant(model: nn.Sequential, observations: Tensor, tau: float = 0.1) -> float:
    """The share of hidden units that are dormant (see `dormant_fraction`), averaged over the layers with ReLU."""
    shares: list[float] = []
    with torch.no_grad():
        for module in model:
            observations = module(observations)
            if isinstance(module, nn.ReLU):
                shares.append(dormant_fraction(observations, tau))
    return sum(shares) / len(shares)
