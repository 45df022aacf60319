"""The map of a model: which lengths it has, what is coupled with what, and what may be edited."""

from meristem.axes.expression import (
    NEWBORN,
    ONE,
    Concat,
    Expression,
    Leaf,
    Product,
    gather_index,
    leaves,
    size_of,
    units_along,
)
from meristem.axes.map import AttributeBinding, Axis, AxisMap, Cache, Coupling, Place, Role, TensorLayout, Work
from meristem.axes.trace import trace

__all__ = [
    "NEWBORN",
    "ONE",
    "AttributeBinding",
    "Axis",
    "AxisMap",
    "Cache",
    "Concat",
    "Coupling",
    "Expression",
    "Leaf",
    "Place",
    "Product",
    "Role",
    "TensorLayout",
    "Work",
    "gather_index",
    "leaves",
    "size_of",
    "trace",
    "units_along",
]
