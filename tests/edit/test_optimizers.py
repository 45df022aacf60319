"""Every optimizer follows: its groups, its state, its schedulers and whatever else refers to it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from meristem.edit import Edit, Gather, Newborns, OptimizerStateWarning, StateSlice, ZeroFanOut
from meristem.edit.indices import Along
from meristem.edit.optimizer import state_recipe

from .models import exact_axes, some_edit, subject, trained
from .snapshot import same, values


class Lion(Optimizer):
    """Somebody else's optimizer: one state shaped like the parameter."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    average = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                    p.add_(average.mul(0.9).add(p.grad, alpha=0.1).sign(), alpha=-group["lr"])
                    average.lerp_(p.grad, 0.01)


class Factored(Optimizer):
    """Somebody else's optimizer: row and column averages without `keepdim`, as Hugging Face's Adafactor has."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if p.dim() >= 2:
                    square = p.grad.square()
                    state["exp_avg_sq_row"] = state.get("exp_avg_sq_row", 0) * 0.9 + square.mean(-1)
                    state["exp_avg_sq_col"] = state.get("exp_avg_sq_col", 0) * 0.9 + square.mean(-2)
                    assert state["exp_avg_sq_row"].shape == p.shape[:-1]
                    assert state["exp_avg_sq_col"].shape == (*p.shape[:-2], p.shape[-1])
                p.add_(p.grad, alpha=-group["lr"])


class Sketched(Lion):
    """Somebody else's optimizer: state of a shape that no rule knows."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].setdefault("sketch", torch.zeros(17, 3))


def muon(parameters: Iterable[nn.Parameter]) -> list[Optimizer]:
    """Muon for matrices, AdamW for the rest."""
    parameters = list(parameters)
    return [
        optim.Muon([p for p in parameters if p.dim() == 2], lr=1e-2),
        optim.AdamW([p for p in parameters if p.dim() != 2], lr=1e-2),
    ]


@dataclass(frozen=True)
class Row:
    """An optimizer, and whether its update of one entry depends on that entry's gradient and state alone."""

    name: str
    make: Callable[[Iterable[nn.Parameter]], Optimizer | list[Optimizer]]
    entrywise: bool = True


def groups(parameters: Iterable[nn.Parameter]) -> list[dict]:
    """Two groups with different options."""
    parameters = list(parameters)
    return [{"params": parameters[::2], "lr": 0.01}, {"params": parameters[1::2], "weight_decay": 0.1}]


ROWS = (
    Row("SGD", lambda p: optim.SGD(p, lr=0.1)),
    Row("SGD with momentum", lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=1e-3)),
    Row("SGD with Nesterov", lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True)),
    Row("SGD fused", lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True)),
    Row("Adam", lambda p: optim.Adam(p, lr=0.01)),
    Row("Adam foreach", lambda p: optim.Adam(p, lr=0.01, foreach=True)),
    Row("Adam one by one", lambda p: optim.Adam(p, lr=0.01, foreach=False)),
    Row("Adam fused", lambda p: optim.Adam(p, lr=0.01, fused=True)),
    Row("Adam with a tensor as rate", lambda p: optim.Adam(p, lr=torch.tensor(0.01), foreach=False)),
    Row("AMSGrad", lambda p: optim.Adam(p, lr=0.01, amsgrad=True)),
    Row("AdamW", lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1)),
    Row("AdamW fused", lambda p: optim.AdamW(p, lr=0.01, amsgrad=True, fused=True)),
    Row("AdamW in groups", lambda p: optim.AdamW(groups(p), lr=0.02)),
    Row("NAdam", lambda p: optim.NAdam(p, lr=0.01)),
    Row("RAdam", lambda p: optim.RAdam(p, lr=0.01)),
    Row("Adamax", lambda p: optim.Adamax(p, lr=0.01)),
    Row("Adadelta", lambda p: optim.Adadelta(p, lr=0.1)),
    Row("RMSprop", lambda p: optim.RMSprop(p, lr=0.01)),
    Row("RMSprop centered", lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.9)),
    Row("Adagrad", lambda p: optim.Adagrad(p, lr=0.01)),
    Row("Adagrad fused", lambda p: optim.Adagrad(p, lr=0.01, fused=True)),
    Row("Rprop", lambda p: optim.Rprop(p, lr=0.01)),
    Row("ASGD", lambda p: optim.ASGD(p, lr=0.01)),
    Row("Lion", Lion),
    Row("Factored", Factored),
    Row("Adafactor", lambda p: optim.Adafactor(p, lr=0.01), entrywise=False),  # row means, update clipping
    Row("Muon", muon, entrywise=False),  # orthogonalizes whole matrices
    Row("LBFGS", lambda p: optim.LBFGS(p, lr=0.1, max_iter=3), entrywise=False),  # inner products over everything
)
ADAM = next(row for row in ROWS if row.name == "Adam")
MODELS = ("mlp", "conv_flatten_linear", "tied_language_model")


class Several:
    """One or several optimizers as one."""

    def __init__(self, made: Optimizer | list[Optimizer]) -> None:
        self.all = made if isinstance(made, list) else [made]

    def step(self, found) -> None:
        def closure():
            for optimizer in self.all:
                optimizer.zero_grad()
            return found.backward()

        closure()
        for optimizer in self.all:
            optimizer.step(closure if isinstance(optimizer, optim.LBFGS) else None)

    @property
    def values(self) -> list:
        return [values(optimizer) for optimizer in self.all]


def started(model: str, row: Row):
    """A model after some steps of an optimizer."""
    found = subject(model)
    several = Several(row.make(found.model.parameters()))
    for _ in range(3):
        several.step(found)
    return found, several


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_state_and_groups_follow_and_training_goes_on(row, model):
    found, several = started(model, row)
    count = [len(optimizer.state) for optimizer in several.all]
    with_state = {id(v) for o in several.all for s in o.state.values() for v in s.values() if isinstance(v, Tensor)}
    edited = found.edited(some_edit(found, several.all).commit().axes)
    live = {id(p) for p in edited.model.parameters()}
    held = [p for o in several.all for group in o.param_groups for p in group["params"]]
    assert {id(p) for p in held} == live
    assert len(held) == len(live)
    assert [len(optimizer.state) for optimizer in several.all] == count
    for optimizer in several.all:
        for parameter, state in optimizer.state.items():
            assert id(parameter) in live
            for key, value in state.items():
                if (
                    isinstance(value, Tensor)
                    and value.dim() == parameter.dim()
                    and "row" not in key
                    and "col" not in key
                ):
                    assert value.shape == parameter.shape or value.shape == (sum(p.numel() for p in held),)
    assert with_state or row.name == "SGD" or not any(count)
    before = [p.detach().clone() for p in held]
    for _ in range(2):
        several.step(edited)
    assert any(not torch.equal(p, old) for p, old in zip(held, before, strict=True))
    assert all(bool(torch.isfinite(p).all()) for p in held)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_growth_leaves_incumbents_state_and_pruning_the_newborns_restores_every_bit(row, model):
    found, several = started(model, row)
    before = values(found.model)[0], several.values
    edit = Edit(found.axes, several.all)
    for axis in found.axes.editable:
        edit.grow(axis, 2)
    grown = edit.commit().axes
    assert not same(several.values, before[1]) or row.name in ("SGD",)
    edit = Edit(grown, several.all)
    for axis in found.axes.editable:
        edit.prune(axis.name, [axis.size, axis.size + 1])
    edit.commit()
    assert same((values(found.model)[0], several.values), before)


@pytest.mark.parametrize("model", ["mlp", "conv_flatten_linear"])
@pytest.mark.parametrize("row", [row for row in ROWS if row.entrywise], ids=lambda row: row.name)
def test_incumbents_first_update_after_growth_equals_the_ungrown_models(row, model):
    (plain, theirs), (grown, ours) = started(model, row), started(model, row)
    edit = Edit(grown.axes, ours.all)
    for axis in exact_axes(grown.axes):
        edit.grow(axis, 3)
    grown = grown.edited(edit.commit().axes)
    theirs.step(plain)
    ours.step(grown)
    mine = dict(grown.model.named_parameters())
    for name, parameter in plain.model.named_parameters():
        layout = grown.axes.layouts[name]
        index = mine[name]
        for dim, (expression, old) in enumerate(zip(layout.dims, parameter.shape, strict=True)):
            index = index.index_select(dim, incumbents(expression, plain.axes, grown.axes, old))
        assert torch.allclose(index, parameter, rtol=0, atol=1e-9), name


def incumbents(expression, before, after, length: int) -> Tensor:
    """Where the old indices of a dimension are after newborns were appended to axes."""
    from meristem.axes import gather_index

    gathers = {
        a.index: Gather.grow(a.size, after.sizes[a.index] - a.size).index
        for a in before
        if after.sizes[a.index] > a.size
    }
    index = gather_index(expression, gathers, before.sizes)
    found = (index >= 0).nonzero().flatten()
    assert index[found].tolist() == list(range(length))
    return found


CAPTURABLE: Mapping[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "Adam": lambda p: optim.Adam(p, amsgrad=True),
    "AdamW": optim.AdamW,
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "RMSprop": lambda p: optim.RMSprop(p, momentum=0.9, centered=True),
    "Adamax": optim.Adamax,
    "ASGD": optim.ASGD,
    "Adadelta": optim.Adadelta,
    "Rprop": optim.Rprop,
}


@pytest.mark.parametrize("name", CAPTURABLE)
def test_capturable_state_follows(name):
    """Capturable optimizers step on a GPU only; their state, all of it tensors, can be made by hand anywhere."""
    found = subject("mlp")
    optimizer = trained(found, CAPTURABLE[name])
    for group in optimizer.param_groups:
        group["capturable"] = True
    for state in optimizer.state.values():
        state |= {key: torch.as_tensor(value) for key, value in state.items()}
    before = values(found.model), values(optimizer)
    axes = Edit(found.axes, optimizer).grow("0", 3).commit().axes
    assert {id(p) for p in optimizer.state} == {id(p) for p in found.model.parameters()}
    for parameter, state in optimizer.state.items():
        assert all(value.shape in (parameter.shape, ()) for value in state.values())
        assert any(value.shape == parameter.shape for value in state.values())
    Edit(axes, optimizer).prune("0", [12, 13, 14]).commit()
    assert same((values(found.model), values(optimizer)), before)


def scaled(found, optimizer, factor: float) -> torch.amp.GradScaler:
    """Scaled gradients of one loss, unscaled again: the state between `unscale_` and `step`."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer.zero_grad()
    (scaler.scale(found.loss()) * factor).backward()
    scaler.unscale_(optimizer)
    return scaler


def test_an_edit_between_unscaling_and_the_step():
    """The scaler goes on: incumbents take the step that they take without the edit."""
    (plain, theirs), (found, ours) = started("mlp", ADAM), started("mlp", ADAM)
    reference, scaler = scaled(plain, theirs.all[0], 1.0), scaled(found, ours.all[0], 1.0)
    Edit(found.axes, ours.all).grow("0", 3).commit()
    for each, optimizer in ((reference, theirs.all[0]), (scaler, ours.all[0])):
        each.step(optimizer)
        each.update()
    assert torch.allclose(found.model[0].weight[:12], plain.model[0].weight, rtol=0, atol=1e-12)
    assert not torch.equal(found.model[0].weight[:12], subject("mlp").model[0].weight)
    assert scaler.get_scale() == reference.get_scale() == 8.0


def test_an_edit_between_unscaling_and_a_step_that_an_infinite_gradient_forbids():
    found, several = started("mlp", ADAM)
    optimizer = several.all[0]
    scaler = scaled(found, optimizer, math.inf)
    Edit(found.axes, optimizer).grow("0", 3).commit()
    before = values(found.model)[0], values(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert same((values(found.model)[0], values(optimizer)), before)
    assert scaler.get_scale() == 4.0


def test_unknown_state_is_reset_with_a_warning_that_names_it():
    found = subject("mlp")
    optimizer = trained(found, Sketched)
    with pytest.warns(OptimizerStateWarning, match=r"Sketched keeps 'sketch' of shape \(17, 3\) .* 0.weight"):
        Edit(found.axes, optimizer).grow("0", 2).commit()
    assert found.model[0].weight not in optimizer.state
    assert found.model[4].weight in optimizer.state
    found.backward()
    optimizer.step()


def test_schedulers_scalers_and_hooks_keep_their_optimizer():
    found = subject("mlp")
    optimizer = trained(found, lambda p: optim.SGD(p, lr=1.0, momentum=0.9))
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    swa = optim.swa_utils.SWALR(optimizer, swa_lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    group, state, params = optimizer.param_groups[0], optimizer.state, optimizer.param_groups[0]["params"]
    some_edit(found, optimizer).commit()
    assert optimizer.param_groups[0] is group
    assert group["params"] is params
    assert optimizer.state is state
    optimizer.zero_grad()
    scaler.scale(found.loss()).backward()
    scaler.unscale_(optimizer)
    reference = torch.autograd.grad(found.loss(), list(found.model.parameters()))
    for parameter, gradient in zip(found.model.parameters(), reference, strict=True):
        assert torch.allclose(parameter.grad, gradient)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    swa.step()
    assert seen
    assert group["lr"] != 1.0


def test_two_optimizers_that_share_their_groups():
    found = subject("mlp")
    inner = trained(found, lambda p: optim.Adam(p, lr=0.1))
    outer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    outer.param_groups = inner.param_groups
    some_edit(found, [inner, outer]).commit()
    assert {id(p) for p in outer.param_groups[0]["params"]} == {id(p) for p in found.model.parameters()}


def test_lbfgs_state_follows_segment_by_segment():
    found = subject("mlp")
    optimizer = optim.LBFGS(found.model.parameters(), lr=0.1, max_iter=3)
    Several(optimizer).step(found)
    state = next(iter(optimizer.state.values()))
    before = state["d"].clone(), len(state["old_dirs"])
    shapes = [p.shape for p in found.model.parameters()]
    Edit(found.axes, optimizer).permute("0", range(11, -1, -1)).commit()
    state = next(iter(optimizer.state.values()))
    first = before[0][: shapes[0].numel()].view(shapes[0]).flip(0).reshape(-1)
    assert torch.equal(state["d"][: shapes[0].numel()], first)
    assert len(state["old_dirs"]) == before[1]
    Edit(found.axes.resized({}, {}), optimizer).grow("0", 1).commit()
    Several(optimizer).step(found)


class TestShapeRule:
    """Which dimensions of a parameter a state has."""

    row, column = (Along.of(torch.tensor([0, -1]), torch.device("cpu")) for _ in range(2))

    @pytest.mark.parametrize(
        ("key", "state", "parameter", "expected"),
        [
            ("exp_avg", (4, 5), (4, 5), "01"),
            ("row_var", (4, 1), (4, 5), "0."),
            ("col_var", (1, 5), (4, 5), ".1"),
            ("any", (4, 1), (4, 5), "0."),
            ("any", (4,), (4, 5), "0"),
            ("any", (5,), (4, 5), "1"),
            ("any", (4,), (4, 4), None),
            ("a_row", (4,), (4, 4), "0"),
            ("a_col", (4,), (4, 4), "1"),
            ("row_var", (1, 1), (1, 5), "0."),
            ("col_var", (1, 5), (1, 5), ".1"),
            ("any", (3,), (4, 5), None),
            ("any", (5, 4), (4, 5), None),
        ],
    )
    def test_rule(self, key, state, parameter, expected):
        found = state_recipe(key, state, parameter, {0: self.row, 1: self.column})
        if expected is None:
            assert found is None
        else:
            assert found is not None
            wanted = {d: self.row if name == "0" else self.column for d, name in enumerate(expected) if name != "."}
            assert found == wanted


def same_gradient(p: Tensor, q: Tensor) -> bool:
    return p.grad is not None and q.grad is not None and torch.allclose(p.grad, q.grad)


@dataclass(frozen=True)
class Halved(Newborns):
    """Every newborn copies a unit, and the two share its fan-out (Net2Net)."""

    def values(self, s):
        raise AssertionError("no unit lacks a source")

    def weight_factor(self, s):
        return 1 / self._sharing(s) if any(role.value == "reads" for role in s.roles) else None

    def gradient_factor(self, s):
        return None if any(role.value == "reads" for role in s.roles) else 1 / self._sharing(s)

    def _sharing(self, s):
        return torch.bincount(s.sources)[s.sources].double()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=0.01, momentum=0.9),
        lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
        lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True, eps=1e-30),
        lambda p: optim.Adagrad(p, lr=0.01),
        lambda p: optim.Adadelta(p, lr=0.01, eps=1e-30),
    ],
    ids=["SGD", "Adam", "RMSprop", "Adagrad", "Adadelta"],
)
def test_copies_take_over_state_by_the_gradient_factor(make):
    """The state after the copy is what it would have been, had the wide model been trained from the start."""
    found = subject("mlp")
    wide = found.edited(Edit(found.axes).gather("0", Gather.duplicate(12, [3, 7, 7]), Halved()).commit().axes)
    late = subject("mlp")
    gradients = []
    for seed in range(3):
        args, kwargs = found.row.example(4, seed=seed)
        loss = wide.model(*args, **kwargs).square().sum()
        gradients.append(
            (
                torch.autograd.grad(loss, list(wide.model.parameters())),
                torch.autograd.grad(late.model(*args, **kwargs).square().sum(), list(late.model.parameters())),
            )
        )
    wide_optimizer, late_optimizer = make(wide.model.parameters()), make(late.model.parameters())
    for theirs, ours in gradients:
        for optimizer, model, given in ((wide_optimizer, wide.model, theirs), (late_optimizer, late.model, ours)):
            start = [p.detach().clone() for p in model.parameters()]
            for parameter, gradient in zip(model.parameters(), given, strict=True):
                parameter.grad = gradient
            optimizer.step()
            with torch.no_grad():  # gradients at one point, so that both models see the same ones
                for parameter, value in zip(model.parameters(), start, strict=True):
                    parameter.copy_(value)
    Edit(late.axes, late_optimizer).gather("0", Gather.duplicate(12, [3, 7, 7]), Halved()).commit()
    for (p, ours), (q, theirs) in zip(late_optimizer.state.items(), wide_optimizer.state.items(), strict=True):
        assert torch.allclose(p, q)
        assert same_gradient(p, q)
        for key, value in ours.items():
            scale = float(theirs[key].abs().max()) if isinstance(value, Tensor) else 1.0
            close = torch.allclose(torch.as_tensor(value), torch.as_tensor(theirs[key]), rtol=1e-6, atol=1e-6 * scale)
            assert close, key


def test_a_state_policy_fills_in_newborns_state():
    @dataclass(frozen=True)
    class Mean:
        def values(self, s: StateSlice) -> Tensor:
            assert s.name in names
            return s.old.mean(s.dim, keepdim=True).expand(s.shape)

    found = subject("mlp")
    names = set(found.axes.layouts)
    optimizer = trained(found, lambda p: optim.Adam(p, lr=0.1))
    mean = optimizer.state[found.model[0].weight]["exp_avg_sq"].mean(0)
    Edit(found.axes, optimizer, state=Mean()).grow("0", 2, ZeroFanOut()).commit()
    state = optimizer.state[found.model[0].weight]["exp_avg_sq"]
    assert torch.equal(state[12:], torch.stack([mean, mean]))


def test_the_optimizer_can_be_copied_and_reloaded_afterwards():
    found = subject("mlp")
    optimizer = trained(found, lambda p: optim.Adam(p, lr=0.1))
    some_edit(found, optimizer).commit()
    state = copy.deepcopy(optimizer.state_dict())
    fresh = optim.Adam(found.model.parameters(), lr=0.5)
    fresh.load_state_dict(state)
    assert same(values(fresh), values(optimizer))
