"""The table of exactness: every edit that preserves the function on every small model of the zoo, and on a small
ResNet-18, ViT, BERT, GPT-2 and Llama; made exactly, to 1e-12 in float64, or refused with a reason."""

from __future__ import annotations

import pytest

from meristem.errors import EditError, StaleMapError

from ..zoo.models import SMALL_ROWS
from .exactness import EDITS, cell, work

TABLE = {
    "mlp": "xxxx...xxxxx",
    "residual_mlp": "xx..x..xx.xx",
    "shared_twice": "xxxxx..x..x.",
    "tied_autoencoder": "............",
    "tied_language_model": "x.x....xx.xx",
    "bare_einsum": "............",
    "glu": "xx.....x..x.",
    "swiglu": "xx.....xx.xx",
    "weight_norm_new": "xxxx...xxxxx",
    "weight_norm_old": "xxxx...x.xx.",
    "spectral_norm_new": "xxxx...x.xx.",
    "spectral_norm_old": "xxxx...x.xx.",
    "two_inputs_dict_output": "xxxx...xx.xx",
    "rms_norm": "xxxxx..x..x.",
    "hf_conv1d": "xx.....xxxxx",
    "lstm_1": "xx.....x..x.",
    "lstm_2": "xx.....x..x.",
    "lstm_2_bidirectional": "xx.....x..x.",
    "gru_1": "xx.....x..x.",
    "gru_2": "xx.....x..x.",
    "gru_2_bidirectional": "xx.....x..x.",
    "square_multihead_attention": "x......x..x.",
    "square_encoder_layer": "xx..x..x..x.",
    "square_code_sized_attention": "x......x..x.",
    "square_divided_attention": "x......x..x.",
    "square_grouped_query": "x......x..x.",
    "multihead_attention": "x......x..x.",
    "encoder_layer": "xxx.x..xx.xx",
    "encoder_layer_norm_first": "xxx....xx.xx",
    "einsum_attention": "............",
    "code_sized_attention": "x......x..x.",
    "grouped_query": "x......x..x.",
    "conv_flatten_linear": "xxxxx..xxxxx",
    "unet": "xxxx...xx.xx",
    "dense_block": "xxxxx..xx.xx",
    "resnext": "xxxxx..x..x.",
    "depthwise": "xxxxx..xx.xx",
    "depthwise_multiplier_2": "xxxxx..xx.xx",
    "squeeze_excite": "xxxx...xx.xx",
    "transposed_groups": "xxxx...xx.xx",
    "instance_norm": "xxxxx..xxxxx",
    "group_norm": "xxxxx..xxxxx",
    "conv1d": "xxxxx..xxxxx",
    "conv3d": "xxxxx..xxxxx",
    "weight_standardized": "xxxxx..xxxxx",
    "shuffle_block": "xxxxx..xx.xx",
    "two_branches": "xx.....xx.xx",
    "depth/residual": "xxxxxxxxx.xx",
    "depth/transformer": "x...xxxxxxxx",
    "depth/mixer": "xx..xxxxxxxx",
    "depth/numbered": "xx..xxxx..x.",
    "depth/levels": "xx..x..x..x.",
    "depth/penultimate": "xx..xxxx..x.",
    "depth/tapped": "xx..xxxx..x.",
    "depth/last": "xx..xxxx..x.",
    "depth/auxiliary": "xx..xxxx..x.",
    "depth/overwritten": "xxxxx..x..x.",
    "timm/resnet18": "xxxxxxxxx.xx",
    "hf/vit": "xx..xxxxx.xx",
    "hf/bert": "xx..x..xx.xx",
    "hf/gpt2": "x...xx.xx.xx",
    "hf/llama_gqa": "x...xx.x..x.",
}
"""By model, in the order of `EDITS`: "x" where an edit is made, "." where it is refused."""

FEWEST = {
    "residual": 50, "residual, normalized": 40, "identity": 25, "identity, normalized": 24, "copy of a layer": 22,
    "silent block": 8, "new block": 6, "sum": 50, "concatenation": 28, "sum beside a row": 12, "sum gone": 50,
    "concatenation gone": 28,
}  # fmt: skip
"""On how many models an edit is made at least."""


@pytest.mark.heavy
@pytest.mark.parametrize("name", TABLE)
def test_every_edit_is_exact_or_refused_with_a_reason(name: str) -> None:
    """Whatever is made leaves what the model computes, and can be taken back; whatever is refused says why."""
    places = work(name).places
    kinds = (places.ways, places.removals, places.runs, places.branches, places.beside, places.rows)
    assert all(place.frozen is None or place.frozen for kind in kinds for place in kind)
    for edit, made in zip(EDITS, TABLE[name], strict=True):
        if made == "x":
            assert cell(edit, name) > 0, edit
        else:
            with pytest.raises(EditError, match=r": .+") as refusal:
                cell(edit, name)
            assert not isinstance(refusal.value, StaleMapError)


def test_the_table_is_whole_and_every_edit_is_made_on_enough_models() -> None:
    assert {small.name for small in SMALL_ROWS} < {*TABLE}
    assert {"timm/resnet18", "hf/vit", "hf/bert", "hf/gpt2", "hf/llama_gqa"} < {*TABLE}
    assert {len(marks) for marks in TABLE.values()} == {len(EDITS)}
    made = {edit: sum(marks[n] == "x" for marks in TABLE.values()) for n, edit in enumerate(EDITS)}
    assert {edit for edit in EDITS if made[edit] < FEWEST[edit]} == set()
