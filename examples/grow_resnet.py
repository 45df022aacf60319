"""Grow a residual net on CIFAR-10 while it trains.

    pip install tqdm
    python examples/grow_resnet.py --data-dir data

The folder holds `cifar-10-batches-py`, as torchvision downloads it, or `cifar10.npz`. The net is a thin one of the
usual kind: three stages of two blocks. All its channels grow, those of the residual streams too, until it has ten times
as many parameters; BatchNorm and the optimizer's momentum follow.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import meristem
from meristem.train.data import load


def convolution(before: int, after: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm."""
    return nn.Sequential(nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(after))


class Block(nn.Module):
    """Two convolutions around which the input goes; (n, before, h, w) to (n, after, h / stride, w / stride)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = convolution(before, after, 3, stride), convolution(after, after)
        self.around = nn.Identity() if before == after else convolution(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.around(x) + self.second(self.first(x).relu())).relu()


def resnet(width: int, classes: int) -> nn.Sequential:
    """A stem, three stages of `width`, `2 * width` and `4 * width` channels, and a head."""
    a, b, c = width, 2 * width, 4 * width
    blocks = [Block(a, a, 1), Block(a, a, 1), Block(a, b, 2), Block(b, b, 1), Block(b, c, 2), Block(c, c, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes)]
    return nn.Sequential(convolution(3, a), nn.ReLU(), *blocks, *head)


def main() -> float:
    """Train, print every size that the net had, and return its accuracy on the test images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=50000, help="use only so many of the training images")
    parser.add_argument("--width", type=int, default=4, help="channels of the first stage to begin with")
    options = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    data = load("cifar10", options.data_dir)
    mean, deviation = (t.to(device) for t in data.channel_statistics())
    x, y = data.train_images[: options.images].to(device), data.train_labels[: options.images].to(device)
    x_test, y_test = data.test_images.to(device), data.test_labels.to(device)
    steps = len(x) // 128

    model = resnet(options.width, data.classes).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * options.epochs)
    axes = meristem.trace(model, (x[:2] - mean) / deviation)
    epochs = options.epochs
    growing = meristem.schedule.Every(epochs / 20, end=epochs / 2, steps_per_epoch=steps, grow=0.3)
    plasticity = meristem.Plasticity(
        model,
        optimizer,
        axes,
        grow=meristem.grow.ZeroFanOut(),
        schedule=growing.until(parameters=10 * axes.parameter_count()),
    )
    table = Table("epoch", "parameters", "MFLOP an image", "test accuracy", title="CIFAR-10")

    def note(epoch: float) -> float:
        model.eval()
        with torch.no_grad():
            right = [model((part - mean) / deviation).argmax(1) for part in x_test.split(1000)]
        model.train()
        accuracy = float((torch.cat(right) == y_test).float().mean())
        now = plasticity.axes
        table.add_row(f"{epoch:.2f}", f"{now.parameter_count():,}", f"{now.flops() / 2e6:.2f}", f"{accuracy:.1%}")
        return accuracy

    note(0)
    for epoch in range(epochs):
        shuffled = torch.randperm(len(x), device=device)[: steps * 128].split(128)
        for step, chosen in enumerate(tqdm(shuffled, desc=f"epoch {epoch + 1}"), start=1):
            images = torch.where(torch.rand(len(chosen), 1, 1, 1, device=device) < 0.5, x[chosen], x[chosen].flip(3))
            loss = cross_entropy(model((images - mean) / deviation), y[chosen])
            loss.backward()
            optimizer.step()
            decay.step()
            optimizer.zero_grad()
            if plasticity.step(loss):
                note(epoch + step / steps)
    accuracy = note(epochs)
    Console().print(table)
    return accuracy


if __name__ == "__main__":
    main()
