"""Gains that a growth method predicts, checked."""

from __future__ import annotations

import torch
from torch import Tensor

from meristem.axes.map import Axis
from meristem.errors import ConfigError, EditError
from meristem.grow.catalogue import METHODS
from meristem.grow.method import Method
from meristem.signals import View


def predicts(method: Method) -> bool:
    """Whether a method predicts the gain of its newborns at all."""
    return type(method).gains is not Method.gains


def require_gains(method: Method, asker: str) -> None:
    """Raise `ConfigError` if a method predicts no gains, naming those that do and what needs none.

    Args:
        method: the growth method.
        asker: the name of the allocator or schedule that needs the gains.
    """
    if not predicts(method):
        raise _unpredicted(method, asker)


def predicted_gains(method: Method, view: View, axis: Axis, count: int, asker: str) -> Tensor:
    """The predicted decrease of the loss for each of at most `count` newborns.

    Args:
        method: the growth method.
        view: the model today.
        axis: where they would be born.
        count: how many at most.
        asker: who asks, for messages.

    Returns:
        float64 on the CPU, descending, shape (at most count,).

    Raises:
        ConfigError: the method predicts no gains.
        EditError: what it predicts is malformed.
    """
    found = method.gains(view, axis, count)
    if found is None:
        raise _unpredicted(method, asker)
    gains = found.detach().to("cpu", torch.float64)
    if gains.dim() != 1 or len(gains) > count or bool(gains.isnan().any()):
        raise EditError(
            f"{type(method).__name__} gave gains of shape {tuple(gains.shape)} with {int(gains.isnan().sum())} NaN for "
            f"{axis.name!r}; expected at most ({count},) without NaN. If the weights of the model are NaN, training "
            "has diverged before this edit."
        )
    return gains.sort(descending=True).values


def _unpredicted(method: Method, asker: str) -> ConfigError:
    able = ", ".join(sorted({type(m).__name__ for m in METHODS if predicts(m)})) or "none yet"
    return ConfigError(
        f"{asker} needs the loss decrease that newborns are predicted to bring, which {type(method).__name__} does not "
        f"predict. Methods that do: {able}. Allocators that need none: Uniform, Proportional, also within "
        "Separately(grow=..., prune=...); schedules that need none: Every, At, OnPlateau, OnConvergence."
    )
