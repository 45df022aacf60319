"""Which units may go, by brute force: slices are cut out of tensors in every combination, and the model is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import meristem
from meristem.axes.expression import units_along
from meristem.axes.map import AxisMap

Place = tuple[str, int]
"""A tensor and one of its dimensions."""
Slot = tuple[Place, tuple[frozenset[int], ...]]
"""A place, and for each unit the indices along it that would go with the unit."""
Found = frozenset[tuple[Place, tuple[frozenset[int], ...]]]
"""What goes together: one entry for each place."""


class Residual(nn.Module):
    """A stream of 4 features that two branches read and add to; their inner widths are 3 and 10."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(17, 4), nn.Linear(4, 2)
        self.up1, self.down1 = nn.Linear(4, 3), nn.Linear(3, 4)
        self.up2, self.down2 = nn.Linear(4, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        x = x + self.down1(torch.relu(self.up1(x)))
        return self.head(x + self.down2(torch.tanh(self.up2(x))))


class Concatenation(nn.Module):
    """Branches of 3 and 4 features, read side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.head = nn.Linear(13, 3), nn.Linear(13, 4), nn.BatchNorm1d(7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([torch.relu(self.a(x)), self.b(x)], 1)))


class Flattened(nn.Module):
    """Three channels of 2 by 2 positions that a linear layer reads in one row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 3, 2), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


class Gated(nn.Module):
    """One layer computes values and their gates; another one a second gate."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.other, self.out = nn.Linear(11, 6), nn.Linear(11, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, 1)
        return self.out(value * torch.sigmoid(gate) * self.other(x))


class Attention(nn.Module):
    """One head: queries and keys of 3 features, values of 7."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(11, 3), nn.Linear(11, 3), nn.Linear(11, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        return self.out(torch.softmax(scores / 2, -1) @ self.v(x))


class Tied(nn.Module):
    """An autoencoder that decodes by the transposed matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.middle = nn.Linear(11, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.middle(torch.relu(self.code(x)))) @ self.code.weight


class Depthwise(nn.Module):
    """A convolution of each channel by itself between two of all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(2, 7, 1), nn.Conv1d(7, 3, 1)
        self.kernel = nn.Parameter(torch.randn(7, 1, 2))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv1d(torch.relu(self.first(x)), self.kernel, groups=self.kernel.shape[0])
        return self.head(torch.relu(self.last(x)).mean(2))


class Fixed(nn.Module):
    """The code writes down one width, and the input joins the stream of another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 13), nn.Linear(13, 4), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x)).view(-1, 13)
        return self.d(torch.relu(self.c(x + self.b(y))))


class Twice(nn.Module):
    """A layer that is called twice, so that what it returns is what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cell, self.head = nn.Linear(11, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.cell(torch.relu(self.cell(self.stem(x))))))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "perceptron": (
        lambda: nn.Sequential(
            nn.Linear(11, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)
        ),
        (7, 11),
        2,
    ),
    "one size": (lambda: nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(4, 4), nn.ReLU()))), (7, 4), 2),
    "residual": (Residual, (7, 17), 3),
    "concatenation": (Concatenation, (7, 13), 2),
    "flattened": (Flattened, (2, 1, 3, 3), 1),
    "gated": (Gated, (7, 11), 1),
    "attention": (Attention, (2, 3, 11), 2),
    "tied": (Tied, (7, 11), 1),
    "depthwise": (Depthwise, (2, 2, 4), 2),
    "fixed": (Fixed, (7, 4), 1),
    "twice": (Twice, (7, 11), 1),
}
"""How to build it, the shape of its input, and by hand how many of its axes have 3 units or more and may be edited.
Widths are such that few slices of other lengths are parts of one another."""


def opened(name: str) -> tuple[nn.Module, Tensor, AxisMap]:
    torch.manual_seed(0)
    build, shape, _ = NETS[name]
    model = build().double().eval()
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if key.endswith("var") else tensor.normal_()
    x = torch.randn(shape, dtype=torch.float64)
    return model, x, meristem.trace(model, x)


def slots(tensors: Mapping[str, Tensor], units: int) -> Iterator[Slot]:
    """Every way in which so many units can lie along a dimension: alone, at its beginning or end beside as many others
    as another dimension has, in one of several equal parts, as blocks of equal length, or over and over."""
    sizes = {size for tensor in tensors.values() for size in tensor.shape}
    for name, tensor in tensors.items():
        for dim, size in enumerate(tensor.shape):
            ways: set[tuple[frozenset[int], ...]] = set()
            if size == units or size % units == 0 or size - units in sizes:
                starts = {0, size - units, *(range(0, size, units) if size % units == 0 else ())}
                ways |= {tuple(frozenset({start + unit}) for unit in range(units)) for start in starts}
            if size % units == 0 and size > units:
                length = size // units
                ways.add(tuple(frozenset(range(unit * length, (unit + 1) * length)) for unit in range(units)))
                ways.add(tuple(frozenset(range(unit, size, units)) for unit in range(units)))
            yield from (((name, dim), way) for way in sorted(ways, key=lambda way: [sorted(one) for one in way]))


def merged(chosen: tuple[Slot, ...]) -> Found:
    """Slots of one place as one."""
    places: dict[Place, tuple[frozenset[int], ...]] = {}
    for place, way in chosen:
        known = places.get(place, (frozenset(),) * len(way))
        places[place] = tuple(one | two for one, two in zip(known, way, strict=True))
    return frozenset(places.items())


def permissible(model: nn.Module, x: Tensor, tensors: Mapping[str, Tensor], found: Found, unit: int) -> bool:
    """Whether the model runs without a unit, and answers as if the unit were zero wherever it lies."""
    cut = dict(tensors)
    for (name, dim), way in found:
        stay = [index for index in range(tensors[name].shape[dim]) if index not in way[unit]]
        cut[name] = cut[name].index_select(dim, torch.tensor(stay))
    try:
        with torch.no_grad():
            answer = functional_call(model, cut, (x,))
    except (RuntimeError, ValueError):
        return False
    silenced = {name: tensor.clone() for name, tensor in tensors.items()}
    for (name, dim), way in found:
        silenced[name].index_fill_(dim, torch.tensor(sorted(way[unit])), 0)
    with torch.no_grad():
        expected = functional_call(model, silenced, (x,))
    return answer.shape == expected.shape and torch.allclose(answer, expected, rtol=0, atol=1e-10)


def by_force(model: nn.Module, x: Tensor) -> set[Found]:
    """The smallest sets of slots that may go together, without those that are a part of the units of another one."""
    tensors = {name: t.detach() for name, t in [*model.named_parameters(), *model.named_buffers()] if t.dim()}
    sizes = {size for tensor in tensors.values() for size in tensor.shape}
    known: set[Found] = set()
    for units in sorted(size for size in sizes if size >= 3):
        every = list(slots(tensors, units))
        assert len(every) <= 12, "there are too many combinations"
        smallest: list[frozenset[Slot]] = []
        for count in range(1, len(every) + 1):
            for chosen in combinations(every, count):
                if any(one.issubset(chosen) for one in smallest):
                    continue
                found = merged(chosen)
                if all(permissible(model, x, tensors, found, unit) for unit in (0, units - 1)):
                    smallest.append(frozenset(chosen))
                    known.add(found)
    return {one for one in known if not any(within(one, other) for other in known)}


def within(one: Found, other: Found) -> bool:
    """Whether the units of one are some of those of another, wherever they lie."""
    small, large = dict(one), dict(other)
    if small.keys() != large.keys() or one == other:
        return False
    return all(frozenset().union(*small[place]) < frozenset().union(*large[place]) for place in small)


def by_map(axes: AxisMap) -> set[Found]:
    """The same from the map: where each unit of every axis lies that may be edited."""
    found: set[Found] = set()
    for axis in axes.editable:
        places: dict[Place, tuple[frozenset[int], ...]] = {}
        for place in axes.places[axis.index]:
            along = units_along(place.layout.dims[place.dim], axis.index, axes.sizes).tolist()
            places[place.layout.name, place.dim] = tuple(
                frozenset(index for index, unit in enumerate(along) if unit == wanted) for wanted in range(axis.size)
            )
        if axis.size >= 3:
            found.add(frozenset(places.items()))
    return found


@pytest.mark.parametrize("name", NETS)
def test_the_map_enumerates_what_brute_force_finds(name: str) -> None:
    model, x, axes = opened(name)
    found = by_map(axes)
    assert len(found) == NETS[name][2]
    assert found == by_force(model, x)
