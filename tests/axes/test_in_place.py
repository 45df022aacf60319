"""Operators that change dimensions in place: a number of a recording stands for one shape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.axes.flow import record_flow


class Reshaped(nn.Module):
    """A view of hidden values, unsqueezed and then doubled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        view = hidden.view(-1, 6)
        view.unsqueeze_(0)
        view.mul_(2)
        return self.b(hidden)


class WritingToItsInput(nn.Module):
    """Doubles and unsqueezes what it is given; with a branch on data it is run on real tensors."""

    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.a, self.b, self.branches = nn.Linear(4, 6), nn.Linear(6, 3), branches

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2).unsqueeze_(1)
        hidden = self.a(x)
        if self.branches and hidden.sum().item() == 0.125:
            return self.b(hidden.tanh())
        return self.b(hidden)


@pytest.mark.parametrize("branches", [False, True], ids=["fake", "real"])
def test_the_example_is_left_as_it_was(branches: bool) -> None:
    example = torch.ones(2, 4)
    axes = meristem.trace(WritingToItsInput(branches), example)
    assert torch.equal(example, torch.ones(2, 4))
    assert [axis.name for axis in axes.editable] == ["a"]


def test_a_result_has_the_shape_that_it_had_when_it_was_made() -> None:
    recording = record_flow(Reshaped(), ((torch.randn(2, 4),), {}, False)).recording
    made = {call.name: recording.shapes[call.outputs[0]] for call in recording.calls}
    assert made["aten.view"] == (2, 6)
    assert made["aten.unsqueeze"] == made["aten.mul"] == (1, 2, 6)


def test_what_is_written_through_a_reshaped_view_is_read_behind_it() -> None:
    flow = record_flow(Reshaped(), ((torch.randn(2, 4),), {}, False))
    names = [call.name for call in flow.recording.calls]
    doubled, read = names.index("aten.mul"), len(names) - 1
    assert names[read] == "aten.linear"
    assert any(version.call == doubled for version in flow.reads[read])
