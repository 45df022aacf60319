"""The answer of the loss to newborns against autograd through the newborns themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.errors import EditError
from meristem.signals.candidate import candidate_gradient, fan_in_gradient, fan_out_gradient, response
from meristem.signals.contraction import Contraction, flattened

DTYPE = torch.float64


def conv(
    outs: int, ins: int, *kernel: int, s: int = 1, p: int = 0, d: int = 1, op: int = 0, t: bool = False, e: int = 0
) -> Contraction:
    geometry = [(n,) * len(kernel) for n in (s, p, d, op)]
    return Contraction((outs, ins, *kernel), *geometry, transposed=t, extra=(e,) * len(kernel))


def generate(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


def apply(c: Contraction, x: Tensor, weight: Tensor) -> Tensor:
    """The contraction with a weight (out, in, *kernel)."""
    if not c.kernel:
        return x @ weight.T
    weight = weight.transpose(0, 1) if c.transposed else weight
    x = F.pad(x, [side for more in reversed(c.extra) for side in (0, more)])
    return torch.convolution(x, weight, None, c.stride, c.padding, c.dilation, c.transposed, c.output_padding, 1)


def insert(x, delta, incoming, outgoing, producer, consumer, middle, at=0.0) -> Tensor:
    """What newborns add to the consumer's output, times delta; their pre-activations are moved by `at`."""
    weight, bias = incoming[:, :-1].reshape(-1, producer.ins, *producer.kernel), incoming[:, -1]
    z = apply(producer, x, weight) + bias.reshape(1, -1, *(1 for _ in producer.kernel)) + at
    return (apply(consumer, z if middle is None else middle(z), outgoing.transpose(0, 1)) * delta).sum()


def brute(x, delta, producer, consumer, middle) -> Tensor:
    """M row by row: the fan-in gradient at a constant pre-activation of 1e-6, for each unit fan-out."""
    width = consumer.outs * torch.Size(consumer.kernel).numel()
    outgoing = torch.eye(width, dtype=DTYPE).reshape(width, consumer.outs, *consumer.kernel)
    incoming = torch.zeros(width, producer.fan_in + 1, dtype=DTYPE, requires_grad=True)
    total = insert(x, delta, incoming, outgoing, producer, consumer, middle, 1e-6)
    return torch.autograd.grad(total, incoming)[0]


def pooled(
    kind: Callable[..., Tensor], activation: Callable[[Tensor], Tensor] = torch.relu
) -> Callable[[Tensor], Tensor]:
    return lambda z: kind(activation(z), 2)


SITES: dict[str, tuple[tuple[int, ...], Contraction, Contraction, Callable[[Tensor], Tensor] | None]] = {
    "linear": ((7, 5), conv(1, 5), conv(3, 1), None),
    "linear, tanh": ((7, 5), conv(1, 5), conv(3, 1), torch.tanh),
    "linear, relu": ((7, 5), conv(1, 5), conv(3, 1), torch.relu),
    "padded": ((2, 3, 6, 7), conv(1, 3, 3, 3, p=1), conv(4, 1, 3, 3, p=1), None),
    "relu": ((2, 3, 6, 7), conv(1, 3, 3, 3, p=1), conv(4, 1, 3, 3, p=1), nn.ReLU(inplace=True)),
    "sigmoid": ((2, 3, 5, 5), conv(1, 3, 3, 3, p=1), conv(4, 1, 3, 3, p=1), torch.sigmoid),
    "even": ((2, 3, 5, 6), conv(1, 3, 4, 4, p=1, e=1), conv(4, 1, 2, 2, e=1), None),
    "even, tanh": ((2, 3, 5), conv(1, 3, 2, p=1, d=3, e=1), conv(4, 1, 4, p=1, e=1), torch.tanh),
    "even, strided": ((2, 3, 6), conv(1, 3, 4, s=2, p=1, e=1), conv(4, 1, 2, s=2, e=2), torch.relu),
    "1x1": ((2, 3, 4, 4), conv(1, 3, 1, 1), conv(4, 1, 1, 1), None),
    "strided producer": ((2, 3, 8, 7), conv(1, 3, 3, 3, s=2, p=1), conv(4, 1, 3, 3, p=1), None),
    "strided consumer": ((2, 3, 8, 7), conv(1, 3, 3, 3, p=1), conv(4, 1, 3, 3, s=2, p=1), torch.relu),
    "both strided": ((2, 3, 11, 9), conv(1, 3, 3, 2, s=2, p=1), conv(4, 1, 2, 3, s=3, p=2), None),
    "dilated": ((2, 3, 9, 9), conv(1, 3, 3, 3, p=2, d=2), conv(4, 1, 3, 3, p=3, d=3), None),
    "dilated alike": ((2, 3, 9, 9), conv(1, 3, 3, 3, p=2, d=2), conv(4, 1, 3, 3, p=2, d=2), None),
    "padded more than the kernel": ((2, 3, 2, 3), conv(1, 3, 2, 2, p=3), conv(4, 1, 3, 3, p=4), None),
    "smaller than the kernel": ((2, 3, 2, 1), conv(1, 3, 3, 3, p=1), conv(4, 1, 3, 3, p=1), None),
    "1d": ((2, 3, 9), conv(1, 3, 4, p=1), conv(4, 1, 3, s=2, p=1), torch.tanh),
    "3d": ((2, 2, 4, 3, 4), conv(1, 2, 2, 3, 2, p=1), conv(2, 1, 2, 2, 3, p=1), None),
    "average pooling": ((2, 3, 6, 6), conv(1, 3, 3, 3, p=1), conv(4, 1, 3, 3, p=1), pooled(F.avg_pool2d)),
    "largest of each": ((2, 3, 6, 6), conv(1, 3, 3, 3, p=1), conv(4, 1, 3, 3, p=1), pooled(F.max_pool2d, torch.tanh)),
    "upsampled": (
        (2, 3, 3, 3),
        conv(1, 3, 3, 3, p=1),
        conv(4, 1, 3, 3, p=1),
        lambda z: F.interpolate(z, scale_factor=2),
    ),
    "averaged": ((2, 3, 5, 4), conv(1, 3, 3, 3, p=1), conv(4, 1), lambda z: torch.relu(z).mean((2, 3))),
    "flattened": ((2, 3, 5, 4), conv(1, 3, 3, 3, p=1), flattened(conv(4, 40), (5, 4)), torch.relu),
    "pooled, flattened": ((2, 3, 6, 4), conv(1, 3, 3, 3, p=1), flattened(conv(4, 12), (3, 2)), pooled(F.avg_pool2d)),
    "transposed producer": ((2, 3, 3, 4), conv(1, 3, 3, 3, s=2, p=1, op=1, t=True), conv(4, 1, 3, 3, p=1), torch.relu),
    "transposed consumer": ((2, 3, 4, 4), conv(1, 3, 3, 3, p=1), conv(4, 1, 3, 2, s=2, p=1, op=1, t=True), torch.tanh),
    "both transposed": ((2, 2, 3), conv(1, 2, 3, s=2, t=True), conv(2, 1, 4, s=3, p=1, d=2, t=True), None),
}


@pytest.fixture(params=SITES)
def site(request):
    shape, producer, consumer, middle = SITES[request.param]
    x, incoming = generate(*shape), generate(3, producer.fan_in + 1, seed=1)
    outgoing = generate(3, consumer.outs, *consumer.kernel, seed=2)
    z = apply(producer, x, incoming[:, :-1].reshape(-1, producer.ins, *producer.kernel))
    output = apply(consumer, z if middle is None else middle(z), outgoing.transpose(0, 1))
    delta = generate(*output.shape, seed=3)
    return x, delta, incoming, outgoing, producer, consumer, middle


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_candidate_gradient(site):
    x, delta, _, _, *rest = site
    close(candidate_gradient(x, delta, *rest), brute(x, delta, *rest))


def test_fan_in_gradient(site):
    x, delta, _, outgoing, *rest = site
    expected = outgoing.flatten(1) @ brute(x, delta, *rest)
    close(fan_in_gradient(x, delta, outgoing, *rest), expected)
    close(fan_in_gradient(x, delta, outgoing.flatten(1), *rest), expected)


def test_fan_out_gradient(site):
    x, delta, incoming, outgoing, *rest = site
    found = fan_out_gradient(x, delta, incoming, *rest)
    assert found.shape == outgoing.shape
    close(found.flatten(1), incoming @ brute(x, delta, *rest).T)


def test_response(site):
    x, delta, incoming, outgoing, *rest = site
    factors = torch.ones(len(incoming), dtype=DTYPE, requires_grad=True)
    scaled = outgoing * factors.reshape(-1, *(1 for _ in outgoing.shape[1:]))
    expected = torch.autograd.grad(insert(x, delta, incoming, scaled, *rest), factors)[0]
    close(response(x, delta, incoming, outgoing, *rest)[0], expected)


def test_a_site_is_summed_block_by_block(site, monkeypatch):
    x, delta, incoming, outgoing, *rest = site
    calls = [
        lambda: candidate_gradient(x, delta, *rest),
        lambda: fan_in_gradient(x, delta, outgoing, *rest),
        lambda: fan_out_gradient(x, delta, incoming, *rest),
        lambda: response(x, delta, incoming, outgoing, *rest),
    ]
    whole = [call() for call in calls]
    monkeypatch.setattr("meristem.signals.correlation._ENTRIES", {"cpu": 1})
    for call, expected in zip(calls, whole, strict=True):
        close(call(), expected)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.tuples(st.integers(0, 3), st.integers(0, 3))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.tuples(st.integers(1, 6), st.integers(1, 6)), *[pairs] * 3, paddings, *[pairs] * 3, paddings)
def test_any_two_convolutions(size, k1, s1, d1, p1, k2, s2, d2, p2):
    producer = Contraction((1, 2, *k1), s1, p1, d1, (0, 0))
    hidden = producer.outputs(size)
    consumer = Contraction((3, 1, *k2), s2, p2, d2, (0, 0))
    assume(min(hidden) > 0 and min(consumer.outputs(hidden)) > 0)
    x, delta = generate(2, 2, *size), generate(2, 3, *consumer.outputs(hidden), seed=1)
    close(candidate_gradient(x, delta, producer, consumer), brute(x, delta, producer, consumer, None))


def test_units_inserted_into_a_net():
    """The gradient of a real loss with respect to units that stand in a real, wider net."""
    torch.manual_seed(0)
    narrow = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 5))
    wide = nn.Sequential(nn.Conv2d(2, 7, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(63, 5))
    narrow, wide = narrow.to(DTYPE), wide.to(DTYPE)
    x, y = generate(6, 2, 6, 6), torch.arange(6) % 5
    with torch.no_grad():
        for old, new in zip(narrow.parameters(), wide.parameters(), strict=True):
            new[tuple(slice(size) for size in old.shape)] = old
        wide[4].weight[:, 27:] = 0
    incoming = torch.cat([wide[0].weight[3:].flatten(1), wide[0].bias[3:, None]], 1).detach()

    out = narrow(x)
    delta = torch.autograd.grad(F.cross_entropy(out, y), out)[0]
    F.cross_entropy(wide(x), y).backward()

    producer, consumer = conv(7, 2, 3, 3, p=1), flattened(conv(5, 63), (3, 3))
    directions = torch.eye(5 * 9, dtype=DTYPE).reshape(45, 5, 3, 3)
    middle = nn.Sequential(*narrow[1:3])
    for unit, expected in enumerate(wide[4].weight.grad[:, 27:].reshape(5, 4, 9).unbind(1)):
        fan_in = incoming[unit].expand(45, -1)
        found = response(x, delta[..., None, None], fan_in, directions, producer, consumer, middle)[0]
        close(found.reshape(5, 9), expected)


def test_linear_maps_with_leading_dimensions():
    producer, consumer = conv(1, 5), conv(3, 1)
    x, delta = generate(2, 7, 5), generate(2, 7, 3, seed=1)
    expected = F.pad(delta.flatten(0, 1).T @ x.flatten(0, 1), (0, 1))
    expected[:, -1] = delta.sum((0, 1))
    close(candidate_gradient(x, delta, producer, consumer), expected)


def test_no_newborns_and_no_samples():
    producer, consumer = conv(1, 3, 3, 3, p=1), conv(4, 1, 3, 3, p=1)
    x, delta = generate(2, 3, 5, 5), generate(2, 4, 5, 5)
    assert fan_in_gradient(x[:0], delta[:0], generate(2, 4, 3, 3), producer, consumer).eq(0).all()
    assert candidate_gradient(x[:0], delta[:0], producer, consumer).eq(0).all()


@pytest.mark.parametrize("middle", [torch.relu, pooled(F.max_pool2d)])
def test_low_precision_is_computed_in_float32(middle):
    producer, consumer = conv(1, 3, 3, 3, p=1), conv(4, 1, 3, 3, p=1)
    x, incoming, outgoing = generate(4, 3, 8, 8), generate(2, 28), generate(2, 4, 3, 3)
    delta = generate(4, 4, *middle(x).shape[2:])
    x, delta = x.bfloat16().requires_grad_(), delta.bfloat16()
    rest = (producer, consumer, middle)
    with torch.autocast("cpu", torch.bfloat16):
        found = [
            candidate_gradient(x, delta, *rest),
            fan_in_gradient(x, delta, outgoing.bfloat16(), *rest),
            fan_out_gradient(x, delta, incoming.bfloat16(), *rest),
            response(x, delta, incoming.bfloat16(), outgoing.bfloat16(), *rest),
        ]
    x, delta = x.detach().to(DTYPE), delta.to(DTYPE)
    incoming, outgoing = incoming.bfloat16().to(DTYPE), outgoing.bfloat16().to(DTYPE)
    expected = [
        candidate_gradient(x, delta, *rest),
        fan_in_gradient(x, delta, outgoing, *rest),
        fan_out_gradient(x, delta, incoming, *rest),
        response(x, delta, incoming, outgoing, *rest),
    ]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert not a.requires_grad
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


def test_groups_are_refused():
    plain, grouped = conv(4, 4, 3, p=1), Contraction((4, 4, 3), (1,), (1,), (1,), (0,), groups=2)
    x = generate(2, 4, 6)
    with pytest.raises(EditError, match="producer without groups"):
        candidate_gradient(x, x, grouped, plain)
    with pytest.raises(EditError, match="consumer without groups"):
        fan_in_gradient(x, x, generate(2, 4, 3), plain, grouped)


def test_what_does_not_fit_is_refused():
    c, x = conv(4, 4, 3, p=1), generate(2, 4, 6)
    with pytest.raises(EditError, match="equally many samples"):
        candidate_gradient(x, x[:1], c, c)
    with pytest.raises(EditError, match="delta of the spatial size"):
        candidate_gradient(x, x[..., :3], c, c)
    with pytest.raises(EditError, match="flattened"):
        candidate_gradient(x, generate(2, 4), c, conv(4, 24))
    with pytest.raises(EditError, match=r"incoming of shape \(r, 13\)"):
        fan_out_gradient(x, x, generate(2, 12), c, c)
    with pytest.raises(EditError, match=r"outgoing of shape \(r, 4, 3\)"):
        fan_in_gradient(x, x, generate(2, 4), c, c)


@pytest.mark.parametrize(
    "mixing", [lambda z: F.batch_norm(z, None, None, training=True), lambda z: z.softmax(1), lambda z: z.flip(0)]
)
def test_a_middle_that_mixes_is_refused(mixing):
    c, x = conv(4, 4, 3, p=1), generate(2, 4, 6)
    with pytest.raises(EditError, match="each sample and unit alone"):
        candidate_gradient(x, x, c, c, mixing)
