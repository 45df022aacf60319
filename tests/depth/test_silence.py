"""Which parameters silence a tensor, and turn blocks into the identity: parallel branches, sums, partial writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem import Edit, depth, trace
from meristem.depth.silence import Obstacle, opened_by, silenced_by
from meristem.errors import EditError


class Parallel(nn.Module):
    """A block whose branches read one normalized tensor, as those of GPT-NeoX, GPT-J, Falcon and PaLM do."""

    def __init__(self, join: Callable[[Parallel, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(6), nn.Linear(6, 6)
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.third, self.shift = nn.Linear(6, 6), nn.Parameter(torch.randn(6))
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, x, self.norm(x))


pytestmark = pytest.mark.filterwarnings("ignore::meristem.errors.UnreachedWarning")

BOTH = {"mlp.2.weight", "mlp.2.bias", "attention.weight", "attention.bias"}
THIRD = {"third.weight", "third.bias"}
SILENT: dict[str, tuple[Callable[[Parallel, Tensor, Tensor], Tensor], set[str]]] = {
    "branches first": (lambda m, x, h: m.mlp(h) + m.attention(h) + x, BOTH),
    "stream first": (lambda m, x, h: x + m.mlp(h) + m.attention(h), BOTH),
    "sum of branches": (lambda m, x, h: x + (m.mlp(h) + m.attention(h)), BOTH),
    "nested": (lambda m, x, h: (m.mlp(h) + (m.attention(h) + m.third(h))) + x, BOTH | THIRD),
    "two by two": (lambda m, x, h: (m.mlp(h) + m.attention(h)) + (m.third(h) + x), BOTH | THIRD),
    "difference": (lambda m, x, h: x + (m.mlp(h) - 2 * m.attention(h)), BOTH),
    "scaled": (lambda m, x, h: torch.add(x, m.mlp(h) + m.attention(h), alpha=0.5), BOTH),
    "in place": (lambda m, x, h: m.mlp(h).add_(m.attention(h)).add_(x), BOTH),
    "of its own type": (lambda m, x, h: x + _scaled_by_size(m.third(h)).type_as(x), THIRD),
    "a parameter": (lambda m, x, h: x + (m.third(h) + m.shift), THIRD | {"shift"}),
}
LOUD: dict[str, Callable[[Parallel, Tensor, Tensor], Tensor]] = {
    "two streams": lambda m, x, h: (x + m.mlp(h)) + (x + m.attention(h)),
    "stream times two": lambda m, x, h: torch.add(m.mlp(h), x, alpha=2.0),
    "a number more": lambda m, x, h: x + (m.mlp(h) + 1.0),
    "a part": lambda m, x, h: x + _scaled(m.mlp(h), m.shift),
    "one loud branch": lambda m, x, h: x + (m.mlp(h) + torch.relu(m.attention(h))),
}


def _scaled_by_size(y: Tensor) -> Tensor:
    y = y.to(torch.float64)
    return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 0.5)


def _scaled(y: Tensor, factors: Tensor) -> Tensor:
    y = torch.relu(y)
    y[:, :3].mul_(factors[:3])
    return y


def opened(join: Callable[[Parallel, Tensor, Tensor], Tensor]) -> tuple[nn.Module, Tensor, depth.Places]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(Parallel(join), Parallel(join)), nn.Linear(6, 3)).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    return model, x, depth.places(trace(model, x))


def of_block(places: depth.Places) -> tuple[str, ...] | Obstacle:
    (call,) = places.flow.of["1.0"]
    given = places.flow.version(call.inputs[0], call.first)
    return opened_by(places.flow, given, places.flow.version(call.outputs[0], call.last))


@pytest.mark.parametrize("case", SILENT)
def test_of_a_sum_all_operands_are_silenced(case: str) -> None:
    join, names = SILENT[case]
    model, x, places = opened(join)
    found = of_block(places)
    assert not isinstance(found, Obstacle)
    assert set(found) == {f"1.0.{name}" for name in names}
    expected, x = model(x), x.requires_grad_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Edit(places.axes, optimizer).depth(depth.duplicated(places, "1.0", 1, depth.Silent())).commit()
    assert len(model[1]) == 3
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    used = {name for name, p in model[1][1].named_parameters() if p.grad is not None}
    assert names <= used
    assert all(bool(p.grad.any()) for name, p in model[1][1].named_parameters() if name in used and p.grad is not None)


@pytest.mark.parametrize("case", LOUD)
def test_what_zeros_do_not_silence_is_refused(case: str) -> None:
    model, _, places = opened(LOUD[case])
    assert isinstance(of_block(places), Obstacle)
    with pytest.raises(EditError, match="no zeros turn"):
        depth.duplicated(places, "1.0", 1, depth.Silent())
    assert model is places.model


class InTurn(nn.Module):
    """Two branches, one after the other, the first of which zeros do not silence; in either order of the operands."""

    def __init__(self, turned: bool, normalized: bool) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.LayerNorm(6)
        self.turned, self.normalized = turned, normalized

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x + self.one(x)) if self.normalized else x + torch.relu(self.one(x))
        return self.two(y) + y if self.turned else y + self.two(y)


@pytest.mark.filterwarnings("ignore::meristem.errors.UnreachedWarning")
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_a_refusal_names_what_stands_in_the_way_and_what_can_be_done(turned: bool, normalized: bool) -> None:
    blocks = [InTurn(turned, normalized) for _ in range(2)]
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(*blocks), nn.Linear(6, 3)).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    axes, expected = trace(model, x), model(x)
    places = depth.places(axes)
    with pytest.raises(EditError, match="no zeros turn") as refusal:
        depth.duplicated(places, "1.0", 1, depth.Silent())
    reason = str(refusal.value)
    copied = depth.Insert(places, "after 1.0", depth.ResidualCopy())
    if normalized:
        assert "aten.layer_norm at" in reason
        assert "stands between what it is given and what it returns" in reason
    else:
        assert "aten.relu at" in reason
        assert "makes no zeros that learn" in reason
    assert ("insert a ResidualCopy" in reason) is normalized
    assert ("insert a ZeroResidual" in reason) is not normalized
    if not normalized:
        with pytest.raises(EditError, match="no zeros"):
            copied.tree(axes)
        copied = depth.Insert(places, "after 1.0", depth.ZeroResidual())
    Edit(axes).depth(copied).commit()
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("residual", [False, True])
def test_a_residual_copy_is_named_where_one_can_be_made(residual: bool) -> None:
    """Of blocks that end in a normalization, and of such as add nothing to what they are given."""
    model, x, places = opened(
        (lambda m, x, h: m.norm(x + m.third(h))) if residual else (lambda m, x, h: m.mlp(h) + m.third(h))
    )
    with pytest.raises(EditError, match="where only sums may; insert a ResidualCopy of it"):
        depth.duplicated(places, "1.0", 1, depth.Silent())
    expected = model(x)
    Edit(places.axes).depth(depth.Insert(places, "after 1.0", depth.ResidualCopy())).commit()
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


class Acted(nn.Module):
    """A branch that ends in a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        return self.head(x + self.function(self.branch(x)))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{f: getattr(F, f) for f in ("relu", "relu6", "hardtanh", "gelu", "silu", "leaky_relu", "hardshrink")},
    **{f: getattr(F, f) for f in ("softshrink", "elu", "softplus", "sigmoid")},
    **{f: getattr(torch, f) for f in ("abs", "square", "sin", "erf", "tanh", "exp", "cos")},
    "prelu": lambda y: F.prelu(y, torch.full((1,), 0.3, dtype=y.dtype)),
    "raised": lambda y: F.hardtanh(y, 0.5, 2.0),
    "pooled": lambda y: F.avg_pool1d(y, 3, 1, 1),
    "in place": lambda y: torch.relu_(y),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_branch_goes_if_its_last_function_keeps_zeros(name: str) -> None:
    """Whether they learn or not."""
    torch.manual_seed(0)
    model, x = Acted(FUNCTIONS[name]).double(), torch.randn(5, 6, dtype=torch.float64)
    axes = trace(model, x)
    places = depth.places(axes)
    zeros = torch.zeros(5, 6, dtype=torch.float64, requires_grad=True)
    made = FUNCTIONS[name](zeros * 1)
    (branch,) = places.branches
    assert (branch.frozen is None) is not bool(made.any())
    assert (branch.name == "branch") is not bool(made.any())
    if branch.frozen is not None:
        return
    change = depth.RemoveBranch(places, "branch")
    assert change.inexact() == ("removes the branch branch",)
    for parameter in model.branch.parameters():
        nn.init.zeros_(parameter)
    expected = model(x)
    assert depth.RemoveBranch(places, "branch").inexact() == ()
    Edit(axes).depth(change).commit()
    assert torch.equal(model(x), expected)


def test_a_block_is_not_silenced_by_what_comes_before_it() -> None:
    """Zeros before the block would silence it, too; as a block it has none."""
    model, _, places = opened(SILENT["stream first"][0])
    (call,) = places.flow.of["1.0"]
    given = places.flow.version(call.inputs[0], call.first)
    returned = places.flow.version(call.outputs[0], call.last)
    found = silenced_by(places.flow, returned)
    assert not isinstance(found, Obstacle)
    assert {"0.weight", "0.bias"} < set(found)
    assert isinstance(silenced_by(places.flow, returned, given), Obstacle)
    refused = {place.name: place.frozen for place in places.sums}
    assert "is outside" in (refused["1.0"] or "")
    with pytest.raises(EditError, match="is outside"):
        depth.Insert(places, "after 1.0", depth.ResidualCopy()).tree(places.axes)
    assert model is places.model


@pytest.mark.parametrize("blocks", [[0, 1], range(2)])
def test_the_same_order_in_another_sequence_is_refused(blocks: Sequence[int]) -> None:
    model, _, places = opened(SILENT["stream first"][0])
    with pytest.raises(EditError, match="order already"):
        depth.Arrange(places, "1.0", blocks)
    assert model is places.model
    assert depth.Arrange(places, "1.0", [1, 0]).blocks == (1, 0)
