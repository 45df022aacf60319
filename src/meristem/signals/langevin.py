"""Metropolis-adjusted Langevin sampling of many independent chains, of which the best states are kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ACCEPTED = 0.574
"""The share of accepted moves that is best in many dimensions (Roberts, Rosenthal 1998, J. R. Stat. Soc. B 60)."""


def climbed(
    score: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    steps: int,
    temperature: float,
    deviation: float,
    generator: torch.Generator,
) -> Tensor:
    """The highest-scoring state that each chain visits; never worse than its start.

    The chains sample `exp(score / (temperature * m) - |state|^2 / (2 deviation^2))`, m the mean score at the start, by
    Langevin moves that are accepted or rejected (Roberts, Tweedie 1996, Bernoulli 2). Their step size, one for all,
    follows the share of accepted moves.

    Args:
        score: shape (chains, entries) to (chains,), chain by chain; differentiable.
        start: shape (chains, entries).
        steps: how many moves; each costs one forward and backward pass of the score.
        temperature: 0.1 means that a tenth of the mean score more makes a state e times as likely.
        deviation: of the Gaussian prior of each entry.
        generator: on the CPU.

    Returns:
        shape (chains, entries).
    """
    values, slopes = _with_gradient(score, start)
    unit = temperature * float(values.mean())
    if not unit > 0:
        return start
    states, best, highest = start, start, values
    size = start.shape[1] ** (-1 / 3)  # of a move, in deviations squared
    for step in range(steps):
        drift = _drift(states, slopes / unit, deviation)
        noise = torch.randn(start.shape, dtype=torch.float64, generator=generator).to(start)
        moved = states + deviation**2 * size / 2 * drift + deviation * size**0.5 * noise
        new, new_slopes = _with_gradient(score, moved)
        back = states - moved - deviation**2 * size / 2 * _drift(moved, new_slopes / unit, deviation)
        energy = (new - values) / unit + (states.square() - moved.square()).sum(1) / (2 * deviation**2)
        odds = energy + noise.square().sum(1) / 2 - back.square().sum(1) / (2 * deviation**2 * size)
        drawn = torch.rand(len(start), dtype=torch.float64, generator=generator).to(start)
        taken = drawn.log() < odds
        states = torch.where(taken[:, None], moved, states)
        values, slopes = torch.where(taken, new, values), torch.where(taken[:, None], new_slopes, slopes)
        best = torch.where((values > highest)[:, None], states, best)
        highest = torch.maximum(highest, values)
        size *= float(torch.exp((taken.double().mean() - ACCEPTED) / (step + 1) ** 0.5))
    return best


def on_sphere(states: Tensor, radius: float) -> Tensor:
    """States moved in or out to a norm: what is climbed for the score of these keeps to the sphere, and samples
    `exp(score / (temperature * m))` uniformly on it, because the prior of `climbed` has no preferred direction.

    Args:
        states: shape (chains, entries), none of them zero.
        radius: the norm.
    """
    return states * (radius / torch.linalg.vector_norm(states, dim=1, keepdim=True))


def _drift(states: Tensor, slopes: Tensor, deviation: float) -> Tensor:
    return slopes - states / deviation**2


def _with_gradient(score: Callable[[Tensor], Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        states = states.detach().requires_grad_()
        values = score(states)
        (slopes,) = torch.autograd.grad(values.sum(), states)
    return values.detach(), slopes
