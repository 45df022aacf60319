"""Small models that do what maps like to misread, each with the number of axes that can be edited, counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .row import Row, image


class Between(nn.Module):
    """A linear layer, something done to its output, a linear layer."""

    def __init__(self, middle: Callable[[Tensor], Tensor], wide: int = 12, narrow: int | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, wide), nn.Linear(wide if narrow is None else narrow, 5)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.middle(self.first(x))))


class BetweenImages(nn.Module):
    """A convolution, something done to its output, a convolution."""

    def __init__(self, middle: Callable[[Tensor], Tensor], wide: int = 8, narrow: int | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, wide, 3, padding=1), nn.Conv2d(narrow or wide, 5, 1)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.middle(self.first(x))))


def swap_halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([second, first], dim=-1)


def gate_by_other_half(x: Tensor) -> Tensor:
    first, second = x.split(6, dim=-1)
    return torch.cat([first * torch.sigmoid(second), second], dim=-1)


def window(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // 2, 2, width // 2, 2)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * 4, height // 2, width // 2)


def blur(x: Tensor) -> Tensor:
    return F.conv1d(x[:, None], torch.ones(1, 1, 3).to(x), padding=1)[:, 0]


BETWEEN: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "reversed": (0, lambda: Between(lambda x: x + x.flip(-1))),
    "rolled": (0, lambda: Between(lambda x: x + x.roll(1, dims=-1))),
    "halves_swapped": (1, lambda: Between(swap_halves)),
    "gated_by_split": (0, lambda: Between(gate_by_other_half)),
    "first_four": (0, lambda: Between(lambda x: x[:, :4], narrow=4)),
    "every_second": (0, lambda: Between(lambda x: x[:, ::2], narrow=6)),
    "first_and_rest": (1, lambda: Between(lambda x: torch.cat([x[:, 3:], x[:, :3]], dim=1))),
    "twice": (1, lambda: Between(lambda x: torch.cat([x, x], dim=-1), narrow=24)),
    "repeated": (1, lambda: Between(lambda x: x.repeat(1, 2), narrow=24)),
    "interleaved": (1, lambda: Between(lambda x: x.repeat_interleave(2, dim=1), narrow=24)),
    "softmaxed": (1, lambda: Between(lambda x: x.softmax(dim=-1))),
    "normalized": (1, lambda: Between(lambda x: F.normalize(x, dim=-1))),
    "cumulated": (0, lambda: Between(lambda x: x.cumsum(dim=-1))),
    "sorted": (0, lambda: Between(lambda x: x.sort(dim=-1).values)),
    "best_three": (0, lambda: Between(lambda x: x.topk(3, dim=-1).values, narrow=3)),
    "centered": (1, lambda: Between(lambda x: x - x.mean(dim=-1, keepdim=True))),
    "maximum_subtracted": (1, lambda: Between(lambda x: x - x.amax(dim=-1, keepdim=True))),
    "pairwise": (1, lambda: Between(lambda x: (x.unsqueeze(1) * x.unsqueeze(2)).flatten(1), wide=4, narrow=16)),
    "self_similarity": (1, lambda: Between(lambda x: x @ (x.t() @ x))),
    "masked": (0, lambda: Between(lambda x: torch.where(torch.arange(12) % 2 == 0, x, -x))),
    "squared_view": (0, lambda: Between(lambda x: x.view(-1, 3, 4).transpose(1, 2).reshape(-1, 12))),
    "view_kept": (1, lambda: Between(lambda x: x.view(x.shape[0], 3, -1).mul(2).flatten(1))),
    "view_reduced": (1, lambda: Between(lambda x: x.view(x.shape[0], 3, -1).mean(dim=2), narrow=3)),
    "maxout": (1, lambda: Between(lambda x: x.unflatten(1, (-1, 2)).amax(dim=2), narrow=6)),
    "fourier": (0, lambda: Between(lambda x: torch.fft.fft(x, dim=-1).real)),
    "padded": (1, lambda: Between(lambda x: F.pad(x, (0, 2)), narrow=14)),
    "pooled_over_channels": (0, lambda: Between(lambda x: F.avg_pool1d(x.unsqueeze(1), 2).squeeze(1), narrow=6)),
    "convolved_over_channels": (0, lambda: Between(blur)),
    "squeezed": (1, lambda: Between(lambda x: x.unsqueeze(0).unsqueeze(-1).squeeze(), wide=12)),
    "stacked": (1, lambda: Between(lambda x: torch.stack([x, x * x], dim=-1).flatten(1), narrow=24)),
    "stacked_before": (1, lambda: Between(lambda x: torch.stack([x, x * x], dim=1).flatten(1), narrow=24)),
    "constant_scaled": (0, lambda: Between(lambda x: x * torch.linspace(0.5, 1.5, 12).to(x))),
}

BETWEEN_IMAGES: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "space_to_depth": (1, lambda: BetweenImages(lambda x: F.pixel_unshuffle(x, 2), narrow=32)),
    "windows_to_channels": (1, lambda: BetweenImages(window, narrow=32)),
    "unfolded": (1, lambda: BetweenImages(lambda x: F.unfold(x, 3, padding=1).unflatten(2, x.shape[2:]), narrow=72)),
    "resized": (1, lambda: BetweenImages(lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"))),
    "response_normalized": (0, lambda: BetweenImages(lambda x: F.local_response_norm(x, 3))),
    "channels_padded": (1, lambda: BetweenImages(lambda x: F.pad(x, (0, 0, 0, 0, 0, 4)), narrow=12)),
    "reflected": (1, lambda: BetweenImages(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"))),
    "pooled_to_one": (1, lambda: BetweenImages(lambda x: x * F.adaptive_avg_pool2d(x, 1))),
    "gram": (0, lambda: BetweenImages(lambda x: (x.flatten(2) @ x.flatten(2).mT).unsqueeze(1), wide=4, narrow=1)),
    "channels_dropped": (1, lambda: BetweenImages(nn.Dropout2d(0.5))),
    "channels_last": (
        1,
        lambda: BetweenImages(lambda x: x.movedim(1, 3).contiguous().sigmoid().movedim(3, 1)),
    ),
    "maximum_over_channels": (1, lambda: BetweenImages(lambda x: x * x.max(dim=1, keepdim=True).values)),
    "bare_batch_norm": (1, lambda: BetweenImages(nn.BatchNorm2d(8, affine=False))),
    "batch_statistics": (1, lambda: BetweenImages(nn.BatchNorm2d(8, track_running_stats=False))),
}


class Cells(nn.Module):
    """LSTMCell and GRUCell in a Python loop."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.head = nn.LSTMCell(4, 6), nn.GRUCell(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = cell = x.new_zeros(x.shape[0], self.lstm.hidden_size)
        state = x.new_zeros(x.shape[0], self.gru.hidden_size)
        for step in x.unbind(1):
            hidden, cell = self.lstm(step, (hidden, cell))
            state = self.gru(hidden, state)
        return self.head(state)


class ProjectedLSTM(nn.Module):
    """An LSTM with proj_size, and a plain RNN behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.rnn = nn.LSTM(4, 8, proj_size=3, batch_first=True), nn.RNN(3, 6, batch_first=True)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.lstm(x)[0])[0][:, -1])


class CrossAttention(nn.Module):
    """nn.MultiheadAttention with other widths of keys and values, a bias for keys, and the weights as an output."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.memory = nn.Linear(6, 12), nn.Linear(6, 10)
        self.attention = nn.MultiheadAttention(12, 4, kdim=10, vdim=10, add_bias_kv=True, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.memory(x)
        mixed, weights = self.attention(self.query(x), memory, memory)
        return self.head(mixed), weights


class BilinearLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(6, 7)
        self.joint, self.head = nn.Bilinear(8, 7, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.joint(self.left(x), self.right(x))))


class HyperNetwork(nn.Module):
    """The weight of one layer is computed by another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.maker, self.head = nn.Linear(6, 8), nn.Linear(6, 8 * 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.maker(x).view(x.shape[0], 7, 8)
        return self.head(torch.relu(torch.bmm(weight, torch.relu(self.stem(x)).unsqueeze(2)).squeeze(2)))


class Mixture(nn.Module):
    """Experts as one stacked parameter, softmax gates over all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 6, 10) / 3), nn.Parameter(torch.randn(4, 10, 5) / 3)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gate(x).softmax(dim=-1)
        hidden = torch.relu(torch.baddbmm(x.new_zeros(1, 1, 1), x.expand(4, -1, -1), self.up))
        return torch.einsum("ebo,be->bo", torch.bmm(hidden, self.down), gates)


class Routed(nn.Module):
    """Each sample goes to the expert that scores best."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 8) for _ in range(3))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores, chosen = self.gate(x).softmax(dim=-1).max(dim=-1)
        answers = torch.stack([expert(x) for expert in self.experts], dim=1)
        picked = answers.gather(1, chosen[:, None, None].expand(-1, 1, answers.shape[-1])).squeeze(1)
        return self.head(torch.relu(picked * scores[:, None]))


class PooledNodes(nn.Module):
    """Nodes are added up by graph, in a tensor whose width the code keeps as a number."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.head, self.stem = nn.Linear(width, 5), nn.Linear(6, width)

    def forward(self, x: Tensor) -> Tensor:
        graph = torch.arange(len(x))[:, None].expand(-1, self.width) % 2
        return self.head(x.new_zeros(2, self.width).scatter_add(0, graph, torch.tanh(self.stem(x))))


class Answer(NamedTuple):
    logits: Tensor
    features: list[Tensor]


class NestedOutput(nn.Module):
    """A named tuple that holds a list; a checkpointed block; a parameter list and a parameter dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(6, 8), nn.Sequential(nn.Linear(8, 9), nn.ReLU()), nn.Linear(9, 5)
        self.scales = nn.ParameterList([torch.ones(8), torch.ones(9)])
        self.shifts = nn.ParameterDict({"block": torch.zeros(9)})

    def forward(self, x: Tensor) -> Answer:
        x = self.stem(x) * self.scales[0]
        hidden: Any = checkpoint(self.block, x, use_reentrant=False)
        return Answer(self.head(hidden * self.scales[1] + self.shifts["block"]), [hidden.mean(dim=-1)])


class AssertedWidth(nn.Module):
    """Code that checks and repeats its widths."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.stem, self.head = nn.Linear(6, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        if x.shape[-1] != self.width:
            raise ValueError("wrong width")
        return self.head(x.view(-1, self.width) + x.new_ones(self.width) / 7)


class LiteralWidth(nn.Module):
    """A width as a number in the code: it cannot change."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.other, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).view(-1, 2, 4).sigmoid().view(-1, 8) * self.other(x))


class Coincidence(nn.Module):
    """Every length is 4: batch, steps, features, heads, head size."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.query, self.key, self.value = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(4, 16)
        self.project, self.stem, self.mix, self.head = (
            nn.Linear(16, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        query, key, value = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", query, key), dim=-1)
        x = x + self.project(torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2))
        return self.head(x + self.mix(x.mT).mT)


class LearnedPositions(nn.Module):
    """Positions added by slicing a longer parameter, and others by numbers from a longer buffer."""

    numbers: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
        self.positions, self.more = nn.Parameter(torch.randn(1, 16, 8)), nn.Embedding(16, 8)
        self.register_buffer("numbers", torch.arange(16)[None])

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        x = self.stem(x) + self.positions[:, :length] + self.more(self.numbers[:, :length])
        return self.head(torch.relu(x))


def flat(size: int):
    return lambda batch: (torch.randn(batch, size),)


def steps(length: int, size: int):
    return lambda batch: (torch.randn(batch, length, size),)


AWKWARD_ROWS: tuple[Row, ...] = (
    *(Row(f"awkward/{name}", build, flat(6), small=True, editable=n) for name, (n, build) in BETWEEN.items()),
    *(Row(f"awkward/{name}", build, image(6), small=True, editable=n) for name, (n, build) in BETWEEN_IMAGES.items()),
    Row("awkward/cells", Cells, steps(3, 4), small=True, editable=2),
    Row("awkward/projected_lstm", ProjectedLSTM, steps(3, 4), small=True, editable=3),
    Row("awkward/cross_attention", CrossAttention, steps(7, 6), small=True, editable=3),
    Row("awkward/bilinear", BilinearLayer, flat(6), small=True, editable=3),
    Row("awkward/hyper_network", HyperNetwork, flat(6), small=True, editable=0),
    Row("awkward/mixture", Mixture, flat(6), small=True, editable=1),
    Row("awkward/routed", Routed, flat(6), small=True, editable=1),
    Row("awkward/pooled_nodes", PooledNodes, flat(6), small=True, editable=1),
    Row("awkward/nested_output", NestedOutput, flat(6), small=True, editable=2),
    Row("awkward/asserted_width", AssertedWidth, flat(6), small=True, editable=1),
    Row("awkward/literal_width", LiteralWidth, flat(6), small=True, editable=0),
    Row(
        "awkward/positions",
        LearnedPositions,
        lambda batch: (torch.randn(batch, 3 + 2 * batch, 6),),
        small=True,
        editable=1,
    ),
    Row("awkward/coincidence", Coincidence, steps(4, 4), small=True, editable=4, batches=(4, 2)),
)
