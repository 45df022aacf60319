"""Depth: layers, blocks and branches that are inserted, copied, removed and reordered."""

from meristem.depth.adam_fit import AdamFit
from meristem.depth.addition import Addition
from meristem.depth.arrange import Arrange, duplicated, interlaced, stacked, upscaled
from meristem.depth.block_influence import BlockInfluence
from meristem.depth.branch import Branch
from meristem.depth.branch_taylor import BranchTaylor
from meristem.depth.change import Change, Insert, Remove, RemoveBranch
from meristem.depth.chooser import AtRandom, ByGain, Chooser, Evenly
from meristem.depth.container import Container
from meristem.depth.copies import AutoGrow, CopyStart, Plain, Silent
from meristem.depth.criterion import DepthCriterion, removable_blocks, removable_branches
from meristem.depth.deepen import Deepen
from meristem.depth.gain import Cost, cost, predicted_gains
from meristem.depth.gate import Gate
from meristem.depth.inserted import Inserted, Spot
from meristem.depth.insertions import Insertion
from meristem.depth.joined import Added, Appended, Joined
from meristem.depth.measured_loss import MeasuredLoss
from meristem.depth.net2deeper import Net2Deeper
from meristem.depth.parallel import AddBranch, ConcatBranch
from meristem.depth.places import Places, places
from meristem.depth.removals import Removal
from meristem.depth.residual_copy import ResidualCopy
from meristem.depth.rows import Row
from meristem.depth.runs import Run
from meristem.depth.shorten import Shorten
from meristem.depth.zero_residual import ZeroResidual

__all__ = [
    "AdamFit",
    "AddBranch",
    "Added",
    "Addition",
    "Appended",
    "Arrange",
    "AtRandom",
    "AutoGrow",
    "BlockInfluence",
    "Branch",
    "BranchTaylor",
    "ByGain",
    "Change",
    "Chooser",
    "ConcatBranch",
    "Container",
    "CopyStart",
    "Cost",
    "Deepen",
    "DepthCriterion",
    "Evenly",
    "Gate",
    "Insert",
    "Inserted",
    "Insertion",
    "Joined",
    "MeasuredLoss",
    "Net2Deeper",
    "Places",
    "Plain",
    "Removal",
    "Remove",
    "RemoveBranch",
    "ResidualCopy",
    "Row",
    "Run",
    "Shorten",
    "Silent",
    "Spot",
    "ZeroResidual",
    "cost",
    "duplicated",
    "interlaced",
    "places",
    "predicted_gains",
    "removable_blocks",
    "removable_branches",
    "stacked",
    "upscaled",
]
