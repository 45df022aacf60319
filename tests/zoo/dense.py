"""The zoo's own small fully connected and recurrent models, each with its table."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from .row import Row


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 5))


class ResidualMLP(nn.Module):
    """Pre-norm residual blocks around one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 10)
        self.norm = nn.LayerNorm(10)
        self.up = nn.Linear(10, 14)
        self.down = nn.Linear(14, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x)


class SharedTwice(nn.Module):
    """One module called twice: its inputs and outputs are the same axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.shared(torch.relu(self.shared(x)))))


class TiedAutoencoder(nn.Module):
    """The decoder uses the transposed weight of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(9, 12), nn.Linear(12, 4)
        self.bias = nn.Parameter(torch.zeros(12))
        self.out = nn.Parameter(torch.zeros(9))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.relu(self.second(torch.relu(self.first(x))))
        hidden = torch.relu(nn.functional.linear(code, self.second.weight.t(), self.bias))
        return hidden @ self.first.weight + self.out


class TiedLanguageModel(nn.Module):
    """The answer layer is the embedding itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(x + self.down(torch.relu(self.up(x))))


class BareEinsum(nn.Module):
    """Parameters without modules, contracted by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(6, 10) / 3)
        self.offset = nn.Parameter(torch.zeros(10))
        self.mixing = nn.Parameter(torch.randn(3, 10, 8) / 3)
        self.last = nn.Parameter(torch.randn(3, 8, 5) / 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(torch.einsum("bi,ij->bj", x, self.first) + self.offset)
        hidden = torch.relu(torch.einsum("bj,hjk->bhk", hidden, self.mixing))
        return torch.einsum("bhk,hko->bo", hidden, self.last)


class GLU(nn.Module):
    """F.glu halves: value and gate are one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 20), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.glu(self.up(x), dim=-1))


class SwiGLU(nn.Module):
    """A gate and a value from one matrix (chunk) and from two (the second layer)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 24), nn.Linear(12, 8)
        self.gate, self.value, self.out = nn.Linear(8, 10), nn.Linear(8, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        x = self.down(nn.functional.silu(gate) * value)
        return self.out(nn.functional.silu(self.gate(x)) * self.value(x))


def weight_norm_new() -> nn.Module:
    wrap = parametrizations.weight_norm
    return nn.Sequential(wrap(nn.Linear(6, 12)), nn.ReLU(), wrap(nn.Linear(12, 8)), nn.ReLU(), nn.Linear(8, 5))


def weight_norm_old() -> nn.Module:
    wrap = torch.nn.utils.weight_norm
    model = nn.Sequential(wrap(nn.Linear(6, 12)), nn.ReLU(), wrap(nn.Linear(12, 8)), nn.ReLU(), nn.Linear(8, 5))
    with torch.no_grad():
        model(torch.zeros(1, 6))  # from here on it can be copied: `weight` is recomputed without a graph
    return model


def spectral_norm_new() -> nn.Module:
    wrap = parametrizations.spectral_norm
    return nn.Sequential(wrap(nn.Linear(6, 12)), nn.ReLU(), wrap(nn.Linear(12, 8)), nn.ReLU(), nn.Linear(8, 5))


def spectral_norm_old() -> nn.Module:
    wrap = torch.nn.utils.spectral_norm
    return nn.Sequential(wrap(nn.Linear(6, 12)), nn.ReLU(), wrap(nn.Linear(12, 8)), nn.ReLU(), nn.Linear(8, 5))


class TwoInputs(nn.Module):
    """Two inputs, one of them by keyword; a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(4, 10)
        self.joint = nn.Linear(18, 12)
        self.heads = nn.ModuleDict({"class": nn.Linear(12, 5), "value": nn.Linear(12, 1)})

    def forward(self, left: Tensor, *, right: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([torch.relu(self.left(left)), torch.relu(self.right(right))], dim=-1)
        hidden = torch.relu(self.joint(joined))
        return {name: head(hidden) for name, head in self.heads.items()}


class RMSNormNet(nn.Module):
    """nn.RMSNorm between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(6, 10), nn.RMSNorm(10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.stem(x))))


def hf_conv1d() -> nn.Module:
    """Hugging Face's Conv1D: a linear layer whose weight is (inputs, outputs)."""
    from transformers.pytorch_utils import Conv1D

    return nn.Sequential(Conv1D(12, 6), nn.GELU(), Conv1D(8, 12), nn.GELU(), nn.Linear(8, 5))


def vector(size: int):
    return lambda batch: (torch.randn(batch, size),)


NORMED = {"2.bias": "b", "4.weight": "5, b", "4.bias": "5", "0.bias": "a"}

DENSE_ROWS = (
    Row("mlp", mlp, vector(6), small=True,
        table={"0.weight": "a, 6", "0.bias": "a", "2.weight": "b, a", "2.bias": "b", "4.weight": "5, b",
               "4.bias": "5"}),
    Row("residual_mlp", ResidualMLP, vector(6), small=True,
        table={"stem.weight": "s, 6", "stem.bias": "s", "norm.weight": "s", "norm.bias": "s", "up.weight": "u, s",
               "up.bias": "u", "down.weight": "s, u", "down.bias": "s", "head.weight": "5, s", "head.bias": "5"}),
    Row("shared_twice", SharedTwice, vector(6), small=True,
        table={"stem.weight": "a, 6", "stem.bias": "a", "shared.weight": "a, a", "shared.bias": "a",
               "head.weight": "5, a", "head.bias": "5"}),
    Row("tied_autoencoder", TiedAutoencoder, vector(9), small=True,
        table={"first.weight": "a, 9", "first.bias": "a", "second.weight": "c, a", "second.bias": "c", "bias": "a",
               "out": "9"}),
    Row("tied_language_model", TiedLanguageModel, lambda batch: (torch.randint(0, 11, (batch, 4)),), small=True,
        table={"embedding.weight": "11, s", "up.weight": "u, s", "up.bias": "u",
               "down.weight": "s, u", "down.bias": "s"}),
    Row("bare_einsum", BareEinsum, vector(6), small=True,
        table={"first": "6, j", "offset": "j", "mixing": "h, j, k", "last": "h, k, 5"}),
    Row("glu", GLU, vector(6), small=True,
        table={"up.weight": "2*g, 6", "up.bias": "2*g", "down.weight": "5, g", "down.bias": "5"}),
    Row("swiglu", SwiGLU, vector(6), small=True,
        table={"up.weight": "2*g, 6", "up.bias": "2*g", "down.weight": "x, g", "down.bias": "x", "gate.weight": "y, x",
               "gate.bias": "y", "value.weight": "y, x", "value.bias": "y", "out.weight": "5, y", "out.bias": "5"}),
    Row("weight_norm_new", weight_norm_new, vector(6), small=True,
        table={**NORMED,
               "0.parametrizations.weight.original0": "a, 1", "0.parametrizations.weight.original1": "a, 6",
               "2.parametrizations.weight.original0": "b, 1", "2.parametrizations.weight.original1": "b, a"}),
    Row("weight_norm_old", weight_norm_old, vector(6), small=True,
        table={**NORMED, "0.weight_g": "a, 1", "0.weight_v": "a, 6", "2.weight_g": "b, 1", "2.weight_v": "b, a"}),
    Row("spectral_norm_new", spectral_norm_new, vector(6), small=True,
        table={**NORMED,
               "0.parametrizations.weight.original": "a, 6", "0.parametrizations.weight.0._u": "a",
               "0.parametrizations.weight.0._v": "6", "2.parametrizations.weight.original": "b, a",
               "2.parametrizations.weight.0._u": "b", "2.parametrizations.weight.0._v": "a"}),
    Row("spectral_norm_old", spectral_norm_old, vector(6), small=True,
        table={**NORMED, "0.weight_orig": "a, 6", "0.weight_u": "a", "0.weight_v": "6", "2.weight_orig": "b, a",
               "2.weight_u": "b", "2.weight_v": "a"}),
    Row("two_inputs_dict_output", TwoInputs,
        lambda batch: {"left": torch.randn(batch, 6), "right": torch.randn(batch, 4)}, small=True,
        table={"left.weight": "l, 6", "left.bias": "l", "right.weight": "r, 4", "right.bias": "r",
               "joint.weight": "j, l + r", "joint.bias": "j", "heads.class.weight": "5, j",
               "heads.class.bias": "5", "heads.value.weight": "1, j", "heads.value.bias": "1"}),
    Row("rms_norm", RMSNormNet, vector(6), small=True,
        table={"stem.weight": "a, 6", "stem.bias": "a", "norm.weight": "a", "head.weight": "5, a", "head.bias": "5"}),
    Row("hf_conv1d", hf_conv1d, vector(6), small=True,
        table={"0.weight": "6, a", "0.bias": "a", "2.weight": "a, b", "2.bias": "b", "4.weight": "5, b",
               "4.bias": "5"}),
)  # fmt: skip
