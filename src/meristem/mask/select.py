"""Which parameters are masked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from meristem.axes.pattern import matches
from meristem.errors import ConfigError, WrappedModelError
from meristem.mask.transformed import transformed

Chosen: TypeAlias = "str | Sequence[str] | Callable[[str, nn.Parameter], bool] | None"
"""Glob patterns of names, a predicate of name and parameter, or None for every weight (see `weights_of`)."""


def weights_of(model: nn.Module, chosen: Chosen = None) -> dict[str, nn.Parameter]:
    """The parameters to mask, by their first names, in the model's order.

    By default every weight that requires a gradient. A weight is a parameter of floating point of which at least two
    dimensions and the first one are longer than 1, unless an `nn.Embedding` holds it: matrices and kernels, no biases,
    norms, tables or position embeddings. A pattern chooses the weights that it matches; one that matches no weight,
    such as `"*.bias"`, chooses what it matches. Parameters from which the model computes its weights are among them;
    `Sparse` leaves those out, and `one_shot` refuses them.

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


def maskable(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], chosen: Chosen, example: Any = None
) -> tuple[dict[str, nn.Parameter], dict[str, str]]:
    """Those of some chosen parameters in which a zero is a zero of the model; and the others, with the reasons.

    Args:
        model: the model.
        parameters: what `weights_of` found.
        chosen: as for `weights_of`.
        example: inputs of the model, or its map, see `transformed`; or None.

    Raises:
        ConfigError: a predicate, or a pattern that matches nothing else, chooses such a parameter; or there are no
            others.
    """
    left = transformed(model, parameters, example)
    kept = {name: p for name, p in parameters.items() if name not in left}
    patterns = [chosen] if isinstance(chosen, str) else () if chosen is None or callable(chosen) else chosen
    asked = [n for p in patterns if not any(matches(k, p) for k in kept) for n in left if matches(n, p)]
    asked = list(left) if callable(chosen) or not kept else asked
    if asked:
        raise ConfigError(
            f"{asked[0]} cannot be masked: {left[asked[0]]}, so a zero in it is not simply a zero of the weight. Leave "
            "it out with `parameters=`, or make the weight a plain parameter (remove the parametrization or the hook)"
        )
    return kept, left


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
