"""The natural expansion score: against g^T F^-1 g with F and g written out."""

import math

import pytest
import torch

from meristem.signals.langevin import climbed, on_sphere
from meristem.signals.natural import Reader, Remaining, bound, chosen, most_additions, score

RIDGE = 1e-13


def sampled(today=4, candidates=5, taps=1, outs=3, rows=60, seed=0):
    """(inputs today, what is read of candidates, gradients), one row per sample."""
    generator = torch.Generator().manual_seed(seed)
    a, f, g = (torch.randn(rows, n, dtype=torch.float64, generator=generator) for n in (today, candidates * taps, outs))
    return a, f + 0.3 * a[:, :1] + 0.5 * g[:, :1] * f[:, :1], g + 0.2 * a[:, :1]


def reader(a, f, g, taps=1, positions=1.0):
    u = torch.cat([a, f], 1)
    return Reader(u.T @ u / len(u), g.T @ u / len(u), g.T @ g / len(u), a.shape[1], taps, positions)


def brute_force(a, g):
    """g^T F^-1 g with the Kronecker product in full."""
    gradient = (g.T @ a / len(a)).T.flatten()  # input by input
    f = torch.kron(a.T @ a / len(a), g.T @ g / len(g))
    return float(gradient @ torch.linalg.solve(f, gradient))


@pytest.mark.parametrize("taps", [1, 3])
def test_scores_and_increases_are_those_of_the_full_fisher_matrix(taps):
    a, f, g = sampled(taps=taps)
    moments = reader(a, f, g, taps, positions=2.0)
    assert score(moments, RIDGE) == pytest.approx(2 * brute_force(a, g), rel=1e-9)
    for unit, value in enumerate(Remaining.of(moments, RIDGE).increases().tolist()):
        wider = torch.cat([a, f[:, unit * taps : (unit + 1) * taps]], 1)
        assert value == pytest.approx(2 * (brute_force(wider, g) - brute_force(a, g)), rel=1e-8)
    units, added = chosen((moments,), 5, RIDGE)
    assert sorted(units) == [0, 1, 2, 3, 4]
    assert sum(added) == pytest.approx(2 * (brute_force(torch.cat([a, f], 1), g) - brute_force(a, g)), rel=1e-8)


def test_readers_add_up():
    one, two = reader(*sampled(outs=2, seed=1)), reader(*sampled(outs=3, seed=2))
    both = Remaining.of(one, RIDGE).increases() + Remaining.of(two, RIDGE).increases()
    assert chosen((one, two), 1, RIDGE)[1][0] == pytest.approx(float(both.max()))


@pytest.mark.parametrize("ridge", [1e-13, 1e-6, 1e-2])
def test_increases_are_never_negative_and_grow_with_every_proposal(ridge):
    for seed in range(20):
        moments = reader(*sampled(rows=30, seed=seed))
        _, added = chosen((moments,), 5, ridge)
        assert min(added) > 0
        assert bool((Remaining.of(moments, ridge).increases() >= 0).all())


def test_activations_in_the_span_of_the_inputs_add_nothing():
    a, _, g = sampled()
    moments = reader(a, a @ torch.randn(4, 3, dtype=torch.float64), g)
    for ridge in (1e-12, 1e-6):
        assert float(Remaining.of(moments, ridge).increases().max()) < max(ridge, 1e-9)
    assert chosen((moments,), 3, 1e-12) == ([], [])


def test_each_is_chosen_once_and_twins_count_once():
    a, f, g = sampled()
    units, _ = chosen((reader(a, torch.cat([f[:, :2], f[:, :2]], 1), g),), 4, 1e-12)
    assert sorted(unit % 2 for unit in units) == [0, 1]


def test_the_scale_of_the_loss_does_not_matter():
    a, f, g = sampled()
    one, two = (chosen((reader(a, f, scale * g),), 3, 1e-2) for scale in (1.0, 1e-6))
    assert one[0] == two[0]
    assert one[1] == pytest.approx(two[1], rel=1e-9)


@pytest.mark.parametrize("taps", [1, 3])
def test_the_bound_is_below_the_increase(taps):
    a, f, g = sampled(taps=taps)
    moments = reader(a, f, g, taps)
    g_root = torch.linalg.inv(torch.linalg.cholesky(moments.outputs))
    residual = (g - a @ torch.linalg.lstsq(a, g).solution) @ g_root.T
    found = bound(f.unflatten(1, (-1, taps)).movedim(1, 0), residual, RIDGE)
    exact = Remaining.of(moments, RIDGE).increases()
    assert bool((found > 0).all())
    assert bool((found <= exact * (1 + 1e-9)).all())
    c = f[:, :taps].T @ (g - a @ torch.linalg.lstsq(a, g).solution) / len(a)
    second = f[:, :taps].T @ f[:, :taps] / len(a)
    by_hand = torch.trace(c.T @ torch.linalg.solve(second, c) @ torch.linalg.inv(moments.outputs))
    assert float(found[0]) == pytest.approx(float(by_hand), rel=1e-8)


def test_the_score_is_at_most_the_number_of_outputs_and_bounds_the_number_of_additions():
    a, f, g = sampled(today=50, rows=60)
    moments = reader(a, f, g)
    assert 0 < score(moments, RIDGE) <= 3
    assert most_additions(1.0, 3.0, 0.03) == pytest.approx(math.log(3) / math.log(1.03))
    assert most_additions(3.0, 3.0, 0.03) == 0


def test_chains_never_end_below_their_start_and_find_the_peak():
    start = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def peak(states):
        return torch.exp(-((states - 0.5).square().sum(1)))

    settings = {"temperature": 0.05, "deviation": 1.0}
    runs = [climbed(peak, start, steps=100, generator=torch.Generator().manual_seed(1), **settings) for _ in range(2)]
    assert torch.equal(*runs)
    assert bool((peak(runs[0]) >= peak(start)).all())
    assert float(peak(runs[0]).median()) > 0.98
    assert torch.equal(climbed(peak, start, steps=0, generator=torch.Generator(), **settings), start)


def test_chains_sample_their_distribution():
    """One entry, a score of zero beside its mean: the states, not only the best ones, follow the prior; so the best of
    400 moves of 300 chains is as far out as that many normal numbers go."""
    start = torch.zeros(300, 1, dtype=torch.float64)

    def flat(states):
        return 1 + 1e-9 * states[:, 0]

    ends = climbed(flat, start, steps=400, temperature=1.0, deviation=1.0, generator=torch.Generator().manual_seed(0))
    assert 1.5 < float(ends.mean()) < 3.5


def test_on_a_sphere_the_best_direction_is_found_and_the_norm_stays():
    """A score that rises with the norm as well: without the sphere states would only grow."""
    start = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pole = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)

    def score(states):
        return (states @ pole).exp()

    draw = torch.Generator().manual_seed(1)
    settings = {"steps": 200, "temperature": 0.1, "deviation": 1.0, "generator": draw}
    found = on_sphere(climbed(lambda states: score(on_sphere(states, 2.0)), start, **settings), 2.0)
    torch.testing.assert_close(found.norm(dim=1), torch.full((30,), 2.0, dtype=torch.float64))
    assert float((found @ pole / 2).median()) > 0.97
    assert bool((score(found) >= score(on_sphere(start, 2.0)) * (1 - 1e-12)).all())
    free = climbed(score, start, **settings)
    assert float(free.norm(dim=1).median()) > 3
