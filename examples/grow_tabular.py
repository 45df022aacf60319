"""Grow a multilayer perceptron on tabular data, where the loss asks for units most.

    pip install scikit-learn tqdm
    python examples/grow_tabular.py                       # breast_cancer, which comes with scikit-learn
    python examples/grow_tabular.py --data diabetes
    python examples/grow_tabular.py --data my_table.npz   # x_train, y_train, x_test, y_test

Whole numbers as targets are classes, others are regressed. The net starts with a few hidden units a layer. TINY
predicts what each newborn is worth, and the best ones of all layers are born.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn import datasets, model_selection
from torch import nn
from tqdm import tqdm

import meristem


def load(source: str) -> Sequence[np.ndarray]:
    """x_train, x_test, y_train, y_test of an .npz file, or of a data set of scikit-learn by its name."""
    if source.endswith(".npz"):
        with np.load(source, allow_pickle=False) as file:
            return [file[name] for name in ("x_train", "x_test", "y_train", "y_test")]
    x, y = getattr(datasets, f"load_{source}")(return_X_y=True)
    return [np.asarray(part) for part in model_selection.train_test_split(x, y, random_state=0)]


def main() -> float:
    """Train, print every size that the net had, and return its last score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="breast_cancer", help="breast_cancer, diabetes, digits, wine, or an .npz file"
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--width", type=int, default=2, help="hidden units a layer to begin with")
    options = parser.parse_args()
    torch.manual_seed(0)

    x, x_test, y, y_test = load(options.data)
    mean, deviation = x.mean(0), x.std(0) + 1e-9
    x, x_test = (torch.tensor((part - mean) / deviation, dtype=torch.float32) for part in (x, x_test))
    classes = int(y.max()) + 1 if y.dtype.kind in "iu" else 0
    center, unit = (0, 1) if classes else (y.mean(), y.std())
    kind = torch.int64 if classes else torch.float32
    y, y_test = (torch.tensor((part - center) / unit, dtype=kind) for part in (y, y_test))

    sizes = (x.shape[1], options.width, options.width, classes or 1)
    first, second, third = (nn.Linear(*pair) for pair in pairwise(sizes))
    model = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), third)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.3)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        out = model(x[batch])
        return nn.functional.cross_entropy(out, y[batch]) if classes else (out[:, 0] - y[batch]).square().mean()

    def score() -> float:
        """Accuracy, or the share of the variance that is explained (R2), on the test part."""
        out = model(x_test).detach()
        right = (out.argmax(1) == y_test).float() if classes else 1 - (out[:, 0] - y_test).square() / y_test.var()
        return right.mean().item()

    plasticity = meristem.Plasticity(
        model,
        optimizer,
        x[:2],
        grow=meristem.grow.TINY(),
        allocate=meristem.allocate.Ranked(),
        schedule=meristem.schedule.Every(options.steps // 10, end=options.steps // 2, grow=4),
        listen=4,
    )
    table = Table("step", "hidden units", "parameters", "accuracy" if classes else "R2", title=options.data)

    def note(step: int) -> None:
        sizes = " + ".join(str(axis.size) for axis in plasticity.axes.editable)
        table.add_row(str(step), sizes, f"{plasticity.axes.parameter_count():,}", f"{score():.3f}")

    note(0)
    for step in tqdm(range(1, options.steps + 1)):
        batch = torch.randint(len(x), (128,))
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if plasticity.step(loss, lambda batch=batch: loss_of(batch)):
            note(step)
    note(options.steps)
    Console().print(table)
    return score()


if __name__ == "__main__":
    main()
