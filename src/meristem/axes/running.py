"""Running a model on stand-ins and leaving no trace in it."""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from meristem.axes.higher_order import walked_into
from meristem.axes.map import Cache
from meristem.axes.recorder import Recorder, substitute, tensors_in


def canonical_tensors(model: nn.Module) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """Every parameter and buffer once, by its first qualified name, with all names it has."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                tensors[id(tensor)] = tensor
                names.setdefault(id(tensor), []).append(f"{path}.{name}" if path else name)
    return {found[0]: (tensors[key], tuple(found)) for key, found in names.items()}


@dataclass(frozen=True)
class Saved:
    """What a module held before a run: its attributes, and the content of its lists, dictionaries and sets."""

    name: str
    module: nn.Module
    attributes: dict[str, Any]
    contents: dict[str, Any]


@contextmanager
def untouched(model: nn.Module) -> Iterator[list[Saved]]:
    """Restore every module's attributes, parameters, buffers, containers and mode on leaving."""
    saved = [Saved(name, module, dict(module.__dict__), _contents(module)) for name, module in model.named_modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator would hide the structure
    try:
        with torch.random.fork_rng(devices=[]):
            yield saved
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for state in saved:
            state.module.__dict__.clear()
            state.module.__dict__.update(state.attributes)
            for name, content in state.contents.items():
                container = state.attributes[name]
                container.clear()
                container.extend(content) if isinstance(container, (list, deque)) else container.update(content)


def _contents(module: nn.Module) -> dict[str, Any]:
    return {name: value.copy() for name, value in module.__dict__.items() if type(value) in _CONTAINERS}


def caches(saved: Iterable[Saved]) -> list[Cache]:
    """Attributes that held no tensor and into which the run put some: the model keeps there what it computed."""
    found = []
    for state in saved:
        for name, value in state.module.__dict__.items():
            plain = name not in state.contents
            if name in _OWN_CONTENT or (plain and value is state.attributes.get(name)):
                continue
            before = state.attributes.get(name) if plain else state.contents[name]
            if holds_tensor(value) and not holds_tensor(before):
                found.append(Cache(state.name, name, before))
    return found


def holds_tensor(value: Any) -> bool:
    """Whether there is a tensor in nested containers."""
    return next(tensors_in(value), None) is not None


_CONTAINERS = (list, dict, set, OrderedDict, defaultdict, deque)
"""Hooks are in an `OrderedDict`: what a model registers in its first run, it would register again in the next."""

_OWN_CONTENT = {"_parameters", "_buffers", "_modules"}


@contextmanager
def module_stack(model: nn.Module) -> Iterator[list[str]]:
    """The qualified names of the modules being run, innermost last, kept up to date while the model runs."""
    names = {id(module): path for path, module in model.named_modules()}
    stack: list[str] = []

    def enter(module: nn.Module, _args: Any) -> None:
        stack.append(names.get(id(module), stack[-1] if stack else ""))

    def leave(_module: nn.Module, _args: Any, _result: Any) -> None:
        stack.pop()

    entering = register_module_forward_pre_hook(enter)
    leaving = register_module_forward_hook(leave, always_call=True)
    try:
        yield stack
    finally:
        entering.remove()
        leaving.remove()


def run(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    make_recorder: Callable[[list[str], FakeTensorMode | None], Recorder],
    *,
    real: bool,
    training: bool,
    graph: bool = False,
    new_shape: Callable[[str], tuple[int, ...]] | None = None,
) -> Recorder:
    """Run the model's forward on stand-ins under a recorder, and leave the model untouched.

    Args:
        make_recorder: given the module stack and the fake mode, the recorder to use.
        real: compute on real tensors instead of fake ones.
        training: the mode to run in; batch normalizations use their running statistics in either.
        graph: keep the graph that gradients are computed from. Composite operators are decomposed then.
        new_shape: the shape that each parameter and buffer pretends to have, by canonical name; default: its own.
    """
    fake = None if real else FakeTensorMode(allow_non_fake_inputs=True)
    gradients = torch.enable_grad() if graph else torch.inference_mode()
    with gradients, untouched(model) as saved, module_stack(model) as stack:
        if any(module.training != training for module in model.modules()):
            model.train(training)
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.training = False  # with a batch of one it would refuse to train; all else takes that branch
        recorder = make_recorder(stack, fake)
        recorder.recording.graph = graph
        _swap_in(model, recorder, new_shape)
        call_args = substitute(tuple(args), recorder.given)
        call_kwargs = substitute(dict(kwargs), recorder.given)
        recorder.recording.inputs.extend(recorder.number(t) for t in tensors_in((call_args, call_kwargs)))
        with recorder.computing(), recorder, _quiet(), recorder.watching(), walked_into():
            result = model(*call_args, **call_kwargs)
        recorder.recording.caches.extend(caches(saved))
        recorder.recording.results.extend(recorder.number(recorder.stand_in(t)) for t in tensors_in(result))
    return recorder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's log of operators that refuse their shapes: whoever runs the model here tells, or expects it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


def _swap_in(model: nn.Module, recorder: Recorder, new_shape: Callable[[str], tuple[int, ...]] | None) -> None:
    """Put stand-ins in the place of all parameters and buffers, to be undone by `untouched`."""
    stand_ins: dict[int, Tensor] = {}
    for name, (tensor, _names) in canonical_tensors(model).items():
        stand_in = recorder.like(tensor, tuple(tensor.shape) if new_shape is None else new_shape(name))
        stand_ins[id(tensor)] = stand_in
        recorder.replace(tensor, stand_in)
        recorder.recording.named[name] = recorder.number(stand_in)
    for module in model.modules():
        for kind in ("_parameters", "_buffers"):
            content = module.__dict__[kind]
            if content:
                module.__dict__[kind] = type(content)(
                    (name, None if tensor is None else stand_ins[id(tensor)]) for name, tensor in content.items()
                )
