"""Which parameters, set to zero, silence a tensor or turn a block into the identity; found by walking back through the
operators that computed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from meristem.axes.flow import Flow, Version
from meristem.axes.recorder import Call, Ref
from meristem.depth.fixed import clamp, fixed_by

_PASSES_ON = {
    "aten.mul", "aten.div", "aten.dropout", "aten.feature_dropout", "aten.view", "aten.reshape", "aten._unsafe_view",
    "aten.permute", "aten.transpose", "aten.unsqueeze", "aten.squeeze", "aten.expand", "aten.flatten", "aten.unflatten",
    "aten.movedim", "aten.roll", "aten.neg", "aten.to", "aten._to_copy", "aten.type_as", "aten.clone",
    "aten.tanh", "aten.gelu", "aten.silu", "aten.elu", "aten.selu", "aten.celu", "aten.mish", "aten.hardswish",
}  # fmt: skip
"""Operators that make zeros of a zero argument, the first one or either factor, and pass a gradient on to it there."""

_KEEPS_ZERO = _PASSES_ON | {
    "aten.leaky_relu", "aten.prelu", "aten._prelu_kernel", "aten.hardshrink", "aten.softshrink", "aten.abs",
    "aten.square", "aten.sin", "aten.erf", "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d",
}  # fmt: skip
"""Operators that make zeros of a zero argument, whatever becomes of gradients there. So do clamps to a range that holds
0; PyTorch's derivative of ReLU is 0 at 0."""

_SAME = {"aten.to", "aten._to_copy", "aten.type_as", "aten.clone"}
_SUMS = {"aten.add", "aten.sub"}
_WEIGHTED = {
    "aten.linear": (1, 2), "aten.addmm": (2, 0), "aten.conv1d": (1, 2), "aten.conv2d": (1, 2), "aten.conv3d": (1, 2),
    "aten.conv_transpose1d": (1, 2), "aten.conv_transpose2d": (1, 2), "aten.conv_transpose3d": (1, 2),
    "aten.convolution": (1, 2), "aten.matmul": (1, None), "aten.mm": (1, None), "aten.batch_norm": (1, 2),
    "aten.layer_norm": (2, 3), "aten.group_norm": (2, 3), "aten.instance_norm": (1, 2), "aten.rms_norm": (2, None),
    "aten.embedding": (0, None),
}  # fmt: skip
"""Operators whose result is zero if their weight and bias are: the positions of these among the arguments."""


@dataclass(frozen=True)
class Obstacle:
    """Why something cannot be silenced by zeros, or a block not opened by them.

    Attributes:
        reason: in words.
        loud: whether it is one of the branches of a block between which nothing else stands in the way.
    """

    reason: str
    loud: bool = False


def silenced_by(flow: Flow, version: Version, given: Version | None = None) -> tuple[str, ...] | Obstacle:
    """The parameters that make a tensor zero if they are zero: those of the last layer that computes it; of a sum,
    those of the last layers that compute its operands.

    Args:
        flow: the run.
        version: the tensor.
        given: a tensor that is not to be silenced, such as what a block is given.

    Returns:
        their first names, or why there are none.
    """
    while version.call >= 0 and version != given:
        call = flow.recording.calls[version.call]
        if version.number not in call.outputs:
            return Obstacle(f"{call.name} at {call.site.where} writes into memory that it shares")
        parameters = _parameters(flow, call)
        if call.name in _SUMS:
            return _summands_silenced_by(flow, version.call, given)
        if call.name in _WEIGHTED:
            weight, bias = (_argument(call, place) for place in _WEIGHTED[call.name])
            wanted = [ref for ref in (weight, bias) if ref is not None]
            if isinstance(weight, Ref) and len(parameters) == len(wanted):
                return parameters
            return Obstacle(f"{call.name} at {call.site.where} has no weight of its own")
        if call.name == "aten.mul" and len(parameters) == 1:
            return parameters
        before = factor(flow, version) if call.name in _PASSES_ON else None
        if before is None:
            return Obstacle(f"{call.name} at {call.site.where} makes no zeros that learn of a layer of zeros")
        version = before
    return Obstacle("a branch has no layer of its own" if version == given else "no layer computes it")


def _summands_silenced_by(flow: Flow, index: int, given: Version | None) -> tuple[str, ...] | Obstacle:
    """The parameters that make all operands of a sum zero; an operand may be a parameter itself."""
    call = flow.recording.calls[index]
    found: dict[str, None] = dict.fromkeys(_parameters(flow, call))
    operands = [argument for argument in call.args[:2] if isinstance(argument, Ref)]
    versions = [flow.version(operand.value, index) for operand in operands]
    active = [version for version in versions if version in flow.active]
    if len(operands) != 2 or len(active) + len(found) != len(set(versions)):
        return Obstacle(f"{call.name} at {call.site.where} adds what no layer computes")
    for version in dict.fromkeys(active):
        own = silenced_by(flow, version, given)
        if isinstance(own, Obstacle):
            return own
        found.update(dict.fromkeys(own))
    return tuple(found)


def factor(flow: Flow, version: Version) -> Version | None:
    """The tensor that, if it is zero, makes this one zero by the operator that computed it: its first argument, or the
    active one of two factors; None if there is no such."""
    call = flow.recording.calls[version.call]
    bounds = clamp(call)
    keeps = call.name in _KEEPS_ZERO if bounds is None else bounds.holds(0.0)
    if not keeps or version.number not in call.outputs:
        return None
    places = call.args[:2] if call.name == "aten.mul" else call.args[:1]
    operands = [flow.version(a.value, version.call) for a in places if isinstance(a, Ref)]
    return next((operand for operand in operands if operand in flow.active), None)


def opened_by(flow: Flow, given: Version, returned: Version) -> tuple[str, ...] | Obstacle:
    """The parameters that make a block return what it is given if they are zero: the last ones of its branches.

    Between the sums only what changes nothing may stand: dropout of probability 0, an activation that has been applied
    to what the block is given.
    """
    if returned == given:
        return ()
    if returned.call < 0:
        return Obstacle("what it returns does not come from what it is given")
    call = flow.recording.calls[returned.call]
    if returned.number not in call.outputs:
        return Obstacle(f"{call.name} at {call.site.where} writes into memory that it shares")
    operands = [flow.version(a.value, returned.call) for a in call.args[:2] if isinstance(a, Ref)]
    if call.name == "aten.add" and len(operands) == 2:
        refused: list[tuple[Version, Obstacle]] = []
        scaled = call.kwargs.get("alpha", 1) != 1  # a factor on the second operand
        for stream, branch in (operands, operands[::-1])[: 2 - scaled]:
            before, own = opened_by(flow, given, stream), silenced_by(flow, branch, given)
            if isinstance(before, Obstacle):
                refused.append((stream, before))
            elif isinstance(own, Obstacle):
                refused.append((stream, replace(own, loud=True)))
            else:
                return (*before, *own)
        # what the block is given comes by a way on which a branch is loud, or by the operand that was there first
        return min(refused, key=lambda found: (not found[1].loud, found[0].call))[1]
    passes = call.name in _SAME or (call.name == "aten.dropout" and call.args[1] == 0)
    if not passes and operands and fixed_by(flow, given, call) is None:
        if not _made_of(flow, returned, given):
            return Obstacle("what it returns does not come from what it is given")
        where = f"{call.name} at {call.site.where}"
        return Obstacle(f"{where} stands between what it is given and what it returns, where only sums may")
    return opened_by(flow, given, operands[0]) if operands else Obstacle("it makes what it returns anew")


def _made_of(flow: Flow, version: Version, source: Version) -> bool:
    """Whether a tensor is computed from another one."""
    known, frontier = {version}, [version]
    while frontier and source not in known:
        call = frontier.pop().call
        found = {*flow.reads[call]} & flow.active - known if call > source.call else set[Version]()
        known |= found
        frontier += found
    return source in known


def _parameters(flow: Flow, call: Call) -> tuple[str, ...]:
    """The names of the parameters among the arguments of a call; of a layer, its weight and bias."""
    names = {number: name for name, number in flow.recording.named.items() if name in flow.parameters}
    places: Sequence[int | None] = _WEIGHTED.get(call.name, range(len(call.args)))
    found = [a.value for place in places if isinstance(a := _argument(call, place), Ref)]
    return tuple(names[number] for number in found if number in names)


def _argument(call: Call, place: int | None) -> object:
    if place is None:
        return None
    if place < len(call.args):
        return call.args[place]
    key = "weight" if place == min(p for p in _WEIGHTED.get(call.name, (0,)) if p is not None) else "bias"
    return call.kwargs.get(key)
