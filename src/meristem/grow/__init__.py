"""What newborns start from: growth methods, one file each."""

from meristem.grow.catalogue import METHODS, require_defined
from meristem.grow.method import Growth, Method
from meristem.grow.net2wider import Net2Wider
from meristem.grow.zero_fan_out import ZeroFanOut

__all__ = ["METHODS", "Growth", "Method", "Net2Wider", "ZeroFanOut", "require_defined"]
