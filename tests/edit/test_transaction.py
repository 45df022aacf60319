"""All or nothing: whatever fails, wherever it fails, everything is as it was."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from unittest.mock import Mock

import pytest
import torch

from meristem.axes import trace
from meristem.edit import Commit, Edit, journal
from meristem.edit import compute as compute_module
from meristem.edit import edit as edit_module
from meristem.edit.commit import prepare
from meristem.edit.journal import Journal, SetAttribute, SetContents, SetItem
from meristem.mask import SET, Masks, Sparse

from .models import ROWS, some_edit, subject, trained
from .snapshot import Snapshot, same, values

ERRORS = (RuntimeError, torch.OutOfMemoryError, KeyboardInterrupt, MemoryError)


class Injector:
    """Fails at the n-th call, before or after it is done: place `2 * n` is before it, `2 * n + 1` after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.original = getattr(owner, name)
        self.place, self.count, self.error = -1, 0, ERRORS[0]
        monkeypatch.setattr(owner, name, self.wrapper())

    def wrapper(self):
        def injected(*args, **kwargs):
            call, self.count = self.count, self.count + 1
            if self.place == 2 * call:
                raise self.error("injected")
            result = self.original(*args, **kwargs)
            if self.place == 2 * call + 1:
                raise self.error("injected")
            return result

        return injected

    def arm(self, place: int, error: type[BaseException] | None = None) -> None:
        self.place, self.count, self.error = place, 0, error or ERRORS[place % len(ERRORS)]


def failures(injector: Injector, edit: Edit, before: Snapshot, errors: Sequence[type[BaseException]] = ERRORS) -> int:
    """Commit with every error before and after every call, and finally without one; how many calls there are."""
    for place in range(20_000):
        for error in errors:
            injector.arm(place, error)
            try:
                edit.commit()
            except error:
                before.check()
                assert edit.result is None
            else:
                assert edit.result is not None
                return injector.count
    raise AssertionError("there is no end of calls")


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_a_failure_at_any_step_leaves_everything_as_it_was(name, monkeypatch):
    """What is to be done is computed once, since steps may be repeated; the next test computes it each time."""
    found = subject(name)
    ema = torch.optim.swa_utils.AveragedModel(found.model, use_buffers=True)
    optimizer = trained(found, partial(torch.optim.Adam, lr=1e-2))
    before = Snapshot([found.model, ema], [optimizer])
    edit = some_edit(found, optimizer, follow=ema)
    prepared = prepare(edit._request())
    monkeypatch.setattr(edit_module, "prepare", lambda request: prepared)
    injector = Injector(monkeypatch, Journal, "perform")
    assert failures(injector, edit, before, (torch.OutOfMemoryError, KeyboardInterrupt)) >= 10
    optimizer.zero_grad()
    found.backward()
    optimizer.step()


def test_any_error_at_any_step_of_an_edit_that_is_computed_anew(monkeypatch):
    found = subject("mlp")
    optimizer = trained(found, partial(torch.optim.Adam, lr=1e-2))
    before = Snapshot([found.model], [optimizer])
    assert failures(Injector(monkeypatch, Journal, "perform"), some_edit(found, optimizer), before) >= 10


@pytest.mark.parametrize("name", ["mlp", "conv_flatten_linear", "tied_language_model", "lstm_1"])
@pytest.mark.parametrize("function", ["moved", "put"])
def test_a_failure_while_computing_leaves_everything_as_it_was(name, function, monkeypatch):
    found = subject(name)
    optimizer = trained(found, partial(torch.optim.SGD, lr=1e-2, momentum=0.9))
    before = Snapshot([found.model], [optimizer])
    injector = Injector(monkeypatch, compute_module, function)
    assert failures(injector, some_edit(found, optimizer), before, (torch.OutOfMemoryError,)) >= 5


class Listener:
    """A follower that remembers in all kinds of containers, and has another one inside."""

    def __init__(self, inner: Listener | None = None) -> None:
        self.told, self.inner, self.sizes, self.seen = 0, inner, {"a": [1, 2]}, {3}

    def after(self, commit: Commit) -> None:
        self.told += 1
        self.seen.clear()
        self.sizes["a"].append(commit.axes.sizes[0])
        self.sizes["b"] = self.sizes.pop("a")
        if self.inner is not None:
            self.inner.after(commit)


@pytest.mark.parametrize(("owner", "name"), [(Journal, "perform"), (Listener, "after"), (Masks, "_put")])
def test_followers_are_told_in_the_same_transaction(owner, name, monkeypatch):
    found = subject("mlp")
    optimizer = trained(found, partial(torch.optim.Adam, lr=1e-2))
    sparsity, inner = Sparse(found.model, optimizer, SET(density=0.5, interval=4)), Listener()
    listener = Listener(inner)
    before = Snapshot([found.model], [optimizer, listener, inner, sparsity, sparsity._kept, sparsity.masks])
    edit = some_edit(found, optimizer, follow=[listener, sparsity])
    assert failures(Injector(monkeypatch, owner, name), edit, before, (KeyboardInterrupt,)) >= 1
    assert listener.told == inner.told == 1
    assert all(mask.shape == found.model.get_parameter(n).shape for n, mask in sparsity.masks.items())


def test_an_interrupt_of_the_search_for_stale_holders_does_not_lose_the_commit(monkeypatch):
    found = subject("mlp")
    monkeypatch.setattr(edit_module, "stale_holders", Mock(side_effect=KeyboardInterrupt))
    edit = some_edit(found)
    with pytest.raises(KeyboardInterrupt):
        edit.commit()
    assert edit.result is not None
    assert edit.result.stale == ()
    args, kwargs = found.row.example()
    assert trace(found.model, args, kwargs).sizes == edit.result.axes.sizes


def test_a_failed_edit_can_be_committed_later_with_the_same_result(monkeypatch):
    first, second = subject("mlp"), subject("mlp")
    some_edit(first).commit()
    edit = some_edit(second)
    injector = Injector(monkeypatch, Journal, "perform")
    injector.arm(3)
    with pytest.raises(BaseException):  # noqa: B017, PT011
        edit.commit()
    injector.arm(-1)
    edit.commit()
    assert same(values(first.model), values(second.model))


def test_an_interrupt_during_rollback_waits_until_everything_is_undone():
    class Interrupting(SetItem):
        interrupted = []

        def undo(self):
            super().undo()
            if not self.interrupted:
                self.interrupted.append(1)
                raise KeyboardInterrupt

    target = {"a": 1, "b": 2}
    steps = [SetItem(target, "a", 1, 10), Interrupting(target, "b", 2, 20)]
    log = Journal()
    log.apply(steps)
    with pytest.raises(KeyboardInterrupt):
        log.rollback()
    assert target == {"a": 1, "b": 2}


def test_steps_undo_what_they_did_and_keep_order():
    class Owner:
        value = 1

    owner, mapping = Owner(), {"a": 1, "b": 2}
    steps = [SetAttribute(owner, "value", 1, 2), SetContents(mapping, (("a", 1), ("b", 2)), (("c", 3), ("a", 4)))]
    log = journal.Journal()
    log.apply(steps)
    assert owner.value == 2
    assert list(mapping.items()) == [("c", 3), ("a", 4)]
    log.rollback()
    assert owner.value == 1
    assert list(mapping.items()) == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_growth_and_then_pruning_the_newborns_restores_every_bit(name):
    found = subject(name)
    optimizer = trained(found, partial(torch.optim.AdamW, lr=1e-2, amsgrad=True))
    before = values(found.model), values(optimizer)
    attributes = {
        n: {k: copy.copy(v) for k, v in vars(m).items() if isinstance(v, (int, tuple))}
        for n, m in found.model.named_modules()
    }
    edit = Edit(found.axes, optimizer)
    for axis in found.axes.editable:
        edit.grow(axis, 2)
    grown = edit.commit().axes
    assert grown.parameter_count() == sum(p.numel() for p in found.model.parameters())
    found.backward()
    for parameter, old in zip(found.model.parameters(), before[0][1].values(), strict=True):
        parameter.grad = None if old is None else torch.zeros_like(parameter)
    edit = Edit(grown, optimizer)
    for axis in found.axes.editable:
        edit.prune(axis.name, [axis.size, axis.size + 1])
    shrunk = edit.commit().axes
    assert shrunk.sizes == found.axes.sizes
    assert same(values(found.model)[0], before[0][0])
    assert same(values(optimizer), before[1])
    assert attributes == {
        n: {k: v for k, v in vars(m).items() if isinstance(v, (int, tuple))} for n, m in found.model.named_modules()
    }


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_a_permutation_and_its_inverse_restore_every_bit(name):
    found = subject(name)
    optimizer = trained(found, partial(torch.optim.Adam, lr=1e-2))
    before = values(found.model), values(optimizer)
    generator = torch.Generator().manual_seed(0)
    orders = {axis.name: torch.randperm(axis.size, generator=generator) for axis in found.axes.editable}
    first, back = Edit(found.axes, optimizer), None
    for axis, order in orders.items():
        first.permute(axis, order)
    back = Edit(first.commit().axes, optimizer)
    for axis, order in orders.items():
        back.permute(axis, order.argsort())
    back.commit()
    assert same((values(found.model), values(optimizer)), before)
