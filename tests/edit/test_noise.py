"""Uniform random numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meristem.edit.noise import CHUNK, draw_uniform


def drawn(*shape: int, bound: float = 1.0, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return draw_uniform(torch.empty(shape, dtype=dtype), bound, torch.Generator().manual_seed(seed))


def test_the_numbers_are_uniform_and_independent() -> None:
    numbers = drawn(1000, 1000, bound=0.3).flatten() / 0.3
    n = numbers.numel()
    assert numbers.abs().max() <= 1
    assert abs(numbers.mean()) < 5 / (3 * n) ** 0.5
    assert abs(3 * numbers.square().mean() - 1) < 5 * (0.8 / n) ** 0.5
    counts = torch.histc(numbers, 100, -1, 1) / n * 100
    assert (counts - 1).abs().max() < 5 * (100 / n) ** 0.5
    for lag in (1, 2, 4, 1000, CHUNK // 1000 * 1000):
        assert abs(3 * (numbers[:-lag] * numbers[lag:]).mean()) < 5 / n**0.5
    assert len(numbers.unique()) > 0.999 * n


@pytest.mark.parametrize("shape", [(1,), (2, 3), (7, 1, 5), (3, CHUNK), (CHUNK + 1,), (2, CHUNK + 3)])
def test_every_entry_is_drawn_once(shape: tuple[int, ...]) -> None:
    numbers = draw_uniform(torch.full(shape, torch.nan, dtype=torch.float64), 1.0, torch.Generator().manual_seed(0))
    assert numbers.isfinite().all()
    assert len(numbers.unique()) > 0.99 * numbers.numel()


def test_a_seed_gives_the_same_numbers_wherever_they_go() -> None:
    first = drawn(40, 3000)
    assert torch.equal(first, drawn(40, 3000))
    assert not torch.equal(first, drawn(40, 3000, seed=1))
    room = torch.zeros(40, 5000, dtype=torch.float64)
    draw_uniform(room[:, 1000:4000], 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(room[:, 1000:4000], first)
    assert not room[:, :1000].any()
    assert not room[:, 4000:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_single_precision_rounded(dtype: torch.dtype) -> None:
    assert torch.equal(drawn(50, 50, dtype=dtype), drawn(50, 50, dtype=torch.float32).to(dtype))
