"""Mixtures of experts: the width of experts, and whole experts where their number is an axis."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import meristem
from meristem.axes.map import AxisMap, Coupling
from meristem.edit import Edit, fit_config
from meristem.errors import EditError, FrozenAxisError
from meristem.prune import GroupNorm
from meristem.signals import View
from tests.zoo.hugging_face import VOCABULARY, create
from tests.zoo.row import scramble

EXPERTS, WIDTH = 4, 10


class Mixture(nn.Module):
    """Experts in two stacked parameters; all answer, weighted by gates."""

    def __init__(self, gates: str) -> None:
        super().__init__()
        self.gates = gates
        self.stem, self.gate = nn.Linear(5, 6), nn.Linear(6, EXPERTS)
        self.up, self.shift = nn.Parameter(torch.randn(EXPERTS, 6, WIDTH)), nn.Parameter(torch.randn(EXPERTS, 1, WIDTH))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, 3))

    def weights(self, x: Tensor) -> Tensor:
        scores = self.gate(x)
        return scores.sigmoid() if self.gates == "sigmoid" else scores.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        hidden = torch.relu(torch.einsum("bi,eiw->ebw", x, self.up) + self.shift)
        return torch.einsum("ebw,ewo,be->bo", hidden, self.down, self.weights(x))


def mixture(gates: str) -> tuple[Mixture, Tensor, AxisMap]:
    torch.manual_seed(0)
    model, x = Mixture(gates).double().eval(), torch.randn(8, 5).double()
    return model, x, meristem.trace(model, x)


def answer(model: Mixture, x: Tensor, gates: Tensor, experts: list[int]) -> Tensor:
    """What these experts alone say, one after the other, with these gates."""
    x = torch.tanh(model.stem(x))
    found = torch.zeros(len(x), 3, dtype=x.dtype)
    for place, expert in enumerate(experts):
        hidden = torch.relu(x @ model.up[expert] + model.shift[expert, 0])
        found = found + gates[:, place, None] * (hidden @ model.down[expert])
    return found


@pytest.mark.parametrize("gates", ["sigmoid", "softmax"])
def test_the_width_of_all_experts_is_one_axis(gates: str) -> None:
    """The weakest units over all experts go; it is as if their weights had been zero in every expert."""
    model, x, axes = mixture(gates)
    width = next(axis for axis in axes.editable if axis.size == WIDTH)
    assert {place.layout.name for place in axes.places[width.index]} == {"up", "shift", "down"}
    scores = GroupNorm().scores(View(axes), width)
    squares = model.up.detach().square().sum((0, 1)) + model.down.detach().square().sum((0, 2))
    torch.testing.assert_close(scores, squares / squares.mean())
    gone = scores.argsort()[:4].sort().values
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for tensor, dim in ((reference.up, 2), (reference.shift, 2), (reference.down, 1)):
            tensor.index_fill_(dim, gone, 0)
    Edit(axes).prune(width, gone).commit()
    assert model.up.shape == (EXPERTS, 6, WIDTH - 4)
    torch.testing.assert_close(model(x), reference(x), rtol=0, atol=1e-12)


def test_a_whole_expert_is_silenced_where_gates_are_its_own() -> None:
    model, x, axes = mixture("sigmoid")
    (experts,) = [axis for axis in axes.editable if axis.size == EXPERTS]
    assert not experts.couplings & {Coupling.SOFTMAX}
    stay, before = [0, 1, 3], copy.deepcopy(model)
    Edit(axes).prune(experts, [2]).commit()
    gates = before.weights(torch.tanh(before.stem(x)))[:, stay]
    torch.testing.assert_close(model(x), answer(before, x, gates, stay), rtol=0, atol=1e-12)
    with torch.no_grad():
        before.down[2] = 0
    torch.testing.assert_close(model(x), before(x), rtol=0, atol=1e-12)


def test_gates_that_sum_to_one_are_shared_among_those_that_stay() -> None:
    """Then removal is not silencing, and the map says so."""
    model, x, axes = mixture("softmax")
    (experts,) = [axis for axis in axes.editable if axis.size == EXPERTS]
    assert Coupling.SOFTMAX in experts.couplings
    stay, before = [0, 1, 3], copy.deepcopy(model)
    Edit(axes).prune(experts, [2]).commit()
    shares = before.weights(torch.tanh(before.stem(x)))[:, stay]
    gates = shares / shares.sum(1, keepdim=True)
    torch.testing.assert_close(model(x), answer(before, x, gates, stay), rtol=0, atol=1e-12)
    with torch.no_grad():
        before.down[2] = 0
    assert float((model(x) - before(x)).detach().abs().max()) > 1e-3


SETTINGS: dict[str, dict[str, Any]] = {
    "Mixtral": {"intermediate_size": 12, "num_local_experts": 4},
    "Qwen2Moe": {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 18, "num_experts": 4},
}


def transformer(name: str, way: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A tiny one; every token goes to two of four experts."""
    common = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    settings = common | {"vocab_size": VOCABULARY, "num_experts_per_tok": 2, "use_cache": False} | SETTINGS[name]
    torch.manual_seed(0)
    model = create(f"{name}ForCausalLM", f"{name}Config", settings | {"experts_implementation": way})
    assert model.config._experts_implementation == way
    scramble(model)
    return model.double().eval(), {"input_ids": torch.randint(VOCABULARY, (3, 9))}


@pytest.mark.heavy
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("way", ["eager", "batched_mm"])
def test_experts_of_transformers_get_narrower(name: str, way: str, tmp_path: Any) -> None:
    """Removal is silencing in all experts at once; where data choose no branches the configuration follows, and the
    file loads."""
    model, batch = transformer(name, way)
    axes = meristem.trace(model, (), batch)
    (width,) = [axis for axis in axes.editable if axis.size == 12]
    assert width.exact
    gone = GroupNorm().scores(View(axes), width).argsort()[:5].sort().values
    reference = copy.deepcopy(model)
    experts = reference.model.layers[0].mlp.experts
    with torch.no_grad():
        experts.gate_up_proj.index_fill_(1, torch.cat([gone, gone + 12]), 0)
        experts.down_proj.index_fill_(2, gone, 0)
    commit = Edit(axes).prune(width, gone).commit()
    assert model.model.layers[0].mlp.experts.gate_up_proj.shape == (4, 14, 16)
    torch.testing.assert_close(model(**batch).logits, reference(**batch).logits, rtol=0, atol=1e-12)
    if way == "eager":  # a model of the configuration would have to be run without data
        with pytest.raises(EditError, match="cannot be run"):
            fit_config(commit.axes)
        return
    key = "intermediate_size" if name == "Mixtral" else "moe_intermediate_size"
    assert fit_config(commit.axes) == {key: (12, 7)}
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float64, experts_implementation=way).eval()
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=0, atol=1e-12)


@pytest.mark.heavy
def test_the_number_of_routed_experts_is_frozen() -> None:
    """The two best are chosen: without one, tokens would go elsewhere. The map says where the code does that."""
    model, batch = transformer("Mixtral", "batched_mm")
    axes = meristem.trace(model, (), batch)
    gate = axes["model.layers.0.mlp.gate"]
    assert gate.size == 4
    with pytest.raises(FrozenAxisError, match=r"order matters \(aten\.topk at .*modeling_mixtral\.py"):
        Edit(axes).prune(gate, [0])
