"""The zoo's own small convolutional models, each with its table."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .row import Row, image


class Classifier(nn.Module):
    """A trunk, global average pooling, a linear answer layer."""

    def __init__(self, *trunk: nn.Module, channels: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*trunk)
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).flatten(2).mean(dim=2))


def conv_flatten_linear() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(96, 10), nn.ReLU(), nn.Linear(10, 5),
    )  # fmt: skip


class UNet(nn.Module):
    """Two resolutions, a skip connection by concatenation, two logits a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 10, 2, stride=2)
        self.merge, self.out = nn.Conv2d(16, 12, 3, padding=1), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = torch.relu(self.down1(x))
        coarse = torch.relu(self.down2(F.max_pool2d(fine, 2)))
        return self.out(torch.relu(self.merge(torch.cat([fine, torch.relu(self.up(coarse))], dim=1))))


class DenseBlock(nn.Module):
    """Every layer reads all earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first, self.second = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(10, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(18)
        self.head = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, torch.relu(self.first(x))], dim=1)
        x = torch.cat([x, torch.relu(self.second(x))], dim=1)
        return self.head(torch.relu(self.norm(x)).mean(dim=(2, 3)))


class ResNeXt(nn.Module):
    """A residual block whose 3x3 convolution has four groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.reduce, self.grouped = nn.Conv2d(10, 12, 1), nn.Conv2d(12, 8, 3, padding=1, groups=4)
        self.norm, self.expand = nn.BatchNorm2d(8), nn.Conv2d(8, 10, 1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.expand(torch.relu(self.norm(self.grouped(torch.relu(self.reduce(x))))))
        return self.head(x.mean(dim=(2, 3)))


def depthwise(multiplier: int) -> nn.Module:
    middle = 6 * multiplier
    return Classifier(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, middle, 3, padding=1, groups=6), nn.BatchNorm2d(middle),
        nn.ReLU(), nn.Conv2d(middle, 8, 1), nn.ReLU(), channels=8,
    )  # fmt: skip


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate that is computed from their own means."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean(dim=(2, 3), keepdim=True)))))
        return self.head(x.mean(dim=(2, 3)))


def transposed_groups() -> nn.Module:
    return Classifier(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4), nn.ReLU(),
        nn.Conv2d(12, 6, 1), nn.ReLU(), channels=6,
    )  # fmt: skip


def instance_norm() -> nn.Module:
    return Classifier(
        nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.ReLU(),
        nn.Conv2d(8, 6, 3), nn.InstanceNorm2d(6), nn.ReLU(), channels=6,
    )  # fmt: skip


def group_norm() -> nn.Module:
    return Classifier(
        nn.Conv2d(3, 12, 3, padding=1), nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv2d(12, 6, 3), nn.ReLU(), channels=6
    )


def conv1d() -> nn.Module:
    return Classifier(
        nn.Conv1d(2, 8, 3, padding=1), nn.BatchNorm1d(8), nn.PReLU(8), nn.AvgPool1d(2), nn.Conv1d(8, 6, 3), nn.ReLU(),
        channels=6,
    )  # fmt: skip


def conv3d() -> nn.Module:
    return Classifier(
        nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 6, 3, padding=1),
        nn.ReLU(), channels=6,
    )  # fmt: skip


class StandardizedConv2d(nn.Conv2d):
    """Convolution with standardized weights (Qiao et al. 2019, arXiv 1903.10520)."""

    def forward(self, input: Tensor) -> Tensor:
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = self.weight.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-6)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def weight_standardized() -> nn.Module:
    return Classifier(
        StandardizedConv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), StandardizedConv2d(8, 6, 3), nn.ReLU(),
        channels=6,
    )  # fmt: skip


class ShuffleBlock(nn.Module):
    """Grouped convolution, channel shuffle, depthwise convolution (ShuffleNet), pixel shuffle at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.point = nn.Conv2d(12, 8, 1)
        self.out = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.channel_shuffle(torch.relu(self.grouped(torch.relu(self.stem(x)))), 2)
        return self.out(F.pixel_shuffle(torch.relu(self.point(self.depthwise(x))), 2))


class TwoBranches(nn.Module):
    """Split by chunk, one half through a convolution, joined again (as in CSP and ShuffleNetV2 blocks).

    `chunk(2)` halves whatever comes, so the two halves change together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(10, 1, 1))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = self.stem(x).chunk(2, dim=1)
        joined = torch.cat([kept, torch.relu(self.branch(worked))], dim=1) * self.scale
        return self.head(joined.mean(dim=(2, 3)))


def volume(channels: int, *size: int):
    return lambda batch: (torch.randn(batch, channels, *size),)


HEAD = {"head.weight": "5, b", "head.bias": "5"}


def classifier_table(rank: int, norm: int | None, second: int, statistics: bool = True) -> dict[str, str]:
    """Convolution `a` at position 0 and `b` at position `second` of a trunk, with a norm of `a` at `norm`."""
    kernel = ", ".join(["3"] * rank)
    table = {"trunk.0.bias": "a", f"trunk.{second}.weight": f"b, a, {kernel}", f"trunk.{second}.bias": "b"}
    if norm is not None:
        names = ("weight", "bias", "running_mean", "running_var") if statistics else ("weight", "bias")
        table |= {f"trunk.{norm}.{name}": "a" for name in names}
    return table | HEAD


CONVOLUTIONAL_ROWS = (
    Row("conv_flatten_linear", conv_flatten_linear, image(8), "convolutional", small=True,
        table={"0.weight": "a, 3, 3, 3", "0.bias": "a", "1.weight": "a", "1.bias": "a", "1.running_mean": "a",
               "1.running_var": "a", "4.weight": "b, a, 3, 3", "4.bias": "b", "7.weight": "c, b*16", "7.bias": "c",
               "9.weight": "5, c", "9.bias": "5"}),
    Row("unet", UNet, image(8), "convolutional", small=True,
        table={"down1.weight": "f, 3, 3, 3", "down1.bias": "f", "down2.weight": "c, f, 3, 3", "down2.bias": "c",
               "up.weight": "c, u, 2, 2", "up.bias": "u", "merge.weight": "m, f + u, 3, 3", "merge.bias": "m",
               "out.weight": "2, m, 1, 1", "out.bias": "2"}),
    Row("dense_block", DenseBlock, image(8), "convolutional", small=True,
        table={"stem.weight": "s, 3, 3, 3", "stem.bias": "s", "first.weight": "f, s, 3, 3", "first.bias": "f",
               "second.weight": "g, s + f, 3, 3", "second.bias": "g", "norm.weight": "s + f + g",
               "norm.bias": "s + f + g", "norm.running_mean": "s + f + g", "norm.running_var": "s + f + g",
               "head.weight": "5, s + f + g", "head.bias": "5"}),
    Row("resnext", ResNeXt, image(8), "convolutional", small=True,
        table={"stem.weight": "s, 3, 3, 3", "stem.bias": "s", "reduce.weight": "g*i, s, 1, 1", "reduce.bias": "g*i",
               "grouped.weight": "g*o, i, 3, 3", "grouped.bias": "g*o", "norm.weight": "g*o", "norm.bias": "g*o",
               "norm.running_mean": "g*o", "norm.running_var": "g*o", "expand.weight": "s, g*o, 1, 1",
               "expand.bias": "s", "head.weight": "5, s", "head.bias": "5"}),
    Row("depthwise", lambda: depthwise(1), image(8), "convolutional", small=True,
        table={"trunk.0.weight": "a, 3, 3, 3", "trunk.0.bias": "a", "trunk.2.weight": "a, 1, 3, 3", "trunk.2.bias": "a",
               "trunk.3.weight": "a", "trunk.3.bias": "a", "trunk.3.running_mean": "a", "trunk.3.running_var": "a",
               "trunk.5.weight": "b, a, 1, 1", "trunk.5.bias": "b", **HEAD}),
    Row("depthwise_multiplier_2", lambda: depthwise(2), image(8), "convolutional", small=True,
        table={"trunk.0.weight": "a, 3, 3, 3", "trunk.0.bias": "a", "trunk.2.weight": "a*m, 1, 3, 3",
               "trunk.2.bias": "a*m", "trunk.3.weight": "a*m", "trunk.3.bias": "a*m", "trunk.3.running_mean": "a*m",
               "trunk.3.running_var": "a*m", "trunk.5.weight": "b, a*m, 1, 1", "trunk.5.bias": "b", **HEAD}),
    Row("squeeze_excite", SqueezeExcite, image(8), "convolutional", small=True,
        table={"stem.weight": "a, 3, 3, 3", "stem.bias": "a", "squeeze.weight": "q, a, 1, 1", "squeeze.bias": "q",
               "excite.weight": "a, q, 1, 1", "excite.bias": "a", "head.weight": "5, a", "head.bias": "5"}),
    Row("transposed_groups", transposed_groups, image(4), "convolutional", small=True,
        table={"trunk.0.weight": "g*i, 3, 3, 3", "trunk.0.bias": "g*i", "trunk.2.weight": "g*i, o, 2, 2",
               "trunk.2.bias": "g*o", "trunk.4.weight": "b, g*o, 1, 1", "trunk.4.bias": "b", **HEAD}),
    Row("instance_norm", instance_norm, image(8), "convolutional", small=True,
        table={"trunk.0.weight": "a, 3, 3, 3", **classifier_table(2, 1, 3)}),
    Row("group_norm", group_norm, image(8), "convolutional", small=True,
        table={"trunk.0.weight": "g*c, 3, 3, 3", "trunk.0.bias": "g*c", "trunk.1.weight": "g*c", "trunk.1.bias": "g*c",
               "trunk.3.weight": "b, g*c, 3, 3", "trunk.3.bias": "b", **HEAD}),
    Row("conv1d", conv1d, volume(2, 12), "convolutional", small=True,
        table={"trunk.0.weight": "a, 2, 3", "trunk.2.weight": "a", **classifier_table(1, 1, 4)}),
    Row("conv3d", conv3d, volume(2, 4, 4, 4), "convolutional", small=True,
        table={"trunk.0.weight": "a, 2, 3, 3, 3", **classifier_table(3, 1, 4)}),
    Row("weight_standardized", weight_standardized, image(8), "convolutional", small=True,
        table={"trunk.0.weight": "a, 3, 3, 3", **classifier_table(2, 1, 3)}),
    Row("shuffle_block", ShuffleBlock, image(4), "convolutional", small=True,
        table={"stem.weight": "2*i, 3, 3, 3", "stem.bias": "2*i", "grouped.weight": "2*o, i, 1, 1",
               "grouped.bias": "2*o", "depthwise.weight": "o*2, 1, 3, 3", "depthwise.bias": "o*2",
               "point.weight": "c*4, o*2, 1, 1", "point.bias": "c*4", "out.weight": "2, c, 1, 1", "out.bias": "2"}),
    Row("two_branches", TwoBranches, image(8), "convolutional", small=True,
        table={"stem.weight": "2*k, 3, 3, 3", "stem.bias": "2*k", "branch.weight": "b, k, 3, 3", "branch.bias": "b",
               "scale": "k + b, 1, 1", "head.weight": "5, k + b", "head.bias": "5"}),
)  # fmt: skip
