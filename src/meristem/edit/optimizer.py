"""How an optimizer follows an edit: its groups, and its state by shape.

A state tensor shaped like its parameter is gathered like it. A factored one (`torch.optim.Adafactor`'s row and column
variances) follows along the dimensions it has, a flat one over all parameters (LBFGS) segment by segment; scalars stay.
The state of a parameter that holds anything else is dropped with a warning, and the optimizer builds it anew.
Where growth is exact, the first update of incumbents is that of the ungrown model, unless the optimizer mixes entries
in an update (Adafactor, Muon, LBFGS): newborns count in its norms and inner products.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from meristem.edit.compute import Fill, filled
from meristem.edit.indices import Along, Recipe
from meristem.edit.journal import SetAttribute, SetContents, Step
from meristem.edit.slots import Successors, object_steps
from meristem.edit.state import StatePolicy, StateSlice, is_dropped


class OptimizerStateWarning(UserWarning):
    """State of an optimizer could not follow an edit and was reset."""


POWERS: Mapping[str, int] = {
    **dict.fromkeys(("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "row_var", "col_var", "variance"), 2),
    **dict.fromkeys(("acc_delta", "step_size", "ax", "d", "old_stps"), 0),
}
"""With which power of the gradient a state grows, where it is not the first."""


def power_of(optimizer: Optimizer, key: str) -> int:
    """With which power of the gradient a state of an optimizer grows."""
    if key == "momentum_buffer" and isinstance(optimizer, torch.optim.RMSprop):
        return 0  # it holds gradients that were divided by their root mean square
    return POWERS.get(key, 1)


@dataclass(frozen=True, eq=False)
class Follow:
    """What state needs to know of one parameter: `recipe` is that of its state, see `state_recipes`."""

    name: str
    parameter: Tensor
    recipe: Recipe


class _UnknownError(Exception):
    """The state has a shape without a rule."""


def optimizer_steps(
    optimizer: Optimizer, successors: Successors, edited: Mapping[int, Follow], policy: StatePolicy
) -> tuple[list[Step], list[str]]:
    """Steps that make one optimizer follow: its groups (edited in place) and its state; and what had to be reset.

    Args:
        optimizer: any optimizer.
        successors: which parameter follows which.
        edited: what happens to each edited parameter, by its identity.
        policy: what newborns' state starts from.
    """
    steps = object_steps(optimizer, successors, skip=("state",))
    if is_dropped(policy):
        return [*steps, *_emptied(optimizer)], []
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    segments = [edited.get(id(p), Follow("", p, {})) for p in everything]
    new, resets = [], []
    for parameter, state in optimizer.state.items():
        follow = edited.get(id(parameter), Follow("", parameter, {}) if isinstance(parameter, Tensor) else None)
        if follow is None:
            new.append((parameter, state))
            continue
        rule = _Rule(optimizer, follow, segments, policy)
        try:
            new.append((successors.of(parameter), {k: rule.value(k, v) for k, v in state.items()}))
        except _UnknownError as unknown:
            resets.append(
                f"{type(optimizer).__name__} keeps {unknown} for the parameter {follow.name}, which has no rule to "
                "follow this edit; the state of that parameter is reset and will be built anew"
            )
    return [*steps, *_emptied(optimizer, new)], resets


def _emptied(optimizer: Optimizer, new: Iterable[tuple[Any, Any]] = ()) -> list[Step]:
    """Steps that put this state in place of all that the optimizer remembers."""
    steps: list[Step] = [SetContents(optimizer.state, tuple(optimizer.state.items()), tuple(new))]
    return [*steps, *length_steps(optimizer)]


def length_steps(optimizer: Optimizer) -> list[Step]:
    """Steps after which LBFGS, which remembers how many entries all parameters have, counts them again."""
    known = getattr(optimizer, "_numel_cache", None)
    return [] if known is None else [SetAttribute(optimizer, "_numel_cache", known, None)]


@dataclass(frozen=True, eq=False)
class _Rule:
    """The shape rule for the state of one parameter."""

    optimizer: Optimizer
    follow: Follow
    segments: list[Follow]
    policy: StatePolicy

    def value(self, key: str, value: Any) -> Any:
        """The new value of one entry of the state; lists, tuples and dicts entry by entry."""
        if isinstance(value, Tensor):
            return self._tensor(key, value)
        if isinstance(value, (list, tuple)):
            return type(value)([self.value(key, entry) for entry in value])
        if isinstance(value, dict):
            return {k: self.value(key, entry) for k, entry in value.items()}
        return value

    def _tensor(self, key: str, state: Tensor) -> Tensor:
        if state.dim() == 0:
            return state
        recipe = state_recipe(key, tuple(state.shape), tuple(self.follow.parameter.shape), self.follow.recipe)
        if recipe is not None:
            return self._gathered(key, state, self.follow, recipe)
        lengths = [segment.parameter.numel() for segment in self.segments]
        if tuple(state.shape) == (sum(lengths),):
            return self._flat(key, state, lengths)
        if state.numel() == 1 or not self.follow.recipe:
            return state
        raise _UnknownError(f"{key!r} of shape {tuple(state.shape)}")

    def _flat(self, key: str, state: Tensor, lengths: list[int]) -> Tensor:
        if not any(segment.recipe for segment in self.segments):
            return state
        pieces = [
            self._gathered(key, piece.view(segment.parameter.shape), segment, segment.recipe).reshape(-1)
            for piece, segment in zip(state.split(lengths), self.segments, strict=True)
        ]
        return torch.cat(pieces)

    def _gathered(self, key: str, state: Tensor, follow: Follow, recipe: Recipe) -> Tensor:
        power = power_of(self.optimizer, key)
        factors = {d: a.gradient**power for d, a in recipe.items() if a.gradient is not None and power}
        return filled(state, recipe, factors, self._fill(key, follow.name, state, recipe))

    def _fill(self, key: str, name: str, old: Tensor, recipe: Recipe) -> Fill:
        def fill(dim: int, along: Along, shape: tuple[int, ...]) -> Tensor:
            s = StateSlice(
                self.optimizer,
                key,
                name,
                dim,
                old,
                shape,
                along.index,
                POWERS.get(key, 1),
                {d: other.index for d, other in recipe.items() if d != dim},
            )
            return self.policy.values(s)

        return fill


def state_recipe(key: str, state: tuple[int, ...], parameter: tuple[int, ...], recipe: Recipe) -> Recipe | None:
    """How state of one shape follows a parameter of another: `None` if no rule or several different ones fit.

    State may lack some of the parameter's dimensions, as reductions with or without `keepdim` leave it. Where a shape
    fits several ways, names that say "row" (the last dimension is reduced) or "col" (the last but one) decide.
    """
    fitting = list(_fitting(state, parameter))
    named = _named_reduction(key, len(parameter))
    if named is not None and any(reduced == named for reduced, _ in fitting):
        fitting = [fit for fit in fitting if fit[0] == named]
    elif state == parameter:
        return recipe
    ways = [{places[d]: along for d, along in recipe.items() if d in places} for _, places in fitting]
    same = [way for way in ways if {d: id(a) for d, a in way.items()} == {d: id(a) for d, a in ways[0].items()}]
    return ways[0] if ways and len(same) == len(ways) else None


def _fitting(state: tuple[int, ...], parameter: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], dict[int, int]]]:
    """The ways in which a state is a reduced parameter: the reduced dimensions, and where each kept one went."""
    for count in range(len(parameter)):
        for reduced in combinations(range(len(parameter)), count):
            kept = [d for d in range(len(parameter)) if d not in reduced]
            if state == tuple(1 if d in reduced else n for d, n in enumerate(parameter)):
                yield reduced, {d: d for d in kept}
            elif state == tuple(parameter[d] for d in kept):
                yield reduced, {d: place for place, d in enumerate(kept)}


def _named_reduction(key: str, dims: int) -> tuple[int, ...] | None:
    if dims >= 2 and "row" in key:
        return (dims - 1,)
    if dims >= 2 and "col" in key:
        return (dims - 2,)
    return None
