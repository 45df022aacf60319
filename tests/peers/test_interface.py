"""What other libraries leave unsaid: branches that are not taken, wrapped models, arguments, floors, what changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.edit import Edit
from meristem.errors import WrappedModelError

from ..zoo.models import row


class Branching(nn.Module):
    """One of two branches, as the input says."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.left, self.right = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor, go_left: bool = True) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.left(x) if go_left else self.right(x)


class AuxiliaryHead(nn.Module):
    """A second answer in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.auxiliary = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = torch.relu(self.stem(x))
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


def test_a_branch_that_the_example_does_not_take_is_reported() -> None:
    model = Branching().eval()
    axes = meristem.trace(model, torch.randn(2, 6))
    assert set(axes.unreached) == {"right.weight", "right.bias"}


def test_a_branch_that_is_not_reported_on_never_breaks() -> None:
    """Either the unreached branch is no obstacle because nothing was edited, or it still runs after the edit."""
    model = Branching().eval()
    x = torch.randn(2, 6)
    axes = meristem.trace(model, x)
    reason = axes["stem"].frozen
    assert reason is None or "reach" in reason


def test_several_examples_cover_all_branches() -> None:
    model = Branching().eval()
    x = torch.randn(2, 6)
    axes = meristem.trace(model, x, also=[((x, False), {})])
    assert axes.unreached == ()
    Edit(axes).prune("stem", range(4)).commit()
    assert model(x, True).shape == model(x, False).shape == (2, 5)
    assert model.right.weight.shape == (5, 4)


def test_training_mode_covers_what_evaluation_skips() -> None:
    model = AuxiliaryHead().eval()
    x = torch.randn(4, 6)
    axes = meristem.trace(model, x)
    assert axes.unreached == ()
    assert not model.training
    Edit(axes).prune("stem", range(4)).commit()
    answer, auxiliary = model.train()(x)
    assert answer.shape == auxiliary.shape == (4, 5)


def test_a_compiled_model_is_refused_with_a_remedy() -> None:
    model: Any = row("mlp").model()
    compiled: Any = torch.compile(model)
    with pytest.raises(WrappedModelError, match="_orig_mod"):
        meristem.trace(compiled, row("mlp").example()[0])


def test_a_compiled_part_is_refused_and_named() -> None:
    model: Any = row("mlp").model()
    model[2] = torch.compile(model[2])
    with pytest.raises(WrappedModelError, match="'2'"):
        meristem.trace(model, row("mlp").example()[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_data_parallel_and_scripted_models_are_refused_with_a_remedy() -> None:
    model: Any = row("mlp").model()
    args, _ = row("mlp").example()
    with pytest.raises(WrappedModelError, match="module"):
        meristem.trace(nn.DataParallel(model), args)
    scripted: Any = torch.jit.trace(model, args)
    with pytest.raises(WrappedModelError, match="script"):
        meristem.trace(scripted, args)


def test_a_tensor_example_is_one_argument() -> None:
    x = torch.randn(2, 6, dtype=torch.float64)
    model: Any = row("mlp").model()
    assert meristem.trace(model, x).sizes == meristem.trace(model, (x,)).sizes


def test_floors_hold_under_a_global_ranking() -> None:
    """One layer's units are all tiny: a global ranking would take them all; its floor holds."""
    from meristem.allocate import Limits, Ranked
    from meristem.allocate.planning import plan_pruning
    from meristem.prune import Magnitude
    from meristem.schedule.schedule import Demand
    from meristem.signals import View

    model: Any = row("mlp").model()
    with torch.no_grad():
        model[2].weight *= torch.cat([torch.full((9, 1), 1e-6), torch.full((1, 1), 1e3)])
        model[2].bias.zero_()
    axes = meristem.trace(model, row("mlp").example()[0])
    floors = Ranked(limits={axes["2"].name: Limits(minimum=7)})
    removals = plan_pruning(View(axes), axes.editable, Demand("prune", 11), Magnitude(), floors)
    edit = Edit(axes)
    for removal in removals:
        edit.prune(removal.axis if isinstance(removal.axis, str) else removal.axis.name, removal.units)
    after = edit.commit().axes
    assert after["2"].size == 7
    assert after["0"].size + after["2"].size == 22 - 11


def test_the_caller_is_told_what_changed() -> None:
    model: Any = row("mlp").model()
    axes = meristem.trace(model, row("mlp").example()[0])
    edit = Edit(axes).prune("0", [1, 4]).grow("2", 3)
    preview = edit.preview()
    before = sum(p.numel() for p in model.parameters())
    old = model[0].weight
    done = edit.commit()
    after = sum(p.numel() for p in model.parameters())
    assert preview.parameters == (before, after)
    assert [(a.name, a.before, a.after) for a in preview.axes] == [(axes["0"].name, 12, 10), (axes["2"].name, 10, 13)]
    assert done.replaced[old] is model[0].weight
    assert json.loads(json.dumps(done.record))
    assert done.axes.history == (done.record,)
