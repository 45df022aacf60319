"""The zoo's timm models, narrower and shallower than published, fed with small images."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from . import torchvision_stub
from .row import Row, image

SMALL: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (64, {"channels": (16, 24, 32, 40)}),
    "vgg11_bn": (32, {"mlp_ratio": 1 / 64}),
    "densenet121": (64, {"growth_rate": 8, "block_config": (2, 3, 2, 2)}),
    "mobilenetv2_100": (64, {}),
    "efficientnet_b0": (64, {}),
    "convnext_tiny": (64, {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 48)}),
    "vit_tiny_patch16_224": (32, {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "swin_tiny_patch4_window7_224": (56, {"img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "regnetx_002": (64, {}),
    "inception_v3": (75, {}),
    "ghostnet_100": (64, {}),
    "mobilevit_xxs": (64, {}),
    "maxvit_tiny_tf_224": (64, {"img_size": 64, "embed_dim": (32, 64), "depths": (1, 1), "stem_width": 16}),
    "pvt_v2_b0": (64, {"depths": (1, 1, 1, 1), "embed_dims": (16, 24, 40, 48), "num_heads": (1, 2, 5, 6)}),
    "poolformer_s12": (64, {}),
    "res2net50_26w_4s": (64, {"layers": (1, 2, 1, 1), "channels": (32, 48, 64, 80)}),
    "hrnet_w18_small": (64, {}),
    "xcit_nano_12_p16_224": (32, {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4}),
    "cait_xxs24_224": (32, {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 4}),
    "skresnet18": (64, {"channels": (32, 48, 64, 80)}),
    "levit_128s": (
        64,
        {"img_size": 64, "embed_dim": (32, 48, 64), "key_dim": 8, "num_heads": (2, 3, 4), "depth": (1, 2, 1)},
    ),
}

TRANSFORMERS = {
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
    "mobilevit_xxs",
    "maxvit_tiny_tf_224",
    "pvt_v2_b0",
    "poolformer_s12",
    "xcit_nano_12_p16_224",
    "cait_xxs24_224",
    "levit_128s",
}

PUBLISHED_SIZE = {"inception_v3": 299}


def create(name: str, **kwargs: Any) -> nn.Module:
    """A timm model with random weights."""
    torchvision_stub.install()
    import timm

    return timm.create_model(name, pretrained=False, **kwargs)


TIMM_ROWS = tuple(
    Row(
        name=f"timm/{name}",
        build=partial(create, name, num_classes=7, **kwargs),
        inputs=image(size),
        family="transformer" if name in TRANSFORMERS else "convolutional",
        stock=partial(create, name),
        stock_inputs=image(PUBLISHED_SIZE.get(name, 224)),
    )
    for name, (size, kwargs) in SMALL.items()
)
