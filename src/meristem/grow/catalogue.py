"""All growth methods, for messages, tables in the docs, and the tests that every method must pass."""

from __future__ import annotations

from collections.abc import Iterable

from meristem.axes.map import Axis, AxisMap
from meristem.errors import EditError
from meristem.grow.aki import AKI
from meristem.grow.candidates import Candidates
from meristem.grow.fast_splitting import FastSplitting
from meristem.grow.firefly import Firefly
from meristem.grow.fresh import Fresh
from meristem.grow.gradmax import GradMax
from meristem.grow.gradmax_opt import GradMaxOpt
from meristem.grow.hypercloning import HyperCloning
from meristem.grow.lemon import Lemon
from meristem.grow.method import Method
from meristem.grow.mitosis import Mitosis
from meristem.grow.net2wider import Net2Wider
from meristem.grow.north_opt import NorthOpt
from meristem.grow.north_pre import NorthPre
from meristem.grow.north_select import NorthSelect
from meristem.grow.north_weight import NorthWeight
from meristem.grow.paired import Paired
from meristem.grow.random import Random
from meristem.grow.senn import SENN
from meristem.grow.splitting import Splitting
from meristem.grow.swe import SWE
from meristem.grow.tiny import TINY
from meristem.grow.variance_transfer import VarianceTransfer
from meristem.grow.zero_extension import ZeroExtension
from meristem.grow.zero_fan_out import ZeroFanOut

METHODS: tuple[Method, ...] = (
    AKI(),
    Candidates(),
    FastSplitting(),
    Firefly(),
    Fresh(),
    GradMax(),
    GradMaxOpt(),
    HyperCloning(),
    Lemon(),
    Mitosis(),
    Net2Wider(),
    NorthOpt(),
    NorthPre(),
    NorthSelect(),
    NorthWeight(),
    Paired(),
    Random(),
    SENN(),
    Splitting(),
    SWE(),
    TINY(),
    VarianceTransfer(),
    ZeroExtension(),
    ZeroFanOut(),
)
"""One of each growth method, with its default settings."""


def require_defined(method: Method, axes: AxisMap, chosen: Iterable[Axis]) -> None:
    """Raise `EditError` naming every chosen axis for which the method is not defined or where its newborns would never
    learn, why, and which methods are defined."""
    bad = [(axis, reason) for axis in chosen if (reason := method.refused(axes, axis)) is not None]
    if bad:
        lines = "; ".join(f"{axis.name} ({reason}; defined: {_defined(axes, axis)})" for axis, reason in bad)
        raise EditError(
            f"{type(method).__name__} is not defined for: {lines}. Leave these axes out with `axes=`, or use a method "
            "that is defined for them."
        )


def _defined(axes: AxisMap, axis: Axis) -> str:
    names = [type(method).__name__ for method in METHODS if method.refused(axes, axis) is None]
    return ", ".join(names) or "none"
