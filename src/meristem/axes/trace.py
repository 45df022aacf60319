"""`trace`: from a model and an example input to the map of its axes."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

from meristem.axes.build import build
from meristem.axes.map import AxisMap, Example
from meristem.axes.proof import Proof
from meristem.axes.recorder import Recorder, Recording, references, user_frames
from meristem.axes.rules import find, known
from meristem.axes.running import canonical_tensors, run
from meristem.axes.solver import solve
from meristem.axes.wrapped import check_model
from meristem.errors import TraceError, UnreachedWarning, outside

_NEEDS_VALUES = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
    NotImplementedError,
)


def trace(
    model: nn.Module,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    also: Sequence[tuple[Any, Mapping[str, Any]]] = (),
    history: Sequence[Mapping[str, Any]] = (),
) -> AxisMap:
    """Map a model: find its axes, what is coupled with what, and which axes may be edited.

    The model's forward runs once in evaluation mode under fake tensors (nothing is computed) and once or a few times
    more to prove that edits are permissible. If that leaves parameters unreached, it also runs in training mode. The
    model, its buffers, mode and attributes are left exactly as they were.

    Args:
        model: any module that is not wrapped (DDP, FSDP, compiled, scripted).
        args: the forward's positional arguments: a tuple, or a single tensor; or a mapping, taken as `kwargs`.
        kwargs: its keyword arguments.
        also: further examples `(args, kwargs)` for branches that the first one does not take.
        history: edits that were applied to the model earlier, to be continued in the map's history.

    Returns:
        The map. `AxisMap.unreached` lists parameters that no example reached; they are frozen, and an
        `UnreachedWarning` names them: an edit of axes that they share with the rest would break the code that uses
        them.

    Raises:
        WrappedModelError: the model is a wrapper; the message says what to pass instead.
        TraceError: the model cannot be run on the example; the message names the source line and the operator.
    """
    axes = mapped(model, [_example(args, kwargs or {}), *(_example(*more) for more in also)], history)
    if axes.unreached:
        warnings.warn(unreached_warning(axes), UnreachedWarning, stacklevel=outside())
    return axes


def unreached_warning(axes: AxisMap) -> str:
    """What there is to say of parameters that no example reached."""
    names = ", ".join(axes.unreached[:3]) + (", ..." if len(axes.unreached) > 3 else "")
    return (
        f"no example reaches {len(axes.unreached)} parameters of {type(axes.model).__name__} ({names}): edits leave "
        "them as they are, and break code that uses them together with what is edited. Add an example that reaches "
        "them, `meristem.trace(model, example, also=[(args, kwargs)])`, and give the map to `Plasticity` as its "
        "example; if nothing uses them, all is well"
    )


def mapped(model: nn.Module, examples: Sequence[Example], history: Sequence[Mapping[str, Any]] = ()) -> AxisMap:
    """As `trace`, of examples as a map holds them, and without a warning of what they do not reach."""
    model = check_model(model)
    tensors = canonical_tensors(model)
    parameters = {name for name, (tensor, _) in tensors.items() if isinstance(tensor, nn.Parameter)}
    runs = [(example, _record(model, example)) for example in examples]
    if _unreached(parameters, [recording for _, recording in runs]):
        runs.extend(_training_runs(model, examples))
    shapes = {name: tuple(tensor.shape) for name, (tensor, _) in tensors.items()}
    solution = solve([recording for _, recording in runs], shapes, set(tensors) - parameters, find)
    unreached = _unreached(set(tensors), solution.recordings)
    for name in unreached:
        for dim in solution.layouts[name]:
            solution.space.freeze(dim, "the example input does not reach it")
    bindings = Proof(model, [example for example, _ in runs], solution, known).run()
    names = {name: found for name, (_, found) in tensors.items()}
    missing = tuple(name for name in tensors if name in unreached and name in parameters)
    found = build(weakref.ref(model), solution, bindings, names, parameters, missing, tuple(history))
    return replace(found, examples=tuple(examples))


def traced_again(axes: AxisMap, history: Sequence[Mapping[str, Any]]) -> AxisMap:
    """The map of the same model as it is now, by the examples with which it was traced before. What they do not reach
    was said then.

    Args:
        axes: an earlier map of it.
        history: that of the new map.

    Raises:
        TraceError, WrappedModelError: as `trace`.
    """
    return mapped(axes.model, axes.examples, history)


def _example(args: Any, kwargs: Mapping[str, Any]) -> Example:
    if isinstance(args, Tensor):
        args = (args,)
    elif isinstance(args, Mapping):
        args, kwargs = (), {**args, **kwargs}
    elif not isinstance(args, (tuple, list)):
        raise TraceError(
            f"expected an example input: a tensor, a tuple of positional or a dict of keyword arguments; got "
            f"{type(args).__name__} (an array becomes a tensor by torch.as_tensor)"
        )
    return tuple(args), kwargs, False


def _record(model: nn.Module, example: Example) -> Recording:
    """Run on fake tensors; where that fails, because values are needed, say, on real ones."""
    args, kwargs, training = example
    recorder: Recorder | None = None

    def make(stack: list[str], fake: Any) -> Recorder:
        nonlocal recorder
        recorder = Recorder(known, stack, fake)
        return recorder

    try:
        return run(model, args, kwargs, make, real=False, training=training).recording
    except Exception as error:
        first, seen = error, recorder
    try:
        return run(model, args, kwargs, make, real=True, training=training).recording
    except Exception as error:
        if needs_values(first):
            first, seen = error, recorder
        raise _trace_error(model, example, seen, first) from first


def needs_values(error: BaseException) -> bool:
    """Whether a run failed only because fake tensors hold no values."""
    return isinstance(error, _NEEDS_VALUES) or any(
        text in str(error) for text in ("data-dependent", "Cannot access data pointer", "FakeTensor", "fake tensor")
    )


def _trace_error(model: nn.Module, example: Example, recorder: Recorder | None, error: Exception) -> TraceError:
    where, frame = "", error.__traceback__
    while frame is not None:
        found, _ = user_frames(frame.tb_frame)
        where = found or where
        frame = frame.tb_next
    calls = recorder.recording.calls if recorder is not None else []
    last = f" after {calls[-1].operator} in module {calls[-1].site.module!r}" if calls else ""
    name, message = type(model).__name__, (str(error).splitlines() or [""])[0].rstrip(".")
    return TraceError(
        f"{name} could not be run on the example input: {type(error).__name__}: {message}, at {where or 'unknown line'}"
        f"{last}. It was called as {name}({_shown(example)}). Give the arguments that the model's forward takes: "
        "trace(model, args, kwargs)."
    )


def _shown(example: Example) -> str:
    """The arguments, each by its type, tensors by shape and dtype."""
    args, kwargs, _ = example
    parts = [_described(value) for value in args]
    return ", ".join([*parts, *(f"{name}={_described(value)}" for name, value in kwargs.items())])


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return repr(value) if isinstance(value, (int, float, str, type(None))) else type(value).__name__


def _training_runs(model: nn.Module, examples: Sequence[Example]) -> list[tuple[Example, Recording]]:
    """What training mode adds, where the model can be run in it; parameters that it does not reach are reported."""
    found: list[tuple[Example, Recording]] = []
    for args, kwargs, _ in examples:
        try:
            found.append(((args, kwargs, True), _record(model, (args, kwargs, True))))
        except TraceError:
            continue  # the unreached parameters stay frozen and reported
    return found


def _unreached(names: set[str], recordings: Sequence[Recording]) -> set[str]:
    """Names of tensors that no call of any recording has among its arguments."""
    reached: set[str] = set()
    for recording in recordings:
        used = {number for call in recording.calls for number in references(call)}
        reached |= {name for name, number in recording.named.items() if number in used or number in recording.results}
    return names - reached
