"""Branches of concatenations: found, removed, inserted, and followed by everything."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem import Edit, Plasticity, depth, load, replay, save, trace
from meristem.depth import BranchTaylor, Gate, MeasuredLoss
from meristem.diagnose import Monitor
from meristem.edit.joints import Concat, Empty
from meristem.edit.tree import Opening, Widths
from meristem.errors import EditError, FrozenAxisError
from meristem.grow import ZeroFanOut
from meristem.integrate import StepCounts, TwoSpeed
from meristem.mask import RigL, Sparse
from meristem.prune import ContributionUtility
from meristem.schedule import Every

from ..edit.snapshot import Snapshot, same, values
from .failing import fail_everywhere
from .models import Net, net


class DenseLayer(nn.Module):
    def __init__(self, given: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(given), nn.Conv2d(given, 3, 3, padding=1)

    def forward(self, tensors: list[Tensor]) -> Tensor:
        return self.conv(torch.relu(self.norm(torch.cat(tensors, 1))))


class Dense(nn.Module):
    """Every layer reads all before it, through a batch normalization of the concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.layers = nn.ModuleList(DenseLayer(4 + 3 * number) for number in range(3))
        self.norm, self.head = nn.BatchNorm2d(13), nn.Linear(13, 5)

    def forward(self, x: Tensor) -> Tensor:
        tensors = [self.stem(x)]
        for layer in self.layers:
            tensors.append(layer(tensors))
        return self.head(self.norm(torch.cat(tensors, 1)).mean((2, 3)))


class Halving(nn.Module):
    """Branches that halve the image: by a stride, by pooling, and by an operator that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 1)
        self.strided = nn.Conv2d(5, 4, 3, stride=2, padding=1)
        self.pooled = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(5, 3, 1))
        self.late = nn.Conv2d(5, 2, 1)
        self.head = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        late = F.max_pool2d(self.late(x), 2)
        return self.head(torch.cat([torch.relu(self.strided(x)), self.pooled(x), late], 1))


class Rows(nn.Module):
    """A concatenation of features within another, some of which the sum with the input's copy forbids."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 4), nn.Linear(6, 5), nn.Linear(6, 3)
        self.tied = nn.Linear(6, 3)
        self.norm = nn.LayerNorm(15) if norm else nn.Identity()
        self.head = nn.Linear(15, 2)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.cat([torch.tanh(self.first(x)), self.second(x).relu()], -1)
        third, tied = self.third(x), self.tied(x)
        return self.head(self.norm(torch.cat([inner, third, tied + third], -1)))


def image() -> Tensor:
    return torch.randn(3, 3, 8, 8)


def rows() -> Tensor:
    return torch.randn(5, 6)


CONCATS = {
    "inception": (net("inception"), {"narrow", "wide"}),
    "dense": (Net("dense", Dense, image), {"layers.0", "layers.1", "layers.2"}),
    "halving": (Net("halving", Halving, image), {"strided", "pooled"}),
    "rows": (Net("rows", Rows, rows), {"first", "second"}),
    "normed": (Net("normed", lambda: Rows(norm=True), rows), {"first", "second"}),
}


def opened(name: str) -> tuple[nn.Module, Tensor, Any, depth.Places]:
    found, _ = CONCATS[name]
    model, x = found.model(), found.x()
    axes = trace(model, x)
    return model, x, axes, depth.places(axes)


def without_columns(model: nn.Module, branch: str) -> nn.Module:
    """The model with zeros in the columns that read a branch, counted by hand."""
    spans: dict[str, list[tuple[str, int, int]]] = {
        "narrow": [("head", 0, 4)], "wide": [("head", 4, 9)],
        "layers.0": [("layers.1.conv", 4, 7), ("layers.2.conv", 4, 7), ("head", 4, 7)],
        "layers.1": [("layers.2.conv", 7, 10), ("head", 7, 10)], "layers.2": [("head", 10, 13)],
        "strided": [("head", 0, 4)], "pooled": [("head", 4, 7)],
        "first": [("head", 0, 4)], "second": [("head", 4, 9)],
    }  # fmt: skip
    model = copy.deepcopy(model)
    with torch.no_grad():
        for reader, start, end in spans[branch]:
            model.get_submodule(reader).weight[:, start:end] = 0  # type: ignore[index]
    return model


@pytest.mark.parametrize("name", CONCATS)
def test_branches_are_those_found_by_hand_and_others_say_why_not(name: str) -> None:
    model, _, axes, places = opened(name)
    found = {branch.name: branch.frozen for branch in places.branches if branch.join == "cat"}
    assert {branch for branch, frozen in found.items() if frozen is None} == CONCATS[name][1]
    assert axes.model is model
    if name == "halving":
        assert "cannot be run" in str(found["late"])
    if name == "rows":
        assert "no module returns" in str(
            next(frozen for branch, frozen in found.items() if branch not in ("first", "second"))
        )


@pytest.mark.parametrize(("name", "branch"), [(n, b) for n in CONCATS if n != "normed" for b in sorted(CONCATS[n][1])])
@pytest.mark.parametrize("training", [False, True])
def test_removal_is_zeros_in_what_reads_the_branch(name: str, branch: str, training: bool) -> None:
    model, x, axes, places = opened(name)
    model.train(training)
    reference = without_columns(model, branch)
    edit = Edit(axes).depth(depth.RemoveBranch(places, branch))
    preview = edit.preview(x)
    assert not preview.exact
    after = edit.commit().axes
    assert preview.parameters[1] == after.parameter_count() == sum(p.numel() for p in model.parameters())
    assert all(tensor.numel() for tensor in model.state_dict().values())
    torch.testing.assert_close(model(x), reference(x), rtol=0, atol=1e-12)
    model(x).square().mean().backward()


def test_all_branches_but_one_can_go_at_once_and_not_all() -> None:
    model, x, axes, places = opened("halving")
    before = Snapshot([model])
    everything = Edit(axes).depth(depth.RemoveBranch(places, "strided")).depth(depth.RemoveBranch(places, "pooled"))
    everything.commit()
    assert model.head.weight.shape[1] == 2
    assert model(x).shape == (3, 2, 4, 4)
    model, x, axes, places = opened("inception")
    before = Snapshot([model])
    with pytest.raises(EditError, match=r"nothing would be left of head\.weight"):
        Edit(axes).depth(depth.RemoveBranch(places, "narrow")).depth(depth.RemoveBranch(places, "wide")).commit()
    before.check()


INSERTED = [
    ("inception", "narrow", 3), ("inception", "wide", 7), ("inception", "stem", 2), ("inception", "wide.0", 4),
    ("dense", "stem", 3), ("dense", "layers.1", 3), ("halving", "pooled", 2), ("halving", "late", 2),
    ("rows", "first", 4), ("rows", "second", 9),
]  # fmt: skip


@pytest.mark.parametrize(("name", "module", "units"), INSERTED)
def test_insertion_is_exact_and_its_removal_brings_everything_back(name: str, module: str, units: int) -> None:
    """In train mode and in eval mode; parameters, buffers and optimizer state bit for bit."""
    model, x, axes, places = opened(name)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = {name: copy.deepcopy(optimizer.state[p]) for name, p in model.named_parameters()}
    reference = copy.deepcopy(model)
    change = depth.ConcatBranch(places, module, units)
    assert change.inexact() == ()
    edit = Edit(axes, optimizer).depth(change)
    preview = edit.preview(x)
    assert preview.exact
    assert preview.drift is not None
    assert preview.drift < 1e-12
    commit = edit.commit()
    for training in (False, True):
        model.train(training)
        reference.train(training)
        torch.testing.assert_close(copy.deepcopy(model)(x), copy.deepcopy(reference)(x), rtol=0, atol=1e-12)
    assert preview.parameters[1] == sum(p.numel() for p in model.parameters())
    (first,) = {p.shape[0] for n, p in model.named_parameters() if n == f"{module}.1.weight"} or {units}
    assert first == units
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    places = depth.places(commit.axes)
    cut = depth.RemoveBranch(places, f"{module}.1")
    assert cut.inexact() == ()
    assert Gate().scores([cut]).tolist() == [0.0]
    Edit(commit.axes, optimizer).depth(cut).commit()
    assert not any(isinstance(part, (Concat, Empty)) for part in model.modules())
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(same(dict(optimizer.state[p]), dict(moments[name])) for name, p in model.named_parameters())


def test_a_branch_learns_and_is_no_copy() -> None:
    model, x, axes, places = opened("inception")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    old = {id(p) for p in model.parameters()}
    Edit(axes, optimizer).depth(depth.ConcatBranch(places, "wide", 5)).commit()
    module, branch = model.wide.children()
    assert torch.equal(module[0].weight, branch[0].weight)
    assert not torch.equal(module[2].weight[:5], branch[2].weight)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    born = [p for p in model.parameters() if id(p) not in old]
    assert born
    assert all(bool(p.grad.abs().sum() > 0) for p in born if p.grad is not None)


def test_what_has_no_units_of_its_own_is_refused() -> None:
    rows_model, _, axes, places = opened("rows")
    assert axes.model is rows_model
    with pytest.raises(EditError, match="also those of tied"):
        depth.ConcatBranch(places, "third", 2)
    with pytest.raises(EditError, match="not called"):
        depth.ConcatBranch(places, "nothing", 2)
    with pytest.raises(EditError, match="model output"):
        depth.ConcatBranch(places, "head", 2)
    for units, text in ((0, "2 or more"), (1, "2 or more"), (2.5, "whole number")):
        with pytest.raises(EditError, match=text):
            depth.ConcatBranch(places, "first", units)  # type: ignore[arg-type]
    model, _, axes, places = opened("inception")
    before = Snapshot([model])
    both = Edit(axes).depth(depth.ConcatBranch(places, "wide", 2)).depth(depth.ConcatBranch(places, "wide.2", 2))
    with pytest.raises(EditError, match="two depth edits"):
        both.commit()
    before.check()


def test_a_normalization_over_the_concatenation_is_said() -> None:
    model, x, axes, places = opened("normed")
    change = depth.ConcatBranch(places, "first", 2)
    assert change.inexact() == ("normalized",)
    drift = Edit(axes).depth(change).preview(x).drift
    assert drift is not None
    assert drift > 1e-3
    cut = depth.RemoveBranch(places, "first")
    with pytest.raises(EditError, match="normalized"):
        Gate().scores([cut])
    with pytest.raises(EditError, match="normalized"):
        BranchTaylor().scores([cut], lambda: model(x).square().mean())
    with torch.no_grad():
        model.head.weight[:, :4] = 0
    assert depth.RemoveBranch(depth.places(trace(model, x)), "first").inexact() != ()


Make = Callable[[depth.Places], depth.Change]
EDITS: dict[str, tuple[str, Make]] = {
    "remove": ("dense", lambda p: depth.RemoveBranch(p, "layers.1")),
    "flat": ("halving", lambda p: depth.RemoveBranch(p, "strided")),
    "insert": ("inception", lambda p: depth.ConcatBranch(p, "wide", 3)),
    "dense": ("dense", lambda p: depth.ConcatBranch(p, "layers.1", 2)),
}


@pytest.mark.parametrize("case", EDITS)
def test_history_checkpoint_and_replay(case: str, tmp_path: Any) -> None:
    """With units edited in the same transaction, before and after it."""
    name, make = EDITS[case]
    model, x, axes, places = opened(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model(x).square().mean().backward()
    optimizer.step()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    edit = Edit(axes, optimizer, averaged).depth(make(places)).prune("stem", [1])
    after = edit.commit().axes
    after = Edit(after, optimizer, averaged).grow(after.editable[-1], 2).commit().axes
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in averaged.module.state_dict().items()} == shapes
    averaged.update_parameters(model)
    fresh = CONCATS[name][0].model()
    again = replay(json.loads(json.dumps(list(after.history))), fresh, x)
    assert {name: tuple(tensor.shape) for name, tensor in fresh.state_dict().items()} == shapes
    assert [(axis.name, axis.size) for axis in again] == [(axis.name, axis.size) for axis in after]
    path = tmp_path / "checkpoint.safetensors"
    save(path, after, optimizer)
    loaded = CONCATS[name][0].model()
    other = torch.optim.Adam(loaded.parameters(), lr=1e-2)
    load(path, loaded, x, optimizers=other)
    assert same(values(loaded)[0], values(model)[0])
    assert same(values(other), values(optimizer))
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("case", ["remove", "insert"])
def test_a_failure_anywhere_changes_nothing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, make = EDITS[case]
    model, x, axes, places = opened(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model(x).square().mean().backward()
    optimizer.step()
    copied, change = copy.deepcopy(model), make(places)
    before = Snapshot([model, copied], [optimizer])
    edit = Edit(axes, optimizer, copied).depth(change)
    assert fail_everywhere(edit.commit, before, monkeypatch, stride=3) > 9


def test_the_parameters_of_a_branch_that_went_have_no_successors() -> None:
    model, x, axes, places = opened("inception")
    gone, reader = list(model.narrow.parameters()), model.head.weight
    commit = Edit(axes).depth(depth.RemoveBranch(places, "narrow")).commit()
    assert commit.removed == ("narrow",)
    assert not any(p in commit.replaced for p in gone)
    assert commit.replaced[reader] is model.head.weight
    assert model(x).shape == (3, 2, 8, 8)


def test_records_that_do_not_fit_are_refused() -> None:
    """A history may not empty what stays, nor open what is not there."""
    model, x, axes, _ = opened("inception")
    before = Snapshot([model])
    depth_record = {"containers": {}, "slots": {}, "settings": []}
    for widths, error, text in (
        (Widths(emptied=("narrow.0",)), EditError, "nothing would be left of narrow.0"),
        (Widths(emptied=("nobody",)), EditError, "does not have"),
        (Widths(emptied=("head",)), FrozenAxisError, "may not be edited"),
        (Widths(opened=(Opening(axis="narrow.0", module="narrow", units=2),)), Exception, "could not be run"),
    ):
        record = {"axes": [], "depth": {**depth_record, "widths": widths.model_dump()}}
        with pytest.raises(error, match=text):
            replay([record], model, x)
        before.check()
    assert axes.model is model


def test_criteria() -> None:
    """Taylor is the derivative of a gate on the branch, gates are the columns, losses are those of the edited model."""
    model, x, _, places = opened("inception")
    cuts = depth.removable_branches(places)
    assert [cut.branch for cut in cuts] == ["narrow", "wide"]

    def loss() -> Tensor:
        return (model(x) - 0.3).square().mean()

    before = Snapshot([model])
    taylor, gates, measured = (c.scores(cuts, loss) for c in (BranchTaylor(), Gate(), MeasuredLoss()))
    before.check()
    for number, cut in enumerate(cuts):
        gate = torch.ones((), dtype=torch.float64, requires_grad=True)
        handle = model.get_submodule(cut.branch).register_forward_hook(lambda _m, _g, y, gate=gate: y * gate)
        (expected,) = torch.autograd.grad(loss(), gate)
        handle.remove()
        torch.testing.assert_close(taylor[number], expected.abs(), rtol=1e-10, atol=1e-14)
        silent = without_columns(model, cut.branch)
        torch.testing.assert_close(measured[number], ((silent(x) - 0.3).square().mean() - loss()).detach())
    columns = model.head.weight.detach().abs()
    assert gates.tolist() == [float(columns[:, :4].max()), float(columns[:, 4:].max())]
    with pytest.raises(EditError, match="block"):
        depth.BlockInfluence().scores(cuts, loss)


def test_gain_and_cost_count_what_is_new() -> None:
    model, x, axes, places = opened("inception")

    def loss() -> Tensor:
        return model(x).square().mean()

    change = depth.ConcatBranch(places, "narrow", 3)
    (gain,) = depth.predicted_gains(axes, [change], loss).tolist()
    assert depth.cost(axes, change).parameters == 3 * 6 + 3 + 2 * 3
    Edit(axes).depth(change).commit()
    (gradient,) = torch.autograd.grad(loss(), model.head.weight)
    assert gain == pytest.approx(float(gradient[:, 4:7].square().sum()), rel=0.9)  # other random numbers
    assert gain > 0


@pytest.mark.parametrize("case", ["remove", "insert"])
def test_masks_follow(case: str) -> None:
    name, make = EDITS[case]
    model, x, axes, places = opened(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparse = Sparse(model, optimizer, RigL(density=0.5, interval=2, end=100))
    reader = "head.weight" if case == "insert" else "layers.2.conv.weight"
    before = sparse.masks[reader].clone()
    Edit(axes, optimizer, follow=[sparse]).depth(make(places)).commit()
    after = sparse.masks[reader]
    assert after.shape == model.get_parameter(reader).shape
    if case == "insert":  # the columns that are born lie behind those of the module
        assert torch.equal(after[:, :9], before)
        assert bool(after[:, 9:].all())
    else:
        assert torch.equal(after, torch.cat([before[:, :7], before[:, 10:]], 1))
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert not bool(model.get_parameter(reader)[~sparse.masks[reader]].any())


def test_edited_models_are_exported_and_compiled() -> None:
    model, x, axes, places = opened("halving")
    axes = Edit(axes).depth(depth.RemoveBranch(places, "strided")).commit().axes
    Edit(axes).depth(depth.ConcatBranch(depth.places(axes), "pooled", 2)).commit()
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x), rtol=0, atol=1e-12)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-12)


class Parallel(nn.Module):
    """Four branches of rows, of which any may go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 7)
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(7, n), nn.ReLU()) for n in (3, 4, 5, 6))
        self.norm, self.head = nn.BatchNorm1d(18), nn.Linear(18, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(self.norm(torch.cat([branch(x) for branch in self.branches], -1)))


class Loop:
    """Training with a controller that grows units and lets branches go."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model, self.x = Parallel(), torch.randn(16, 6)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.average = copy.deepcopy(self.model)
        self.sparse = Sparse(self.model, self.optimizer, RigL(density=0.7, end=40, interval=2))
        self.plasticity = Plasticity(
            self.model,
            self.optimizer,
            self.x,
            schedule=Every(2, grow=3, prune=0.1) | Every(3, shorten=1),
            grow=ZeroFanOut(),
            prune=ContributionUtility(every=2),
            shorten=depth.Shorten(BranchTaylor(), cuts=depth.removable_branches),
            integrate=[StepCounts(0.3), TwoSpeed()],
            monitor=Monitor(every=2),
            follow=[self.average, self.sparse],
            seed=3,
        )
        self.removed: list[str] = []

    def loss(self) -> Tensor:
        return (self.model(self.x) - 1).square().mean()

    def train(self, steps: int) -> Loop:
        for _ in range(steps):
            loss = self.loss()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            event = self.plasticity.step(loss, self.loss)
            self.removed += event.removed if event is not None else ()
        return self


def test_a_controller_lets_branches_go_and_goes_on_when_it_was_killed() -> None:
    whole, run, resumed = Loop().train(10), Loop().train(7), Loop()
    assert len(whole.removed) == 3
    assert sum(isinstance(part, Empty) for part in whole.model.modules()) == 3
    assert whole.model.head.in_features == sum(len(p) for n, p in whole.model.named_parameters() if "0.bias" in n)
    resumed.plasticity.load_state_dict(json.loads(json.dumps(run.plasticity.state_dict())))
    resumed.model.load_state_dict(run.model.state_dict())
    resumed.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    resumed.average.load_state_dict(run.average.state_dict())
    resumed.sparse.load_state_dict(run.sparse.state_dict())
    resumed.train(3)
    assert resumed.plasticity.state_dict() == whole.plasticity.state_dict()
    for one, two in ((resumed.model, whole.model), (resumed.average, whole.average)):
        assert same(values(one)[0], values(two)[0])
    assert same(values(resumed.optimizer), values(whole.optimizer))
