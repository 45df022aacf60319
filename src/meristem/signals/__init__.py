"""What methods may know about a model when they plan an edit."""

from meristem.signals.activations import Activations
from meristem.signals.activity import Activity, UnitActivity, activation_frequency, gradient_size
from meristem.signals.batch import Batch, Block, entries
from meristem.signals.best_move import BestMove, Move, one_reader
from meristem.signals.contribution import Contribution, MeanReads
from meristem.signals.directions import Directions, Found
from meristem.signals.expansion import Expanded, Expansion
from meristem.signals.fan_in_gradient import FanInGradient
from meristem.signals.moment import Moment, SecondMoment
from meristem.signals.proposals import Proposals, Proposed
from meristem.signals.recorder import Recorder
from meristem.signals.running import Average, Running
from meristem.signals.sites import obstacle, unfollowed
from meristem.signals.slices import index_norms, sum_by_unit, unit_norms
from meristem.signals.statistic import Accumulator, Statistic
from meristem.signals.view import View

__all__ = [
    "Accumulator",
    "Activations",
    "Activity",
    "Average",
    "Batch",
    "BestMove",
    "Block",
    "Contribution",
    "Directions",
    "Expanded",
    "Expansion",
    "FanInGradient",
    "Found",
    "MeanReads",
    "Moment",
    "Move",
    "Proposals",
    "Proposed",
    "Recorder",
    "Running",
    "SecondMoment",
    "Statistic",
    "UnitActivity",
    "View",
    "activation_frequency",
    "entries",
    "gradient_size",
    "index_norms",
    "obstacle",
    "one_reader",
    "sum_by_unit",
    "unfollowed",
    "unit_norms",
]
