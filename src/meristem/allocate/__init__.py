"""Where structure is edited: how an amount is divided over axes, within limits and budgets."""

from meristem.allocate.alike import Alike
from meristem.allocate.allocator import Allocator, Offer, Per
from meristem.allocate.bottleneck import Bottleneck
from meristem.allocate.custom import Custom
from meristem.allocate.division import at_most, by_axis, replaceable
from meristem.allocate.in_step import out_of_step
from meristem.allocate.limits import Limits, fast_multiple, require_known
from meristem.allocate.nested import Nested
from meristem.allocate.planning import plan_growth, plan_next_pruning, plan_pruning
from meristem.allocate.proportional import Proportional
from meristem.allocate.ranked import Ranked
from meristem.allocate.selection import Selection, choose, choose_among
from meristem.allocate.separately import Separately
from meristem.allocate.shortfall import Parts, axis_by_axis
from meristem.allocate.svod import SVoD
from meristem.allocate.turnover import Turnover, plan_turnover, takes_places
from meristem.allocate.uniform import Uniform

__all__ = [
    "Alike",
    "Allocator",
    "Bottleneck",
    "Custom",
    "Limits",
    "Nested",
    "Offer",
    "Parts",
    "Per",
    "Proportional",
    "Ranked",
    "SVoD",
    "Selection",
    "Separately",
    "Turnover",
    "Uniform",
    "at_most",
    "axis_by_axis",
    "by_axis",
    "choose",
    "choose_among",
    "fast_multiple",
    "out_of_step",
    "plan_growth",
    "plan_next_pruning",
    "plan_pruning",
    "plan_turnover",
    "replaceable",
    "require_known",
    "takes_places",
]
