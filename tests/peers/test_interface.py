"""What other libraries leave unsaid: branches that are not taken, wrapped models, arguments, floors, what changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import meristem
from meristem.edit import Edit
from meristem.errors import ConfigError, UnreachedWarning, WrappedModelError

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
    with pytest.warns(UnreachedWarning, match=r"Branching \(right.weight, right.bias\).*also=\[") as told:
        axes = meristem.trace(model, torch.randn(2, 6))
    assert told[0].filename == __file__
    assert set(axes.unreached) == {"right.weight", "right.bias"}


def test_an_edit_that_breaks_a_branch_was_warned_of() -> None:
    """What the example does not reach stays as it is: it no longer fits. That is said by the map and by the preview."""
    model = Branching().eval()
    x = torch.randn(2, 6)
    with pytest.warns(UnreachedWarning):
        edit = Edit(meristem.trace(model, x)).prune("stem", range(4))
    assert "not reached by any example: right.weight, right.bias" in str(edit.preview())
    edit.commit()
    assert model(x).shape == (2, 5)
    with pytest.raises(RuntimeError, match="shapes"):
        model(x, False)


def test_the_controller_warns_of_other_branches_once_when_it_is_made(recwarn: pytest.WarningsRecorder) -> None:
    model, x = Branching(), torch.randn(2, 6)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rules: Any = {"grow": meristem.grow.ZeroFanOut(), "schedule": meristem.schedule.Every(1, grow=1)}
    with pytest.warns(UnreachedWarning):
        plasticity = meristem.Plasticity(model, optimizer, x, axes="stem", **rules)
    recwarn.clear()
    for _ in range(3):
        assert plasticity.step() is not None
    assert not recwarn.list


def test_the_controller_leaves_alone_what_another_branch_shares() -> None:
    model, x = Branching(), torch.randn(2, 6)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rules: Any = {"grow": meristem.grow.ZeroFanOut(), "schedule": meristem.schedule.Every(1, grow=1)}
    with (
        pytest.warns(UnreachedWarning, match="no example reaches"),
        pytest.raises(ConfigError, match=r"stem \(perhaps with right.weight\).*also=\[.*axes=\['stem'\]"),
    ):
        meristem.Plasticity(model, optimizer, x, **rules)


def test_several_examples_cover_all_branches(recwarn: pytest.WarningsRecorder) -> None:
    model = Branching().eval()
    x = torch.randn(2, 6)
    axes = meristem.trace(model, x, also=[((x, False), {})])
    assert axes.unreached == ()
    assert not recwarn.list
    Edit(axes).grow("stem", 4).commit()
    assert model(x, True).shape == model(x, False).shape == (2, 5)


def test_several_examples_cover_all_branches_when_units_go() -> None:
    model = Branching().eval()
    x = torch.randn(2, 6)
    axes = meristem.trace(model, x, also=[((x, False), {})])
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


@pytest.mark.filterwarnings("ignore:FSDP is switching:UserWarning")
def test_sharded_models_are_refused_with_a_remedy() -> None:
    """FSDP of both kinds, on one rank; a model that is sharded after it was traced is refused by the edit."""
    x = torch.randn(2, 6)
    models: list[Any] = [nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)) for _ in range(3)]
    axes = meristem.trace(models[2], x)
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        mesh = init_device_mesh("cpu", (1,))
        wrapped = FullyShardedDataParallel(models[0], device_id=torch.device("cpu"))
        for model in (wrapped, fully_shard(models[1], mesh=mesh)):
            with pytest.raises(WrappedModelError, match="before wrapping it with FSDP"):
                meristem.trace(model, x)
        fully_shard(models[2], mesh=mesh)
        with pytest.raises(WrappedModelError, match=r"0\.weight is a DTensor.* before it is wrapped"):
            Edit(axes).grow("0", 2).commit()
    finally:
        torch.distributed.destroy_process_group()


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
