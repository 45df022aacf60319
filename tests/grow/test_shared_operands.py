"""Methods that follow newborns to their readers, where these meet more than activation functions on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import meristem
from meristem.grow import METHODS, TINY, GradMax, VarianceTransfer
from meristem.signals import Activations, SecondMoment, UnitActivity, View
from meristem.signals.direct import Recording
from tests.grow.sites import commit, objective, planned
from tests.grow.test_gradmax import newborn_gradient


class DyT(nn.Module):
    """Zhu et al. 2025, arXiv 2503.10622."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x) * self.weight + self.bias


class Net(nn.Module):
    def __init__(self, between: Callable[[Net, Tensor, Tensor], Tensor], held: nn.Module | None = None) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(5, 6), nn.Linear(6, 3)
        self.number, self.held = nn.Parameter(torch.ones(())), held
        self.temperature, self.between = 1.0, between

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.between(self, self.into(x), x)) + 0 * self.number


class Cooled(Net):
    def __init__(self) -> None:
        super().__init__(lambda net, z, x: z)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.into(x) * self.temperature)) + 0 * self.number


KNOWN: dict[str, Callable[[], Net]] = {
    "DyT": lambda: Net(lambda net, z, x: F.gelu(net.held(z)), DyT(6)),
    "a learned factor": lambda: Net(lambda net, z, x: torch.tanh(net.number * z)),
    "a learned gate": lambda: Net(lambda net, z, x: net.number * torch.relu(z)),
    "a computed gate": lambda: Net(lambda net, z, x: torch.tanh(net.number) * torch.tanh(z)),
    "an annealed attribute": Cooled,
}


def changed(name: str) -> tuple[Net, Tensor, Tensor]:
    """A net with a batch of inputs and labels; it is traced before what it holds changes."""
    torch.manual_seed(0)
    model = KNOWN[name]().double()
    return model, torch.randn(24, 5, dtype=torch.float64), torch.randint(3, (24,))


class Later:
    """A loss at whose first evaluation, after the trace, what the model holds has changed."""

    def __init__(self, model: Net, x: Tensor, labels: Tensor) -> None:
        self.model, self.loss = model, objective(model, x, labels)

    def __call__(self) -> Tensor:
        with torch.no_grad():
            self.model.number.fill_(-3.0)
        self.model.temperature = -3.0
        return self.loss()


@pytest.mark.parametrize("name", KNOWN)
def test_the_gradient_that_gradmax_predicts_is_that_of_the_model_as_it_is(name: str) -> None:
    model, x, labels = changed(name)
    loss = Later(model, x, labels)
    axes, _, plan = planned(GradMax(), model, loss, x, "into", 2)
    fan_in, _ = newborn_gradient(axes, plan, loss)
    torch.testing.assert_close(fan_in, torch.tensor(plan.gains, dtype=torch.float64), rtol=1e-4, atol=1e-14)


@pytest.mark.parametrize("name", KNOWN)
def test_the_decrease_that_tiny_predicts_is_that_of_the_model_as_it_is(name: str) -> None:
    model, x, labels = changed(name)
    loss = Later(model, x, labels)
    axes, _, plan = planned(TINY(amplitude=1e-6), model, loss, x, "into", 2)
    before = float(loss().detach())
    commit(axes, plan)
    assert plan.births == 2
    assert before - float(loss().detach()) == pytest.approx(sum(plan.gains), rel=1e-3)


def test_gradmax_says_so_where_the_model_has_learnt_to_be_other_than_zero_at_zero() -> None:
    torch.manual_seed(0)
    model = Net(lambda net, z, x: torch.tanh(z + net.number - 1)).double()
    x, labels = torch.randn(24, 5, dtype=torch.float64), torch.randint(3, (24,))
    loss = objective(model, x, labels)
    exact = planned(GradMax(), model, loss, x, "into", 2)[-1]
    assert not exact.inexact

    def later() -> Tensor:
        nn.init.constant_(model.number, 1.5)
        return loss()

    axes, axis, plan = planned(GradMax(), model, later, x, "into", 2)
    assert plan.inexact == ("the activation function is 0.462 at 0",)
    assert "not 0 at 0" in (GradMax().undefined(axes, axis) or "")


def test_a_gate_that_is_shut_at_first_does_not_keep_gradmax_out() -> None:
    torch.manual_seed(0)
    model = Net(lambda net, z, x: (net.number - 1) * torch.relu(z)).double()
    x, labels = torch.randn(24, 5, dtype=torch.float64), torch.randint(3, (24,))
    _, _, plan = planned(GradMax(), model, objective(model, x, labels), x, "into", 2)
    assert plan.births == 0
    assert plan.note is not None


def defined(model: nn.Module, x: Tensor, name: str) -> set[str]:
    axes = meristem.trace(model, x)
    return {type(method).__name__ for method in METHODS if method.refused(axes, axes[name]) is None}


BROADCAST = (
    lambda net, z, x: torch.relu(z + x[:, :1]),
    lambda net, z, x: torch.relu(z + net.number * x.mean(1, keepdim=True)),
)


@pytest.mark.parametrize("between", BROADCAST)
def test_where_newborns_would_not_be_zero_only_methods_that_need_not_know_are_defined(
    between: Callable[[Net, Tensor, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model, x = Net(between), torch.randn(8, 5)
    axes = meristem.trace(model, x)
    plain = meristem.trace(plain_model := Net(lambda net, z, x: torch.relu(z)), x)
    every = {type(method).__name__ for method in METHODS if method.refused(plain, plain["into"]) is None}
    assert plain_model is not None
    assert every - defined(model, x, "into") == {"GradMax", "NorthSelect", "SENN", "TINY"}
    for statistic in (Activations("into"), SecondMoment("into"), UnitActivity("into")):
        assert statistic.undefined(axes, axes["into"]) is None


@pytest.mark.parametrize("between", BROADCAST)
def test_variance_transfer_rescales_nothing_where_that_would_change_the_function(
    between: Callable[[Net, Tensor, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model, x = Net(between).double(), torch.randn(8, 5, dtype=torch.float64)
    axes = meristem.trace(model, x)
    before = model(x).detach()
    commit(axes, VarianceTransfer().propose(View(axes), axes["into"], 4))
    torch.testing.assert_close(model(x).detach(), before, rtol=0, atol=1e-12)


LATE = {
    "behind an activation function": [nn.ReLU(), nn.BatchNorm1d(6)],
    "twice": [nn.BatchNorm1d(6), nn.BatchNorm1d(6), nn.ReLU()],
}


@pytest.mark.parametrize("place", LATE)
def test_tiny_is_refused_where_batch_normalization_is_given_something_else_than_pre_activations(place: str) -> None:
    x = torch.randn(8, 5)
    found = defined(nn.Sequential(nn.Linear(5, 6), *LATE[place], nn.Linear(6, 3)), x, "0")
    first = defined(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)), x, "0")
    assert first - found == {"TINY"}


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("kernels", [(4, 2), (3, 4), (2, 3)])
def test_same_padding_with_even_kernels(kernels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    first, second = (nn.Conv2d(a, b, k, padding="same") for a, b, k in zip((2, 4), (4, 3), kernels, strict=True))
    model = nn.Sequential(first, nn.Tanh(), second, nn.Flatten(), nn.Linear(3 * 20, 3)).double()
    x, labels = torch.randn(24, 2, 5, 4, dtype=torch.float64), torch.randint(3, (24,))
    loss = objective(model, x, labels)
    for name in ("0", "2"):
        axes, _, plan = planned(TINY(amplitude=1e-6), model, loss, x, name, 2)
        before = float(loss().detach())
        commit(axes, plan)
        assert before - float(loss().detach()) == pytest.approx(sum(plan.gains), rel=1e-3)
    axes, axis, _ = planned(GradMax(), model, loss, x, "0", 2)
    recorder = Recording(axes, [UnitActivity("0")])
    recorder.closing()
    loss().backward()
    assert recorder.finish()[UnitActivity("0")].frequency.shape == (axis.size,)
