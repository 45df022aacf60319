"""The map of places against brute force: every edit is really made on a copy of the net, and the copy really run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from meristem import Edit, depth, trace
from meristem.errors import EditError, StaleMapError

from ..edit.snapshot import Snapshot
from .brute import brute_insertions, brute_removals, brute_runs, slots
from .brute_branches import brute_branches
from .looked import looked_at
from .models import NETS, Net, net


@pytest.mark.parametrize("found", NETS, ids=lambda n: n.name)
def test_insertions_are_those_of_brute_force(found: Net) -> None:
    _, places = looked_at(found.name)
    mine = {(way.side, way.module, way.inside is not None) for way in places.ways if way.frozen is None}
    assert mine == brute_insertions(found)
    assert {way.edge for way in places.insertions} == {way.edge for way in places.ways}


@pytest.mark.parametrize("found", NETS, ids=lambda n: n.name)
def test_removals_are_those_of_brute_force(found: Net) -> None:
    model, places = looked_at(found.name)
    mine = {removal.module for removal in places.removals if removal.frozen is None}
    leaking = {removal.module for removal in places.removals if "other ways" in (removal.frozen or "")}
    assert mine == brute_removals(found) - leaking
    assert leaking == ({"keeper"} & {path for path, _, _ in slots(model)})


@pytest.mark.parametrize("found", NETS, ids=lambda n: n.name)
def test_runs_and_branches_are_those_found_by_hand(found: Net) -> None:
    _, places = looked_at(found.name)
    runs = {(run.container, run.first, run.period, len(run)) for run in places.runs if run.frozen is None}
    assert runs == found.runs
    assert {branch.name for branch in places.branches if branch.frozen is None} == found.branches


@pytest.mark.parametrize("found", NETS, ids=lambda n: n.name)
def test_runs_are_those_of_brute_force(found: Net) -> None:
    """The longest of those that overlap; those of one block alone are no repetition."""
    _, places = looked_at(found.name)
    mine = {(r.container, r.first, r.period, len(r)) for r in places.runs if r.frozen is None and len(r) > 1}
    works = brute_runs(found)
    assert mine <= works

    def children(run: tuple[str, int, int, int]) -> set[int]:
        return set(range(run[1], run[1] + run[2] * run[3]))

    assert all(any(run[0] == own[0] and children(run) <= children(own) for own in mine) for run in works)


@pytest.mark.parametrize("found", NETS, ids=lambda n: n.name)
def test_branches_are_those_of_brute_force(found: Net) -> None:
    _, places = looked_at(found.name)
    assert {branch.name for branch in places.branches if branch.frozen is None} == brute_branches(found)


@pytest.mark.parametrize("found", [n for n in NETS if n.branches], ids=lambda n: n.name)
def test_a_removed_branch_adds_zeros(found: Net) -> None:
    """The model without a branch computes what the model computes if the branch's last module returns zeros."""
    x = found.x()
    for name in sorted(found.branches):
        model, silent = found.model(), found.model()
        silent.get_submodule(name).register_forward_hook(_zeros)
        axes = trace(model, x)
        Edit(axes).depth(depth.RemoveBranch(depth.places(axes), name)).commit()
        torch.testing.assert_close(model(x), silent(x), rtol=0, atol=1e-14)
        model(x).sum().backward()


def test_a_branch_of_several_calls_is_one() -> None:
    """It goes everywhere at once, and its score is the derivative by one gate on all its calls; a module that is not
    joined every time is none."""
    model, x = net("looped").model(), net("looped").x()
    places = depth.places(trace(model, x))
    found = {branch.name: branch for branch in places.branches}
    assert found["sometimes"].frozen == "it is called 2 times, and what it returns is joined 1 time only"
    assert len(found["block"].ways) == 2
    score = depth.BranchTaylor().scores([depth.RemoveBranch(places, "block")], lambda: model(x).square().mean())
    gate = torch.ones((), dtype=torch.float64, requires_grad=True)
    handle = model.get_submodule("block").register_forward_hook(lambda _m, _g, back: gate * back)
    (slope,) = torch.autograd.grad(model(x).square().mean(), gate)
    handle.remove()
    assert float(score) == pytest.approx(abs(float(slope)), rel=1e-12)


def _zeros(_module: nn.Module, _given: Any, returned: Tensor) -> Tensor:
    return returned * 0


def test_the_model_is_left_as_it_was() -> None:
    for found in NETS:
        model = found.model()
        axes = trace(model, found.x())
        before = Snapshot([model])
        places = depth.places(axes)
        assert places.ways is not None
        assert places.runs is not None
        assert places.branches is not None
        assert places.removals is not None
        assert places.beside is not None
        before.check()


def test_edges_are_shared_by_the_ways_to_them() -> None:
    """Behind the first block, before the second one: one edge. Before the first convolution: not before the block."""
    model = net("residual").model()
    places = depth.places(trace(model, net("residual").x()))
    edge = {way.name: way.edge for way in places.ways}
    assert edge["after stage.0"] == edge["before stage.1"]
    assert edge["after stage"] == edge["after stage.2"]
    assert edge["before stage.1"] != edge["before stage.1.conv1"]
    assert edge["after stage.0.conv1"] == edge["before stage.0.bn1"]
    names = {way.name for way in places.insertions}
    assert "after stage.0" in names
    assert "before stage.1" not in names


class Several(nn.Module):
    """Modules that return several things, and one that is given several."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.attention = nn.LSTM(6, 6, batch_first=True), nn.MultiheadAttention(6, 2, batch_first=True)
        self.join, self.head = nn.Bilinear(6, 6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, (state, _) = self.rnn(x)
        y, _ = self.attention(x, x + 1, x)
        return self.head(self.join(x + y, y) + state[0][:, None])


Passed = set[tuple[str, str, int, bool]]


def passed(model: nn.Module, x: Tensor) -> Passed:
    """By really running, everything made of the input that modules are given or return: side, module, number among the
    tensors, and whether it is an argument or the only result."""
    seen: Passed = set()

    def noting(path: str) -> Any:
        def note(_module: nn.Module, given: tuple[Any, ...], back: Any) -> None:
            for side, found in (("before", given), ("after", back)):
                for number, tensor in enumerate(tree_leaves(found)):
                    if isinstance(tensor, Tensor) and tensor.requires_grad:
                        seen.add((side, path, number, side == "before" or isinstance(back, Tensor)))

        return note

    for path, module in model.named_modules():
        if path:
            module.register_forward_hook(noting(path))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model(x.requires_grad_())
    return seen


def test_every_tensor_that_passes_a_module_is_listed() -> None:
    """It is at a tensor edge that is listed, and frozen with a reason if it is one of several."""
    nets = [(n.model(), n.x()) for n in NETS if n.x().is_floating_point()]
    for model, x in ((Several().double().eval(), torch.randn(2, 4, 6).double()), *nets):
        places = depth.places(trace(model, x))
        listed = {way.name: way for way in places.ways}
        seen = passed(model, x)
        assert seen
        for side, path, number, alone in seen:
            if number == 0 and alone:
                assert listed[f"{side} {path}"].entry is None
            elif f"{side} {path}[{number}]" in listed:
                assert "among other things" in str(listed[f"{side} {path}[{number}]"].frozen)
            else:  # the same tensor as the first argument
                assert f"{side} {path}" in listed


def test_one_of_several_tensors_is_frozen() -> None:
    model = Several().double().eval()
    places = depth.places(trace(model, torch.randn(2, 4, 6).double()))
    frozen = {way.name: way.frozen for way in places.insertions if way.entry is not None}
    assert {"after rnn[0]", "after rnn[1]", "before attention[1]", "before join[1]"} <= {*frozen}
    with pytest.raises(EditError, match="returns it among other things"):
        depth.Insert(places, "after rnn[0]", depth.ZeroResidual())


def fused(heads: int, **options: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, heads, 8, 0.1, batch_first=True, **options)
    return nn.Sequential(nn.Linear(6, 6), layer).double().eval(), torch.randn(2, 4, 6).double()


@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": nn.GELU()}], ids=["", "first", "gelu"])
@pytest.mark.parametrize("heard", [False, True])
def test_what_fused_operators_read_or_leave_out_is_frozen(options: dict[str, Any], heard: bool) -> None:
    """In eval mode without gradients PyTorch's transformer layers read the weights of their children, and do not call
    any, unless somebody listens: what is put there would not run, what is removed there would."""
    model, x = fused(2, **options)
    handle = model.get_submodule("1.dropout").register_forward_hook(lambda *_: None) if heard else None
    places = depth.places(trace(model, x))
    kinds = places.ways, places.removals, places.branches, places.sums
    ways, removals, branches, _ = ({place.name: place.frozen for place in kind} for kind in kinds)
    assert {"after 1.linear1", "after 1.dropout", "before 1.dropout1"} <= {*ways}
    assert {"1.dropout", "1.dropout1", "1.dropout2", "1.norm1"} <= {*removals}
    assert {*branches} == {"1.dropout1", "1.dropout2"}
    assert all(place.frozen for kind in kinds for place in kind if "1." in place.name)
    assert "object has no attribute" in str(ways["after 1.linear1"])
    for reason in (ways["before 1.dropout"], ways["after 1.dropout1"], removals["1.dropout"]):
        assert "does not call what is there in eval mode without gradients" in str(reason)
    assert ways["after 1"] is ways["before 1"] is removals["1"] is None
    (run,) = places.runs
    assert run.frozen is None
    assert len(model.get_submodule("1.dropout")._forward_hooks) == heard
    if handle is not None:
        handle.remove()


def test_what_is_put_into_a_transformer_layer_runs_with_and_without_gradients() -> None:
    """Of odd numbers of heads there is no fused operator, so that the children are called."""
    model, x = fused(3)
    places = depth.places(trace(model, x))
    axes = Edit(places.axes).depth(depth.Insert(places, "after 1.dropout", depth.ZeroResidual(hidden=3))).commit().axes
    with torch.no_grad():
        for parameter in model.get_submodule("1.dropout").parameters():
            parameter.normal_()
        free = model(x)
    torch.testing.assert_close(model(x), free, rtol=0, atol=1e-12)
    Edit(axes).depth(depth.RemoveBranch(depth.places(axes), "1.dropout1")).commit()
    with torch.no_grad():
        free = model(x)
    torch.testing.assert_close(model(x), free, rtol=0, atol=1e-12)


def test_the_features_of_a_tensor() -> None:
    """Channels of images, the last dimension of sequences, and in a mixer whatever the next layer mixes."""
    for name, where, expected in (
        ("residual", "after stage.0", 1),
        ("residual", "before head", 1),
        ("transformer", "after layers.0", 2),
        ("mixer", "after layers.0.tokens", 2),
        ("mixer", "after layers.0", 2),
        ("unet", "after middle.0", 1),
    ):
        model = net(name).model()
        assert depth.places(trace(model, net(name).x())).insertion(where).features == expected, (name, where)


def test_errors_name_what_is_possible() -> None:
    model = net("residual").model()
    axes = trace(model, net("residual").x())
    places = depth.places(axes)
    with pytest.raises(EditError, match=r"after stage\.0"):
        places.insertion("after nowhere")
    with pytest.raises(EditError, match=r"stage\.1"):
        places.removal("stem")
    with pytest.raises(EditError, match="0 runs"):
        places.run("head")
    model.stage.append(copy.deepcopy(model.stage[0]))
    with pytest.raises(StaleMapError):
        Edit(axes).depth(depth.Insert(places, "after stage.0", depth.ZeroResidual())).commit()
    with pytest.raises(StaleMapError):
        depth.RemoveBranch(places, "stage.0.bn2")


def test_a_configuration_is_evidence() -> None:
    """The model holds the settings from which its class builds it: the number of blocks in them follows, others of the
    same value do not."""

    class Settings:
        def __init__(self, blocks: int, classes: int) -> None:
            self.blocks, self.classes = blocks, classes

    class Configured(nn.Module):
        def __init__(self, settings: Settings) -> None:
            super().__init__()
            self.settings = settings
            self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(settings.blocks)))
            self.head = nn.Linear(6, settings.classes)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks(x))

    model = Configured(Settings(2, 2))
    places = depth.places(trace(model, torch.randn(3, 6)))
    assert [held.path for held in places.containers["blocks"].counts] == [("settings", "blocks")]


def test_lists_with_an_entry_for_each_block_follow() -> None:
    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 6)

        def forward(self, x: Tensor, scale: float) -> Tensor:
            return scale * torch.tanh(super().forward(x))

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = [1.0, 2.0, 3.0]
            self.colours = ["red", "green", "blue"]
            self.blocks = nn.ModuleList(Scaled() for _ in range(3))
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            for number, block in enumerate(self.blocks):
                x = block(x, self.scales[number])
            return self.head(x)

    model = Listed()
    axes = trace(model, torch.randn(3, 6))
    places = depth.places(axes)
    assert [held.path for held in places.containers["blocks"].lists] == [("scales",)]
    Edit(axes).depth(depth.Remove(places, "blocks.1")).commit()
    assert model.scales == [1.0, 3.0]
    assert model.colours == ["red", "green", "blue"]


def test_lists_that_are_run_through_together() -> None:
    """Two lists, one zip: a child more or less in one of them alone would shift the pairs."""

    class Zipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
            self.second = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            for one, two in zip(self.first, self.second, strict=False):
                x = two(one(x))
            return self.head(x)

    model = Zipped()
    places = depth.places(trace(model, torch.randn(3, 6)))
    assert all(way.frozen is not None for way in places.ways if way.inside in ("first", "second"))
    assert all(way.frozen is None for way in places.insertions)
    assert {removal.inside for removal in places.removals} == {None}


def test_places_of_other_widths_are_stale() -> None:
    """What they have not looked at yet they would compare with a model that is no more."""
    found = net("residual")
    model, x = found.model(), found.x()
    axes = trace(model, x)
    before, seen = depth.places(axes), depth.places(axes)
    assert len(seen.runs) == 1
    after = Edit(axes).grow("stage.0.conv1", 1).commit().axes
    assert len(seen.runs) == 1
    for kind in ("ways", "removals", "runs", "branches", "sums", "concatenations"):
        with pytest.raises(StaleMapError, match="other widths"):
            getattr(before, kind)
    assert depth.places(after).run("stage").frozen is None
