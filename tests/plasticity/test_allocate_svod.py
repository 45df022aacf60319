"""SVoD: gate scores against finite differences, its training against RMSprop, and that nothing of it stays."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import meristem
from meristem.allocate import Alike, Limits, Ranked, Separately, SVoD, Uniform, plan_growth, plan_pruning
from meristem.allocate.ranked import best
from meristem.allocate.svod import BOUND, Candidates
from meristem.axes import AxisMap, trace
from meristem.edit import Edit
from meristem.errors import ConfigError
from meristem.grow import SWE, Random, ZeroFanOut
from meristem.prune import Magnitude
from meristem.schedule import At, Budget, Demand
from meristem.signals import View
from tests.plasticity.models import Residual


class Twice(nn.Module):
    """One layer that is called twice: two activations, one gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)) * torch.tanh(self.first(x.flip(0))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3, bias=False), nn.GELU(),
        nn.Flatten(), nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3),
    )  # fmt: skip


def normed(affine: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=affine), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)
    )


def frozen() -> nn.Module:
    model = mlp()
    model.get_submodule("2").requires_grad_(False)
    return model


Place = tuple[str, bool]
"""A module, and whether the gate is on what it gives (True) or on what it is given."""
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Sequence[Place]]]] = {
    "mlp": (mlp, (6,), {"0": [("0", True)], "2": [("2", True)]}),
    "convolutions": (convolutions, (2, 6, 6), {"0": [("0", True)], "3": [("3", True)], "6": [("6", True)]}),
    "stream": (Residual, (6,), {"stem": [("stem", True), ("down", True)], "up": [("up", True)]}),
    "called twice": (Twice, (6,), {"first": [("first", True)]}),
    "batch norm": (normed, (2, 6, 6), {"0": [("1", True)]}),
    "batch norm, no scale": (lambda: normed(False), (2, 6, 6), {"0": [("4", False)]}),
    "frozen": (frozen, (6,), {"0": [("0", True)], "2": [("2", True)]}),
}
"""Name -> (a net, shape of a sample, by axis where its gates are)."""


@dataclass
class Task:
    """A net in float64 with a closure that draws a batch from torch's generator, and that others may look in on."""

    model: nn.Module
    x: Tensor
    y: Tensor
    axes: AxisMap
    look: Callable[[Tensor], None] | None = None
    batches: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, net: str, dtype: torch.dtype = torch.float64) -> Task:
        build, shape, _ = NETS[net]
        torch.manual_seed(0)
        model, x = build().to(dtype), torch.randn(24, *shape, dtype=dtype)
        return cls(model, x, torch.randint(3, (24,)), trace(model, x[:2]))

    def loss(self, chosen: Tensor) -> Tensor:
        return cross_entropy(self.model(self.x[chosen]), self.y[chosen])

    def closure(self) -> Tensor:
        chosen = torch.randint(24, (12,))
        self.batches.append(chosen)
        if self.look is not None:
            self.look(chosen)
        return self.loss(chosen)

    def view(self, seed: int = 5) -> View:
        return View(self.axes, generator=torch.Generator().manual_seed(seed), closure=self.closure)

    def chosen(self, net: str) -> list[meristem.axes.Axis]:
        return [self.axes.by_name[name] for name in NETS[net][2]]


def slopes(task: Task, places: Sequence[Place], size: int, count: int, chosen: Tensor, h: float = 1e-5) -> list[float]:
    """dL/dy of the last `count` units by central differences: a gate 1 + y on what modules give, or are given."""

    def loss(unit: int, y: float) -> float:
        def gated(z: Tensor) -> Tensor:
            per = z.shape[1] // (size + count)  # channels of one unit, side by side, where positions are flattened
            gate = torch.ones(z.shape[1], dtype=z.dtype)
            gate[unit * per : (unit + 1) * per] += y
            return z * gate.reshape(1, -1, *[1] * (z.dim() - 2))

        handles = [
            task.model.get_submodule(name).register_forward_hook(lambda _, __, z: gated(z))
            if gives
            else task.model.get_submodule(name).register_forward_pre_hook(lambda _, args: (gated(args[0]),))
            for name, gives in places
        ]
        found = float(task.loss(chosen).detach())
        for handle in handles:
            handle.remove()
        return found

    return [(loss(unit, h) - loss(unit, -h)) / (2 * h) for unit in range(size, size + count)]


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("net", NETS)
def test_scores_are_derivatives_in_gates_on_pre_activations(net: str, steps: int) -> None:
    """METHODS of the paper: `y_c = 0` on each candidate's pre-activation `(1 + y_c)`, `s_c = sum dL/dy_c`, all axes'
    candidates in place at once, after training, summed over evaluations."""
    task, total = Task.of(net), 3
    expected = {name: torch.zeros(2 * total, dtype=torch.float64) for name in NETS[net][2]}

    def look(chosen: Tensor) -> None:
        if len(task.batches) > steps:
            for name, places in NETS[net][2].items():
                size = task.axes.by_name[name].size
                expected[name] += torch.tensor(slopes(task, places, size, 2 * total, chosen), dtype=torch.float64)

    task.look = look
    found = SVoD(steps=steps, passes=2).scores(task.view(), task.chosen(net), total)
    assert found.keys() == expected.keys()
    assert len(task.batches) == steps + 2
    assert not torch.equal(task.batches[-1], task.batches[-2])
    for name, scores in found.items():
        assert float(expected[name].abs().max()) > 0
        torch.testing.assert_close(scores, expected[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("net", ["mlp", "batch norm", "frozen"])
def test_the_whole_model_is_trained_with_candidates_by_rmsprop(net: str) -> None:
    task, states = Task.of(net), []
    models: list[nn.Module] = []

    def look(chosen: Tensor) -> None:
        if not models:
            models.append(copy.deepcopy(task.model))
        states.append({name: p.detach().clone() for name, p in task.model.named_parameters()})

    task.look = look
    SVoD(steps=3, passes=1).scores(task.view(), task.chosen(net), 2)
    model = models[0]
    optimizer = torch.optim.RMSprop([p for p in model.parameters() if p.requires_grad], 1e-3, alpha=0.9, momentum=0.1)
    for chosen, state in zip(task.batches, states, strict=True):
        for name, p in model.named_parameters():
            torch.testing.assert_close(state[name], p.detach(), rtol=1e-12, atol=1e-14)
        cross_entropy(model(task.x[chosen]), task.y[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert any(not torch.equal(a, b) for a, b in zip(states[0].values(), states[-1].values(), strict=True))


@pytest.mark.parametrize("net", NETS)
def test_nothing_of_it_stays(net: str) -> None:
    """Weights, buffers, gradients, random state: bit for bit, also if the loss fails on the way."""
    task = Task.of(net)
    task.loss(torch.arange(24)).backward()
    before = copy.deepcopy(task.model.state_dict())
    gradients = [p.grad if p.grad is None else p.grad.clone() for p in task.model.parameters()]
    held, random = list(task.model.parameters()), torch.get_rng_state()
    votes = SVoD(steps=3, passes=2).votes(task.view(), task.chosen(net), 4)
    assert sum(votes.values()) == 4

    def fail(chosen: Tensor) -> None:
        if len(task.batches) == 12:
            raise RuntimeError("the loss failed")

    task.look, task.batches = fail, task.batches[:5]
    with pytest.raises(RuntimeError, match="the loss failed"):
        SVoD(steps=9).votes(task.view(), task.chosen(net), 4)
    task.look = None
    after = task.model.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert all(new is old for new, old in zip(task.model.parameters(), held, strict=True))
    for p, gradient in zip(task.model.parameters(), gradients, strict=True):
        assert (p.grad is None) == (gradient is None)
        assert p.grad is None or gradient is None or torch.equal(p.grad, gradient)
    assert torch.equal(torch.get_rng_state(), random)
    assert not task.axes.history
    assert votes == SVoD(steps=3, passes=2).votes(task.view(), task.chosen(net), 4)


def test_the_lowest_scores_have_the_votes() -> None:
    task = Task.of("convolutions")
    scores = SVoD(steps=1).scores(task.view(), task.chosen("convolutions"), 5)
    everyone = sorted((float(s), name) for name, found in scores.items() for s in found)[:5]
    votes = SVoD(steps=1).votes(task.view(), task.chosen("convolutions"), 5)
    assert votes == {name: sum(owner == name for _, owner in everyone) for name in scores}
    for total in range(9):
        worths = [torch.tensor([3.0, -1.0, 0.5]), torch.tensor([2.0, 1.0, -5.0]), torch.tensor([0.0, -9.0])]
        ranked = sorted(((float(w), -i) for i, found in enumerate(worths) for w in found), reverse=True)[:total]
        assert best(worths, total) == [sum(-i == owner for _, owner in ranked) for i in range(3)]


def test_layers_that_nothing_comes_through_from_have_scores_of_zero() -> None:
    task = Task.of("mlp")
    with torch.no_grad():
        task.model.get_submodule("2").bias.fill_(-1e3)  # ReLU lets nothing through
    scores = SVoD(steps=0).scores(task.view(), [task.axes["0"]], 3)
    assert not scores["0"].any()
    assert best([-scores["0"], torch.tensor([0.1, -0.1])], 3) == [2, 1]


def test_candidates_are_small_on_all_sides_and_norms_do_nothing() -> None:
    task = Task.of("batch norm")
    Edit(task.axes).grow("0", 5, Candidates()).commit()
    state = task.model.state_dict()
    newborn = [state["0.weight"][4:], state["0.bias"][4:], state["1.bias"][4:], state["4.weight"][:, 64:]]
    for entries in newborn:
        assert 0 < float(entries.abs().max()) <= BOUND
        assert float(entries.abs().std()) > BOUND / 10
    assert torch.equal(state["1.weight"][4:], torch.ones(5, dtype=torch.float64))
    assert torch.equal(state["1.running_var"][4:], torch.ones(5, dtype=torch.float64))
    assert not state["1.running_mean"][4:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_models_vote(dtype: torch.dtype) -> None:
    """With their moments in float32: squared gradients of candidates would be zero in float16."""
    task, precise = Task.of("mlp", dtype), Task.of("mlp")
    found = SVoD(steps=3).scores(task.view(), task.chosen("mlp"), 4)
    expected = SVoD(steps=3).scores(precise.view(), precise.chosen("mlp"), 4)
    assert all(bool(scores.isfinite().all()) and float(scores.abs().max()) > 0 for scores in found.values())
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("wrapped", [lambda a: a, Alike, lambda a: Separately(grow=a, prune=Uniform())])
def test_a_controller_grows_where_it_is_voted_for(wrapped) -> None:
    task = Task.of("mlp")
    model, optimizer = task.model, torch.optim.SGD(task.model.parameters(), 0.1)
    plasticity = meristem.Plasticity(
        model, optimizer, task.axes, grow=Random(), schedule=At(1, grow=6), allocate=wrapped(SVoD(steps=2))
    )
    event = plasticity.step(None, task.closure)
    assert event is not None
    assert sum(event.births.values()) == 6
    again = Task.of("mlp")
    votes = SVoD(steps=2).votes(View(again.axes, generator=_generator(plasticity), closure=again.closure),
                                again.axes.editable, 6)  # fmt: skip
    assert {name: count for name, count in votes.items() if count} == event.births


def _generator(plasticity: meristem.Plasticity) -> torch.Generator:
    return torch.Generator().manual_seed(plasticity._random(0))


def births(task: Task, allocator: SVoD, demand: Demand) -> dict[str, int]:
    plans = plan_growth(task.view(), task.axes.editable, demand, ZeroFanOut(), allocator).plans
    return {plan.axis.name: plan.births for plan in plans}


def test_limits_and_budgets_hold_and_votes_pass_on() -> None:
    task = Task.of("mlp")
    free = births(task, SVoD(steps=1), Demand("grow", 8))
    most, other = sorted(free, key=lambda name: -free[name])
    maximum = task.axes.by_name[most].size + 1
    limited = births(task, SVoD({most: Limits(maximum=maximum)}, steps=1), Demand("grow", 8))
    assert limited == {most: 1, other: 7}
    bound = task.axes.parameter_count() + 40
    budget = births(task, SVoD(steps=1), Demand("grow", 8, Budget(parameters=bound)))
    assert 0 < sum(budget.values()) < 8
    assert births(task, SVoD(steps=1), Demand("grow", {"0": 3})) == {"0": 3}
    assert len(births(task, SVoD(steps=1), Demand("grow", 0.5))) <= 2


def test_a_method_that_grows_one_axis_at_a_time_is_told_by_its_votes() -> None:
    """SWE with SVoD, as published."""
    task = Task.of("mlp")
    model = task.axes.model
    plasticity = meristem.Plasticity(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        task.axes,
        grow=SWE(steps=2),
        allocate=SVoD(Limits(maximum=8), steps=2),
        schedule=At(1, grow=6),
    )
    event = plasticity.step(None, task.closure)
    assert event is not None
    assert sum(event.births.values()) == 6
    assert all(axis.size <= 8 for axis in plasticity.axes.editable)


def test_what_it_cannot_do_it_says() -> None:
    task = Task.of("mlp")
    with pytest.raises(ConfigError, match=r"plasticity\.step\(loss, closure\)"):
        SVoD().votes(View(task.axes), task.axes.editable, 3)
    with pytest.raises(ConfigError, match=r"Separately\(grow=SVoD"):
        plan_pruning(View(task.axes), task.axes.editable, Demand("prune", 2), Magnitude(), SVoD())
    for wrong in ({"steps": -1}, {"passes": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ConfigError, match="expected steps"):
            SVoD(**wrong)
    assert not SVoD().wants_gains
    assert not Ranked().polls
