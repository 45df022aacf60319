"""Histories: JSON, replay, and random sequences of edits."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from meristem.axes import trace
from meristem.edit import Edit, Gather, load, replay, save
from meristem.edit.record import runs
from meristem.errors import EditError

from .models import subject
from .snapshot import Snapshot, same, values
from .test_optimizers import ROWS, Several


class Residual(nn.Module):
    """A stream that several layers read and write."""

    def __init__(self, width: int, hidden: list[int]) -> None:
        super().__init__()
        self.stem = nn.Linear(4, width)
        self.up = nn.ModuleList(nn.Linear(width, h) for h in hidden)
        self.down = nn.ModuleList(nn.Linear(h, width) for h in hidden)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.tanh(up(x)))
        return self.head(x)


class Tied(nn.Module):
    """An embedding that is also the head."""

    def __init__(self, width: int, hidden: list[int]) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, width)
        sizes = [width, *hidden, width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(width, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def perceptron(width: int, hidden: list[int]) -> nn.Module:
    sizes, layers = [4, width, *hidden], []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 3))


def convolutional(width: int, hidden: list[int]) -> nn.Module:
    sizes, layers = [2, width, *hidden], []
    for a, b in pairwise(sizes):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(sizes[-1] * 9, 3))


NETS = {
    "perceptron": (perceptron, lambda: torch.randn(5, 4).double()),
    "convolutional": (convolutional, lambda: torch.randn(2, 2, 3, 3).double()),
    "residual": (Residual, lambda: torch.randn(5, 4).double()),
    "tied": (Tied, lambda: torch.randint(9, (2, 3))),
}


def built(kind: str, width: int, hidden: list[int]) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, example = NETS[kind]
    return make(width, hidden).double(), example()


class Training:
    """What `Several` steps."""

    def __init__(self, model: nn.Module, x: torch.Tensor) -> None:
        self.model, self.x = model, x

    def backward(self) -> torch.Tensor:
        loss = self.model(self.x).square().mean()
        loss.backward()
        return loss


def one_edit(data: st.DataObject, axes, optimizers):
    """One random edit of one to three axes."""
    edit = Edit(axes, optimizers, seed=data.draw(st.integers(0, 3)))
    for axis in data.draw(
        st.lists(st.sampled_from(axes.editable), min_size=1, max_size=3, unique_by=lambda a: a.index)
    ):
        what = data.draw(st.sampled_from(["grow", "prune", "permute", "duplicate"]))
        numbers = data.draw(st.permutations(range(axis.size)))
        if what == "grow" and axis.size < 9:
            edit.grow(axis, data.draw(st.integers(1, 3)))
        elif what == "duplicate" and axis.size < 9:
            edit.gather(axis, Gather.duplicate(axis.size, numbers[:2]))
        elif what == "prune" and axis.size > 1:
            edit.prune(axis, numbers[: data.draw(st.integers(1, axis.size - 1))])
        else:
            edit.permute(axis, numbers)
    return edit.commit().axes


@pytest.mark.heavy
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    data=st.data(),
    kind=st.sampled_from(sorted(NETS)),
    width=st.integers(2, 6),
    hidden=st.lists(st.integers(2, 6), min_size=1, max_size=3),
    row=st.sampled_from(ROWS),
)
def test_random_nets_survive_fifty_random_edits(data, kind, width, hidden, row, tmp_path_factory):
    model, x = built(kind, width, hidden)
    axes, shape = trace(model, x), model(x).shape
    several, training = Several(row.make(model.parameters())), Training(model, x)
    for number in range(50):
        if number % 7 == 0:
            several.step(training)
        axes = one_edit(data, axes, several.all)
        assert axes.parameter_count() == sum(p.numel() for p in model.parameters())
        with torch.no_grad():
            answer = model(x)
        assert answer.shape == shape
        assert bool(answer.isfinite().all())
    assert len(axes.history) == 50
    fresh, _ = built(kind, width, hidden)
    replayed = replay(json.loads(json.dumps(axes.history)), fresh, x)
    assert shapes(fresh) == shapes(model)
    assert replayed.sizes == axes.sizes
    assert [repr(module) for module in fresh.modules()] == [repr(module) for module in model.modules()]
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save(path, axes, several.all)
    other, _ = built(kind, width, hidden)
    optimizers = Several(row.make(other.parameters()))
    loaded = load(path, other, x, optimizers=optimizers.all)
    assert loaded.history == axes.history
    assert same(values(other)[0], values(model)[0])
    assert same(optimizers.values, several.values)
    several.step(training)
    optimizers.step(Training(other, x))
    assert same(values(other)[0], values(model)[0])


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: t.shape for name, t in [*model.named_parameters(), *model.named_buffers()]}


def test_the_record_is_json_and_compact():
    found = subject("mlp")
    commit = Edit(found.axes).prune("0", [4]).grow("0", 300).gather("2", Gather.duplicate(10, [1, 2])).commit()
    assert json.loads(json.dumps(commit.record)) == commit.record
    assert commit.record == commit.axes.history[-1]
    first, second = commit.record["axes"]
    assert first == {
        "axis": "0",
        "before": 12,
        "units": [[0, 4], [5, 7], [-1, 300]],
        "duplicates": [],
        "start": "ZeroFanOut()",
    }
    assert second["units"] == [[0, 10], [1, 2]]
    assert second["duplicates"] == [[10, 2]]


@given(st.lists(st.integers(-1, 6)))
def test_runs_hold_every_number(numbers):
    expanded = [
        n for first, length in runs(numbers) for n in ([-1] * length if first < 0 else range(first, first + length))
    ]
    assert expanded == numbers


def test_replay_continues_and_can_be_continued():
    found = subject("conv_flatten_linear")
    axes = found.axes
    for _ in range(3):
        edit = Edit(axes)
        for axis in axes.editable:
            edit.prune(axis, [0]).grow(axis, 2)
        axes = edit.commit().axes
    fresh = subject("conv_flatten_linear")
    args, kwargs = fresh.row.example()
    replayed = replay(axes.history, fresh.model, args, kwargs)
    assert replayed.history == axes.history
    assert shapes(fresh.model) == shapes(found.model)
    fresh.edited(Edit(replayed).grow(replayed.editable[0], 1).commit().axes).backward()


def test_an_edit_undone_by_a_later_one_is_no_edit():
    found, fresh = subject("mlp"), subject("mlp")
    axes = Edit(found.axes).grow("0", 2).commit().axes
    axes = Edit(axes).prune("0", [12, 13]).commit().axes
    before = Snapshot([fresh.model])
    args, kwargs = fresh.row.example()
    replayed = replay(axes.history, fresh.model, args, kwargs)
    before.check()
    assert len(replayed.history) == 2


def entry(**changes) -> list[dict]:
    return [{"axes": [{"axis": "0", "before": 12, "units": [[0, 12], [-1, 1]], "duplicates": [], **changes}]}]


@pytest.mark.parametrize(
    "history",
    [
        [3],
        [{}],
        [{"axes": 3}],
        [{"axes": [{}]}],
        entry(axis="nowhere"),
        entry(axis="4"),
        entry(axis=3),
        entry(before=11),
        entry(before=0),
        entry(units=[]),
        entry(units=[[0, 13]]),
        entry(units=[[0, 12], [-1, 10**12]]),
        entry(units=[[-1, 2**24]] * 9),
        entry(units=[[-2, 1]]),
        entry(units=[[0, 0]]),
        entry(units=[[0]]),
        entry(units=[["a", 1]]),
        entry(units=[[0, 12], [0, 1]]),
        entry(duplicates=[[0, 10**12]]),
        entry(other=1),
        entry() + entry(),
    ],
)
def test_malformed_and_foreign_histories_are_refused(history):
    found = subject("mlp")
    before = Snapshot([found.model])
    args, kwargs = found.row.example()
    with pytest.raises(EditError):
        replay(history, found.model, args, kwargs)
    before.check()


def test_a_map_traced_anew_continues_a_history():
    found = subject("mlp")
    axes = Edit(found.axes).grow("0", 2).commit().axes
    args, kwargs = found.row.example()
    again = trace(found.model, args, kwargs, history=axes.history)
    final = Edit(again).grow("2", 1).commit().axes
    fresh = subject("mlp")
    replay(final.history, fresh.model, args, kwargs)
    assert shapes(fresh.model) == shapes(found.model)


def test_optimizers_follow_a_long_history():
    found = subject("mlp")
    several = Several(partial(torch.optim.Adam, lr=0.1)(found.model.parameters()))
    axes = found.axes
    for _ in range(20):
        several.step(found)
        axes = Edit(axes, several.all).prune("0", [0]).grow("0", 1).commit().axes
    assert axes["0"].size == 12
