"""The models that the benchmarks run on: published sizes, random weights. Imported by both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo.torchvision_stub import install


def timm_model(name: str) -> Callable[[], nn.Module]:
    """A factory of a timm model."""

    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False)

    return build


def bert(layers: int = 12) -> nn.Module:
    """BERT base with a classifier of two classes, of any depth."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(num_hidden_layers=layers))


def llama_134m() -> nn.Module:
    """A Llama of 134 million parameters, one key head for each query head: the peer fails on grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32000,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=12,
            num_attention_heads=12,
            use_cache=False,
        )
    )


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": timm_model("resnet18"),
    "resnet50": timm_model("resnet50"),
    "densenet121": timm_model("densenet121"),
    "vit_base": timm_model("vit_base_patch16_224"),
    "bert_base": bert,
    "llama_134m": llama_134m,
    **{f"bert_{layers}_layers": lambda layers=layers: bert(layers) for layers in (12, 24, 48, 96)},
}


def build(name: str) -> nn.Module:
    """One of the models, in eval mode, always with the same weights."""
    install()
    torch.manual_seed(0)
    return FACTORIES[name]().eval()


def example(name: str) -> dict[str, Any]:
    """An input for it, as keyword arguments or, for images, under the key `x`."""
    torch.manual_seed(1)
    if name.startswith(("bert", "llama")):
        return {"input_ids": torch.randint(0, 1000, (1, 64))}
    return {"x": torch.randn(1, 3, 224, 224)}
