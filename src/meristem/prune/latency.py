"""How long a model takes on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from meristem.errors import ConfigError


def latency(
    model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None, *, runs: int = 20, warm_up: int = 3
) -> float:
    """The median time of a forward pass, in seconds, in eval mode and without gradients, on the device of the input.

    Args:
        model: the model; afterwards its modules are in the modes in which they were.
        args, kwargs: what it is called with, as for `meristem.trace`.
        runs: how many passes are timed.
        warm_up: how many go before them.

    Raises:
        ConfigError: `runs` is not positive, or `warm_up` negative.
    """
    times = _times((model,), args, kwargs, runs, warm_up)
    return statistics.median(time for (time,) in times)


def latency_ratio(
    model: nn.Module,
    reference: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    runs: int = 20,
    warm_up: int = 3,
) -> float:
    """How long a model takes in units of what another one takes: the median ratio of passes that alternate.

        found = least_within(axes, plans, 500, lambda: latency_ratio(model, original, x), 0.5)

    Whatever else the machine does slows both down alike, so that it cancels, which it does not if the two are timed one
    after the other.

    Args:
        model, reference: the two models, such as a pruned one and a copy of it from before.
        args, kwargs, runs, warm_up: as for `latency`; both are called with the same.

    Raises:
        ConfigError: as `latency`.
    """
    times = _times((model, reference), args, kwargs, runs, warm_up)
    return statistics.median(own / other for own, other in times)


def _times(
    models: tuple[nn.Module, ...], args: Any, kwargs: Mapping[str, Any] | None, runs: int, warm_up: int
) -> list[list[float]]:
    """By run, the seconds that each of the models took in turn."""
    if runs < 1 or warm_up < 0:
        raise ConfigError(f"latency: expected runs >= 1 and warm_up >= 0, got {runs!r} and {warm_up!r}")
    if isinstance(args, Mapping):
        args, kwargs = (), {**args, **(kwargs or {})}
    args = args if isinstance(args, (tuple, list)) else (args,)
    with _in_eval_mode(models), torch.no_grad():
        times = [[_timed(model, args, kwargs or {}) for model in models] for _ in range(warm_up + runs)]
    return times[warm_up:]


def _timed(model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> float:
    _wait()
    start = time.perf_counter()
    model(*args, **kwargs)
    _wait()
    return time.perf_counter() - start


@contextmanager
def _in_eval_mode(models: tuple[nn.Module, ...]) -> Iterator[None]:
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _wait() -> None:
    """Until the accelerator has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
