"""Activations that change nothing where they have been applied already: what an identity layer can be followed by."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from meristem.axes.flow import Flow, Version
from meristem.axes.recorder import Call, Ref
from meristem.edit.tree import Built

_REARRANGES = {
    "aten.view", "aten.reshape", "aten._unsafe_view", "aten.permute", "aten.transpose", "aten.unsqueeze",
    "aten.squeeze",
    "aten.expand", "aten.flatten", "aten.unflatten", "aten.movedim", "aten.slice", "aten.select", "aten.split",
    "aten.chunk", "aten.unbind", "aten.cat", "aten.stack", "aten.roll", "aten.index_select", "aten.to", "aten.clone",
    "aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", "aten.adaptive_max_pool2d", "aten.amax",
}  # fmt: skip
"""Operators whose entries are entries of their arguments."""

_KEEPS_SIGN = {
    "aten.dropout", "aten.feature_dropout", "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d", "aten.mean",
    "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d", "aten.sum",
    "aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_bilinear2d", "aten.add",
}  # fmt: skip
"""Operators whose entries are at least 0 if those of their arguments are."""

_DEFAULTS = (nn.Hardtanh().min_val, nn.Hardtanh().max_val)
_LOWER_BOUNDED = {"aten.relu", "aten.sigmoid", "aten.exp", "aten.softmax", "aten.softplus", "aten.abs", "aten.square"}


@dataclass(frozen=True)
class Range:
    """An activation that clamps every entry to a range, so that it changes nothing that is within.

    Attributes:
        low, high: the range; None where there is no bound.
    """

    low: float
    high: float | None

    def holds(self, value: float) -> bool:
        """Whether a number is within."""
        return self.low <= value and (self.high is None or value <= self.high)

    @property
    def node(self) -> Built:
        """The activation as a module."""
        if self.high is None:
            return Built(build="ReLU")
        return Built(build="Hardtanh", options={"min_val": self.low, "max_val": self.high})


def clamped(flow: Flow, version: Version) -> Range | None:
    """The activation that would change nothing of a tensor in any mode, because entries come out of it; None if no such
    one is known. ReLU and clamps (ReLU6, hard tanh) are; GELU, SiLU, tanh are not idempotent."""
    if version.call < 0:
        return None
    call = flow.recording.calls[version.call]
    if version.number not in call.outputs:
        return None  # somebody wrote into memory that it shares
    own = clamp(call)
    if own is not None:
        return own
    if call.name not in _REARRANGES | _KEEPS_SIGN:
        return Range(0.0, None) if call.name in _LOWER_BOUNDED else None
    sources = [flow.version(number, version.call) for number in _tensors(call)]
    if not sources or any(source not in flow.active for source in sources):
        return None
    found = {clamped(flow, source) for source in sources}
    if len(found) == 1 and call.name in _REARRANGES:
        return found.pop()
    if all(each is not None and each.low >= 0 for each in found):
        return Range(0.0, None)
    return None


def fixed_by(flow: Flow, version: Version, call: Call) -> Range | None:
    """The range of an activation that changes nothing of a tensor, or None if it is none or may change something."""
    own, found = clamp(call), clamped(flow, version)
    if own is None or found is None or found.low < own.low:
        return None
    return own if own.high is None or (found.high is not None and found.high <= own.high) else None


def clamp(call: Call) -> Range | None:
    """The range to which an operator clamps every entry; None if it does something else."""
    if call.name == "aten.relu":
        return Range(0.0, None)
    if call.name == "aten.relu6":
        return Range(0.0, 6.0)
    if call.name == "aten.hardtanh":
        low, high = (*call.args[1:3], *_DEFAULTS[len(call.args) - 1 :])[:2]
        return Range(float(low), float(high))
    return None


def _tensors(call: Call) -> list[int]:
    """The numbers of the tensors among the positional arguments, also in lists."""
    found: list[int] = []
    for argument in call.args:
        entries = argument if isinstance(argument, (list, tuple)) else (argument,)
        found += [entry.value for entry in entries if isinstance(entry, Ref)]
    return found
