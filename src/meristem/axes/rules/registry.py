"""Which rule speaks for which operator."""

from __future__ import annotations

from collections.abc import Callable

from torch._ops import OpOverload

from meristem.axes.context import Rule
from meristem.axes.operators import elementwise, short_name

RULES: dict[str, Rule] = {}
"""Rules by operator name without overload and in-place underscore, e.g. `aten.add`."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators of these names (in the namespace `aten`)."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[f"aten.{name}"] = function
        return function

    return register


def find(operator: OpOverload) -> Rule | None:
    """The rule of an operator; elementwise operators need none of their own."""
    found = RULES.get(short_name(operator))
    if found is None and elementwise(operator):
        return RULES["aten.pointwise"]
    return found


def known(operator: OpOverload) -> bool:
    """Whether an operator has a rule."""
    return find(operator) is not None
