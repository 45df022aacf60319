"""Calls inside PyTorch's own Python functions are heard, and what these compute stays what it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, has_torch_function, has_torch_function_unary

from meristem.signals.contraction import read_call
from meristem.signals.inside import inside


class Listening(TorchFunctionMode):
    """Keeps what is contracted with which weight."""

    def __init__(self):
        super().__init__()
        self.heard: list[tuple[Tensor, Tensor, Tensor]] = []
        self.functions: list[object] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = inside(self, func, args, kwargs or {})
        self.functions.append(func)
        call = read_call(func, args, kwargs)
        if call is not None:
            self.heard.append((call.weight, call.input, result))
        return result


def attention(**settings) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(8, 2, **settings).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


X = torch.randn(5, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"bias": False}, {"batch_first": True}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=repr
)
def test_attention_computes_the_same_and_both_its_matrices_are_heard(settings, weights, graph, training):
    """What the last call is heard to give is what attention gives, and what it read made it."""
    module = attention(**settings).train(training)
    with torch.set_grad_enabled(graph):
        expected, shares = module(X, X, X, need_weights=weights)
        listening = Listening()
        with listening:
            found, again = module(X, X, X, need_weights=weights)
    torch.testing.assert_close(found, expected, rtol=0 if graph else 1e-12, atol=0 if graph else 1e-12)
    assert (shares is None) is (again is None) is not weights
    turned, given = (x.transpose(0, 1) if settings.get("batch_first") else x for x in (X, found))
    ((_, read, _),) = [one for one in listening.heard if one[0] is module.in_proj_weight]
    assert torch.equal(read, turned)
    ((_, read, gave),) = [one for one in listening.heard if one[0] is module.out_proj.weight]
    torch.testing.assert_close(gave, functional.linear(read, module.out_proj.weight, module.out_proj.bias))
    assert torch.equal(gave.view_as(given), given)


def test_other_widths_of_keys_and_values_have_matrices_of_their_own():
    module = attention(kdim=4, vdim=6)
    key, value = torch.randn(7, 3, 4).double(), torch.randn(7, 3, 6).double()
    listening = Listening()
    with listening:
        module(X, key, value)
    heard = {id(weight): read for weight, read, _ in listening.heard}
    assert heard[id(module.q_proj_weight)] is X
    assert heard[id(module.k_proj_weight)] is key
    assert heard[id(module.v_proj_weight)] is value
    assert id(module.out_proj.weight) in heard


def test_several_listeners_hear_each_call_once():
    module, inner, outer = attention(), Listening(), Listening()
    with outer, inner:
        module(X, X, X)
    for listening in (inner, outer):
        assert [id(weight) for weight, _, _ in listening.heard] == [
            id(module.in_proj_weight), id(module.out_proj.weight)
        ]  # fmt: skip


def test_what_has_no_matrix_is_called_as_it_is():
    """Its inside does not matter to anybody, and costs nothing."""
    listening, norm = Listening(), nn.LayerNorm(8).double()
    with listening:
        found = functional.softmax(norm(X), dim=-1)
    assert listening.functions == [functional.layer_norm, functional.softmax]
    torch.testing.assert_close(found, norm(X).softmax(-1), rtol=0, atol=0)


def scaled(x: Tensor, weight: nn.Parameter, *, factor: float = 2.0) -> Tensor:
    """A function of somebody else's that can be overridden, as PyTorch documents it."""
    if has_torch_function((x, weight)):
        return torch.overrides.handle_torch_function(scaled, (x, weight), x, weight, factor=factor)
    return factor * doubled(functional.linear(x, weight))


def doubled(x: Tensor) -> Tensor:
    if has_torch_function_unary(x):
        return torch.overrides.handle_torch_function(doubled, (x,), x)
    return x + x


def test_functions_of_others_are_entered_too_with_their_defaults():
    weight = nn.Parameter(torch.randn(4, 8).double())
    listening = Listening()
    with listening:
        found = [scaled(X, weight), scaled(X, weight, factor=3.0)]
    assert [one[0] is weight for one in listening.heard] == [True, True]
    torch.testing.assert_close(found, [4 * X @ weight.T, 6 * X @ weight.T])


def test_errors_come_through_and_the_mode_is_left():
    module, listening = attention(), Listening()
    with pytest.raises(AssertionError, match="embedding"), listening:
        module(X[..., :4], X[..., :4], X[..., :4])
    listening.heard.clear()
    functional.linear(X, module.in_proj_weight)
    assert not listening.heard
