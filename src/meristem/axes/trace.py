"""`trace`: from a model and an example input to the map of its axes."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from meristem.axes.build import build
from meristem.axes.failure import trace_error
from meristem.axes.fake import fake_or_real, without_graph
from meristem.axes.map import AxisMap, Example
from meristem.axes.proof import Proof
from meristem.axes.recorder import Recorder, Recording, references
from meristem.axes.rules import find, known
from meristem.axes.running import canonical_tensors, run
from meristem.axes.solver import solve
from meristem.axes.wrapped import check_model
from meristem.errors import TraceError, UnreachedWarning, outside


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
    recorded = [example for example, _ in runs]
    bindings = Proof(model, recorded, solution, known).run()
    names = {name: found for name, (_, found) in tensors.items()}
    missing = tuple(name for name in tensors if name in unreached and name in parameters)
    found = build(weakref.ref(model), solution, bindings, names, parameters, missing, tuple(history), recorded)
    kinds = {path: type(module) for path, module in model.named_modules(remove_duplicate=False)}
    return replace(found, examples=tuple(examples), kinds=kinds)


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


def examples_of(example: Any) -> list[Example]:
    """What a model is called with, once for each example.

    Args:
        example: inputs of the model, as for `trace`, or its map, or None.

    Raises:
        TraceError: it is neither.
    """
    if example is None:
        return []
    return list(example.examples) if isinstance(example, AxisMap) else [_example(example, {})]


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
    args, kwargs, training = example

    def make(stack: list[str], fake: FakeTensorMode | None) -> Recorder:
        return Recorder(known, stack, fake)

    def record(graph: bool) -> Recording:
        return fake_or_real(
            lambda real: run(model, args, kwargs, make, real=real, training=training, graph=graph).recording
        )

    try:
        return without_graph(record)
    except Exception as error:
        raise trace_error(model, example, error) from error


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
