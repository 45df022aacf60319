"""Small nets that work in place, each with a twin that does not and computes the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from .models import Net, image, rows


class Basic(nn.Module):
    """A residual block as torchvision's: one activation in place that is called twice, and a sum in place."""

    def __init__(self, channels: int, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.inplace:
            out += x
            return self.relu(out)
        return self.relu(out + x)


def resnet(inplace: bool) -> nn.Module:
    """Blocks of torchvision's kind."""
    stem = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace)
    return nn.Sequential(*stem, Basic(4, inplace), Basic(4, inplace), nn.Flatten(), nn.Linear(256, 3))


class Begins(nn.Module):
    """A block that begins with an activation, in place: of what is given to it nothing else is left."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.act, self.layer = nn.ReLU(inplace), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.act(x))


def beginning(inplace: bool) -> nn.Module:
    """Blocks that begin in place, one behind a tanh, whose derivative needs its result."""
    return nn.Sequential(nn.Linear(6, 6), Begins(inplace), Begins(inplace), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))


class Chained(nn.Module):
    """A branch of three layers between which one activation works in place."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.stem, self.act = nn.Linear(6, 6), nn.ReLU(inplace)
        self.one, self.two, self.three, self.head = (nn.Linear(6, width) for width in (6, 6, 6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.three(self.act(self.two(self.act(self.one(x))))))


class Stream(nn.Module):
    """What the branches return is added in place to what they are given, of which no derivative needs the entries."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.stem, self.act = nn.Linear(6, 6), nn.ReLU()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            y = layer(self.act(x))
            x = x.add_(y) if self.inplace else x + y
        return self.head(x)


def pooled(inplace: bool) -> nn.Module:
    """An operator in place behind a pooling behind a ReLU, whose derivative needs its result."""
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.AvgPool1d(1), nn.ReLU(inplace), nn.Linear(6, 3))


_WORKING: dict[str, tuple[Callable[[bool], nn.Module], Callable[[], Tensor]]] = {
    "resnet": (resnet, image),
    "beginning": (beginning, rows),
    "chained": (Chained, rows),
    "stream": (Stream, rows),
    "pooled": (pooled, rows),
}
IN_PLACE = {
    name: tuple(Net(f"{name}, {inplace}", partial(build, inplace), x) for inplace in (True, False))
    for name, (build, x) in _WORKING.items()
}
"""Nets that work in place, each with a twin that does not and computes the same."""
