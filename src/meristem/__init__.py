"""meristem grows and prunes any PyTorch model while it trains."""

from meristem import (
    allocate,
    callbacks,
    depth,
    diagnose,
    edit,
    errors,
    grow,
    integrate,
    ledger,
    mask,
    prune,
    recipes,
    schedule,
)
from meristem.axes import Axis, AxisMap, trace
from meristem.edit import Edit, load, replay, save
from meristem.plasticity import Plasticity

__version__ = "0.1.0"

__all__ = [
    "Axis",
    "AxisMap",
    "Edit",
    "Plasticity",
    "allocate",
    "callbacks",
    "depth",
    "diagnose",
    "edit",
    "errors",
    "grow",
    "integrate",
    "ledger",
    "load",
    "mask",
    "prune",
    "recipes",
    "replay",
    "save",
    "schedule",
    "trace",
]
