"""Configurations follow structure: a model built from one is the edited model."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import meristem
from meristem.edit import Edit, fit_config
from meristem.errors import EditError

from ..zoo.models import row

EDITS: dict[str, tuple[str, dict[str, int], dict[str, int]]] = {
    "feed-forward of BERT": ("hf/bert", {"*intermediate.dense": -10}, {"intermediate_size": 30}),
    "heads of BERT and its stream": (
        "hf/bert",
        {"*query[[]0]": -1, "*word_embeddings": -8, "*pooler.dense": -8},
        {"hidden_size": 16, "num_attention_heads": 2},
    ),
    "feed-forward of DistilBERT": ("hf/distilbert", {"*ffn.lin1": 8}, {"hidden_dim": 48}),
    "feed-forward of GPT-2, of which nothing is said": ("hf/gpt2", {"*c_fc": -46}, {"n_inner": 50}),
    "heads of Llama": ("hf/llama_gqa", {"*q_proj[[]0]": -1}, {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "queries of each head of Qwen2, and feed-forward": ("hf/qwen2", {"*gate_proj": 24}, {"intermediate_size": 64}),
    "feed-forward of ViT": ("hf/vit", {"*mlp.fc1": -20}, {"intermediate_size": 20}),
    "T5": ("hf/t5_encoder", {"*DenseReluDense.wi": -8, "*q[[]1]": -2}, {"d_ff": 32, "d_kv": 4}),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_model_built_from_the_configuration_answers_alike(case, tmp_path):
    name, changes, expected = EDITS[case]
    given = row(name)
    model = given.model()
    args, kwargs = given.example()
    edit = Edit(meristem.trace(model, args, kwargs))
    for axis in edit.axes.editable:
        count = next((count for pattern, count in changes.items() if fnmatchcase(axis.name, pattern)), 0)
        if count > 0:
            edit.grow(axis, count)
        elif count < 0:
            edit.prune(axis, range(-count))
    found = fit_config(edit.commit().axes)
    assert {name: new for name, (_, new) in found.items()} == expected
    holder: Any = model
    holder.save_pretrained(tmp_path)
    again = type(holder).from_pretrained(tmp_path, dtype=torch.float64).eval()
    for after, before in zip(outputs(again, args, kwargs), outputs(model, args, kwargs), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)


def outputs(model: nn.Module, args: Any, kwargs: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return [value for value in model(*args, **kwargs).to_tuple() if isinstance(value, torch.Tensor)]


@dataclass
class Stage:
    width: int


@dataclass
class Wider(Stage):
    widths: list[int] = field(default_factory=lambda: [6, 8])
    inner: Stage = field(default_factory=lambda: Stage(5))


class Net(nn.Module):
    def __init__(self, config: Wider) -> None:
        super().__init__()
        self.config = config
        sizes = [3, config.width, *config.widths, config.inner.width, 2]
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def pruned(**counts: int):
    torch.manual_seed(0)
    model = Net(Wider(width=4))
    edit = Edit(meristem.trace(model, torch.ones(1, 3)))
    for layer, count in counts.items():
        edit.prune(f"layers.{layer[1:]}", range(count))
    return model, edit.commit().axes


def test_numbers_in_lists_and_nested_configurations_are_found():
    model, axes = pruned(_0=1, _2=4, _3=2)
    assert fit_config(axes) == {"width": (4, 3), "widths.1": (8, 4), "inner.width": (5, 3)}
    assert model.config == Wider(width=3, widths=[6, 4], inner=Stage(3))
    assert fit_config(axes) == {}


def test_what_no_configuration_can_say_is_refused_and_nothing_changes():
    given = row("hf/bert")
    model: Any = given.model()
    args, kwargs = given.example()
    axes = meristem.trace(model, args, kwargs)
    before = copy.deepcopy(model.config.to_dict())
    axes = Edit(axes).prune("bert.encoder.layer.0.intermediate.dense", range(10)).commit().axes
    with pytest.raises(EditError, match=r"no BertConfig describes this model: .*layer\.\d\..*Alike"):
        fit_config(axes)
    assert model.config.to_dict() == before


def test_without_it_a_model_of_other_widths_is_not_loaded(tmp_path):
    """So an edit of widths need not be warned of."""
    given = row("hf/bert")
    model: Any = given.model()
    args, kwargs = given.example()
    Edit(meristem.trace(model, args, kwargs)).prune("bert.encoder.layer.0.intermediate.dense", range(10)).commit()
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatched"):
        type(model).from_pretrained(tmp_path)


def test_a_model_without_a_configuration_is_refused():
    model = nn.Linear(3, 2)
    with pytest.raises(EditError, match=r"no `config`; save the model with meristem\.save"):
        fit_config(meristem.trace(model, torch.ones(1, 3)))


def test_a_builder_can_be_given():
    _, axes = pruned(_0=1)
    with pytest.raises(EditError, match=r"no model can be built from this configuration: .*missing"):
        fit_config(axes, lambda config: nn.Linear(config.missing, 2))
    assert fit_config(axes, lambda config: Net(config)) == {"width": (4, 3)}


@dataclass
class Depths:
    depths: list[int] = field(default_factory=lambda: [2, 3, 2])
    width: int = 2


class Deep(nn.Module):
    def __init__(self, config: Depths) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(
            nn.Sequential(*(nn.Linear(config.width, config.width) for _ in range(depth))) for depth in config.depths
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


def test_the_depth_of_each_stage_is_the_number_of_its_blocks():
    """In no proportion to what it was, and beside numbers that are equal; whoever edited the model."""
    model: Any = Deep(Depths())
    for stage, more in zip(model.stages, (0, 2, 1), strict=True):
        stage.extend(nn.Linear(2, 2) for _ in range(more))
    axes = meristem.trace(model, torch.ones(1, 2))
    assert fit_config(axes) == {"depths.1": (3, 5), "depths.2": (2, 3)}
    assert model.config == Depths([2, 5, 3])


def test_a_shrunk_transformer_whose_layers_stay_alike_has_a_configuration(tmp_path):
    given = row("hf/bert")
    model: Any = given.model()
    args, kwargs = given.example()
    axes = meristem.trace(model, args, kwargs)
    small = meristem.recipes.shrink(
        model, axes, flops=0.7, axes=["*intermediate*"], allocate=meristem.allocate.Alike(meristem.allocate.Ranked())
    )
    found = fit_config(small.axes)
    assert found["intermediate_size"][1] < 40
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float64).eval()
    for after, before in zip(outputs(again, args, kwargs), outputs(model, args, kwargs), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
