"""The optimizer state of copied layers and blocks: copied, scaled or left out, as the policy says; exact values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import meristem
from meristem import Edit, depth, trace
from meristem.edit import Reset
from meristem.errors import ConfigError
from meristem.integrate import IncumbentMean, ParentMoments, StatePolicy, Zeros

from .models import net

OPTIMIZERS: dict[str, tuple[Callable[[Any], optim.Optimizer], dict[str, int]]] = {
    "adam": (
        lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
        {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "step": 0},
    ),
    "sgd": (lambda p: optim.SGD(p, lr=0.01, momentum=0.9), {"momentum_buffer": 1}),
    "rmsprop": (
        lambda p: optim.RMSprop(p, lr=0.001, momentum=0.9, centered=True),
        {"square_avg": 2, "grad_avg": 1, "momentum_buffer": 0, "step": 0},
    ),
    "adagrad": (lambda p: optim.Adagrad(p, lr=0.01), {"sum": 2, "step": 0}),
}

EDITS: dict[str, tuple[str, Callable[[depth.Places], depth.Change], dict[str, str]]] = {
    "copied": (
        "residual",
        lambda p: depth.duplicated(p, "stage.1"),
        {"stage.0": "stage.0", "stage.1": "stage.1", "stage.2": "stage.1", "stage.3": "stage.2"},
    ),
    "silent": (
        "transformer",
        lambda p: depth.duplicated(p, "layers.2", 2, depth.Silent()),
        {"layers.2": "layers.2", "layers.3": "layers.2", "layers.4": "layers.2"},
    ),
    "stacked": (
        "transformer",
        lambda p: depth.Arrange(p, "layers", depth.stacked(3, 6)),
        {f"layers.{number}": f"layers.{number % 3}" for number in range(6)},
    ),
    "interlaced": (
        "mixer",
        lambda p: depth.Arrange(p, "layers", depth.interlaced(2, 4)),
        {f"layers.{number}": f"layers.{number // 2}" for number in range(4)},
    ),
    "beside": (
        "residual",
        lambda p: depth.AddBranch(p, "stage.0.conv2"),
        {"stage.0.conv2.0": "stage.0.conv2", "stage.0.conv2.1": "stage.0.conv2"},
    ),
    "residual copy": (
        "perceptron",
        lambda p: depth.Insert(p, "after 2", depth.ResidualCopy()),
        {"3.1": "2"},
    ),
}
POLICIES: dict[str, StatePolicy] = {
    "copied": ParentMoments(),
    "scaled": ParentMoments(gradient_factor=0.5),
    "mean": IncumbentMean(),
    "zeros": Zeros(),
    "reset": Reset(),
}


def trained(name: str, kind: str) -> tuple[nn.Module, Tensor, optim.Optimizer]:
    model, x = net(name).model(), net(name).x()
    optimizer = OPTIMIZERS[kind][0](model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model, x, optimizer


def states(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The state of each parameter that has some, by its name; copies."""
    return {
        name: {key: torch.as_tensor(value).clone() for key, value in optimizer.state[p].items()}
        for name, p in model.named_parameters()
        if p in optimizer.state
    }


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize(("kind", "policy"), [("adam", "scaled"), ("sgd", "copied")])
def test_state_of_copies(edit: str, kind: str, policy: str) -> None:
    """Every state of every parameter, by the path of the block that it was copied from."""
    check(edit, kind, policy)


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        ("sgd", "scaled"),
        ("rmsprop", "scaled"),
        ("adagrad", "scaled"),
        ("adam", "copied"),
        ("adam", "mean"),
        ("adam", "zeros"),
        ("adam", "reset"),
    ],
)
def test_other_optimizers_and_policies(kind: str, policy: str) -> None:
    check("copied", kind, policy)


def check(edit: str, kind: str, policy: str) -> None:
    name, make, sources = EDITS[edit]
    model, x, optimizer = trained(name, kind)
    axes = trace(model, x)
    old = {id(p) for p in model.parameters()}
    before = states(model, optimizer)
    Edit(axes, optimizer, state=POLICIES[policy]).depth(make(depth.places(axes))).commit()
    after = states(model, optimizer)
    powers = OPTIMIZERS[kind][1]
    assert policy != "reset" or not after
    compared = 0
    for path, parameter in model.named_parameters():
        block = next((b for b in sorted(sources, key=len, reverse=True) if path.startswith(f"{b}.")), None)
        if block is None or policy == "reset":
            continue
        newborn = id(parameter) not in old
        if newborn and policy == "zeros":
            assert path not in after
            continue
        wanted, found = before[sources[block] + path[len(block) :]], after[path]
        assert wanted.keys() == found.keys() == powers.keys()
        factor = 0.5 if newborn and policy == "scaled" else 1.0
        for key, power in powers.items():
            assert torch.equal(found[key], wanted[key] * factor**power), (path, key)
        compared += newborn
    assert compared or policy in ("zeros", "reset")
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_what_a_factor_does_to_the_first_update(factor: float) -> None:
    """With momentum the first step of a copy without gradient is as long as the factor says; with Adam the factor
    cancels."""
    for kind, share in (("sgd", factor), ("adam", 1.0)):
        steps = []
        for policy in (ParentMoments(), ParentMoments(gradient_factor=factor)):
            model, x, optimizer = trained("residual", kind)
            axes = trace(model, x)
            edit = Edit(axes, optimizer, state=policy).depth(depth.duplicated(depth.places(axes), "stage.1"))
            edit.commit()
            weight, original = model.stage[2].conv1.weight, model.stage[1].conv1.weight
            seconds = optimizer.state[original].get("max_exp_avg_sq", torch.ones_like(weight))
            moved = seconds > 1e-8  # elsewhere Adam's epsilon counts
            value = weight.detach().clone()
            optimizer.zero_grad()
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
            steps.append((weight.detach() - value)[moved])
        assert steps[0].numel() > 10
        torch.testing.assert_close(steps[1], share * steps[0], rtol=1e-3, atol=0)


def test_the_integrator_says_so_to_the_controller() -> None:
    model, x, optimizer = trained("transformer", "adam")
    plasticity = meristem.Plasticity(
        model,
        optimizer,
        x,
        deepen=depth.Silent(),
        schedule=meristem.schedule.Every(1, deepen=1),
        integrate=ParentMoments(gradient_factor=0.25),
    )
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    before = {id(p): {k: v.clone() for k, v in optimizer.state[p].items()} for p in model.parameters()}
    assert plasticity.step(loss) is not None
    copied, original = model.layers[3].mlp[0].weight, model.layers[2].mlp[0].weight
    own = before[id(original)]
    assert torch.equal(optimizer.state[copied]["exp_avg"], own["exp_avg"] * 0.25)
    assert torch.equal(optimizer.state[copied]["exp_avg_sq"], own["exp_avg_sq"] * 0.25**2)
    assert torch.equal(optimizer.state[copied]["step"], own["step"])


def test_wrong_factors_are_refused() -> None:
    for factor in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="Zeros"):
            ParentMoments(gradient_factor=factor)
