"""GraSP for units: those die first whose removal harms the flow of gradients least, before any training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meristem.axes.map import Axis, AxisMap
from meristem.errors import ConfigError
from meristem.prune.criterion import Criterion
from meristem.prune.trained import frozen_weight, parameter_places
from meristem.signals import View, sum_by_unit
from meristem.signals.twice import twice_differentiable


@dataclass(frozen=True)
class GraSP(Criterion):
    """`sum w (H g)` over all weights of a unit, g the gradient of the loss and H its Hessian. Twice its negative is, to
    first order, what `|g| ** 2` changes by if they are zeroed: units with the smallest scores, often negative, are
    those whose removal raises the norm of the gradient most, or lowers it least.

    Wang, Zhang, Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020, arXiv
    2002.07376, which is for single weights and has the opposite sign; the sum over units is derived. Scores
    are comparable between axes. The paper divides the logits by a temperature of 200 and takes ten times as many
    samples as there are classes: both are up to your closure. Batch normalizations have to be in training mode.

    Calls the closure once per axis, with a second backward pass.

    Fails: piecewise linear nets with a piecewise linear loss have no curvature; operators without a second derivative.

    Raises:
        ConfigError: (when scoring) there is no closure, or what it returns does not depend on the weights.
    """

    @property
    def requires_closure(self) -> bool:
        return True

    @property
    def comparable(self) -> bool:
        return True

    def undefined(self, axes: AxisMap, axis: Axis) -> str | None:
        places = parameter_places(axes, axis)
        return frozen_weight(axes, places) if places else "no parameter belongs to its units"

    def scores(self, view: View, axis: Axis) -> Tensor:
        if view.closure is None:
            raise ConfigError("GraSP evaluates the loss itself: give a closure that computes it")
        places = parameter_places(view.axes, axis)
        model = view.axes.model
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        parameters = [p for p in model.parameters() if p.requires_grad]
        own = [model.get_parameter(name) for name in dict.fromkeys(p.layout.name for p in places)]
        try:
            with torch.enable_grad(), torch.random.fork_rng(view.devices), twice_differentiable():
                gradients = torch.autograd.grad(view.closure(), parameters, create_graph=True, allow_unused=True)
                flow = [g.square().sum() / 2 for g in gradients if g is not None and g.requires_grad]
                if not flow:
                    raise ConfigError("GraSP: the loss that the closure returns has no second derivative")
                curved = torch.autograd.grad(torch.stack(flow).sum(), own, allow_unused=True)
        finally:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
        products = {id(p): (p * (0 if h is None else h)).detach() for p, h in zip(own, curved, strict=True)}
        total = torch.zeros(axis.size, dtype=torch.float64)
        for place in places:
            product = products[id(model.get_parameter(place.layout.name))].movedim(place.dim, 0).double()
            total += sum_by_unit(product.reshape(len(product), -1).sum(1), view.axes, axis, place).cpu()
        return total
