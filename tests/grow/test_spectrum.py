"""What a row adds to a spectrum, against the spectra of the extended matrices themselves."""

import pytest
import torch

from meristem.grow.parts.spectrum import increases, raises_rank, select


def drawn(rows, columns, rank, seed=0):
    """A matrix of that rank, float64."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, dtype=torch.float64, generator=generator)
    return left @ torch.randn(rank, columns, dtype=torch.float64, generator=generator)


def spectrum(h):
    return torch.linalg.svdvals(h / h.shape[1] ** 0.5)


def parts(h, f):
    """What `increases` and `raises_rank` take."""
    gram, cross, own = h @ h.T / h.shape[1], f @ h.T / h.shape[1], f.square().mean(1)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    return eigenvalues.clamp(min=0), (cross @ vectors).square(), own


CASES = {
    "full rank": (drawn(6, 40, 6), drawn(9, 40, 9, 1)),
    "fewer samples than units": (drawn(12, 5, 5), drawn(9, 5, 5, 1)),
    "deficient": (drawn(8, 40, 3), torch.cat([drawn(8, 40, 3)[:2], drawn(5, 40, 5, 1)])),
    "different sizes": (drawn(6, 40, 6) * torch.logspace(-4, 4, 6)[:, None].double(), drawn(9, 40, 9, 1)),
    "with dead candidates": (drawn(6, 40, 6), torch.cat([torch.zeros(2, 40), drawn(3, 40, 3, 1)]).double()),
    "one sample": (drawn(4, 1, 1), drawn(3, 1, 1, 1)),
    "silent incumbents": (torch.zeros(4, 20).double(), drawn(3, 20, 3, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_increase_of_the_sum_of_singular_values(case):
    h, f = CASES[case]
    whole = spectrum(h).sum()
    expected = torch.stack([spectrum(torch.cat([h, row[None]])).sum() - whole for row in f])
    scale = float(torch.cat([h, f]).norm()) / h.shape[1] ** 0.5
    torch.testing.assert_close(increases(*parts(h, f)), expected, rtol=1e-9, atol=1e-7 * scale)


@pytest.mark.parametrize("cutoff", [0.01, 0.5, 1.3])
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("deficient", "one sample")])
def test_increase_of_the_numerical_rank(case, cutoff):
    h, f = CASES[case]
    before = int((spectrum(h) > cutoff).sum())
    expected = [int((spectrum(torch.cat([h, row[None]])) > cutoff).sum()) - before == 1 for row in f]
    assert raises_rank(*parts(h, f), cutoff).tolist() == expected


def greedy(h, f, count, cutoff):
    """The same choice on the activations themselves."""
    chosen = []
    for _ in range(count):
        scores = {
            j: (int((s > cutoff).sum()), float(s.sum()))
            for j in range(len(f))
            if j not in chosen
            for s in [spectrum(torch.cat([h, f[[*chosen, j]]]))]
        }
        chosen.append(max(scores, key=scores.__getitem__))
    return chosen


@pytest.mark.parametrize("cutoff", [0.01, 0.6])
@pytest.mark.parametrize("case", ["full rank", "deficient", "different sizes"])
def test_selection_is_the_greedy_one_on_raw_activations(case, cutoff):
    h, f = CASES[case]
    rows = torch.cat([h, f])
    assert select(rows @ rows.T / rows.shape[1], len(h), 4, cutoff) == greedy(h, f, 4, cutoff)


def test_the_more_orthogonal_the_better():
    """NORTH's code leaves the sign to be verified: of rows of one norm the one at the largest angle is taken first."""
    h = torch.eye(4, 8, dtype=torch.float64)
    angles = torch.tensor([0.1, 1.5, 0.7, 1.0, 0.0], dtype=torch.float64)
    f = angles.cos()[:, None] * h[:1] + angles.sin()[:, None] * torch.eye(8, dtype=torch.float64)[6:7]
    rows = torch.cat([h, f])
    assert select(rows @ rows.T / 8, 4, 1) == [1]
    order = increases(*parts(h, f)).argsort(descending=True)
    assert order.tolist() == [1, 3, 2, 0, 4]


def test_candidates_that_add_nothing_are_not_chosen():
    h = drawn(4, 30, 4)
    rows = torch.cat([h, torch.zeros(3, 30), drawn(1, 30, 1, 1)]).double()
    assert select(rows @ rows.T / 30, 4, 4) == [3]
