"""Units of several channels, one in every group of a convolution say: M and S have a block for each channel."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.edit import Explicit, Gather
from meristem.errors import CheckpointError
from meristem.grow import TINY, GradMax
from meristem.signals import Batch, Directions, Found, Recorder, entries
from tests.grow.sites import CLASSES, commit, decrease_along_the_line, make, objective, planned
from tests.signals.passes import heard


class Net(nn.Sequential):
    """Layers, and a last one that reads all there is."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers, nn.Flatten(), nn.LazyLinear(CLASSES))


class Split(nn.Module):
    """A linear layer whose units have two numbers; each half goes through an activation function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).unflatten(1, (2, -1)).tanh().flatten(1)).tanh())


class Shared(nn.Module):
    """What one convolution gives is read by one with two groups and by one without any."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped, self.plain = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 6, 3, groups=2), nn.Conv2d(8, 3, 3)
        self.last = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        return self.last(torch.cat([self.grouped(x), self.plain(x)], 1).flatten(1))


C, T = nn.Conv2d, nn.ConvTranspose2d
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "reader": (lambda: Net(C(2, 8, 3), nn.Tanh(), C(8, 6, 3, padding=1, groups=2)), (2, 6, 6), "0[1]"),
    "producer": (lambda: Net(C(4, 8, 3, groups=2), nn.Tanh(), C(8, 3, 3, 2, 1)), (4, 6, 6), "0"),
    "both": (lambda: Net(C(4, 8, 3, groups=2), nn.Tanh(), C(8, 6, 3, groups=2)), (4, 6, 6), "0"),
    "into more groups": (lambda: Net(C(4, 8, 3, groups=2), nn.Tanh(), C(8, 8, 3, groups=4)), (4, 6, 6), "0[1]"),
    "from more groups": (lambda: Net(C(4, 8, 3, groups=4), nn.Tanh(), C(8, 8, 3, groups=2)), (4, 6, 6), "0"),
    "transposed reader": (lambda: Net(C(2, 8, 3), nn.Tanh(), T(8, 6, 3, 2, groups=2)), (2, 5, 5), "0[1]"),
    "transposed producer": (lambda: Net(T(4, 8, 3, 2, groups=2), nn.Tanh(), C(8, 3, 3)), (4, 3, 3), "0"),
    "both transposed": (lambda: Net(T(4, 8, 3, groups=2), nn.Tanh(), T(8, 6, 2, groups=2)), (4, 3, 3), "0"),
    "transposed into groups": (lambda: Net(T(4, 8, 3, groups=2), nn.Tanh(), C(8, 6, 2, groups=2)), (4, 3, 3), "0"),
    "relu": (lambda: Net(C(2, 8, 3), nn.ReLU(), C(8, 6, 3, padding=1, groups=2)), (2, 6, 6), "0[1]"),
    "pooled": (lambda: Net(C(2, 8, 3), nn.ReLU(), nn.MaxPool2d(2, 1), C(8, 6, 3, groups=2)), (2, 6, 6), "0[1]"),
    "slopes": (lambda: Net(C(2, 8, 3), nn.PReLU(8), C(8, 6, 3, groups=2)), (2, 6, 6), "0[1]"),
    "behind": (lambda: Net(C(2, 8, 3), nn.Tanh(), C(8, 6, 3, groups=2), nn.Tanh(), C(6, 3, 2)), (2, 6, 6), "2[1]"),
    "batch norm": (
        lambda: Net(C(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), C(8, 6, 3, groups=2)), (2, 6, 6), "0[1]"
    ),
    "sequence": (lambda: Net(nn.Conv1d(4, 4, 3, 2, groups=2), nn.Tanh(), nn.Conv1d(4, 3, 2)), (4, 9), "0"),
    "no bias": (
        lambda: Net(C(2, 8, 3, bias=False), nn.Tanh(), C(8, 6, 3, groups=2, bias=False)), (2, 6, 6), "0[1]"
    ),
    "shared": (Shared, (2, 6, 6), "first[1]"),
    "split": (Split, (5,), "first"),
}  # fmt: skip


def built(net: str) -> tuple[nn.Module, Tensor, Tensor, str]:
    build, shape, axis = NETS[net]
    return make((lambda _: build(), shape, axis), nn.Identity(), samples=96 if net == "batch norm" else 24)


def batch_of(net: str) -> tuple[meristem.AxisMap, Batch, nn.Module, Callable[[], Tensor]]:
    """A model, the map of it and what one pass through it gives."""
    model, x, labels, name = built(net)
    axes, loss = meristem.trace(model, x), objective(model, x, labels)
    (batch,) = heard(axes, axes[name].name, lambda: loss().backward())
    model.zero_grad()
    return axes, batch, model, loss


def gradients(axes: meristem.AxisMap, births: int, batch: Batch) -> Tensor:
    """Of newborns' fan-ins, composed as their vectors are: shape (newborns, channels, entries, the bias last)."""
    parts = []
    for block in batch.fan_in:
        weight = axes.model.get_parameter(block.weight).grad
        assert weight is not None
        channels = (
            weight if block.groups == 1 else weight.unflatten(0, (block.groups, -1)).transpose(1, 2).flatten(0, 1)
        )
        found = channels.reshape(block.channels, -1, *block.shape)
        found = found.transpose(0, 1)[-births:].flatten(2)
        if block.bias is not None:
            bias = axes.model.get_parameter(block.bias).grad
            assert bias is not None
            found = torch.cat([found, bias.reshape(block.channels, -1, 1).transpose(0, 1)[-births:]], 2)
        parts.append(found)
    return torch.cat(parts, 2)


@pytest.mark.parametrize("net", [net for net in NETS if net != "batch norm"])  # zeros have no variance
def test_blocks_of_the_candidate_gradient_are_those_of_inserted_newborns(net: str) -> None:
    """Newborns of which each has one entry of the fan-out of one channel, which is 1, and else nothing."""
    axes, batch, _, loss = batch_of(net)
    name = NETS[net][2]
    channels = batch.fan_in[0].channels
    rows = {c: a.batch.candidate_gradient for a in batch.alike for c in a.channels}
    assert sorted(rows) == list(range(channels))
    each = len(rows[0])
    count = channels * each
    vectors = torch.eye(count, dtype=batch.dtype).reshape(count, channels, each)
    outgoing, start = [], 0
    for block in batch.fan_out:
        size = block.width // channels
        outgoing.append(vectors[..., start : start + size].flatten(1))
        start += size
    incoming = torch.zeros(count, sum(b.width for b in batch.fan_in), dtype=batch.dtype)
    values = entries(batch.fan_in, incoming) | entries(batch.fan_out, torch.cat(outgoing, 1))
    for block in batch.fan_in:
        if block.bias is not None:
            values[block.bias, 0] = torch.full_like(values[block.bias, 0], 1e-9)
    gather = Gather.grow(axes[name].size, count)
    after = meristem.Edit(axes).gather(axes[name], gather, Explicit("one entry each", values)).commit().axes
    loss().backward()
    found = gradients(after, count, batch).reshape(channels, each, channels, -1)
    for c in range(channels):
        for other in range(channels):
            expected = rows[c][:, : found.shape[3]] if c == other else torch.zeros_like(found[c, :, other])
            torch.testing.assert_close(found[c, :, other], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("net", ["producer", "both", "from more groups", "sequence"])
def test_blocks_of_the_second_moment_are_those_of_patches(net: str) -> None:
    _, batch, model, _ = batch_of(net)
    _, x, _, _ = built(net)
    producer = model.get_submodule("0")
    assert isinstance(producer, (nn.Conv1d, nn.Conv2d))
    spatial = x.unsqueeze(2) if x.dim() == 3 else x
    kernel, stride = ((1, *p) if len(p) == 1 else p for p in (producer.kernel_size, producer.stride))
    for alike in batch.alike:
        group = alike.channels[0] * producer.groups // batch.fan_in[0].channels
        own = spatial.unflatten(1, (producer.groups, -1))[:, group]
        patches = nn.functional.unfold(own, kernel, stride=stride).transpose(0, 1).flatten(1)
        patches = torch.cat([patches, torch.ones_like(patches[:1])])
        moment, count = alike.batch.second_moment
        torch.testing.assert_close(moment, patches @ patches.T)
        assert count == patches.shape[1]


@pytest.mark.parametrize("net", [net for net in NETS if net not in ("batch norm", "no bias")])
def test_gradients_of_grad_max_are_what_is_predicted(net: str) -> None:
    _, batch, _, _ = batch_of(net)
    model, x, labels, name = built(net)
    loss = objective(model, x, labels)
    before = model(x).detach()
    axes, _, plan = planned(GradMax(), model, loss, x, name, 2)
    after = commit(axes, plan)
    torch.testing.assert_close(model(x).detach(), before, rtol=0, atol=1e-5 if plan.inexact else 1e-12)
    loss().backward()
    squares = gradients(after, 2, batch).square().sum((1, 2))
    assert plan.births == 2
    torch.testing.assert_close(squares, torch.tensor(plan.gains, dtype=torch.float64), rtol=1e-4, atol=1e-14)


@pytest.mark.parametrize("net", ["reader", "producer", "both", "from more groups", "split"])
def test_no_other_fan_outs_of_equal_size_have_a_larger_gradient(net: str) -> None:
    """Fan-outs of channels are orthogonal where the same groups produce and read them."""
    _, batch, _, _ = batch_of(net)
    model, x, labels, name = built(net)
    axes = meristem.trace(model, x)
    found = directions(axes, name, 2, lambda: objective(model, x, labels)().backward())
    best = found.values.square().sum()
    channels = batch.fan_in[0].channels
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        total = torch.zeros((), dtype=torch.float64)
        for alike in batch.alike:
            m = alike.batch.candidate_gradient
            drawn = torch.randn(len(m), 2 * len(alike.channels), dtype=m.dtype, generator=generator)
            total = total + (torch.linalg.qr(drawn).Q.T @ m).square().sum() / channels
        assert total <= best * (1 + 1e-9)
    torch.testing.assert_close(found.outgoing @ found.outgoing.T, torch.eye(2, dtype=torch.float64))


def directions(axes: meristem.AxisMap, name: str, count: int, step: Callable[[], object]) -> Found:
    asked = Directions(axes[name].name, count)
    recorder = Recorder(axes, [asked])
    recorder.closing()
    step()
    return recorder.finish()[asked]


@pytest.mark.parametrize("net", NETS)
def test_gains_of_tiny_are_central_differences(net: str) -> None:
    plan, decrease = decrease_along_the_line(lambda: built(net), TINY(amplitude=1e-9))
    assert plan.births == 2
    assert decrease == pytest.approx(sum(plan.gains), rel=1e-3)
    assert decrease > 0


def test_newborns_of_tiny_are_those_of_every_group_alone() -> None:
    """A convolution with two groups, cut into two nets whose answers are added."""
    torch.manual_seed(0)
    grouped = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Tanh(), nn.Conv2d(8, 6, 3, groups=2)).double()
    x, wanted = torch.randn(20, 4, 6, 6).double(), torch.randn(20, 6, 2, 2).double()
    asked = Directions("0", 2, whitened=True, ridge=1e-9)

    def found(model: nn.Module, x: Tensor, wanted: Tensor) -> Found:
        axes = meristem.trace(model, x)
        recorder = Recorder(axes, [asked])
        recorder.closing()
        (model(x) * wanted).sum().div(len(x)).backward()
        return recorder.finish()[asked]

    whole = found(grouped, x, wanted)
    parts = []
    for group in range(2):
        alone = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 3)).double()
        for layer in (0, 2):
            for kind in ("weight", "bias"):
                tensor = grouped.get_parameter(f"{layer}.{kind}").detach()
                alone.get_parameter(f"{layer}.{kind}").data = tensor.chunk(2)[group].clone()
        parts.append(found(alone, x.chunk(2, 1)[group], wanted.chunk(2, 1)[group]))
    torch.testing.assert_close(whole.values, parts[0].values + parts[1].values)
    for group, part in enumerate(parts):
        out = whole.outgoing.chunk(2, 1)[group] * whole.values[:, None].sqrt()
        into = whole.incoming.chunk(2, 1)[group] * whole.values[:, None].sqrt()
        expected = (part.outgoing * part.values[:, None]).T @ part.incoming
        torch.testing.assert_close(out.T @ into, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("whitened", [False, True])
def test_micro_batches_add_up_also_when_a_run_is_resumed_between_them(whitened: bool) -> None:
    model, x, labels, name = built("both")
    axes = meristem.trace(model, x)
    asked = Directions(axes[name].name, 40, whitened=whitened, ridge=1e-3)

    def step(half: slice) -> Batch:
        (batch,) = heard(axes, axes[name].name, lambda: (objective(model, x[half], labels[half])() / 2).backward())
        return batch

    (whole,) = heard(axes, axes[name].name, lambda: objective(model, x, labels)().backward())
    expected, first, second = (asked.accumulator() for _ in range(3))
    expected.add(whole, True)
    first.add(step(slice(0, 12)), False)
    second.recall(json.loads(json.dumps(first.memory())))
    second.add(step(slice(12, 24)), True)
    for key in ("values", "slopes"):
        torch.testing.assert_close(getattr(second.result(), key), getattr(expected.result(), key), rtol=1e-6, atol=1e-9)
    malformed = first.memory()
    malformed["alike"] = [3]
    with pytest.raises(CheckpointError):
        asked.accumulator().recall(malformed)


def test_whole_groups_are_refused() -> None:
    model, x, _, _ = built("reader")
    axes = meristem.trace(model, x)
    for method in (GradMax(), TINY()):
        assert "several channels belong to one unit" in (method.undefined(axes, axes["0[0]"]) or "")
    assert TINY(best_move=True).undefined(axes, axes["0[1]"]) == "several channels belong to one unit"
