"""SENN: what newborns are predicted to add is what they add to g^T F^-1 g of the grown model."""

import pytest
import torch
from torch import nn

import meristem
from meristem.errors import ConfigError
from meristem.grow import SENN
from meristem.schedule import OnGain
from meristem.schedule.gain import expansion_bar
from meristem.signals import Expansion, Recorder, View
from tests.grow.sites import SITES, STREAM, commit, make, objective, planned

EXACT = SENN(proposals=6, steps=3, ridge=1e-10)


def fisher_score(model, readers, loss, samples):
    """Sum over readers of g^T F^-1 g with blocks of KFC, from gradients and inputs as hooks see them."""
    seen = {name: [[], []] for name in readers}
    handles = []
    for name in readers:
        module = model.get_submodule(name)

        def forward(m, args, result, name=name):
            seen[name][0].append(args[0].detach())
            result.register_hook(lambda gradient: seen[name][1].append(gradient))

        handles.append(module.register_forward_hook(forward))
    loss().backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    total = 0.0
    for name, (inputs, gradients) in seen.items():
        module = model.get_submodule(name)
        a = torch.cat([patches(module, x) for x in inputs])
        g = torch.cat([d.reshape(-1, d.shape[-1]) if isinstance(module, nn.Linear) else d.movedim(1, -1).flatten(0, -2)
                       for d in reversed(gradients)])  # fmt: skip
        if module.bias is not None:
            a = torch.cat([a, torch.ones(len(a), 1)], 1)
        d = g.T @ a
        explained = d @ torch.linalg.pinv(a.T @ a, rtol=1e-10) @ d.T @ torch.linalg.pinv(g.T @ g, rtol=1e-10)
        total += len(a) / samples * float(torch.trace(explained))
    return total


def patches(module, x):
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    found = nn.functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
    return found.transpose(1, 2).flatten(0, 1)


READERS = {
    "linear": ["2"], "tokens": ["2"], "same": ["2"], "strided": ["2"], "dilated": ["2"], "pointwise": ["2"],
    "flattened": ["3"], "pooled": ["3"], "averaged": ["4"], "two readers": ["left", "right"],
}  # fmt: skip


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()], ids=["relu", "tanh"])
@pytest.mark.parametrize("site", READERS)
def test_newborns_raise_the_score_of_the_grown_model_as_predicted(site, activation):
    model, x, labels, name = make(SITES[site], activation, 400)
    loss = objective(model, x, labels)
    before, readers = model(x).detach(), READERS[site]
    samples = len(x) * (3 if site == "tokens" else 1)
    score = fisher_score(model, readers, loss, samples)
    axes, _, plan = planned(EXACT, model, loss, x, name, 2)
    assert plan.births == 2
    assert not plan.inexact
    commit(axes, plan)
    assert (model(x) - before).abs().max() < 1e-12
    grown = fisher_score(model, readers, loss, samples)
    assert plan.gains[0] >= plan.gains[1] > 0
    if plan.gains[0] > plan.gains[1] * (1 + 1e-12):  # increments that rise are promised at the smaller one's value
        assert 2 * sum(plan.gains) == pytest.approx(grown - score, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("site", SITES)
def test_nobody_notices_newborns(site):
    model, x, labels, name = make(SITES[site], nn.ReLU())
    before = model(x).detach()
    axes, _, plan = planned(SENN(8, 2), model, objective(model, x, labels), x, name, 2)
    assert plan.births or plan.note
    if plan.births:
        commit(axes, plan)
        assert (model(x) - before).abs().max() < 1e-12
    assert len(plan.gains) == plan.births


def recorded(method, model, loss, x, name):
    axes = meristem.trace(model, x)
    recorder = Recorder(axes, method.needs(axes, axes[name], 3))
    recorder.closing()
    loss().backward()
    model.zero_grad()
    return View(axes, signals=recorder.finish()), axes[name]


def sizes(model, name):
    """The norm of every unit's fan-in, biases counted."""
    module = model.get_submodule(name)
    return torch.cat([module.weight.detach().flatten(1), module.bias.detach()[:, None]], 1).norm(dim=1)


@pytest.mark.parametrize("steps", [0, 10, 100])
@pytest.mark.parametrize("site", ["linear", "pointwise", "same"])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()], ids=["relu", "tanh"])
def test_newborns_have_the_incumbents_size_however_long_it_is_sampled(site, activation, steps):
    model, x, labels, name = make(SITES[site], activation, 64)
    with torch.no_grad():
        for parameter in model.get_submodule(name).parameters():
            parameter *= 0.3  # of a size that the drawing of proposals cannot know
    norm = sizes(model, name).mean()
    axes, axis, plan = planned(SENN(20, steps), model, objective(model, x, labels), x, name, 3)
    assert plan.births
    commit(axes, plan)
    torch.testing.assert_close(sizes(model, name)[axis.size :], norm.expand(plan.births))


def test_gains_are_those_of_newborns_as_they_are_inserted():
    """Behind tanh, where the score depends on the size: predictions follow that of the incumbents."""
    found = []
    for size in (0.3, 3.0):
        model, x, labels, name = make(SITES["linear"], nn.Tanh(), 400)
        with torch.no_grad():
            for parameter in model.get_submodule(name).parameters():
                parameter *= size
        loss = objective(model, x, labels)
        score = fisher_score(model, READERS["linear"], loss, len(x))
        axes, _, plan = planned(EXACT, model, loss, x, name, 1)
        commit(axes, plan)
        grown = fisher_score(model, READERS["linear"], loss, len(x))
        assert 2 * plan.gains[0] == pytest.approx(grown - score, rel=1e-4)
        found.append(plan.gains[0])
    assert found[0] != pytest.approx(found[1], rel=0.1)


def test_sampling_finds_better_newborns_than_drawing():
    model, x, labels, name = make(SITES["same"], nn.ReLU(), 60)
    loss = objective(model, x, labels)
    gains = []
    for steps in (0, 40):
        method = SENN(10, steps)
        gains.append(float(method.gains(*recorded(method, model, loss, x, name), 3).sum()))
    assert gains[1] > 1.2 * gains[0]


def test_recording_leaves_the_gradients_of_the_step_alone():
    """The sampling takes gradients inside a backward pass."""
    model, x, labels, name = make(SITES["flattened"], nn.ReLU())
    loss = objective(model, x, labels)
    loss().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    axes = meristem.trace(model, x)
    recorder = Recorder(axes, [Expansion(name, 5, 3)])
    recorder.closing()
    loss().backward()
    recorder.finish()
    assert all(torch.equal(p.grad, q) for p, q in zip(model.parameters(), plain, strict=True))


def test_gains_and_scores_do_not_depend_on_the_scale_of_the_loss_and_the_rule_of_the_paper_can_be_had():
    model, x, labels, name = make(SITES["linear"], nn.Tanh(), 60)
    loss = objective(model, x, labels)
    found = []
    for scale in (1.0, 100.0):
        view, axis = recorded(SENN(10, 5), model, lambda scale=scale: scale * loss(), x, name)
        found.append((SENN(10, 5).gains(view, axis, 3), *SENN(10, 5).scores(view, axis)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-9)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)
    assert 1e4 * found[0][2] == pytest.approx(found[1][2], rel=1e-6)
    method = SENN(10, 5)
    rule = OnGain(
        method, relative=1.0, reference=lambda view, axis: expansion_bar(*method.scores(view, axis)), interval=5
    )
    wanted, _ = rule.wanted(view, [axis], rule.initial())
    gains = method.gains(view, axis, 16)
    eta, gradient = method.scores(view, axis)
    assert wanted[axis.name] == int(((gains / eta > 0.03) & (gains / gradient > 2.5e-3)).sum())


def test_the_gradient_is_that_of_each_sample():
    model, x, labels, name = make(SITES["linear"], nn.Tanh(), 12)
    view, axis = recorded(SENN(3, 0), model, objective(model, x, labels), x, name)
    h = model[:2](x).detach()
    squares = []
    for sample, label in zip(h, labels, strict=True):
        z = model[2](sample[None]).detach().requires_grad_()
        nn.functional.cross_entropy(model[3:](z), label[None]).backward()
        squares.append(float(z.grad.square().sum()))
    assert 2 * SENN(3, 0).scores(view, axis)[1] == pytest.approx(sum(squares) / len(squares), rel=1e-6)


def test_several_batches_are_one():
    model, x, labels, name = make(SITES["same"], nn.ReLU(), 40)
    axes = meristem.trace(model, x)
    results = []
    for parts in (1, 2):
        recorder = Recorder(axes, [Expansion(name, 4, 0)])
        recorder.closing()
        for inputs, targets in zip(x.chunk(parts), labels.chunk(parts), strict=True):
            (objective(model, inputs, targets)() / parts).backward()
        (found,) = recorder.finish().values()
        results.append(found)
    one, two = results
    torch.testing.assert_close(one.readers[0].inputs, two.readers[0].inputs)
    torch.testing.assert_close(one.readers[0].cross, two.readers[0].cross)
    torch.testing.assert_close(one.mean, two.mean)
    assert one.gradient == pytest.approx(two.gradient)


@pytest.mark.parametrize("training", [True, False])
def test_behind_batch_norm(training):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).double()
    x, labels = torch.randn(80, 9).double(), torch.randint(3, (80,))
    loss = objective(model, x, labels)
    axes, _, plan = planned(SENN(10, 5), model, loss, x, "0", 2)
    before = model.train(training)(x).detach()
    commit(axes, plan)
    assert (model(x) - before).abs().max() < 1e-12
    ungrown = float(nn.functional.cross_entropy(before, labels))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss()) < ungrown


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_models(dtype):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype), torch.randn(50, 9).to(dtype)
    labels = torch.randint(3, (50,))
    axes, _, plan = planned(SENN(5, 3), model, lambda: nn.functional.cross_entropy(model(x).float(), labels), x, "0", 2)
    commit(axes, plan)
    assert model[0].weight.isfinite().all()
    assert all(gain > 0 for gain in plan.gains)


@pytest.mark.parametrize("kind", ["one sample", "constant inputs", "twins", "no gradient"])
def test_degenerate_data(kind):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3)).double(), torch.randn(50, 9).double()
    scale = 1.0
    if kind == "one sample":
        x = x[:1]
    elif kind == "constant inputs":
        x = x[:1].repeat(50, 1)
    elif kind == "twins":
        model[0].weight.data[1], model[0].bias.data[1] = model[0].weight.data[0], model[0].bias.data[0]
    else:
        scale = 0.0
    axes, _, plan = planned(SENN(6, 3), model, lambda: scale * model(x).square().mean(), x, "0", 3)
    assert plan.births == 3 or plan.note
    if kind == "no gradient":
        assert (plan.births, plan.note) == (0, "0: 0 of 3; the other proposals add nothing")
    else:
        commit(axes, plan)
        assert model[0].weight.isfinite().all()


def test_more_than_there_are_proposals():
    model, x, labels, name = make(SITES["same"], nn.ReLU(), 60)
    _, _, plan = planned(SENN(2, 1), model, objective(model, x, labels), x, name, 5)
    assert (plan.births, plan.note) == (2, f"{name}: 2 of 5; there are no more proposals")


def test_where_it_is_not_defined():
    model, x, _, name = make(STREAM, nn.ReLU())
    axes = meristem.trace(model, x)
    assert SENN().undefined(axes, axes[name]) == "2 weights add into one activation"


@pytest.mark.parametrize("settings", [{"proposals": 0}, {"steps": -1}, {"temperature": 0.0}, {"ridge": 0.0}])
def test_settings_are_checked(settings):
    with pytest.raises(ConfigError):
        SENN(**settings)
