"""All criteria, for messages, tables in the docs, and the tests that every criterion must pass."""

from __future__ import annotations

from collections.abc import Iterable

from meristem.axes.map import Axis, AxisMap
from meristem.errors import EditError
from meristem.prune.activation_variance import ActivationVariance
from meristem.prune.apoz import APoZ
from meristem.prune.batch_norm_scale import BatchNormScale
from meristem.prune.compensated import Compensated
from meristem.prune.contribution import MeanKept
from meristem.prune.criterion import Criterion
from meristem.prune.dormancy import Dormancy
from meristem.prune.fpgm import FPGM
from meristem.prune.gradient_dormancy import GradientDormancy
from meristem.prune.grasp import GraSP
from meristem.prune.group_norm import GroupNorm
from meristem.prune.isomorphic import Isomorphic
from meristem.prune.lamp import LAMP
from meristem.prune.magnitude import Magnitude
from meristem.prune.norm_product import NormProduct
from meristem.prune.normalized import Normalized
from meristem.prune.protect import Protect
from meristem.prune.random import Random
from meristem.prune.snip import SNIP
from meristem.prune.taylor import Taylor
from meristem.prune.taylor_weights import TaylorWeights
from meristem.prune.wanda_units import WandaUnits
from meristem.prune.wrapper import Wrapper

CRITERIA: tuple[Criterion, ...] = (
    ActivationVariance(),
    APoZ(),
    BatchNormScale(),
    Dormancy(),
    FPGM(),
    GradientDormancy(),
    GraSP(),
    GroupNorm(),
    Magnitude(),
    NormProduct(),
    Random(),
    SNIP(),
    Taylor(),
    TaylorWeights(),
    WandaUnits(),
)
"""One of each criterion, with its default settings."""

WRAPPERS: tuple[type[Wrapper], ...] = (Compensated, Isomorphic, LAMP, MeanKept, Normalized, Protect)
"""What changes another criterion, given as `criterion`."""

BY_NAME: dict[str, type[Criterion]] = {kind.__name__: kind for kind in (*map(type, CRITERIA), *WRAPPERS)}
"""Every criterion, and everything that changes one."""


def require_defined(criterion: Criterion, axes: AxisMap, chosen: Iterable[Axis]) -> None:
    """Raise `EditError` naming every chosen axis for which a criterion is not defined, why, and which criteria are."""
    bad = [(axis, reason) for axis in chosen if (reason := criterion.undefined(axes, axis)) is not None]
    if bad:
        lines = "; ".join(f"{axis.name} ({reason}; defined: {_defined(axes, axis)})" for axis, reason in bad)
        raise EditError(
            f"{type(criterion).__name__} is not defined for: {lines}. Leave these axes out with `axes=`, or use a "
            "criterion that is defined for them."
        )


def _defined(axes: AxisMap, axis: Axis) -> str:
    return ", ".join(type(criterion).__name__ for criterion in CRITERIA if criterion.undefined(axes, axis) is None)
