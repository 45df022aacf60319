"""Everything that holds a parameter follows, or is named."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from meristem.axes import trace
from meristem.edit import Edit, StaleParameterWarning

from .models import ROWS, exact_axes, some_edit, subject, trained
from .snapshot import same, values


class Kept(nn.Parameter):
    """A parameter of a class of its own."""


@pytest.fixture
def mlp():
    return subject("mlp")


@pytest.fixture(autouse=True)
def _no_false_alarm():
    with warnings.catch_warnings():
        warnings.simplefilter("error", StaleParameterWarning)
        yield


def test_parameters_are_new_objects_with_everything_users_hang_on_them(mlp):
    old = mlp.model[0].weight
    old.requires_grad_(False)
    old.no_decay, old.mask = "yes", torch.ones_like(old)
    mlp.model[2].weight = Kept(mlp.model[2].weight.detach())
    Edit(mlp.axes).prune("0", [0]).commit()
    new = mlp.model[0].weight
    assert new is not old
    assert not new.requires_grad
    assert new.no_decay == "yes"
    assert new.mask.shape == new.shape
    assert type(mlp.model[2].weight) is Kept
    assert isinstance(mlp.model[2].weight, nn.Parameter)


def test_hooks_follow_and_their_handles_remove_them(mlp):
    seen = []
    first = mlp.model[0].weight.register_hook(lambda gradient: seen.append(tuple(gradient.shape)))
    second = mlp.model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p))
    third = mlp.model[0].register_forward_hook(lambda module, *_: seen.append("forward"))
    Edit(mlp.axes).grow("0", 1).commit()
    mlp.backward()
    assert seen[:2] == ["forward", (13, 6)]
    assert seen[2] is mlp.model[0].weight
    for handle in (first, second, third):
        handle.remove()
    seen.clear()
    mlp.backward()
    assert not seen


def test_the_mode_and_the_frozen_stem_stay(mlp):
    mlp.model.train()
    mlp.model[0].requires_grad_(False)
    mlp.model[2].eval()
    Edit(mlp.axes).grow("0", 1).commit()
    assert mlp.model.training
    assert not mlp.model[2].training
    assert [p.requires_grad for p in mlp.model.parameters()] == [False, False, True, True, True, True]


def test_gradients_follow_and_accumulate(mlp):
    plain = subject("mlp")
    for found in (plain, mlp):
        found.backward(2)
    axes = Edit(mlp.axes).grow("0", 3).commit().axes
    assert not mlp.model[0].weight.grad[12:].any()
    for found in (plain, mlp):
        found.backward(3)
    assert torch.allclose(mlp.model[0].weight.grad[:12], plain.model[0].weight.grad, atol=1e-12)
    assert torch.allclose(mlp.model[2].weight.grad[:, :12], plain.model[2].weight.grad, atol=1e-12)
    Edit(axes).prune("0", [0]).commit()
    assert torch.allclose(mlp.model[0].weight.grad[:11], plain.model[0].weight.grad[1:], atol=1e-12)


def test_sparse_gradients_follow():
    model: Any = nn.Sequential(nn.Embedding(7, 6, sparse=True), nn.Linear(6, 3))
    tokens = torch.tensor([[1, 2], [2, 4]])
    axes = trace(model, tokens)
    model(tokens).sum().backward()
    dense = model[0].weight.grad.to_dense()
    Edit(axes).prune("0", [2]).commit()
    assert model[0].weight.grad.is_sparse
    assert torch.equal(model[0].weight.grad.to_dense(), dense[:, [0, 1, 3, 4, 5]])


def test_the_last_loss_may_still_be_alive(mlp):
    optimizer = trained(mlp, partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    kept = mlp.loss()  # its graph holds every old parameter
    axes = some_edit(mlp, optimizer).commit().axes
    mlp.backward()
    optimizer.step()
    again = mlp.loss()
    some_edit(mlp.edited(axes), optimizer).commit()
    kept.backward()
    again.backward()
    mlp.backward()


def test_no_old_tensor_survives(mlp):
    optimizer = trained(mlp, partial(torch.optim.Adam, lr=0.1))
    old = [(name, weakref.ref(p)) for name, p in mlp.model.named_parameters()]
    for name, parameter in mlp.model.named_parameters():
        old += [(name, weakref.ref(value)) for value in optimizer.state[parameter].values() if value.dim()]
    del parameter
    gc.disable()
    try:
        edit = some_edit(mlp, optimizer)
        commit = edit.commit()
        alive = [name for name, reference in old if reference() is not None]
    finally:
        gc.enable()
    assert set(alive) == {"4.bias"}, "only what the edit did not concern"
    assert not commit.stale


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_copies_follow_with_their_own_incumbents_and_the_models_newborns(name):
    found = subject(name)
    average = AveragedModel(found.model, use_buffers=True)
    plain = copy.deepcopy(found.model)
    optimizer = trained(found, partial(torch.optim.SGD, lr=1e-2))
    average.update_parameters(found.model)
    trained(found, partial(torch.optim.SGD, lr=1e-2))
    before = values(average)[0], values(plain)[0]
    edit = Edit(found.axes, optimizer, follow=[average, plain])
    for axis in found.axes.editable:
        edit.grow(axis, 2)
    axes = edit.commit().axes
    for ours, theirs in zip(found.model.parameters(), average.module.parameters(), strict=True):
        assert ours.shape == theirs.shape
        assert ours is not theirs
    args, kwargs = found.row.example()
    average(*args, **kwargs)
    plain(*args, **kwargs)
    average.update_parameters(found.model)
    back = Edit(axes, optimizer, follow=[average, plain])
    for axis in found.axes.editable:
        back.prune(axis.name, [axis.size, axis.size + 1])
    back.commit()
    assert same(values(plain)[0], before[1])


def test_newborns_of_a_copy_are_the_models(mlp):
    plain = copy.deepcopy(mlp.model)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(0.5)
    old = plain[0].weight.detach().clone()
    Edit(mlp.axes, follow=plain).grow("0", 2).commit()
    assert torch.equal(plain[0].weight[:12], old)
    assert torch.equal(plain[0].weight[12:], mlp.model[0].weight[12:])
    assert plain[0].out_features == 14


class TestContainers:
    """Parameters that modules hold in places of their own."""

    def test_lists_tuples_dicts_sets_and_weak_references(self):
        class Holder(nn.Sequential):
            def __init__(self) -> None:
                super().__init__(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
                weight, bias = self[0].weight, self[0].bias
                self.listed = [weight, [bias], None]
                self.paired = (1, (weight, bias))
                self.named = {"weight": weight, bias: "bias", "other": 3}
                self.gathered = {weight, bias}
                self.weak = weakref.ref(weight)
                self.__dict__["plain"] = weight

        model: Any = Holder()
        listed, named = model.listed, model.named
        Edit(trace(model, torch.randn(3, 4))).grow("0", 2).commit()
        weight, bias = model[0].weight, model[0].bias
        assert weight.shape == (8, 4)
        assert model.listed is listed
        assert model.listed[0] is weight
        assert model.listed[1][0] is bias
        assert model.paired[1] == (weight, bias) or model.paired[1][0] is weight
        assert model.named is named
        assert list(model.named) == ["weight", bias, "other"] or [*model.named][1] is bias
        assert model.named["weight"] is weight
        assert {id(p) for p in model.gathered} == {id(weight), id(bias)}
        assert vars(model)["weak"]() is weight
        assert model.plain is weight

    def test_tied_parameters_stay_tied(self):
        found = subject("tied_language_model")
        Edit(found.axes).grow(found.axes.editable[0], 2).commit()
        for layout in found.axes.layouts.values():
            owners = [found.model.get_submodule(name.rpartition(".")[0]) for name in layout.names]
            tensors = [getattr(o, n.rpartition(".")[2]) for o, n in zip(owners, layout.names, strict=True)]
            assert len({id(t) for t in tensors}) == 1

    def test_recurrent_layers_keep_their_flat_list(self):
        found = subject("lstm_2_bidirectional")
        layers = [module for module in found.model.modules() if isinstance(module, nn.RNNBase)]
        some_edit(found).commit()
        for layer in layers:
            assert all(a is b for a, b in zip(layer._flat_weights, layer.parameters(), strict=True))
            references: list[Any] = layer._flat_weight_refs
            assert all(r() is b for r, b in zip(references, layer.parameters(), strict=True))
            assert layer.hidden_size == layer.get_parameter("weight_hh_l0").shape[1]


def test_what_a_model_computed_from_its_parameters_is_forgotten():
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)
            self.scale = nn.Parameter(torch.ones(6))
            self.cache: list[torch.Tensor] = []

        def forward(self, x):
            if not self.cache:
                self.cache.append(self.scale * 2)
            return self.second(torch.relu(self.first(x)) * self.cache[0])

    model, x = Caching().eval(), torch.randn(3, 4)
    axes = trace(model, x)
    model(x)
    Edit(axes).prune("first", [1]).commit()
    assert model(x).shape == (3, 2)


class TestStale:
    """User code that still holds old parameters is noticed."""

    def held(self, mlp, message: str, edit: Edit | None = None):
        edit = edit or Edit(mlp.axes).grow("0", 1)
        with pytest.warns(StaleParameterWarning, match=message) as caught:
            commit = edit.commit()
        assert len([w for w in caught if w.category is StaleParameterWarning]) == len(commit.stale)
        return commit

    def test_a_local_list(self, mlp):
        clipped = list(mlp.model.parameters())
        loss = mlp.loss()
        commit = self.held(mlp, r"a list of 6 \(the variable 'clipped' of test_a_local_list\(\).*replaced.get\(p, p\)")
        assert [holder.parameters for holder in commit.stale] == [("0.weight", "0.bias", "2.weight")]
        clipped[:] = [commit.replaced.get(p, p) for p in clipped]
        assert all(a is b for a, b in zip(clipped, mlp.model.parameters(), strict=True))
        loss.backward()

    def test_a_list_of_named_parameters(self, mlp):
        named = list(mlp.model.named_parameters())
        commit = self.held(mlp, r"a tuple of 2 in a list \(the variable 'named'")
        assert len(commit.stale) == 3
        assert len(named) == 6

    def test_an_object(self, mlp):
        class Clipper:
            def __init__(self, parameters) -> None:
                self.parameters = list(parameters)

        clipper = Clipper(mlp.model.parameters())
        self.held(mlp, r"a list of 6 under 'parameters' of an instance of .*Clipper")
        assert clipper.parameters

    def test_an_attribute(self, mlp):
        class Penalty:
            pass

        penalty: Any = Penalty()
        penalty.weight = mlp.model[0].weight
        self.held(mlp, r"instance of .*Penalty")
        assert penalty

    def test_a_closure(self, mlp):
        weight = mlp.model[0].weight

        def penalty():
            return weight.square().sum()

        self.held(mlp, r"a closure of .*penalty")
        assert penalty

    def test_an_optimizer_that_was_not_given(self, mlp):
        optimizer = trained(mlp, partial(torch.optim.Adam, lr=0.1))
        self.held(mlp, r"optim.adam.Adam still holds")
        assert optimizer

    def test_a_variable_of_the_module(self, mlp):
        global PARAMETERS
        PARAMETERS = list(mlp.model.parameters())
        try:
            self.held(mlp, r"the variable 'PARAMETERS' of the module")
        finally:
            del PARAMETERS

    def test_a_distributed_wrapper(self, mlp):
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
        try:
            wrapped = nn.parallel.DistributedDataParallel(mlp.model)
            self.held(mlp, r"instance of .*DistributedDataParallel still holds .*wrap the model again")
            assert wrapped
        finally:
            torch.distributed.destroy_process_group()

    def test_a_compiled_model_is_compiled_anew(self, mlp):
        args, _ = mlp.row.example()
        compiled = torch.compile(mlp.model, backend="eager")
        compiled(*args)
        axes = Edit(mlp.axes).grow("0", 2).commit().axes
        assert torch.equal(compiled(*args), mlp.model(*args))
        Edit(axes).prune("0", [0]).commit()
        assert torch.equal(compiled(*args), mlp.model(*args))

    def test_a_loop_variable_and_a_graph_are_no_alarm(self, mlp):
        for parameter in mlp.model.parameters():
            loss = mlp.loss() + parameter.sum()
            if parameter is mlp.model[2].weight:
                break
        commit = Edit(mlp.axes).grow("0", 1).commit()
        assert not commit.stale
        assert parameter.shape == (10, 12)
        loss.backward()

    def test_a_filter_that_raises_does_not_lose_the_commit(self, mlp):
        held = list(mlp.model.parameters())
        edit = Edit(mlp.axes).grow("0", 1)
        with pytest.raises(StaleParameterWarning):
            edit.commit()
        assert held
        assert edit.result is not None
        assert edit.result.axes["0"].size == mlp.model[0].out_features


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_growth_where_the_map_says_exact_preserves_the_function(name):
    found = subject(name)
    exact = exact_axes(found.axes)
    if not exact:
        pytest.skip("no exact axis")
    before = found.loss()
    edit = Edit(found.axes)
    for axis in exact:
        edit.grow(axis, 3)
    edit.commit()
    assert found.loss().item() == pytest.approx(before.item(), rel=1e-11)


def test_edits_work_wherever_they_are_made(mlp):
    with torch.inference_mode():
        axes = Edit(mlp.axes).grow("0", 1).commit().axes
    mlp.backward()
    with torch.no_grad(), torch.device("meta"):
        Edit(axes).grow("2", 2).commit()
    assert mlp.model[2].weight.device.type == "cpu"
    mlp.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_stay(mlp, dtype):
    mlp.model.to(dtype)
    axes = Edit(mlp.axes).grow("0", 2).commit().axes
    Edit(axes).prune("0", [0]).commit()
    assert {p.dtype for p in mlp.model.parameters()} == {dtype}
    assert mlp.model[0].weight[-1].abs().max() > 0


def test_channels_last_stays():
    model: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    model.to(memory_format=torch.channels_last)
    axes = trace(model, torch.randn(2, 3, 8, 8))
    Edit(axes).prune("0", [1]).commit()
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.dim() == 4)
