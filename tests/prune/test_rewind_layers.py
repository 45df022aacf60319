"""Rewinding after edits of layers: the surviving weights are those of the earlier model, edited alike."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from meristem import AxisMap, Edit, depth, trace
from meristem.errors import EditError
from meristem.mask import RigL, Sparse
from meristem.prune import Snapshot
from tests.depth.models import net

Change = Callable[[Edit, depth.Places], Edit]


def remove(block: str) -> Change:
    return lambda edit, places: edit.depth(depth.Remove(places, block))


def duplicate(block: str) -> Change:
    return lambda edit, places: edit.depth(depth.duplicated(places, block))


def arrange(run: str, *blocks: int) -> Change:
    return lambda edit, places: edit.depth(depth.Arrange(places, run, blocks))


def insert(where: str) -> Change:
    return lambda edit, places: edit.depth(depth.Insert(places, where, depth.Net2Deeper()))


def prune(axis: str, *units: int) -> Change:
    return lambda edit, places: edit.prune(axis, units)


def grow(axis: str, count: int) -> Change:
    return lambda edit, places: edit.grow(axis, count)


def permute(axis: str, *order: int) -> Change:
    return lambda edit, places: edit.permute(axis, order)


SCRIPTS: dict[str, tuple[str, list[list[Change]]]] = {
    "removal": ("residual", [[remove("stage.0")]]),
    "removal and copy": ("residual", [[remove("stage.1")], [duplicate("stage.0")]]),
    "copy and removal of the original": ("residual", [[duplicate("stage.2")], [remove("stage.2")]]),
    "insertion": ("residual", [[insert("after stage.0")]]),
    "reordering": ("residual", [[arrange("stage", 2, 0, 0, 1)], [arrange("stage", 3, 1, 0)]]),
    "in a numbered trunk": ("numbered", [[arrange("trunk", 1, 0)], [arrange("trunk", 1, 1, 0)]]),
    "several modules a block": ("perceptron", [[remove("2")], [duplicate("2")], [remove("5")]]),
    "a branch": ("transformer", [[lambda e, p: e.depth(depth.RemoveBranch(p, "layers.0.mlp"))]]),
    "a branch beside another": ("unet", [[lambda e, p: e.depth(depth.AddBranch(p, "up.0"))]]),
    "a unit first": ("residual", [[prune("stage.2.conv1", 1)], [remove("stage.0")], [duplicate("stage.0")]]),
    "units all along": (
        "residual",
        [
            [prune("stage.2.conv1", 1, 2), grow("stem", 2)],
            [permute("stage.2.conv1", 1, 0), remove("stage.0")],
            [grow("stage.1.conv1", 1), prune("stem", 0)],
            [duplicate("stage.0"), prune("stage.0.conv1", 3)],
            [prune("stage.2.conv1", 0), permute("stem", 4, 3, 2, 1, 0)],
        ],
    ),
}


def changed(axes: AxisMap, script: list[list[Change]]) -> AxisMap:
    for changes in script:
        edit = Edit(axes)
        for change in changes:
            edit = change(edit, depth.places(axes))
        axes = edit.commit().axes
    return axes


def disturb(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor))


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", SCRIPTS)
def test_rewinding_is_editing_the_earlier_model(name: str) -> None:
    """Brute force: a module that was there before gets what the same edits make of its weights of then; newborn units
    in it, and newborn modules, keep what they have. Which entries stood is seen by a number that they all are."""
    kind, script = SCRIPTS[name]
    model, x = net(kind).model(), net(kind).x()
    axes, earlier, marked = trace(model, x), copy.deepcopy(model), copy.deepcopy(model)
    start, old = Snapshot.of(axes), {id(module) for module in model.modules()}
    for tensor in (*marked.parameters(), *marked.buffers()):
        tensor.data.fill_(7)
    disturb(model)
    axes = changed(axes, script)
    changed(trace(earlier, x), script)
    changed(trace(marked, x), script)
    disturb(model)
    before, then, mark, state = values(model), values(earlier), values(marked), torch.get_rng_state()
    start.rewind(axes)
    assert torch.equal(torch.get_rng_state(), state)
    stayed = 0
    for key, tensor in values(model).items():
        stood = (mark[key] == 7) & (id(model.get_submodule(key.rpartition(".")[0])) in old)
        assert torch.equal(tensor, torch.where(stood, then[key], before[key])), key
        stayed += int(stood.sum())
    assert stayed > 0


def test_a_snapshot_can_be_used_again() -> None:
    model = net("residual").model()
    axes = trace(model, net("residual").x())
    start = Snapshot.of(axes)
    then = {name: tensor.clone() for name, tensor in start.tensors.items()}
    for change in (duplicate("stage.0"), remove("stage.0"), prune("stage.2.conv1", 0)):
        axes = changed(axes, [[change]])
        disturb(model)
        start.rewind(axes)
        *_, last = model.get_submodule("stage").children()
        weight = last.get_parameter("conv2.weight")
        assert torch.equal(weight, then["stage.2.conv2.weight"][:, 4 - weight.shape[1] :])
        assert all(torch.equal(then[name], tensor) for name, tensor in start.tensors.items())


def test_masks_hold_wherever_their_layers_are() -> None:
    model, x = net("perceptron").model(), net("perceptron").x()
    axes = trace(model, x)
    start, optimizer = Snapshot.of(axes), torch.optim.SGD(model.parameters(), 0.1)
    sparsity, layer = Sparse(model, optimizer, RigL(density=0.3, end=100)), model.get_submodule("8")
    for change in (duplicate("2"), remove("8")):
        commit = change(Edit(axes, optimizer, follow=[sparsity]), depth.places(axes)).commit()
        axes = commit.axes
    disturb(model)
    start.rewind(axes, sparsity.masks)
    mask = next(sparsity.masks[f"{name}.weight"] for name, module in model.named_modules() if module is layer)
    assert torch.equal(layer.get_parameter("weight"), start.tensors["8.weight"] * mask)
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in sparsity.masks.items())


def test_a_model_that_cannot_be_copied_is_taken_back_through_edits_of_units() -> None:
    """And not through those of layers."""
    model, x = net("residual").model(), net("residual").x()
    vars(model)["lock"] = threading.Lock()
    axes = trace(model, x)
    start = Snapshot.of(axes)
    disturb(model)
    axes = changed(axes, [[prune("stage.0.conv1", 1)]])
    start.rewind(axes)
    assert torch.equal(model.get_parameter("stage.0.conv1.weight"), start.tensors["stage.0.conv1.weight"][[0, 2, 3]])
    axes = changed(axes, [[remove("stage.1")]])
    before = values(model)
    with pytest.raises(EditError, match=r"could not be copied \(cannot pickle"):
        start.rewind(axes)
    assert all(torch.equal(before[name], tensor) for name, tensor in values(model).items())


@pytest.mark.parametrize("layers", [False, True])
def test_a_model_of_other_sizes_is_refused_before_anything_is_written(layers: bool) -> None:
    def build(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, width))

    x = torch.randn(3, 6)
    model, other = build(4), build(5)
    start = Snapshot.of(trace(model, x))
    script = [[lambda e, p: e.depth(depth.Remove(p, "2"))]] if layers else []
    axes = changed(trace(other, x), script)
    before = values(other)
    with pytest.raises(EditError, match="of another model"):
        start.rewind(axes)
    assert all(torch.equal(before[name], tensor) for name, tensor in values(other).items())
