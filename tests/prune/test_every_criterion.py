"""Every criterion on every kind of axis: it refuses with a reason, or gives scores that belong to the units."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from meristem.allocate import Limits, Ranked, Uniform, plan_pruning
from meristem.edit import Edit
from meristem.errors import EditError
from meristem.prune import CRITERIA, require_defined
from meristem.schedule import Demand
from tests.prune.table import EVERY, NETS, WRAPPED, cached, scores_of, seen

NORMED = {"batch norm", "batch norm, linear", "groups", "depthwise"}
SMOOTH = {net for net in NETS if "tanh" in net} | {"sigmoid", "softplus"}
DENSE = {"layer norm stream", "heads", "swiglu", "swiglu, chunked"}
PARTLY = "two activations are contracted over its units, as queries and keys are"
ZEROLESS = "nothing that can be seen makes what is read of it exactly zero, as ReLU does"
READING = {"ActivationVariance", "APoZ", "Dormancy", "GradientDormancy", "WandaUnits"}
REFUSALS: dict[str, dict[str, set[str]]] = {
    "no batch normalization with a scale carries it": {net: {"BatchNormScale"} for net in NETS if net not in NORMED},
    ZEROLESS: {net: {"APoZ"} for net in SMOOTH | DENSE},
    "2.weight adds no bias, and no batch normalization with running statistics follows it": {
        f"pointwise, {kind}": {"Compensated"} for kind in ("relu", "tanh")
    },
    "2.weight is a transposed convolution, in which positions differ in what they read": {
        f"into transposed, {kind}": {"Compensated"} for kind in ("relu", "tanh")
    },
    "out reads it in a way that cannot be followed": {"value size": {*READING, "Compensated"}},
    f"{PARTLY}, and what weights read of them is only a part": {"head size": READING},
    f"{PARTLY}, which no gate at the weights sees; TaylorWeights needs none": {"head size": {"Taylor", "Compensated"}},
    f"{PARTLY}, so that the weights that read them are only a part of the fan-out": {"head size": {"NormProduct"}},
}
"""By reason, for every net, which criteria refuse its axis; all others must work."""
REFUSED = {(net, name) for nets in REFUSALS.values() for net, names in nets.items() for name in names}
PAIRS = [(net, name) for net in NETS for name in EVERY if (net, name) not in REFUSED]


def test_refusals_are_the_expected_ones_and_say_what_would_work():
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for net in NETS:
        axes, axis = cached(net).axes, cached(net).axis
        for name, criterion in EVERY.items():
            reason = criterion.undefined(axes, axis)
            if reason is not None:
                found[reason][net].add(name)
                with pytest.raises(EditError) as caught:
                    require_defined(criterion, axes, [axis])
                assert reason in str(caught.value)
                assert "Magnitude" in str(caught.value)
    assert {reason: dict(nets) for reason, nets in found.items()} == REFUSALS
    assert set(EVERY) == {type(criterion).__name__ for criterion in CRITERIA} | set(WRAPPED)


@pytest.mark.parametrize(("net", "name"), PAIRS)
def test_scores_go_with_the_units(net, name):
    """One finite number per unit; where units are reordered, scores are too."""
    case, criterion = cached(net), EVERY[name]
    scores = scores_of(net, name)
    assert scores.shape == (case.axis.size,)
    assert scores.is_floating_point()
    assert scores.isfinite().all()
    assert criterion.comparable or not criterion.predicts_loss
    if name == "Random":
        return
    order = list(range(case.axis.size))[::-1]
    work = case.copied()
    axes = Edit(work.axes).permute(work.axis, order).commit().axes
    turned = replace(work, axes=axes)
    again = criterion.scores(seen(turned, criterion), turned.axis)
    assert torch.allclose(again, scores[order], rtol=1e-8, atol=1e-10 * float(scores.abs().max()))


@pytest.mark.parametrize("name", [n for n in EVERY if n not in ("BatchNormScale", "APoZ")])
@pytest.mark.parametrize("allocator", [Ranked(), Uniform()], ids=["ranked", "uniform"])
@pytest.mark.parametrize("net", ["stream, relu", "concatenated, last"])
def test_whole_layers_are_never_deleted(net, allocator, name):
    """Even if nearly everything is to go, and half of the units of one axis score nothing."""
    case, criterion = cached(net), EVERY[name]
    work = case.copied()
    with torch.no_grad():
        next(work.model.parameters())[1:] *= 1e-6
    chosen = [axis for axis in work.axes.editable if criterion.undefined(work.axes, axis) is None]
    view, everything = seen(work, criterion, *chosen), Demand("prune", sum(axis.size for axis in chosen))
    plans = plan_pruning(view, chosen, everything, criterion, allocator)
    assert plans
    assert all(len(plan.units) < plan.axis.size for plan in plans)
    kept = plan_pruning(view, chosen, everything, criterion, replace(allocator, limits=Limits(3)))
    assert all(plan.axis.size - len(plan.units) >= min(3, plan.axis.size) for plan in kept)
