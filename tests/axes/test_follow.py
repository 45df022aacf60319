"""Paths: from the weights that produce units to those that read them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import meristem
from meristem.axes.path import Path


def paths_of(model: nn.Module, x: Tensor, axis: str) -> tuple[Path, ...]:
    axes = meristem.trace(model, x)
    return axes.paths.get(axes[axis].index, ())


def ends(paths: tuple[Path, ...]) -> set[tuple[str, str]]:
    return {(path.producer.weight, path.consumer.weight) for path in paths}


def test_activation_between_two_linear_layers() -> None:
    (path,) = paths_of(nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)), torch.randn(4, 3), "0")
    z = torch.randn(7, 2)
    assert (path.producer.weight, path.producer.bias, path.consumer.weight) == ("0.weight", "0.bias", "2.weight")
    assert torch.equal(path.middle(z), F.gelu(z))
    assert path.obstacle is None
    assert not path.flattened


def test_in_place_activations_leave_their_argument_alone() -> None:
    (path,) = paths_of(nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)), torch.randn(4, 3), "0")
    z = torch.tensor([[-1.0, 2.0]])
    assert torch.equal(path.middle(z), torch.tensor([[0.0, 2.0]]))
    assert torch.equal(z, torch.tensor([[-1.0, 2.0]]))


IN_PLACE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.SiLU,
    nn.Mish,
)  # fmt: skip


@pytest.mark.parametrize(
    "activation",
    [
        *(kind(inplace=inplace) for kind in IN_PLACE for inplace in (False, True)),
        nn.GELU(), nn.Softplus(), nn.Softshrink(), nn.Hardshrink(), nn.Sigmoid(), nn.Tanh(),
    ],
    ids=str,
)  # fmt: skip
def test_every_activation_is_known_and_followed(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 5), activation, nn.Linear(5, 2))
    (path,) = paths_of(model, torch.randn(4, 3), "0")
    z = torch.linspace(-4, 4, 17)[:, None]
    assert path.obstacle is None
    assert not path.mixes_positions
    assert torch.allclose(path.activation(z), activation(z.clone()))


def test_pooling_norm_and_flattening() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(36, 2),
    )
    (path,) = paths_of(model, torch.randn(2, 1, 8, 8), "0")
    assert path.flattened
    assert path.obstacle is None
    assert [norm.weight for norm in path.batch_norms] == ["1.weight"]
    z = torch.randn(2, 3, 6, 6)
    assert torch.equal(path.middle(z), F.max_pool2d(F.relu(z), 2))


def test_mean_over_positions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).relu().mean((2, 3)))

    (path,) = paths_of(Net(), torch.randn(2, 1, 8, 8), "conv")
    z = torch.randn(2, 3, 6, 6)
    assert path.obstacle is None
    torch.testing.assert_close(path.middle(z).flatten(1), z.relu().mean((2, 3)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer(self.inner(x).relu())
        return self.head(x.tanh())


def test_every_weight_that_adds_into_a_stream_reaches_every_later_reader() -> None:
    paths = paths_of(Residual(), torch.randn(2, 3), "stem")
    assert ends(paths) == {
        ("stem.weight", "inner.weight"), ("stem.weight", "head.weight"), ("outer.weight", "head.weight")
    }  # fmt: skip
    assert all(path.obstacle is None for path in paths)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def test_a_gate_is_an_obstacle() -> None:
    paths = paths_of(Gated(), torch.randn(2, 3), "gate")
    assert paths
    assert all("combines it with another activation" in (path.obstacle or "") for path in paths)


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.reader = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 3, 3), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(torch.cat([self.first(x), self.second(x).relu()], 1))


@pytest.mark.parametrize("axis", ["first", "second"])
def test_concatenation_keeps_units_apart(axis: str) -> None:
    (path,) = paths_of(Joined(), torch.randn(2, 1, 6, 6), axis)
    assert (path.producer.weight, path.consumer.weight, path.obstacle) == (f"{axis}.weight", "reader.weight", None)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.into(self.out(self.into(x).relu())).relu())


def test_a_module_called_twice_has_two_paths() -> None:
    paths = paths_of(Twice(), torch.randn(2, 3), "into")
    assert [(path.producer.call, path.consumer.call) for path in paths] == [(0, 0), (1, 1)]


class Rearranged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 4 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).permute(0, 2, 3, 1).flatten(1))


def test_channels_last_before_flattening_is_an_obstacle() -> None:
    paths = paths_of(Rearranged(), torch.randn(2, 1, 6, 6), "conv")
    assert paths
    assert all("rearranged" in (path.obstacle or "") for path in paths)


def test_paths_survive_edits() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    axes = meristem.trace(model, torch.randn(4, 3))
    after = meristem.Edit(axes).grow("0", 2).commit().axes
    assert after.paths == axes.paths
    assert after.paths
