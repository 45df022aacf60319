"""What a criterion of depth is: a score for every removal that could be made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from meristem.depth.branch import Branch
from meristem.depth.change import Remove, RemoveBranch
from meristem.depth.places import Places
from meristem.errors import ConfigError

Closure: TypeAlias = Callable[[], Tensor]
"""Computes the training loss and returns it without a backward pass."""

Cut: TypeAlias = Remove | RemoveBranch
"""A module whose place the identity takes, or a branch whose place zeros take, or nothing in a concatenation."""


class DepthCriterion(ABC):
    """Scores removals; those with the lowest scores go first. Frozen dataclasses of settings implement it."""

    requires_closure: ClassVar[bool] = True
    """Whether it runs the model, by a closure."""
    predicts_loss: ClassVar[bool] = False
    """Whether scores are changes of the loss: then they can be held against those of units, per parameter say."""

    @abstractmethod
    def scores(self, cuts: Sequence[Cut], closure: Closure | None = None) -> Tensor:
        """How much each removal would cost.

        Args:
            cuts: removals of the same model, as it is now.
            closure: computes the loss; for criteria with `requires_closure`.

        Returns:
            float64, shape (len(cuts),), on the CPU: larger is worth more.

        Raises:
            EditError: the criterion is not defined for one of them.
            ConfigError: a closure is needed and none was given.
        """

    def weakest(self, cuts: Sequence[Cut], closure: Closure | None = None, count: int = 1) -> list[Cut]:
        """The `count` removals with the lowest scores, the lowest first; of equal ones the first."""
        order = torch.argsort(self.scores(cuts, closure), stable=True)
        return [cuts[int(number)] for number in order[:count]]


def removable_blocks(places: Places) -> list[Cut]:
    """The removal of each block of every run, where a block is one module and the model can do without it."""
    found = {removal.module for removal in places.removals if removal.frozen is None}
    paths = [block[0] for run in places.runs if run.period == 1 and len(run) > 1 for block in run.blocks]
    return [Remove(places, path) for path in paths if path in found]


def removable_branches(places: Places) -> list[Cut]:
    """The removal of every branch that the model can do without."""
    return [RemoveBranch(places, branch.name) for branch in places.branches if branch.frozen is None]


def concatenated(cut: Cut) -> Branch | None:
    """The branch, if this is the removal of one of a concatenation."""
    branch = cut.places.branch(cut.branch) if isinstance(cut, RemoveBranch) else None
    return branch if branch is not None and branch.join == "cat" else None


def path_of(cut: Cut) -> str:
    """The module whose result changes: the one that is removed, or the last one of the branch."""
    return cut.module if isinstance(cut, Remove) else cut.places.branch(cut.branch).exit or ""


def required(closure: Closure | None, name: str) -> Closure:
    """The closure. Raises `ConfigError` if there is none."""
    if closure is None:
        raise ConfigError(f"{name} runs the model: give a closure that computes the loss, scores(cuts, closure)")
    return closure


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """While the model runs beside its training: buffers and torch's generators are afterwards as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def watched(cuts: Sequence[Cut]) -> Iterator[list[list[tuple[Tensor, Tensor]]]]:
    """For each removal, what its module is given and returns in every call while the block runs.

    What goes on in the model is a copy of what is returned, so that operators in place do not change what is kept.
    Buffers and torch's generators are afterwards as they were.
    """
    if not cuts:
        yield []
        return
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in cuts]
    handles = []
    for cut, found in zip(cuts, kept, strict=True):
        module = cut.places.model.get_submodule(path_of(cut))
        handles.append(module.register_forward_hook(_keeping(found), with_kwargs=True))
    try:
        with undisturbed(cuts[0].places.model):
            yield kept
    finally:
        for handle in handles:
            handle.remove()


def _keeping(found: list[tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    def keep(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], returned: Any) -> Any:
        first = next(value for value in (*given, *named.values()) if isinstance(value, Tensor))
        result = returned[0] if isinstance(returned, tuple) else returned
        found.append((first.detach().clone(), result))
        goes_on = result.clone()
        return (goes_on, *returned[1:]) if isinstance(returned, tuple) else goes_on

    return keep
