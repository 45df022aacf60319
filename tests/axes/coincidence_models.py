"""Small models of many kinds whose lengths are all given by name, so that any two can be made equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

Lengths = Mapping[str, int]
Case = tuple[Callable[[Lengths], nn.Module], Lengths, Callable[[Lengths], tuple[Tensor, ...]]]


class Attention(nn.Module):
    """Pre-norm attention by hand, then a hidden layer."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        width, self.heads = n["heads"] * n["size"], n["heads"]
        self.stem = nn.Linear(n["inputs"], width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, n["hidden"]), nn.Linear(n["hidden"], width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n["answers"])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(x)
        q, k, v = (f(y).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        a = (q @ k.transpose(-1, -2) / k.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + self.o(a.transpose(1, 2).reshape(*x.shape[:2], -1))
        return self.head((x + self.down(functional.gelu(self.up(x)))).mean(1))


class Grouped(nn.Module):
    """Several queries to each head of keys and values, by einsum."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        self.n, keys = n, n["heads"] * n["size"]
        self.q = nn.Linear(n["inputs"], keys * n["queries"])
        self.k, self.v = nn.Linear(n["inputs"], keys), nn.Linear(n["inputs"], keys)
        self.o = nn.Linear(keys * n["queries"], n["answers"])

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(*x.shape[:2], self.n["heads"], self.n["queries"], -1)
        k, v = (f(x).view(*x.shape[:2], self.n["heads"], -1) for f in (self.k, self.v))
        a = torch.einsum("btkgd,bskd->bkgts", q, k).softmax(-1)
        return self.o(torch.einsum("bkgts,bskd->btkgd", a, v).reshape(*x.shape[:2], -1)).mean(1)


class Mixer(nn.Module):
    """Hidden layers along tokens and along channels."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(n["inputs"], n["channels"]), nn.LayerNorm(n["channels"])
        self.t1, self.t2 = nn.Linear(n["tokens"], n["along"]), nn.Linear(n["along"], n["tokens"])
        self.c1, self.c2 = nn.Linear(n["channels"], n["across"]), nn.Linear(n["across"], n["channels"])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.t2(functional.gelu(self.t1(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        return (x + self.c2(functional.gelu(self.c1(x)))).sum((1, 2))


class Images(nn.Module):
    """Convolutions with scales for every channel, row and column; then flattened."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, n["first"], 3, padding=1), nn.Conv2d(n["first"], n["second"], 3, padding=1)
        self.scale = nn.Parameter(torch.randn(n["first"], 1, 1))
        self.place = nn.Parameter(torch.randn(n["rows"], n["columns"]))
        self.norm = nn.BatchNorm2d(n["second"])
        self.up, self.head = nn.Linear(n["second"] * n["rows"] * n["columns"], n["hidden"]), nn.Linear(n["hidden"], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.a(x)) * self.scale + self.place
        return self.head(functional.relu(self.up(functional.relu(self.norm(self.b(x))).flatten(1))))


class Experts(nn.Module):
    """Soft experts in bare parameters."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        self.gate, self.head = nn.Linear(n["inputs"], n["experts"]), nn.Linear(n["inputs"], n["answers"])
        self.w1 = nn.Parameter(torch.randn(n["experts"], n["inputs"], n["hidden"]))
        self.w2 = nn.Parameter(torch.randn(n["experts"], n["hidden"], n["inputs"]))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("btc,xcf->btxf", x, self.w1).relu()
        y = torch.einsum("btxf,xfc->btxc", y, self.w2)
        return self.head((y * self.gate(x).softmax(-1)[..., None]).sum(2))


class Windows(nn.Module):
    """Attention within windows of an image, one matrix for queries, keys and values, a bias for every head."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        self.n, width = n, n["heads"] * n["size"]
        self.stem, self.qkv, self.o = nn.Linear(3, width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(n["heads"], n["side"] ** 2, n["side"] ** 2))
        self.head = nn.Linear(width, n["answers"])

    def forward(self, x: Tensor) -> Tensor:
        x, side, grid = self.stem(x), self.n["side"], self.n["windows"]
        y = x.view(len(x), grid, side, grid, side, -1).permute(0, 1, 3, 2, 4, 5).reshape(-1, side**2, x.shape[-1])
        q, k, v = self.qkv(y).reshape(len(y), side**2, 3, self.n["heads"], -1).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v
        y = self.o(a.transpose(1, 2).reshape(len(y), side**2, -1)).view(len(x), grid, grid, side, side, -1)
        return self.head((x + y.permute(0, 1, 3, 2, 4, 5).reshape(x.shape)).mean((1, 2)))


class StateSpace(nn.Module):
    """A recurrence with a state for every channel."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.randn(n["channels"], n["state"]))
        self.b, self.c = nn.Linear(n["inputs"], n["state"]), nn.Linear(n["inputs"], n["state"])
        self.stem, self.head = nn.Linear(n["inputs"], n["channels"]), nn.Linear(n["channels"], n["answers"])

    def forward(self, x: Tensor) -> Tensor:
        u, h, found = self.stem(x), torch.zeros(len(x), *self.decay.shape), []
        for t in range(x.shape[1]):
            h = h * torch.exp(-self.decay.exp()) + u[:, t, :, None] * self.b(x[:, t])[:, None]
            found.append((h * self.c(x[:, t])[:, None]).sum(-1))
        return self.head(torch.stack(found, 1)).mean(1)


class Latents(nn.Module):
    """Learned queries that attend to what comes in."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(n["latents"], n["width"]))
        self.q, self.k = nn.Linear(n["width"], n["shared"]), nn.Linear(n["inputs"], n["shared"])
        self.v, self.head = nn.Linear(n["inputs"], n["width"]), nn.Linear(n["width"], n["answers"])

    def forward(self, x: Tensor) -> Tensor:
        a = (self.q(self.latents) @ self.k(x).transpose(1, 2)).softmax(-1)
        return self.head(a @ self.v(x) + self.latents).mean(1)


class Words(nn.Module):
    """Embedded symbols and places, a tied head."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        self.words, self.places = (
            nn.Embedding(n["words"], n["width"]),
            nn.Parameter(torch.randn(n["tokens"], n["width"])),
        )
        self.norm, self.up = nn.LayerNorm(n["width"]), nn.Linear(n["width"], n["hidden"])
        self.down = nn.Linear(n["hidden"], n["width"])

    def forward(self, symbols: Tensor) -> Tensor:
        x = self.words(symbols) + self.places[: symbols.shape[1]]
        return (x + self.down(self.up(self.norm(x)).relu())) @ self.words.weight.T


class Graph(nn.Module):
    """Features that are mixed by a matrix that comes in."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(n["inputs"], n["hidden"]), nn.Linear(n["hidden"], n["hidden"])
        self.head = nn.Linear(n["hidden"], n["answers"])

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.head((edges @ self.b((edges @ self.a(x)).relu())).relu().mean(1))


class Channels(nn.Module):
    """Attention of channels to channels of another map."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, n["channels"], 3, padding=1), nn.Conv1d(3, n["channels"], 1)
        self.k, self.head = nn.Conv1d(n["channels"], n["hidden"], 1), nn.Linear(n["hidden"], n["answers"])

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return self.head(self.k((a @ b.transpose(1, 2)).softmax(-1) @ b).mean(-1))


class Torch(nn.Module):
    """PyTorch's own attention, the batch behind the tokens or before them."""

    def __init__(self, n: Lengths, first: bool) -> None:
        super().__init__()
        width = n["heads"] * n["size"]
        self.stem, self.head = nn.Linear(n["inputs"], width), nn.Linear(width, n["answers"])
        self.attention = nn.MultiheadAttention(width, n["heads"], batch_first=first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.attention(x, x, x)[0])


class TorchCross(nn.Module):
    """PyTorch's own attention, to keys and values of other widths."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        width = n["heads"] * n["size"]
        self.q, self.k, self.v = (nn.Linear(n["inputs"], m) for m in (width, n["keys"], n["values"]))
        self.attention = nn.MultiheadAttention(width, n["heads"], kdim=n["keys"], vdim=n["values"])
        self.head = nn.Linear(width, n["answers"])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(self.q(x), self.k(x), self.v(x), need_weights=False)[0])


class TorchLayer(nn.Module):
    """PyTorch's own layer of a transformer."""

    def __init__(self, n: Lengths) -> None:
        super().__init__()
        width = n["heads"] * n["size"]
        self.stem, self.head = nn.Linear(n["inputs"], width), nn.Linear(width, n["answers"])
        self.layer = nn.TransformerEncoderLayer(width, n["heads"], n["hidden"])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.stem(x)))


def _sequences(n: Lengths) -> tuple[Tensor, ...]:
    return (torch.randn(n["batch"], n["tokens"], n["inputs"]),)


SEQUENCE = {"batch": 2, "tokens": 5, "inputs": 7}
CASES: dict[str, Case] = {
    "attention": (Attention, {**SEQUENCE, "heads": 3, "size": 4, "hidden": 13, "answers": 11}, _sequences),
    "torch": (lambda n: Torch(n, False), {**SEQUENCE, "heads": 3, "size": 4, "answers": 11}, _sequences),
    "torch batch first": (lambda n: Torch(n, True), {**SEQUENCE, "heads": 3, "size": 4, "answers": 11}, _sequences),
    "torch cross": (
        TorchCross,
        {**SEQUENCE, "heads": 3, "size": 4, "keys": 10, "values": 13, "answers": 11},
        _sequences,
    ),
    "torch layer": (TorchLayer, {**SEQUENCE, "heads": 3, "size": 4, "hidden": 13, "answers": 11}, _sequences),
    "grouped": (Grouped, {**SEQUENCE, "heads": 6, "queries": 3, "size": 4, "answers": 11}, _sequences),
    "mixer": (Mixer, {**SEQUENCE, "channels": 8, "along": 6, "across": 9}, _sequences),
    "images": (
        Images,
        {"batch": 2, "first": 4, "second": 5, "rows": 6, "columns": 7, "hidden": 9},
        lambda n: (torch.randn(n["batch"], 3, n["rows"], n["columns"]),),
    ),
    "experts": (Experts, {**SEQUENCE, "experts": 4, "hidden": 6, "answers": 3}, _sequences),
    "windows": (
        Windows,
        {"batch": 3, "windows": 2, "side": 5, "size": 4, "heads": 6, "answers": 7},
        lambda n: (torch.randn(n["batch"], *[n["windows"] * n["side"]] * 2, 3),),
    ),
    "state space": (StateSpace, {**SEQUENCE, "channels": 4, "state": 3, "answers": 6}, _sequences),
    "latents": (Latents, {**SEQUENCE, "latents": 3, "width": 6, "shared": 4, "answers": 8}, _sequences),
    "words": (
        Words,
        {"batch": 2, "tokens": 5, "words": 11, "width": 6, "hidden": 7},
        lambda n: (torch.randint(n["words"], (n["batch"], n["tokens"])),),
    ),
    "graph": (
        Graph,
        {"batch": 2, "nodes": 5, "inputs": 4, "hidden": 6, "answers": 3},
        lambda n: (torch.randn(n["batch"], n["nodes"], n["inputs"]), torch.rand(n["batch"], n["nodes"], n["nodes"])),
    ),
    "channels": (
        Channels,
        {"batch": 2, "channels": 4, "length": 6, "hidden": 7, "answers": 5},
        lambda n: (torch.randn(n["batch"], 3, n["length"]),),
    ),
}
