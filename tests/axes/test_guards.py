"""What the code compares: an edit after which it would go another way is refused, with the line; all others work."""

from __future__ import annotations

import builtins
import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import meristem
from meristem.axes.expression import Leaf
from meristem.axes.guards import Computation, Guard, axes_of, either, number_of, replaced
from meristem.axes.map import AxisMap
from meristem.edit import Edit
from meristem.errors import EditError, TraceError


class Net(nn.Module):
    """Two hidden layers; `way` says how the second one goes on."""

    def __init__(self, way: Callable[[Any, Tensor, Tensor, Tensor], Tensor], width: int = 12) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, width), nn.Linear(width, 8), nn.Linear(8, 3)
        self.project, self.way = nn.Linear(width, 8), way

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.last(self.way(self, x, h, self.second(h)) + 0 * self.project(h))


def by_shape(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
    return y + h if y.shape == h.shape else y


def or_projected(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
    return y + (h if h.shape == y.shape else net.project(h))


def by_attribute(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
    return y + h if net.second.in_features == net.second.out_features else y


def like_the_input(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
    return y + F.pad(x, (0, y.shape[-1] - x.shape[-1])) if h.size(-1) != x.size(-1) else y.tanh()


def by_sum(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
    return y if torch.cat([h, y], -1).shape[-1] != 21 else -y


def wide(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
    return y.relu() if h.shape[-1] > 8 else y.tanh()


def half_as_wide(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
    return y.relu() if h.shape[-1] * 0.5 > 4 else y.tanh()


def several_of_four(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
    return y.relu() if max(h.shape[-1] // 4, 2) == h.shape[-1] // 4 else y.tanh()


def not_one_of_some(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
    return y.relu() if h.shape[-1] not in (7, 13) else y.tanh()


INTO_EQUALITY = [
    (by_shape, "second", 12),
    (by_shape, "first", 8),
    (or_projected, "first", 8),
    (by_attribute, "second", 12),
    (by_attribute, "first", 8),
    (like_the_input, "first", 6),
    (by_sum, "first", 13),
    (not_one_of_some, "first", 7),
    (not_one_of_some, "first", 13),
]
BELOW = [(wide, 9), (half_as_wide, 9), (several_of_four, 8)]


def resized(axes: AxisMap, name: str, size: int) -> Edit:
    """An edit that gives an axis a size."""
    axis = axes[name]
    edit = Edit(axes)
    return edit.prune(axis, range(axis.size - size)) if size < axis.size else edit.grow(axis, size - axis.size)


def traced(model: nn.Module, x: Tensor) -> AxisMap:
    torch.manual_seed(0)
    return meristem.trace(model.double().eval(), x)


@pytest.mark.parametrize(("way", "name", "size"), INTO_EQUALITY)
def test_an_edit_into_equality_is_refused_with_the_line(way: Callable[..., Tensor], name: str, size: int) -> None:
    model, x = Net(way), torch.randn(5, 6).double()
    edit = resized(traced(model, x), name, size)
    before = model(x)
    with pytest.raises(EditError, match=r"test_guards\.py:\d+ compares sizes.*another way.*\b" + name):
        edit.preview()
    with pytest.raises(EditError, match="compares sizes"):
        edit.commit()
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize(("way", "name", "size"), INTO_EQUALITY)
def test_sizes_beside_it_work(way: Callable[..., Tensor], name: str, size: int, shift: int) -> None:
    model, x = Net(way), torch.randn(5, 6).double()
    axes = traced(model, x)
    before = model(x)
    grows = size + shift > axes[name].size
    if size + shift == axes[name].size:
        return
    edit = resized(axes, name, size + shift)
    edit.commit()
    after = model(x)
    assert after.shape == before.shape
    assert not grows or torch.allclose(after, before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("way", "least"), BELOW)
def test_a_bound_is_a_minimum(way: Callable[..., Tensor], least: int) -> None:
    model, x = Net(way), torch.randn(5, 6).double()
    axes = traced(model, x)
    assert axes["first"].minimum == least
    with pytest.raises(EditError, match=r"test_guards\.py:\d+ compares sizes"):
        resized(axes, "first", least - 1).commit()
    resized(axes, "first", least).commit()
    assert model(x).shape == (5, 3)


def test_comparisons_that_do_no_harm_are_no_guards() -> None:
    notes = []

    def harmless(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        assert h.ndim == 2
        assert h.shape[-1] > 0
        assert h.shape[-1] == net.first.out_features
        if h.shape[-1] > 64:
            notes.append("wide")
        return y.relu()

    assert traced(Net(harmless), torch.randn(5, 6).double()).guards == ()


def test_remainders_that_the_proof_does_not_meet_are_refused() -> None:
    def remainder(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        return y.relu() if h.shape[-1] % 11 != 1 else y.tanh()

    model = Net(remainder, 11)
    axes = traced(model, torch.randn(5, 6).double())
    with pytest.raises(EditError, match=r"first % 11\) != 1, which holds now"):
        resized(axes, "first", 12).preview()
    resized(axes, "first", 10).commit()


class Repeated(nn.Module):
    """Some heads for each key, as grouped queries have them; a single one is not repeated."""

    def __init__(self, odd: bool) -> None:
        super().__init__()
        self.heads, self.times, self.size, self.odd = 2, 3, 5, odd
        self.keys, self.queries, self.last = nn.Linear(6, 2 * 5), nn.Linear(6, 6 * 5), nn.Linear(6 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows, heads = len(x), self.heads * self.times
        keys = self.keys(x).view(rows, self.heads, self.size)
        if self.times != 1:
            keys = keys[:, :, None].expand(rows, self.heads, self.times, self.size).reshape(rows, heads, self.size)
        elif self.odd:
            keys = keys.tanh()
        return self.last((keys * self.queries(x).view(rows, heads, self.size)).flatten(1))


@pytest.mark.parametrize("odd", [False, True])
def test_what_is_left_out_for_one_unit_does_nothing_then(odd: bool) -> None:
    model, x = Repeated(odd), torch.randn(4, 6).double()
    axes = traced(model, x)
    (times,) = (axis for axis in axes.editable if axis.size == 3)
    assert times.minimum == (2 if odd else 1)
    Edit(axes).prune(times, range(3 - times.minimum)).commit()
    assert model(x).shape == (4, 3)


class Projected(nn.Module):
    """An LSTM that projects what it remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(6, 8, proj_size=3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.lstm(x)[0])


@pytest.mark.parametrize("sizes", [{8: 3}, {3: 8}, {8: 1, 3: 1}])
def test_a_projection_is_told_by_its_size(sizes: dict[int, int]) -> None:
    model, x = Projected(), torch.randn(2, 4, 6).double()
    axes = traced(model, x)
    edit = Edit(axes)
    for axis in axes.editable:
        new = sizes.get(axis.size, axis.size)
        if new < axis.size:
            edit.prune(axis, range(axis.size - new))
        elif new > axis.size:
            edit.grow(axis, new - axis.size)
    with pytest.raises(EditError, match=r"test_guards\.py:\d+ compares sizes: lstm != lstm#2"):
        edit.commit()
    assert model(x).shape == (2, 4, 2)


@pytest.mark.parametrize(("hidden", "projection"), [(4, 3), (8, 7), (8, 9), (2, 1)])
def test_other_sizes_of_a_projection_work(hidden: int, projection: int) -> None:
    model, x = Projected(), torch.randn(2, 4, 6).double()
    axes = traced(model, x)
    for size, new in ((8, hidden), (3, projection)):
        (axis,) = (axis for axis in axes.editable if axis.size == size)
        if new != size:
            edit = Edit(axes)
            axes = (edit.prune(axis, range(size - new)) if new < size else edit.grow(axis, new - size)).commit().axes
    assert model(x).shape == (2, 4, 2)


def test_calls_that_are_left_out_at_the_end_are_seen() -> None:
    class Early(nn.Module):
        """The last operator is called up to a size."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return self.last(h).relu() if h.shape[-1] < 64 else self.last(h)

    assert "test_guards.py" in str(meristem.trace(Early(), torch.zeros(2, 6))["first"].frozen)


def test_a_guard_says_what_it_compares() -> None:
    guard = Guard(">", Computation("//", (Leaf(0), 4)), 2, True, "model.py:3")
    assert guard.said(["stem"]) == "(stem // 4) > 2, which holds now"
    assert guard.axes == {0}
    assert guard.kept([12])
    assert not guard.kept([11])
    assert guard.least(40) == 12
    assert not Guard("==", Computation("//", (4, Leaf(0))), 1, True, "").kept([0]), "the code would raise"
    assert Guard(">", Leaf(0), 0, True, "").trivial
    assert Guard("!=", Leaf(0), 1, True, "").only_single
    assert not Guard("!=", Leaf(0), 7, True, "").only_single


def test_a_measured_drift_comes_before_what_the_map_says() -> None:
    model, x = Net(lambda net, x, h, y: y), torch.randn(5, 6).double()
    edit = resized(traced(model, x), "first", 14)
    assert "exact" in str(edit.preview())
    measured = next(line for line in str(edit.preview(x)).splitlines() if "drift" in line)
    assert measured.strip().startswith("measured drift")


COUNTED = {
    "entries": (lambda net, h: h.numel() > 50, 11),
    "entries by function": (lambda net, h: torch.numel(h[0]) > 10, 11),
    "rows of a weight": (lambda net, h: len(net.first.weight) > 10, 11),
    "entries of a weight": (lambda net, h: net.first.weight.nelement() > 65, 11),
    "bits": (lambda net, h: h.shape[-1] & 8, 8),
    "shifted": (lambda net, h: h.shape[-1] >> 3, 8),
    "bit length": (lambda net, h: h.shape[-1].bit_length() > 3, 8),
    "divided": (lambda net, h: divmod(h.shape[-1], 4)[0] > 1, 8),
    "truncated": (lambda net, h: math.trunc(h.shape[-1] / 4) > 1, 8),
    "power": (lambda net, h: pow(h.shape[-1], 2) > 100, 11),
}


@pytest.mark.parametrize("name", COUNTED)
def test_sizes_are_seen_however_they_are_counted(name: str) -> None:
    holds, least = COUNTED[name]
    model, x = Net(lambda net, x, h, y: y.relu() if holds(net, h) else y.tanh()), torch.randn(5, 6).double()
    axes = traced(model, x)
    with pytest.raises(EditError, match=r"test_guards\.py:\d+ compares sizes"):
        resized(axes, "first", least - 1).preview()
    resized(axes, "first", least).commit()
    assert model(x).shape == (5, 3)


def test_lengths_are_counted_as_ever_afterwards() -> None:
    before = builtins.len
    traced(Net(wide), torch.randn(5, 6).double())
    with pytest.raises(TraceError):
        meristem.trace(Net(lambda net, x, h, y: 1 / 0), torch.randn(5, 6))
    assert builtins.len is before


def test_numbers_that_are_told_compute_like_others() -> None:
    seen = []

    def computing(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        n = h.shape[-1]
        powers = pow(n, 2, 5), pow(n, -1, 13) if n % 13 else 0
        bits = 7 & n, n | 1, n ^ n, 100 >> n, 1 << n, ~n, +n, n.bit_length(), n.bit_count()
        seen.append((n, *powers, *bits, *divmod(n, 5), *divmod(50, n), (n / 4).is_integer(), math.trunc(n / 5)))
        return y

    traced(Net(computing), torch.randn(5, 6).double())
    for told, *numbers in seen:
        n = int(told)
        powers = pow(n, 2, 5), pow(n, -1, 13) if n % 13 else 0
        bits = 7 & n, n | 1, 0, 100 >> n, 1 << n, ~n, n, n.bit_length(), bin(n).count("1")
        assert numbers == [*powers, *bits, n // 5, n % 5, 50 // n, 50 % n, n % 4 == 0, n // 5]


WAYS = {
    "either": (lambda n: n > 100 or n % 4 == 0, {16, 8, 101, 103}, {13, 10, 100 - 1}),
    "nested": (lambda n: not (n > 64 and n < 100), {11, 13, 64, 100, 130}, {65, 99}),
    "two bounds": (lambda n: n < 20 or n > 60, {19, 61}, {20, 60}),
}


@pytest.mark.parametrize("name", WAYS)
def test_comparisons_that_come_out_differently_together(name: str) -> None:
    holds, right, wrong = WAYS[name]
    model, x = Net(lambda net, x, h, y: y.relu() if holds(h.shape[-1]) else y.tanh()), torch.randn(5, 6).double()
    axes = traced(model, x)
    before = model(x)
    for size in wrong:
        assert not holds(size)
        with pytest.raises(EditError, match=r"test_guards\.py:\d+ compares sizes"):
            resized(axes, "first", size).preview()
    for size in right:
        edited = copy.deepcopy(model)
        resized(traced(edited, x), "first", size).commit()
        assert size < 12 or torch.allclose(edited(x), before, rtol=1e-12, atol=1e-12)


def test_one_way_or_the_other_says_which() -> None:
    model = Net(lambda net, x, h, y: y.relu() if h.shape[-1] > 100 or h.shape[-1] % 4 == 0 else y.tanh())
    with pytest.raises(EditError, match=r"\(\(first <= 100\) and \(\(first % 4\) == 0\)\) or \(first > 100\), which h"):
        resized(traced(model, torch.randn(5, 6).double()), "first", 14).preview()


def test_what_one_axis_does_to_the_way_says_nothing_of_another() -> None:
    def both(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        noted = [one.shape[-1] > bound for one in (h, y) for bound in (64, 72)]
        return y.relu() if any(noted) or noted else y.tanh()

    model, x = Net(both), torch.randn(5, 6).double()
    axes = traced(model, x)
    assert [guard.axes for guard in axes.guards] == [{axes["first"].index}, {axes["second"].index}]
    resized(axes, "first", 80).commit()
    with pytest.raises(EditError, match="compares sizes"):
        resized(traced(Net(both), x), "first", 70).preview()


def test_axes_that_decide_together_are_kept_together() -> None:
    def together(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        return y.relu() if (h.shape[-1] > 64) == (y.shape[-1] > 64) else y.tanh()

    model, x = Net(together), torch.randn(5, 6).double()
    axes = traced(model, x)
    for name in ("first", "second"):
        with pytest.raises(EditError, match="compares sizes"):
            resized(axes, name, 80).preview()
    Edit(axes).grow("first", 80).grow("second", 80).commit()
    assert model(x).shape == (5, 3)


@pytest.mark.parametrize("times", [40, 3000])
def test_sums_of_sums_take_no_time(times: int) -> None:
    def doubled(net: Net, x: Tensor, h: Tensor, y: Tensor) -> Tensor:
        n = h.shape[-1]
        for _ in range(times):
            n = n + n if times < 100 else n + h.shape[-1]
        return y.relu() if n > 9 * (2**times if times < 100 else times) else y.tanh()

    axes = traced(Net(doubled), torch.randn(5, 6).double())
    with pytest.raises(EditError, match=r"\.\.\. \+ .* > \d+, which holds now"):
        resized(axes, "first", 8).preview()


def test_a_computation_is_the_same_whatever_it_shares() -> None:
    one, other = Leaf(0), Leaf(0)
    for _ in range(64):
        one, other = Computation("+", (one, one)), Computation("+", (other, other))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Computation("-", (one, one))
    assert Computation("+", (Leaf(0), -1)) != Computation("+", (Leaf(0), -2))
    assert replaced(one, lambda leaf: Leaf(leaf.axis + 1)) != one
    assert number_of(one, [3]) == 3 * 2**64
    assert {*axes_of(one)} == {0}
    assert pickle.loads(pickle.dumps(Computation("+", (Leaf(0), 2)))) == Computation("+", (Leaf(0), 2))


def test_a_way_on_which_the_code_raises_is_none() -> None:
    divided = Guard("==", Computation("//", (4, Leaf(0))), 2, True, "model.py:3")
    guard = either([divided, Guard("<", Leaf(0), 5, True, "model.py:4")], [Guard("<", Leaf(0), 5, False, "model.py:4")])
    assert [size for size in range(8) if guard.kept([size])] == [2, 5, 6, 7]
