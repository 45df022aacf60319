"""Net2Deeper: an identity layer, followed by the activation that has been applied already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from meristem.axes.running import untouched
from meristem.depth.fixed import clamped
from meristem.depth.inserted import Inserted, Spot
from meristem.depth.memory import written_through
from meristem.edit.plant import Planting
from meristem.edit.tree import Built, Node
from meristem.errors import ConfigError, EditError


@dataclass(frozen=True)
class Net2Deeper(Inserted):
    """A layer with identity weights, a normalization if wanted, and the activation that the tensor comes from.

    Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016, arXiv 1511.05641, section 2.4: `W = I` for a linear layer, a kernel
    that is 1 in its centre for a convolution, no bias at first (0). Exact where the activation changes nothing that
    has been through it: ReLU(ReLU(x)) = ReLU(x), and so for clamps; also where pooling, dropout or a concatenation
    stand between. Elsewhere, behind GELU, SiLU, tanh, nothing of this kind is exact and it refuses.

    With `norm=True` a batch normalization stands between the layer and the activation. Its running statistics are those
    of the tensor on `batch`, mean `m` and biased variance `v`, and its scale `sqrt(v + eps)` and shift `m` undo them:
    so the function is preserved in eval mode, and in train mode on that batch. (In train mode on another batch it
    normalizes by other statistics, as it would anywhere.) Without a batch `m = 0`, `v = 1`: exact in eval mode only.

    Preserved: the function, to rounding, as said.

    Args:
        kernel: size of a convolution's window, odd. Default: 3.
        norm: whether a batch normalization stands behind the layer. Default: no.
        batch: an input of the model, given as to `trace`, to measure the statistics on. Default: none.

    Raises:
        ConfigError: the kernel is even, or below 1.
        EditError: the tensor does not come from an idempotent activation, or has no known features.
    """

    kernel: int = 3
    norm: bool = False
    batch: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"Net2Deeper: kernel must be odd and at least 1, got {self.kernel}")

    def node(self, spot: Spot) -> Node:
        """Layer, normalization, activation."""
        activation = clamped(spot.flow, spot.version)
        if activation is None:
            raise EditError(
                f"{spot.place.name}: the tensor does not come from an activation that is idempotent, such as ReLU, so "
                "no identity layer with an activation preserves the function; insert a ZeroResidual instead"
            )
        width = spot.width
        layers: list[Node] = [spot.layer(width, width, self.kernel)]
        layers += [spot.batch_norm(width)] if self.norm else []
        layers.append(activation.node)
        if any(written_through(flow, call, spot.place.side) for flow, call in spot.calls()):
            layers.append(Built(build="Fresh"))  # the derivative of the activation needs what it returned
        return Built(build="Sequential", children={str(n): layer for n, layer in enumerate(layers)})

    def start(self, spot: Spot, module: nn.Module, planting: Planting) -> None:
        """Identity weights; the normalization undoes the statistics of the batch."""
        layer, *others = module.children()
        _set_identity(layer)
        if self.norm:
            found = None if self.batch is None else passing(spot, planting.model, self.batch)
            _undo_statistics(others[0], found, spot.place.features or 0)

    def inexact(self) -> tuple[str, ...]:
        """Nothing, but for batch normalization without a batch in train mode."""
        if self.norm and self.batch is None:
            return ("batch normalization in train mode; give a batch to start it from",)
        return ()


def passing(spot: Spot, model: nn.Module, batch: Any) -> Tensor:
    """The tensor that passes a place on a batch, in the mode that the model is in; the model is left untouched."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, given: tuple[Tensor, ...], returned: Tensor) -> None:
        kept.append(returned if spot.place.side == "after" else given[0])

    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    handle = model.get_submodule(spot.place.module).register_forward_hook(keep)
    try:
        with untouched(model), torch.no_grad():
            if isinstance(batch, Mapping):
                model(**batch)
            else:
                model(*batch) if isinstance(batch, tuple) else model(batch)
    finally:
        handle.remove()
        for buffer, value in buffers:
            buffer.copy_(value)
    return kept[0].detach().clone()


def _set_identity(layer: nn.Module) -> None:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor), "spot.layer gives linear layers and convolutions"
    if weight.dim() == 2:
        nn.init.eye_(weight)
    else:
        nn.init.dirac_(weight)
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)


def _undo_statistics(norm: nn.Module, batch: Tensor | None, features: int) -> None:
    """Set the running statistics, scale and shift so that they cancel."""
    if batch is not None:
        others = [d for d in range(batch.dim()) if d != features]
        variance, mean = torch.var_mean(batch, dim=others, correction=0)
        _tensor(norm, "running_mean").copy_(mean)
        _tensor(norm, "running_var").copy_(variance)
    eps = float(norm.eps) if isinstance(norm.eps, float) else 0.0
    _tensor(norm, "weight").copy_((_tensor(norm, "running_var") + eps).sqrt())
    _tensor(norm, "bias").copy_(_tensor(norm, "running_mean"))


def _tensor(module: nn.Module, name: str) -> Tensor:
    found = getattr(module, name)
    assert isinstance(found, Tensor), f"a batch normalization has {name}"
    return found
