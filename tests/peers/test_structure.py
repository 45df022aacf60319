"""What other libraries misread: answer layers, attention heads, and layers that they refuse or skip."""

from __future__ import annotations

from functools import lru_cache

import pytest

from meristem.axes.expression import leaves
from meristem.edit import Edit

from ..zoo.judge import Subject, attempt, comparable, culprits, half, permutation_check, prune_check, subject
from ..zoo.models import row


@lru_cache(maxsize=4)
def traced(name: str) -> Subject:
    return subject(row(name))


ANSWERS = {
    "mlp": "4.weight",
    "conv_flatten_linear": "9.weight",
    "timm/resnet18": "fc.weight",
    "timm/vit_tiny_patch16_224": "head.weight",
    "hf/bert": "classifier.weight",
    "hf/llama_gqa": "lm_head.weight",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_answer_layer_keeps_its_width_without_being_named(name: str) -> None:
    axes = traced(name).axes
    (answer,) = [axes.axes[number] for number in leaves(axes.layouts[ANSWERS[name]].dims[0])]
    assert not answer.editable
    assert "output" in (answer.frozen or "")


HEADS = {
    "hf/bert": "bert.encoder.layer.0.attention.self.query.weight",
    "hf/llama_gqa": "model.layers.0.self_attn.k_proj.weight",
    "hf/vit": "vit.layers.0.attention.q_proj.weight",
    "timm/vit_tiny_patch16_224": "blocks.0.attn.qkv.weight",
    "encoder_layer": "layer.self_attn.in_proj_weight",
    "einsum_attention": "key",
    "grouped_query": "key.weight",
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_not_scrambled(name: str) -> None:
    """Heads and head sizes are axes of their own; removing whole heads equals silencing them."""
    found = traced(name)
    inside = {axis for dim in found.axes.layouts[HEADS[name]].dims for axis in leaves(dim)}
    heads = [axis for axis in found.axes.editable if axis.index in inside]
    assert len(heads) >= 2
    assert comparable(heads)
    assert not culprits(prune_check(half), found, comparable(heads))
    assert not culprits(permutation_check, found, heads)


@pytest.mark.parametrize(
    "name", ["grouped_query", "hf/qwen2", "timm/swin_tiny_patch4_window7_224", "timm/maxvit_tiny_tf_224"]
)
def test_grouped_queries_and_windows_end(name: str) -> None:
    found = traced(name)
    assert attempt(prune_check(half, compare=False), found, found.axes.editable) is None


OFTEN_REFUSED = (
    "hf_conv1d", "gru_1", "gru_2_bidirectional", "lstm_2", "lstm_2_bidirectional", "bare_einsum", "glu", "swiglu",
    "weight_norm_new", "weight_norm_old", "spectral_norm_new", "spectral_norm_old", "instance_norm",
    "transposed_groups", "depthwise_multiplier_2",
)  # fmt: skip


@pytest.mark.parametrize("name", OFTEN_REFUSED)
def test_layers_that_are_often_refused_or_skipped_shrink(name: str) -> None:
    work = traced(name).copied()
    before = sum(p.numel() for p in work.model.parameters())
    edit = Edit(work.axes)
    for axis in work.axes.editable:
        edit.prune(axis, range(axis.size // 2))
    edit.commit()
    assert sum(p.numel() for p in work.model.parameters()) < 0.6 * before
    assert attempt(prune_check(half), traced(name), comparable(work.axes.editable)) is None
