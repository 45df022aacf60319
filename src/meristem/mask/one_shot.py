"""One-shot pruning of a trained model by what its weights read on calibration data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from meristem.errors import SignalError
from meristem.mask.inputs import Hearing
from meristem.mask.masks import Masks
from meristem.mask.select import Chosen, weights_of
from meristem.signals.contraction import Call


class OneShot(ABC):
    """Chooses masks, and new values, for one weight after another. Frozen dataclasses of their settings."""

    @abstractmethod
    def measure(self, call: Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Tensor:
        """What one call of the weight tells; added up over calls."""

    @abstractmethod
    def pruned(self, name: str, weight: Tensor, total: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """The mask and the new values of a weight, both in its shape.

        Args:
            name: of the parameter.
            weight: detached; it stays as it is.
            total: the sum of all measurements.
            call: how it was used.
        """


def one_shot(
    model: nn.Module,
    method: OneShot,
    calibrate: Callable[[], Any],
    *,
    parameters: Chosen = None,
    stages: Sequence[Chosen] = (),
) -> Masks:
    """Prune a trained model once, in place, without training.

        masks = one_shot(model, SparseGPT(density=0.5), lambda: [model(x) for x in batches])

    Args:
        model: the model; put it into eval mode.
        method: `Wanda()` or `SparseGPT()`.
        calibrate: runs the model on calibration data (the papers: 128 sequences); called once for each stage, without
            gradients.
        parameters: which weights; as for `Sparse`.
        stages: choices of parameters to prune one after the other, each hearing the model as the earlier ones left it,
            such as `["layers.0.*", "layers.1.*", ...]`: what the papers do block by block. Default: all at once.

    Returns:
        the masks. `Sparse(model, optimizer, Fixed(masks=masks))` trains on with them.

    Raises:
        ConfigError: nothing matches, or a density that cannot be had.
        SignalError: a chosen weight was not heard; nothing of its stage was touched.
    """
    found: dict[str, Tensor] = {}
    for stage in stages or (parameters,):
        wanted = weights_of(model, stage)
        hearing = Hearing(wanted, method.measure)
        with torch.no_grad(), hearing:
            calibrate()
        silent = [name for name in wanted if name not in hearing.totals]
        if silent:
            raise SignalError(
                f"{', '.join(silent)}: no call was heard that multiplies by them. Leave them out with `parameters=`; "
                "scripted modules hide calls, and so do weights that are used in parts (cross-attention of "
                "nn.MultiheadAttention) or transformed before use"
            )
        with torch.no_grad():
            results = {n: method.pruned(n, p.detach(), hearing.totals[n], hearing.calls[n]) for n, p in wanted.items()}
            for name, (mask, values) in results.items():
                wanted[name].copy_(torch.where(mask, values, 0))
                found[name] = mask
    return Masks(model, found)


def rows(tensor: Tensor, call: Call) -> Tensor:
    """A weight as a matrix for each group: shape (groups, outputs of one, what an output reads)."""
    c = call.contraction
    if call.weight_is_transposed:  # (in, outs / groups, *kernel)
        split = tensor.reshape(c.groups, c.ins // c.groups, c.outs // c.groups, *c.kernel)
        return split.transpose(1, 2).reshape(c.groups, c.outs // c.groups, -1)
    return tensor.reshape(c.groups, c.outs // c.groups, -1)


def unrows(matrix: Tensor, call: Call, shape: torch.Size) -> Tensor:
    """The inverse of `rows`."""
    c = call.contraction
    if call.weight_is_transposed:
        split = matrix.reshape(c.groups, c.outs // c.groups, c.ins // c.groups, *c.kernel)
        return split.transpose(1, 2).reshape(shape)
    return matrix.reshape(shape)


def tapped(matrix: Tensor, taps: int) -> Tensor:
    """The columns of a matrix of `rows`, all inputs for each of the kernel's positions one after the other."""
    return matrix.unflatten(-1, (-1, taps)).transpose(-1, -2).flatten(-2)


def untapped(matrix: Tensor, taps: int) -> Tensor:
    """The inverse of `tapped`."""
    return matrix.unflatten(-1, (taps, -1)).transpose(-1, -2).flatten(-2)


def by_rows(best: Callable[[Tensor], Tensor], scores: Tensor, call: Call) -> Tensor:
    """A choice among the rows of a weight, in its own shape."""
    return unrows(best(rows(scores, call)), call, scores.shape)
