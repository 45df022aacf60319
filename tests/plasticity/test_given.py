"""What a controller is given is looked at at once; what it could not do it says."""

from __future__ import annotations

import re
import warnings
from dataclasses import asdict

import pytest
import torch
from torch import nn

import meristem
from meristem import depth
from meristem.allocate import Bottleneck, Limits, Uniform
from meristem.edit import StaleParameterWarning
from meristem.errors import CheckpointError, ConfigError, UnknownAxisError
from meristem.grow import SWE, GradMax, Method, ZeroFanOut
from meristem.ledger import Entry, Exchange, Trade
from meristem.prune import Magnitude, Removal
from meristem.schedule import At, Budget


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def controller(model: nn.Module, **settings) -> meristem.Plasticity:
    optimizer = torch.optim.Adam(model.parameters())
    return meristem.Plasticity(model, optimizer, torch.randn(4, 6), **settings)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grow": ZeroFanOut}, "grow= expects a growth method such as .*; got the class ZeroFanOut: call it"),
        ({"grow": Magnitude()}, "grow= expects a growth method .* of type meristem.prune.magnitude.Magnitude"),
        ({"prune": Magnitude}, "prune= expects a criterion .* the class Magnitude: call it"),
        ({"grow": "random"}, "got 'random' of type str"),
        ({"schedule": 100}, "schedule= expects a schedule such as"),
        ({"schedule": None}, "schedule= expects a schedule such as"),
        ({"allocate": Uniform}, "allocate= expects an allocator"),
        ({"deepen": depth.Silent}, "deepen= expects .* the class Silent: call it"),
        ({"shorten": depth.Silent()}, "shorten= expects a criterion of depth"),
        ({"exchange": ZeroFanOut()}, "exchange= expects"),
    ],
)
def test_what_is_not_what_it_should_be_is_refused_by_name(wrong, message) -> None:
    with pytest.raises(ConfigError, match=message):
        controller(net(), **{"schedule": At(1, grow=1), "grow": ZeroFanOut(), **wrong})


def test_a_model_without_axes_to_edit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"asks to grow and prune, but no axis of this model may be edited: .*input"):
        controller(nn.Linear(6, 3), schedule=At(1, grow=1, prune=1), grow=ZeroFanOut(), prune=Magnitude())
    alone = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    controller(alone, schedule=At(1, deepen=1), deepen=depth.ZeroResidual(hidden=2), axes=lambda axis: True)


def test_an_empty_state_names_what_it_lacks_in_one_line() -> None:
    with pytest.raises(CheckpointError) as refused:
        controller(net(), schedule=At(1, grow=1), grow=ZeroFanOut()).load_state_dict({})
    assert "step: Field required; seed: Field required" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "http" not in str(refused.value)


def test_pruning_that_falls_short_says_so() -> None:
    event = controller(net(), schedule=At(1, prune=100), prune=Magnitude()).step()
    assert event is not None
    assert event.notes == ("prune: 14 of 100 units, more do not go within limits and budget",)
    assert controller(net(), schedule=At(1, prune=3), prune=Magnitude()).step().notes == ()


CUT = {
    "maximum": (Uniform(Limits(maximum=12)), 10, Budget(), ["0 may have 12, 2 may have 12"]),
    "maximum, by axis": (Uniform({"2": Limits(maximum=9)}), {"0": 3, "2": 4}, Budget(), ["2 may have 9"]),
    "multiple": (Uniform(Limits(multiple=8)), 10, Budget(), ["sizes are multiples of 8"]),
    "budget": (Uniform(), 10, Budget(units=20), ["the budget is 20 units"]),
    "both": (
        Uniform(Limits(maximum=12)), 20, Budget(units=20, parameters=1e6),
        ["0 may have 12, 2 may have 12", "the budget is 1e+06 parameters and 20 units"],
    ),
    "nothing": (Uniform(Limits(maximum=20)), 10, Budget(units=30), []),
}  # fmt: skip


@pytest.mark.parametrize("method", [ZeroFanOut(), SWE(steps=1)], ids=repr)
@pytest.mark.parametrize("name", CUT)
def test_growth_that_limits_cut_says_how_much_is_left_and_why(name: str, method: Method) -> None:
    """Also of methods that grow one axis after the other."""
    allocator, amount, budget, reasons = CUT[name]
    model, x = (
        nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 7), nn.Tanh(), nn.Linear(7, 3)),
        torch.ones(2, 6),
    )
    schedule = At(1, grow=amount) if budget == Budget() else At(1, grow=amount).until(**asdict(budget))
    plasticity = controller(model, schedule=schedule, grow=method, allocate=allocator)
    event = plasticity.step(None, lambda: model(x).square().mean())
    assert event is not None
    births, asked = sum(event.births.values()), amount if isinstance(amount, int) else sum(amount.values())
    said = f"grow: {births} of {asked} units within limits and budget ({', '.join(reasons)})"
    assert event.notes == ((said,) if reasons else ())
    assert (births < asked) == bool(reasons)


def test_growth_by_gains_is_cut_by_the_same_limits() -> None:
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 7), nn.Tanh(), nn.Linear(7, 3))
    x = torch.randn(8, 6)
    limits = Bottleneck(Limits(maximum=11))
    plasticity = controller(model, schedule=At(1, grow=20), grow=GradMax(), allocate=limits)
    loss = model(x).square().mean()
    loss.backward()
    event = plasticity.step(loss)
    assert event is not None
    assert "grow: 5 of 20 units within limits and budget (0 may have 11, 2 may have 11)" in event.notes


def test_a_warning_points_to_the_loop() -> None:
    model = net()
    plasticity = controller(model, schedule=At(1, grow=2), grow=ZeroFanOut())
    held = {"parameters": list(model.parameters())}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plasticity.step()
    (warning,) = [one for one in caught if one.category is StaleParameterWarning]
    assert warning.filename == __file__
    assert "plasticity.optimizers" in str(warning.message)
    assert held


class Everything(Exchange):
    """Sells a unit and buys a layer."""

    def require(self, axes, chosen) -> None:
        """Nothing to refuse."""

    def needs(self, axes, chosen, demand):
        return ()

    def running(self, axes, chosen):
        return ()

    @property
    def requires_closure(self) -> bool:
        return False

    def trade(self, view, chosen, demand) -> Trade:
        places = depth.places(view.axes)
        (layer,) = depth.Deepen(depth.ZeroResidual(hidden=2), at="after 2").changes(places)
        entries = Entry("unit", "death", "0", 1, 0.25, 8.0), Entry("layer", "birth", "after 2", 1, 0.5, 16.0)
        return Trade(plans=(Removal(view.axes["0"], (3,)),), changes=(layer,), entries=entries)


def test_a_trade_of_units_and_layers_is_carried_out_and_told() -> None:
    from rich.console import Console

    model = net()
    exchange = Everything.__new__(Everything)
    plasticity = controller(model, schedule=At(2, exchange=0.1), exchange=exchange)
    assert plasticity.step() is None
    event = plasticity.step()
    assert event is not None
    assert (event.deaths, event.inserted) == ({"0": 1}, ("3",))
    assert [len(record["axes"]) for record in event.edits] == [1, 0]
    assert model[0].out_features == 7
    assert len(model) == 6
    assert plasticity.ages["3.0"].tolist() == [0, 0]
    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        console.print(event)
    assert re.search(r"layer\s*│ birth\s*│ after 2\s*│\s*1 │\s*0.5 │\s*16 │\s*0.0312", capture.get())
    with pytest.raises(ConfigError, match=r"exchange=\.\.\.\) was not given"):
        controller(net(), schedule=At(2, exchange=0.1))


def test_limits_for_axes_that_there_are_not_are_refused():
    limits = {"0": Limits(minimum=2), "hiden*": Limits(maximum=9)}
    settings = {"schedule": At(1, grow=1), "grow": ZeroFanOut(), "allocate": Uniform(limits=limits)}
    with pytest.raises(
        UnknownAxisError, match=r"limits are given for 'hiden\*', which matches no axis; there are 0, 2"
    ):
        controller(net(), **settings)
