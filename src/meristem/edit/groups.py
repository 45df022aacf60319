"""How optimizers follow when parameters are born and die: their groups, and the state of copies."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from meristem.edit.journal import SetContents, Step
from meristem.edit.optimizer import length_steps, power_of
from meristem.edit.plant import Planting
from meristem.edit.state import StatePolicy, StateStart, is_dropped


@dataclass(frozen=True, eq=False)
class SetItems:
    """All items of a list at once; the list remains the same object."""

    items: list[Any]
    old: tuple[Any, ...]
    new: tuple[Any, ...]

    def do(self) -> None:
        """Put the new items."""
        self.items[:] = self.new

    def undo(self) -> None:
        """Put the old items."""
        self.items[:] = self.old


def group_steps(
    optimizers: Sequence[Optimizer], planting: Planting, policy: StatePolicy
) -> tuple[list[Step], list[str]]:
    """Steps that make optimizers follow a depth edit, and what had to be reset, in words.

    A parameter of a copied module joins the groups of what it copies; one of a newly built module joins the group of
    the nearest parameter that is called alike and has as many dimensions, or else of the nearest one. New parameters
    stand at the end of their group, in the model's order. Groups that lose all parameters stay, so that schedulers fit.

    Args:
        optimizers: all that follow.
        planting: the edit of the model.
        policy: whether copies take over the state of their originals, and by what it is multiplied; parameters without
            state start as in a new optimizer, with a step count of their own.
    """
    joining = _homes(optimizers, planting)
    gone = {id(tensor) for tensor in planting.gone.values()}
    takes_over = not isinstance(policy, StateStart) or type(policy).sources is StateStart.sources
    steps: list[Step] = []
    resets: list[str] = []
    for number, optimizer in enumerate(optimizers):
        for place, group in enumerate(optimizer.param_groups):
            held = group["params"]
            stay = [p for p in held if id(p) not in gone]
            new = [p for p, homes in joining if (number, place) in homes]
            if new or len(stay) < len(held):
                steps.append(SetItems(held, tuple(held), (*stay, *new)))
        state = [(p, s) for p, s in optimizer.state.items() if id(p) not in gone]
        if takes_over:
            own = [p for p, homes in joining if any(n == number for n, _ in homes)]
            factor = policy.copied if isinstance(policy, StateStart) else 1.0
            state += _taken_over(optimizer, planting, own, factor)
        if hasattr(optimizer, "_numel_cache"):  # LBFGS keeps vectors over all parameters, and how long they are
            if state and not is_dropped(policy):
                resets.append(f"{type(optimizer).__name__} keeps state over all parameters at once; it is reset")
            steps += length_steps(optimizer)
            state = []
        state = [] if is_dropped(policy) else state
        steps.append(SetContents(optimizer.state, tuple(optimizer.state.items()), tuple(state)))
    return steps, resets


def _homes(optimizers: Sequence[Optimizer], planting: Planting) -> list[tuple[Tensor, set[tuple[int, int]]]]:
    """For each new parameter the groups that it joins, by number of optimizer and of group."""
    held: dict[int, set[tuple[int, int]]] = {}
    for number, optimizer in enumerate(optimizers):
        for place, group in enumerate(optimizer.param_groups):
            for p in group["params"]:
                held.setdefault(id(p), set()).add((number, place))
    found: list[tuple[Tensor, set[tuple[int, int]]]] = []
    for name, tensor in planting.born.items():
        if isinstance(tensor, nn.Parameter):
            source = planting.models.get(id(tensor))
            source = _nearest(name, tensor, planting, held) if source is None else source
            found.append((tensor, held.get(id(source), set()) if source is not None else set()))
    return found


def _nearest(name: str, tensor: Tensor, planting: Planting, held: dict[int, set[tuple[int, int]]]) -> Tensor | None:
    """The parameter of a group that is most like a new one: called alike, of as many dimensions, near."""
    names = list(planting.tensors)
    place, leaf = names.index(name), name.rpartition(".")[2]
    best: tuple[tuple[bool, bool, int], Tensor] | None = None
    for other, found in [*planting.tensors.items(), *planting.gone.items()]:
        if id(found) not in held:
            continue
        distance = abs(names.index(other) - place) if other in planting.tensors else len(names)
        score = other.rpartition(".")[2] != leaf, found.dim() != tensor.dim(), distance
        if best is None or score < best[0]:
            best = score, found
    return None if best is None else best[1]


def _taken_over(
    optimizer: Optimizer, planting: Planting, new: Sequence[Tensor], factor: float
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """The state of copies, where what they copy has one of its shape; scaled as gradients are by this factor."""
    for parameter in new:
        source = planting.origins.get(id(parameter))
        if source is not None and source in optimizer.state:
            state = copy.deepcopy(optimizer.state[source])
            yield parameter, {key: _scaled(value, factor ** power_of(optimizer, key)) for key, value in state.items()}


def _scaled(value: Any, factor: float) -> Any:
    """What is remembered of gradients; step counts and other numbers stay."""
    return value * factor if isinstance(value, Tensor) and value.dim() and factor != 1 else value
