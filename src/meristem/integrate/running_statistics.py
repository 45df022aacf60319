"""RunningStatistics: batch normalization knows a newborn's mean and variance from its birth on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from meristem.axes.expression import leaves, units_along
from meristem.errors import CheckpointError, ConfigError
from meristem.integrate.integrator import Cohorts, Integrator
from meristem.integrate.last_batch import LastBatch

STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class RunningStatistics(Integrator):
    """Running means and variances of newborns are measured at birth; then they are averages over the batches since, and
    of nothing else.

    At birth the grown model is run once more on the batch of that step (the last forward pass of it), in training mode
    and without gradients, and newborns' statistics are those of this batch. For that the model has a hook that keeps
    its last batch. Where there is none (no step yet, a compiled model, a model whose parts are called one by one), or
    the model is in eval mode, they begin with 0 and 1.

    What running statistics begin with, the exponential average of momentum m forgets by a share m at every batch,
    however little it fits the newborn as it has become. The average over the t batches since birth alone is got by
    taking that beginning out again, as Adam takes the bias out of its moments (derived). After every optimizer step,
    with `old` what stood there after the step before,

        running <- old + (running - old) / (1 - (1 - m) ** t).

    With cumulative averages (`momentum=None`) the factor is n / t, with n the number of batches that the layer has seen
    in its life. The layer's own count of batches says how many there were, so gradient accumulation is right, too.

    Exact: it is what a new layer of the same settings would have gathered from the same batches, rid of its beginning.
    One forward pass for each edit. Copies keep what they took over from their parent.

    Preserved: training, in which running statistics have no part; incumbents' statistics, bit for bit.
    Fails: layers other than PyTorch's `BatchNorm*` and `SyncBatchNorm` and classes derived from them stay as they are
    (`InstanceNorm*` do not count their batches). The first batch is noisy: with few samples per batch so are a
    newborn's statistics, for about 1 / m batches.

    Args:
        tolerance: newborns are left to the layer as soon as the factor is this close to 1. Default: 0.001, after 66
            batches with momentum 0.1.

    Raises:
        ConfigError: the tolerance is not between 0 and 1.
    """

    measures: ClassVar[bool] = True

    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"RunningStatistics: expected a tolerance between 0 and 1, got {self.tolerance!r}")

    def upkeep(self, cohorts: Cohorts, memory: Any) -> _Layers | None:
        if cohorts.batch is not None and not cohorts.resumed:
            _measure(cohorts, cohorts.batch)
        layers = list(_layers(cohorts, memory or {}, self.tolerance))
        return _Layers(layers) if layers else None


@dataclass(frozen=True, eq=False)
class _Layers:
    """All normalization layers with newborns that are still being measured."""

    layers: list[_Layer]

    def after(self, updates: Mapping[int, int]) -> bool:
        """Take the beginning out of all running statistics."""
        for layer in list(self.layers):
            if not layer.after(updates):
                self.layers.remove(layer)
        return bool(self.layers)

    def memory(self) -> dict[str, Any]:
        """By the name of the layer."""
        return {layer.name: layer.memory() for layer in self.layers}


class _Layer:
    """One normalization layer with newborns that are still being measured.

    Args:
        name: of the module.
        module: the layer.
        births: the birth of the newborn that each index of its statistics belongs to, -1 for none.
        since: by birth, how many batches the layer had seen by then.
        tolerance: how close to 1 a factor is as good as 1.
    """

    def __init__(
        self, name: str, module: _BatchNorm, births: Tensor, since: Mapping[int, Tensor | int], tolerance: float
    ) -> None:
        self.name, self._module, self._tolerance = name, module, tolerance
        self._all, self._since = births, dict(since)
        self._windows = {birth: self._window(birth) for birth in self._since}
        self._choose()
        self._seen: Tensor | int = self._batches()
        self._before = self._read()

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on where `memory` was written, whatever the layer holds now: it may be loaded later."""
        lists = [memory[key] for key in STATISTICS]
        if any(len(values) != len(self._index) for values in lists):
            raise CheckpointError(f"the memory of RunningStatistics does not fit the newborns of {self.name}")
        self._seen = int(memory["batches"])
        self._before = [torch.tensor(v, dtype=torch.float64, device=self._index.device) for v in lists]

    @torch.no_grad()
    def after(self, updates: Mapping[int, int]) -> bool:
        """Take the beginning out; returns whether more is to be done at later steps."""
        self._seen = self._batches()
        count = self._seen - self._start
        factor = torch.where(count > 0, self._factor(self._seen.double(), count.double().clamp(min=1)), 1.0)
        found = [old + (new - old) * factor for old, new in zip(self._before, self._read(), strict=True)]
        for name, values in zip(STATISTICS, found, strict=True):
            buffer = self._module.get_buffer(name)
            buffer.index_copy_(0, self._index, values.to(buffer))
        done = [birth for birth in self._since if updates[birth] >= self._windows[birth]]
        for birth in done:
            del self._since[birth]
        if done:
            self._choose()
        self._before = self._read()
        return bool(self._since)

    def memory(self) -> dict[str, Any]:
        """Since when each birth is measured, and what stood there after the last step."""
        statistics = {key: values.tolist() for key, values in zip(STATISTICS, self._before, strict=True)}
        since = {str(birth): int(batches) for birth, batches in self._since.items()}
        return {"since": since, "batches": int(self._seen), **statistics}

    def _choose(self) -> None:
        """The indices that are measured, and how many batches the layer had seen when each was born."""
        measured = torch.isin(self._all, torch.tensor(list(self._since), dtype=torch.int64))
        births, cohort = self._all[measured].unique(return_inverse=True)
        device = self._batches().device
        start = [torch.as_tensor(self._since[birth], device=device) for birth in births.tolist()]
        self._start = torch.stack([torch.zeros_like(self._batches()), *start])[1:][cohort.to(device)]
        self._index = measured.nonzero().flatten().to(device)

    def _read(self) -> list[Tensor]:
        return [self._module.get_buffer(name)[self._index].double() for name in STATISTICS]

    def _batches(self) -> Tensor:
        return self._module.get_buffer("num_batches_tracked").clone()

    def _factor(self, total: Tensor, count: Tensor) -> Tensor:
        momentum = self._module.momentum
        return total / count if momentum is None else 1 / (1 - (1 - momentum) ** count)

    def _window(self, birth: int) -> float:
        """After how many batches the factor is as good as 1."""
        momentum = self._module.momentum
        if momentum is None:
            return int(self._since[birth]) / self._tolerance
        return math.log(self._tolerance / (1 + self._tolerance)) / math.log(1 - momentum) if momentum < 1 else 1


def _measure(cohorts: Cohorts, batch: LastBatch) -> None:
    """Give newborns of today the statistics of a batch, as the layers themselves compute them: with momentum 1 these
    are their running statistics. All other buffers stay as they are."""
    model = cohorts.axes.model
    found = {name: (module, _births(cohorts, f"{name}.{STATISTICS[0]}")[1]) for name, module in _kept(model)}
    born = {name: (module, new) for name, (module, new) in found.items() if module.training and bool(new.any())}
    if not born:
        return
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    momenta = {name: module.momentum for name, (module, _) in born.items()}
    measured: dict[str, Tensor] = {}
    try:
        for module, _ in born.values():
            module.momentum = 1.0
        if batch.repeat(model):
            buffers = dict(model.named_buffers())
            measured = {f"{name}.{key}": buffers[f"{name}.{key}"].clone() for name in born for key in STATISTICS}
    finally:
        for name, momentum in momenta.items():
            born[name][0].momentum = momentum
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
    for name, values in measured.items():
        new = born[name.rpartition(".")[0]][1].to(values.device)
        buffer = model.get_buffer(name)
        buffer[new] = values[new]


def _kept(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """The layers that gather running statistics, by name."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.num_batches_tracked is not None and module.momentum != 0:
            yield name, module


def _layers(cohorts: Cohorts, memory: Mapping[str, Any], tolerance: float) -> Iterator[_Layer]:
    for name, module in _kept(cohorts.axes.model):
        births, new = _births(cohorts, f"{name}.{STATISTICS[0]}")
        known = memory.get(name, {})
        since: dict[int, Tensor | int] = {int(birth): int(count) for birth, count in known.get("since", {}).items()}
        since = {birth: count for birth, count in since.items() if bool((births == birth).any())}
        for birth in births[new].unique().tolist():
            since[birth] = module.get_buffer("num_batches_tracked").clone()
        if since:
            layer = _Layer(name, module, births, since, tolerance)
            if cohorts.resumed:
                layer.recall(known)
            yield layer


def _births(cohorts: Cohorts, name: str) -> tuple[Tensor, Tensor]:
    """The birth of the newborn that each index of a statistic belongs to, -1 for none; and which were born just now."""
    axes = cohorts.axes
    layout = axes.layouts.get(name)
    if layout is None:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
    births = torch.full(layout.shape(axes.sizes), -1)
    new = torch.zeros(layout.shape(axes.sizes), dtype=torch.bool)
    for number in dict.fromkeys(leaves(layout.dims[0])):
        axis = axes.axes[number]
        units = units_along(layout.dims[0], number, axes.sizes)
        born = torch.where(units < 0, -1, cohorts.young(axis, math.inf)[units.clamp(min=0)])
        births = torch.maximum(births, born)
        if axis.name in cohorts.new:
            new |= (born >= 0) & cohorts.new[axis.name][units.clamp(min=0)]
    return births, new
