"""OnEffectiveDimension: when an axis uses nearly all of its directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.edit.succession import Succession
from meristem.errors import ConfigError, EditError
from meristem.schedule.looking import Looking
from meristem.schedule.schedule import State
from meristem.signals import Activations, Statistic, View
from meristem.signals.finite import require_finite


def effective_dimension(gram: Tensor, cutoff: float = 0.01) -> int:
    """The number of directions that activations use.

    Maile et al., arXiv 2202.08539: with H the activations (units x samples) of n samples,

        ED(H) = number of singular values of H / sqrt(n) above the cutoff

    and the singular values are the roots of the eigenvalues of the Gram matrix `H H^T / n`.

    Args:
        gram: second moment of the activations, mean over samples and positions; shape (units, units), symmetric.
        cutoff: singular values up to this do not count; in the unit of the activations.

    Returns:
        between 0 and units. Eigenvalues that rounding in float64 could have made do not count.

    Raises:
        SignalError: the second moment is not finite.
    """
    eigenvalues = torch.linalg.eigvalsh(require_finite(gram, "the second moment of activations").double())
    rounding = len(gram) * torch.finfo(torch.float64).eps * eigenvalues.abs().max()
    return int((eigenvalues > eigenvalues.new_tensor(cutoff**2).maximum(rounding)).sum())


@dataclass(frozen=True)
class OnEffectiveDimension(Looking):
    """When the activations of an axis use nearly as many directions as are expected of it: the trigger of NORTH*.

    Maile, Rachelson, Luga, Wilson, "When, where, and how to add new neurons to ANNs", AutoML-Conf 2022, arXiv
    2202.08539. At every look, for every axis with `size` units and effective dimension ED (see `effective_dimension`),

        threshold = floor(share * expected * size)          grow by ED - threshold units if that is positive

    Attributes:
        interval, start, grow: as for every schedule that looks at signals; `grow=None` is the paper's number of units.
        share: the share gamma of the expected dimension from which on an axis grows. The authors' code has 0.97 for
            dense networks and 0.9 for VGG and WideResNets.
        expected: effective dimension per unit that is expected of an axis. None (default): as at the first look, raised
            whenever more is seen; so an axis may grow by a share `1 - share` of its dimension at the first look. 1.0:
            all units are expected to be used.
        cutoff: see `effective_dimension`.

    Raises:
        EditError: (from the controller) the activations of a chosen axis cannot be recorded.

    Fails: the cutoff is absolute, so activations of large scale count as using every direction, tiny ones as using
    none; with fewer samples than units the dimension is bounded by the samples.
    """

    share: float = 0.97
    expected: float | None = None
    cutoff: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("share", "expected"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"OnEffectiveDimension({name}=...) must be above 0 and at most 1, got {value!r}")
        if not self.cutoff >= 0:
            raise ConfigError(f"OnEffectiveDimension(cutoff=...) must be at least 0, got {self.cutoff!r}")

    def initial(self) -> State:
        return {"expected": []}  # pairs of axis name and dimension per unit

    def moved(self, state: State, succession: Succession) -> State:
        found = succession.carried(dict(state["expected"]), max)
        return {"expected": [[name, value] for name, value in found.items()]}

    def needs(self, axes: AxisMap, chosen: Sequence[Axis]) -> tuple[Statistic, ...]:
        statistics = [(axis, Activations(axis.name)) for axis in chosen]
        bad = [f"{a.name} ({why})" for a, s in statistics if (why := s.undefined(axes, a)) is not None]
        if bad:
            raise EditError(
                f"OnEffectiveDimension cannot see the activations of: {'; '.join(bad)}. Leave these axes out with "
                "`axes=`."
            )
        return tuple(statistic for _, statistic in statistics)

    def wanted(self, view: View, chosen: Sequence[Axis], state: State) -> tuple[Mapping[str, int], State]:
        dimensions = {a: effective_dimension(view.signals[Activations(a.name)], self.cutoff) for a in chosen}
        expected: dict[str, float] = dict(state["expected"])
        for axis, dimension in dimensions.items():
            seen = max(expected.get(axis.name, 0.0), dimension / axis.size)
            expected[axis.name] = seen if self.expected is None else self.expected
        found = {a.name: max(0, d - self._threshold(expected[a.name], a)) for a, d in dimensions.items()}
        return found, {"expected": [[name, value] for name, value in expected.items()]}

    def _threshold(self, expected: float, axis: Axis) -> int:
        return math.floor(self.share * expected * axis.size)
