"""meristem grows and prunes any PyTorch model while it trains."""

from meristem.axes import Axis, AxisMap, trace

__all__ = ["Axis", "AxisMap", "trace"]

__version__ = "0.1.0"
