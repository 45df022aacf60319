"""Weights that are computed from parameters: along which axes that is more than slice by slice."""

import pytest

from meristem.axes import Role
from tests.grow.normalized import MODELS
from tests.zoo.judge import culprits, growth_check, half, permutation_check, prune_check, subject

READS, PRODUCES = Role.READS, Role.PRODUCES

EXPECTED = {
    # name: by the size of an axis the roles of weights that are not linear in it, and whether zero fan-out is exact
    "weight norm": {12: ({READS, PRODUCES}, True), 8: ({PRODUCES}, True)},
    "norm of columns": {12: ({PRODUCES}, False), 8: ({PRODUCES}, False)},
    "norm of all": {12: ({READS}, True), 8: ({PRODUCES}, False)},
    "vocoder": {6: ({PRODUCES}, True), 4: ({READS, PRODUCES}, False)},
    "spectral norm": {12: ({READS}, True), 8: ({PRODUCES}, True)},
    "by hand": {12: ({READS}, False), 8: ({PRODUCES}, True)},
    "tanh": {12: ({READS}, True), 8: ({PRODUCES}, True)},
    "product": {12: ({READS}, True), 8: ({PRODUCES}, True)},
    "linear": {12: (set(), True), 8: (set(), True), 2: (set(), True)},
}


@pytest.mark.parametrize("name", MODELS)
def test_where_weights_are_not_linear_slice_by_slice(name):
    axes = subject(MODELS[name]).axes
    assert {axis.size: (set(axis.nonlinear), axis.exact) for axis in axes.editable} == EXPECTED[name]


@pytest.mark.parametrize("name", MODELS)
def test_the_judge_finds_nothing(name):
    found = subject(MODELS[name])
    for check in (permutation_check, prune_check(half), growth_check(lambda size: 2, 1e-12)):
        for axis in found.axes.editable:
            assert not culprits(check, found, [axis]), axis
