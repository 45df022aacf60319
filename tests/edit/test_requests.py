"""Invalid requests are refused before anything is touched, and the message says what to do."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from meristem.axes import trace
from meristem.edit import Edit, Gather, ZeroFanOut
from meristem.errors import EditError, FrozenAxisError, StaleMapError, UnknownAxisError, WrappedModelError

from .models import subject
from .snapshot import Snapshot


@pytest.fixture
def mlp():
    return subject("mlp")


REQUESTS = {
    "unknown axis": (lambda e: e.prune("nowhere", [0]), UnknownAxisError, "nowhere"),
    "unknown unit": (lambda e: e.prune("0", [12]), EditError, "unknown unit 12"),
    "negative unit": (lambda e: e.prune("0", [-1]), EditError, "unknown unit -1"),
    "all units": (lambda e: e.prune("0", range(12)), EditError, "these are all 12 of them"),
    "a unit twice": (lambda e: e.prune("0", [1, 1]), EditError, "given twice"),
    "no unit": (lambda e: e.keep("0", []), EditError, "no units"),
    "frozen axis": (lambda e: e.prune("4", [0]), FrozenAxisError, "model output"),
    "frozen input": (lambda e: e.grow(e.axes["0.weight.1"], 1), FrozenAxisError, "model input"),
    "no newborn": (lambda e: e.grow("0", 0), EditError, "from 1"),
    "negative newborns": (lambda e: e.grow("0", -3), EditError, "from 1"),
    "half a newborn": (lambda e: e.grow("0", 0.5), EditError, "whole number"),
    "short order": (lambda e: e.permute("0", [1, 0]), EditError, "has 12 units, the order names 2"),
    "foreign gather": (lambda e: e.gather("0", Gather.grow(20, 1)), EditError, "unknown unit 19"),
    "not an axis": (lambda e: e.prune(3, [0]), EditError, "expected an axis or its name"),
    "axis of another map": (
        lambda e: e.grow(subject("residual_mlp").axes.editable[0], 1),
        EditError,
        "not of this map",
    ),
    "two growth methods": (lambda e: e.grow("0", 1).grow("0", 1, _Other()), EditError, "commit the first"),
    "a growth method that needs signals": (lambda e: e.grow("0", 1, "random"), EditError, "Plasticity"),
    "unit that is gone": (lambda e: e.prune("0", range(6)).prune("0", [7]), EditError, "unknown unit 7"),
}


class _Other(ZeroFanOut):
    """Another growth method."""


@pytest.mark.parametrize("what", REQUESTS)
def test_the_request_is_refused_at_once(mlp, what):
    request, error, message = REQUESTS[what]
    before = Snapshot([mlp.model])
    with pytest.raises(error, match=message):
        request(Edit(mlp.axes))
    before.check()


def test_one_channel_of_a_grouped_layer_is_no_unit():
    """A channel cannot leave its group alone: the layer has groups and channels in a group, and says so."""
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.Flatten(), nn.Linear(192, 5)
    model = nn.Sequential(*layers)
    edit = Edit(trace(model, torch.randn(2, 3, 8, 8)))
    before = Snapshot([model])
    with pytest.raises(UnknownAxisError, match=r"several axes found for '2'; did you mean one of: 0\[0\], 2\[1\]"):
        edit.prune("2", [0])
    before.check()
    assert not edit.changes
    edit.prune("2[1]", [0]).commit()
    assert model[2].weight.shape == (8, 2, 3, 3)


def test_a_refused_request_leaves_the_edit_as_it_was(mlp):
    edit = Edit(mlp.axes).grow("0", 1)
    with pytest.raises(EditError):
        edit.prune("0", [99])
    assert edit.commit().axes["0"].size == 13


def refused(edit: Edit, error: type[Exception], message: str, *roots: nn.Module) -> None:
    before = Snapshot([edit.axes.model, *roots], edit.optimizers)
    with pytest.raises(error, match=message):
        edit.commit()
    with pytest.raises(error, match=message):
        edit.preview()
    before.check()


def test_nothing_to_do(mlp):
    refused(Edit(mlp.axes), EditError, "nothing to do")


def test_committed_twice(mlp):
    edit = Edit(mlp.axes).grow("0", 1)
    edit.commit()
    for again in (edit.commit, edit.preview, lambda: edit.grow("0", 1)):
        with pytest.raises(EditError, match="committed already"):
            again()


def test_an_old_map(mlp):
    Edit(mlp.axes).grow("0", 1).commit()
    refused(Edit(mlp.axes).grow("2", 1), StaleMapError, "has the shape")


def test_a_layer_replaced_behind_our_back(mlp):
    mlp.model[2] = nn.Linear(12, 11).double()
    refused(Edit(mlp.axes).grow("0", 1), StaleMapError, "has the shape")


def test_modules_exchanged_behind_our_back():
    def softer(model):
        model[1] = nn.Sequential(nn.ReLU(), nn.Softmax(-1))

    def other(model):
        model[1] = nn.Tanh()

    def gone(model):
        del model[1]

    def more(model):
        model.append(nn.Softmax(-1))

    for change, message in (
        (softer, "'1' was a ReLU, it is a Sequential now"),
        (other, "'1' was a ReLU, it is a Tanh now"),
        (gone, "."),
        (more, "a module 3 that the map does not know"),
    ):
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
        edit = Edit(trace(model, torch.randn(4, 6))).grow("0", 1)
        change(model)
        refused(edit, StaleMapError, message)


def test_a_module_that_only_watches_may_come():
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    edit = Edit(trace(model, torch.randn(4, 6))).grow("0", 1)
    model[1].register_module("watch", nn.Identity())
    edit.commit()


def test_a_parameter_added_behind_our_back(mlp):
    mlp.model.register_parameter("extra", nn.Parameter(torch.zeros(2)))
    refused(Edit(mlp.axes).grow("0", 1), StaleMapError, "extra")


def test_a_parameter_removed_behind_our_back(mlp):
    mlp.model[0].bias = None
    refused(Edit(mlp.axes).grow("0", 1), StaleMapError, "no longer has a tensor 0.bias")


def test_an_attribute_changed_behind_our_back(mlp):
    mlp.model[0].out_features = 13
    refused(Edit(mlp.axes).grow("0", 1), StaleMapError, "out_features")


def test_weights_untied_behind_our_back():
    found = subject("tied_language_model")
    layout = next(layout for layout in found.axes.layouts.values() if len(layout.names) > 1)
    owner, _, name = layout.names[1].rpartition(".")
    module = found.model.get_submodule(owner)
    setattr(module, name, nn.Parameter(getattr(module, name).detach().clone()))
    refused(Edit(found.axes).grow(found.axes.editable[0], 1), StaleMapError, "no longer the same tensor")


def _squares() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 3)).double()


@pytest.mark.parametrize(
    "tie",
    [
        pytest.param(lambda m: setattr(m[2], "weight", m[1].weight), id="weights"),
        pytest.param(lambda m: setattr(m[0], "bias", m[2].bias), id="biases"),
        pytest.param(lambda m: setattr(m[2], "bias", m[1].bias), id="apart from what is edited"),
    ],
)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda e: e.permute("0", range(11, -1, -1)), id="permute"),
        pytest.param(lambda e: e.prune("0", [1]), id="prune"),
        pytest.param(lambda e: e.grow("0", 1), id="grow"),
    ],
)
def test_parameters_tied_behind_our_back(tie, change):
    model = _squares()
    edit = change(Edit(trace(model, torch.randn(2, 6).double())))
    tie(model)
    refused(edit, StaleMapError, "have become the same tensor; trace the model again")


def test_buffers_tied_behind_our_back():
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Linear(12, 3))
    axes = trace(model, torch.randn(4, 6))
    model[3].running_mean = model[1].running_mean
    refused(Edit(axes).grow("0", 1), StaleMapError, "running_mean .* the same tensor")
    refused(Edit(axes).grow("2", 1), StaleMapError, "running_mean .* the same tensor")


def test_tied_and_traced_again():
    model = _squares()
    model[2].weight = model[1].weight
    axes = trace(model, torch.randn(2, 6).double())
    before = model(torch.ones(1, 6).double())
    Edit(axes).permute("0", range(11, -1, -1)).commit()
    assert model[2].weight is model[1].weight
    torch.testing.assert_close(model(torch.ones(1, 6).double()), before, rtol=1e-12, atol=1e-12)


class TestMeta:
    """A model without values."""

    @pytest.fixture
    def model(self):
        with torch.device("meta"):
            return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))

    def test_nothing_can_be_born(self, model):
        axes = trace(model, torch.randn(2, 6, device="meta"))
        before = dict(model.named_parameters())
        for act in (Edit(axes).grow("0", 1).commit, Edit(axes).prune("0", [2]).grow("0", 1).preview):
            with pytest.raises(EditError, match=r"0 cannot grow: 0.weight is on the meta device .*to_empty"):
                act()
        assert all(p is before[name] and p.shape == before[name].shape for name, p in model.named_parameters())

    def test_units_can_go(self, model):
        axes = trace(model, torch.randn(2, 6, device="meta"))
        Edit(axes).prune("0", [2]).commit()
        assert model(torch.randn(2, 6, device="meta")).shape == (2, 3)
        assert model[0].out_features == 11


def test_a_model_that_is_gone():
    axes = replace(subject("mlp").axes, model_reference=lambda: None)
    with pytest.raises(StaleMapError, match="no longer exists"):
        Edit(axes).grow("0", 1).commit()


def test_a_parameter_that_wraps_tensors(mlp):
    from torch.testing._internal.two_tensor import TwoTensor

    weight = mlp.model[0].weight.detach()
    mlp.model[0].weight = nn.Parameter(TwoTensor(weight, weight))
    before = mlp.model[0].weight
    with pytest.raises(WrappedModelError, match="TwoTensor"):
        Edit(mlp.axes).grow("0", 1).commit()
    assert mlp.model[0].weight is before


class TestOptimizers:
    """Optimizers that could not train the model afterwards."""

    def test_of_another_model(self, mlp):
        other = SGD(subject("mlp").model.parameters(), lr=0.1)
        refused(Edit(mlp.axes, other).grow("0", 1), StaleMapError, "holds none of the model's parameters")

    def test_from_before_an_edit_that_it_did_not_follow(self, mlp):
        optimizer = SGD(mlp.model.parameters(), lr=0.1)
        with pytest.warns(UserWarning, match="SGD"):
            axes = Edit(mlp.axes).grow("0", 1).commit().axes
        refused(Edit(axes, optimizer).grow("0", 1), StaleMapError, "not the model's, and lack 0.weight")

    def test_that_lack_a_sibling(self, mlp):
        optimizer = SGD([mlp.model[0].weight, mlp.model[0].bias], lr=0.1)
        refused(Edit(mlp.axes, optimizer).grow("0", 1), EditError, r"2.weight changes with 0.weight .* pass all")

    def test_frozen_siblings_need_no_optimizer(self, mlp):
        mlp.model[2].requires_grad_(False)
        optimizer = SGD([p for p in mlp.model.parameters() if p.requires_grad], lr=0.1)
        Edit(mlp.axes, optimizer).grow("0", 1).commit()
        assert not mlp.model[2].weight.requires_grad

    def test_foreign_parameters_beside_all_of_the_models_are_fine(self, mlp):
        temperature = nn.Parameter(torch.ones(()))
        optimizer = Adam([*mlp.model.parameters(), temperature], lr=0.1)
        Edit(mlp.axes, optimizer).grow("0", 1).commit()
        assert optimizer.param_groups[0]["params"][-1] is temperature

    def test_not_an_optimizer(self, mlp):
        with pytest.raises(EditError, match="expected Optimizer objects, got list"):
            Edit(mlp.axes, [[1]])  # type: ignore[list-item]


class TestFollow:
    """Copies that are none."""

    def test_another_model(self, mlp):
        other = subject("residual_mlp").model
        refused(Edit(mlp.axes, follow=other).grow("0", 1), StaleMapError, "no copy of the model", other)

    def test_the_model_itself(self, mlp):
        refused(Edit(mlp.axes, follow=mlp.model).grow("0", 1), EditError, "the model itself")

    def test_a_copy_that_missed_an_edit(self, mlp):
        ema = copy.deepcopy(mlp.model)
        axes = Edit(mlp.axes).grow("0", 1).commit().axes
        refused(Edit(axes, follow=ema).grow("0", 1), StaleMapError, "no copy of the model", ema)

    def test_a_copy_with_other_ties(self):
        found = subject("tied_language_model")
        layout = next(layout for layout in found.axes.layouts.values() if len(layout.names) > 1)
        untied = copy.deepcopy(found.model)
        owner, _, name = layout.names[1].rpartition(".")
        module = untied.get_submodule(owner)
        setattr(module, name, nn.Parameter(getattr(module, name).detach().clone()))
        axis = next(
            axis for axis in found.axes.editable if any(p.layout is layout for p in found.axes.places[axis.index])
        )
        refused(Edit(found.axes, follow=untied).grow(axis, 1), StaleMapError, "are two tensors in it, one in", untied)

        model = _squares()
        tied = copy.deepcopy(model)
        tied[2].weight = tied[1].weight
        axes = trace(model, torch.randn(2, 6).double())
        edit = Edit(axes, follow=tied).grow("0", 1).grow("1", 1)
        refused(edit, StaleMapError, "are one tensor in it, two in", tied)


def test_growth_methods_must_give_what_they_promise(mlp):
    class Wrong(ZeroFanOut):
        def values(self, s):
            return torch.zeros(1)

    class WrongFactor(ZeroFanOut):
        def weight_factor(self, s):
            return torch.ones(2)

    before = Snapshot([mlp.model])
    with pytest.raises(EditError, match="gave newborn entries of shape"):
        Edit(mlp.axes).grow("0", 1, Wrong()).commit()
    with pytest.raises(EditError, match="gave factors of shape"):
        Edit(mlp.axes).grow("0", 1, WrongFactor()).commit()
    before.check()


def test_calls_for_one_axis_follow_one_another(mlp):
    axes = (
        Edit(mlp.axes).prune("0", [0, 1]).grow("0", 3).prune("0", [0, 12]).permute("0", range(10, -1, -1)).commit().axes
    )
    assert axes["0"].size == mlp.model[0].out_features == 11
    assert axes.history[-1]["axes"][0]["units"][:2] == [[-1, 2], [11, 1]]


def test_a_map_traced_anew_accepts_axes_that_are_equal(mlp):
    args, kwargs = mlp.row.example()
    axes = trace(mlp.model, args, kwargs)
    Edit(axes).grow(mlp.axes["0"], 1).commit()
