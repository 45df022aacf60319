"""The small models accept every image shape, and every width in them can be edited."""

import pytest
import torch

import meristem
from meristem.train.models import FACTORIES

AXES = {"mlp": 2, "conv": 3, "vgg": 7, "resnet": 3}


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_they_classify_images_of_every_shape(name, shape):
    model = FACTORIES[name](shape, 7)
    answer = model(torch.zeros(2, *shape))
    assert answer.shape == (2, 7)
    answer.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", FACTORIES)
def test_every_width_is_an_editable_axis(name):
    model = FACTORIES[name]((1, 8, 8), 10)
    axes = meristem.trace(model, torch.zeros(2, 1, 8, 8))
    assert len(axes.editable) == AXES[name]
    assert all(axis.exact for axis in axes.editable)
