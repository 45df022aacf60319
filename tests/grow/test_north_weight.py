"""Orthogonal growth: newborns' rows against all rows there were."""

import copy

import pytest
import torch
from torch import nn

from meristem.axes import trace
from meristem.edit import Edit
from meristem.grow import NorthWeight
from meristem.signals import View


def plan_for(model, x, axis, count):
    axes = trace(model, x)
    return axes, NorthWeight().propose(View(axes), axes[axis], count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_orthogonal_to_all_others_and_of_their_size(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)).to(dtype)
    x = torch.randn(3, 2, 4, 4, dtype=dtype)
    old = copy.deepcopy(model)
    axes, plan = plan_for(model, x, "0", 6)
    Edit(axes).gather(plan.axis, plan.gather, plan.start).commit()
    rows = model[0].weight.detach().flatten(1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert float((rows[5:] @ rows[:5].T).abs().max()) < tolerance
    size = old[0].weight.detach().flatten(1).norm(dim=1).mean()
    torch.testing.assert_close(
        rows[5:] @ rows[5:].T, size**2 * torch.eye(6, dtype=dtype), rtol=tolerance, atol=tolerance
    )
    assert not model[3].weight[:, 20:].any()
    torch.testing.assert_close(model(x), old(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("units", "given"), [(5, 4), (9, 0), (20, 0)])
def test_it_gives_as_many_as_directions_are_left_and_says_so(units, given):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, units), nn.Tanh(), nn.Linear(units, 2))
    _, plan = plan_for(model, torch.randn(3, 9), "0", 6)
    assert plan.births == given
    assert f"only {given} directions are orthogonal to the rows of 0.weight" in (plan.note or "")


def test_dependent_rows_leave_room():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 2))
    model[0].weight.data = torch.randn(12, 3) @ torch.randn(3, 9)
    _, plan = plan_for(model, torch.randn(3, 9), "0", 6)
    assert plan.births == 6
    assert plan.note is None


def test_every_producer_gets_orthogonal_rows():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.value, self.down = nn.Linear(9, 5), nn.Linear(9, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.down(torch.sigmoid(self.gate(x)) * self.value(x))

    torch.manual_seed(0)
    model, x = Gated().double(), torch.randn(3, 9, dtype=torch.float64)
    axes, plan = plan_for(model, x, "gate", 4)
    Edit(axes).gather(plan.axis, plan.gather, plan.start).commit()
    for layer in (model.gate, model.value):
        rows = layer.weight.detach()
        assert float((rows[5:] @ rows[:5].T).abs().max()) < 1e-12


def test_rows_of_heads():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads, self.value, self.out = 2, nn.Linear(12, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.out(torch.softmax(self.value(x).unflatten(-1, (self.heads, -1)), -1).flatten(1))

    torch.manual_seed(0)
    model = Heads().double()
    x = torch.randn(3, 12, dtype=torch.float64)
    axes = trace(model, x)
    heads = next(axis for axis in axes.editable if axis.size == 2)
    _, plan = plan_for(model, x, heads.name, 5)
    assert plan.births == 2
    assert "only 6 directions" in (plan.note or "")


def test_a_tensor_that_reads_what_it_produces_is_refused():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 6))

        def forward(self, x):
            return torch.tanh(x @ self.weight.T) @ self.weight

    model = Tied()
    axes = trace(model, torch.randn(2, 6))
    assert "no weights produce it" in (NorthWeight().undefined(axes, axes["weight"]) or "")


def test_a_vector_has_rows_of_one_column():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.vector = nn.Parameter(torch.randn(5))
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            return self.head(torch.relu(x[:, :1] @ self.vector.unsqueeze(0)))

    _, plan = plan_for(Outer(), torch.randn(2, 6), "vector", 2)
    assert plan.births == 0
    assert "only 0 directions are orthogonal to the rows of vector" in (plan.note or "")
