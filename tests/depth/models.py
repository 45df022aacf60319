"""Small nets with every kind of structure that depth edits meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .picked import Auxiliary, Last, Levels, Middle, Overwritten, Penultimate, Tapped, Tempered


class Block(nn.Module):
    """A residual block; ReLU is one module that is called twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + x)


class Residual(nn.Module):
    """A stage of residual blocks."""

    def __init__(self, blocks: int = 3, channels: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.stage = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(torch.relu(self.stem(x))).mean((2, 3)))


class Inception(nn.Module):
    """Branches of several depths that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.narrow = nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(6, 3, 1), nn.ReLU(), nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.cat([self.narrow(x), self.wide(x)], dim=1))


class Nested(nn.Module):
    """A branch within a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.gate = nn.Parameter(torch.full((6,), 0.7))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        y = y + self.gate * self.inner(y)
        return self.head(x + self.last(y))


class Acting(nn.Module):
    """Branches that end in functions: such as keep zeros, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.head = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.relu(self.first(x))
        x = x + torch.tanh(self.second(x))
        return self.head(x + torch.exp(self.third(x)))


class UNet(nn.Module):
    """Skip connections that are kept in a list; the code counts on one for each level."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)])
        self.middle = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.up = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)])
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for layer in self.down:
            x = torch.relu(layer(x))
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for layer in self.up:
            x = torch.cat([F.interpolate(x, scale_factor=2.0), skips.pop()], dim=1)
            x = torch.relu(layer(x))
        return self.out(x)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(b, t, c))


class Layer(nn.Module):
    """A transformer's layer that is called with a mask and knows its position."""

    def __init__(self, width: int, index: int) -> None:
        super().__init__()
        self.index = index
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, 2)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 10), nn.GELU(), nn.Linear(10, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Layers that are called with a mask; an attribute says how many there are."""

    def __init__(self, layers: int = 3, width: int = 8) -> None:
        super().__init__()
        self.count = layers
        self.embed = nn.Embedding(11, width)
        self.layers = nn.ModuleList(Layer(width, index) for index in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        mask = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
        for index in range(self.count):
            x = self.layers[index](x, mask=mask)
        return self.head(self.norm(x))


class MixerLayer(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 5), nn.GELU(), nn.Linear(5, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 9), nn.GELU(), nn.Linear(9, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """An MLP-mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, stride=4)
        self.layers = nn.Sequential(MixerLayer(4, 6), MixerLayer(4, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class Shared(nn.Module):
    """One layer that is called twice, and one whose weight the code reads."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.read, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return self.head(torch.relu(F.linear(x, self.read.weight) + self.read(x)))


class Looped(nn.Module):
    """Modules that are called several times: always in a sum, always in a concatenation, and not always."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.block = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6))
        self.both, self.sometimes = nn.Linear(6, 4), nn.Linear(6, 6)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for _ in range(2):
            x = x + 0.5 * self.block(x)
        x = torch.tanh(self.sometimes(x))
        x = x + self.sometimes(x)
        return self.head(torch.cat([self.both(x), self.both(torch.tanh(x))], dim=-1))


class Indexed(nn.Module):
    """A list whose entries the code names by number, a dictionary that it runs through, and a slice of a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.named = nn.ModuleDict({"first": nn.Linear(6, 6), "second": nn.ReLU()})
        self.cut = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.listed[0](x) * self.listed[1](x)
        for layer in self.named.values():
            x = layer(x)
        return self.cut[2](self.cut[:2](x))


class Hidden(nn.Module):
    """A tensor leaves a module by an attribute; its layer is a branch, the module is none."""

    def __init__(self) -> None:
        super().__init__()
        self.keeper, self.head = Keeper(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.keeper(x)
        return self.head(x + self.keeper.kept)


class Keeper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.kept: Tensor = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = torch.tanh(x)
        return torch.relu(self.layer(x))


class Numbered(nn.Module):
    """Children by counted names, an attribute that says how many, and tuples instead of tensors."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)
            self.norm = nn.LayerNorm(6)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.layer(self.norm(x))
            return x + y, y

    def __init__(self) -> None:
        super().__init__()
        self.depth = 2
        self.trunk = nn.Module()
        self.trunk.stage1, self.trunk.stage2 = self.Pair(), self.Pair()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(self.depth):
            x, _ = getattr(self.trunk, f"stage{number + 1}")(x)
        return self.head(x)


def perceptron() -> nn.Module:
    """Layer, norm and activation that repeat."""
    repeated = [m for _ in range(3) for m in (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())]
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), *repeated, nn.Linear(6, 4))


@dataclass(frozen=True)
class Net:
    """A net with an example; by hand: its runs as (container, first child, period, number of blocks), and the branches
    that can be removed. Whether it does something else in training mode, and in which mode it is."""

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Tensor]
    runs: frozenset[tuple[str, int, int, int]] = frozenset()
    branches: frozenset[str] = frozenset()
    trained: bool = False
    training: bool = False

    def model(self) -> nn.Module:
        """Always the same weights, none of them special."""
        torch.manual_seed(0)
        model = self.build().double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            for name, buffer in model.named_buffers():
                if buffer.is_floating_point():
                    buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_(0.0, 0.2)
        return model.train(self.training)

    def x(self, seed: int = 1) -> Tensor:
        """An input."""
        torch.manual_seed(seed)
        made = self.example()
        return made.double() if made.is_floating_point() else made


def image() -> Tensor:
    """Small images, (3, 3, 8, 8)."""
    return torch.randn(3, 3, 8, 8)


def rows() -> Tensor:
    """Feature vectors, (5, 6)."""
    return torch.randn(5, 6)


def _layers(path: str, count: int) -> frozenset[str]:
    return frozenset(f"{path}.{n}.{part}" for n in range(count) for part in ("attention", "mlp"))


def _skips(count: int) -> frozenset[str]:
    return frozenset(f"blocks.{n}.layer" for n in range(count))


NETS = (
    Net("residual", Residual, image, frozenset({("stage", 0, 1, 3)}), frozenset(f"stage.{n}.bn2" for n in range(3))),
    Net("inception", Inception, image, branches=frozenset({"narrow", "wide"})),
    Net("nested", Nested, rows, branches=frozenset({"inner", "last"})),
    Net("acting", Acting, rows, branches=frozenset({"first", "second"})),
    Net("unet", UNet, image),
    Net(
        "transformer",
        Transformer,
        lambda: torch.randint(11, (2, 5)),
        frozenset({("layers", 0, 1, 3)}),
        _layers("layers", 3),
    ),
    Net(
        "mixer",
        Mixer,
        image,
        frozenset({("layers", 0, 1, 2)}),
        frozenset(f"layers.{n}.{part}" for n in range(2) for part in ("tokens", "channels")),
    ),
    Net("shared", Shared, rows),
    Net("looped", Looped, rows, branches=frozenset({"block"})),
    Net("indexed", Indexed, rows),
    Net("hidden", Hidden, rows, branches=frozenset({"keeper.layer"})),
    Net(
        "numbered",
        Numbered,
        rows,
        frozenset({("trunk", 0, 1, 2)}),
        frozenset({"trunk.stage1.layer", "trunk.stage2.layer"}),
    ),
    Net("perceptron", perceptron, rows, frozenset({("", 2, 3, 3)})),
    Net("levels", Levels, rows, branches=_skips(4)),
    Net("penultimate", Penultimate, rows, frozenset({("blocks", 0, 1, 3)}), _skips(4)),
    Net("middle", Middle, rows, branches=_skips(3)),
    Net("tapped", Tapped, rows, frozenset({("blocks", 2, 1, 2)}), _skips(4)),
    Net("last", Last, rows, frozenset({("blocks", 0, 1, 3)}), _skips(4)),
    Net("auxiliary", Auxiliary, rows, frozenset({("blocks", 2, 1, 1)}), _skips(3), trained=True),
    Net("tempered", Tempered, rows, branches=_skips(3)),
    Net("overwritten", Overwritten, rows, branches=frozenset({"second"})),
)


def net(name: str) -> Net:
    """The net of that name."""
    return next(found for found in NETS if found.name == name)
