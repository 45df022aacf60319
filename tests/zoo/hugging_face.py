"""The zoo's Hugging Face models: tiny configurations with random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from . import torchvision_stub
from .row import Row, tokens

VOCABULARY = 61

TEXT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": (
        "BertForSequenceClassification",
        "BertConfig",
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40},
    ),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40},
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 32}),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "ffn_dim": 40,
            "word_embed_proj_dim": 24,
            "max_position_embeddings": 32,
        },
    ),
    "llama_gqa": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "intermediate_size": 40,
        },
    ),
    "qwen2": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "intermediate_size": 40,
        },
    ),
    "t5_encoder": (
        "T5EncoderModel",
        "T5Config",
        {"d_model": 24, "num_layers": 2, "num_heads": 3, "d_kv": 6, "d_ff": 40},
    ),
}

PUBLISHED: dict[str, dict[str, Any]] = {"llama_gqa": {"num_key_value_heads": 8}}


def create(model: str, config: str, settings: dict[str, Any]) -> nn.Module:
    """A Hugging Face model with random weights."""
    torchvision_stub.install()
    import transformers

    return getattr(transformers, model)(getattr(transformers, config)(**settings))


def text_row(name: str, model: str, config: str, settings: dict[str, Any]) -> Row:
    common = {} if name in ("bert", "distilbert", "t5_encoder") else {"use_cache": False}
    return Row(
        name=f"hf/{name}",
        build=partial(create, model, config, {"vocab_size": VOCABULARY, **common, **settings}),
        inputs=tokens(VOCABULARY, 7),
        family="transformer",
        stock=partial(create, model, config, {**common, **PUBLISHED.get(name, {})}),
        stock_inputs=tokens(1000, 32),
    )


def vit(**settings: Any) -> nn.Module:
    """A Hugging Face ViT with random weights."""
    return create("ViTForImageClassification", "ViTConfig", settings)


VIT_SETTINGS = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 16,
}

HF_ROWS = (
    *(text_row(name, *entry) for name, entry in TEXT.items()),
    Row(
        name="hf/vit",
        build=partial(vit, **VIT_SETTINGS),
        inputs=lambda batch: {"pixel_values": torch.randn(batch, 3, 32, 32)},
        family="transformer",
        stock=vit,
        stock_inputs=lambda batch: {"pixel_values": torch.randn(batch, 3, 224, 224)},
    ),
)
