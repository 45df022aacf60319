"""The map of a model says the same whichever of its lengths happen to be equal."""

from itertools import combinations

import pytest
import torch

from meristem.axes import trace
from tests.axes.coincidence_models import CASES


def structure(name, lengths):
    """What the map says, but for sizes: by axis, whether it is editable, where it occurs in which roles, couplings."""
    build, _, example = CASES[name]
    torch.manual_seed(0)
    model = build(lengths).eval()
    axes = trace(model, example(lengths))
    return {
        axis.name: (
            axis.frozen is None,
            frozenset((place.layout.name, place.dim, place.roles) for place in axes.places[axis.index]),
            axis.couplings,
        )
        for axis in axes
    }


@pytest.mark.parametrize("name", CASES)
def test_lengths_of_the_cases_differ(name):
    lengths = CASES[name][1]
    assert len(set(lengths.values())) == len(lengths)
    assert sum(editable for editable, _, _ in structure(name, lengths).values()) >= 2


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_all_lengths_may_be_equal(name, size):
    lengths = CASES[name][1]
    assert structure(name, dict.fromkeys(lengths, size)) == structure(name, lengths)


@pytest.mark.parametrize(
    ("name", "pair"), [(name, pair) for name, (_, lengths, _) in CASES.items() for pair in combinations(lengths, 2)]
)
def test_any_two_lengths_may_be_equal(name, pair):
    lengths = CASES[name][1]
    assert structure(name, {**lengths, pair[0]: lengths[pair[1]]}) == structure(name, lengths)


@pytest.mark.parametrize("name", [name for name, (_, lengths, _) in CASES.items() if "heads" in lengths])
@pytest.mark.parametrize("other", ["batch", "tokens", "inputs", "answers", "hidden"])
def test_a_length_may_be_the_width_of_all_heads(name, other):
    lengths = CASES[name][1]
    if other in lengths:
        assert structure(name, {**lengths, other: lengths["heads"] * lengths["size"]}) == structure(name, lengths)
