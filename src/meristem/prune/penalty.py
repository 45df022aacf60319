"""What a penalty is: a term that a user's loop adds to its loss, so that some units become dispensable."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from meristem.axes.map import AxisMap
from meristem.prune.scales import scale_vector


class Penalty(ABC):
    """A term of the loss over the scales of all batch normalizations that carry editable axes.

        loss = loss + penalty(plasticity.axes)

    Penalties are frozen dataclasses of their settings. They read the scales from the map's model at every call, so that
    edits need no care.
    """

    @abstractmethod
    def of(self, scales: Tensor) -> Tensor:
        """The penalty of one vector of scales: a number, differentiable."""

    def __call__(self, axes: AxisMap) -> Tensor:
        """The penalty of a model: a number in float32 or better, on the device of its first scale.

        Raises:
            EditError: no batch normalization with a scale carries an editable axis.
        """
        return self.of(scale_vector(axes))
