"""Which parameters are masked, and the best of many numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from torch import nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from meristem.axes.pattern import matches
from meristem.errors import ConfigError, WrappedModelError

Chosen: TypeAlias = "str | Sequence[str] | Callable[[str, nn.Parameter], bool] | None"
"""Glob patterns of names, a predicate of name and parameter, or None for every weight (see `weights_of`)."""


def weights_of(model: nn.Module, chosen: Chosen = None) -> dict[str, nn.Parameter]:
    """The parameters to mask, by their first names, in the model's order.

    By default every weight that requires a gradient. A weight is a parameter of floating point of which at least two
    dimensions and the first one are longer than 1, unless an `nn.Embedding` holds it: matrices and kernels, no biases,
    norms, tables or position embeddings. A pattern chooses the weights that it matches; one that matches no weight,
    such as `"*.bias"`, chooses what it matches.

    Raises:
        ConfigError: nothing matches, or what matches is no floating-point tensor.
        WrappedModelError: a parameter is split over devices or wraps other tensors.
    """
    named = dict(model.named_parameters())
    tables = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    weights = {name for name, p in named.items() if _is_weight(p) and id(p) not in tables}
    if chosen is None:
        found = {name: p for name, p in named.items() if name in weights and p.requires_grad}
    elif callable(chosen):
        found = {name: p for name, p in named.items() if chosen(name, p)}
    else:
        patterns = [chosen] if isinstance(chosen, str) else chosen
        names = {name for pattern in patterns for name in _matched(named, weights, pattern)}
        found = {name: p for name, p in named.items() if name in names}
    if not found:
        raise ConfigError(
            f"parameters={chosen!r} matches none of {len(named)} parameters ({', '.join(list(named)[:5])}, ...)"
        )
    for name, parameter in found.items():
        if not parameter.is_floating_point():
            raise ConfigError(f"{name} is {parameter.dtype}; only parameters of floating point can be masked")
        if is_traceable_wrapper_subclass(parameter):
            raise WrappedModelError(f"{name} is a {type(parameter).__name__}; mask the model before it is wrapped")
    return found


def held_of(parameters: Mapping[str, nn.Parameter], optimizers: Iterable[Optimizer]) -> dict[str, nn.Parameter]:
    """Those of some parameters that optimizers hold: weights that nobody trains have no masks that could change."""
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    return {name: p for name, p in parameters.items() if id(p) in held}


def _matched(named: Iterable[str], weights: set[str], pattern: str) -> list[str]:
    """The weights that a pattern matches; if there are none, all that it matches."""
    found = [name for name in named if matches(name, pattern)]
    return [name for name in found if name in weights] or found


def _is_weight(p: nn.Parameter) -> bool:
    long = sum(length > 1 for length in p.shape)
    return p.is_floating_point() and long >= 2 and p.shape[0] > 1
