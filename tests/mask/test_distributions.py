"""Which weights stay: counts and choices against brute force."""

import itertools

import pytest
import torch

from meristem.errors import ConfigError
from meristem.mask import ERK, NM, Global, GradualMagnitude, GraNet, PerLayer, Rows, Sparse, Static, TopKAST, Uniform
from meristem.mask.best import shared, top
from tests.mask.models import batches, mlp, train

SHAPES = {"a": (8, 3, 3, 3), "b": (16, 8, 3, 3), "c": (16, 16, 1, 1), "d": (5, 16)}


def scores(seed: int = 0) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=source, dtype=torch.float64).abs() for name, shape in SHAPES.items()}


TOTAL = sum(s.numel() for s in scores().values())


@pytest.mark.parametrize("count", range(10))
def test_top_is_exact_also_where_scores_are_equal(count):
    given = torch.tensor([[3.0, 1, 1], [1, 2, 1], [0, 1, 3]])
    chosen = top(given, count)
    order = sorted(range(9), key=lambda i: (-given.flatten()[i].item(), i))
    assert chosen.flatten().nonzero().flatten().tolist() == sorted(order[:count])


@pytest.mark.parametrize("share", [1e-5, 0.01, 0.1, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["smooth", "coarse", "sorted", "closed"])
def test_top_of_many_is_exact(share, kind):
    source = torch.Generator().manual_seed(0)
    given = torch.rand(500, 400, generator=source)
    if kind == "coarse":
        given = (given * 20).floor()
    elif kind == "sorted":
        given = given.flatten().sort().values.view(500, 400)
    elif kind == "closed":
        given[torch.rand(500, 400, generator=source) < (1 - share)] = -torch.inf
    count = min(round(share * given.numel()), int((given > -torch.inf).sum()))
    order = given.flatten().argsort(descending=True, stable=True)[:count]
    assert torch.equal(top(given, count).flatten().nonzero().flatten(), order.sort().values)


def test_top_refuses_what_it_cannot_choose():
    with pytest.raises(ConfigError, match="NaN"):
        top(torch.tensor([1.0, torch.nan]), 1)
    with pytest.raises(ConfigError, match="fewer than 2"):
        top(torch.tensor([1.0, -torch.inf]), 2)
    assert top(torch.tensor([1.0, -torch.inf]), 1).tolist() == [True, False]


def test_shares_add_up_within_limits():
    for total, most in itertools.product(range(13), [(3, 4, 5), (1, 1, 10), (12, 0, 0)]):
        found = shared(min(total, sum(most)), [1.0, 2.0, 0.5], most)
        assert sum(found) == min(total, sum(most))
        assert all(0 <= count <= limit for count, limit in zip(found, most, strict=True))
    assert shared(10, [1, 1, 2], [100, 100, 100]) in ([3, 2, 5], [2, 3, 5])
    assert shared(10, [1.0, 1.0, 8.0], [100, 100, 2]) == [4, 4, 2]


@pytest.mark.parametrize("density", [0.03, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("distribution", [Uniform(), ERK(), ERK(power=0.5), Global()], ids=repr)
def test_the_total_is_exact_and_the_best_of_each_layer_stay(distribution, density):
    given = scores()
    masks = distribution.masks(given, density)
    assert sum(int(mask.sum()) for mask in masks.values()) == round(density * TOTAL)
    for name, mask in masks.items():
        count = int(mask.sum())
        best = given[name].flatten().topk(count).indices.sort().values
        assert torch.equal(mask.flatten().nonzero().flatten(), best)


@pytest.mark.parametrize("density", [0.05, 0.1, 0.3, 0.6, 0.9])
def test_erk_is_its_formula_within_one_weight(density):
    found = ERK().densities(SHAPES, density)
    raw = {name: sum(shape) / torch.Size(shape).numel() for name, shape in SHAPES.items()}
    epsilons = {found[name] / raw[name] for name in SHAPES if found[name] < 1}
    assert max(epsilons) - min(epsilons) < 1e-12
    dense = [name for name in SHAPES if found[name] == 1]
    assert all(raw[name] * max(epsilons) >= 1 for name in dense)
    total = sum(found[name] * torch.Size(shape).numel() for name, shape in SHAPES.items())
    assert abs(total - density * TOTAL) < 1e-9
    counts = ERK().counts(scores(), density)
    assert all(abs(counts[name] - found[name] * torch.Size(SHAPES[name]).numel()) < 1 for name in SHAPES)


def test_erk_makes_small_layers_dense_and_solves_again():
    found = ERK().densities(SHAPES, 0.6)
    assert found["d"] == 1.0
    assert found["b"] < 0.6


@pytest.mark.parametrize("distribution", [Uniform(first_dense=True), ERK(first_dense=True)], ids=repr)
def test_the_first_layer_may_stay_dense(distribution):
    masks = distribution.masks(scores(), 0.3)
    assert masks["a"].all()
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.3 * TOTAL)
    with pytest.raises(ConfigError, match="alone"):
        distribution.masks(scores(), 0.05)


def test_global_takes_the_best_of_all_layers_but_leaves_none_empty():
    given = scores()
    given["c"] *= 1e-6
    masks = Global().masks(given, 0.2)
    assert int(masks["c"].sum()) == 1
    others = torch.cat([given[name].flatten() for name in "abd"])
    least = others.topk(round(0.2 * TOTAL) - 1).values.min()
    assert all(torch.equal(masks[name], given[name] >= least) for name in "abd")
    with pytest.raises(ConfigError, match="fewer than 1"):
        Global().masks(given, 0.001)


@pytest.mark.parametrize("density", [0.5, 0.25])
def test_rows_and_groups_keep_the_same_of_each(density):
    given = {"b": scores()["b"], "d": scores()["d"]}
    for mask in Rows().masks(given, density).values():
        assert set(mask.flatten(1).sum(1).tolist()) == {round(density * mask.flatten(1).shape[1])}
    for name, mask in NM(m=4).masks(given, density).items():
        for group, worth in zip(mask.split(4, dim=1), given[name].split(4, dim=1), strict=True):
            assert bool((group.sum(1) == round(4 * density)).all())
            kept = worth.masked_fill(~group, torch.inf).amin(1)
            gone = worth.masked_fill(group, -torch.inf).amax(1)
            assert bool((kept > gone).all())


GIVEN = PerLayer({"a": 1.0, "[bc]": 0.25, "*": 0.5})
WHOLE = sum(s.numel() * {"a": 1.0, "d": 0.5}.get(name, 0.25) for name, s in scores().items()) / TOTAL


def test_every_layer_keeps_the_share_that_is_given_for_it():
    for density in (WHOLE, round(WHOLE, 4)):
        masks = GIVEN.masks(scores(), density)
        assert {n: int(m.sum()) for n, m in masks.items()} == {"a": 216, "b": 288, "c": 64, "d": 40}
        assert all(torch.equal(mask, top(scores()[name], int(mask.sum()))) for name, mask in masks.items())


@pytest.mark.parametrize("density", [0.2, WHOLE, 0.5, 0.8, 1.0])
def test_a_schedule_brings_every_layer_as_far(density):
    found = {name: int(m.sum()) / m.numel() for name, m in GIVEN.passing(scores(), density).items()}
    given = {"a": 1.0, "b": 0.25, "c": 0.25, "d": 0.5}
    way = (density - WHOLE) / (1 - WHOLE)
    for name, share in given.items():
        wanted = share + (1 - share) * way if way >= 0 else share * density / WHOLE
        assert abs(found[name] - wanted) <= 1 / scores()[name].numel() + 1e-12
    counts = [int(m.sum()) for m in GIVEN.passing(scores(), density).values()]
    assert sum(counts) == round(density * TOTAL)


@pytest.mark.parametrize(
    ("densities", "density", "reason"),
    [
        ({"a": 0.5, "b": 0.5, "c": 0.5}, 0.5, "'d'.* has none"),
        ({"*": 0.5, "e*": 0.1}, 0.5, "'e\\*'.* matches none"),
        ({"a": 1.0, "*": 0.25}, 0.1, r"come to 0\.3451 .*give density=0\.3451"),
    ],
)
def test_densities_that_do_not_belong_to_the_layers_are_refused(densities, density, reason):
    with pytest.raises(ConfigError, match=reason):
        PerLayer(densities).masks(scores(), density)
    with pytest.raises(ConfigError, match="density"):
        PerLayer({"a": 0.0})


@pytest.mark.parametrize("kind", [GradualMagnitude, GraNet])
def test_what_a_schedule_cannot_come_to_is_refused_at_the_start(kind):
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for distribution in (PerLayer({"0.*": 0.1, "other": 0.5, "*": 1.0}), Global(least=61)):
        with pytest.raises(ConfigError, match=r"other|fewer than 61"):
            Sparse(net, optimizer, kind(density=0.3, end=9, interval=2, distribution=distribution))


def test_methods_come_to_given_densities():
    given, whole = PerLayer({"0.*": 0.1, "2.weight": 0.5, "4.weight": 1.0}), (32 + 96 + 48) / 560
    for method in (
        Static(density=whole, distribution=given),
        TopKAST(density=whole, backward=0.6, distribution=given),
        GradualMagnitude(density=whole, end=4, interval=2, distribution=given),
    ):
        net = mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        sparsity = Sparse(net, optimizer, method)
        train(net, optimizer, batches(5))
        assert sparsity.masks.nonzeros == {"0.weight": 32, "2.weight": 96, "4.weight": 48}


def test_groups_must_fit():
    with pytest.raises(ConfigError, match=r"a has 3 inputs, no multiple of m=4.*parameters="):
        NM(m=4).masks(scores(), 0.5)
    for density in (0, 1.5, True, "half"):
        with pytest.raises(ConfigError, match="density"):
            Uniform().masks(scores(), density)
