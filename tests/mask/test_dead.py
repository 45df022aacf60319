"""From weights to units: found by brute force, removed with the function unchanged."""

import pytest
import torch
from torch import nn

import meristem
from meristem.errors import ConfigError
from meristem.mask import NM, Fixed, Masks, RigL, Sparse, dead_units, remove_dead
from tests.mask.models import batches, convnet, mlp, train


def ones(net, names):
    return {name: torch.ones_like(net.get_parameter(name), dtype=torch.bool) for name in names}


def test_units_are_found():
    net = mlp()
    axes = meristem.trace(net, batches(1)[0])
    masks = ones(net, ["0.weight", "2.weight", "4.weight"])
    masks["0.weight"][[2, 5]] = False
    masks["2.weight"][:, [5, 7]] = False
    masks["4.weight"][:, 0] = False
    found = dead_units(axes, masks)
    assert (found["0"].unread, found["0"].constant) == ((5, 7), (2,))
    assert (found["2"].unread, found["2"].constant) == ((0,), ())
    assert not dead_units(axes)
    with torch.no_grad():
        net[0].weight[3] = 0
    assert dead_units(axes)["0"].constant == (3,)
    assert not dead_units(axes, ones(net, ["0.weight"]))  # there, but zero: it was just grown


@pytest.mark.parametrize("bias", [True, False])
def test_dead_units_go_and_the_function_stays(bias):
    net = mlp()
    x = batches(1)[0]
    if not bias:
        net[0].bias = None
    axes = meristem.trace(net, x)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    train(net, optimizer, batches(2))
    masks = Masks(net, ones(net, ["0.weight", "2.weight", "4.weight"]))
    for name, spots in (("0.weight", (2, 5)), ("2.weight", (1,)), ("4.weight", ())):
        masks[name][list(spots)] = False
    masks["2.weight"][:, [5, 7]] = False
    masks["4.weight"][:, [0, 3]] = False
    masks.apply()
    before = net(x)
    cleared = remove_dead(axes, masks, optimizer)
    assert cleared.removed == {"0": 3, "2": 3}
    assert not cleared.left
    assert [axis.size for axis in cleared.axes.editable] == [13, 9]
    assert torch.allclose(net(x), before, rtol=0, atol=1e-12)
    assert not dead_units(cleared.axes, masks)
    train(net, optimizer, batches(2))


def test_one_death_leads_to_another():
    net = mlp()
    x = batches(1)[0]
    axes = meristem.trace(net, x)
    masks = Masks(net, ones(net, ["0.weight", "2.weight", "4.weight"]))
    masks["4.weight"][:, [0, 3]] = False  # nothing reads these two
    masks["2.weight"][:, 6] = False
    masks["2.weight"][[0, 3], 6] = True  # that alone read this one
    masks.apply()
    before = net(x)
    cleared = remove_dead(axes, masks)
    assert cleared.removed == {"2": 2, "0": 1}
    assert torch.allclose(net(x), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", [0, 1])
def test_constants_pass_batch_norms_and_convolutions_without_padding(padding):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=padding), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * (6 - 2 + 2 * padding) ** 2, 5),
    ).double()  # fmt: skip
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        net[1].running_mean.normal_()
        net[1].bias.normal_(std=3)
        net[0].weight[[1, 4, 6]] = 0
        net[3].weight[[0, 2]] = 0
        net[6].weight.view(5, 6, -1)[:, 5] = 0
    net.eval()
    axes = meristem.trace(net, x)
    before = net(x)
    cleared = remove_dead(axes)
    assert torch.allclose(net(x), before, rtol=0, atol=1e-12)
    if padding:
        assert "pads" in cleared.left["0"]
        assert cleared.removed["3"] == 3
    else:
        assert cleared.removed == {"0": 3, "3": 3}
        assert not cleared.left


def test_a_constant_zero_needs_no_bias():
    net = nn.Sequential(nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 4, bias=False)).double()
    with torch.no_grad():
        net[0].weight[[1, 2]] = 0
        net[0].bias[1], net[0].bias[2] = -1, 1
    x = batches(1)[0]
    before = net(x)
    cleared = remove_dead(meristem.trace(net, x))
    assert cleared.removed == {"0": 1}
    assert "no bias" in cleared.left["0"]
    assert torch.allclose(net(x), before, rtol=0, atol=1e-12)


def test_one_unit_stays():
    net = mlp()
    x = batches(1)[0]
    with torch.no_grad():
        net[2].weight.zero_()
    before = net(x)
    cleared = remove_dead(meristem.trace(net, x))
    assert min(axis.size for axis in cleared.axes.editable) == 1
    assert torch.allclose(net(x), before, rtol=0, atol=1e-12)


def test_normalized_units_stay():
    net = nn.Sequential(nn.Linear(20, 6), nn.LayerNorm(6), nn.Linear(6, 4)).double()
    with torch.no_grad():
        net[0].weight[1] = 0
        net[2].weight[:, 3] = 0
    axes = meristem.trace(net, batches(1)[0])
    assert not dead_units(axes)


def test_sparse_training_follows():
    net = convnet().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    sparsity = Sparse(net, optimizer, RigL(density=0.03, end=9, interval=2))
    axes = meristem.trace(net, x)
    before = net(x)
    cleared = remove_dead(axes, sparsity, optimizer)
    assert sum(cleared.removed.values()) > 0
    assert torch.allclose(net(x), before, rtol=0, atol=1e-12)
    for _ in range(4):
        net(x).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_pattern_is_not_kept_at_the_cost_of_the_function():
    """What is left of two groups with two weights each is one with four."""
    net = mlp()
    x = batches(1)[0]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    mask = torch.tensor([0, 0, 1, 1] * 4, dtype=torch.bool).expand(12, 16)
    method = Fixed(masks={"2.weight": mask}, distribution=NM(m=4))
    sparsity = Sparse(net, optimizer, method, parameters="2.weight")
    axes, before = meristem.trace(net, x), net(x)
    with pytest.raises(ConfigError, match="close"):
        remove_dead(axes, sparsity, optimizer)
    assert axes["0"].size == 16
    sparsity.close()
    assert remove_dead(axes, sparsity.masks, optimizer).removed == {"0": 8}
    assert bool(sparsity.masks["2.weight"].all())
    assert torch.allclose(net(x), before, rtol=0, atol=1e-12)


def test_a_failed_edit_changes_no_bias():
    net = mlp()
    x = batches(1)[0]
    axes = meristem.trace(net, x)
    with torch.no_grad():
        net[0].weight[2] = 0
    foreign = torch.optim.SGD(mlp().parameters(), lr=0.1)
    before = {name: p.clone() for name, p in net.named_parameters()}
    with pytest.raises(meristem.errors.StaleMapError):
        remove_dead(axes, None, foreign)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
