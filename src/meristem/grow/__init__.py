"""What newborns start from: growth methods, one file each."""

from meristem.grow.aki import AKI
from meristem.grow.candidates import Candidates
from meristem.grow.catalogue import METHODS, require_defined
from meristem.grow.fast_splitting import FastSplitting
from meristem.grow.firefly import Firefly
from meristem.grow.fresh import Fresh
from meristem.grow.gradmax import GradMax
from meristem.grow.gradmax_opt import GradMaxOpt
from meristem.grow.hypercloning import HyperCloning
from meristem.grow.lemon import Lemon
from meristem.grow.ligo import LiGO
from meristem.grow.method import Growth, Method
from meristem.grow.mitosis import Mitosis
from meristem.grow.net2wider import Net2Wider
from meristem.grow.north_opt import NorthOpt
from meristem.grow.north_pre import NorthPre
from meristem.grow.north_select import NorthSelect
from meristem.grow.north_weight import NorthWeight
from meristem.grow.paired import Paired
from meristem.grow.predicted import predicted_gains, require_gains
from meristem.grow.random import Random
from meristem.grow.senn import SENN
from meristem.grow.splitting import Splitting
from meristem.grow.swe import SWE
from meristem.grow.tiny import TINY
from meristem.grow.variance_transfer import VarianceTransfer
from meristem.grow.zero_extension import ZeroExtension
from meristem.grow.zero_fan_out import ZeroFanOut

__all__ = [
    "AKI",
    "METHODS",
    "SENN",
    "SWE",
    "TINY",
    "Candidates",
    "FastSplitting",
    "Firefly",
    "Fresh",
    "GradMax",
    "GradMaxOpt",
    "Growth",
    "HyperCloning",
    "Lemon",
    "LiGO",
    "Method",
    "Mitosis",
    "Net2Wider",
    "NorthOpt",
    "NorthPre",
    "NorthSelect",
    "NorthWeight",
    "Paired",
    "Random",
    "Splitting",
    "VarianceTransfer",
    "ZeroExtension",
    "ZeroFanOut",
    "predicted_gains",
    "require_defined",
    "require_gains",
]
