"""The table: every growth method, with fewer steps than by default, on every kind of axis; plans are made once."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from meristem.axes import Axis, AxisMap, trace, units_along
from meristem.edit import Edit
from meristem.grow import METHODS, SENN, SWE, Firefly, GradMaxOpt, Growth, HyperCloning, Method, NorthSelect
from meristem.signals import View
from meristem.signals.direct import Recording
from tests.grow.sites import BENT, MANY_PRODUCERS
from tests.zoo.models import row

FASTER = (
    Firefly(steps=3, passes=1, fresh=8), GradMaxOpt(steps=5), NorthSelect(proposals=20), SENN(proposals=12, steps=2),
    SWE(steps=3),
)  # fmt: skip
EVERY: Mapping[str, Method] = {type(m).__name__: m for m in (*METHODS, *FASTER)}
"""Every method by its name; those with many steps take fewer here."""

ZOO = {
    "batch norm": ("conv_flatten_linear", "0"), "flattened zoo": ("conv_flatten_linear", "4"),
    "group norm, groups": ("group_norm", "trunk.0[0]"), "group norm, within": ("group_norm", "trunk.0[1]"),
    "layer norm stream": ("residual_mlp", "stem"), "rms norm stream": ("rms_norm", "stem"),
    "heads": ("code_sized_attention", "qkv[0]"), "head size": ("code_sized_attention", "qkv[1]"),
    "value size": ("einsum_attention", "value"), "swiglu": ("swiglu", "gate"), "swiglu, chunked": ("swiglu", "up"),
    "concatenated, first": ("unet", "down1"), "concatenated, last": ("unet", "up"),
    "groups": ("resnext", "reduce[0]"), "within groups": ("resnext", "reduce[1]"),
    "depthwise": ("depthwise", "trunk.0"),
}  # fmt: skip
"""Kinds of axes that the small models of the zoo have: (model, axis)."""


def _behind(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), copy.deepcopy(activation), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def _normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


Net = tuple[Callable[[], nn.Module], Callable[[int], tuple[Any, ...]], str]
_BUILT = {
    (name, kind): copy.deepcopy(build(activation))  # the sites share layers, which other tests may grow
    for name, (build, _, _) in MANY_PRODUCERS.items()
    for kind, activation in (("relu", nn.ReLU()), ("tanh", nn.Tanh()))
}
SITES: Mapping[str, Net] = {
    f"{name}, {kind}": (lambda net=net: net, lambda n, s=MANY_PRODUCERS[name][1]: (torch.randn(n, *s),),
                        MANY_PRODUCERS[name][2])
    for (name, kind), net in _BUILT.items()
}  # fmt: skip
"""Every site behind a kinked and behind a smooth activation function."""
NETS: Mapping[str, Net] = {
    **SITES,
    "batch norm, linear": (_normed, lambda n: (torch.randn(n, 6),), "0"),
    **{name: (lambda a=activation: _behind(a), lambda n: (torch.randn(n, 5),), "0")
       for name, activation in BENT.items()},
    **{name: (lambda m=model: row(m).model(), lambda n, m=model: row(m).example(n)[0], axis)
       for name, (model, axis) in ZOO.items()},
}  # fmt: skip
"""Name -> (a net, inputs for a number of samples, axis)."""


@dataclass(frozen=True, eq=False)
class Case:
    """A net with a batch and the map of it. The net of a cached case is never edited or trained, only copied."""

    model: nn.Module
    args: tuple[Any, ...]
    target: Tensor
    axes: AxisMap
    name: str

    @property
    def axis(self) -> Axis:
        return self.axes[self.name]

    def loss(self) -> Tensor:
        return (self.model(*self.args) - self.target).square().mean()

    def outputs(self, training: bool) -> Tensor:
        """In either mode; of a copy, so that running statistics stay."""
        with torch.no_grad():
            return copy.deepcopy(self.model).train(training)(*self.args)

    def copied(self) -> Case:
        model = copy.deepcopy(self.model)
        return replace(self, model=model, axes=replace(self.axes, model_reference=weakref.ref(model)))

    def view(self, method: Method, count: int) -> View:
        """What a method looks at, after one ordinary step that leaves no trace in the net."""
        work = self.copied()
        recorder = Recording(work.axes, method.needs(work.axes, work.axis, count))
        recorder.closing()
        work.loss().backward()
        generator = torch.Generator().manual_seed(3)
        return View(self.axes, signals=recorder.finish(), closure=self.loss, generator=generator)

    def planned(self, method: Method, count: int) -> Growth:
        count = self.axis.size if isinstance(method, HyperCloning) else count
        return method.propose(self.view(method, count), self.axis, count)

    def grown(self, plan: Growth) -> Case:
        """A copy with the plan carried out."""
        return self.copied().grow(plan)

    def grow(self, plan: Growth, *optimizers: Optimizer) -> Case:
        """This one, with the plan carried out."""
        axes = Edit(self.axes, optimizers).gather(plan.axis.name, plan.gather, plan.start).commit().axes
        return replace(self, axes=axes)

    def born(self, plan: Growth, name: str) -> Tensor:
        """Which entries of a parameter, after the plan, belong to newborns; bool, in its shape."""
        found = torch.zeros_like(self.model.get_parameter(name), dtype=torch.bool)
        for place in self.axes.places[plan.axis.index]:
            if place.layout.name == name:
                units = units_along(place.layout.dims[place.dim], plan.axis.index, self.axes.sizes)
                found.movedim(place.dim, 0)[(units >= 0) & plan.gather.newborn_mask[units.clamp(min=0)]] = True
        return found


def case(net: str, samples: int = 12, dtype: torch.dtype = torch.float64) -> Case:
    """A fresh case: always the same weights."""
    build, inputs, axis = NETS[net]
    torch.manual_seed(0)
    model = copy.deepcopy(build())
    args = inputs(samples)
    model.to(args[0].dtype)(*args)
    for module in model.modules() if net in SITES else ():
        getattr(module, "reset_parameters", lambda: None)()
    model, args = model.to(dtype), tuple(a.to(dtype) for a in args)
    with torch.no_grad():
        target = torch.randn_like(model(*args))
    return Case(model.train(), args, target, trace(model, args), axis)


cached = cache(case)


@cache
def plan_of(net: str, method: str, count: int = 3) -> Growth:
    """The plan of a method for the axis of a net."""
    return cached(net).planned(EVERY[method], count)
