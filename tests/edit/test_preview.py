"""The preview says what would change and changes nothing."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from meristem.axes import trace
from meristem.edit import Edit

from .models import ROWS, some_edit, subject, trained
from .snapshot import Snapshot


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_the_preview_is_what_commit_does_and_leaves_no_trace(name):
    found = subject(name)
    found.model.train()
    optimizer = trained(found, partial(torch.optim.Adam, lr=1e-2))
    edit = some_edit(found, optimizer)
    before, random = Snapshot([found.model], [optimizer]), torch.get_rng_state()
    args, kwargs = found.row.example()
    torch.set_rng_state(random)
    seen = edit.preview(kwargs or args)
    before.check()
    assert torch.equal(torch.get_rng_state(), random)
    assert seen.drift is not None
    assert seen.parameters[0] == sum(p.numel() for p in found.model.parameters())
    axes = edit.commit().axes
    assert seen.parameters[1] == sum(p.numel() for p in found.model.parameters())
    tensors = [*found.model.parameters(), *found.model.buffers()]
    assert seen.bytes[1] == sum(t.numel() * t.element_size() for t in tensors)
    assert seen.flops == (found.axes.flops(), axes.flops())
    assert [row.after for row in seen.axes] == [axes[row.name].size for row in seen.axes]


def test_drift_and_exactness():
    found = subject("mlp")
    args, _ = found.row.example()
    grown = Edit(found.axes).grow("0", 3).preview(args)
    assert grown.exact
    assert (grown.drift or 0.0) < 1e-12
    assert grown.axes[0].exactness == "exact"
    pruned = Edit(found.axes).prune("0", [3, 5]).preview(args)
    assert not pruned.exact
    assert (pruned.drift or 0.0) > 1e-3
    assert pruned.axes[0].exactness == "inexact: removes 2 units"
    assert Edit(found.axes).permute("0", range(11, -1, -1)).preview(args).exact
    assert Edit(found.axes).grow("0", 3).preview().drift is None


def test_couplings_are_named():
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2)).double()
    x = torch.randn(5, 4).double()
    seen = Edit(trace(model, x)).grow("0", 2).preview(x)
    assert seen.axes[0].exactness == "inexact: normalized"
    assert (seen.drift or 0.0) > 1e-6


def test_buffers_that_a_forward_pass_changes_come_back():
    class Counting(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    model, x = Counting(), torch.randn(5, 4)
    axes = trace(model, x)
    before = Snapshot([model])
    Edit(axes).grow("0", 1).preview(x)
    before.check()


def test_a_batch_on_which_the_model_fails_leaves_no_trace():
    found = subject("mlp")
    edit = Edit(found.axes).grow("0", 1)
    before = Snapshot([found.model])
    with pytest.raises(RuntimeError):
        edit.preview(torch.randn(2, 99).double())
    before.check()
    assert edit.commit()


def test_the_table():
    found = subject("mlp")
    text = str(Edit(found.axes).grow("0", 3).prune("2", [0]).preview(found.row.example()[0]))
    for expected in ("12", "15", "exact", "inexact: removes 1 unit", "parameters", "FLOPs", "bytes", "drift"):
        assert expected in text
