"""GraSP: masks before training, by how much each weight helps the gradient to flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from meristem.mask.distribution import Distribution
from meristem.mask.everywhere import Global
from meristem.mask.method import Patterned
from meristem.mask.scene import Plan, Scene
from meristem.mask.snip import derivative, loss_of, over_ranks
from meristem.signals.twice import twice_differentiable


@dataclass(frozen=True, kw_only=True)
class GraSP(Patterned):
    """Gradient signal preservation: those weights stay, from the start to the end, whose `w * (H g)` is largest.

    Wang, Zhang, Grosse, ICLR 2020, arXiv 2002.07376, equation 8 in the sign of its code. g is the gradient of the loss,
    H its Hessian, H g by differentiating twice. Removing a weight changes `|g|**2` by `-2 w (H g)` to first order, so
    those go whose removal helps the gradient most. Divide logits by a temperature of 200 in the closure, as the paper
    does, and use a batch with about ten samples of each class.

    Attributes:
        density: the share of weights that stays.
        distribution: over layers (default `Global`).

    Fails: on nets with kinks the Hessian misses what moves them; layers may be cut, as with `SNIP`. PyTorch's attention
    runs by its slower kernel, which has a second derivative; an operator of your own without one raises its own error.
    """

    requires_closure: ClassVar[bool] = True

    density: float = 0.1
    distribution: Distribution = field(default_factory=Global)

    def start(self, scene: Scene) -> Plan:
        with twice_differentiable(), loss_of(scene) as loss:
            gradients = derivative(loss, scene, create_graph=True)
            everywhere = over_ranks(gradients)
            flow = sum((everywhere[name] * g).sum() for name, g in gradients.items())
            curved = over_ranks(derivative(flow, scene, create_graph=False))  # type: ignore[arg-type]
        worth = {name: weight * curved[name] for name, weight in scene.weights.items()}
        return Plan(masks=scene.over(self.distribution).masks(worth, self.density))
