"""What a model holds together with another one is changed for it alone."""

from __future__ import annotations

import copy
import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meristem import depth
from meristem.axes import trace
from meristem.edit import Edit
from meristem.edit.journal import Journal
from meristem.errors import EditError

from .snapshot import Snapshot
from .test_transaction import Injector

X = torch.randn(4, 6)


class Net(nn.Module):
    """Reads a length from what it is given."""

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.options = options
        self.first = nn.Linear(6, 12)
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).view(-1, self.options["width"]))


class Attribute(Net):
    """Reads it from an object."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).view(-1, self.options.width))


class Nested(Net):
    """Reads it deeper."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).view(-1, self.options["inner"]["width"]))


class Twice(Nested):
    """Holds what is deeper besides."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.inner = options["inner"]

    def forward(self, x: Tensor) -> Tensor:
        assert self.options["inner"] is self.inner
        return self.last(self.first(x).view(-1, self.inner["width"]))


class Helped(Net):
    """Has a plain object, and a module that is none of its children, look at the same."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.helper = SimpleNamespace(seen=[options])
        self.hidden = [Net(options)]

    def forward(self, x: Tensor) -> Tensor:
        assert self.options is self.helper.seen[0] is self.hidden[0].options
        return self.last(self.first(x).view(-1, self.options["width"]))


def width(options: Any) -> int:
    """The length that is said there."""
    if isinstance(options, SimpleNamespace):
        return options.width
    return options["inner"]["width"] if "inner" in options else options["width"]


def runs(net: nn.Module) -> bool:
    """Whether a model still runs."""
    return net(X).shape == (4, 3)


def grown(net: nn.Module, **options: Any) -> None:
    Edit(trace(net, X), **options).grow("first", 2).commit()
    assert net.get_parameter("first.weight").shape == (14, 6)
    assert runs(net)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(Net, lambda: {"width": 12}, id="dict"),
        pytest.param(Attribute, lambda: SimpleNamespace(width=12), id="object"),
        pytest.param(Nested, lambda: {"inner": {"width": 12}}, id="nested"),
        pytest.param(Twice, lambda: {"inner": {"width": 12}}, id="nested and held besides"),
        pytest.param(Helped, lambda: {"width": 12}, id="held within, too"),
    ],
)
@pytest.mark.parametrize("collected", [False, True], ids=["", "collected"])
def test_another_model_keeps_what_it_shares(kind, options, collected):
    given = options()
    one, other = kind(given), kind(given)
    if collected:
        gc.collect()  # which does not track dictionaries of numbers any longer
    grown(one)
    assert runs(other)
    assert other.options is given
    assert (width(one.options), width(other.options)) == (14, 12)
    grown(other)
    assert (width(one.options), width(other.options)) == (14, 14)
    grown_again = one.options
    Edit(trace(one, X)).prune("first", [0]).commit()
    assert one.options is grown_again, "it is its own by now"
    assert (width(one.options), width(other.options)) == (13, 14)
    assert runs(one)
    assert runs(other)


def test_what_only_variables_hold_is_changed_itself():
    given = {"width": 12}
    net = Net(given)
    grown(net)
    assert net.options is given
    assert given["width"] == 14


class InTuple(Net):
    """Reads it from a dict within a tuple."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).view(-1, self.options[0]["width"]).view(-1, self.options[1][0]))


def test_what_a_tuple_contains_is_made_anew():
    given = ({"width": 12}, [12])
    one, other = InTuple(given), InTuple(given)
    grown(one)
    assert one.options == ({"width": 14}, [14])
    assert other.options is given
    assert given == ({"width": 12}, [12])
    assert runs(other)


def test_another_model_that_holds_it_by_way_of_something_else():
    given = {"width": 12}
    one, other = Net(given), Net({"width": 12})
    other.experiment = SimpleNamespace(settings=[given])  # type: ignore[assignment]
    grown(one)
    assert other.experiment.settings[0]["width"] == given["width"] == 12
    assert one.options["width"] == 14


def test_copies_that_follow_share_it_with_the_model():
    given = {"width": 12}
    one, ema, other = Net(given), Net(given), Net(given)
    grown(one, follow=ema)
    assert ema.options is one.options is not given
    assert runs(ema)
    assert runs(other)


def test_a_failure_at_any_step_leaves_the_shared_object_where_it_was(monkeypatch):
    given = {"inner": {"width": 12}}
    one, other = Twice(given), Twice(given)
    edit = Edit(trace(one, X)).grow("first", 2)
    injector = Injector(monkeypatch, Journal, "perform")
    before = Snapshot([one, other])
    for place in range(100):
        injector.arm(place)
        try:
            edit.commit()
        except BaseException:
            before.check()
            assert one.options is other.options is given
            assert one.inner is other.inner is given["inner"]
            assert given == {"inner": {"width": 12}}
        else:
            break
    assert place > 8
    assert (width(one.options), width(other.options)) == (14, 12)
    assert one.inner is one.options["inner"] is not other.inner


def test_what_cannot_be_given_a_copy_is_refused():
    given = {"width": 12}
    one, other = Net(given), Net(given)
    one.kept = (given,)  # type: ignore[assignment]
    edit = Edit(trace(one, X)).grow("first", 2)
    before = Snapshot([one, other])
    with pytest.raises(EditError, match="a dict that another model holds too, and refers to it from a tuple"):
        edit.commit()
    before.check()
    assert given["width"] == 12


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x).tanh()


class Deep(nn.Module):
    """As many blocks as a shared object says."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.Sequential(*(Block() for _ in range(config.blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def test_edits_of_the_module_tree_leave_it_to_others_as_well():
    config = SimpleNamespace(blocks=3)
    one, other = Deep(config), Deep(config)
    axes = trace(one, X)
    Edit(axes).depth(depth.Arrange(depth.places(axes), "blocks", (0, 1, 1, 2))).commit()
    assert len(one.blocks) == one.config.blocks == 4
    assert other.config is config
    assert config.blocks == 3
    assert other(X).shape == one(X).shape


def test_a_module_that_contains_the_model_sees_the_change():
    given = {"width": 12}
    one = Net(given)
    whole = nn.Sequential(one)
    whole.options = given  # type: ignore[assignment]
    grown(one)
    assert whole.options is one.options is given


def test_a_deep_copy_shares_nothing():
    given = {"width": 12}
    one = Net(given)
    other = copy.deepcopy(one)
    grown(one)
    assert one.options is given
    assert (width(one.options), width(other.options)) == (14, 12)
