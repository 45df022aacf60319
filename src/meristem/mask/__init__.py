"""Single weights: masks that live through training, edits and checkpoints, and methods that change them. One file each.

`Sparse` trains with a method, `one_shot` prunes a trained model by calibration data, `remove_dead` turns weights that
are gone into units that are gone, `to_torch_sparse` exports.
"""

from meristem.mask.catalogue import METHODS, ONE_SHOT
from meristem.mask.dead import Cleared, Dead, dead_units, remove_dead
from meristem.mask.deep_r import DeepR
from meristem.mask.distribution import Distribution
from meristem.mask.erk import ERK
from meristem.mask.everywhere import Global
from meristem.mask.export import Exported, Layout, to_torch_sparse
from meristem.mask.fixed import Fixed
from meristem.mask.gra_net import GraNet
from meristem.mask.gradient import Gradient
from meristem.mask.gradual_magnitude import GradualMagnitude
from meristem.mask.grasp import GraSP
from meristem.mask.iterative_magnitude import IterativeMagnitude
from meristem.mask.magnitude import Magnitude
from meristem.mask.masks import Masks
from meristem.mask.method import Method
from meristem.mask.momentum import Momentum
from meristem.mask.nm import NM
from meristem.mask.one_shot import OneShot, one_shot
from meristem.mask.per_layer import PerLayer
from meristem.mask.random import Random
from meristem.mask.rigl import RigL
from meristem.mask.rows import Rows
from meristem.mask.scene import Plan, Scene
from meristem.mask.score import Score
from meristem.mask.select import weights_of
from meristem.mask.set import SET
from meristem.mask.signed_magnitude import SignedMagnitude
from meristem.mask.snfs import SNFS
from meristem.mask.snip import SNIP
from meristem.mask.sparse import Sparse
from meristem.mask.sparse_gpt import SparseGPT
from meristem.mask.static import Static
from meristem.mask.top_kast import TopKAST
from meristem.mask.uniform import Uniform
from meristem.mask.wanda import Wanda

__all__ = [
    "ERK",
    "METHODS",
    "NM",
    "ONE_SHOT",
    "SET",
    "SNFS",
    "SNIP",
    "Cleared",
    "Dead",
    "DeepR",
    "Distribution",
    "Exported",
    "Fixed",
    "Global",
    "GraNet",
    "GraSP",
    "Gradient",
    "GradualMagnitude",
    "IterativeMagnitude",
    "Layout",
    "Magnitude",
    "Masks",
    "Method",
    "Momentum",
    "OneShot",
    "PerLayer",
    "Plan",
    "Random",
    "RigL",
    "Rows",
    "Scene",
    "Score",
    "SignedMagnitude",
    "Sparse",
    "SparseGPT",
    "Static",
    "TopKAST",
    "Uniform",
    "Wanda",
    "dead_units",
    "one_shot",
    "remove_dead",
    "to_torch_sparse",
    "weights_of",
]
