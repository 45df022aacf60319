"""What an operator does to numbers, found out by applying it to some."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch

from meristem.axes.path import Step
from meristem.axes.recorder import Call, Ref

_POSITIONS = 16
"""So many positions along a dimension an operator is tried on at first."""


def not_proportional(step: Step, positions: Sequence[int]) -> str | None:
    """Why an operator on maps does something else than to change each unit alone and in proportion to itself, or None:
    tried on two samples of two units, with few positions if it takes them."""
    if torch.Tag.nondeterministic_seeded in step.operator.tags:
        return "draws at random"
    for most in (_POSITIONS, max(positions)):
        generator = torch.Generator().manual_seed(0)
        size = [min(length, most) for length in positions]
        z = torch.randn(2, 2, *size, generator=generator, dtype=torch.float64, device="cpu")
        with torch.no_grad(), suppress(RuntimeError, TypeError, ValueError):
            whole, larger, alone = step(z), step(4 * z), [step(z[i : i + 1, i : i + 1]) for i in range(2)]
            apart = whole.shape[:2] == z.shape[:2] and all(
                torch.allclose(whole[i : i + 1, i : i + 1], part) for i, part in enumerate(alone)
            )
            if not apart:
                return "is not applied unit by unit"
            return None if torch.allclose(larger, 4 * whole) else "gives what is not in proportion to what it is given"
    return "is not applied unit by unit"


def passes_zero(call: Call) -> bool:
    """Whether an operator on one tensor gives zero for zero, with a gradient; tried."""
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    args = [zero if isinstance(item, Ref) else item for item in call.args]
    if call.operator._schema.is_mutable or torch.Tag.nondeterministic_seeded in call.operator.tags:
        return False
    try:
        with torch.inference_mode(False), torch.enable_grad():
            found = call.operator(*args, **call.kwargs)
            return not bool(found.any()) and bool(torch.autograd.grad(found.sum(), zero)[0].all())
    except (RuntimeError, TypeError):  # it takes something else
        return False
