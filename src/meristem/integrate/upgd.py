"""UPGD: gradient descent that moves useful weights less."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from meristem.errors import ConfigError


class UPGD(Optimizer):
    """Utility-based perturbed gradient descent, with weights protected by their utility.

    Elsayed, Mahmood, "Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning", ICLR 2024,
    arXiv 2404.00781. Per weight, with gradient g and noise xi of standard deviation `sigma`:

        u <- beta u + (1 - beta) (-g w)          utility: what the loss would gain if the weight were 0, to first order
        u^ = u / (1 - beta ** t)
        w <- (1 - lr weight_decay) w - lr (g + xi) (1 - sigmoid(u^ / max u^)),

    the maximum over all weights of all groups. Two corrections of the published code: it divides u by its bias
    correction but not the maximum, which makes the ratio about 1,000 at the first step with beta = 0.999 and freezes
    whatever has a positive utility then, so here both are; and a maximum that is not above 0 (no weight useful) would
    turn the order around, so then every weight gets the factor of utility 0, 1/2. So factors are from 0.27 to below 1.
    (Derived from the paper's rule; the second is ours.)

    State follows edits by its shape: a newborn has utility 0, is protected least of the useful, and moves most. Its
    utility is corrected by the parameter's step count, so that for about `1 / (1 - beta)` steps it is underrated, which
    keeps it plastic.

    Args:
        params: parameters or groups.
        lr: alpha. Default: 0.01.
        beta: of the utility's average, from 0 to below 1. Default: 0.999.
        sigma: standard deviation of the noise, at least 0. Default: 0.001.
        weight_decay: decoupled, at least 0. Default: 0.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        beta: float = 0.999,
        sigma: float = 0.001,
        weight_decay: float = 0.0,
    ) -> None:
        if not (lr >= 0 and 0 <= beta < 1 and sigma >= 0 and weight_decay >= 0):
            raise ConfigError(
                "UPGD: expected lr, sigma and weight_decay of at least 0 and beta from 0 to below 1, got "
                f"{lr}, {sigma}, {weight_decay} and {beta}"
            )
        super().__init__(params, {"lr": lr, "beta": beta, "sigma": sigma, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; the closure, if given, computes loss and gradients anew, and the loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [(group, p, p.grad) for group in self.param_groups for p in group["params"] if p.grad is not None]
        utilities = [self._utility(group, p, gradient) for group, p, gradient in moved]
        if not utilities:
            return loss
        device = utilities[0].device
        largest = torch.stack(
            [utility.max().to(device, torch.float32) for utility in utilities if utility.numel()]
        ).max()
        for (group, p, gradient), utility in zip(moved, utilities, strict=True):
            share = torch.where(largest.to(utility) > 0, utility / largest.to(utility), 0)
            step = gradient + group["sigma"] * torch.randn_like(p)
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.sub_(step * torch.sigmoid(-share), alpha=group["lr"])
        return loss

    def _utility(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
        """The weights' utilities after this step, without the bias of their beginning at 0."""
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["utility"] = torch.zeros_like(parameter)
        state["step"] += 1
        state["utility"].lerp_(-gradient * parameter, 1 - group["beta"])
        return state["utility"] / (1 - group["beta"] ** state["step"])
