"""Who dies: criteria that score the units of an axis, and penalties that make units dispensable. One file each."""

from meristem.prune.criterion import Criterion, Removal, require_defined
from meristem.prune.magnitude import Magnitude
from meristem.prune.penalty import Penalty
from meristem.prune.polarization import Polarization, polarization, valley
from meristem.prune.protect import Protect
from meristem.prune.random import Random
from meristem.prune.scales import batch_norm_scales, removals
from meristem.prune.slimming import Slimming

__all__ = [
    "Criterion",
    "Magnitude",
    "Penalty",
    "Polarization",
    "Protect",
    "Random",
    "Removal",
    "Slimming",
    "batch_norm_scales",
    "polarization",
    "removals",
    "require_defined",
    "valley",
]
