"""Recording: run the model once under fake tensors and note every operator call, undecomposed and without computing.

Under `torch.inference_mode` a dispatch mode sees composite operators (linear, conv2d, matmul, scaled dot-product
attention, lstm, ...) whole, so that a rule per operator family suffices. Composite operators without a rule are
decomposed into ones that may have a rule. Where the model's Python code needs values (`.item()`, branches on data), the
same recording runs on real tensors instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from types import CodeType, FrameType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from meristem.axes.map import Cache
from meristem.axes.operators import reshapes, short_name
from meristem.axes.types import autocast, check_types

_TORCH = os.path.dirname(torch.__file__) + os.sep
_HERE = os.path.dirname(__file__) + os.sep
_MODULE_CALL = {nn.Module._call_impl.__code__, nn.Module._wrapped_call_impl.__code__}
_QUERIES = ("prim.device", "aten.size", "aten.sym_size", "aten.stride", "aten.is_", "aten.numel", "aten.dim")


_ATOMS = {bool, int, float, str, type(None), torch.dtype, torch.device}
SAME_TENSOR = frozenset({"aten.detach", "aten.alias", "aten.lift_fresh", "aten.lift", "aten.contiguous", "aten.clone"})
"""Operators whose result is their argument or a copy of it. Whether PyTorch calls them depends on strides and reference
counts, so they are not recorded."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor among the arguments of a recorded call.

    Attributes:
        value: its number in the recording.
        cut: whether it was detached from what it was computed from.
    """

    value: int
    cut: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the model's code.

    Attributes:
        module: qualified name of the innermost module being run.
        where: `file:line` of the user's code.
        code: code objects of the functions between that module and the place, innermost first.
    """

    module: str
    where: str
    code: tuple[CodeType, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call.

    Attributes:
        operator: the overload that was called.
        name: its name without overload and without the trailing underscore of in-place variants, e.g. `aten.add`.
        args, kwargs: the arguments, tensors replaced by `Ref`.
        outputs: the numbers of the tensors that came out, in order.
        site: where the model's code made the call.
    """

    operator: OpOverload
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[int, ...]
    site: Site


@dataclass
class Recording:
    """All calls of one run of the model.

    Attributes:
        calls: in order.
        shapes, dtypes: of every tensor by number.
        contents: what was in those that no call made, at first, by number.
        named: number of each parameter and buffer that was used, by canonical name.
        inputs, results: numbers of the tensors that went into the model and that came out of it.
        caches: attributes of modules into which the run put tensors.
        real: whether real tensors were needed.
        graph: whether the graph that gradients are computed from was needed.
    """

    calls: list[Call] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    contents: dict[int, Tensor] = field(default_factory=dict)
    named: dict[str, int] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    caches: list[Cache] = field(default_factory=list)
    real: bool = False
    graph: bool = False


def references(call: Call) -> Iterator[int]:
    """The numbers of the tensors among a call's arguments."""
    return (ref.value for ref in refs(call))


def refs(call: Call) -> Iterator[Ref]:
    """The tensors among a call's arguments."""

    def visit(item: Any) -> Iterator[Ref]:
        if isinstance(item, Ref):
            yield item
        elif isinstance(item, (list, tuple)):
            for inner in item:
                yield from visit(inner)

    yield from visit((*call.args, *call.kwargs.values()))


@cache
def _is_query(operator: OpOverload) -> bool:
    """Whether an operator only asks for a property."""
    return short_name(operator).startswith(_QUERIES)


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Every tensor in nested mappings, sequences and dataclasses; other objects are opaque (a key-value cache, say)."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from tensors_in(item)
    elif isinstance(tree, (list, tuple, set)):
        for item in tree:
            yield from tensors_in(item)
    elif hasattr(tree, "__dataclass_fields__"):
        for name in tree.__dataclass_fields__:
            yield from tensors_in(getattr(tree, name, None))


def substitute(tree: Any, leaf: Callable[[Tensor], Any]) -> Any:
    """The same nesting of tuples, lists and mappings with every tensor replaced."""
    if type(tree) in _ATOMS:
        return tree
    if isinstance(tree, Tensor):
        return leaf(tree)
    if isinstance(tree, (list, tuple)):
        items = [substitute(item, leaf) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, dict):
        return {key: substitute(item, leaf) for key, item in tree.items()}
    return tree


class Recorder(TorchDispatchMode):
    """A dispatch mode that runs operators on stand-ins of real tensors and records the calls.

    Args:
        known: whether there is a rule for an operator of that name; composite ones without are decomposed.
        stack: the qualified names of the modules being run, innermost last.
        fake: the fake tensor mode, or None to compute for real.
    """

    renames: ClassVar[frozenset[str]] = SAME_TENSOR
    """Operators that are not recorded: their result has the number of their argument."""

    def __init__(self, known: Callable[[OpOverload], bool], stack: Sequence[str], fake: FakeTensorMode | None) -> None:
        super().__init__()
        self.recording = Recording(real=fake is None)
        self.fake = fake
        self._known = known
        self._stack = stack
        self._composite: dict[OpOverload, bool] = {}
        self._numbers: dict[int, int] = {}
        self._cut: set[int] = set()
        self._alive: list[Tensor] = []  # keeps ids unique while recording
        self._stand_ins: dict[int, Tensor] = {}
        self._contents: dict[int, Tensor] = {}

    def computing(self) -> AbstractContextManager[Any]:
        """The context to run the model in, around this recorder: fake tensors, or nothing."""
        return nullcontext() if self.fake is None else self.fake

    def watching(self) -> AbstractContextManager[Any]:
        """The context to call the model in, within that of this recorder."""
        return nullcontext()

    def stand_in(self, real: Tensor) -> Tensor:
        """The tensor that takes a real one's place."""
        found = self._stand_ins.get(id(real))
        if found is None:
            if isinstance(real, FakeTensor):
                return real
            if self.fake is None:
                if id(real) not in self._numbers and id(real) not in self._contents:
                    self._hold(real, real.detach().clone())  # it may be changed in place
                return real
            found = self.fake.from_tensor(real)
            self.replace(real, found)
            self._hold(found, real)
        return found

    def content(self, tensor: Tensor) -> Tensor | None:
        """What was in a tensor that no operator of the recording made, when it was first met."""
        return self._contents.get(id(tensor))

    def _hold(self, tensor: Tensor, content: Tensor) -> None:
        self._contents[id(tensor)] = content
        self._alive.append(tensor)

    def given(self, real: Tensor) -> Tensor:
        """The tensor that takes a model input's place: never the input itself, as the model may write to it."""
        if self.fake is None and id(real) not in self._stand_ins:
            self.replace(real, self._leaf(real.detach().clone(), real))
        return self.stand_in(real)

    def _leaf(self, stand_in: Tensor, real: Tensor) -> Tensor:
        return stand_in.requires_grad_() if self.recording.graph and real.requires_grad else stand_in

    def like(self, real: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A stand-in of any shape: a fake tensor, or a real one with the same entries over and over.

        Must be called outside `computing`.
        """
        if self.fake is not None:
            meta = torch.empty(shape, dtype=real.dtype, device="meta")
            return self._leaf(FakeTensor(self.fake, meta, real.device), real)
        found = real
        for dim, n in enumerate(shape):
            if found.shape[dim] != n:
                found = found.index_select(dim, torch.arange(n, device=real.device) % found.shape[dim])
        return self._leaf(found.detach().clone(), real)

    def replace(self, real: Tensor, stand_in: Tensor) -> None:
        """From now on use `stand_in` wherever the model's code uses `real`."""
        self._stand_ins[id(real)] = stand_in
        self._alive.append(real)

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor in the recording."""
        found = self._numbers.get(id(tensor))
        if found is None:
            found = len(self.recording.shapes)
            self._numbers[id(tensor)] = found
            self._alive.append(tensor)
            self.recording.shapes.append(tuple(tensor.shape))
            self.recording.dtypes.append(tensor.dtype)
            if id(tensor) in self._contents:
                self.recording.contents[found] = self._contents[id(tensor)]
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_query(func):
            return func(*args, **kwargs)
        name = short_name(func)
        args = substitute(args, self.stand_in)
        kwargs = substitute(kwargs, self.stand_in) if kwargs else kwargs
        if name in self.renames:
            return self._renamed(func, args, kwargs)
        if self._is_composite(func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return self.perform(func, name, args, kwargs)

    def _is_composite(self, func: OpOverload) -> bool:
        """Whether an operator is made of others and has no rule."""
        found = self._composite.get(func)
        if found is None:
            found = self._composite[func] = not self._known(func) and func._can_decompose()
        return found

    def perform(self, func: OpOverload, name: str, args: Any, kwargs: Any) -> Any:
        """Run one operator and record it."""
        reference = self._reference
        call_args, call_kwargs = substitute(args, reference), substitute(kwargs, reference)
        site = self.site(2)
        if self.fake is not None:
            check_types(name, args)
        result = func(*autocast(name, args), **kwargs)
        outputs = tuple(self._result_number(func, t) for t in tensors_in(result))
        self.recording.calls.append(Call(func, name, tuple(call_args), call_kwargs, outputs, site))
        return result

    def site(self, depth: int) -> Site:
        """Where the model's code is, seen from `depth` frames above the caller."""
        where, code = user_frames(sys._getframe(depth + 1))
        return Site(self._stack[-1] if self._stack else "", where, code)

    def _renamed(self, func: OpOverload, args: Any, kwargs: Any) -> Tensor:
        result = func(*args, **kwargs)
        self.identify(result, self.number(args[0]))
        if short_name(func) == "aten.detach" or id(args[0]) in self._cut:
            self._cut.add(id(result))
        if id(args[0]) in self._contents:
            self._contents[id(result)] = self._contents[id(args[0])]
        return result

    def identify(self, tensor: Tensor, number: int) -> None:
        """Give a tensor a number that the recording already has."""
        self._numbers[id(tensor)] = number
        self._alive.append(tensor)

    def _result_number(self, func: OpOverload, tensor: Tensor) -> int:
        """The number of a result: a new one if its dimensions were changed in place, as a number has one shape."""
        known = self._numbers.get(id(tensor))
        if known is not None and (reshapes(func) or self.recording.shapes[known] != tuple(tensor.shape)):
            del self._numbers[id(tensor)]
        return self.number(tensor)

    def _reference(self, tensor: Tensor) -> Ref:
        return Ref(self.number(tensor), id(tensor) in self._cut)


def user_frames(frame: FrameType | None) -> tuple[str, tuple[CodeType, ...]]:
    """`file:line` of the innermost code outside PyTorch, and all code objects up to the module's call."""
    where, code = "", []
    inside = True
    while frame is not None and (inside or not where):
        current = frame.f_code
        if current in _MODULE_CALL:
            inside = False
        elif not current.co_filename.startswith(_HERE):
            if inside:
                code.append(current)
            where = where or line_of(current, frame.f_lineno)
        frame = frame.f_back
    return where, tuple(code)


def line_of(code: CodeType, line: int) -> str:
    """`file:line` of code that is neither PyTorch's nor ours; otherwise nothing."""
    return "" if code.co_filename.startswith((_HERE, _TORCH)) else f"{_readable(code.co_filename)}:{line}"


@cache
def _readable(filename: str) -> str:
    """A source file as people know it: relative to where packages are installed, or to the current directory."""
    _, installed, below = filename.rpartition(f"site-packages{os.sep}")
    if installed:
        return below
    relative = os.path.relpath(filename)
    return filename if relative.startswith(os.pardir) else relative
