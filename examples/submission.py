"""A submission to the common benchmark: a growth method of one's own, in one file.

    meristem study grid --submission examples/submission.py --scale smoke     # seconds: does it run?
    meristem study grid --submission examples/submission.py --data-dir data   # some minutes: what stands on the page

The method: newborns read the opposite of what the units with the largest fan-in read, so that behind ReLU each pair
sees both sides, and nothing reads them at first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from meristem.axes import Axis, Role
from meristem.edit import Explicit, Gather
from meristem.grow import Growth, Method
from meristem.integrate import RunningStatistics
from meristem.schedule import Every, Schedule
from meristem.signals import View
from meristem.study.studies.grid import Setting, Submission


@dataclass(frozen=True)
class Mirrored(Method):
    """The negative fan-in of the largest units, and zero fan-out: the function is preserved."""

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        values = {}
        for place in view.axes.places[axis.index]:
            if place.roles == {Role.PRODUCES} and not place.layout.buffer:
                slices = view.tensors[place.layout.name].movedim(place.dim, 0)
                largest = torch.linalg.vector_norm(slices.flatten(1), dim=1).argsort(descending=True)
                parents = largest[torch.arange(count) % axis.size]
                values[place.layout.name, place.dim] = -slices[parents].unsqueeze(1)
        return Growth(axis, Gather.grow(axis.size, count), Explicit(repr(self), values))


def early(setting: Setting) -> Schedule:
    """Eight edits in the first 40 % of the training. What is left out is the protocol's fixed schedule."""
    every = max(1, setting.steps // 20)
    last = 8 * every

    def births(step: int) -> dict[str, int]:
        done, before = step / last, (step - every) / last
        sizes = setting.sizes.items()
        return {name: round(a + (b - a) * done) - round(a + (b - a) * before) for name, (a, b) in sizes}

    return Every(every, end=last, grow=births)


SUBMISSION = Submission(
    name="Mirrored, early",
    description="negative fan-in of the largest units, eight edits in the first 40 % of the training",
    level="neuron",
    course="growing",
    norm=True,
    grow=Mirrored(),
    schedule=early,
    integrate=RunningStatistics(),
)
