"""What stands for fan-out where two activations are multiplied: parts of dimensions, scales, where they are found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.axes import Concat, Coupling, Leaf, Product
from meristem.axes.counterpart import Counterpart, Part, Scale

THREE, HEADS, SIZE = 0, 1, 2
DIMS = {
    "outermost": Product((Leaf(THREE), Leaf(HEADS), Leaf(SIZE))),
    "innermost": Product((Leaf(HEADS), Leaf(SIZE), Leaf(THREE))),
    "concatenated": Concat((Product((Leaf(HEADS), Leaf(SIZE))),) * 3),
    "concatenated within heads": Product((Leaf(HEADS), Concat((Leaf(SIZE),) * 3))),
}
CHOSEN = {
    "outermost": lambda x: x.view(3, -1)[1],
    "innermost": lambda x: x.view(-1, 3)[:, 1],
    "concatenated": lambda x: x.view(3, -1)[1],
    "concatenated within heads": lambda x: x.view(-1, 3, x.numel() // 3 // SIZES[-1][HEADS])[:, 1],
}
SIZES = ({THREE: 3, HEADS: 2, SIZE: 4}, {THREE: 3, HEADS: 2, SIZE: 7})


@pytest.mark.parametrize("name", DIMS)
def test_a_part_is_the_same_at_every_size(name: str) -> None:
    masks = []
    for sizes in SIZES:
        mask = torch.zeros(3 * sizes[HEADS] * sizes[SIZE], dtype=torch.bool)
        CHOSEN[name](mask).fill_(True)
        masks.append(mask)
    part = Part.of(masks[0], DIMS[name], SIZES[0], {THREE})
    assert part is not None
    assert torch.equal(part.mask(DIMS[name], SIZES[1]), masks[1])
    more = {THREE: 3, HEADS: 5, SIZE: 1}
    assert int(part.mask(DIMS[name], more).sum()) == 5


def test_indices_that_hang_on_a_unit_are_no_part() -> None:
    mask = torch.tensor([True, False, False, False] * 6)
    assert Part.of(mask, DIMS["outermost"], SIZES[0], {THREE}) is None
    assert Part.of(mask, DIMS["outermost"], SIZES[0], {THREE, SIZE}) is not None


@pytest.mark.parametrize(
    ("scale", "before", "after", "factor"),
    [(Scale(-0.5), 4, 16, 2.0), (Scale(-1.0), 4, 6, 1.5), (Scale(), 4, 6, 1.0), (Scale(-0.5, 12.0), 4, 52, 2.0)],
)
def test_what_makes_up_for_a_scale(scale: Scale, before: int, after: int, factor: float) -> None:
    assert scale.makes_up(before, after) == pytest.approx(factor)


class Multiplied(nn.Module):
    """Queries and keys of one matrix, multiplied in a given way."""

    def __init__(self, product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.both, self.product = nn.Linear(6, 16), product

    def forward(self, x: Tensor) -> Tensor:
        both = self.both(x).unflatten(-1, (2, -1))
        q, k = both.unbind(-2)
        return self.product(both, q, k)


def found(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Counterpart | None:
    axes = meristem.trace(Multiplied(product), torch.randn(3, 5, 6))
    (axis,) = [axis for axis in axes.editable if Coupling.BILINEAR in axis.couplings]
    return axis.counterpart


def test_it_is_the_second_factor() -> None:
    second = found(lambda _, q, k: q @ k.mT)
    first = found(lambda _, q, k: k @ q.mT)
    assert second is not None
    assert first is not None
    assert second.names == ("both.weight", "both.bias")
    assert second.part("both.weight", 0) == Part(frozenset({0}), (False, True))
    assert first.part("both.weight", 0) == Part(frozenset({0}), (True, False))
    assert second.part("both.weight", 1) is None


def written(both: Tensor, q: Tensor, k: Tensor) -> Tensor:
    with torch.no_grad():
        both.add_(1.0)
    return q @ k.mT


def bent(both: Tensor, q: Tensor, k: Tensor) -> Tensor:
    with torch.no_grad():
        k.exp_()
    return q @ k.mT


@pytest.mark.parametrize(
    "product",
    [written, lambda _, q, k: q @ q.mT, lambda _, q, k: q.cos() @ k.exp().mT,
     lambda _, q, k: q @ (k + 1).mT + k @ (q - 1).mT],
    ids=["memory is written to", "square", "never zero", "added constants"],
)  # fmt: skip
def test_nothing_is_guessed(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    assert found(product) is None


def test_a_factor_may_be_in_the_other_one() -> None:
    """Queries of newborns are zero, and what they are multiplied by is not: it holds the keys."""
    counterpart = found(lambda _, q, k: q @ (q + k).mT)
    assert counterpart is not None
    assert counterpart.part("both.weight", 0) == Part(frozenset({0}), (True, False))


def test_what_is_written_over_is_something_else() -> None:
    counterpart = found(bent)
    assert counterpart is None or not bool(torch.tensor(counterpart.parts[0][2].chosen)[1])


def test_newborns_that_would_never_learn_are_refused() -> None:
    net = Multiplied(lambda _, q, k: q @ k.mT)
    net.both.requires_grad_(False)
    axes = meristem.trace(net, torch.randn(3, 5, 6))
    (axis,) = axes.editable
    assert axis.counterpart is not None
    assert "requires_grad=False" in (meristem.grow.ZeroFanOut().refused(axes, axis) or "")
