"""Hugging Face models whose configuration lists depths of stages or kinds of layers: it follows, or a warning comes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meristem import Edit, depth, trace
from meristem.edit import ConfigurationWarning, fit_config
from meristem.edit.deepen import Replayed
from meristem.edit.tree import Copied
from meristem.errors import EditError

from ..zoo.hugging_face import create

pytestmark = pytest.mark.heavy

Orders = dict[str, tuple[int, ...]]
"""By the path of its container, the blocks that a run gets."""


@dataclass(frozen=True)
class Case:
    """A model, what becomes of its blocks, and of its configuration.

    Attributes:
        kind: its class.
        config: the class of its configuration.
        settings: what that is made of.
        size: of the image that it is run on; None: it is run on words.
        orders: what becomes of its blocks.
        expected: the entries of its configuration then.
    """

    kind: str
    config: str
    settings: dict[str, Any]
    size: int | None
    orders: Orders
    expected: dict[str, Any]

    def model(self) -> Any:
        torch.manual_seed(0)
        model = create(self.kind, self.config, copy.deepcopy(self.settings))
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if tensor.dim() < 2 or "layer_scale" in name:
                    tensor.uniform_(0.5, 1.0)
        return model.double().eval()

    def example(self) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(0)
        if self.size is None:
            return {"input_ids": torch.randint(3, 20, (2, 5), generator=draw)}
        return {"pixel_values": torch.randn(2, 3, self.size, self.size, generator=draw, dtype=torch.float64)}


STAGES = {"depths": [3, 2], "num_labels": 3}

KINDS = ["sliding_attention", "full_attention", "sliding_attention"]

FOLLOW = {
    "convnext": Case(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {**STAGES, "num_stages": 2, "hidden_sizes": [4, 6], "image_size": 32},
        32,
        {"convnext.encoder.stages.0.layers": (2,), "convnext.encoder.stages.1.layers": (0, 1, 1, 0, 1)},
        {"depths": [1, 5], "hidden_sizes": [4, 6], "num_stages": 2},
    ),
    "swin": Case(
        "SwinForImageClassification",
        "SwinConfig",
        {
            **STAGES,
            "depths": (2, 2),
            "num_heads": [2, 2],
            "image_size": 16,
            "patch_size": 2,
            "embed_dim": 8,
            "window_size": 2,
            "drop_path_rate": 0.0,
        },
        16,
        {"swin.encoder.layers.0.blocks": (0,), "swin.encoder.layers.1.blocks": (0, 1, 0, 1)},
        {"depths": (1, 4), "num_heads": [2, 2]},
    ),
    "resnet": Case(
        "ResNetForImageClassification",
        "ResNetConfig",
        {**STAGES, "embedding_size": 4, "hidden_sizes": [4, 6], "layer_type": "basic"},
        32,
        {"resnet.encoder.stages.0.layers": (0, 2), "resnet.encoder.stages.1.layers.1": (0, 0, 0)},
        {"depths": [2, 4], "hidden_sizes": [4, 6]},
    ),
    "gemma3": Case(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            "vocab_size": 20,
            "hidden_size": 16,
            "intermediate_size": 10,
            "num_hidden_layers": 3,
            "layer_types": KINDS,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 4,
            "sliding_window": 3,
            "max_position_embeddings": 16,
        },
        None,
        {"model.layers": (1, 0, 1, 1)},
        {"num_hidden_layers": 4, "layer_types": [KINDS[1], KINDS[0], KINDS[1], KINDS[1]]},
    ),
}


def outputs(model: nn.Module, example: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**example).logits


@pytest.mark.parametrize("name", FOLLOW)
def test_lists_of_a_configuration_follow(name: str, tmp_path: Any) -> None:
    """Without a warning. Saved and loaded, the model answers the same bit for bit, and a fresh one has its shapes."""
    case = FOLLOW[name]
    model, example = case.model(), case.example()
    axes = trace(model, (), example)
    before, places, edit = outputs(model, example), depth.places(axes), Edit(axes)
    for at, order in case.orders.items():
        edit.depth(depth.Arrange(places, at, order))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConfigurationWarning)
        axes = edit.commit().axes
    assert {entry: getattr(model.config, entry) for entry in case.expected} == case.expected
    after = outputs(model, example)
    assert not torch.equal(before, after)
    fresh = type(model)(copy.deepcopy(model.config))
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    again, report = type(model).from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(outputs(copy.deepcopy(again).eval(), example), after)
    assert fit_config(axes) == {}


def test_a_table_that_only_the_first_block_has_in_a_configuration_is_said() -> None:
    """A copy of T5's first block has a table of positions of its own: the number of blocks follows, and no number is
    right."""
    torch.manual_seed(0)
    settings = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2}
    model: Any = create("T5EncoderModel", "T5Config", settings).eval()
    axes = trace(model, (), {"input_ids": torch.arange(3, 9)[None]})
    container = depth.places(axes).containers["encoder.block"]
    first, second = container.unchanged
    record = container.rearranged(model, [first, Copied(copied="encoder.block.0"), second])
    said = r"encoder\.block\.1\.layer\.0\.SelfAttention\.relative_attention_bias\.weight .* \(would be None\)"
    with pytest.warns(ConfigurationWarning, match=rf"describes another model now: {said}.*fit_config.*meristem\.save"):
        axes = Edit(axes).depth(Replayed(record)).commit().axes
    before = model.config.to_dict()
    assert before["num_layers"] == 3
    with pytest.raises(EditError, match=rf"no T5Config describes this model: {said}"):
        fit_config(axes)
    assert model.config.to_dict() == before
