"""The second moment against the derivative of the call in its weight, which is made of what each output reads."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from meristem.signals.contraction import Contraction
from meristem.signals.moments import second_moment


def brute(x: Tensor, c: Contraction) -> tuple[Tensor, int]:
    ins, outs = c.ins // c.groups, c.outs // c.groups
    shape = (c.ins, outs, *c.kernel) if c.transposed else (c.outs, ins, *c.kernel)
    geometry = (c.stride, c.padding, c.dilation, c.transposed, c.output_padding, c.groups)
    padded = F.pad(x, [side for more in reversed(c.extra) for side in (0, more)])
    jacobian = torch.autograd.functional.jacobian(
        lambda w: torch.convolution(padded, w, None, *geometry), x.new_zeros(shape)
    )
    moments, count = [], 0
    for group in range(c.groups):
        of_output = jacobian[:, group * outs]
        positions = of_output.dim() - len(shape)
        if c.transposed:
            read = of_output.narrow(positions, group * ins, ins).select(positions + 1, 0)
        else:
            read = of_output.select(positions, group * outs)
        u = F.pad(read.reshape(-1, c.fan_in), (0, 1), value=1)
        count = len(u)
        moments.append(u.T @ u)
    return (torch.stack(moments) if c.groups > 1 else moments[0]), count


def check(x: Tensor, c: Contraction) -> None:
    moment, count = second_moment(x, c)
    expected, expected_count = brute(x, c)
    assert count == expected_count
    assert torch.equal(moment, moment.mT)
    torch.testing.assert_close(moment, expected, rtol=1e-10, atol=1e-10)


def generate(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_geometries(dims, transposed):
    x = generate(2, 4, *[(6, 5), (3, 4, 3)][dims == 3][:dims])
    seen = 0
    choices = itertools.product((1, 3), (1, 2), (0, 1), (1, 2), (1, 2))
    for kernel, stride, padding, dilation, groups in choices:
        kernels = (kernel, 2, 3)[:dims]
        each = [(n,) * dims for n in (stride, padding, dilation, int(transposed and stride > 1))]
        c = Contraction((4, 4, *kernels), *each, groups=groups, transposed=transposed)
        if min(c.outputs(x.shape[2:])) > 0 and (dims < 3 or stride + padding + dilation + groups == 5):
            check(x, c)
            seen += 1
    assert seen >= 6


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.booleans(),
)
def test_any_geometry(size, kernel, stride, padding, dilation, transposed):
    c = Contraction((1, 2, *kernel), stride, padding, dilation, (0, 0), transposed=transposed)
    assume(min(c.outputs(size)) > 0)
    check(generate(2, 2, *size), c)


def test_patches_are_ordered_as_unfold_orders_them():
    x = generate(3, 4, 7, 6)
    c = Contraction((5, 4, 3, 2), (1, 1), (1, 0), (2, 1), (0, 0))
    u = F.unfold(x, (3, 2), dilation=(2, 1), padding=(1, 0)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(second_moment(x, c)[0][:-1, :-1], u.T @ u, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("extra", [(1, 0), (0, 1), (1, 2)])
def test_more_padding_at_the_end(stride, extra):
    c = Contraction((4, 4, 2, 4), (stride,) * 2, (0, 1), (1, 1), (0, 0), groups=2, extra=extra)
    check(generate(2, 4, 5, 6), c)


def test_depthwise():
    check(generate(2, 6, 5, 5), Contraction((6, 6, 3, 3), (1, 1), (1, 1), (1, 1), (0, 0), groups=6))


@pytest.mark.parametrize("shape", [(5,), (7, 5), (3, 7, 5), (2, 0, 5)])
def test_linear_with_leading_dimensions(shape):
    x = generate(*shape)
    moment, count = second_moment(x, Contraction((3, 5)))
    u = F.pad(x.reshape(-1, 5), (0, 1), value=1)
    assert count == len(u)
    torch.testing.assert_close(moment, u.T @ u, rtol=1e-12, atol=1e-12)


def test_an_input_without_batch():
    x, c = generate(4, 6, 5), Contraction((4, 4, 3, 3), (1, 1), (1, 1), (1, 1), (0, 0))
    torch.testing.assert_close(second_moment(x, c), second_moment(x[None], c))


def test_many_samples_are_summed_block_by_block(monkeypatch):
    x = generate(9, 2, 6, 5)
    monkeypatch.setattr("meristem.signals.correlation._ENTRIES", {"cpu": 200})
    for stride in (1, 2):
        check(x, Contraction((4, 2, 3, 3), (stride,) * 2, (1, 1), (1, 1), (0, 0)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_summed_in_float32(dtype, stride):
    x = generate(16, 4, 8, 8).to(dtype)
    c = Contraction((4, 4, 3, 3), (stride,) * 2, (1, 1), (1, 1), (0, 0))
    with torch.autocast("cpu", torch.bfloat16):
        moment, _ = second_moment(x.requires_grad_(), c)
    assert moment.dtype == torch.float32
    assert not moment.requires_grad
    torch.testing.assert_close(moment.double(), second_moment(x.detach().double(), c)[0], rtol=1e-5, atol=1e-3)


def test_rounding_of_products_is_off_and_put_back():
    x = generate(512, 64).float()
    old = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        moment, _ = second_moment(x, Contraction((3, 64)))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(old)
    torch.testing.assert_close(
        moment.double(), second_moment(x.double(), Contraction((3, 64)))[0], rtol=1e-5, atol=1e-3
    )
