"""OnGain: when a growth method predicts that newborns would pay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from meristem.axes.map import Axis, AxisMap
from meristem.errors import ConfigError
from meristem.grow import Method, require_defined
from meristem.grow.predicted import predicted_gains, require_gains
from meristem.schedule.looking import Looking
from meristem.schedule.schedule import State
from meristem.signals import Statistic, View


def expansion_bar(score: float, gradient: float, relative: float = 0.03, absolute: float = 2.5e-3) -> float:
    """The increase of the natural expansion score that an addition must exceed in SENN.

    Mitchell, Menzenbach, Kersting, Mundt, arXiv 2307.04526: an addition is accepted if `increase / score > relative`
    and `increase / gradient > absolute`.

    Args:
        score: the layer's natural expansion score `g^T F^-1 g` today.
        gradient: mean squared norm of the gradient of the loss at the layer's output.
        relative, absolute: the two thresholds; defaults of the authors' code.
    """
    return max(relative * score, absolute * gradient)


@dataclass(frozen=True)
class OnGain(Looking):
    """When a growth method predicts a loss decrease above a bar: expressivity-bottleneck and gradient-norm triggers.

    At every look the method is asked, for every axis, what its best newborns would bring. Those count whose predicted
    gain is above

        max(threshold, relative * reference)

    With TINY as the method (arXiv 2405.19816) this is a threshold on the expressivity bottleneck. SENN's rule (arXiv
    2307.04526) takes `relative=1` and a reference that returns `expansion_bar(score, gradient)`; the gradient trigger
    of NORTH* (arXiv 2202.08539) takes GradMax and a reference that returns the gradient norm of the axis' weights, in
    the unit of the gains. The method may be another one than that which makes the newborns.

    Attributes:
        method: a growth method that predicts gains.
        interval, start, grow: as for every schedule that looks at signals; `grow=None` grows each axis by the newborns
            that count.
        threshold: absolute bar, in units of the predicted gain. It depends on the scale of the loss.
        relative: bar as a share of the reference; independent of the scale of the loss if the reference is not.
        reference: what the gains of an axis are compared with; it may read the statistics that the method needs.
            Default: the largest gain of a newborn on any axis so far, so that growth ends when additions have ceased to
            promise what they once did.
        most: for how many newborns per axis the method is asked.

    Raises:
        ConfigError: the method predicts no gains.
        EditError: (from the controller) the method is not defined for a chosen axis.
    """

    method: Method
    threshold: float = 0.0
    relative: float = 0.0
    reference: Callable[[View, Axis], float] | None = None
    most: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("threshold", 0), ("relative", 0), ("most", 1)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ConfigError(f"OnGain({name}=...) must be at least {least}, got {value!r}")
        require_gains(self.method, "OnGain")

    def initial(self) -> State:
        return {"largest": 0.0}

    def needs(self, axes: AxisMap, chosen: Sequence[Axis]) -> tuple[Statistic, ...]:
        require_defined(self.method, axes, chosen)
        return tuple(dict.fromkeys(s for axis in chosen for s in self.method.needs(axes, axis, self.most)))

    def wanted(self, view: View, chosen: Sequence[Axis], state: State) -> tuple[Mapping[str, int], State]:
        gains = {axis: predicted_gains(self.method, view, axis, self.most, "OnGain") for axis in chosen}
        largest = max([float(state["largest"]), *(float(g[0]) for g in gains.values() if len(g))])
        found = {}
        for axis, predicted in gains.items():
            reference = largest if self.reference is None else self.reference(view, axis)
            found[axis.name] = int((predicted > max(self.threshold, self.relative * reference)).sum())
        return found, {"largest": largest}
