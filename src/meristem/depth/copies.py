"""What copies of blocks start as."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from meristem.axes.flow import Flow, Version
from meristem.axes.module_path import within
from meristem.depth.memory import overwritten
from meristem.depth.runs import Run
from meristem.depth.silence import Obstacle, opened_by, silenced_by
from meristem.edit.plant import Planting
from meristem.errors import ConfigError, EditError

Pair = tuple[nn.Module, nn.Module]
"""A module and a copy of it."""


class CopyStart:
    """What copies of blocks start as. Frozen dataclasses of settings implement it."""

    fresh: ClassVar[bool] = False
    """Whether nothing but the structure is copied, so that copies take over no optimizer state."""

    def check(self, model: nn.Module, flow: Flow, run: Run, blocks: Sequence[int]) -> None:
        """Raise `EditError` if this is not defined for copies of these blocks. Default: it always is."""

    def start(self, flow: Flow, run: Run, blocks: Sequence[int], copies: Sequence[Pair], planting: Planting) -> None:
        """Set the values of the copies of these blocks, given as (original, copy). Default: they stay copies."""

    def inexact(self) -> tuple[str, ...]:
        """Why the function changes. Default: blocks run twice."""
        return ("blocks are copied",)


@dataclass(frozen=True)
class Plain(CopyStart):
    """A copy of everything, as in stacking."""


@dataclass(frozen=True)
class Silent(CopyStart):
    """A copy whose branches end in zeros, so that it returns what it is given.

    The last layer, scale or normalization of each branch is zero, everything else is copied.

    The zero-initialized last BatchNorm of a residual block (Goyal et al. 2017, arXiv 1706.02677), applied to a copy
    (derived). Defined where nothing but sums, and activations that have been applied to the block's input already,
    stand between the branches: residual stages, transformers whose normalizations come first. Blocks that end in a
    normalization (BERT) are no identity with silent branches: there insert a `ResidualCopy`.

    Preserved: the function, bit for bit but for rounding of x + 0, in train mode, too.
    Fails: where operators behind the zeros divide by the size of what they are given (the normalizations that end the
    branches of Gemma 2), the first steps of the zeros change the function by much.
    """

    def check(self, model: nn.Module, flow: Flow, run: Run, blocks: Sequence[int]) -> None:
        """Refuse blocks that silent branches do not turn into the identity."""
        for number in blocks:
            _silencing(flow, run, number)

    def start(self, flow: Flow, run: Run, blocks: Sequence[int], copies: Sequence[Pair], planting: Planting) -> None:
        """Zeros in the last layer of every branch."""
        names = {name for number in blocks for name in _silencing(flow, run, number)}
        set_zero(planting, copies, names)

    def inexact(self) -> tuple[str, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class AutoGrow(CopyStart):
    """A new block of the structure of its neighbour: all layers start afresh, as PyTorch starts them, and the last
    normalization or layer of each branch, which scales its contribution, is initialized by its own rule.

    Wen, Yan, Chen, Li, "AutoGrow: Automatic Layer Growing in Deep Convolutional Networks", KDD 2020, arXiv 1906.02909;
    `zero`, `uniform` on [0, 1) and `gaussian` of standard deviation 1 (the default) fill scale and shift of the new
    block's last batch normalization, as the authors' code does; their fourth is `AdamFit`. Where a branch ends in a
    linear layer or a convolution, `gaussian` and `uniform` multiply the layer's own start by numbers drawn so, one for
    each slice along its first dimension (derived).

    The paper finds that random starts and fast growth beat function-preserving, slow growth.

    Preserved: the function with `zero`, where `Silent` preserves it. Nothing of the neighbour is left in the block, so
    it takes over no optimizer state, and its units are newborn; models that follow start from the same values.

    Args:
        scale: "zero", "uniform" or "gaussian".
        deviation: the standard deviation of "gaussian". Default: 1.
    """

    fresh: ClassVar[bool] = True

    scale: str = "gaussian"
    deviation: float = 1.0

    def __post_init__(self) -> None:
        if self.scale not in ("zero", "uniform", "gaussian"):
            raise ConfigError(f"AutoGrow: scale must be 'zero', 'uniform' or 'gaussian', got {self.scale!r}")
        if not self.deviation > 0:
            raise ConfigError(f"AutoGrow: deviation must be above 0, got {self.deviation}")

    def check(self, model: nn.Module, flow: Flow, run: Run, blocks: Sequence[int]) -> None:
        """Refuse blocks whose branches are not known, and layers that do not know how to start afresh."""
        for number in blocks:
            _silencing(flow, run, number)
            for path in run.blocks[number]:
                for part in model.get_submodule(path).modules():
                    if any(True for _ in part.parameters(recurse=False)) and _reset(part) is None:
                        raise EditError(f"{type(part).__name__} in {path} has no reset_parameters() to start afresh")

    def start(self, flow: Flow, run: Run, blocks: Sequence[int], copies: Sequence[Pair], planting: Planting) -> None:
        """Everything afresh; the scales by their rule."""
        for _, copy in copies:
            for part in copy.modules():
                reset = _reset(part)
                if reset is not None:
                    reset()
        names = {name for number in blocks for name in _silencing(flow, run, number)}
        scales = {id(parameter) for _, copy in copies for parameter in _scales(copy)}
        for parameter in _copies_of(planting, copies, names):
            scale = torch.zeros(len(parameter), *[1] * (parameter.dim() - 1))
            if self.scale == "uniform":
                scale.uniform_()
            elif self.scale == "gaussian":
                scale.normal_(0, self.deviation)
            if id(parameter) in scales:
                parameter.copy_(scale)
            else:
                parameter.mul_(scale.to(parameter))

    def inexact(self) -> tuple[str, ...]:
        """New blocks compute something, unless their scale is zero."""
        return () if self.scale == "zero" else (f"new blocks start with {self.scale} scales",)


def set_zero(planting: Planting, copies: Sequence[Pair], names: set[str]) -> None:
    """In copies of modules, set those parameters to zero that are copies of these."""
    for parameter in _copies_of(planting, copies, names):
        parameter.zero_()


def _copies_of(planting: Planting, copies: Sequence[Pair], names: set[str]) -> Iterator[torch.Tensor]:
    """The parameters of copies that are copies of named ones.

    Raises:
        EditError: one of them is shared with modules outside, so that the copy has none of its own.
    """
    wanted = {id(planting.before[name]): name for name in names}
    for original, copy in copies:
        pairs = zip(original.parameters(), copy.parameters(), strict=True)
        for source, target in pairs:
            if id(source) in wanted:
                if target is source:
                    raise EditError(
                        f"{wanted[id(source)]} is shared with another module, so a copy has none of its own"
                    )
                yield target


def _silencing(flow: Flow, run: Run, number: int) -> tuple[str, ...]:
    """The parameters that turn a block into the identity if they are zero. Raises `EditError` if there are none."""
    first, last = run.blocks[number][0], run.blocks[number][-1]
    names: dict[str, None] = {}
    for enter, leave in zip(flow.of[first], flow.of[last], strict=True):
        given, returned = flow.version(enter.inputs[0], enter.first), flow.version(leave.outputs[0], leave.last)
        if set(overwritten(flow, replace(enter, last=leave.last))) - {0}:
            raise EditError(f"no copy of {first} is the identity: it writes to more than its first tensor")
        if _others_read(flow, range(enter.first, leave.last), returned):
            raise EditError(f"no copy of {first} is the identity: something else of what it computes is read outside")
        found = opened_by(flow, given, returned)
        if isinstance(found, Obstacle):
            raise EditError(f"no zeros turn {first} into the identity: {found.reason}; {_instead(flow, run, number)}")
        names.update(dict.fromkeys(found))
    outside = next((name for name in names if not any(within(name, path) for path in run.blocks[number])), None)
    if outside is not None:
        raise EditError(f"no zeros of its own turn {first} into the identity: {outside} is outside")
    return tuple(names)


def _instead(flow: Flow, run: Run, number: int) -> str:
    """What to do where no copy of a block is silent."""
    (*others, last) = run.blocks[number]
    call = flow.of[last][0]
    found = silenced_by(flow, flow.version(call.outputs[0], call.last))
    if others or isinstance(found, Obstacle) or not all(within(name, last) for name in found):
        return "insert a ZeroResidual behind it, or copy it as it is (Plain), which changes the function"
    return "insert a ResidualCopy of it, which is added to what the block is given"


def _others_read(flow: Flow, inside: range, returned: Version) -> bool:
    """Whether anybody outside reads something that calls make of the model's inputs but for one tensor."""
    made = {version for index in inside for version in flow.writes[index]} & flow.active - {returned}
    return any(reader not in inside for version in made for reader in flow.readers.get(version, ()))


def _scales(block: nn.Module) -> Iterator[torch.Tensor]:
    """The parameters of normalizations: of modules all of whose parameters are vectors."""
    for part in block.modules():
        own = list(part.parameters(recurse=False))
        if all(parameter.dim() < 2 for parameter in own):
            yield from own


def _reset(part: nn.Module) -> Callable[[], object] | None:
    """How a layer starts afresh."""
    found = getattr(part, "reset_parameters", None)
    return found if callable(found) else None
