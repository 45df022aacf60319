"""Examples of the wrong kind, models that cannot be mapped, and models that need gradients on their way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.edit import Edit
from meristem.errors import TraceError, UnknownAxisError, WrappedModelError


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


class Own(nn.Module):
    """Calls its layer in code that stands here."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (2, 6)),
        (nn.Conv2d(6, 4, 1), (2, 6, 3, 3)),
        (nn.Bilinear(6, 6, 4), (2, 6)),
        (nn.GRU(6, 4), (2, 6)),
    ],
)
def test_operands_of_two_types_are_refused_as_they_are_when_the_model_runs(
    layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    model = Own(layer) if not isinstance(layer, nn.Bilinear) else nn.Sequential(Twice(layer))
    x = torch.ones(shape).to(dtype)
    with pytest.raises((RuntimeError, ValueError)):
        model(x)
    with pytest.raises(TraceError, match=r"test_inputs\.py:\d+.*module '") as raised:
        meristem.trace(model, x)
    assert "Give the arguments" not in str(raised.value)


class Twice(nn.Module):
    """Gives its layer the same twice."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x)


def test_types_that_autocast_brings_together_are_no_error() -> None:
    class Cast(nn.Module):
        """Two layers, one in half precision."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.last(self.first(x).relu().float())

    assert meristem.trace(Cast(), torch.ones(2, 6))["first"].editable


class Recurrent(nn.Module):
    """A recurrent layer in single precision behind what autocast gave half of it."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.first, self.read, self.last = nn.Linear(4, 6), kind(6, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.read(self.first(x))[0])


class Contracted(nn.Module):
    """The same with a contraction."""

    def __init__(self, _: None) -> None:
        super().__init__()
        self.first, self.weight, self.last = nn.Linear(4, 6), nn.Parameter(torch.ones(7, 6)), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.einsum("bti,oi->bto", self.first(x), self.weight))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, None])
def test_what_autocast_casts_within_an_operator_is_no_error(kind: type[nn.RNNBase] | None) -> None:
    model, x = (Contracted(kind) if kind is None else Recurrent(kind)), torch.ones(2, 5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        assert {axis.size for axis in meristem.trace(model, x).editable} == {6, 7}
        with pytest.raises(TraceError, match="expected operands of one type, got float64 and bfloat16"):
            meristem.trace(model, x.double())


def test_advice_on_arguments_only_where_they_do_not_fit() -> None:
    for args in ((), (torch.ones(2, 6), torch.ones(2, 6))):
        with pytest.raises(
            TraceError, match=r"Give the arguments that its forward takes: trace\(model, args, kwargs\)"
        ):
            meristem.trace(mlp(), args)
    with pytest.raises(TraceError, match="same reduction dim") as raised:
        meristem.trace(mlp(), torch.ones(2, 5))
    assert "Give the arguments" not in str(raised.value)


def test_an_exported_graph_is_refused_by_name() -> None:
    exported = torch.export.export(mlp(), (torch.ones(2, 6),)).module()
    with pytest.raises(WrappedModelError, match=r"exported graph .* pass the Python model it was made from"):
        meristem.trace(exported, torch.ones(2, 6))


def test_a_map_without_axes_says_why() -> None:
    class Packed(nn.Module):
        """Keeps its weights where Python does not see them, as quantized layers do."""

        def __init__(self) -> None:
            super().__init__()
            self.held = torch.classes._nnapi.Compilation()

        def forward(self, x: Tensor) -> Tensor:
            return x.relu()

    model = Packed()
    axes = meristem.trace(nn.Sequential(model), torch.ones(2, 6))
    axes = meristem.trace(model, torch.ones(2, 6))
    assert "are packed" in str(axes)
    with pytest.raises(UnknownAxisError, match="are packed"):
        axes["held"]
    nothing = nn.ReLU()
    assert "no parameter" in str(meristem.trace(nothing, torch.ones(2, 6)))


def test_rows_that_a_mask_chooses_leave_the_features_alone() -> None:
    class Chosen(nn.Module):
        """Goes on with some of its samples."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x)[x[:, 0] > 0].relu())

    torch.manual_seed(0)
    model, x = Chosen().double(), torch.randn(9, 6).double()
    axes = meristem.trace(model, x)
    assert [axis.name for axis in axes.editable] == ["first"]
    before = model(x)
    axes = Edit(axes).grow("first", 3).commit().axes
    assert torch.allclose(model(x), before, rtol=1e-12, atol=1e-12)
    Edit(axes).prune("first", range(10)).commit()
    assert model(x).shape == before.shape


def test_features_that_a_mask_chooses_are_frozen() -> None:
    class Chosen(nn.Module):
        """Goes on with some of its features."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(4, 3)
            self.register_buffer("mask", torch.arange(12) < 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x)[:, self.mask])

    assert not meristem.trace(Chosen(), torch.ones(2, 6)).editable


@pytest.mark.parametrize("batch", [4, 5])
def test_the_batch_divides_no_width(batch: int) -> None:
    class Quarter(nn.Module):
        """A quarter of its features count."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            k = int(h.shape[-1] * 0.25)
            mask = torch.cat([h.new_ones(len(x), k), h.new_zeros(len(x), h.shape[-1] - k)], 1)
            return self.last(h * mask)

    axes = meristem.trace(Quarter(), torch.ones(batch, 6))
    assert not axes.editable
    assert any("test_inputs.py" in (axis.frozen or "") for axis in axes)


class Force(nn.Module):
    """An energy and its derivative by the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 12), nn.Linear(12, 9), nn.Linear(9, 1)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            positions = positions.detach().requires_grad_()
            energy = self.last(self.second(self.first(positions).tanh()).sigmoid()).sum()
            return energy, torch.autograd.grad(energy, positions, create_graph=True)[0]


class Adapted(nn.Module):
    """Takes a step of descent before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            loss = self.last(self.first(x).tanh()).square().mean()
            weight, bias = torch.autograd.grad(loss, [self.first.weight, self.first.bias], create_graph=True)
            h = nn.functional.linear(x, self.first.weight - 0.1 * weight, self.first.bias - 0.1 * bias)
            return (self.last(h.tanh()),)


@pytest.mark.parametrize(("build", "widths"), [(Force, {12, 9}), (Adapted, {12})])
def test_gradients_in_the_forward_pass(build: type[nn.Module], widths: set[int]) -> None:
    torch.manual_seed(0)
    model, x = build().double(), torch.randn(4, 6).double()
    axes = meristem.trace(model, x)
    assert {axis.size for axis in axes.editable} == widths
    before = model(x)
    edit = Edit(axes)
    for axis in axes.editable:
        edit.permute(axis, list(reversed(range(axis.size))))
    axes = edit.commit().axes
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(model(x), before, strict=True))
    edit = Edit(axes)
    for axis in axes.editable:
        edit.grow(axis, 3)
    exact = edit.preview().exact
    axes = edit.commit().axes
    drift = max(float((a - b).detach().abs().max()) for a, b in zip(model(x), before, strict=True))
    assert drift < 1e-12 or not exact
    edit = Edit(axes)
    for axis in axes.editable:
        edit.prune(axis, range(axis.size // 2))
    edit.commit()
    model(x)[0].sum().backward()
    assert all(parameter.requires_grad for parameter in model.parameters())
