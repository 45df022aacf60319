"""Random growth with zero fan-out: the baseline that every growth method has to beat."""

from __future__ import annotations

from dataclasses import dataclass

from meristem import edit
from meristem.axes.map import Axis, Role
from meristem.edit import Gather
from meristem.grow.method import Growth, Method
from meristem.grow.parts.counterparts import products_kept
from meristem.signals import View


@dataclass(frozen=True)
class ZeroFanOut(edit.ZeroFanOut, Method):
    """Newborns read at random, at the scale of their layer, and nothing reads them yet.

    Random growth as in the baselines of Evci et al., "GradMax", ICLR 2022, arXiv 2201.05125, with the zeros on the
    outgoing side. Defined for every editable axis.

    Where two activations are contracted over the axis, as queries and keys are over the size of a head, no weight reads
    it; there the second factor, the keys, stands for fan-out: newborn queries are random, newborn keys zero. Where the
    code scales products by the size, `1/sqrt(size)` as a rule, the keys of incumbents are multiplied by what makes up
    for it, `sqrt(new / old)`, and their gradients and optimizer state divided.

    Preserved: the function, on axes without couplings or with such products alone; also every incumbent's gradient. On
    the first step a newborn's fan-in has zero gradient and its fan-out `delta h^T`; from the second step on both learn.
    Fails: nothing chooses good directions; a newborn starts as an arbitrary random feature.
    """

    def zero_side(self) -> Role:
        return Role.READS

    def propose(self, view: View, axis: Axis, count: int) -> Growth:
        return Growth(axis, Gather.grow(axis.size, count), products_kept(axis, self))
