"""The environments of Gymnasium, and what an agent remembers of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meristem.errors import ConfigError


def environment(name: str) -> Any:
    """An environment with vectors as observations and numbered actions.

    Raises:
        ConfigError: Gymnasium is not installed, or observations or actions are of another kind.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise ConfigError("this needs Gymnasium, which is not installed: pip install 'meristem[rl]'") from error
    made = gymnasium.make(name, disable_env_checker=True)
    if not hasattr(made.action_space, "n") or len(made.observation_space.shape or ()) != 1:
        raise ConfigError(
            f"{name} should have vectors as observations and numbered actions; it has {made.observation_space} and "
            f"{made.action_space}"
        )
    return made


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions: `observations` and `following` are (n, features), the others (n,). `ended` is 1 where the episode
    ended by itself, and 0 where it went on or ran out of time."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    following: Tensor
    ended: Tensor


class Replay:
    """The last transitions, up to a capacity.

    Args:
        capacity: how many.
        features: of an observation.
    """

    def __init__(self, capacity: int, features: int) -> None:
        self._observations, self._following = (np.zeros((capacity, features), np.float32) for _ in range(2))
        self._rewards, self._ended = (np.zeros(capacity, np.float32) for _ in range(2))
        self._actions = np.zeros(capacity, np.int64)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, len(self._actions))

    def add(self, observation: np.ndarray, action: int, reward: float, following: np.ndarray, ended: bool) -> None:
        """One more; the oldest goes if it is full."""
        place = self._added % len(self._actions)
        self._observations[place], self._following[place] = observation, following
        self._actions[place], self._rewards[place], self._ended[place] = action, reward, ended
        self._added += 1

    def sample(self, count: int, draw: np.random.Generator) -> Batch:
        """Drawn with replacement."""
        chosen = draw.integers(len(self), size=count)
        fields = (self._observations, self._actions, self._rewards, self._following, self._ended)
        return Batch(*(torch.from_numpy(field[chosen]) for field in fields))


class Explorers:
    """Several environments side by side that go on and on, into one memory.

    Args:
        worlds: the environments.
        memory: where transitions go.
        repeat: every action is taken so many times in a row.
        seed: of the first episode of the first one; the others have the seeds after it.
    """

    def __init__(self, worlds: Sequence[Any], memory: Replay, repeat: int, seed: int) -> None:
        self._worlds, self._memory, self._repeat = worlds, memory, repeat
        self._now = [world.reset(seed=seed + k)[0] for k, world in enumerate(worlds)]

    def step(self, values: Callable[[Tensor], Tensor], random: float, draw: np.random.Generator) -> None:
        """One action in each: the one of the highest value, or with a probability `random` any.

        Args:
            values: from observations (n, features) to values (n, actions).
            random: the probability.
            draw: decides.
        """
        actions = _actions(values, self._now, random, draw)
        for k, (world, action) in enumerate(zip(self._worlds, actions, strict=True)):
            following, reward, ended, late = _taken(world, action, self._repeat)
            self._memory.add(self._now[k], action, reward, following, ended)
            self._now[k] = world.reset()[0] if ended or late else following


def mean_return(
    name: str, values: Callable[[Tensor], Tensor], random: float, repeat: int, episodes: int, seed: int
) -> float:
    """The undiscounted return, averaged over episodes.

    Args:
        name: of the environment.
        values: from observations (n, features) to values (n, actions); the action of the highest value is taken,
        random: or with this probability any.
        repeat: every action is taken so many times in a row.
        episodes: how many; they are played side by side.
        seed: of the first one's beginning and of what is random; the others begin with the seeds after it.
    """
    draw = np.random.default_rng(seed)
    worlds = [environment(name) for _ in range(episodes)]
    now = {k: world.reset(seed=seed + k)[0] for k, world in enumerate(worlds)}
    total = 0.0
    while now:
        for k, action in zip(list(now), _actions(values, list(now.values()), random, draw), strict=True):
            now[k], reward, ended, late = _taken(worlds[k], action, repeat)
            total += reward
            if ended or late:
                del now[k]
    return total / episodes


def _actions(
    values: Callable[[Tensor], Tensor], seen: Sequence[np.ndarray], random: float, draw: np.random.Generator
) -> list[int]:
    """For each observation the action of the highest value, or with a probability any."""
    with torch.no_grad():
        found = values(torch.from_numpy(np.stack(seen))).numpy()
    anything = draw.integers(found.shape[1], size=len(found))
    return np.where(draw.random(len(found)) < random, anything, found.argmax(1)).tolist()


def _taken(world: Any, action: int, repeat: int) -> tuple[np.ndarray, float, bool, bool]:
    """An action, taken several times in a row unless the episode ends: what is seen then, the sum of the rewards,
    whether the episode ended by itself, and whether it ran out of time."""
    total = 0.0
    for _ in range(repeat):
        following, reward, ended, late, _ = world.step(action)
        total += float(reward)
        if ended or late:
            break
    return following, total, ended, late
