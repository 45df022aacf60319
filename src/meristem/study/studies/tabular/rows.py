"""The rows that a run learns from, those that it chooses by, and how its answers are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from meristem.train.data import Table

Kind: TypeAlias = Literal["classes", "numbers"]

HELD_OUT = 0.2
"""The share of the training rows that are held out for choices."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows: inputs, and targets as in `Table`."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """A table in three parts.

    Attributes:
        train: what is learnt from.
        held_out: what choices are made by: a width, or when to stop.
        test: what claims are about.
        classes: 0 for regression.
    """

    train: Part
    held_out: Part
    test: Part
    classes: int

    @property
    def outputs(self) -> int:
        """Of a net."""
        return self.classes or 1

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy; or the mean squared error."""
        return cross_entropy(outputs, targets) if self.classes else mse_loss(outputs[:, 0], targets)

    def score(self, answers: Tensor, part: Part) -> float:
        """The share of classes that are right; or R2, the share of the variance that is explained.

        Args:
            answers: (rows,), classes or numbers.
            part: what they are about.
        """
        if self.classes:
            return (answers == part.targets).double().mean().item()
        error = (answers - part.targets).double().square().mean()
        return 1 - (error / part.targets.double().var(correction=0)).item()

    def answers(self, outputs: Tensor) -> Tensor:
        """Of a net with these outputs, (rows, outputs): shape (rows,)."""
        return outputs.argmax(1) if self.classes else outputs[:, 0]


def split(table: Table, seed: int) -> Rows:
    """A table with a part of its training rows held out, drawn anew for every seed."""
    order = torch.randperm(len(table.train_targets), generator=torch.Generator().manual_seed(seed))
    cut = round(HELD_OUT * len(order))
    held_out, train = (Part(table.train_inputs[rows], table.train_targets[rows]) for rows in (order[:cut], order[cut:]))
    return Rows(train, held_out, Part(table.test_inputs, table.test_targets), table.classes)


def made_up(kind: Kind, rows: int = 512, features: int = 6) -> Table:
    """A small table that needs no file: what a fixed random net with 8 hidden units says of random rows."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, features, generator=draw)
    hidden = (inputs @ torch.randn(features, 8, generator=draw)).tanh()
    targets = (hidden @ torch.randn(8, 1, generator=draw))[:, 0]
    targets = (targets - targets.mean()) / targets.std(correction=0)
    if kind == "classes":
        targets = (targets > 0).long()
    cut, names = rows // 2, tuple(f"x{i}" for i in range(features))
    classes = 2 if kind == "classes" else 0
    return Table(kind, inputs[:cut], targets[:cut], inputs[cut:], targets[cut:], classes, 1.0, names)
