"""Calls are read into one normal form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from meristem.errors import EditError
from meristem.signals.contraction import Call, Contraction, flattened, read_call, rows


class _Reader(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        call = read_call(func, args, kwargs)
        if call is not None:
            self.calls.append(call)
        return func(*args, **(kwargs or {}))


def read(function) -> list[Call]:
    with _Reader() as reader:
        function()
    return reader.calls


MODULES = [
    (nn.Linear(5, 3), (2, 7, 5)),
    (nn.Linear(5, 3, bias=False), (5,)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    (nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(1, 2), dilation=(2, 1), bias=False), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, (3, 5), padding="same", dilation=(2, 1)), (4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 9, 8)),
    (nn.Conv1d(4, 6, 2, padding="same", groups=2), (2, 4, 9)),
    (nn.Conv3d(2, 3, (4, 3, 2), padding="same", dilation=(1, 2, 3)), (2, 5, 6, 7)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 9, 8)),
    (nn.Conv3d(2, 3, 2, padding=1), (1, 2, 3, 4, 5)),
    (nn.ConvTranspose1d(4, 6, 3, stride=3, padding=1, output_padding=2), (2, 4, 5)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=(0, 1), groups=2, dilation=2), (2, 4, 5, 6)),
    (nn.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 3, 2, 2)),
]


def again(call: Call) -> Tensor:
    """The call computed from its normal form and its weight."""
    c = call.contraction
    weight = call.weight
    if not c.kernel:
        return rows(call.input, c) @ (weight if call.weight_is_transposed else weight.T)
    assert call.weight_is_transposed == c.transposed
    geometry = (c.stride, [0] * len(c.kernel), c.dilation, c.transposed, c.output_padding, c.groups)
    if c.transposed:
        return torch.convolution(rows(call.input, c), weight, None, c.stride, c.padding, *geometry[2:])
    padded = F.pad(rows(call.input, c), [side for both in reversed(c.sides) for side in both])
    return torch.convolution(padded, weight, None, *geometry)


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize(("module", "shape"), MODULES, ids=lambda value: str(value)[:40])
def test_the_normal_form_computes_what_the_module_computes(module, shape):
    x = torch.randn(shape)
    (call,) = read(lambda: module(x))
    c = call.contraction
    out = rows(module(x), c)
    bias = module.bias
    assert call.weight is module.weight
    assert call.bias is bias
    assert c.bias == (bias is not None)
    expected = out if bias is None else out - bias.reshape(1, -1, *(1 for _ in c.kernel))
    torch.testing.assert_close(again(call), expected, rtol=1e-5, atol=1e-5)
    assert (c.outs, c.ins) == (out.shape[1], rows(call.input, c).shape[1])
    assert c.outputs(rows(call.input, c).shape[2:]) == tuple(out.shape[2:])


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w, b: x @ w,
        lambda x, w, b: x.matmul(w),
        lambda x, w, b: torch.matmul(x, w),
        lambda x, w, b: torch.matmul(x, other=w),
        lambda x, w, b: x.mm(w),
        lambda x, w, b: torch.mm(x, w),
        lambda x, w, b: torch.mm(input=x, mat2=w),
        lambda x, w, b: torch.addmm(b, x, w),
        lambda x, w, b: b.addmm(x, w),
        lambda x, w, b: F.linear(x, w.T, bias=b),
    ],
)
def test_products_with_a_matrix_are_linear_maps(product):
    x, w, b = torch.randn(4, 5), torch.randn(5, 3), torch.randn(3)
    (call,) = read(lambda: product(x, w, b))
    assert call.input is x
    assert call.contraction.weight == (3, 5)
    assert call.contraction.fan_in == 5
    assert call.bias is (b if call.contraction.bias else None)
    torch.testing.assert_close(again(call), x @ w)


@pytest.mark.parametrize(
    "function",
    [
        lambda: torch.randn(2, 3) + 1,
        lambda: torch.mm(torch.randn(2, 3), torch.randn(3, 4), out=torch.empty(2, 4)),
        lambda: torch.randn(2, 3, 4) @ torch.randn(2, 4, 5),
        lambda: torch.randn(2, 3) @ torch.randn(3),
        lambda: torch.addmm(torch.randn(3), torch.randn(2, 4), torch.randn(4, 3), alpha=2),
        lambda: torch.arange(4).reshape(2, 2) @ torch.arange(4).reshape(2, 2),
        lambda: F.linear(torch.randn(2, 3), torch.randn(3)),
    ],
)
def test_other_calls_are_none(function):
    assert read(function) == []


@pytest.mark.parametrize(("dilation", "sides"), [(1, (1, 2)), (2, (3, 3)), (3, (4, 5))])
def test_what_is_odd_is_padded_at_the_end(dilation, sides):
    call = read_call(F.conv1d, (torch.randn(1, 2, 9), torch.randn(2, 2, 4)), {"padding": "same", "dilation": dilation})
    assert call is not None
    assert call.contraction.sides == (sides,)


def test_another_summand_is_no_bias():
    summand = torch.randn(4, 3)
    (call,) = read(lambda: torch.addmm(summand, torch.randn(4, 5), torch.randn(5, 3)))
    assert call.bias is None
    assert not call.contraction.bias


def test_fan_in_counts_what_one_output_reads():
    assert Contraction((6, 4, 3, 5), (1, 1), (0, 0), (1, 1), (0, 0), groups=2).fan_in == 30
    assert Contraction((6, 4)).fan_in == 4


def test_a_linear_map_of_flattened_maps_is_a_convolution():
    linear, x = nn.Linear(3 * 4 * 5, 7), torch.randn(2, 3, 4, 5)
    c = flattened(Contraction((7, 60), bias=True), (4, 5))
    assert (c.ins, c.kernel, c.outputs((4, 5))) == (3, (4, 5), (1, 1))
    y = F.conv2d(x, linear.weight.reshape(c.weight), linear.bias, c.stride, c.padding, c.dilation)
    torch.testing.assert_close(y.flatten(1), linear(x.flatten(1)))


def test_flattened_refuses_what_does_not_fit():
    with pytest.raises(EditError, match="multiple of the 20 positions"):
        flattened(Contraction((7, 61)), (4, 5))
    with pytest.raises(EditError, match="linear map"):
        flattened(Contraction((7, 60, 1), (1,), (0,), (1,), (0,)), (5,))
