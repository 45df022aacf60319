"""One edit: gathers along axes, applied to a model and everything that holds its parameters, all or nothing."""

from meristem.edit.checkpoint import extra_of, load, save
from meristem.edit.compute import Change
from meristem.edit.config import fit_config
from meristem.edit.config_watch import ConfigurationWarning
from meristem.edit.edit import Commit, Edit, Follower
from meristem.edit.explicit import Explicit
from meristem.edit.gather import Gather
from meristem.edit.history import replay
from meristem.edit.newborns import Newborns, Slice, ZeroFanOut
from meristem.edit.optimizer import OptimizerStateWarning
from meristem.edit.preview import AxisPreview, Preview
from meristem.edit.stale import Replaced, StaleHolder, StaleParameterWarning
from meristem.edit.state import Born, ParentMoments, Reset, StatePolicy, StateSlice, StateStart, Zeros
from meristem.edit.trial import Trial, trial

__all__ = [
    "AxisPreview",
    "Born",
    "Change",
    "Commit",
    "ConfigurationWarning",
    "Edit",
    "Explicit",
    "Follower",
    "Gather",
    "Newborns",
    "OptimizerStateWarning",
    "ParentMoments",
    "Preview",
    "Replaced",
    "Reset",
    "Slice",
    "StaleHolder",
    "StaleParameterWarning",
    "StatePolicy",
    "StateSlice",
    "StateStart",
    "Trial",
    "ZeroFanOut",
    "Zeros",
    "extra_of",
    "fit_config",
    "load",
    "replay",
    "save",
    "trial",
]
