"""Whether a controller was given what it needs, and not something that is only called alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from meristem.allocate import Allocator
from meristem.axes import Axis, AxisMap
from meristem.depth import CopyStart, Deepen, DepthCriterion, Inserted, Joined, Shorten
from meristem.errors import ConfigError
from meristem.grow import Method
from meristem.ledger import Exchange
from meristem.plasticity.unseen import leaving_out
from meristem.prune import Criterion
from meristem.schedule import Schedule


class Scaler(Protocol):
    """A gradient scaler, `torch.amp.GradScaler` for example."""

    def get_scale(self) -> float:
        """The factor by which losses are multiplied."""
        ...


KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "schedule": ((Schedule,), "a schedule such as meristem.schedule.Every(100, grow=0.1)"),
    "grow": ((Method,), "a growth method such as meristem.grow.ZeroFanOut()"),
    "prune": ((Criterion,), "a criterion such as meristem.prune.Magnitude()"),
    "exchange": ((Exchange,), "a meristem.ledger.Exchange([...])"),
    "deepen": (
        (Deepen, CopyStart, Inserted, Joined),
        "what is inserted, such as meristem.depth.Silent(), or a Deepen(...)",
    ),
    "shorten": (
        (Shorten, DepthCriterion),
        "a criterion of depth such as meristem.depth.BranchTaylor(), or a Shorten(...)",
    ),
    "allocate": ((Allocator,), "an allocator such as meristem.allocate.Uniform()"),
}
"""By argument of a controller what it may be, and how to say so."""


def require_kinds(**given: object) -> None:
    """Raise `ConfigError` if an argument is neither None nor what it should be."""
    for name, value in given.items():
        kinds, what = KINDS[name]
        if value is None and name != "schedule":
            continue
        if not isinstance(value, kinds):
            raise ConfigError(f"{name}= expects {what}; got {_described(value, kinds)}")


def _described(value: object, kinds: tuple[type, ...]) -> str:
    if isinstance(value, type):
        right = issubclass(value, kinds)
        return f"the class {value.__name__}{f': call it, {value.__name__}(...)' if right else ''}"
    kind = type(value)
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{value!r} of type {home}{kind.__name__}"


def require_axes(schedule: Schedule, axes: AxisMap, chosen: Sequence[Axis], left: Mapping[str, str]) -> None:
    """Raise `ConfigError` if a schedule asks for edits of units and no axis may be edited, or all are left out."""
    asked = [action for action in ("grow", "prune", "replace") if action in schedule.actions]
    if asked and not chosen and left:
        raise ConfigError(f"the schedule asks to {' and '.join(asked)}, but {leaving_out(axes, left)}")
    if asked and not chosen:
        frozen = [f"{axis.name} ({axis.frozen})" for axis in axes if axis.frozen is not None]
        more = f" and {len(frozen) - 5} more" if len(frozen) > 5 else ""
        single = f"; {', '.join(axes.single)} (a single unit, build it with 2)" if axes.single else ""
        raise ConfigError(
            f"the schedule asks to {' and '.join(asked)}, but no axis of this model may be edited: "
            f"{'; '.join(frozen[:5])}{more}{single}"
        )


def several(given: Any | Sequence[Any]) -> tuple[Any, ...]:
    """One or several optimizers, as a tuple."""
    return tuple(given) if isinstance(given, (list, tuple)) else (given,)
