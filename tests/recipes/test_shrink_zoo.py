"""What `shrink` does unless it is told otherwise works on every small model of the zoo."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import meristem
from meristem.recipes import shrink
from tests.zoo.models import SMALL_ROWS


def size_of_answers(model: nn.Module, batch: tuple) -> Tensor:
    answers = [x for x in tree_leaves(model(*batch[0], **batch[1])) if isinstance(x, Tensor) and x.requires_grad]
    return torch.stack([answer.square().mean() for answer in answers]).sum()


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("row", SMALL_ROWS, ids=lambda row: row.name)
def test_every_small_model_shrinks_by_default(row):
    torch.manual_seed(0)
    model, example = row.model(), row.example()
    axes = meristem.trace(model, *example)
    if not axes.editable:
        pytest.skip("nothing of it may shrink")
    found = shrink(model, axes, flops=0.8, batches=[example], loss=size_of_answers, steps=1, floor=0.05, multiple=1)
    assert found.change.flops[1] <= 0.8 * found.change.flops[0]
