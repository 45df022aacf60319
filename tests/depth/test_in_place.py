"""Models that work in place: what stands where something was removed, and what is inserted, overwrites nothing that
somebody needs, neither for values nor for derivatives."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from meristem import Edit, depth, replay, trace
from meristem.depth.memory import to_copy
from meristem.edit.deepen import DepthChange
from meristem.edit.joints import Fresh
from meristem.edit.rebuild import rebuilding
from meristem.errors import EditError

from .in_place_models import IN_PLACE

INSERTED = (depth.ZeroResidual(activation="GELU"), depth.ResidualCopy(), depth.Net2Deeper())


def answers(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What a model computes, and the derivatives by its input and its parameters."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    found = [y.detach(), x.grad, *(p.grad for p in model.parameters())]
    return [torch.zeros(()) if answer is None else answer.clone() for answer in found]


def removals(places: depth.Places) -> list[DepthChange]:
    modules: list[DepthChange] = [
        depth.Remove(places, place.module) for place in places.removals if place.frozen is None
    ]
    return [*modules, *(depth.RemoveBranch(places, b.name) for b in places.branches if b.frozen is None)]


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("training", [False, True])
def test_what_is_left_computes_and_learns_as_without_work_in_place(name: str, training: bool) -> None:
    """Every removal, from a net that works in place and from its twin that does not."""
    here, twin = (found.model().train(training) for found in IN_PLACE[name])
    x = IN_PLACE[name][0].x()
    places, others = (depth.places(trace(model, x)) for model in (here, twin))
    changes, expected = removals(places), removals(others)
    assert [str(change) for change in changes] == [str(change) for change in expected]
    assert changes
    torch.testing.assert_close(answers(here, x), answers(twin, x), rtol=0, atol=1e-12)
    for change, same in zip(changes, expected, strict=True):
        with rebuilding(places.axes, change), rebuilding(others.axes, same):
            torch.testing.assert_close(answers(here, x), answers(twin, x), rtol=0, atol=1e-12)
    torch.testing.assert_close(answers(here, x), answers(twin, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("training", [False, True])
def test_what_is_inserted_changes_nothing_and_learns(name: str, training: bool) -> None:
    model, x = IN_PLACE[name][0].model().train(training), IN_PLACE[name][0].x()
    places = depth.places(trace(model, x))
    makes: list[Callable[[], DepthChange]] = [
        lambda way=way, what=what: depth.Insert(places, way.name, what)
        for way in places.insertions
        for what in INSERTED
        if way.frozen is None
    ]
    makes += [lambda place=place: depth.AddBranch(places, place.name) for place in places.sums if place.frozen is None]
    makes += [lambda run=run: depth.duplicated(places, run.container, 1, depth.Silent()) for run in places.runs]
    expected, done = answers(model, x)[:2], 0
    for make in makes:
        try:
            change = make()
            change.tree(places.axes)
        except EditError:
            continue
        assert change.inexact() == ()
        with rebuilding(places.axes, change):
            torch.testing.assert_close(answers(model, x)[:2], expected, rtol=0, atol=1e-12)
        done += 1
    assert done > 4


@pytest.mark.parametrize(
    ("name", "modules", "copied"),
    [
        ("resnet", ["3.conv1"], []),
        ("resnet", ["3.bn1"], []),
        ("resnet", ["3.conv1", "3.bn1"], ["3.conv1"]),
        ("resnet", ["3.conv1", "3.bn1", "3.conv2"], ["3.conv1"]),
        ("beginning", ["1"], []),
        ("beginning", ["1.layer"], ["1.layer"]),
        ("chained", ["one"], ["one"]),
        ("chained", ["two"], ["two"]),
        ("chained", ["three"], []),
        ("stream", ["layers.0"], []),
        ("stream", ["act"], ["act"]),
    ],
)
def test_only_those_copy_that_have_to(name: str, modules: list[str], copied: list[str]) -> None:
    model, x = IN_PLACE[name][0].model(), IN_PLACE[name][0].x()
    twin = IN_PLACE[name][1].model()
    assert to_copy(depth.places(trace(model, x)).flows, modules) == frozenset(copied)
    assert to_copy(depth.places(trace(twin, x)).flows, modules) == frozenset()


def test_a_copy_of_a_block_that_begins_in_place_goes_as_it_came() -> None:
    found = IN_PLACE["beginning"][0]
    model, x = found.model(), found.x()
    expected, names = answers(model, x), [*model.state_dict()]
    axes = trace(model, x)
    change = depth.Insert(depth.places(axes), "after 1", depth.ResidualCopy())
    axes = Edit(axes).depth(change).commit().axes
    (added,) = [path for path, module in model.named_modules() if isinstance(module, Fresh)]
    torch.testing.assert_close(answers(model, x)[:2], expected[:2], rtol=0, atol=1e-12)
    fresh = found.model()
    replay(json.loads(json.dumps(list(axes.history))), fresh, x)
    assert [*fresh.state_dict()] == [*model.state_dict()]
    cut = depth.RemoveBranch(depth.places(axes), added)
    assert cut.inexact() == ()
    axes = Edit(axes).depth(cut).commit().axes
    torch.testing.assert_close(answers(model, x), expected, rtol=0, atol=1e-12)
    assert len([*model.state_dict()]) == len(names)


def test_a_copy_in_the_place_of_a_child_is_kept_in_the_history_and_exported() -> None:
    """A container that would lose a child keeps a copy of what that was given."""
    found = IN_PLACE["pooled"][0]
    model, x = found.model(), found.x()
    axes = trace(model, x)
    axes = Edit(axes).depth(depth.Remove(depth.places(axes), "2")).commit().axes
    assert isinstance(model[2], Fresh)
    assert len(model) == 5
    again = found.model()
    replay(json.loads(json.dumps(list(axes.history))), again, x)
    assert torch.equal(again(x), model(x))
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x), rtol=0, atol=1e-12)
    axes = Edit(axes).depth(depth.Remove(depth.places(axes), "3")).commit().axes  # nobody works in place any more
    axes = Edit(axes).depth(depth.Remove(depth.places(axes), "2")).commit().axes
    assert [type(child).__name__ for child in model] == ["Linear", "ReLU", "Linear"]
    model(x).sum().backward()


@pytest.mark.parametrize("training", [False, True])
def test_what_works_in_place_in_training_alone_counts(training: bool) -> None:
    """A stream that is overwritten in training mode: the run in that mode says so."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.branch = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.norm(x)
            if self.training:
                y.mul_(2.0)
            return x + self.branch(y)

    torch.manual_seed(0)
    model, x = Noisy().double().train(training), torch.randn(5, 6, dtype=torch.float64)
    axes = trace(model, x)
    reference = Noisy().double()
    reference.load_state_dict(model.state_dict())
    Edit(axes).depth(depth.Remove(depth.places(axes), "norm")).commit()
    model.train()
    stream = reference.stem(x)
    torch.testing.assert_close(model(x), stream + reference.branch(2 * stream), rtol=0, atol=1e-12)
    model(x).sum().backward()
