"""What a growth plan does to a model of the zoo: to its function, and to the gradients that optimizer state follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from meristem.axes import Axis
from meristem.edit import Edit
from meristem.grow import Growth, HyperCloning, Method
from meristem.signals import View
from tests.zoo.judge import Subject, drift, subject
from tests.zoo.models import ROWS

ZOO = (
    "mlp", "residual_mlp", "shared_twice", "bare_einsum", "glu", "swiglu", "two_inputs_dict_output", "rms_norm",
    "hf_conv1d", "lstm_1", "multihead_attention", "encoder_layer", "encoder_layer_norm_first", "code_sized_attention",
    "grouped_query", "conv_flatten_linear", "unet", "dense_block", "resnext", "depthwise", "squeeze_excite",
    "transposed_groups", "group_norm", "instance_norm", "conv3d",
)  # fmt: skip
"""Linear, convolutional, grouped, depthwise, flattened, concatenated, gated, recurrent, normalized, attending."""


@cache
def traced(name: str) -> Subject:
    """A small model of the zoo with its map, in float64 and eval mode. Only copies of it may be edited."""
    return subject(next(row for row in ROWS if row.name == name))


def fitting(method: Method, axis: Axis, count: int) -> int:
    """A number of newborns that the method can give: HyperCloning only gives multiples."""
    return axis.size if isinstance(method, HyperCloning) else count


def planned(work: Subject, method: Method, axis: Axis, count: int) -> Growth:
    """The plan of a method."""
    return method.propose(View(work.axes, generator=torch.Generator().manual_seed(3)), axis, count)


def apart(plans: Sequence[Growth], work: Subject) -> list[Growth]:
    """Plans whose axes share no dimension of any tensor."""
    chosen: list[Growth] = []
    taken: set[tuple[str, int]] = set()
    for plan in plans:
        places = {(place.layout.name, place.dim) for place in work.axes.places[plan.axis.index]}
        if taken.isdisjoint(places):
            chosen.append(plan)
            taken |= places
    return chosen


def carried_out(work: Subject, plans: Sequence[Growth]) -> Subject:
    """The model after plans, in one transaction."""
    edit = Edit(work.axes)
    for plan in plans:
        edit.gather(plan.axis, plan.gather, plan.start)
    return replace(work, axes=edit.commit().axes)


def moved(before: Subject, after: Subject) -> float:
    """How far the outputs are from what they were, relative to the largest."""
    return drift(after.answers(), before.copied().answers())


def gradients(work: Subject) -> dict[str, Tensor]:
    """Fresh gradients of a fixed function of the outputs."""
    args, kwargs = work.row.example(work.row.batches[0])
    work.model.zero_grad()
    outputs = work.model(*args, **kwargs)
    outputs = outputs.values() if isinstance(outputs, Mapping) else [outputs]
    sum((out**3).sum() for out in outputs).backward()
    return {name: p.grad.clone() for name, p in work.model.named_parameters() if p.grad is not None}


def mismatch(original: Subject, method: Method, axis: Axis, count: int) -> float:
    """How far transferred gradients are from the real ones, over all entries with a source; relative to the largest.

    Relative to the largest of all, because some are zero but for rounding: those of a bias in front of a normalization.
    """
    marked, work = original.copied(), original.copied()
    for parameter in marked.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    carried_out(marked, [planned(marked, method, axis, count)])
    gradients(work)
    carried_out(work, [planned(work, method, axis, count)])
    transferred = {name: p.grad.clone() for name, p in work.model.named_parameters() if p.grad is not None}
    real = gradients(work)
    sourced = {name: p.grad != 0 for name, p in marked.model.named_parameters() if name in real}
    worst = max(float((transferred[name] - real[name])[sourced[name]].abs().max()) for name in real)
    return worst / max(float(gradient.abs().max()) for gradient in real.values())
