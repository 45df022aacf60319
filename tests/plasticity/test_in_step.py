"""Axes that a fast kernel wants to be of the same size: found in the map, edited in step, and computed fast."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from meristem.allocate import (
    Alike,
    Allocator,
    Bottleneck,
    Custom,
    Limits,
    Offer,
    Proportional,
    Ranked,
    Uniform,
    fast_multiple,
    out_of_step,
    plan_pruning,
)
from meristem.allocate.in_step import in_step
from meristem.allocate.limits import LimitsByName, limits_of
from meristem.allocate.linked import common, linked
from meristem.axes import AxisMap, trace
from meristem.edit import Edit, Gather
from meristem.prune import Magnitude, Taylor, TaylorWeights
from meristem.recipes import shrink
from meristem.schedule import Demand
from meristem.schedule.demand import Action
from meristem.signals import View


class Attention(nn.Module):
    """Heads whose sizes follow from the widths of the projections; of queries and keys, the first `turned` entries are
    multiplied by what depends on their place."""

    def __init__(self, width: int, heads: int, turned: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.turned = turned
        if turned:
            self.register_buffer("angle", torch.linspace(1, 2, turned))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, f.out_features // self.heads)).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        if self.turned:
            q, k = (torch.cat([t[..., : self.turned] * self.angle, t[..., self.turned :]], -1) for t in (q, k))
        return x + self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def transformer(width: int = 24, heads: int = 2, depth: int = 2, turned: int = 0) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [Attention(width, heads, turned) for _ in range(depth)]
    return nn.Sequential(nn.Linear(5, width), *layers, nn.Linear(width, 3))


X = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))


def names(axes: AxisMap) -> list[tuple[str, str]]:
    return [(axes.axes[one].name, axes.axes[other].name) for one, other in in_step(axes)]


# ------------------------------------------------------------------ what the map says


def test_heads_of_keys_and_of_values_are_in_step():
    axes = trace(transformer(), X)
    assert names(axes) == [("1.query[1]", "1.value[1]"), ("2.query[1]", "2.value[1]")]
    assert out_of_step(axes, axes.editable) == {}


def test_where_part_of_a_head_is_frozen_the_rest_of_it_is_in_step():
    axes = trace(transformer(turned=4), X)
    ((one, other), _) = in_step(axes)
    assert (axes.axes[one].size, axes.axes[other].size) == (8, 12)
    assert all(axes.axes[number].editable for number in (one, other))


def test_who_would_fall_out_of_step_is_named_with_who_stays_behind():
    axes = trace(transformer(), X)
    keys, values = axes["1.query[1]"], axes["1.value[1]"]
    rest = [axis for axis in axes.editable if axis != keys]
    assert out_of_step(axes, rest) == {values: keys}
    assert out_of_step(axes, [keys]) == {keys: values}
    whole = trace(transformer(turned=12), X)  # all of it is frozen
    (frozen,) = {axis.name for axis in whole if not axis.editable and axis.name.startswith("1.") and axis.size == 12}
    assert {a.name: b.name for a, b in out_of_step(whole, whole.editable).items()}["1.value[1]"] == frozen


def test_lengths_that_differ_already_are_no_concern():
    model = transformer(depth=1)
    axes = trace(model, X)
    edit = Edit(axes)
    edit.gather(axes["1.value[1]"], Gather.prune(12, [0]))
    after = edit.commit().axes
    assert in_step(axes)
    assert not in_step(after)
    assert out_of_step(after, [after["1.value[1]"]]) == {}


def test_one_axis_for_both_needs_no_step():
    class Shared(Attention):
        def forward(self, x: Tensor) -> Tensor:
            y = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            return x + self.out(scaled_dot_product_attention(y, y, y).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    axes = trace(nn.Sequential(nn.Linear(5, 24), Shared(24, 2), nn.Linear(24, 3)), X)
    assert axes.alike == ()


# ------------------------------------------------------------------ how amounts are divided


@given(count=st.integers(1, 9), links=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=9))
def test_groups_are_what_links_connect(count, links):
    links = [(one % count, other % count) for one, other in links]
    reach = torch.eye(count, dtype=torch.bool)
    for one, other in links:
        reach[one, other] = reach[other, one] = True
    for _ in range(count):
        reach |= (reach.float() @ reach.float()) > 0
    expected = {tuple(row.nonzero().flatten().tolist()) for row in reach}
    assert {tuple(group) for group in linked(count, links)} == expected


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=3))
def test_common_numbers_are_those_in_all_ranges(settings):
    ranges = [range(*one) for one in settings]
    assert list(common(ranges)) == sorted(set(ranges[0]).intersection(*ranges))


def offers(axes: AxisMap, action: Action, limits: LimitsByName, seed: int) -> list[Offer]:
    draw = torch.Generator().manual_seed(seed)
    found = []
    for axis in axes.editable:
        one = Offer(axis, action, limits_of(limits, axis).counts(action, axis.size, 20), axes)
        worth = torch.rand(axis.size, generator=draw, dtype=torch.float64) * 10.0 ** int(
            torch.randint(4, (), generator=draw)
        )
        found.append(
            replace(one, scores=worth) if action == "prune" else replace(one, gains=worth.sort(descending=True).values)
        )
    return found


MODEL = transformer()
AXES = trace(MODEL, X)
HALF = {"*query?1?": Limits(multiple=2), "*value?1?": Limits(minimum=2, multiple=3)}


@given(
    action=st.sampled_from(["prune", "grow"]),
    allocator=st.sampled_from(
        [Uniform(), Proportional(Limits(minimum=3)), Ranked(), Ranked(per="flop"), Ranked(HALF), Alike(Ranked())]
    ),
    total=st.integers(0, 90),
    seed=st.integers(0, 99),
)
def test_axes_in_step_get_the_same_number(action, allocator, total, seed):
    given_ = offers(AXES, action, allocator.limits, seed)
    counts = dict(zip((o.axis.index for o in given_), allocator.counts(total, given_), strict=True))
    assert all(count == 0 or count in o.counts for o, count in zip(given_, counts.values(), strict=True))
    assert all(counts[one] == counts[other] for one, other in in_step(AXES))
    if isinstance(allocator, Alike):
        assert len({counts[number] for pair in in_step(AXES) for number in pair}) == 1


def test_growth_goes_in_step_too():
    given_ = [o for o in offers(AXES, "grow", Limits(), 0) if o.axis.name in ("1.query[1]", "1.value[1]")]
    assert Bottleneck().counts(8, given_) == (4, 4)


def test_a_functions_own_numbers_are_taken_at_their_word():
    given_ = [o for o in offers(AXES, "prune", Limits(), 0) if o.axis.name in ("1.query[1]", "1.value[1]")]
    assert Custom(lambda offers, total: [1, 0]).counts(4, given_) == (4, 0)
    plans = plan_pruning(View(AXES), AXES.editable, Demand("prune", {"1.value[1]": 3}), Magnitude(), Ranked())
    assert [(plan.axis.name, len(plan.units)) for plan in plans] == [("1.value[1]", 3)]


def test_replaced_units_change_no_size():
    given_ = [replace(o, action="replace") for o in offers(AXES, "prune", Limits(), 0)]
    assert Uniform().links(given_) == []


def test_within_an_axis_those_go_that_score_least():
    view = View(AXES)
    for plan in plan_pruning(view, AXES.editable, Demand("prune", 0.4), Magnitude(), Ranked()):
        scores = Magnitude().scores(view, plan.axis)
        assert plan.units == tuple(sorted(scores.argsort(stable=True)[: len(plan.units)].tolist()))


# ------------------------------------------------------------------ what it is for


@dataclass(frozen=True)
class Loose(Ranked):
    def links(self, offers):
        return []


def data() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 4, 5, generator=draw), torch.randint(4, (8, 3), generator=draw)) for _ in range(3)]


def fused(model: nn.Module) -> bool:
    """Whether attention runs by the fused kernel: PyTorch refuses where it cannot."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.no_grad():
        try:
            model(X)
        except RuntimeError:
            return False
    return True


@pytest.mark.parametrize(("allocator", "expected"), [(None, True), (Loose(per="flop"), False)])
def test_a_shrunk_transformer_keeps_to_the_fused_kernel(allocator: Allocator | None, expected: bool):
    model = transformer()
    assert fused(model)
    found = shrink(model, X, flops=0.5, batches=data(), steps=3, criterion=TaylorWeights(), allocate=allocator)
    assert "2.query[1]" in {axis.name for axis in found.change.axes}
    assert fused(model) is expected


def test_shrink_leaves_an_axis_whose_partner_stays_and_says_why():
    model = transformer()
    found = shrink(
        model, X, flops=0.7, batches=data(), steps=3, criterion=Taylor()
    )  # it has no gate on queries and keys
    assert found.left["1.value[1]"] == "a fast kernel wants it as large as 1.query[1]"
    assert fused(model)
    settings = {"batches": data(), "steps": 3, "criterion": Taylor()}
    named = shrink(transformer(), X, flops=0.95, axes=["1.value*"], **settings)
    assert named.axes["1.value[1]"].size < 12 == named.axes["1.query[1]"].size


def test_large_axes_keep_multiples_of_eight_and_those_that_count_others_need_not():
    model = transformer(width=128, heads=2, depth=1)
    axes = trace(model, X)
    assert {a.name: fast_multiple(axes, a) for a in axes.editable} == {
        "0": 8, "1.query[0]": 1, "1.query[1]": 8, "1.value[1]": 8,
    }  # fmt: skip
    assert fast_multiple(axes, replace(axes["0"], size=63)) == 1
    found = shrink(model, X, flops=0.47, criterion=Magnitude())
    assert found.axes["0"].size % 8 == 0 == found.axes["1.query[1]"].size % 8
    assert any(axis.after % 8 for axis in shrink(model, X, flops=0.95, criterion=Magnitude(), multiple=1).change.axes)
