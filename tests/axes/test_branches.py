"""Paths where the model takes another branch in training mode or for another example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import meristem
from meristem.axes import AxisMap
from meristem.axes.branches import Run, joined
from meristem.axes.path import End, Path
from meristem.errors import EditError
from meristem.signals.sites import obstacle, unfollowed
from tests.signals.passes import heard, inserted_gradient, loss_of


class Net(nn.Module):
    """A stem, a head, and something else; what happens is given."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], other: tuple[int, int] = (6, 3)) -> None:
        super().__init__()
        self.stem, self.head, self.other = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(*other)
        self.how = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def reader_in_training(m: Net, x: Tensor) -> Tensor:
    h = m.stem(x).tanh()
    return torch.cat([m.head(h), m.other(h)], 1) if m.training else m.head(h)


def another_reader_in_training(m: Net, x: Tensor) -> Tensor:
    return (m.other if m.training else m.head)(m.stem(x).tanh())


def producer_in_training(m: Net, x: Tensor) -> Tensor:
    h = m.stem(x)
    return m.head(h + m.other(x) if m.training else h)


def another_activation_in_training(m: Net, x: Tensor) -> Tensor:
    h = m.stem(x)
    return m.head(h.relu()) + m.other(h).sum() if m.training else m.head(F.gelu(h))


def another_slope_in_training(m: Net, x: Tensor) -> Tensor:
    h = m.stem(x)
    h = F.leaky_relu(h, 0.3 if m.training else 0.1)
    return m.head(h) + m.other(h) if m.training else m.head(h)


def gate_in_training(m: Net, x: Tensor) -> Tensor:
    h = m.stem(x).relu()
    return m.head(h * x.mean(1, keepdim=True)) + m.other(h) if m.training else m.head(h)


def noise_in_training(m: Net, x: Tensor) -> Tensor:
    h = m.stem(x).relu()
    return m.head(h + torch.randn(h.shape)) + m.other(h) if m.training else m.head(h)


def another_order_in_training(m: Net, x: Tensor) -> Tensor:
    noisy = m.other(m.stem(x + 1).relu()) if m.training else 0
    return m.head(m.stem(x).relu()) + noisy


def by_the_size(m: Net, x: Tensor) -> Tensor:
    h = m.stem(x).tanh()
    return m.head(h) if len(x) > 2 else m.other(h)


def ends(paths: tuple[Path, ...]) -> set[tuple[str, str]]:
    return {(path.producer.weight.split(".")[0], path.consumer.weight.split(".")[0]) for path in paths}


def mapped(forward: Callable[[Net, Tensor], Tensor], **settings) -> tuple[AxisMap, Net]:
    torch.manual_seed(0)
    model = Net(forward, **settings).double()
    return meristem.trace(model, torch.randn(5, 4, dtype=torch.float64)), model


@pytest.mark.parametrize(
    ("forward", "other", "expected"),
    [
        (reader_in_training, (6, 3), {("stem", "head"), ("stem", "other")}),
        (another_reader_in_training, (6, 3), {("stem", "head"), ("stem", "other")}),
        (producer_in_training, (4, 6), {("stem", "head"), ("other", "head")}),
    ],
)
def test_training_mode_adds_paths(forward, other, expected) -> None:
    axes, _ = mapped(forward, other=other)
    assert ends(axes.paths[axes["stem"].index]) == expected
    assert obstacle(axes, axes["stem"]) is None
    assert (unfollowed(axes, axes["stem"], one_producer=True) is None) == (("other", "head") not in expected)


@pytest.mark.parametrize("forward", [reader_in_training, another_reader_in_training])
def test_what_training_passes_give_is_the_gradient_of_inserted_newborns(forward) -> None:
    axes, model = mapped(forward)
    x = torch.randn(7, 4, dtype=torch.float64)
    (batch,) = heard(axes, "stem", lambda: loss_of(model(x)).backward())
    assert [block.weight for block in batch.fan_out] == ["head.weight", "other.weight"]
    found = dict(zip(("head", "other"), batch.candidate_gradient.split(3), strict=True))
    assert bool(found["head"].any()) == (forward is reader_in_training)
    for name in ("head", "other") if forward is reader_in_training else ("other",):
        expected = inserted_gradient(model, "stem", name, lambda m: loss_of(m(x)))
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("method", [meristem.grow.GradMax(), meristem.grow.TINY()])
def test_methods_that_follow_units_grow_with_an_auxiliary_head(method) -> None:
    axes, model = mapped(reader_in_training)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = meristem.schedule.At(1, grow=2)
    plasticity = meristem.Plasticity(model, optimizer, axes, grow=method, schedule=schedule, axes="stem")
    loss = loss_of(model(torch.randn(7, 4, dtype=torch.float64)))
    loss.backward()
    optimizer.step()
    event = plasticity.step(loss)
    assert event is not None
    assert (model.stem.out_features, model.head.in_features, model.other.in_features) == (8, 8, 8)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (
            another_activation_in_training,
            "stem.weight reaches head.weight through gelu in evaluation mode, and through relu in training mode",
        ),
        (
            another_slope_in_training,
            "stem.weight reaches head.weight through leaky_relu in evaluation mode, and through leaky_relu with other "
            "settings in training mode",
        ),
        (gate_in_training, "combines it with another activation, in training mode"),
        (
            another_order_in_training,
            "stem.weight reaches head.weight through relu in evaluation mode, and not at all in training mode",
        ),
    ],
)
def test_where_training_mode_contradicts_nothing_is_followed(forward, reason) -> None:
    axes, model = mapped(forward)
    paths = axes.paths[axes["stem"].index]
    assert paths
    assert all(reason in (path.blocked or "") for path in paths)
    with pytest.raises(EditError, match=reason):
        meristem.Plasticity(
            model, torch.optim.SGD(model.parameters(), 0.1), axes, grow=meristem.grow.GradMax(), axes="stem",
            schedule=meristem.schedule.At(1, grow=2),
        )  # fmt: skip


def test_noise_in_training_leaves_units_to_be_followed_but_not_newborns() -> None:
    axes, _ = mapped(noise_in_training)
    assert unfollowed(axes, axes["stem"]) is None
    assert "adds what may not be zero for newborns, in training mode" in (obstacle(axes, axes["stem"]) or "")


def test_examples_supplement_each_other() -> None:
    torch.manual_seed(0)
    model, long, short = Net(by_the_size).double(), torch.randn(5, 4).double(), torch.randn(2, 4).double()
    axes = meristem.trace(model, long, also=[((short,), {})])
    assert ends(axes.paths[axes["stem"].index]) == {("stem", "head"), ("stem", "other")}
    assert obstacle(axes, axes["stem"]) is None


def test_examples_that_contradict_are_named() -> None:
    class Switch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor, *, sharp: bool) -> Tensor:
            h = self.stem(x)
            return self.head(h.relu() if sharp else h.sigmoid())

    x = torch.randn(5, 4)
    model = Switch()
    axes = meristem.trace(model, kwargs={"x": x, "sharp": False}, also=[((), {"x": x, "sharp": True})])
    (path,) = axes.paths[axes["stem"].index]
    assert path.blocked == (
        "stem.weight reaches head.weight through sigmoid in example 1 in evaluation mode, and through relu in "
        "example 2 in evaluation mode"
    )


def test_a_call_has_one_role_in_all_runs_that_make_it() -> None:
    into, out = End("into", 0), End("out", 0)
    reads = Path(into, End("tied", 0), (), False)

    def blocked(*paths: Path) -> list[str | None]:
        called = {(end.weight, end.call) for path in (reads, *paths) for end in (path.producer, path.consumer)}
        one = Run("one", {0: (reads,)}, frozenset({("into", 0), ("tied", 0)}), (), frozenset())
        other = Run("other", {0: paths}, frozenset(called - {("into", 0)}), (), frozenset())
        return [path.blocked for path in joined([one, other])[0]]

    assert blocked(replace(reads, producer=End("also", 0)), Path(End("tied", 1), out, (), False)) == [None] * 3
    reason = "tied produces it in other, and not in one"
    assert blocked(Path(End("tied", 0), out, (), False)) == [reason] * 2


def test_passes_through_different_branches_add_up() -> None:
    torch.manual_seed(0)
    model, long, short = Net(by_the_size).double(), torch.randn(5, 4).double(), torch.randn(2, 4).double()
    axes = meristem.trace(model, long, also=[((short,), {})])

    def step() -> None:
        for x in (long, short):
            loss_of(model(x)).backward()

    expected = [
        inserted_gradient(model, "stem", name, lambda m, x=x: loss_of(m(x)))
        for name, x in (("head", long), ("other", short))
    ]
    found = sum(batch.candidate_gradient for batch in heard(axes, "stem", step))
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-12)
