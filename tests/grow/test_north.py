"""NORTH*: newborns that nobody notices and whose activations are unlike those of the incumbents."""

import copy

import pytest
import torch
from torch import nn

import meristem
from meristem.errors import ConfigError, SignalError
from meristem.grow import NorthOpt, NorthPre, NorthSelect
from meristem.grow.north_opt import step
from meristem.grow.parts.north import unit
from meristem.signals import Activations, Proposals, Recorder, View
from tests.grow.sites import SITES, STREAM, commit, make, objective, planned

METHODS = {"select": NorthSelect(40), "pre": NorthPre(), "opt": NorthOpt()}


def rows(tensor):
    """(samples * positions, channels) of linear or convolutional results."""
    return (
        tensor.detach().reshape(-1, tensor.shape[-1])
        if tensor.dim() < 3
        else tensor.detach().movedim(1, -1).flatten(0, -2)
    )


def produced(model, name, x):
    """The pre-activations of an axis, one row per sample and position; of the last call of the module."""
    seen = []
    module = model.get_submodule(name)
    handle = module.register_forward_hook(lambda m, a, result: seen.append(result))
    with torch.no_grad():
        model(x)
    handle.remove()
    result = torch.cat([s.detach() for s in seen])
    return result.reshape(-1, result.shape[-1]) if isinstance(module, nn.Linear) else rows(result)


def fan_in(model, name):
    """Fan-in with biases, one row per unit."""
    module = model.get_submodule(name)
    dim = 1 if isinstance(module, nn.ConvTranspose2d) else 0
    return torch.cat([module.weight.detach().movedim(dim, 0).flatten(1), module.bias.detach()[:, None]], 1)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()], ids=["relu", "tanh"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("method", METHODS)
def test_nobody_notices_newborns_of_the_incumbents_size(method, site, activation):
    model, x, labels, name = make(SITES[site], activation)
    before, norm = model(x).detach(), fan_in(model, name).norm(dim=1).mean()
    axes, axis, plan = planned(METHODS[method], model, objective(model, x, labels), x, name, 1)
    if not plan.births:
        assert plan.note
        return
    assert not plan.inexact
    commit(axes, plan)
    assert (model(x) - before).abs().max() < 1e-12
    torch.testing.assert_close(fan_in(model, name)[axis.size :].norm(dim=1), norm[None])


@pytest.mark.parametrize("site", ["linear", "same", "strided", "transposed", "flattened"])
def test_pre_activations_are_uncorrelated_with_old_ones(site):
    model, x, labels, name = make(SITES[site], nn.ReLU())
    axes, axis, plan = planned(NorthPre(), model, objective(model, x, labels), x, name, 100)
    assert plan.births
    assert plan.births < 100
    assert f"{plan.births} of 100" in (plan.note or "")
    commit(axes, plan)
    z = produced(model, name, x)
    old, new = z[:, : axis.size], z[:, axis.size :]
    for shift in (0.0, 1.0):
        one, two = (t - shift * t.mean(0) for t in (old, new))
        cosine = (one.T @ two) / (one.norm(dim=0)[:, None] * two.norm(dim=0))
        assert cosine.abs().max() < 1e-6
    among = torch.corrcoef(new.T) if plan.births > 1 else torch.ones(1, 1)
    assert (among - torch.eye(plan.births)).abs().max() < 1e-6


def test_as_many_are_given_as_the_rank_leaves():
    """Inputs of rank 3 (and the constant), 2 incumbents: 3 + 1 - 2 - the constant = 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 3)).double()
    x = torch.randn(50, 3).double() @ torch.randn(3, 6).double()
    loss = objective(model, x, torch.randint(3, (50,)))
    _, _, plan = planned(NorthPre(), model, loss, x, "0", 4)
    assert (plan.births, plan.note) == (
        1, "0: 1 of 4; the incumbents leave no more directions of what 0.weight reads"
    )  # fmt: skip


def test_without_room_the_plan_is_none_and_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    x = torch.randn(50, 4).double()
    _, axis, plan = planned(NorthPre(), model, objective(model, x, torch.randint(3, (50,))), x, "0", 4)
    assert plan.births == 0
    assert "0 of 4" in (plan.note or "")
    assert len(plan.gather) == axis.size


def singular_values(z):
    """Their sum, of pre-activations and the constant at unit size."""
    return float(torch.linalg.svdvals(unit(torch.cat([torch.ones_like(z[:, :1]), z], 1).T)).sum())


@pytest.mark.parametrize("site", ["linear", "same", "transposed"])
def test_opt_beats_random_newborns_in_what_it_maximises(site):
    model, x, labels, name = make(SITES[site], nn.ReLU())
    old, z = fan_in(model, name), produced(model, name, x)
    count = 3
    axes, axis, plan = planned(NorthOpt(), model, objective(model, x, labels), x, name, count)
    module = model.get_submodule(name)
    fresh = copy.deepcopy(module)
    dim = 1 if site == "transposed" else 0
    shape = [2000 if at == dim else size for at, size in enumerate(module.weight.shape)]
    fresh.weight, fresh.bias = nn.Parameter(torch.randn(shape).double()), nn.Parameter(torch.randn(2000).double())
    candidates = fan_in(nn.Sequential(fresh), "0")
    seen = []
    handle = module.register_forward_hook(lambda m, a, r: seen.append(a[0]))
    model(x)
    handle.remove()
    f = rows(fresh(seen[0])) * (old.norm(dim=1).mean() / candidates.norm(dim=1))

    def total(new):
        return singular_values(torch.cat([z, new], 1))

    best = max(total(f[:, torch.randperm(2000)[:count]]) for _ in range(300))
    commit(axes, plan)
    assert total(produced(model, name, x)[:, axis.size :]) > best


def test_no_step_of_opt_lowers_what_it_maximises():
    model, x, labels, name = make(SITES["same"], nn.ReLU())
    totals = []
    for steps in range(6):
        axes, _, plan = planned(NorthOpt(steps), model, objective(model, x, labels), x, name, 3)
        with meristem.edit.trial(axes, [meristem.edit.Change(axes[name], plan.gather, plan.start)]):
            totals.append(singular_values(produced(model, name, x)))
    assert totals == sorted(totals)
    assert totals[-1] > totals[0]


@pytest.mark.parametrize("taken", [4, 12])
def test_a_step_of_opt_follows_the_gradient(taken):
    """With fewer rows than there are directions, and with more; one row is zero."""
    generator = torch.Generator().manual_seed(0)
    old, new = (unit(torch.randn(n, 9, dtype=torch.float64, generator=generator)) for n in (taken, 3))
    old[1] = 0
    new.requires_grad_()
    torch.linalg.svdvals(torch.cat([old, new])).sum().backward()
    torch.testing.assert_close(step(old, new.detach()), unit(new.grad))


def cosines(h, incumbents):
    """Mean absolute cosine of newborns with incumbents, and among newborns."""
    found = (unit(h.T) @ unit(h.T).T).abs()
    new = found[incumbents:, incumbents:]
    others = ~torch.eye(len(new), dtype=torch.bool)
    return float(found[incumbents:, :incumbents].mean()), float(new[others].mean())


def classifier(inputs, activation=nn.ReLU):
    """Two hidden layers, trained a little: the second reads what a ReLU gives, or what is centred."""
    torch.manual_seed(0)
    x, labels = torch.rand(256, 40).double(), torch.randint(5, (256,))
    first = nn.ReLU() if inputs == "non-negative" else nn.BatchNorm1d(60, affine=False)
    model = nn.Sequential(nn.Linear(40, 60), first, nn.Linear(60, 16), activation(), nn.Linear(16, 5)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model, x, labels


def drawn(model, x, count):
    """Pre-activations and activations with random newborns, of the incumbents' mean norm."""
    inputs, old = model[:2](x).detach(), fan_in(model, "2")
    new = torch.randn(count, old.shape[1], dtype=torch.float64)
    new *= old.norm(dim=1).mean() / new.norm(dim=1, keepdim=True)
    z = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1) @ torch.cat([old, new]).T
    return z, model[3](z)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("inputs", ["non-negative", "centred"])
@pytest.mark.parametrize("method", ["opt", "select"])
def test_newborns_are_less_like_incumbents_and_each_other_than_random_ones(method, inputs, activation):
    model, x, labels = classifier(inputs, activation)
    random = [[cosines(h, 16) for h in drawn(model, x, 8)] for _ in range(20)]
    expected = torch.tensor(random).mean(0)
    chosen = {"opt": NorthOpt(), "select": NorthSelect()}[method]
    axes, axis, plan = planned(chosen, model, objective(model, x, labels), x, "2", 8)
    assert (axis.size, plan.births) == (16, 8)
    commit(axes, plan)
    z = produced(model, "2", x)
    for kind, h in enumerate((z, model[3](z).detach())):
        found = torch.tensor(cosines(h, 16))
        if kind == 0 or method == "select" or activation is nn.Tanh:  # what Opt sees ends at pre-activations
            assert bool((found < expected[kind]).all()), (kind, found, expected[kind])
    assert float(z[:, 16:].square().mean()) <= float(z[:, :16].square().mean())
    on = (z[:, 16:] > 0).double().mean(0)
    assert bool(((on > 0.1) & (on < 0.9)).all()), on  # neither always off nor always on behind ReLU


@pytest.mark.parametrize("inputs", ["non-negative", "centred"])
def test_where_there_is_room_what_opt_gives_is_orthogonal(inputs):
    model, x, labels = classifier(inputs)
    axes, _, plan = planned(NorthOpt(), model, objective(model, x, labels), x, "2", 8)
    commit(axes, plan)
    z = produced(model, "2", x)
    for h in (z, z - z.mean(0)):
        assert max(cosines(h, 16)) < 0.02


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_a_decomposition_that_fails_says_what_to_do(method, which, monkeypatch):
    model, x, labels, name = make(SITES["linear"], nn.ReLU())
    calls = []

    def failing(decompose):
        def instead(*args, **options):
            calls.append(args)
            if len(calls) > which:
                raise torch.linalg.LinAlgError("did not converge")
            return decompose(*args, **options)

        return instead

    for name_of in ("eigh", "svd"):
        monkeypatch.setattr(torch.linalg, name_of, failing(getattr(torch.linalg, name_of)))
    with pytest.raises(SignalError, match=r"could not be decomposed \(did not converge\); nothing was edited"):
        planned(METHODS[method], model, objective(model, x, labels), x, name, 2)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15])
@pytest.mark.parametrize("method", METHODS)
def test_weights_and_inputs_of_any_finite_size(method, size):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3)).double(), torch.randn(20, 9).double()
    for parameter in model[0].parameters():
        parameter.data *= size
    axes, _, plan = planned(METHODS[method], model, lambda: model(x / max(size, 1)).square().mean(), x, "0", 3)
    commit(axes, plan)
    assert model[0].weight.isfinite().all()
    if size:
        norms = fan_in(model, "0").norm(dim=1)
        torch.testing.assert_close(norms[4:], norms[:4].mean().expand(plan.births))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()], ids=["relu", "tanh"])
def test_proposals_are_correlated_as_they_would_be_once_inserted(site, activation):
    """The Gram matrix of all candidates is that of the grown model's own activations."""
    model, x, labels, name = make(SITES[site], activation)
    axes = meristem.trace(model, x)
    recorder = Recorder(axes, [Proposals(name, 5)])
    recorder.closing()
    objective(model, x, labels)().backward()
    (found,) = recorder.finish().values()
    values = meristem.signals.entries(found.fan_in, found.incoming)
    grown = meristem.Edit(axes).grow(name, 5, meristem.edit.Explicit("all", values)).commit().axes
    recorder = Recorder(grown, [Activations(name)])
    recorder.closing()
    objective(model, x, labels)().backward()
    (gram,) = recorder.finish().values()
    torch.testing.assert_close(gram, found.gram)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layers", ["linear", "conv"])
def test_behind_batch_norm_newborns_are_silent_and_their_running_statistics_fit(method, layers):
    torch.manual_seed(0)
    if layers == "linear":
        model, x = nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(40, 9)
    else:
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 4), nn.Flatten())
        x = torch.randn(40, 2, 6, 6)
    model, x = model.double(), x.double()
    labels = torch.randint(3, (40,))
    axes, axis, plan = planned(METHODS[method], model, objective(model, x, labels), x, "0", 2)
    before = {mode: model.train(mode)(x).detach() for mode in (False, True)}
    norm = model[1]
    with torch.no_grad():
        running = norm.running_mean.clone()
    commit(axes, plan)
    z = produced(model.eval(), "0", x)[:, axis.size :]
    torch.testing.assert_close(model[1].running_mean[axis.size :], z.mean(0))
    torch.testing.assert_close(model[1].running_var[axis.size :], z.var(0, correction=0))
    torch.testing.assert_close(model[1].running_mean[: axis.size], running)
    assert (model.train()(x) - before[True]).abs().max() < 1e-12
    loss = objective(model, x, labels)
    ungrown = float(nn.functional.cross_entropy(before[True], labels))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss()) < ungrown


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_low_precision_models(method, dtype):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype), torch.randn(20, 9).to(dtype)
    loss = lambda: model(x).float().square().mean()  # noqa: E731
    axes, _, plan = planned(METHODS[method], model, loss, x, "0", 2)
    before = model(x)
    commit(axes, plan)
    assert model[0].weight.isfinite().all()
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("kind", ["one sample", "constant inputs", "twins"])
@pytest.mark.parametrize("method", METHODS)
def test_degenerate_data(method, kind):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3)).double(), torch.randn(20, 9).double()
    if kind == "one sample":
        x = x[:1]
    elif kind == "constant inputs":
        x = x[:1].repeat(20, 1)
    else:
        model[0].weight.data[1] = model[0].weight.data[0]
        model[0].bias.data[1] = model[0].bias.data[0]
    axes, axis, plan = planned(METHODS[method], model, lambda: model(x).square().mean(), x, "0", 3)
    assert plan.births == 3 or plan.note
    if plan.births:
        commit(axes, plan)
        assert model[0].weight.isfinite().all()
        assert float(model[0].weight[axis.size :].norm(dim=1).max()) < 10


def test_more_than_there_are_proposals():
    model, x, labels, name = make(SITES["same"], nn.ReLU())
    _, _, plan = planned(NorthSelect(3), model, objective(model, x, labels), x, name, 5)
    assert (plan.births, plan.note) == (3, f"{name}: 3 of 5; there are no more proposals")


def test_plans_are_functions_of_signals_and_generator():
    model, x, labels, name = make(SITES["same"], nn.ReLU())
    for method in METHODS.values():
        plans = [planned(method, model, objective(model, x, labels), x, name, 1)[2] for _ in range(2)]
        values = [plan.start.entries for plan in plans]
        assert all(torch.equal(values[0][place], values[1][place]) for place in values[0])


def test_where_it_is_not_defined():
    model, x, _, name = make(STREAM, nn.ReLU())
    axes = meristem.trace(model, x)
    for method in METHODS.values():
        assert method.undefined(axes, axes[name]) == "2 weights add into one activation"
        assert method.gains(View(axes), axes[name], 3) is None


@pytest.mark.parametrize(
    "make_bad",
    [
        lambda: NorthSelect(0),
        lambda: NorthSelect(cutoff=-1.0),
        lambda: NorthSelect(offset=0.0),
        lambda: NorthPre(0.0),
        lambda: NorthOpt(-1),
        lambda: NorthOpt(tolerance=1.0),
    ],
)
def test_settings_are_checked(make_bad):
    with pytest.raises(ConfigError):
        make_bad()
