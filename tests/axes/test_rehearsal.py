"""Rehearsals: what is seen, and how early a brief one ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.axes import rehearsal
from meristem.axes.rehearsal import Outcome
from meristem.axes.trace import trace


class Block(nn.Module):
    """Keeps its number of heads and their size, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_size = 4, 5
        self.first, self.second = nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        split = self.first(x).view(len(x), self.heads, self.head_size).tanh()
        return x + self.second(split.reshape(len(x), self.heads * self.head_size))


def seen(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> tuple[list[Outcome], int]:
    """What each rehearsal of a trace found, and how many axes can be edited."""
    outcomes: list[Outcome] = []
    real = rehearsal.rehearse

    def noting(*args: object, **kwargs: object) -> Outcome:
        outcomes.append(real(*args, **kwargs))  # type: ignore[arg-type]
        return outcomes[-1]

    monkeypatch.setattr("meristem.axes.proof.rehearse", noting)
    return outcomes, len(trace(model, torch.zeros(2, 12)).editable)


def test_equal_blocks_are_looked_at_once_and_proven_together(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes, editable = seen(monkeypatch, nn.Sequential(*(Block() for _ in range(6)), nn.Linear(12, 3)))
    assert outcomes[0].cut
    assert {m.site.module for m in outcomes[0].mismatches} == {"0"}
    assert outcomes[-1].passed
    assert not outcomes[-1].cut
    assert editable == 6 * 2


def test_what_was_cut_has_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes, _ = seen(monkeypatch, nn.Sequential(Block(), Block()))
    assert not any(outcome.cut and outcome.passed for outcome in outcomes)


def test_modules_that_compare_attributes_are_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, 20), 24, enable_nested_tensor=False)
    outcomes, editable = seen(monkeypatch, layers_between(layers))
    assert editable == 24 + 2  # the hidden layers, and the width as heads and their size
    assert len(outcomes) < 12


def layers_between(layers: nn.Module) -> nn.Module:
    """With a width that is neither put in nor given out."""
    return nn.Sequential(nn.Linear(12, 12), layers, nn.Linear(12, 5))


def test_rehearsals_on_real_tensors_stay_small() -> None:
    class Attends(nn.Module):
        """Heads times head size, both editable, and a branch that values decide."""

        def __init__(self) -> None:
            super().__init__()
            self.enter, self.value, self.leave = nn.Linear(5, 24), nn.Linear(24, 24), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            numbers.append(self.value.weight.numel())
            values = self.value(self.enter(x)).unflatten(-1, (3, -1))
            if torch.rand([]) < 2:
                values = values.softmax(1)
            return self.leave(values.flatten(1))

    numbers: list[int] = []
    axes = meristem.trace(Attends(), torch.randn(2, 5))
    assert sum(axis.frozen is None for axis in axes) >= 2
    assert max(numbers) < 100 * 24 * 24


@dataclass(frozen=True)
class Frozen:
    """Nothing of it can be set."""

    size: int = 3


class Guarded:
    """Says no to whoever sets something."""

    def __init__(self) -> None:
        self.__dict__["size"] = 3

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class Small:
    """Takes small numbers only."""

    def __init__(self) -> None:
        self.size = 3

    def __setattr__(self, name: str, value: int) -> None:
        if value > 9:
            raise ValueError(f"{name} is too large")
        self.__dict__[name] = value


class Configured(nn.Module):
    """Splits by a number that its configuration holds, and computes something before."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.config = config
        self.stem, self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        size = self.config["size"] if isinstance(self.config, Mapping) else self.config.size
        return self.last(self.first(self.stem(x).relu()).view(len(x), -1, size).relu().flatten(1))


@pytest.mark.parametrize("config", [Frozen(), MappingProxyType({"size": 3}), Guarded(), Small()])
def test_configurations_that_cannot_be_written_freeze_what_they_hold(config: object) -> None:
    model = Configured(config)
    axes = meristem.trace(model, torch.zeros(2, 4))
    assert axes["stem"].editable
    (held,) = (axis for axis in axes if axis.size == 3 and axis.frozen != "model output")
    assert "test_rehearsal.py:" in str(held.frozen)
    assert model(torch.zeros(2, 4)).shape == (2, 3)


def test_a_property_without_a_setter_is_no_place_for_a_number() -> None:
    class Given(nn.Linear):
        """Says its width as its weight has it."""

        @property
        def out_features(self) -> int:
            return self.weight.shape[0]

        @out_features.setter
        def out_features(self, value: int) -> None:
            assert not hasattr(self, "weight")

    assert meristem.trace(nn.Sequential(Given(4, 6), nn.Linear(6, 3)), torch.zeros(2, 4))["0"].editable


class Partial(nn.Module):
    """Changes some channels and passes on the others, and keeps how many there are of some and of all."""

    def __init__(self, cut: Callable[[Tensor, int, int], Sequence[Tensor]]) -> None:
        super().__init__()
        self.some, self.all, self.cut = 7, 24, cut
        self.changed, self.mixed = nn.Conv2d(7, 7, 3, padding=1), nn.Conv2d(24, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.cut(x, self.some, self.all)
        if first.shape[1] == self.some:
            return x + self.mixed(torch.cat([self.changed(first), last], 1).relu())
        return x + self.mixed(torch.cat([first, self.changed(last)], 1).relu())


CUTS: dict[str, Callable[[Tensor, int, int], Sequence[Tensor]]] = {
    "some first": lambda x, some, all: x.split([some, all - some], 1),
    "some last": lambda x, some, all: x.split([all - some, some], 1),
    "slices": lambda x, some, all: (x[:, : all - some], x[:, all - some :]),
    "narrowed": lambda x, some, all: (x.narrow(1, 0, some), x.narrow(1, some, all - some)),
}


@pytest.mark.parametrize("cut", CUTS)
def test_the_rest_of_what_is_split_is_computed_from_the_whole(cut: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 1), Partial(CUTS[cut]), Partial(CUTS[cut]), nn.Flatten(), nn.Linear(24 * 16, 3)
    ).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    axes, before = meristem.trace(model, x), model(x)
    stream = [axis for axis in axes.editable if axis.name.startswith("0")]
    assert sorted(axis.size for axis in stream) == [7, 17]
    edit = meristem.Edit(axes)
    for axis in stream:
        edit.permute(axis, list(reversed(range(axis.size)))).grow(axis, 2)
    edit.commit()
    torch.testing.assert_close(model(x), before)
    assert {model[place].all for place in (1, 2)} == {28}
    assert {model[place].some for place in (1, 2)} == {9}
