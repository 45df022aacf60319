"""The table of exactness: every kind of edit that preserves the function, on one model at several places."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from meristem import Edit, depth, trace
from meristem.depth.deepen import Birth, What
from meristem.edit.joints import Beside, Concat
from meristem.edit.rebuild import rebuilding
from meristem.errors import EditError

from ..zoo.models import row
from .models import net

TOLERANCE = 1e-12
PLACES = 2
"""At how many places an edit is tried: at the first and at the last."""

BIRTHS: dict[str, Callable[[Any], What]] = {
    "residual": lambda batch: depth.ZeroResidual(activation="GELU"),
    "residual, normalized": lambda batch: depth.ZeroResidual(norm=True),
    "identity": lambda batch: depth.Net2Deeper(),
    "identity, normalized": lambda batch: depth.Net2Deeper(norm=True, batch=batch),
    "copy of a layer": lambda batch: depth.ResidualCopy(),
    "silent block": lambda batch: depth.Silent(),
    "new block": lambda batch: depth.AutoGrow("zero"),
    "sum": lambda batch: depth.Added(),
    "concatenation": lambda batch: depth.Appended(2),
}
"""What is inserted, by a name for it; given the example."""

EDITS = (*BIRTHS, "sum beside a row", "sum gone", "concatenation gone")


class Work:
    """A model with its example and its places."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        self.axes = trace(model, args, kwargs)
        self.places = depth.places(self.axes)
        self.expected = self.outputs()
        self._births: dict[str, Sequence[Birth] | EditError] = {}

    def outputs(self) -> list[Tensor]:
        torch.manual_seed(0)
        with torch.no_grad():
            found = tree_leaves(self.model(*self.args, **self.kwargs))
        return [x.clone() for x in found if isinstance(x, Tensor) and x.is_floating_point()]

    def differentiate(self) -> None:
        """A backward pass can be run: nobody wrote into what a derivative needs."""
        results = [y for y in tree_leaves(self.model(*self.args, **self.kwargs)) if isinstance(y, Tensor)]
        total = torch.stack([y.sum() for y in results if y.requires_grad]).sum()
        torch.autograd.grad(total, [p for p in self.model.parameters() if p.requires_grad], allow_unused=True)

    def births(self, edit: str) -> Sequence[Birth]:
        """Everything of this kind that can be inserted. Raises `EditError` if nothing can."""
        if edit not in self._births:
            deepen = depth.Deepen(BIRTHS[edit](self.kwargs or self.args))
            self._births[edit] = deepen.changes(self.places) or _refusal(deepen, self.places)
        found = self._births[edit]
        if isinstance(found, EditError):
            raise found
        return found

    def check(self) -> None:
        """What it computes is what it computed."""
        for old, new in zip(self.expected, self.outputs(), strict=True):
            torch.testing.assert_close(new, old, rtol=0, atol=TOLERANCE)


def _refusal(deepen: depth.Deepen, places: depth.Places) -> EditError:
    """What is said where nothing can be inserted."""
    with pytest.raises(EditError) as refused:
        deepen.require(places)
    return refused.value


@cache
def work(name: str) -> Work:
    """A model, in float64 and eval mode; whoever changes it takes a copy, or changes it back."""
    if name.startswith("depth/"):
        found = net(name.removeprefix("depth/"))
        return Work(found.model(), (found.x(),), {})
    return Work(row(name).model(), *row(name).example())


def cell(edit: str, name: str) -> int:
    """At how many places an edit was made on a model, each time exactly.

    Raises:
        EditError: it is refused everywhere.
        AssertionError: it calls itself exact and is not, or what it did could not be taken back.
    """
    found = work(name)
    if edit.endswith(" gone"):
        return _gone(found, found.births(edit.removesuffix(" gone"))[0])
    return _tried(found, _rows(found.places) if edit == "sum beside a row" else found.births(edit))


def _tried(found: Work, changes: Sequence[Birth]) -> int:
    """Put some changes in place, each alone, and take each back."""
    chosen = sorted({round(n * (len(changes) - 1) / max(PLACES - 1, 1)) for n in range(PLACES)})
    for number in chosen:
        assert changes[number].inexact() == ()
        with rebuilding(found.axes, changes[number]) as done:
            assert done.deepening.inserted or done.deepening.copied
            found.check()
            found.differentiate()
    found.check()
    return len(chosen)


def _rows(places: depth.Places) -> list[Birth]:
    """Branches beside neighbours: the first two of every row, and all of it. Raises `EditError` if there are none."""
    names = [f"{r[0]}..{r[-1].rpartition('.')[2]}" for row in places.rows for r in (row.children[:2], row.children)]
    found, reasons = list[Birth](), list[str]()
    for name in dict.fromkeys(names):
        try:
            found.append(depth.AddBranch(places, name))
        except EditError as error:
            reasons.append(str(error))
    if not found:
        places.addition("add", names[-1] if names else "first..last")
    return found


def _gone(found: Work, birth: Birth) -> int:
    """A branch is born, the model traced anew, and the branch removed: all is as it was."""
    before = copy.deepcopy(found.model.state_dict())
    axes = Edit(found.axes).depth(birth).commit().axes
    found.check()
    cut = depth.RemoveBranch(depth.places(axes), _branch(found.model))
    assert cut.inexact() == ()
    Edit(axes).depth(cut).commit()
    found.check()
    found.differentiate()
    assert list(found.model.state_dict()) == list(before)
    torch.testing.assert_close(found.model.state_dict(), before, rtol=0, atol=0)
    return 1


def _branch(model: nn.Module) -> str:
    """The path of the branch that was added to a model that had none."""
    (path,) = [path for path, module in model.named_modules() if type(module) in (Beside, Concat)]
    return f"{path}.1"
