"""What methods may know about a model when they plan an edit."""

from meristem.signals.slices import index_norms, sum_by_unit
from meristem.signals.view import View

__all__ = ["View", "index_norms", "sum_by_unit"]
