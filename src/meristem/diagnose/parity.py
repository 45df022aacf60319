"""Parity: what newborns get and give, in units of what incumbents do.

Lillo, Cheney, "On the Stability of Growth in Structural Plasticity", arXiv 2605.15435: newborns are *forward-active and
backward-starved* if their activation parity is about 1 or more and their gradient parity far below 1. Since
`dL/dz_j = phi'(z_j) sum_k W_kj delta_k`, the norm of the fan-out alone explains part of that (newborns that nothing
reads have gradient parity 0), so the ratio of the norms stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, Role
from meristem.errors import ConfigError
from meristem.signals import Activity, View, unit_norms

_NEVER = torch.iinfo(torch.int64).max


def newborns(ages: Tensor, age: int | None = None) -> Tensor:
    """Which units belong to the newborn cohort; the others are incumbents.

    Args:
        ages: in optimizer steps, the largest int64 for units that no edit inserted: `Plasticity.ages[axis.name]`.
        age: the oldest that count as newborn. None: all that an edit inserted.

    Returns:
        bool, shape of `ages`.
    """
    return ages < _NEVER if age is None else ages <= min(age, _NEVER - 1)


def parity(newborn: Tensor, incumbent: Tensor) -> float:
    """`R = mean(newborn) / (mean(incumbent) + epsilon)`.

    Epsilon is the smallest normal number: it makes 0 / 0 to 0 and changes no other ratio.

    Args:
        newborn, incumbent: one number that is not negative for each unit of a cohort, neither empty.

    Raises:
        ConfigError: a cohort is empty.
    """
    if not newborn.numel() or not incumbent.numel():
        raise ConfigError(
            f"expected newborns and incumbents, got {newborn.numel()} and {incumbent.numel()}; parity compares the two"
        )
    epsilon = torch.finfo(torch.float64).tiny
    return float(newborn.double().mean()) / (float(incumbent.double().mean()) + epsilon)


def log_parity(ratio: float) -> float:
    """The natural logarithm of a parity; -inf for 0."""
    return float(torch.tensor(ratio, dtype=torch.float64).log())


@dataclass(frozen=True)
class Parity:
    """Newborns of one axis in units of its incumbents: ratios of means over the two cohorts.

    Attributes:
        newborns, incumbents: how many units there are of each.
        activation: R_act, of the share of samples and positions in which units are active.
        gradient: R_grad, of the mean size of the gradients of pre-activations.
        fan_in, fan_out: of the norms of the weights that produce and that read a unit.
        fan_in_gradient, fan_out_gradient: of the norms of their gradients.
    """

    newborns: int
    incumbents: int
    activation: float
    gradient: float
    fan_in: float
    fan_out: float
    fan_in_gradient: float
    fan_out_gradient: float

    @classmethod
    def of(cls, view: View, axis: Axis, activity: Activity, age: int | None = None) -> Parity:
        """The parity of an axis today.

            recorder = Recorder(plasticity.axes, [UnitActivity(name)])
            ...                                       # one ordinary training step up to the backward pass
            activity = recorder.finish()[UnitActivity(name)]
            view = View(plasticity.axes, ages=plasticity.ages)
            Parity.of(view, plasticity.axes.by_name[name], activity)

        Args:
            view: with the ages of units, and the weights whose norms are compared.
            axis: the axis.
            activity: what was recorded of it.
            age: the oldest that count as newborn, in optimizer steps. None: all that an edit inserted.

        Raises:
            ConfigError: there are no newborns or no incumbents, or the activity is that of another number of units.
        """
        if len(activity.gradient) != axis.size:
            raise ConfigError(
                f"{axis.name} has {axis.size} units, but the activity is that of {len(activity.gradient)}; record it "
                "after the edit"
            )
        young = newborns(view.ages.get(axis.name, torch.full((axis.size,), _NEVER)), age)

        def ratio(numbers: Tensor) -> float:
            return parity(numbers.cpu()[young], numbers.cpu()[~young])

        return cls(
            newborns=int(young.sum()),
            incumbents=int((~young).sum()),
            activation=ratio(activity.frequency),
            gradient=ratio(activity.gradient),
            fan_in=ratio(unit_norms(view, axis, Role.PRODUCES)),
            fan_out=ratio(unit_norms(view, axis, Role.READS)),
            fan_in_gradient=ratio(activity.fan_in_gradient),
            fan_out_gradient=ratio(activity.fan_out_gradient),
        )

    @property
    def log_activation(self) -> float:
        """log R_act."""
        return log_parity(self.activation)

    @property
    def log_gradient(self) -> float:
        """log R_grad."""
        return log_parity(self.gradient)
