"""Rehearsing a depth edit: put the record in place, run the model under fake tensors, take everything back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from meristem.axes.flow import Flow, record_flow
from meristem.axes.map import AxisMap, Example
from meristem.axes.operators import FUSED
from meristem.axes.running import untouched
from meristem.edit.commit import Request, prepare
from meristem.edit.deepen import Replayed
from meristem.edit.journal import Journal
from meristem.edit.plant import Planting, plant, setting_steps
from meristem.edit.state import ParentMoments
from meristem.edit.tree import NO_WIDTHS, TreeRecord
from meristem.edit.widths import check_filled, with_widths

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """How a model ran with an edited module tree.

    Attributes:
        planting: what was put in place.
        flows: one run for each example.
        names: the names that parameters and buffers had before, by those that they have.
    """

    planting: Planting
    flows: tuple[Flow, ...]
    names: Mapping[str, str]

    def path(self, module: nn.Module) -> str:
        """The first path of a module in the edited tree."""
        return next(path for path, found in self.planting.modules.items() if found is module)


def rehearse(
    model: nn.Module, examples: Sequence[Example], record: TreeRecord, axes: AxisMap | None = None
) -> Rehearsal | str:
    """Run a model as if its module tree had been edited; copies share their tensors with the original.

    Args:
        model: the model.
        examples: what it is run on.
        record: the edit.
        axes: the map of the model, if units go with modules or room is to be made for them first.

    Returns:
        the runs, or why the model could not be run.
    """
    planting = plant(model, record, share_tensors=True)
    journal = Journal()
    try:
        request = None
        if axes is not None and record.widths != NO_WIDTHS:
            request = with_widths(Request(axes, (), (), (), 0, ParentMoments()), [Replayed(record)])
            journal.apply(prepare(request).steps)
        moved = planting.moved
        journal.apply(planting.steps)
        if request is not None:
            check_filled(request, moved)
        journal.apply(setting_steps(model, record.settings))
        flows = list[Flow]()
        for example in examples:
            found = _recorded(model, example)
            if isinstance(found, str):
                return in_mode(example, found)
            flows.append(found)
        rehearsal = Rehearsal(planting, tuple(flows), {new: old for old, new in moved.items()})
        failure = _fused_failure(model, examples, planting.made.values())
        if failure is not None:
            journal.rollback()
            return failure if _fused_failure(model, examples) is None else rehearsal
        return rehearsal
    except Exception as error:  # whatever it is, the edit would fail so
        return _in_words(error)
    finally:
        journal.rollback()
        for _, copied in planting.copies:
            _emptied(copied, model)


def _recorded(model: nn.Module, example: Example) -> Flow | str:
    try:
        with quiet():
            return record_flow(model, example)
    except Exception as error:  # whatever it is, the edit would fail so
        return _in_words(error)


def in_mode(example: Example, reason: str) -> str:
    """A reason that holds in the mode in which an example is run."""
    return f"in training mode, {reason}" if example[2] else reason


def _fused_failure(model: nn.Module, examples: Sequence[Example], put: Collection[nn.Module] = ()) -> str | None:
    """Why a model cannot be run in eval mode without gradients, where PyTorch's fused operators read the parameters of
    children, or leaves out what an edit has put in place; None if neither, or if it has no modules that use such."""
    fuses = any(isinstance(module, FUSED) for module in model.modules())
    for example in examples if fuses else ():
        try:
            missed = {*map(id, put)} - _called(model, example, fused=True)
            if missed and missed & _called(model, example, fused=False):
                return "a fused operator of PyTorch does not call what is there in eval mode without gradients"
        except Exception as error:  # whatever it is, the edit would fail so
            return _in_words(error)
    return None


def _called(model: nn.Module, example: Example, *, fused: bool) -> set[int]:
    """The identities of the modules that are called in eval mode without gradients, with fused operators or without.

    Hooks on the modules concerned would keep them from using such; they are left out, for they may be gone tomorrow.
    """
    args, kwargs, _ = example
    called: set[int] = set()
    with torch.inference_mode(), untouched(model):  # which puts hooks and the setting back
        for part in (part for module in model.modules() if isinstance(module, FUSED) for part in module.modules()):
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()
        torch.backends.mha.set_fastpath_enabled(fused)
        handle = register_module_forward_pre_hook(lambda module, _: called.add(id(module)))
        try:
            model.eval()(*args, **kwargs)
        finally:
            handle.remove()
    return called


def _in_words(error: Exception) -> str:
    text = str(error).strip()
    return f"the model cannot be run then: {text.splitlines()[0] if text else type(error).__name__}"


def _emptied(copied: nn.Module, model: nn.Module) -> None:
    """Let go of the model's tensors: whoever keeps a rehearsal must not keep them."""
    own = set(map(id, model.modules()))
    for part in copied.modules():
        if id(part) not in own:
            part._parameters.clear()
            part._buffers.clear()


@contextmanager
def quiet() -> Iterator[None]:
    """Fake tensors report every operator that fails to the log; here a failure is an answer."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before


def proven(candidates: Sequence[T], judge: Callable[[Sequence[T]], str | None]) -> Mapping[T, str | None]:
    """Why each candidate may not be edited, or None where it may: all at once, and by halves where that fails.

    Args:
        candidates: what might be edited.
        judge: why these candidates together may not be edited, or None.
    """
    if not candidates:
        return {}
    reason = judge(candidates)
    if reason is None or len(candidates) == 1:
        return dict.fromkeys(candidates, reason)
    middle = len(candidates) // 2
    return {**proven(candidates[:middle], judge), **proven(candidates[middle:], judge)}
