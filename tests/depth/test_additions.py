"""Where branches can be added: against brute force, and what becomes of the function."""

from __future__ import annotations

import re
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor, nn

from meristem import Edit, Plasticity, depth, trace
from meristem.depth.edges import Edge, Side, chains, edge_at
from meristem.edit.joints import Beside, Concat
from meristem.errors import EditError
from meristem.schedule import Every
from meristem.signals import View

from .brute_branches import brute_concatenations, brute_spans, brute_sums
from .looked import looked_at
from .models import NETS, Net, net

SIDES: tuple[Side, Side] = "before", "after"


@pytest.mark.parametrize("found", NETS, ids=lambda n: n.name)
def test_chains_are_those_of_the_definition(found: Net) -> None:
    """All pairs of tensor edges with one entry and one exit are pairs of a chain, and each edge is in one chain."""
    flow = looked_at(found.name)[1].flow
    at = [edge_at(flow, call, side) for call in flow.invocations for side in SIDES]
    edges = list(dict.fromkeys(edge for edge in at if edge is not None and edge.readers))
    mine = chains(flow, edges)
    pairs = {pair for chain in mine for pair in combinations(chain, 2)}
    assert pairs == brute_spans(flow, edges)
    assert len([edge for chain in mine for edge in chain]) == len({edge for chain in mine for edge in chain})


def opened(found: Net, join: str) -> list[depth.Addition]:
    _, places = looked_at(found.name)
    kind = places.sums if join == "add" else places.concatenations
    return [place for place in kind if place.frozen is None]


@pytest.mark.parametrize("found", NETS, ids=lambda n: n.name)
def test_sums_are_those_of_brute_force(found: Net) -> None:
    assert {place.module for place in opened(found, "add")} == brute_sums(found)


@pytest.mark.parametrize("found", NETS, ids=lambda n: n.name)
def test_concatenations_are_those_of_brute_force(found: Net) -> None:
    assert {place.module for place in opened(found, "cat")} == brute_concatenations(found)


@pytest.mark.parametrize("found", NETS, ids=lambda n: n.name)
def test_additions_hold_every_stretch_of_the_chains(found: Net) -> None:
    """Neighbours and ends of each chain are computed by a module beside which a branch may come, or are frozen; of
    places between which it makes no difference one is listed."""
    _, places = looked_at(found.name)
    flow = places.flow
    spans: dict[tuple[Edge | None, Edge | None], set[str]] = {}
    for call in flow.invocations:
        spans.setdefault((edge_at(flow, call, "before"), edge_at(flow, call, "after")), set()).add(call.module)
    listed = {place.name for place in places.beside}
    lone = [place for place in places.beside if not place.module]
    assert all(place.frozen == "no module computes just what lies between" for place in lone)
    missing = 0
    for chain in chains(flow, [e for span in spans for e in span if e is not None and e.readers]):
        for one, two in {*pairwise(chain), (chain[0], chain[-1])}:
            if one.version == two.version:
                continue
            inside = spans.get((one, two), set()) - {""}
            missing += not spans.get((one, two), set())
            assert inside <= listed
    assert missing >= len(lone) > 0 or found.name in ("perceptron", "acting")
    keys = [(place.join, place.between) for place in places.additions]
    assert sorted(set(keys)) == sorted(keys)
    assert set(keys) == {(place.join, place.between) for place in places.beside}


@pytest.mark.parametrize("found", NETS, ids=lambda n: n.name)
@pytest.mark.parametrize("join", ["add", "cat"])
def test_added_branches_change_nothing_and_go_without_a_trace(found: Net, join: str) -> None:
    for place in opened(found, join)[::2]:
        if re.match(r"(layers|stage)\.[12]", place.module):
            continue  # as in the first of them
        model, x = found.model(), found.x()
        before, expected = {name: t.clone() for name, t in model.state_dict().items()}, model(x)
        text = str(model)
        axes = trace(model, x)
        places = depth.places(axes)
        kind = depth.Added() if join == "add" else depth.Appended(2)
        change = kind.change(places, place.module)
        assert change.inexact() == ()
        axes = Edit(axes).depth(change).commit().axes
        joint = model.get_submodule(place.module)
        assert isinstance(joint, Beside if join == "add" else Concat)
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
        cut = depth.RemoveBranch(depth.places(axes), f"{place.module}.1")
        assert cut.inexact() == ()
        Edit(axes).depth(cut).commit()
        assert str(model) == text
        assert list(model.state_dict()) == list(before)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


class Awkward(nn.Module):
    """Modules beside which nothing can come, each for another reason."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dropout = nn.Linear(6, 6), nn.Dropout(0.5)
        self.inplace = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 6))
        self.tied, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
        self.other.weight = self.tied.weight
        self.smooth, self.clipped = nn.Sequential(nn.Linear(6, 6), nn.GELU()), nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.pair, self.head = Pair(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.first(x))
        x, _ = self.pair(self.other(self.tied(self.inplace(self.clipped(self.smooth(x))))))
        return self.head(x)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(x), torch.cos(x)


def test_frozen_places_say_why() -> None:
    model, x = Awkward().double().eval(), torch.randn(4, 6).double()
    places = depth.places(trace(model, x))
    reasons = {place.name: place.frozen for place in places.beside if place.join == "add"}
    assert reasons["first"] is None
    assert reasons["smooth"] is None
    assert "makes no zeros that learn" in str(reasons["clipped"])
    assert reasons["dropout"] == "it has no parameters"
    assert "it writes to what it is given" in str(reasons["inplace"])
    assert reasons["tied"] == "no zeros of its own silence it: other.weight is outside"
    assert reasons["pair"] == "it returns something else than a tensor"
    with pytest.raises(EditError, match="outside"):
        depth.AddBranch(places, "tied")
    with pytest.raises(EditError, match="not called"):
        depth.AddBranch(places, "nowhere")
    with pytest.raises(EditError, match="held under several names"):
        depth.ConcatBranch(places, "tied", 2)


class Cheap(nn.Module):
    """Modules that multiply and convolve nothing, and one that holds such a one."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scale, self.layer = nn.Embedding(7, 6), nn.LayerNorm(6), nn.LayerNorm(6)
        self.normed = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
        self.smooth, self.head = nn.Sequential(nn.GroupNorm(2, 6), nn.Tanh()), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.smooth(self.normed(self.layer(self.scale(self.table(tokens))))))


def test_no_branch_comes_beside_what_multiplies_nothing() -> None:
    """Two normalizations are one: where a branch may come it costs operations, so that a gain for each is a number."""
    torch.manual_seed(0)
    model, x = Cheap().double().eval(), torch.tensor([1, 5, 2, 0])
    axes = trace(model, x)
    places = depth.places(axes)
    reasons = {place.name: place.frozen for place in places.sums if place.module}
    free = "table", "scale", "layer", "normed.1", "smooth"
    assert all("multiplies no matrices and convolves nothing" in str(reasons[name]) for name in free)
    assert reasons["normed"] is reasons["normed.0"] is reasons["head"] is None
    births = depth.Deepen([depth.Added(), depth.Appended(2)]).changes(places)
    assert births
    assert all(depth.cost(axes, birth).flops > 0 for birth in births)


def test_nothing_is_put_beside_a_row_that_multiplies_nothing() -> None:
    torch.manual_seed(0)
    layers = nn.Linear(6, 6), nn.LayerNorm(6), nn.BatchNorm1d(6), nn.Linear(6, 3)
    model = nn.Sequential(*layers).double().eval()
    places = depth.places(trace(model, torch.randn(4, 6).double()))
    with pytest.raises(EditError, match="multiplies no matrices and convolves nothing"):
        depth.AddBranch(places, "1..2")
    assert depth.AddBranch(places, "0..2").inexact() == ()


@pytest.mark.parametrize(
    ("name", "module", "kind"), [("nested", "inner", depth.Added()), ("inception", "wide", depth.Appended(3))]
)
def test_a_third_branch_joins_the_two(name: str, module: str, kind: depth.Joined) -> None:
    """It becomes one child more of the joint, not a joint within; each goes by itself."""
    model, x = net(name).model(), net(name).x()
    text, expected = str(model), model(x)
    axes = trace(model, x)
    for beside in (module, f"{module}.1", f"{module}.0"):
        axes = Edit(axes).depth(kind.change(depth.places(axes), beside)).commit().axes
    joint = model.get_submodule(module)
    assert [type(child) for child in joint.children()] == [type(joint.get_submodule("0"))] * 4
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    places = depth.places(axes)
    same = {place.between for place in places.beside if place.join == kind.join and place.module.startswith(module)
            and place.module.count(".") < 2 and (name == "nested" or place.module.count(".") == 1)}  # fmt: skip
    assert len(same) == 1
    assert depth.Evenly().scores(View(axes), [kind.change(places, f"{module}.2")]).tolist() == [-4.0]
    for gone in (2, 1, 1):
        axes = Edit(axes).depth(depth.RemoveBranch(depth.places(axes), f"{module}.{gone}")).commit().axes
    assert str(model) == text
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


def test_layers_and_branches_are_chosen_between_by_their_gain() -> None:
    """A sum, a concatenation and a copied block in one list; gains are what a small step brings."""
    model, x = net("mixer").model(), net("mixer").x()
    axes = trace(model, x)
    places = depth.places(axes)
    what = (depth.Silent(), depth.Added(), depth.Appended(3))
    deepen = depth.Deepen(what, choose=depth.ByGain())
    deepen.require(places)
    changes = deepen.changes(places)
    kinds = {
        kind: [c for c in changes if isinstance(c, kind)]
        for kind in (depth.Arrange, depth.AddBranch, depth.ConcatBranch)
    }
    assert all(kinds.values())
    for join, kind in (("add", depth.AddBranch), ("cat", depth.ConcatBranch)):
        open_ = [place.module for place in places.additions if place.join == join and place.frozen is None]
        assert [change.module for change in kinds[kind]] == open_
    few = [found[0] for found in kinds.values()]
    gains = depth.predicted_gains(axes, few, lambda: model(x).square().mean())
    assert bool((gains > 0).all())
    for change, gain in zip(few, gains.tolist(), strict=True):
        fresh = net("mixer").model()
        own = trace(fresh, x)
        again = depth.Deepen(what).changes(depth.places(own))[changes.index(change)]
        old = {id(p) for p in fresh.parameters()}
        Edit(own).depth(again).commit()
        fresh(x).square().mean().backward()
        born = {name: p.grad for name, p in fresh.named_parameters() if id(p) not in old}
        if isinstance(change, depth.ConcatBranch):
            assert change.module == "layers.0.tokens.0"
            read = born.pop("layers.0.tokens.2.weight")
            assert not any(bool(g.any()) for name, g in born.items() if g is not None and ".0.1." in name)
            born = {"columns": read[:, 5:] if read is not None else None}
        own_gain = sum(float(g.square().sum()) for g in born.values() if g is not None)
        assert own_gain == pytest.approx(gain, rel=1e-9)


def test_a_controller_adds_branches() -> None:
    model, x = net("transformer").model().train(), net("transformer").x()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    plasticity = Plasticity(
        model, optimizer, x, schedule=Every(1, deepen=1).until(parameters=10**6),
        deepen=depth.Deepen([depth.Added(), depth.Appended(2)], at="layers.[01].mlp.0", choose=depth.ByGain()),
    )  # fmt: skip
    events = []
    for _ in range(2):
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        events.append(plasticity.step(loss, lambda: model(x).square().mean()))
    assert all(event is not None and event.inserted for event in events)
    assert any(isinstance(module, (Beside, Concat)) for module in model.modules())
    with pytest.raises(EditError, match="finds no place to put it at 'norm'"):
        depth.Deepen(depth.Appended(2), at="norm").require(depth.places(trace(model, x)))


class Echo(nn.Module):
    """What it adds to its input is made of the input without a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(x)


@pytest.mark.filterwarnings("ignore::meristem.errors.UnreachedWarning")
def test_what_silences_a_copy_must_be_in_it() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(Echo(), Echo()), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    axes = trace(model, torch.randn(3, 6))
    places = depth.places(axes)
    with pytest.raises(EditError, match="no layer of its own"):
        depth.duplicated(places, "1.0", 1, depth.Silent()).tree(axes)
    with pytest.raises(EditError, match=r"2\.weight is outside"):
        depth.Insert(places, "after 3", depth.ResidualCopy()).tree(axes)
