"""Running a model on stand-ins and leaving no trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

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


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore every module's attributes, parameters, buffers, containers and mode on leaving."""
    saved = [(module, dict(module.__dict__), _containers(module)) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator would hide the structure
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, attributes, containers in saved:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for container, content in containers:
                container.clear()
                container.extend(content) if isinstance(container, list) else container.update(content)


def _containers(module: nn.Module) -> list[tuple[Any, Any]]:
    """Lists, dictionaries and sets that belong to a module, with their content."""
    return [(v, v.copy()) for v in module.__dict__.values() if type(v) in (list, dict, set)]


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
    new_tensor: Callable[[str, Tensor], Tensor] | None = None,
) -> Recorder:
    """Run the model's forward on stand-ins under a recorder, and leave the model untouched.

    Args:
        make_recorder: given the module stack and the fake mode, the recorder to use.
        real: compute on real tensors instead of fake ones.
        training: the mode to run in.
        new_tensor: the stand-in of each parameter and buffer, by canonical name; default: one of the same shape.
    """
    fake = None if real else FakeTensorMode(allow_non_fake_inputs=True)
    with torch.inference_mode(), untouched(model), module_stack(model) as stack:
        model.train(training)
        recorder = make_recorder(stack, fake)
        _swap_in(model, recorder, new_tensor or (lambda name, tensor: _like(tensor, real)))
        call_args = substitute(tuple(args), recorder.stand_in)
        call_kwargs = substitute(dict(kwargs), recorder.stand_in)
        recorder.recording.inputs.extend(recorder.number(t) for t in tensors_in((call_args, call_kwargs)))
        with recorder:
            result = model(*call_args, **call_kwargs)
        recorder.recording.results.extend(recorder.number(recorder.stand_in(t)) for t in tensors_in(result))
    return recorder


def _like(tensor: Tensor, real: bool) -> Tensor:
    return tensor.detach().clone() if real else torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _swap_in(model: nn.Module, recorder: Recorder, new_tensor: Callable[[str, Tensor], Tensor]) -> None:
    """Put stand-ins in the place of all parameters and buffers, to be undone by `untouched`."""
    stand_ins: dict[int, Tensor] = {}
    for name, (tensor, _names) in canonical_tensors(model).items():
        with recorder.computing():
            stand_in = new_tensor(name, tensor)
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
