"""Early growth: sizes follow their course, the function stays, newborns get gradients, wrong input is refused."""

import pytest
import torch
from torch import nn

import meristem
from meristem.errors import ConfigError, UnknownAxisError
from meristem.recipes import early_growth
from meristem.recipes.early_growth import Course


def net():
    torch.manual_seed(0)
    layers = [nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)]
    return nn.Sequential(*layers).double()


def trained(model, plasticity, optimizer, steps):
    drawn = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(16, 12, dtype=torch.float64, generator=drawn)
        nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        before = model.eval()(x)
        plasticity.step()
        assert torch.allclose(model(x), before, rtol=0, atol=1e-12)
        model.train()


def test_the_course_is_a_root_that_ends_at_the_final_size():
    course = Course({"a": (4, 20), "b": (5, 5)}, every=2, last=20, power=0.5)
    counts = [course(step).get("a", 0) for step in range(2, 21, 2)]
    assert [4 + sum(counts[: n + 1]) for n in range(10)] == [round(4 + 16 * (n / 10) ** 0.5) for n in range(1, 11)]
    assert all("b" not in course(step) for step in range(2, 21, 2))


def test_a_net_grows_to_its_final_size_without_a_jump():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    x = torch.randn(2, 12, dtype=torch.float64)
    plasticity = early_growth(model, optimizer, x, factor={"0": 4, "2": 2.5}, steps=100)
    trained(model, plasticity, optimizer, 40)
    assert [plasticity.axes[name].size for name in ("0", "2")] == [16, 15]
    assert len(plasticity.history) > 5


def test_one_factor_for_all_axes():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    plasticity = early_growth(model, optimizer, torch.randn(2, 12, dtype=torch.float64), factor=2, steps=20, every=3)
    trained(model, plasticity, optimizer, 12)
    assert [model[0].out_features, model[2].out_features] == [8, 12]


@pytest.mark.parametrize(
    "wrong", [{"factor": 0.5}, {"share": 0}, {"share": 1.5}, {"every": 0}, {"power": 0}, {"steps": 1}, {"every": 50}]
)
def test_numbers_out_of_range_are_refused(wrong):
    model = net()
    settings = {"factor": 2, "steps": 100, **wrong}
    with pytest.raises(ConfigError, match="early_growth"):
        early_growth(
            model, torch.optim.SGD(model.parameters(), 0.1), torch.randn(2, 12, dtype=torch.float64), **settings
        )
    assert meristem.trace(model, torch.randn(2, 12, dtype=torch.float64))["0"].size == 4


def test_factors_of_axes_that_cannot_grow_are_refused():
    """They would be left alone without a word."""
    model, x = net(), torch.randn(2, 12, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for factor in ({"0": 2, "nope": 2}, {"nope": 2}):
        with pytest.raises(UnknownAxisError, match="names nope, which cannot grow here; those that can are 0"):
            early_growth(model, optimizer, x, factor=factor, steps=100)
