"""A length of 1 is no axis, and whoever names it is told."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console
from torch import nn

import meristem
from meristem.errors import ConfigError, UnknownAxisError
from meristem.report.inspection import inspection

NARROW = {
    "linear": (lambda: nn.Sequential(nn.Linear(8, 1), nn.ReLU(), nn.Linear(1, 4)), (5, 8)),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU(), nn.Conv2d(1, 4, 1)), (5, 3, 6, 6)),
}


@pytest.mark.parametrize("name", NARROW)
def test_a_single_unit_is_named_where_it_is_sought(name: str) -> None:
    make, shape = NARROW[name]
    model = make()
    axes = meristem.trace(model, torch.randn(shape))
    assert axes.single == ("0",)
    for key in ("0", "0.weight"):
        with pytest.raises(UnknownAxisError, match=r"0\.weight has length 1, .* build it with 2 units"):
            axes[key]
    with pytest.raises(UnknownAxisError, match="a single unit cannot be followed"):
        meristem.Edit(axes).grow("0", 1)
    console = Console(width=200, record=True)
    console.print(inspection(axes))
    assert "a single unit, which cannot be followed and so not be edited, is produced by: 0;" in console.export_text()
    with pytest.raises(ConfigError, match=r"0 \(a single unit, build it with 2\)"):
        meristem.Plasticity(
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            axes,
            grow=meristem.grow.ZeroFanOut(),
            schedule=meristem.schedule.At(1, grow=1),
        )


def test_lengths_of_1_that_are_no_units_are_not_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros(1, 4, 6))
            self.depthwise, self.scale = nn.Conv1d(6, 6, 3, groups=6, padding=1), nn.Parameter(torch.ones(1))
            self.into, self.out = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.into(x) + self.position
            return self.out(self.depthwise(x.transpose(1, 2)).transpose(1, 2) * self.scale)

    axes = meristem.trace(Net(), torch.randn(5, 4, 3))
    assert axes.single == ()
    assert axes["into"].editable
    with pytest.raises(UnknownAxisError, match="no axis found for 'nonsense'; "):
        axes["nonsense"]
