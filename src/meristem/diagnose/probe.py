"""The probe: metrics of plasticity that need a batch of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from meristem.allocate import Selection, choose
from meristem.axes import trace
from meristem.axes.map import AxisMap
from meristem.diagnose.covariance import GradientCovariance, Loss, sample_gradients
from meristem.diagnose.idle import dead_fraction, dormant_fraction, inactive_fraction
from meristem.diagnose.ranks import effective_rank, rank99, stable_rank
from meristem.diagnose.size import mean_magnitude, norm
from meristem.errors import ConfigError, SignalError
from meristem.signals.ends import unheard
from meristem.signals.rows import rows_read


@dataclass(frozen=True)
class AxisProbe:
    """One axis on the probe batch; H holds its activations as its first reader reads them, in all its calls, shape
    (samples * positions, units).

    Attributes:
        units: its size.
        dormant, dead, inactive: shares of units; see `dormant_fraction`, `dead_fraction`, `inactive_fraction`.
        effective_rank, stable_rank, rank99: of H; see the functions of these names.
    """

    units: int
    dormant: float
    dead: float
    inactive: float
    effective_rank: float
    stable_rank: float
    rank99: int


@dataclass(frozen=True)
class Probe:
    """Metrics of plasticity at one moment.

    Attributes:
        loss: on the probe batch.
        axes: by name.
        undefined: axes whose activations cannot be followed, with the reason.
        weight_magnitude: the mean of `|w|` over all trainable parameters.
        gradient_norm: the Euclidean norm of the gradient of the loss with respect to them.
        covariance: of the gradients of single samples; None if it was not asked for.
    """

    loss: float
    axes: Mapping[str, AxisProbe]
    undefined: Mapping[str, str]
    weight_magnitude: float
    gradient_norm: float
    covariance: GradientCovariance | None

    def plain(self) -> dict[str, Any]:
        """As nested dicts, numbers and strings: JSON-able."""
        return asdict(self)

    def numbers(self) -> dict[str, float]:
        """As a flat mapping for trackers."""
        found = {"loss": self.loss, "weight_magnitude": self.weight_magnitude, "gradient_norm": self.gradient_norm}
        if self.covariance is not None:
            found["gradient_cosine"] = self.covariance.mean_cosine
            found["gradient_effective_rank"] = self.covariance.effective_rank
        return {**found, **{f"{name}/{k}": v for name, axis in self.axes.items() for k, v in asdict(axis).items()}}


def probe(
    model: nn.Module | AxisMap,
    inputs: Any,
    targets: Any,
    loss: Loss,
    *,
    axes: Selection = None,
    tau: float = 0.025,
    samples: int = 128,
) -> Probe:
    """Measures a model on a batch: idle units and ranks of every axis, sizes of weights and gradients, and how alike
    the gradients of samples are.

        found = probe(plasticity.axes, x, y, torch.nn.functional.cross_entropy)

    One forward and backward pass in eval mode (without dropout, with the running statistics of BatchNorm), and one
    gradient for each of the first samples. The model, its mode, its gradients and torch's generator are left as they
    were.

    Args:
        model: its map; or the model itself, which is traced first.
        inputs: what it is called with: a tensor, a tuple of arguments or a dict of keyword arguments, samples first.
        targets: what the loss compares with: tensors, samples first.
        loss: `loss(outputs, targets)`, the mean over samples.
        axes: which axes: patterns of names, a predicate, or all editable ones (None).
        tau: of the dormant fraction.
        samples: for how many samples the gradient covariance is computed, at most (it takes samples * parameters
            numbers of memory); 0 for none.

    Raises:
        ConfigError: `samples` is negative, or the loss depends on no trainable parameter.
        SignalError: no weight that reads an axis was called in the pass, as far as could be heard.
    """
    if samples < 0:
        raise ConfigError(f"probe(samples=...) must be at least 0, got {samples!r}")
    found = model if isinstance(model, AxisMap) else trace(model, inputs)
    args, kwargs = _call(inputs)
    reasons = {axis.name: unheard(found, axis) for axis in choose(found, axes)}
    wanted = [found.by_name[name] for name, reason in reasons.items() if reason is None]
    parameters = [p for p in found.model.parameters() if p.requires_grad]
    with _at_rest(found.model):
        with torch.enable_grad(), rows_read(found, wanted) as rows:
            value = loss(found.model(*args, **kwargs), targets)
        if not value.requires_grad:
            raise ConfigError("the loss depends on no trainable parameter; there is nothing to measure")
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        silent = [axis.name for axis in wanted if axis.name not in rows.found]
        if silent:
            raise SignalError(f"no call was heard that reads {', '.join(silent)}; leave them out with `axes=`")
        covariance = None
        if samples:
            few = tree_map(lambda x: x[:samples] if isinstance(x, Tensor) else x, (args, kwargs, targets))
            covariance = GradientCovariance.of(*sample_gradients(found.model, few[0], few[1], few[2], loss))
    return Probe(
        loss=float(value.detach()),
        axes={axis.name: _probed(rows.of(axis.name), tau) for axis in wanted},
        undefined={name: reason for name, reason in reasons.items() if reason is not None},
        weight_magnitude=mean_magnitude(parameters),
        gradient_norm=norm(g for g in gradients if g is not None),
        covariance=covariance,
    )


def _probed(h: Tensor, tau: float) -> AxisProbe:
    return AxisProbe(
        units=h.shape[1],
        dormant=dormant_fraction(h, tau),
        dead=dead_fraction(h),
        inactive=inactive_fraction(h),
        effective_rank=effective_rank(h),
        stable_rank=stable_rank(h),
        rank99=rank99(h),
    )


def _call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """In eval mode; every module's mode and torch's generator as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
