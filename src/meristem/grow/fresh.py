"""Fresh newborns: as they were when the layer was new, whatever incumbents have become."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from meristem import edit
from meristem.axes.map import Axis, Role
from meristem.edit import Gather, Slice
from meristem.edit.newborns import copied, unanswered, uniform
from meristem.errors import ConfigError
from meristem.grow.method import Growth, Method
from meristem.grow.parts.counterparts import products_kept
from meristem.signals import View


@dataclass(frozen=True)
class Fresh(edit.ZeroFanOut, Method):
    """Newborns read at random, at the scale of an initialization, and nothing reads them yet.

    Entries that produce a unit are uniform between `-gain * sqrt(3 / fan-in)` and `gain * sqrt(3 / fan-in)` (He et al.
    2015, arXiv 1502.01852, equation 10, as Kaiming's uniform initialization), with the fan-in of each tensor: the
    number of its entries for one index. Everything else is as in `ZeroFanOut`: biases 0, scales 1, running means 0 and
    variances 1, fan-out 0, keys 0. So newborns of Continual Backprop (Dohare et al., Nature 2024, arXiv 2306.13812) and
    ReDo (Sokar et al., ICML 2023, arXiv 2302.12902) begin; where weights have grown or shrunk in training, `ZeroFanOut`
    follows them and this method does not. Defined for every editable axis.

    Preserved: the function, on axes without couplings or with products alone; also every incumbent's gradient.
    Fails: nothing chooses good directions; where incumbents' weights are larger by far, a newborn hardly counts, and
    where they are smaller it drowns them.

    Args:
        gain: `sqrt(2)` for ReLU (default); `sqrt(1 / 3)` is what PyTorch's own layers start from.

    Raises:
        ConfigError: the gain is not above 0.
    """

    gain: float = math.sqrt(2)

    def __post_init__(self) -> None:
        if not (self.gain > 0 and math.isfinite(self.gain)):
            raise ConfigError(f"Fresh(gain=...) must be above 0, got {self.gain!r}")

    def values(self, s: Slice) -> Tensor:
        """Zeros, neutral values or random numbers, by the dimension's role."""
        drawn = (Role.PRODUCES in s.roles or s.layout.neutral is None) and not copied(s.layout, s.roles)
        if not drawn or Role.READS in s.roles or not s.old.dtype.is_floating_point:
            return super().values(s)
        fan_in = s.old.numel() / s.old.shape[s.dim]
        return unanswered(s, uniform(s, self.gain / math.sqrt(fan_in)))

    def zero_side(self) -> Role:
        return Role.READS

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        return Growth(axis, Gather.grow(axis.size, count), products_kept(axis, self))
