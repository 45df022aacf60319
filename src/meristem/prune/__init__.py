"""Who dies: criteria that score the units of an axis. One file each."""

from meristem.prune.criterion import Criterion, Removal, require_defined
from meristem.prune.magnitude import Magnitude
from meristem.prune.protect import Protect
from meristem.prune.random import Random

__all__ = ["Criterion", "Magnitude", "Protect", "Random", "Removal", "require_defined"]
