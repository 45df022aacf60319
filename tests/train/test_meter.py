"""Training operations are counted exactly, and measured again when the structure changes."""

import torch
from torch import nn

from meristem.train.meter import FlopMeter


def step(model: nn.Module, meter: FlopMeter, examples: int) -> None:
    with meter.step(examples):
        model(torch.ones(examples, 3)).sum().backward()


def test_forward_and_backward_of_linear_layers_by_hand():
    model, meter = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), FlopMeter()
    forward = 2 * (3 * 5 + 5 * 2)
    backward = 2 * (3 * 5) + 2 * (2 * 5 * 2)  # the first layer needs no gradient of its input
    step(model, meter, 4)
    assert meter.total == 4 * (forward + backward)
    step(model, meter, 7)
    assert meter.total == 11 * (forward + backward)


def test_a_new_structure_is_measured_again():
    meter = FlopMeter()
    step(nn.Linear(3, 2), meter, 4)
    before = meter.total
    meter.structure_changed()
    step(nn.Linear(3, 20), meter, 4)
    assert meter.total == before * 11
