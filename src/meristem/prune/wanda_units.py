"""Wanda for units: weights times what they read, summed over everything that reads a unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis
from meristem.prune.reading import ReadCriterion
from meristem.signals import View, index_norms, sum_by_unit
from meristem.signals.reads import Reads, readers


@dataclass(frozen=True)
class WandaUnits(ReadCriterion):
    """`sum |w_ij| * |x_j|` over all outputs i and channels j of a unit, and over all its readers; `|x_j|` is the root
    mean square of what is read, over samples and positions.

    Sun, Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, arXiv
    2306.11695, equation 1, for single weights; the sum over a unit is derived, as is the root mean square in place of
    the norm, which makes scores independent of the number of samples. The paper compares within an output row; a unit
    spans all rows. For transformers after training: heads, widths of feed-forward layers, embedding widths. One batch
    of calibration data and no gradients would do; here it is recorded in ordinary steps.

    Preserved: the score, if fan-in is multiplied by c > 0 and fan-out divided by c behind ReLU.

    Refused: the size of query and key heads, whose units also act where no weight reads them.

    Fails: what the readers make of the unit may cancel; units of axes with many readers look large, so compare units of
    one axis, or of one kind.
    """

    def scores(self, view: View, axis: Axis) -> Tensor:
        found = view.recorded(Reads(axis.name))
        total = torch.zeros(axis.size, dtype=torch.float64)
        for place in readers(view.axes, axis):
            sizes = found[place.layout.name].square.mean(0).sqrt()
            weights = index_norms(view.tensors[place.layout.name], place.dim, 1).to(sizes)
            total += sum_by_unit(weights * sizes, view.axes, axis, place).cpu()
        return total
