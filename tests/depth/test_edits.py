"""Depth edits: exactness, rollback, history, checkpoints, optimizers, copies that follow."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meristem import AxisMap, Edit, depth, load, replay, save, trace
from meristem.edit import Reset, Zeros
from meristem.edit.joints import Zero
from meristem.errors import CheckpointError, ConfigError, EditError, StaleMapError, TraceError

from ..edit.snapshot import Snapshot, same, values
from .failing import fail_everywhere
from .models import Net, net

Make = Callable[[depth.Places], depth.Change]

PRESERVING: dict[str, tuple[str, Make]] = {
    "net2deeper": ("residual", lambda p: depth.Insert(p, "after stage.0", depth.Net2Deeper())),
    "net2deeper_1": ("residual", lambda p: depth.Insert(p, "before stage.0", depth.Net2Deeper(kernel=1))),
    "net2deeper_pooled": ("residual", lambda p: depth.Insert(p, "before head", depth.Net2Deeper())),
    "net2deeper_norm": ("perceptron", lambda p: depth.Insert(p, "after 4", depth.Net2Deeper(norm=True))),
    "zero_residual": ("residual", lambda p: depth.Insert(p, "after stem", depth.ZeroResidual(norm=True))),
    "zero_residual_gelu": (
        "transformer",
        lambda p: depth.Insert(p, "after layers.1", depth.ZeroResidual(hidden=3, activation="GELU")),
    ),
    "zero_residual_slot": ("unet", lambda p: depth.Insert(p, "before down.1", depth.ZeroResidual())),
    "silent_residual": ("residual", lambda p: depth.duplicated(p, "stage.1", 2, depth.Silent())),
    "silent_transformer": ("transformer", lambda p: depth.duplicated(p, "layers.0", 1, depth.Silent())),
    "silent_mixer": ("mixer", lambda p: depth.duplicated(p, "layers.1", 1, depth.Silent())),
    "residual_copy": ("perceptron", lambda p: depth.Insert(p, "after 3", depth.ResidualCopy())),
    "add_branch": ("residual", lambda p: depth.AddBranch(p, "stage.0.conv2")),
    "add_branch_wider": ("unet", lambda p: depth.AddBranch(p, "up.0")),
    "add_branch_attention": ("transformer", lambda p: depth.AddBranch(p, "layers.2.attention")),
    "autogrow_zero": ("residual", lambda p: depth.duplicated(p, "stage.2", 1, depth.AutoGrow("zero"))),
}

CHANGING: dict[str, tuple[str, Make]] = {
    "remove": ("transformer", lambda p: depth.Remove(p, "layers.1")),
    "remove_slot": ("residual", lambda p: depth.Remove(p, "stage.1.conv1")),
    "remove_branch": ("transformer", lambda p: depth.RemoveBranch(p, "layers.0.attention")),
    "stack": ("transformer", lambda p: depth.Arrange(p, "layers", depth.stacked(3, 6))),
    "reorder": ("mixer", lambda p: depth.Arrange(p, "layers", (1, 0))),
    "replace": ("perceptron", lambda p: depth.Arrange(p, "2", (2, 2, 0))),
    "numbered": ("numbered", lambda p: depth.Arrange(p, "trunk", (0, 1, 0))),
    "autogrow": ("residual", lambda p: depth.duplicated(p, "stage.0", 1, depth.AutoGrow())),
}

ALL = {**PRESERVING, **CHANGING}


def opened(found: Net) -> tuple[nn.Module, Tensor, AxisMap, depth.Places]:
    model, x = found.model(), found.x()
    axes = trace(model, x)
    return model, x, axes, depth.places(axes)


def trained(model: nn.Module, x: Tensor, make: Any = torch.optim.Adam) -> Any:
    optimizer = make(model.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("case", PRESERVING)
@pytest.mark.parametrize("training", [False, True])
def test_the_function_is_preserved(case: str, training: bool) -> None:
    found, make = net(PRESERVING[case][0]), PRESERVING[case][1]
    model, x, axes, places = opened(found)
    model.train(training)
    reference = copy.deepcopy(model)
    change = make(places)
    reasons = change.inexact()
    assert not reasons or case == "net2deeper_norm"
    edit = Edit(axes).depth(change)
    preview = edit.preview(x)
    assert preview.drift is not None
    assert preview.drift < 1e-12
    assert preview.parameters[1] > preview.parameters[0]
    after = edit.commit().axes
    assert preview.parameters[1] == after.parameter_count() == sum(p.numel() for p in model.parameters())
    if not (training and reasons):
        torch.testing.assert_close(model(x), reference(x), rtol=0, atol=1e-12)
    model(x).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_new_parameters_learn() -> None:
    """Every layer of a silent copy or a zero residual has a gradient from the second step on."""
    for case in ("zero_residual", "silent_residual", "add_branch"):
        found, make = net(PRESERVING[case][0]), PRESERVING[case][1]
        model, x, axes, places = opened(found)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        old = {id(p) for p in model.parameters()}
        Edit(axes, optimizer).depth(make(places)).commit()
        born = {name: p for name, p in model.named_parameters() if id(p) not in old}
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        model(x).square().mean().backward()
        assert born
        assert all(bool(p.grad.abs().sum() > 0) for p in born.values() if p.grad is not None)


def test_batch_norm_is_exact_on_its_batch_in_train_mode() -> None:
    model, x, axes, places = opened(net("perceptron"))
    model.train()
    reference = copy.deepcopy(model)
    change = depth.Insert(places, "after 4", depth.Net2Deeper(norm=True, batch=x))
    assert change.inexact() == ()
    Edit(axes).depth(change).commit()
    torch.testing.assert_close(model(x), reference(x), rtol=0, atol=1e-12)
    other = net("perceptron").x(seed=5)
    copy_ = copy.deepcopy(reference).eval()
    fresh = net("perceptron").model()
    axes = trace(fresh, x)
    Edit(axes).depth(depth.Insert(depth.places(axes), "after 4", depth.Net2Deeper(norm=True, batch=x))).commit()
    assert copy_ is not reference
    torch.testing.assert_close(fresh(other), net("perceptron").model()(other), rtol=0, atol=1e-12)


def test_what_is_not_exact_is_refused() -> None:
    model, _, axes, places = opened(net("transformer"))
    with pytest.raises(EditError, match="ZeroResidual"):
        Edit(axes).depth(depth.Insert(places, "after layers.0", depth.Net2Deeper())).commit()
    assert model is axes.model
    model, _, axes, places = opened(net("perceptron"))
    with pytest.raises(EditError, match=r"batch_norm .* insert a ZeroResidual"):
        depth.duplicated(places, "2", 1, depth.Silent())
    assert model is axes.model
    for wrong in (lambda: depth.Net2Deeper(kernel=2), lambda: depth.ZeroResidual(activation="Linear")):
        with pytest.raises(ConfigError):
            wrong()


@pytest.mark.heavy
@pytest.mark.parametrize("case", ALL)
def test_history_checkpoint_and_replay(case: str, tmp_path: Any) -> None:
    """A freshly built model gets the structure from the history, and everything from a checkpoint."""
    found, make = net(ALL[case][0]), ALL[case][1]
    model, x, axes, places = opened(found)
    optimizer = trained(model, x)
    width = next((axis for axis in axes.editable if axis.size > 2), None)
    edit = Edit(axes, optimizer).depth(make(places))
    after = edit.commit().axes
    if width is not None and after.editable:
        after = Edit(after, optimizer).prune(after.editable[0], [0]).commit().axes
    model(x).square().mean().backward()
    optimizer.step()
    history = json.loads(json.dumps(list(after.history)))
    fresh = found.model()
    again = replay(history, fresh, x)
    assert shapes(fresh) == shapes(model)
    assert again.history == after.history
    assert [axis.name for axis in again] == [axis.name for axis in after]
    path = tmp_path / "checkpoint.safetensors"
    save(path, after, optimizer)
    loaded = found.model()
    other = torch.optim.Adam(loaded.parameters(), lr=1e-2)
    load(path, loaded, x, optimizers=other)
    loaded.train(model.training)
    assert same(values(loaded)[0], values(model)[0])
    assert same(values(other), values(optimizer))
    assert torch.equal(loaded(x), model(x))


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("case", ["remove_slot", "silent_mixer", "net2deeper", "numbered"])
def test_a_failure_anywhere_changes_nothing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, make = net(ALL[case][0]), ALL[case][1]
    model, x, axes, places = opened(found)
    optimizer = trained(model, x)
    copied = copy.deepcopy(model)
    change = make(places)
    assert change.tree(axes)  # proven before the failures begin
    before = Snapshot([model, copied], [optimizer])
    edit = Edit(axes, optimizer, copied).depth(change)
    assert fail_everywhere(edit.commit, before, monkeypatch, stride=2) > 2


def test_a_model_that_does_not_run_afterwards_is_taken_back() -> None:
    """The change is proven for the example; a further example that it breaks refuses it."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, read: bool = False) -> Tensor:
            y = torch.relu(self.second(torch.relu(self.first(x))))
            return self.head(y @ self.first.weight if read else y)

    model, x = Two(), torch.randn(3, 6)
    axes = trace(model, x)
    places = depth.places(axes)
    assert places.insertion("after first").frozen is None
    strict = trace(model, x, also=[((x, True), {})])
    before = Snapshot([model])
    assert {way.frozen for way in depth.places(strict).ways if way.name == "after first"} != {None}
    with pytest.raises(Exception, match="weight"):
        Edit(strict).depth(depth.Insert(places, "after first", depth.ZeroResidual())).commit()
    before.check()


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS])
def test_optimizers_follow(make: Any) -> None:
    model, x, axes, places = opened(net("residual"))
    optimizer = make(model.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.step(lambda: _backward(model, x, optimizer))
    state = {id(p): dict(s) for p, s in optimizer.state.items()}
    kept = [p for name, p in model.named_parameters() if not name.startswith("stage.2")]
    change = depth.Arrange(places, "stage", (0, 1, 1))
    if make is torch.optim.LBFGS:
        with pytest.warns(UserWarning, match="reset"):
            Edit(axes, optimizer).depth(change).commit()
    else:
        Edit(axes, optimizer).depth(change).commit()
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert set(map(id, optimizer.state)) <= set(held)
    if make is torch.optim.Adam:
        assert all(same(dict(optimizer.state[p]), state[id(p)]) for p in kept)
        copied, original = model.stage[2].conv1.weight, model.stage[1].conv1.weight
        assert same(dict(optimizer.state[copied]), state[id(original)])
        assert optimizer.state[copied]["exp_avg"] is not optimizer.state[original]["exp_avg"]
    optimizer.step(lambda: _backward(model, x, optimizer))


def _backward(model: nn.Module, x: Tensor, optimizer: Any) -> Tensor:
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    return loss


def test_groups_and_policies() -> None:
    """Biases and norms have a group without decay; new ones join it. Fresh state and forgotten state as asked for."""
    for policy, expected in ((Zeros(), "fresh"), (Reset(), "none")):
        model, x, axes, places = opened(net("transformer"))
        plain = [p for p in model.parameters() if p.dim() < 2]
        weights = [p for p in model.parameters() if p.dim() >= 2]
        optimizer = torch.optim.AdamW(
            [{"params": weights, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
        )
        model(x).square().mean().backward()
        optimizer.step()
        edit = Edit(axes, optimizer, state=policy).depth(depth.Arrange(places, "layers", (0, 1, 2, 2)))
        axes = edit.commit().axes
        if expected == "fresh":
            edit = Edit(axes, optimizer, state=policy)
            edit.depth(depth.Insert(depth.places(axes), "after layers.0", depth.ZeroResidual())).commit()
        for group in optimizer.param_groups:
            assert {p.dim() >= 2 for p in group["params"]} == {group["weight_decay"] > 0}
        assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
        assert len(optimizer.state) == (len(plain) + len(weights) if expected == "fresh" else 0)


def test_frozen_parameters_stay_frozen_and_out_of_groups() -> None:
    model, x, axes, places = opened(net("residual"))
    model.stage[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    Edit(axes, optimizer).depth(depth.Arrange(places, "stage", (0, 1, 2, 0))).commit()
    assert not any(p.requires_grad for p in model.stage[3].parameters())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    assert x is not None


def test_copies_of_the_model_follow() -> None:
    """An averaged model copies its own blocks, and gets the model's new layers."""
    model, x, axes, places = opened(net("residual"))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        for p in averaged.module.parameters():
            p.mul_(0.9)
    own = averaged.module.stage[0].conv1.weight.clone()
    edit = Edit(axes, follow=averaged).depth(depth.duplicated(places, "stage.0"))
    axes = edit.commit().axes
    assert torch.equal(averaged.module.stage[1].conv1.weight, own)
    edit = Edit(axes, follow=averaged)
    edit.depth(depth.Insert(depth.places(axes), "after stem", depth.ZeroResidual())).commit()
    assert shapes(averaged.module) == shapes(model)
    assert torch.equal(averaged.module.stem[1][0].weight, model.stem[1][0].weight)
    averaged.update_parameters(model)
    with pytest.raises(StaleMapError, match="no copy"):
        Edit(edit.result.axes, follow=nn.Linear(2, 2)).depth(  # type: ignore[union-attr]
            depth.Remove(depth.places(edit.result.axes), "stage.0")  # type: ignore[union-attr]
        ).commit()
    assert x is not None


def test_the_module_tree_stays_natural() -> None:
    """Names count on, positions and numbers of blocks follow, modules stay the same objects and keep their hooks."""
    model, x, axes, places = opened(net("transformer"))
    first, last, calls = model.layers[0], model.layers[2], []
    last.register_forward_hook(lambda *_: calls.append("last"))
    edit = Edit(axes).depth(depth.Arrange(places, "layers", (0, 0, 2)))
    commit = edit.commit()
    assert model.layers[0] is first
    assert model.layers[2] is last
    assert [layer.index for layer in model.layers] == [0, 1, 2]
    assert model.count == 3
    assert commit.moved["layers.2.norm1.weight"] == "layers.2.norm1.weight"
    assert "layers.1.norm1.weight" not in commit.moved
    calls.clear()
    model(x)
    assert calls == ["last"]  # the copy has no hooks of its own
    model, x, axes, places = opened(net("transformer"))
    commit = Edit(axes).depth(depth.Remove(places, "layers.0")).commit()
    assert commit.moved["layers.2.norm1.weight"] == "layers.1.norm1.weight"
    assert model.count == 2
    assert [layer.index for layer in model.layers] == [0, 1]
    assert list(model.layers._modules) == ["0", "1"]
    model, x, axes, places = opened(net("numbered"))
    Edit(axes).depth(depth.Arrange(places, "trunk", (0, 1, 1))).commit()
    assert list(model.trunk._modules) == ["stage1", "stage2", "stage3"]
    assert model.depth == 3
    model, x, axes, places = opened(net("indexed"))
    Edit(axes).depth(depth.Insert(places, "after named.first", depth.ZeroResidual())).commit()
    assert list(model.named._modules) == ["first", "first_2", "second"]


def test_unit_and_depth_edits_in_one_transaction() -> None:
    """Gathers come first: the inserted layer has the width that they leave."""
    model, x, axes, places = opened(net("residual"))
    stream = axes["stem"]
    edit = Edit(axes).depth(depth.Insert(places, "after stage.0", depth.ZeroResidual())).prune(stream, [0])
    reference = net("residual").model()
    Edit(trace(reference, x)).prune("stem", [0]).commit()
    commit = edit.commit()
    assert model.stage[1][0].weight.shape[:2] == (3, 3)
    torch.testing.assert_close(model(x), reference(x), rtol=0, atol=1e-12)
    assert commit.record["axes"]
    assert commit.record["depth"]
    fresh = net("residual").model()
    replay([commit.record], fresh, x)
    assert shapes(fresh) == shapes(model)


def test_ties_are_kept() -> None:
    """A block whose weight is tied outside: the copy is tied as well, and a silent copy of that weight is refused."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Part(), Part())
            self.head = nn.Linear(6, 6)
            self.head.weight = self.blocks[1].down.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks(x))

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(torch.tanh(self.up(x)))

    model, x = Tied(), torch.randn(3, 6)
    axes = trace(model, x)
    places = depth.places(axes)
    before = Snapshot([model])
    with pytest.raises(EditError, match="shared"):
        Edit(axes).depth(depth.duplicated(places, "blocks.1", 1, depth.Silent())).commit()
    before.check()
    Edit(axes).depth(depth.duplicated(places, "blocks.1")).commit()
    assert model.blocks[2].down.weight is model.head.weight
    assert model.blocks[2].up.weight is not model.blocks[1].up.weight


def test_contradictions_and_strangers_are_refused() -> None:
    model, x, axes, places = opened(net("residual"))
    edit = Edit(axes).depth(depth.Remove(places, "stage.0")).depth(depth.Remove(places, "stage.1"))
    before = Snapshot([model])
    with pytest.raises(EditError, match="commit the first"):
        edit.commit()
    with pytest.raises(EditError, match="order already"):
        depth.Arrange(places, "stage", (0, 1, 2))
    with pytest.raises(EditError, match="blocks 0 to 2"):
        depth.Arrange(places, "stage", (0, 3))
    with pytest.raises(EditError, match="change of the module tree"):
        Edit(axes).depth("stage")  # type: ignore[arg-type]
    before.check()
    history = [{"axes": [], "depth": {"slots": {"stem": {"build": "Module"}}}}]
    fresh = net("residual").model()
    untouched = Snapshot([fresh])
    with pytest.raises(TraceError):
        replay(history, fresh, x)
    untouched.check()
    for hostile in ("os.system", "eval", "Parameter"):
        with pytest.raises(EditError, match=r"torch\.nn"):
            replay([{"axes": [], "depth": {"slots": {"stem": {"build": hostile}}}}], net("residual").model(), x)
    with pytest.raises(EditError, match="no module"):
        replay([{"axes": [], "depth": {"slots": {"nowhere": {"build": "ReLU"}}}}], net("residual").model(), x)


def test_a_checkpoint_of_another_model_leaves_everything_as_it_was(tmp_path: Any) -> None:
    model, x, axes, places = opened(net("residual"))
    axes = Edit(axes).depth(depth.Remove(places, "stage.0")).commit().axes
    path = tmp_path / "checkpoint.safetensors"
    save(path, axes)
    other = net("mixer").model()
    before = Snapshot([other])
    with pytest.raises(CheckpointError):
        load(path, other, net("mixer").x())
    before.check()
    wider = net("residual").model()
    Edit(trace(wider, x)).grow("stem", 1).commit()
    before = Snapshot([wider])
    with pytest.raises(CheckpointError, match="in this model"):
        load(path, wider, x)
    before.check()
    assert model is not None


def test_a_silent_branch_is_removed_exactly() -> None:
    """Removing a branch whose last layer is zero changes nothing, and the change says so."""
    model, x, axes, places = opened(net("transformer"))
    assert depth.RemoveBranch(places, "layers.1.mlp").inexact()
    with torch.no_grad():
        for p in model.layers[1].mlp[2].parameters():
            p.zero_()
    expected = model(x)
    change = depth.RemoveBranch(places, "layers.1.mlp")
    assert change.inexact() == ()
    Edit(axes).depth(change).commit()
    assert isinstance(model.layers[1].mlp, Zero)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


def test_orders() -> None:
    assert depth.stacked(3, 6) == (0, 1, 2, 0, 1, 2)
    assert depth.stacked(2, 5) == (0, 1, 0, 1, 0)
    assert depth.interlaced(3, 6) == (0, 0, 1, 1, 2, 2)
    assert depth.interlaced(2, 5) == (0, 0, 0, 1, 1)
    assert depth.upscaled(32, 8) == (*range(24), *range(8, 32))
    with pytest.raises(EditError):
        depth.stacked(3, 3)
    with pytest.raises(EditError):
        depth.upscaled(4, 2)


@pytest.mark.parametrize("wrap", [torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm])
def test_copies_of_normalized_weights_compute_their_own(wrap: Any) -> None:
    """Hooks and parametrizations by which PyTorch computes weights are copied, and train on their own."""

    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*(nn.Sequential(wrap(nn.Linear(6, 6)), nn.Tanh()) for _ in range(2)))
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks(x))

    model, x = Normalized(), torch.randn(3, 6)
    axes = trace(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(x)
    Edit(axes, optimizer).depth(depth.duplicated(depth.places(axes), "blocks.0")).commit()
    copied, original = model.blocks[1][0], model.blocks[0][0]
    assert torch.equal(model.blocks[1](x), model.blocks[0](x))
    _backward(model, x, optimizer)
    optimizer.step()
    assert not torch.equal(model.blocks[1](x), model.blocks[0](x))
    assert {id(p) for p in copied.parameters()}.isdisjoint(id(p) for p in original.parameters())
