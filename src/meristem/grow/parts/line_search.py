"""How strongly newborns should contribute: the loss itself is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, isnan

import torch

from meristem.axes.map import Axis
from meristem.edit import Change, Gather, Newborns, trial
from meristem.grow.parts.closure import evaluated
from meristem.signals import View

FACTOR = 4.0
MOST = 12
"""Up to so many evaluations of the loss: over a range of `FACTOR ** MOST`."""


def best_amplitude(view: View, axis: Axis, gather: Gather, start: Callable[[float], Newborns], most: float) -> float:
    """The amplitude with the lowest loss along `most`, `most / 4`, `most / 16`, ..., up to the first that is no better.

    Never more than `most`: on the batch that newborns were made from, more always seems better. The loss is that of the
    closure; without one, `most` is the answer.
    """
    if view.closure is None:
        return most
    return lowest_along(lambda amplitude: _loss(view, [Change(axis, gather, start(amplitude))]), most)


def lowest_along(loss: Callable[[float], float], most: float) -> float:
    """The amplitude with the lowest loss among `most`, `most / 4`, ..., up to the first that is no better."""
    best, lowest = most, loss(most)
    for _ in range(MOST):
        tried = loss(best / FACTOR)
        if not tried < lowest:
            break
        best, lowest = best / FACTOR, tried
    return best


def joint_factor(view: View, changes: Callable[[float], Sequence[Change]]) -> float:
    """The largest of 1, 1/4, 1/16, ... on all amplitudes with which the loss is not above that without newborns.

    What newborns of several axes contribute adds up, and may be too much together. Without a closure the answer is 1.
    """
    if view.closure is None:
        return 1.0
    before, factor = _loss(view, []), 1.0
    for _ in range(MOST):
        if _loss(view, changes(factor)) <= before:
            break
        factor /= FACTOR
    return factor


def _loss(view: View, changes: Sequence[Change]) -> float:
    """The loss with changes in place, always on the same batch; infinite where it is not a number."""
    with trial(view.axes, changes), torch.no_grad():
        found = float(evaluated(view, view.generator.initial_seed()))
    return inf if isnan(found) else found
