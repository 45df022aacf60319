"""Configurations follow the depth of the models that are built from them, or a warning says that they do not."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meristem import AxisMap, Edit, depth, replay, trace
from meristem.edit import ConfigurationWarning, fit_config
from meristem.errors import EditError

Order = tuple[int, ...]

GROWN: Order = (0, 1, 0, 1, 1)


class Block(nn.Module):
    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.inner, self.scale = nn.Linear(width, width), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.tanh(self.inner(x))


class Stage(nn.Module):
    def __init__(self, blocks: int, width: int, after: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.down = nn.Linear(width, after)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.blocks(x))


@dataclass
class Settings:
    depths: Sequence[int] = field(default_factory=lambda: [2, 2])
    widths: Sequence[int] = field(default_factory=lambda: [4, 5, 6])
    second: Settings | None = None


class Staged(nn.Module):
    """Stages, each of so many blocks; and the same again, of a configuration within the configuration."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(
            Stage(blocks, width, after)
            for blocks, (width, after) in zip(config.depths, pairwise(config.widths), strict=True)
        )
        self.second = None if config.second is None else Staged(config.second)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x if self.second is None else self.second(x)


@dataclass
class Layered:
    """Two blocks, and a scale of each; `names` has two entries, too, and `classes` is two."""

    blocks: int = 2
    scales: Sequence[float] = (0.5, 2.0)
    names: Sequence[str] = ("yes", "no")
    classes: int = 2


class Scaled(nn.Module):
    """Built with a number of blocks, each with a scale."""

    def __init__(self, config: Layered) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.Sequential(*(self.block(number) for number in range(self.length)))
        self.head = nn.Linear(4, config.classes)

    @property
    def length(self) -> int:
        return self.config.blocks

    def block(self, number: int) -> Block:
        return Block(4, self.config.scales[number])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


class Counted(Scaled):
    """Built with as many blocks as there are scales."""

    @property
    def length(self) -> int:
        return len(self.config.scales)


class Alternating(Scaled):
    """Every second block rolls what it is given; each knows its position."""

    def block(self, number: int) -> Block:
        return Rolled(number)


class Rolled(Block):
    def __init__(self, number: int) -> None:
        super().__init__(4)
        self.roll, self.number = number % 2, number

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.roll(1, -1) if self.roll else x)


class Tabled(Scaled):
    """Only the first block has a table."""

    def block(self, number: int) -> Block:
        return WithTable(number)


class WithTable(Block):
    def __init__(self, number: int) -> None:
        super().__init__(4)
        self.table = None if number else nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.table is None else x + self.table)


def example() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(model: type[nn.Module], config: Any) -> tuple[Any, AxisMap]:
    torch.manual_seed(0)
    found = model(config).double().eval()
    return found, trace(found, example())


@contextmanager
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConfigurationWarning)
        yield


def comes_back(model: Any) -> None:
    """A model built from the configuration takes the parameters, and answers the same bit for bit."""
    built = type(model)(copy.deepcopy(model.config)).double().eval()
    built.load_state_dict(model.state_dict())
    assert torch.equal(built(example()), model(example()))


@pytest.mark.parametrize("kind", [list, tuple])
def test_depths_of_stages_follow(kind: type) -> None:
    """One stage grows and another shrinks in one edit."""
    model, axes = made(Staged, Settings(kind([3, 2])))
    places = depth.places(axes)
    edit = Edit(axes).depth(depth.Arrange(places, "stages.0.blocks", (2,)))
    with silent():
        axes = edit.depth(depth.Arrange(places, "stages.1.blocks", GROWN)).commit().axes
    assert model.config.depths == kind([1, 5])
    comes_back(model)
    assert fit_config(axes) == {}


def test_depths_in_a_nested_configuration_follow() -> None:
    model, axes = made(Staged, Settings(second=Settings(widths=[6, 5, 4])))
    with silent():
        Edit(axes).depth(depth.Arrange(depth.places(axes), "second.stages.1.blocks", GROWN)).commit()
    assert (model.config.depths, model.config.second.depths) == ([2, 2], [2, 5])
    comes_back(model)


@pytest.mark.parametrize("model", [Scaled, Counted])
def test_lists_follow_with_a_number_or_without(model: type[nn.Module]) -> None:
    """And nothing that only happens to be two."""
    found, axes = made(model, Layered())
    with silent():
        Edit(axes).depth(depth.Arrange(depth.places(axes), "blocks", (1, 0, 0))).commit()
    assert found.config == Layered(3 if model is Scaled else 2, (2.0, 0.5, 0.5))
    comes_back(found)


def test_numbers_in_lists_follow_where_the_code_needs_them() -> None:
    class Needs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depths, self.kernel = [2, 3], (2, 2)
            self.blocks = nn.ModuleList(nn.ModuleList(Block(4) for _ in range(n)) for n in self.depths)

        def forward(self, x: Tensor) -> Tensor:
            for stage, length in enumerate(self.depths):
                for number in range(length):
                    x = self.get_submodule(f"blocks.{stage}.{number}")(x)
            return x.sum(self.kernel[0] - 3)

    torch.manual_seed(0)
    model = Needs().double()
    axes = trace(model, example())
    places = depth.places(axes)
    assert [held.path for held in places.containers["blocks.0"].counts] == [("depths", 0)]
    Edit(axes).depth(depth.Arrange(places, "blocks.1", (0, 2))).commit()
    assert model.depths == [2, 2]


def test_a_number_that_equals_the_position_by_chance_stays() -> None:
    model, axes = made(Alternating, Layered())
    with silent():
        axes = Edit(axes).depth(depth.Arrange(depth.places(axes), "blocks", (0, 1, 0, 1))).commit().axes
    assert [block.number for block in model.blocks] == [0, 1, 2, 3]
    assert [block.roll for block in model.blocks] == [0, 1, 0, 1]
    comes_back(model)
    with pytest.warns(ConfigurationWarning, match=r"now: blocks\.1: aten\.\w+ \d"):
        axes = Edit(axes).depth(depth.Arrange(depth.places(axes), "blocks", (0, 2))).commit().axes
    with pytest.raises(EditError, match="no Layered describes this model"):
        fit_config(axes)


def test_what_no_configuration_can_say_is_said() -> None:
    """Once: the next edit does not make it worse. The edit is done all the same."""
    model, axes = made(Scaled, Layered())
    insert = depth.Insert(depth.places(axes), "before head", depth.ZeroResidual())
    with pytest.warns(ConfigurationWarning, match=r"head\.0.*\(would be None\).*fit_config.*meristem\.save") as caught:
        axes = Edit(axes).depth(insert).commit().axes
    assert caught[0].filename == __file__
    assert len(list(model.head.modules())) > 1
    with silent():
        after = Edit(axes).depth(depth.Remove(depth.places(axes), "blocks.0")).commit().axes
    with pytest.raises(EditError, match="no Layered describes this model"):
        fit_config(after)
    fresh, _ = made(Scaled, Layered())
    with pytest.warns(ConfigurationWarning, match="fit_config"):
        replay(axes.history, fresh, example())


def test_a_table_of_the_first_block_alone_cannot_be_copied_in_a_configuration() -> None:
    model, axes = made(Tabled, Layered())
    with pytest.warns(ConfigurationWarning, match=r"blocks\.1\.table \(4,\) \(would be None\)"):
        Edit(axes).depth(depth.Arrange(depth.places(axes), "blocks", (0, 0, 1))).commit()
    assert model.config.blocks == len(model.blocks) == 3


def test_widths_are_for_fit_config() -> None:
    """An edit of widths says nothing, an edit of both says what is left to do."""
    model, axes = made(Staged, Settings())
    with silent():
        axes = Edit(axes).grow("stages.0.down", 1).commit().axes
    with pytest.warns(ConfigurationWarning, match=r"stages\.0\.down\.bias \(6,\) \(would be \(5,\)\)"):
        axes = Edit(axes).depth(depth.Arrange(depth.places(axes), "stages.1.blocks", GROWN)).commit().axes
    assert fit_config(axes) == {"widths.1": (5, 6)}
    comes_back(model)


def test_a_model_of_other_parameters_than_its_configuration_says_is_left_alone() -> None:
    model, _ = made(Scaled, Layered())
    model.head = nn.Sequential(model.head)
    with silent():
        axes = trace(model, example())
        Edit(axes).depth(depth.Insert(depth.places(axes), "after blocks", depth.ZeroResidual())).commit()
