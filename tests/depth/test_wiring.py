"""Who reads what: edits that call themselves exact are, in each mode, where code picks by number what it reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from meristem import Edit, depth, trace
from meristem.axes.flow import record_flow
from meristem.depth.spliced import spliced
from meristem.depth.steps import LOST, Made, Step
from meristem.depth.wiring import wiring
from meristem.edit.rebuild import rebuilding
from meristem.errors import EditError

from .looked import looked_at
from .models import net

PICKED = ("levels", "penultimate", "middle", "tapped", "last", "auxiliary", "tempered", "overwritten")


@pytest.mark.parametrize("name", PICKED)
def test_what_is_offered_as_exact_is_exact_in_each_mode(name: str) -> None:
    """A zero residual at every place that is open, and a silent copy of every block of every run that is."""
    found = net(name)
    model, x = found.model(), found.x()
    places = depth.places(trace(model, x))
    ways = dict.fromkeys(way.name for way in places.ways if way.frozen is None)
    changes: list[depth.Insert | depth.Arrange] = [depth.Insert(places, way, depth.ZeroResidual()) for way in ways]
    for run in places.runs:
        if run.frozen is None:
            changes += [depth.duplicated(places, block[0], 1, depth.Silent()) for block in run.blocks]
    expected = {training: model.train(training)(x) for training in (False, True)}
    for change in changes:
        assert change.inexact() == ()
        with rebuilding(places.axes, change):
            for training in (False, True):
                torch.testing.assert_close(model.train(training)(x), expected[training], rtol=0, atol=1e-12)
    assert changes


@pytest.mark.parametrize("name", ["levels", "penultimate", "middle", "tapped", "last", "auxiliary"])
def test_every_block_can_have_one_before_and_behind(name: str) -> None:
    """Where a list cannot take a further child, a block gives its place to a pair."""
    _, places = looked_at(name)
    for number, _ in enumerate(places.model.get_submodule("blocks").children()):
        assert places.insertion(f"after blocks.{number}").frozen is None
        assert places.insertion(f"before blocks.{number}").frozen is None


def test_blocks_of_several_streams_that_begin_alike_are_a_run() -> None:
    """As in reversible nets: each stream of a block is that of the block before."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, streams: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            x, y = streams
            x = x + self.one(y)
            return x, y + self.two(x)

    class Reversible(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Pair() for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x, y = nn.Sequential(*self.blocks)((x, x))
            return x + y

    model = Reversible()
    places = depth.places(trace(model, torch.randn(3, 6)))
    assert [(run.name, run.frozen) for run in places.runs] == [("blocks.0..2", None)]
    with pytest.raises(EditError, match="something else of what it computes is read outside"):
        depth.duplicated(places, "blocks.0", 1, depth.Silent())


def test_what_is_right_in_one_mode_only_is_frozen_with_that_reason() -> None:
    _, places = looked_at("auxiliary")
    reasons = {(way.name, way.inside): way.frozen for way in places.ways}
    assert str(reasons["after blocks.0", "blocks"]).startswith("in training mode, ")
    assert reasons["after blocks.0", None] is None
    assert [(run.name, run.frozen is None) for run in places.runs] == [("blocks.0..1", False), ("blocks.2", True)]
    with pytest.raises(EditError, match=r"in training mode, .* would be given something else"):
        depth.duplicated(places, "blocks.0", 1, depth.Silent())


def test_the_modes_are_compared_but_for_what_is_drawn() -> None:
    """Dropout alone is no reason to rehearse twice; a model that cannot be run in training mode is not."""

    class Refusing(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("no targets")
            return super().forward(input)

    dropping = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Dropout1d(0.5), nn.Linear(6, 2))
    for model, runs in ((dropping, 1), (nn.Sequential(Refusing(6, 6), nn.Linear(6, 2)), 1)):
        assert len(depth.places(trace(model, torch.randn(3, 6))).original.flows) == runs
    assert [example[2] for example in looked_at("auxiliary")[1].original.examples] == [False, True]


def test_drift_is_measured_in_the_mode_of_the_model() -> None:
    """By hand: the largest change, relative to the largest entry; the mode makes a difference."""
    found = net("auxiliary")
    seen: list[float] = []
    for training in (False, True):
        model, x = found.model().train(training), found.x()
        axes = trace(model, x)
        before = model(x)
        edit = Edit(axes).depth(depth.Remove(depth.places(axes), "blocks.0"))
        drift = edit.preview(x).drift or 0.0
        edit.commit()
        change = (model(x) - before).abs().max() / before.abs().max()
        assert drift == pytest.approx(change.item(), rel=1e-9)
        seen.append(drift)
    assert seen[0] != pytest.approx(seen[1], rel=1e-3)


def test_what_is_drawn_is_no_drift() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 2)).train()
    edit = Edit(trace(model, torch.randn(3, 6))).grow("0", 2)
    assert edit.preview(torch.randn(3, 6)).exact
    assert (edit.preview(torch.randn(3, 6)).drift or 0.0) < 1e-6


def test_what_is_written_reaches_all_that_shares_memory() -> None:
    """A tensor, its views, and views of these: after one has been written into, all have another content."""

    class Shares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.tanh(x)
            left, right = y.chunk(2, dim=1)
            turned = right.t()
            left.add_(1)
            return y.sum() + right.sum() + turned.sum() + x.sum()

    flow = record_flow(Shares(), ((torch.randn(2, 6),), {}, False))
    written = next(n for n, call in enumerate(flow.recording.calls) if str(call.operator).startswith("aten.add_"))
    sums = [n for n, call in enumerate(flow.recording.calls) if call.name == "aten.sum"]
    assert [version.call == written for n in sums for version in flow.reads[n]] == [True, True, True, False]


def test_equal_operators_with_other_operands_are_other_steps() -> None:
    """What no list of operators can tell: the order of operands, and which of several equal tensors is read."""

    class Pair(nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.kind = kind
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
            a, b = self.one(x), self.two(x)
            match self.kind:
                case "swapped":
                    return b - a
                case "twice":
                    return a - a
                case "constant":
                    return a - b.mul(torch.tensor([1.0, 2, 3, 4, 5, 7]))
                case "other constant":
                    return a - b.mul(torch.tensor([1.0, 2, 3, 4, 5, 6]))
                case "named":
                    return {"y": a - b}
            return a - b

    kinds = ("plain", "swapped", "twice", "constant", "other constant", "named")
    x = torch.randn(2, 6)
    steps = [wiring(record_flow(Pair(kind), ((x,), {}, False))) for kind in kinds]
    again = [wiring(record_flow(Pair(kind), ((x.clone(),), {}, False))) for kind in kinds]
    assert steps == again
    assert all(
        (one == two) == (a == b)
        for a, one in zip(kinds, steps, strict=True)
        for b, two in zip(kinds, again, strict=True)
    )


def test_spliced_blocks() -> None:
    """By hand: blocks 0 and 1 between an entry and a reader, twice 1 before 0; what reads between them is lost."""
    entry = Step("entry", (), None, ())
    blocks = [Step("a module", (Made(n, 0),), None, (), module=f"b.{n}") for n in range(2)]
    end, between = Step("end", (Made(2, 0),), None, ()), Step("end", (Made(1, 0),), None, ())
    new = spliced((entry, *blocks, end), [["b.0"], ["b.1"]], [1, 1, 0])
    assert new is not None
    assert [step.operands for step in new] == [(), (Made(0, 0),), (Made(1, 0),), (Made(2, 0),), (Made(3, 0),)]
    assert [step.module for step in new] == ["", "b.1", "b.1", "b.0", ""]
    lost = spliced((entry, *blocks, between), [["b.0"], ["b.1"]], [1, 0])
    assert lost is not None
    assert lost[-1].operands == (LOST,)
    assert spliced((entry, blocks[1], blocks[0]), [["b.0"], ["b.1"]], [1, 0]) is None
