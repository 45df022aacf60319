"""Scores against brute force: numerical derivatives, loops, and numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import meristem
from meristem.axes import Role, units_along
from meristem.errors import ConfigError, SignalError
from meristem.prune import (
    FPGM,
    SNIP,
    ActivationVariance,
    APoZ,
    BatchNormScale,
    Dormancy,
    GradientDormancy,
    GraSP,
    GroupNorm,
    Magnitude,
    NormProduct,
    Taylor,
    TaylorWeights,
    WandaUnits,
)
from meristem.signals import View
from meristem.signals.direct import Recording
from tests.prune.table import EVERY, NETS, Case, cached, scores_of, seen


def scaled(case: Case, unit: int, factor: float, *roles: Role) -> Case:
    """A copy in which all slices of a unit with these roles are multiplied."""
    work = case.copied()
    with torch.no_grad():
        for place in work.axes.places[work.axis.index]:
            if place.layout.buffer or not place.roles & set(roles):
                continue
            units = units_along(place.layout.dims[place.dim], work.axis.index, work.axes.sizes)
            work.model.get_parameter(place.layout.name).movedim(place.dim, 0)[units == unit] *= factor
    return work


def masked(case: Case, unit: int) -> dict[str, torch.Tensor]:
    """For each parameter which entries belong to a unit."""
    found = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in case.model.named_parameters()}
    for place in case.axes.places[case.axis.index]:
        if not place.layout.buffer:
            units = units_along(place.layout.dims[place.dim], case.axis.index, case.axes.sizes)
            found[place.layout.name].movedim(place.dim, 0)[units == unit] = True
    return found


def gradients(case: Case) -> dict[str, torch.Tensor]:
    work = case.copied()
    work.loss().backward()
    return {name: p.grad for name, p in work.model.named_parameters() if p.grad is not None}


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("net", [net for net in NETS if Taylor().undefined(cached(net).axes, cached(net).axis) is None])
def test_taylor_squared_is_the_squared_derivative_of_the_gate(net):
    """The gate multiplies what all readers read, so it may as well multiply their weights; central differences."""
    case, e = cached(net), 1e-5
    for unit in range(case.axis.size):
        up, down = (float(scaled(case, unit, 1 + s * e, Role.READS).loss().detach()) for s in (1, -1))
        derivative = (up - down) / (2 * e)
        assert float(scores_of(net, "Taylor")[unit]) ** 2 == pytest.approx(derivative**2, rel=1e-5, abs=1e-14)


def test_the_gate_of_a_module_is_the_gate_of_its_readers():
    """A real gate behind the activation function, on maps: positions are summed inside of the square."""
    case = cached("same, relu")
    gate = torch.ones(case.axis.size, dtype=torch.float64, requires_grad=True)
    work = case.copied()
    work.model[1].register_forward_hook(lambda module, args, out: out * gate[None, :, None, None])
    work.loss().backward()
    torch.testing.assert_close(scores_of("same, relu", "Taylor"), gate.grad.abs())


def test_taylor_is_the_root_of_the_mean_square_over_steps():
    case = cached("linear, tanh")
    work = case.copied()
    recording = Recording(work.axes, Taylor().needs(work.axes, work.axis))
    for part in (slice(0, 5), slice(5, 12)):
        (work.model(work.args[0][part]) - work.target[part]).square().mean().backward()
        recording.stepped()
    together = Taylor().scores(View(work.axes, signals=recording.finish()), work.axis)
    squares = []
    for part in (slice(0, 5), slice(5, 12)):
        half = Case(work.model, (work.args[0][part],), work.target[part], work.axes, work.name)
        squares.append(Taylor().scores(seen(half, Taylor()), half.axis).square())
    torch.testing.assert_close(together, torch.stack(squares).mean(0).sqrt())


@pytest.mark.parametrize("net", NETS)
def test_taylor_on_weights_and_snip_are_loops_over_the_unit(net):
    case = cached(net)
    g, parameters = gradients(case), dict(case.model.named_parameters())
    for unit in range(case.axis.size):
        mask = masked(case, unit)
        entries = torch.cat([(g[n] * parameters[n]).detach()[mask[n]] for n in g])
        assert float(scores_of(net, "TaylorWeights")[unit]) == pytest.approx(float(entries.norm()))
        assert float(scores_of(net, "SNIP")[unit]) == pytest.approx(float(entries.abs().sum()))


@pytest.mark.parametrize(
    "net", ["linear, tanh", "same, tanh", "stream, tanh", "heads", "head size", "layer norm stream"]
)
def test_grasp_is_what_the_squared_gradient_answers(net):
    """Half the derivative of the squared norm of all gradients in a factor on everything of the unit."""
    case, e = cached(net), 1e-5

    def flow(factor: float, unit: int) -> float:
        work = case.copied()
        with torch.no_grad():
            for name, mask in masked(case, unit).items():
                work.model.get_parameter(name)[mask] *= factor
        return float(sum(g.square().sum() for g in gradients(work).values()))

    scores = scores_of(net, "GraSP")
    for unit in range(case.axis.size):
        numerical = (flow(1 + e, unit) - flow(1 - e, unit)) / (4 * e)
        assert float(scores[unit]) == pytest.approx(numerical, rel=1e-5, abs=1e-9)


def test_grasp_leaves_no_trace_and_needs_a_closure():
    case = cached("batch norm")
    before = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    state = torch.get_rng_state()
    GraSP().scores(View(case.axes, closure=case.loss), case.axis)
    assert all(torch.equal(before[name], tensor) for name, tensor in case.model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ConfigError, match="closure"):
        GraSP().scores(View(case.axes), case.axis)
    with pytest.raises(ConfigError, match="second derivative"):
        GraSP().scores(View(case.axes, closure=lambda: case.model.get_parameter("0.weight").sum()), case.axis)


# ------------------------------------------------------------------ weights


@pytest.mark.parametrize(
    "net", ["same, relu", "stream, relu", "heads", "swiglu, chunked", "within groups", "transposed, relu"]
)
def test_fpgm_is_a_double_loop(net):
    case = cached(net)
    producing = {p.layout.name for p in case.axes.places[case.axis.index]
                 if Role.PRODUCES in p.roles and not p.layout.buffer}  # fmt: skip
    units = []
    for unit in range(case.axis.size):
        mask = masked(case, unit)
        weights = dict(case.model.named_parameters())
        units.append(torch.cat([weights[n].detach()[mask[n]] for n in sorted(producing)]))
    if net == "stream, relu":  # its readers' columns are in no producer
        assert all(len(unit) == 5 + 4 for unit in units)
    expected = [sum(float((a - b).norm()) for b in units) for a in units]
    assert scores_of(net, "FPGM").tolist() == pytest.approx(expected, rel=1e-12)


def test_fpgm_mixed_with_norms_removes_the_smallest_first():
    model = nn.Sequential(nn.Linear(1, 5, bias=False), nn.ReLU(), nn.Linear(5, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0], [-0.1], [5.0], [0.2], [4.5]]))
    axes = meristem.trace(model, torch.zeros(2, 1, dtype=torch.float64))
    scores = FPGM(norm=0.6).scores(View(axes), axes["0"])
    assert scores[[0, 2, 4]].tolist() == pytest.approx([2 + 1.5, 2 + 0.5, 1.5 + 0.5])
    assert scores.argsort().tolist()[:2] == [1, 3]
    with pytest.raises(ConfigError, match="norm"):
        FPGM(norm=0.0)


def test_group_norm_counts_producers_readers_and_scales_but_no_biases():
    case = cached("batch norm")  # 0: convolution, 1: batch normalization, 4: the next convolution
    net = case.model
    slices = [net[0].weight.flatten(1), net[1].weight[:, None], net[4].weight.transpose(0, 1).flatten(1)]
    mean = torch.stack([s.detach().square().sum(1) for s in slices]).mean(0)
    torch.testing.assert_close(scores_of("batch norm", "GroupNorm"), mean / mean.mean())


def test_batch_norm_scale_is_the_scale():
    case = cached("batch norm")
    torch.testing.assert_close(scores_of("batch norm", "BatchNormScale"), case.model[1].weight.detach().abs())
    assert BatchNormScale().comparable


INVARIANT = ("APoZ", "NormProduct", "SNIP", "Taylor", "TaylorWeights", "WandaUnits")
MOVED = ("ActivationVariance", "Dormancy", "FPGM", "GradientDormancy", "GroupNorm", "Magnitude")


@pytest.mark.parametrize("name", INVARIANT + MOVED)
def test_positive_rescaling_behind_relu(name):
    """Fan-in and bias times c, fan-out divided by c: the same function. Who is invariant is documented."""
    case, criterion = cached("same, relu"), EVERY[name]
    other = scaled(case, 0, 7.0, Role.PRODUCES, Role.CARRIES)
    other = scaled(other, 0, 1 / 7.0, Role.READS)
    torch.testing.assert_close(other.loss(), case.loss())
    scores, before = criterion.scores(seen(other, criterion), other.axis), scores_of("same, relu", name)
    assert torch.allclose(scores, before, rtol=1e-9) == (name in INVARIANT)


# ------------------------------------------------------------------ activations


def by_hand() -> tuple[nn.Sequential, meristem.axes.AxisMap, torch.Tensor]:
    """Three units that are x0, x1 and -x0 before ReLU; the reader is the identity on them."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        model[2].weight.copy_(torch.diag(torch.tensor([2.0, 1.0, -4.0])))
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0], [-2.0, 0.0], [0.0, -6.0]], dtype=torch.float64)
    return model, meristem.trace(model, x), x


HAND = {
    APoZ(): [2 / 4, 1 / 4, 1 / 4],  # h = (1 2 0), (3 0 0), (0 0 2), (0 0 0)
    Dormancy(): [12 / 8, 6 / 8, 6 / 8],  # means 1, 1/2, 1/2
    ActivationVariance(): [10 / 4 - 1, 1 - 1 / 4, 1 - 1 / 4],
    GradientDormancy(): [6 / 7, 3 / 7, 12 / 7],  # every sample's gradient is the row sum 2, 1, -4, over 4
    WandaUnits(): [2 * 2.5**0.5, 1.0, 4.0],
}


@pytest.mark.parametrize("criterion", HAND, ids=lambda c: type(c).__name__)
def test_activations_by_hand(criterion):
    model, axes, x = by_hand()
    recording = Recording(axes, criterion.needs(axes, axes["0"]))
    model(x).sum(1).mean().backward()
    scores = criterion.scores(View(axes, signals=recording.finish()), axes["0"])
    assert scores.tolist() == pytest.approx(HAND[criterion], rel=1e-12)


@pytest.mark.parametrize("net", ["flattened, relu", "two readers, relu", "heads", "layer norm stream"])
def test_wanda_is_a_loop_over_what_modules_read(net):
    case = cached(net)
    work, total = case.copied(), torch.zeros(case.axis.size, dtype=torch.float64)
    read: dict[str, torch.Tensor] = {}
    for name, module in work.model.named_modules():
        module.register_forward_pre_hook(lambda m, args, n=name: read.update({f"{n}.weight": args[0].detach()}))
    work.loss()
    for place in case.axes.places[case.axis.index]:
        if Role.READS in place.roles:
            weight = case.model.get_parameter(place.layout.name).detach()
            x = read[place.layout.name]
            x = x.transpose(0, 1).flatten(1) if weight.dim() > 2 else x.flatten(0, -2).T
            units = units_along(place.layout.dims[place.dim], case.axis.index, case.axes.sizes)
            for column, unit in enumerate(units.tolist()):
                total[unit] += weight[:, column].abs().sum() * x[column].square().mean().sqrt()
    torch.testing.assert_close(scores_of(net, "WandaUnits"), total)


# ------------------------------------------------------------------ worth


def test_taylor_ranks_like_brute_force_removal():
    """On a net that has learned something and is not done: rank correlation with what the loss really changes by."""
    torch.manual_seed(0)
    x = torch.randn(256, 8, dtype=torch.float64)
    y = torch.sin(x[:, :3]).sum(1, keepdim=True) + x[:, 3:4] * x[:, 4:5]
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 1)).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    axes = meristem.trace(model, x)
    case = Case(model, (x,), y, axes, "0")
    base = float(case.loss().detach())
    removal = torch.tensor([abs(float(scaled(case, u, 0.0, Role.READS).loss().detach()) - base) for u in range(24)])
    for criterion in (Taylor(), TaylorWeights()):
        scores = criterion.scores(seen(case, criterion), case.axis)
        assert spearman(scores, removal) > 0.7, criterion
    assert spearman(Taylor().scores(seen(case, Taylor()), case.axis), removal) > spearman(
        Magnitude().scores(View(axes), axes["0"]), removal
    )


def spearman(a: torch.Tensor, b: torch.Tensor) -> float:
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


# ------------------------------------------------------------------ faults


def test_frozen_weights_are_refused():
    case = cached("linear, relu").copied()
    case.model.get_parameter("2.weight").requires_grad_(False)
    for criterion in (Taylor(), TaylorWeights(), SNIP(), GraSP()):
        assert "requires_grad=False" in (criterion.undefined(case.axes, case.axis) or "")


def test_an_axis_that_no_weight_reads_has_no_gate():
    case = cached("head size")
    axes = meristem.trace(row_model := NETS["value size"][0](), NETS["value size"][1](2))
    assert "no gate" in (Taylor().undefined(axes, axes["query#2"]) or "")
    assert TaylorWeights().undefined(axes, axes["query#2"]) is None
    assert row_model is axes.model
    assert "TaylorWeights needs none" in (Taylor().undefined(case.axes, case.axis) or "")


@pytest.mark.parametrize(
    "make", [lambda: GroupNorm(3), lambda: TaylorWeights(roles=()), lambda: TaylorWeights(roles=("reads",))]
)
def test_settings_are_checked(make):
    with pytest.raises(ConfigError):
        make()


def test_what_was_not_recorded_cannot_be_scored():
    case = cached("linear, relu")
    for criterion in (Taylor(), APoZ(), NormProduct()):
        if criterion.needs(case.axes, case.axis):
            with pytest.raises(SignalError, match="was not recorded"):
                criterion.scores(View(case.axes), case.axis)
