"""Grow and prune a classifier of handwritten digits in a Lightning Trainer.

    pip install "meristem[lightning]" scikit-learn
    python examples/lightning_digits.py

The network starts with 16 channels and hidden units, grows while the loss falls and gives back its weakest units
towards the end. Nothing in the LightningModule knows about it.
"""

from __future__ import annotations

import argparse

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import meristem
from meristem.callbacks.lightning import PlasticityCallback


class Digits(lightning.LightningModule):
    """A small convolutional network for 8 x 8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * 16, 8),
            nn.ReLU(),
            nn.Linear(8, 10),
        )
        self.example_input_array = torch.zeros(2, 1, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the ten digits, (batch, 10), for images (batch, 1, 8, 8)."""
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of one batch."""
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main() -> float:
    """Train, print every edit, and return the accuracy on held-out digits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs

    pixels, numbers = load_digits(return_X_y=True)
    lightning.seed_everything(0, verbose=False)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(numbers)
    train = DataLoader(TensorDataset(images[:1437], labels[:1437]), batch_size=32, shuffle=True)

    steps = len(train)
    growing = meristem.schedule.Every(0.5, end=0.6 * epochs, steps_per_epoch=steps, grow=0.2)
    pruning = meristem.schedule.At([0.8 * epochs], steps_per_epoch=steps, prune=0.2)
    plasticity = PlasticityCallback(
        schedule=growing | pruning, grow=meristem.grow.ZeroFanOut(), prune=meristem.prune.Magnitude()
    )
    module = Digits()
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[plasticity]
    )
    trainer.fit(module, train)

    for event in plasticity.events:
        print(event)
    module.eval()
    with torch.no_grad():
        accuracy = (module(images[1437:]).argmax(1) == labels[1437:]).float().mean().item()
    print(f"accuracy on {len(labels) - 1437} held-out digits: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
