"""Every method's update against a second way to compute it."""

import copy
import math
from itertools import combinations

import pytest
import torch
from torch import nn

from meristem.errors import ConfigError
from meristem.mask import (
    ERK,
    NM,
    SET,
    SNFS,
    SNIP,
    DeepR,
    GradualMagnitude,
    GraNet,
    GraSP,
    IterativeMagnitude,
    Magnitude,
    RigL,
    SignedMagnitude,
    Sparse,
    TopKAST,
    Uniform,
)
from meristem.mask.rewiring import cosine, cubic, exchanged
from tests.mask.models import batches, loss_of, mlp, train


class Run:
    """A net in training, with what it was right before its last step."""

    def __init__(self, method, kind=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), **settings):
        self.net = mlp()
        self.optimizer = kind(self.net.parameters())
        self.sparsity = Sparse(self.net, self.optimizer, method, **settings)

    def weight(self, name):
        return self.net.get_parameter(name).detach()

    def step(self, x):
        self.before = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        self.masks = {name: mask.clone() for name, mask in self.sparsity.masks.items()}
        loss_of(self.net, x).backward()
        self.gradients = {name: p.grad.clone() for name, p in self.net.named_parameters()}
        self.optimizer.step()
        self.optimizer.zero_grad()


def lowest(values, mask, count):
    """The indices of the smallest values within a mask, by sorting."""
    order = sorted(mask.flatten().nonzero().flatten().tolist(), key=lambda i: (values.flatten()[i].item(), i))
    return set(order[:count])


def indices(mask):
    return set(mask.flatten().nonzero().flatten().tolist())


# ------------------------------------------------------------------ RigL


def test_an_exchange_by_brute_force():
    """Over all sets of kept weights the one with the largest sum of magnitudes, and likewise for grown ones."""
    source = torch.Generator().manual_seed(0)
    drop, grow = torch.rand(3, 4, generator=source), torch.rand(3, 4, generator=source)
    mask = torch.zeros(12, dtype=torch.bool)
    mask[[0, 2, 3, 5, 8, 11]] = True
    found = exchanged(mask.view(3, 4), drop, grow, target=6, turnover=2)
    kept = max(combinations(indices(mask), 4), key=lambda s: sum(drop.flatten()[i].item() for i in s))
    rest = set(range(12)) - set(kept)
    grown = max(combinations(rest, 2), key=lambda s: sum(grow.flatten()[i].item() for i in s))
    assert indices(found) == {*kept, *grown}


def test_rigl():
    run = Run(RigL(density=0.3, end=8, interval=2, fraction=0.5, drop=Magnitude()))
    counts = run.sparsity.masks.nonzeros
    regrown = 0
    for step, x in enumerate(batches(12), start=1):
        run.step(x)
        if step % 2 or step >= 8:
            assert all(torch.equal(run.masks[name], run.sparsity.masks[name]) for name in run.masks)
            continue
        fraction = 0.5 / 2 * (1 + math.cos(math.pi * step / 8))
        assert all(torch.equal(run.before[f"{layer}.bias"], run.weight(f"{layer}.bias")) for layer in (0, 2, 4))
        for name, mask in run.masks.items():
            turnover = int(fraction * counts[name])
            dropped = lowest(run.before[name].abs(), mask, turnover)
            kept = indices(mask) - dropped
            candidates = torch.ones_like(mask)
            candidates.view(-1)[list(kept)] = False
            grown = lowest(-run.gradients[name].abs(), candidates, turnover)
            new = run.sparsity.masks[name]
            assert indices(new) == kept | grown
            assert torch.equal(run.weight(name), torch.where(new & mask, run.before[name], 0))  # no gradient step
            state = run.optimizer.state[run.net.get_parameter(name)]["momentum_buffer"]
            assert not state.flatten()[list(grown - dropped)].any()
            regrown += len(grown & dropped)
        assert run.sparsity.masks.nonzeros == counts
    assert regrown > 0  # just dropped weights are candidates, and keep their values


def test_growing_preserves_the_function():
    run = Run(RigL(density=0.3, end=99, interval=1, fraction=0.3, drop=Magnitude()))
    x = batches(1)[0]
    loss_of(run.net, x).backward()
    old = {name: mask.clone() for name, mask in run.sparsity.masks.items()}
    weights = {name: run.weight(name).clone() for name in old}
    run.optimizer.step()
    after = run.net(x)
    reference = mlp()
    reference.load_state_dict(run.net.state_dict())
    with torch.no_grad():
        for name, mask in old.items():  # only dropping
            reference.get_parameter(name).copy_(weights[name] * (mask & run.sparsity.masks[name]))
    assert torch.equal(reference(x), after)


def test_noise_decides_between_equal_weights_only():
    nets = []
    for noise in (0.0, 1e-5):
        run = Run(RigL(density=0.3, end=9, interval=1, drop=Magnitude(noise=noise)))
        with torch.no_grad():
            for name, mask in run.sparsity.masks.items():
                run.weight(name).copy_(mask * torch.linspace(0.1, 1, mask.numel()).view(mask.shape))
        run.step(batches(1)[0])
        nets.append(run.sparsity.masks)
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


@pytest.mark.parametrize("end", [7, 100])
def test_the_ends_of_schedules(end):
    assert cosine(0, end, 0.3) == 0.3
    assert cosine(end, end, 0.3) == 0.0
    assert cosine(2 * end, end, 0.3) == 0.0
    assert cosine(end, end, 0.5, 0.005) == 0.005
    assert cosine(end / 2, end, 0.3) == pytest.approx(0.15)
    assert cubic(3, 3, end, 1.0, 0.1) == 1.0
    assert cubic(end, 3, end, 1.0, 0.1) == pytest.approx(0.1)
    assert cubic(1, 3, end, 1.0, 0.1) == 1.0
    middle = cubic((3 + end) / 2, 3, end, 1.0, 0.1)
    assert 1 - middle == pytest.approx(0.9 + (0 - 0.9) * (1 - 0.5) ** 3)  # equation 1 in sparsities


# ------------------------------------------------------------------ SET, SNFS, DeepR


@pytest.mark.parametrize("signed", [False, True])
def test_set(signed):
    drop = SignedMagnitude() if signed else Magnitude()
    run = Run(SET(density=0.4, interval=3, fraction=0.25, drop=drop))
    counts = run.sparsity.masks.nonzeros
    x = batches(4)
    run.step(x[0])
    run.step(x[1])
    reference = mlp()  # the third step without the exchange
    reference.load_state_dict(run.net.state_dict())
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9)
    optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    run.step(x[2])
    loss_of(reference, x[2]).backward()
    for name, mask in run.masks.items():
        reference.get_parameter(name).grad.mul_(mask)
    optimizer.step()
    for name, mask in run.masks.items():
        weight, new, turnover = (
            reference.get_parameter(name).detach(),
            run.sparsity.masks[name],
            int(0.25 * counts[name]),
        )
        if signed:
            gone = mask & ~new
            for side in (weight > 0, weight < 0):
                size = int((side & mask).sum())
                there, out = weight.abs()[side & new & mask], weight.abs()[side & gone]
                assert len(out) <= 0.25 * size + 1
                assert not len(out) or out.min() <= there.max()
            continue
        dropped = lowest(weight.abs(), mask, turnover)
        assert indices(mask) - dropped <= indices(new)
        assert torch.equal(run.weight(name), torch.where(new & mask, weight, 0))
    assert run.sparsity.masks.nonzeros == counts
    assert any(bool((run.sparsity.masks[name] & ~mask).any()) for name, mask in run.masks.items())


@pytest.mark.parametrize("adam", [False, True])
def test_snfs(adam):
    kind = (lambda p: torch.optim.Adam(p, lr=0.01)) if adam else (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    method = SNFS(density=0.3, interval=2, end=8, fraction=0.5, last=0.1)
    run = Run(method, kind)
    start = run.sparsity.masks.nonzeros
    total, moved = sum(start.values()), 0
    for step, x in enumerate(batches(8), start=1):
        counts = run.sparsity.masks.nonzeros
        run.step(x)
        for name, mask in run.sparsity.masks.items():
            assert not run.weight(name)[~mask].any()
            momentum = run.optimizer.state[run.net.get_parameter(name)]
            key = "exp_avg" if adam else "momentum_buffer"
            assert mask.all() or momentum[key][~mask].any()  # it lives on
        assert sum(run.sparsity.masks.nonzeros.values()) == total
        if step % 2:
            continue
        fraction = 0.1 + 0.4 / 2 * (1 + math.cos(math.pi * step / 8))
        shares, freed, changes = {}, 0, {}
        for name, mask in run.masks.items():
            state = run.optimizer.state[run.net.get_parameter(name)]
            m = state["exp_avg"].abs() / (state["exp_avg_sq"].sqrt() + 1e-8) if adam else state["momentum_buffer"].abs()
            out = math.ceil(fraction * counts[name])
            new = run.sparsity.masks[name]
            shares[name], freed = m[mask].mean().item(), freed + out
            changes[name] = int(new.sum()) - counts[name] + out
            kept = counts[name] - out
            grown = new & ~mask
            if grown.any() and not (new | mask).all():  # the best of those that were not there before
                assert m[grown].min() >= m[~new & ~mask].max()
            assert int((new & mask).sum()) >= kept
            assert not run.weight(name)[grown].any()
        room = all(changes[n] < run.masks[n].numel() - counts[n] for n in changes)
        for name, share in shares.items():
            if room:
                assert abs(changes[name] - freed * share / sum(shares.values())) <= 1
        moved += counts != run.sparsity.masks.nonzeros
    assert moved


def test_snfs_needs_a_momentum():
    run = Run(SNFS(density=0.3, interval=1, end=9), lambda p: torch.optim.SGD(p, lr=0.1))
    with pytest.raises(ConfigError, match="momentum"):
        run.step(batches(1)[0])


def test_deep_r_is_sgd_on_theta():
    """The reference trains theta with fixed signs, as the paper writes it."""
    method = DeepR(density=0.4, penalty=0.01, noise=0.0)
    run = Run(method, lambda p: torch.optim.SGD(p, lr=0.5))
    signs = {name: sign.clone() for name, sign in run.sparsity._kept.memory["sign"].items()}
    counts, changes = run.sparsity.masks.nonzeros, 0
    for x in batches(15):
        run.step(x)
        for name, mask in run.masks.items():
            theta = signs[name] * run.before[name]
            theta = theta - 0.5 * (signs[name] * run.gradients[name] + 0.01)
            stay = mask & (theta >= 0)
            new = run.sparsity.masks[name]
            assert int(new.sum()) == counts[name]
            assert bool(new[stay].all())
            assert torch.allclose(run.weight(name)[stay], (signs[name] * theta)[stay], rtol=0, atol=1e-15)
            grown = new & ~stay
            assert torch.equal(run.weight(name)[grown], 1e-12 * signs[name][grown])
            assert torch.equal(signs[name], run.sparsity._kept.memory["sign"][name])
            changes += int(grown.sum())
    assert changes > 20


def test_deep_r_walks():
    run = Run(DeepR(density=1.0, penalty=0.0, noise=0.1), lambda p: torch.optim.SGD(p, lr=0.5))
    run.step(batches(1)[0])
    walked = torch.cat(
        [
            (run.weight(n) - run.before[n] + 0.5 * run.gradients[n])[run.masks[n] & (run.weight(n) != 0)]
            for n in run.masks
        ]
    )
    inner = walked[walked.abs() < 0.2]  # without those that were dropped and grown again
    assert inner.std().item() == pytest.approx(0.05, rel=0.15)


# ------------------------------------------------------------------ pruning while training


def test_gradual_magnitude_follows_its_schedule_and_never_takes_back():
    method = GradualMagnitude(density=0.1, begin=2, end=11, interval=3)
    run = Run(method)
    total = sum(mask.numel() for mask in run.sparsity.masks.values())
    gone = {name: torch.zeros_like(mask) for name, mask in run.sparsity.masks.items()}
    for step, x in enumerate(batches(13), start=1):
        run.step(x)
        t = min(max((step - 2) // 3 * 3, 0), 9)
        density = 1 - (0.9 + (0 - 0.9) * (1 - t / 9) ** 3)
        assert sum(run.sparsity.masks.nonzeros.values()) == round(density * total)
        for name, mask in run.sparsity.masks.items():
            assert not (mask & gone[name]).any()
            gone[name] |= ~mask
    kept = torch.cat([run.masks[n].flatten() for n in run.masks])
    assert int(kept.sum()) == round(0.1 * total)


def test_gradual_magnitude_drops_the_smallest_of_all_layers():
    run = Run(GradualMagnitude(density=0.3, end=1))
    run.step(batches(1)[0])
    reference = mlp()
    train(reference, torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9), batches(1))
    every = torch.cat([reference.get_parameter(name).detach().abs().flatten() for name in run.masks])
    least = every.topk(round(0.3 * len(every))).values.min()
    for name, mask in run.sparsity.masks.items():
        assert torch.equal(mask, reference.get_parameter(name).detach().abs() >= least)


def test_patterns_thin_out_group_by_group():
    run = Run(GradualMagnitude(density=0.5, end=2, interval=1, distribution=NM(m=4)))
    for x in batches(2):
        run.step(x)
    for mask in run.sparsity.masks.values():
        assert set(mask.unflatten(1, (-1, 4)).sum(-1).flatten().tolist()) == {2}


def test_iterative_magnitude_goes_back():
    method = IterativeMagnitude(interval=6, rewind=2, rounds=2, fraction=0.25)
    run = Run(method, lambda p: torch.optim.Adam(p, lr=0.05))
    total = sum(mask.numel() for mask in run.sparsity.masks.values())
    early, there = {}, total
    for step, x in enumerate(batches(16), start=1):
        run.step(x)
        if step == 2:
            early = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
        if step in (6, 10):
            assert run.sparsity.updated == run.sparsity.steps == step
            there = round(0.75 * there)
            assert sum(run.sparsity.masks.nonzeros.values()) == there
            for name, tensor in run.net.state_dict().items():
                mask = run.sparsity.masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
                assert torch.equal(tensor, early[name] * mask)
            assert not run.optimizer.state
    assert sum(run.sparsity.masks.nonzeros.values()) == there


def test_iterative_magnitude_drops_the_smallest_trained_weights():
    run = Run(IterativeMagnitude(interval=3, fraction=0.2, rounds=1))
    initial = {name: run.weight(name).clone() for name in run.sparsity.masks}
    reference = mlp()
    train(reference, torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9), batches(3))
    for x in batches(3):
        run.step(x)
    every = torch.cat([reference.get_parameter(name).detach().abs().flatten() for name in initial])
    least = every.topk(round(0.8 * len(every))).values.min()
    for name, mask in run.sparsity.masks.items():
        assert torch.equal(mask, reference.get_parameter(name).detach().abs() >= least)
        assert torch.equal(run.weight(name), initial[name] * mask)


def test_gra_net():
    method = GraNet(density=0.2, first=0.6, end=6, last=10, interval=2, fraction=0.4, start_distribution=Uniform())
    run = Run(method)
    total = sum(mask.numel() for mask in run.sparsity.masks.values())
    assert run.sparsity.masks.density == pytest.approx(0.6, abs=1 / total)
    for step, x in enumerate(batches(12), start=1):
        reference = mlp()
        reference.load_state_dict(run.net.state_dict())
        optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9)
        optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
        old = {name: mask.clone() for name, mask in run.sparsity.masks.items()}
        run.step(x)
        loss_of(reference, x).backward()
        for name, mask in old.items():
            reference.get_parameter(name).grad.mul_(mask)
        optimizer.step()
        density = cubic(min(step // 2 * 2, 6), 0, 6, 0.6, 0.2)
        assert sum(run.sparsity.masks.nonzeros.values()) == round(density * total)
        if step % 2 or step > 10:
            continue
        weights = {name: reference.get_parameter(name).detach() for name in old}
        every = torch.cat([weights[n].abs().masked_fill(~old[n], -1).flatten() for n in old])
        least = every.topk(round(density * total)).values.min()
        fraction = cosine(step, 10, 0.4, 0.005)
        for name in old:
            pruned = weights[name].abs().masked_fill(~old[name], -1) >= least
            turnover = math.ceil(fraction * int(pruned.sum()))
            kept = indices(pruned) - lowest(weights[name].abs(), pruned, turnover)
            others = torch.ones_like(pruned)
            others.view(-1)[list(kept)] = False
            grown = lowest(-run.gradients[name].abs(), others, turnover)
            assert indices(run.sparsity.masks[name]) == kept | grown


# ------------------------------------------------------------------ TopKAST


def test_top_kast():
    method = TopKAST(density=0.25, backward=0.5, exploration=0.1, interval=2)
    dense = mlp()
    theta = {name: p.detach().clone() for name, p in dense.named_parameters() if "weight" in name}
    run = Run(method, lambda p: torch.optim.SGD(p, lr=0.3))

    def chosen():
        sets = {}
        for name, values in theta.items():
            order = values.abs().flatten().argsort(descending=True)
            masks = torch.zeros(2, values.numel(), dtype=torch.bool)
            masks[0, order[: values.numel() // 4]] = True
            masks[1, order[: values.numel() // 2]] = True
            sets[name] = masks.view(2, *values.shape)
        return sets

    sets, changed = chosen(), 0
    for step, x in enumerate(batches(12), start=1):
        for name, (used, _) in sets.items():
            assert torch.equal(run.sparsity.masks[name], used)
            assert torch.allclose(run.weight(name), theta[name] * used, rtol=0, atol=1e-14)
        run.step(x)
        for name, (used, learns) in sets.items():
            penalty = torch.where(used, 0.1 * theta[name], 0.1 / 0.25 * theta[name])
            theta[name] = theta[name] - 0.3 * (run.gradients[name] + penalty) * learns
        if step % 2 == 0:
            new = chosen()
            changed += sum(int((new[n][0] != sets[n][0]).sum()) for n in sets)
            sets = new
    assert changed > 0


# ------------------------------------------------------------------ before training


def test_snip_is_the_derivative_in_a_factor():
    net, x = mlp(), batches(1)[0]
    names = ["0.weight", "2.weight", "4.weight"]
    worth = {}
    for name in names:
        weight = net.get_parameter(name)
        score = torch.zeros_like(weight)
        for i in range(weight.numel()):
            values = []
            with torch.no_grad():
                old = weight.view(-1)[i].clone()
                for factor in (1 + 1e-5, 1 - 1e-5):
                    weight.view(-1)[i] = old * factor
                    values.append(loss_of(net, x))
                weight.view(-1)[i] = old
            score.view(-1)[i] = (values[0] - values[1]).abs() / 2e-5
        worth[name] = score.detach()
    sparsity = Sparse(net, torch.optim.SGD(net.parameters()), SNIP(density=0.2), closure=lambda: loss_of(net, x))
    least = torch.cat([w.flatten() for w in worth.values()]).topk(round(0.2 * 560)).values.min()
    assert all(torch.equal(sparsity.masks[name], worth[name] >= least - 1e-12) for name in names)


def test_grasp_is_the_change_of_the_squared_gradient():
    net, x = mlp(), batches(1)[0]
    names = ["0.weight", "2.weight", "4.weight"]
    parameters = [net.get_parameter(name) for name in names]

    def flow():
        return sum(g.pow(2).sum() for g in torch.autograd.grad(loss_of(net, x), parameters)).item()

    worth = {}
    for name, weight in zip(names, parameters, strict=True):
        score = torch.zeros_like(weight)
        for i in range(weight.numel()):
            old = weight.detach().view(-1)[i].clone()
            values = []
            for factor in (1 + 1e-4, 1 - 1e-4):
                weight.detach().view(-1)[i] = old * factor
                values.append(flow())
            weight.detach().view(-1)[i] = old
            score.view(-1)[i] = (values[0] - values[1]) / 2e-4 / 2
        worth[name] = score.detach()
    sparsity = Sparse(net, torch.optim.SGD(net.parameters()), GraSP(density=0.2), closure=lambda: loss_of(net, x))
    least = torch.cat([w.flatten() for w in worth.values()]).topk(round(0.2 * 560)).values.min()
    for name in names:
        clear = (worth[name] - least).abs() > 1e-7
        assert torch.equal(sparsity.masks[name][clear], (worth[name] >= least)[clear])


def test_a_closure_leaves_buffers_and_generators_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4)).double()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    state = torch.get_rng_state()
    Sparse(net, torch.optim.SGD(net.parameters()), SNIP(), closure=lambda: loss_of(net, batches(1)[0]))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    with pytest.raises(ConfigError, match="does not depend on"):
        Sparse(net, torch.optim.SGD(net.parameters()), SNIP(), closure=lambda: net[0].weight.sum())


def test_settings_are_in_the_repr():
    assert repr(RigL(end=5)).startswith("RigL(density=0.1, end=5, interval=100, fraction=0.3, distribution=ERK(")
    assert RigL(end=5) == RigL(end=5, distribution=ERK())
