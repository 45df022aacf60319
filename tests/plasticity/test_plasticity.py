"""The controller in a hand-written loop: what it edits, what it reports, and what it leaves alone."""

import copy
import logging
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from meristem.allocate import Limits, Proportional, Uniform
from meristem.axes import trace
from meristem.edit import StaleParameterWarning
from meristem.errors import ConfigError, EditError, FrozenAxisError, WrappedModelError
from meristem.grow import Net2Wider, ZeroFanOut
from meristem.plasticity import Plasticity
from meristem.prune import Magnitude, Protect, Random
from meristem.schedule import At, Every, OnPlateau
from tests.plasticity.models import build


def setup(name="mlp", *, optimizer=torch.optim.Adam, lr=1e-2, **settings):
    model, x = build(name)
    optimizer = optimizer(model.parameters(), lr=lr)
    return model, optimizer, x, Plasticity(model, optimizer, x, **settings)


def train(model, optimizer, x, plasticity, steps, seed=0):
    """The loop of a user; returns what happened."""
    generator = torch.Generator().manual_seed(seed)
    events = []
    for _ in range(steps):
        batch = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        loss = (model(batch) - batch.flatten(1).sum(1)[(..., *[None] * (model(batch).dim() - 1))]).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        events.append(plasticity.step(loss))
    return [event for event in events if event is not None]


def test_growth_and_pruning_follow_the_schedule():
    schedule = Every(2, grow=0.2, end=6) | At(7, prune=4)
    model, optimizer, x, plasticity = setup(grow=ZeroFanOut(), prune=Magnitude(), schedule=schedule)
    sizes = [tuple(axis.size for axis in plasticity.axes.editable)]
    events = train(model, optimizer, x, plasticity, 8)
    assert sizes == [(10, 7)]
    assert [event.step for event in events] == [2, 4, 6, 7]
    assert [event.births for event in events] == [{"0": 2, "3": 1}, {"0": 2, "3": 2}, {"0": 3, "3": 2}, {}]
    assert events[-1].deaths == {"0": 2, "3": 2}
    assert model[0].weight.shape == (15, 6)
    assert model[3].weight.shape == (10, 15)
    assert model[0].out_features == model[1].num_features == 15
    assert plasticity.axes.sizes == trace(model, x).sizes
    assert len(plasticity.history) == 4
    assert plasticity.steps == 8


def test_printed_it_says_where_it_stands():
    model, optimizer, x, plasticity = setup("attention", grow=ZeroFanOut(), schedule=At(1, grow=9), axes=["stem", "up"])
    train(model, optimizer, x, plasticity, 2)
    parameters, flops = sum(p.numel() for p in model.parameters()), trace(model, x).flops()
    assert repr(plasticity) == (
        f"Plasticity of {type(model).__name__}: step 2, 1 edits, 2 axes to edit, {parameters:,} parameters, "
        f"{flops:,} FLOPs"
    )


def test_an_event_reports_what_really_changed(caplog):
    model, optimizer, x, plasticity = setup("attention", grow=ZeroFanOut(), schedule=At(1, grow=9), axes=["stem", "up"])
    parameters = sum(p.numel() for p in model.parameters())
    flops = plasticity.axes.flops()
    with caplog.at_level(logging.INFO, "meristem"):
        (event,) = train(model, optimizer, x, plasticity, 2)
    assert event.parameters == (parameters, sum(p.numel() for p in model.parameters()))
    assert event.flops == (flops, trace(model, x).flops())
    assert event.births == {"stem": 4, "up": 5}
    assert event.inexact == {"stem": ("normalized",)}
    assert [record.getMessage() for record in caplog.records if record.name == "meristem.plasticity"] == [str(event)]
    assert "9 births" in str(event)
    assert "not exact: stem" in str(event)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(event)
    assert "stem" in console.export_text()


def test_new_parameters_are_trained():
    model, optimizer, x, plasticity = setup(grow=ZeroFanOut(), schedule=At(2, grow=6), allocate=Uniform())
    train(model, optimizer, x, plasticity, 2)
    born = model[3].weight[:, 10:].detach().clone()
    assert not born.any()
    train(model, optimizer, x, plasticity, 3)
    assert model[3].weight[:, 10:].detach().abs().min() > 0
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()} == {id(p) for p in optimizer.state}


def test_growth_does_not_move_the_function_and_steps_between_edits_do_nothing():
    model, _, x, plasticity = setup(grow=Net2Wider(), schedule=At(3, grow=8))
    model.eval()
    before = model(x)
    assert plasticity.step() is None
    assert plasticity.step() is None
    assert plasticity.step() is not None
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_mode_random_state_and_hooks_are_left_alone(training):
    model, x = build("mlp")
    model.train(training)
    model[1].eval()
    modes = [m.training for m in model.modules()]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    optimizer = torch.optim.Adam(model.parameters())
    plasticity = Plasticity(
        model, optimizer, x, grow=Net2Wider(), prune=Random(), schedule=Every(1, prune=3, grow=0.5), integrate=None
    )
    for _ in range(3):
        assert plasticity.step() is not None
    assert torch.get_rng_state().equal(before)
    assert [m.training for m in model.modules()] == modes
    assert all(not m._forward_hooks and not m._forward_pre_hooks and not m._backward_hooks for m in model.modules())


def test_the_loss_is_not_read_unless_a_schedule_watches_it():
    class Untouchable:
        def __getattribute__(self, name):
            raise AssertionError(f"the loss was touched: {name}")

    *_, plasticity = setup(grow=ZeroFanOut(), schedule=Every(2, grow=1))
    for _ in range(4):
        plasticity.step(Untouchable())  # type: ignore[arg-type]


def test_plateau_grows_when_the_loss_stalls():
    *_, plasticity = setup(grow=ZeroFanOut(), schedule=OnPlateau(patience=2, window=2, grow=2))
    events = [plasticity.step(torch.tensor(1.0)) for _ in range(6)]
    assert [event is not None for event in events] == [False] * 5 + [True]


def test_until_stops_at_the_budget():
    schedule = Every(1, grow=0.3).until(parameters=400)
    model, optimizer, x, plasticity = setup(grow=ZeroFanOut(), schedule=schedule)
    events = train(model, optimizer, x, plasticity, 12)
    count = sum(p.numel() for p in model.parameters())
    assert 380 < count <= 400
    assert len(events) < 12
    assert events[-1].parameters[1] == count


def test_limits_hold_through_a_run():
    allocate = Proportional({"0": Limits(minimum=8, maximum=12), "*": Limits(multiple=4)})
    schedule = Every(1, end=5, grow=0.5) | Every(1, start=6, prune=0.5)
    *_, plasticity = setup(grow=ZeroFanOut(), prune=Magnitude(), schedule=schedule, allocate=allocate)
    for event in range(12):
        plasticity.step()
        first, second = (axis.size for axis in plasticity.axes.editable)
        assert 8 <= first <= 12
        assert second % 4 == 0 or event == 0
    assert (first, second) == (8, 4)


def test_ages_follow_the_units():
    schedule = At(2, grow=3) | At(5, grow=2) | At(6, prune=6)
    model, optimizer, x, plasticity = setup(
        grow=ZeroFanOut(), prune=Protect(Magnitude(), age=4), schedule=schedule, axes="0", lr=0.0
    )
    oldest = torch.iinfo(torch.int64).max
    assert plasticity.ages == {}
    train(model, optimizer, x, plasticity, 5)
    assert plasticity.ages["0"].tolist() == [oldest] * 10 + [3] * 3 + [0] * 2
    scores = model[0].weight.detach().norm(dim=1)
    scores[13:] = torch.inf
    dead = set(scores.argsort()[:6].tolist())
    train(model, optimizer, x, plasticity, 2)
    ages = [oldest] * 10 + [5] * 3 + [2] * 2
    assert plasticity.ages["0"].tolist() == [age for unit, age in enumerate(ages) if unit not in dead]
    assert plasticity.ages["0"].tolist()[-2:] == [2, 2], "the youngest were protected"


def test_the_optimizer_state_of_newborns_is_what_the_policy_says():
    class Sevens:
        def values(self, s):
            return s.old.new_full(s.shape, 7)

    model, optimizer, x, plasticity = setup(grow=ZeroFanOut(), schedule=At(2, grow=3), axes="0", integrate=Sevens())
    train(model, optimizer, x, plasticity, 2)
    state = optimizer.state[model[0].weight]
    assert bool((state["exp_avg"][10:] == 7).all())
    assert not bool((state["exp_avg"][:10] == 7).any())


def test_copies_follow():
    model, x = build("mlp")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    average = AveragedModel(model)
    plasticity = Plasticity(
        model, optimizer, x, grow=ZeroFanOut(), prune=Random(), schedule=Every(1, prune=2, grow=5), follow=[average]
    )
    train(model, optimizer, x, plasticity, 3)
    average.update_parameters(model)
    assert [p.shape for p in average.module.parameters()] == [p.shape for p in model.parameters()]


def test_several_optimizers_and_a_scheduler():
    model, x = build("mlp")
    optimizers = [
        torch.optim.SGD(model[:2].parameters(), lr=0.1, momentum=0.9),
        torch.optim.Adam(model[2:].parameters()),
    ]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizers[0], 1, gamma=0.5)
    plasticity = Plasticity(model, optimizers, x, grow=ZeroFanOut(), schedule=Every(1, grow=3))
    for _ in range(3):
        model(x).pow(2).mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()
        plasticity.step()
    assert optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**3
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_a_map_may_be_given_in_place_of_an_example():
    model, x = build("mlp")
    axes = trace(model, x)
    plasticity = Plasticity(model, torch.optim.SGD(model.parameters()), axes, grow=ZeroFanOut(), schedule=At(1, grow=2))
    assert plasticity.axes is axes
    assert plasticity.step() is not None


def test_edits_depend_on_the_seed_and_nothing_else():
    def result(seed):
        model, optimizer, x, plasticity = setup(
            grow=Net2Wider(), prune=Random(), schedule=Every(2, prune=2, grow=3), seed=seed
        )
        train(model, optimizer, x, plasticity, 6)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    first = result(1)
    torch.rand(100)
    assert result(1).equal(first)
    assert not result(2).equal(first)


def test_nothing_to_do_is_said_and_changes_nothing(caplog):
    model, *_, plasticity = setup(prune=Magnitude(), schedule=At(1, prune=5), allocate=Uniform(Limits(minimum=50)))
    before = copy.deepcopy(model.state_dict())
    with caplog.at_level(logging.INFO, "meristem"):
        assert plasticity.step() is None
    assert "nothing to edit" in caplog.text
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())
    assert plasticity.history == ()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"schedule": At(1, grow=2)}, ConfigError, r"asks to grow.*grow="),
        ({"schedule": At(1, prune=2), "grow": ZeroFanOut()}, ConfigError, r"asks to prune.*prune="),
        ({"schedule": At(1, grow=2), "grow": ZeroFanOut(), "axes": "5"}, FrozenAxisError, "model output"),
    ],
)
def test_settings_that_would_fail_later_are_refused_at_once(settings, error, message):
    with pytest.raises(error, match=message):
        setup(**settings)


def test_a_method_that_is_not_defined_somewhere_is_refused_at_once():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, x):
            return self.q(x) @ self.k(x).transpose(-1, -2)

    model = Gated()
    with pytest.raises(EditError, match=r"defined: .*ZeroFanOut"):
        Plasticity(
            model, torch.optim.SGD(model.parameters()), torch.randn(2, 4, 6), grow=Net2Wider(), schedule=At(1, grow=1)
        )


def wrapped(kind, model) -> Any:
    if kind == "compiled":
        return torch.compile(model)
    return DistributedDataParallel(model)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["compiled", "distributed"])
def test_a_wrapped_model_is_refused(kind, process_group):
    model, x = build("mlp")
    with pytest.raises(WrappedModelError):
        Plasticity(
            wrapped(kind, model), torch.optim.SGD(model.parameters()), x, grow=ZeroFanOut(), schedule=At(1, grow=1)
        )


def test_a_list_of_old_parameters_is_reported():
    model, *_, plasticity = setup(grow=ZeroFanOut(), schedule=At(1, grow=2))
    clipped = list(model.parameters())
    with pytest.warns(StaleParameterWarning):
        event = plasticity.step()
    assert event is not None
    assert "0.weight" in event.stale[0].parameters
    del clipped


def test_a_failed_edit_leaves_everything_as_it_was():
    class Failing(ZeroFanOut):
        def values(self, s):
            if s.layout.name == "3.weight":
                raise RuntimeError("out of memory")
            return super().values(s)

    model, optimizer, x, plasticity = setup(grow=Failing(), schedule=At(3, grow=4))
    train(model, optimizer, x, plasticity, 2)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    axes = plasticity.axes
    with pytest.raises(RuntimeError, match="out of memory"):
        plasticity.step()
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()["state"]), before, rtol=0, atol=0)
    assert plasticity.axes is axes
    assert plasticity.ages == {}
