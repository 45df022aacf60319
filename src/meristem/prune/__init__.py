"""Who dies: criteria that score the units of an axis, and penalties that make units dispensable. One file each."""

from meristem.prune.activation_variance import ActivationVariance
from meristem.prune.apoz import APoZ
from meristem.prune.batch_norm_scale import BatchNormScale
from meristem.prune.catalogue import CRITERIA, WRAPPERS, require_defined
from meristem.prune.compensated import Compensated
from meristem.prune.contribution import ContributionUtility, MeanKept
from meristem.prune.criterion import Criterion, Removal
from meristem.prune.cubic import Cubic, Gone
from meristem.prune.dormancy import Dormancy
from meristem.prune.fold import fold
from meristem.prune.fpgm import FPGM
from meristem.prune.gradient_dormancy import GradientDormancy
from meristem.prune.grasp import GraSP
from meristem.prune.group_norm import GroupNorm
from meristem.prune.group_sparsity import GroupSparsity
from meristem.prune.isomorphic import Isomorphic
from meristem.prune.lamp import LAMP
from meristem.prune.latency import latency, latency_ratio
from meristem.prune.magnitude import Magnitude
from meristem.prune.norm_product import NormProduct
from meristem.prune.normalized import Normalized
from meristem.prune.penalty import Penalty
from meristem.prune.polarization import Polarization, polarization, valley
from meristem.prune.protect import Protect
from meristem.prune.random import Random
from meristem.prune.rewind import Snapshot, fresh
from meristem.prune.scales import batch_norm_scales, removals
from meristem.prune.slimming import Slimming
from meristem.prune.snip import SNIP
from meristem.prune.soft import silence
from meristem.prune.targets import least_within, measured, most_within
from meristem.prune.taylor import Taylor
from meristem.prune.taylor_weights import TaylorWeights
from meristem.prune.wanda_units import WandaUnits
from meristem.prune.wrapper import Wrapper

__all__ = [
    "CRITERIA",
    "FPGM",
    "LAMP",
    "SNIP",
    "WRAPPERS",
    "APoZ",
    "ActivationVariance",
    "BatchNormScale",
    "Compensated",
    "ContributionUtility",
    "Criterion",
    "Cubic",
    "Dormancy",
    "Gone",
    "GraSP",
    "GradientDormancy",
    "GroupNorm",
    "GroupSparsity",
    "Isomorphic",
    "Magnitude",
    "MeanKept",
    "NormProduct",
    "Normalized",
    "Penalty",
    "Polarization",
    "Protect",
    "Random",
    "Removal",
    "Slimming",
    "Snapshot",
    "Taylor",
    "TaylorWeights",
    "WandaUnits",
    "Wrapper",
    "batch_norm_scales",
    "fold",
    "fresh",
    "latency",
    "latency_ratio",
    "least_within",
    "measured",
    "most_within",
    "polarization",
    "removals",
    "require_defined",
    "silence",
    "valley",
]
