"""Which backward passes belong to training: a look at gradients is no part of a step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge


class Backward:
    """Tells backward passes that train a model from those that only look at gradients.

    A pass trains if it accumulates into `.grad` of a parameter of the model: `loss.backward()`, also with parameters as
    `inputs=`, with `create_graph`, through a graph that is retained, or within a reentrant checkpoint. What
    `torch.autograd.grad` does (a saliency map, an attack, the inner gradient of a penalty) does not, nor does
    `loss.backward(inputs=[x])`, nor a pass through a model that is frozen. A `loss.backward()` whose gradients are
    thrown away afterwards cannot be told from training; take `torch.autograd.grad` there.

    Of a loss with the gradient of a model in it (`create_graph=True`) the pass that trains goes through both graphs.
    What a hook on a result of the forward pass then gets is the whole derivative of the loss in that result, the way
    over the inner gradient included, and a hook on a weight all of its gradient.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._asked = -1
        self._trains = False

    def trains(self) -> bool:
        """Whether the backward pass that is under way trains. Only within one, in a hook."""
        now = under_way()
        if now != self._asked:
            self._asked, self._trains = now, any(map(_accumulates, self._model.parameters()))
        return self._trains

    def only(self, hook: Callable[[Tensor], object]) -> Callable[[Tensor], None]:
        """The hook, called in passes that train alone."""

        def called(gradient: Tensor) -> None:
            if self.trains():
                hook(gradient)

        return called


def under_way() -> int:
    """The number of the backward pass that is under way, -1 outside of any; passes within passes have their own."""
    return torch._C._current_graph_task_id()


def at_end(job: Callable[[], None]) -> None:
    """Call it when the backward pass that is under way has come to its end; not if it fails."""
    torch.autograd.Variable._execution_engine.queue_callback(job)


def _accumulates(parameter: nn.Parameter) -> bool:
    if not parameter.requires_grad:
        return False
    try:
        return torch._C._will_engine_execute_node(get_gradient_edge(parameter).node)
    except RuntimeError:  # `torch.autograd.grad` was asked for the gradient of this very parameter
        return False
