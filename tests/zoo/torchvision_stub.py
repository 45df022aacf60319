"""Makes timm importable where torchvision's compiled operators do not match the installed torch.

timm imports torchvision, and torchvision's import fails if its operators are not registered. Declaring the two that
its import looks for is enough: no model of the zoo calls them.
"""

from __future__ import annotations

import sys

import torch

_library: list[torch.library.Library] = []


def install() -> None:
    """Import torchvision, declaring its two detection operators first if its own library did not."""
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.append(library)
        import torchvision  # noqa: F401
