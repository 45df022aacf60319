"""The training loop of the benchmark: one step, what may be edited in it, and what is measured around it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from math import nan

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.flop_counter import FlopCounterMode

from meristem.study.studies.grid.contender import LISTEN, Contender
from meristem.study.studies.grid.twin import Watch
from meristem.train.log import Log


class Running:
    """A net in training.

    Args:
        model, optimizer, scheduler: what trains.
        contender: what edits.
        watch: what looks at the loss around edits.
        log: what is told of everything.
        closure: for methods that evaluate the loss themselves.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        contender: Contender,
        watch: Watch,
        log: Log,
        closure: Callable[[], Tensor],
    ) -> None:
        self.model, self.contender, self.watch, self.log = model, contender, watch, log
        self._optimizer, self._scheduler, self._closure = optimizer, scheduler, closure
        self.edits = 0

    def step(self, number: int, x: Tensor, y: Tensor) -> None:
        """One step of the optimizer, and the edit that belongs to it. Only the two are timed."""
        contender, watch = self.contender, self.watch
        rate = self._optimizer.param_groups[0]["lr"]
        editing = contender.edits(number)
        listens = any(contender.edits(later) for later in range(number, number + LISTEN))
        with self.log.timing(), self.log.counting(len(y), anew=listens):
            loss = cross_entropy(self.model(x), y)
            (loss + contender.penalty(self.model)).backward()
        self.log.loss(loss.item())
        if editing and contender.in_step:
            watch.around(number, lambda: self._take() or self._edit(number, loss, editing))
            watch.stepped(number, x, y, rate)
            return
        self._take()
        watch.stepped(number, x, y, rate)
        if editing:
            watch.around(number, lambda: self._edit(number, loss, editing))
        else:
            self._edit(number, loss, editing)

    def metrics(self, allowed: int) -> dict[str, float]:
        """What is there in the end.

        Args:
            allowed: parameters with which the contest ends.
        """
        watch, weights = self.watch, self.contender.weights()
        return {
            "final loss": watch.probe.training_loss(self.model),
            "jump": sum(watch.jumps) if watch.jumps else nan,
            "evaluation jump": sum(watch.evaluation_jumps) if watch.jumps else nan,
            "damage": sum(watch.damages) / len(watch.damages) if watch.damages else nan,
            "edits": float(self.edits),
            "weights": float(weights),
            "size": weights / allowed,
            "forward flops": float(forward_flops(self.model, watch.probe.x[:1])),
        }

    def _take(self) -> None:
        with self.log.timing():
            self._optimizer.step()
            self._scheduler.step()
            self._optimizer.zero_grad()
            self.contender.stepped(self.model)

    def _edit(self, number: int, loss: Tensor, editing: bool) -> bool:
        with self.log.timing(), self.log.editing() if editing and self.contender.computes else nullcontext():
            change = self.contender.after(number, loss.detach(), self._closure)
        if change is None:
            return False
        self.edits += 1
        self.log.changed(number, *change)
        return True


@torch.no_grad()
def forward_flops(model: nn.Module, example: Tensor) -> int:
    """Floating-point operations of one image; masks save none."""
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(example)
    model.train()
    return counter.get_total_flops()
