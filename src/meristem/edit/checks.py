"""What must hold before an edit touches anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from meristem.axes.map import AxisMap, TensorLayout
from meristem.edit.modules import modules_of
from meristem.errors import EditError, StaleMapError, WrappedModelError

AGAIN = "trace the model again, or use the map that commit() returned"


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by all their names, tied ones under each."""
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for path, module in modules_of(model).items():
        prefix = f"{path}." if path else ""
        for found, own in ((parameters, module._parameters), (buffers, module._buffers)):
            for name, tensor in own.items():
                if tensor is not None:
                    found[prefix + name] = tensor
    return parameters | buffers


def check_model(axes: AxisMap, edited: Iterable[TensorLayout]) -> dict[str, Tensor]:
    """The model's tensors by name, after a check that they are those of the map.

    Buffers that the edit does not concern may differ: caches grow while a model runs.

    Raises:
        StaleMapError: a parameter is new, gone, tied, untied or of another shape, or a module is of another class.
        WrappedModelError: a parameter is split over devices.
    """
    tensors = tensors_of(axes.model)
    concerned = {layout.name for layout in edited}
    checked: dict[int, TensorLayout] = {}
    for layout in axes.layouts.values():
        if not layout.buffer or layout.name in concerned:
            _check_tensor(layout, tensors, layout.shape(axes.sizes))
            _check_apart(layout, checked.setdefault(id(tensors[layout.name]), layout))
    for layout in axes.layouts.values():  # a buffer that the edit does not concern, but may be what it does
        if layout.buffer and layout.name not in concerned and layout.name in tensors:
            _check_apart(layout, checked.get(id(tensors[layout.name]), layout))
    _check_kinds(axes)
    known = {name for layout in axes.layouts.values() for name in layout.names} | set(axes.unreached)
    for name, parameter in tensors.items():
        if isinstance(parameter, nn.Parameter) and name not in known:
            raise StaleMapError(f"the model has a parameter {name} that the map does not know; {AGAIN}")
    return tensors


def check_sizes(axes: AxisMap, sizes: Sequence[int]) -> None:
    """Refuse sizes at which the model's code would go another way than the one that was traced.

    Axes of which no unit stays go with the code that is about their sizes alone.

    Raises:
        EditError: names the axes and the line of code.
    """
    gone = {axis.index for axis in axes if axis.size and not sizes[axis.index]}
    left = replace(axes, guards=tuple(guard for guard in axes.guards if not guard.axes <= gone)) if gone else axes
    guard = left.turned(sizes)
    if guard is None:
        return
    changes = [f"{axes.axes[i].name} with {sizes[i]} units" for i in sorted(guard.axes) if sizes[i] != axes.sizes[i]]
    raise EditError(
        f"the code at {guard.where} compares sizes: {guard.said([axis.name for axis in axes])}. It would go another "
        f"way than the one that was traced for {' and '.join(changes)}; choose another size, or build the model with "
        "these sizes and trace it then"
    )


def check_parameters(axes: AxisMap, names: Iterable[str]) -> list[Tensor]:
    """These parameters of the model, after a check that they are those of the map: for what looks at a few of them in
    every training step.

    Raises:
        StaleMapError: one of them is gone or of another shape.
    """
    found: list[Tensor] = []
    for name in names:
        layout = axes.layouts[name]
        tensors = {other: tensor for other in layout.names if (tensor := _parameter(axes.model, other)) is not None}
        _check_tensor(layout, tensors, layout.shape(axes.sizes))
        found.append(tensors[name])
    return found


def _parameter(model: nn.Module, name: str) -> Tensor | None:
    try:
        return model.get_parameter(name)
    except AttributeError:  # gone, or no parameter any more
        return None


def _check_tensor(layout: TensorLayout, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
    first = tensors.get(layout.name)
    for name in layout.names:
        tensor = tensors.get(name)
        if tensor is None or first is None:
            raise StaleMapError(f"the model no longer has a tensor {name}; {AGAIN}")
        if tensor is not first:
            raise StaleMapError(f"{name} and {layout.name} are no longer the same tensor; {AGAIN}")
    if first is None or tuple(first.shape) != shape:
        found = None if first is None else tuple(first.shape)
        raise StaleMapError(f"{layout.name} has the shape {found}, the map says {shape}; {AGAIN}")
    if is_traceable_wrapper_subclass(first):
        raise WrappedModelError(
            f"{layout.name} is a {type(first).__name__}, a tensor that wraps others (FSDP2, tensor parallelism, "
            "quantization); edit the model before it is wrapped"
        )


def _check_apart(layout: TensorLayout, other: TensorLayout) -> None:
    """Raise `StaleMapError` if what the map lays out in two ways is one tensor: an edit would change it twice."""
    if other is not layout:
        raise StaleMapError(f"{layout.name} and {other.name} have become the same tensor; {AGAIN}")


def _check_kinds(axes: AxisMap) -> None:
    """Raise `StaleMapError` unless the modules are of the classes that were traced.

    Where a module gets a child without parameters besides, its own code decides what comes of it; a container runs it.
    """
    if not axes.kinds:
        return  # the map was not made by `trace`
    modules = modules_of(axes.model)
    for path, kind in axes.kinds.items():
        found = modules.get(path)
        if type(found) is not kind:
            now = "gone" if found is None else f"a {type(found).__name__}"
            raise StaleMapError(f"the module {path or 'itself'!r} was a {kind.__name__}, it is {now} now; {AGAIN}")
    for path in modules.keys() - axes.kinds.keys() if len(modules) > len(axes.kinds) else ():
        parent = path.rpartition(".")[0]
        if isinstance(modules[parent], (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            raise StaleMapError(f"the model has a module {path} that the map does not know; {AGAIN}")


def check_values(model: Mapping[str, Tensor], edited: Iterable[TensorLayout], axis: str) -> None:
    """Refuse units to be born in tensors without values.

    Args:
        model: the model's tensors by name.
        edited: the layouts that change.
        axis: the name of one that grows.

    Raises:
        EditError: a tensor is on the meta device.
    """
    for layout in edited:
        if model[layout.name].is_meta:
            raise EditError(
                f"{axis} cannot grow: {layout.name} is on the meta device and has no values, which newborns would "
                "start from. Give the model values first, by model.to_empty(device=...) and load_state_dict(...), or "
                "build it on a real device"
            )


def check_optimizers(
    optimizers: Sequence[Optimizer], tensors: Mapping[str, Tensor], edited: Sequence[TensorLayout]
) -> None:
    """Refuse optimizers that could not train the model after the edit.

    Raises:
        StaleMapError: an optimizer holds none of the model's parameters, or foreign ones while the model's are missing.
        EditError: an edited parameter is in no optimizer, though others are.
    """
    model = {id(tensor) for tensor in tensors.values()}
    held: set[int] = set()
    for number, optimizer in enumerate(optimizers):
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if model.isdisjoint(own):
            raise StaleMapError(
                f"optimizer {number} ({type(optimizer).__name__}) holds none of the model's parameters; it was built "
                "for another model, or before the parameters were replaced. Build it on model.parameters() again"
            )
        held |= own
    trained = [layout.name for layout in edited if id(tensors[layout.name]) in held]
    missing = [
        layout.name
        for layout in edited
        if not layout.buffer and tensors[layout.name].requires_grad and id(tensors[layout.name]) not in held
    ]
    if not optimizers or not missing:
        return
    if held - model:
        raise StaleMapError(
            f"the optimizers hold {len(held - model)} parameters that are not the model's, and lack {missing[0]}; they "
            "were built before parameters were replaced. Build them on model.parameters() again"
        )
    if trained:
        raise EditError(
            f"{missing[0]} changes with {trained[0]} and requires a gradient, but no given optimizer holds it; "
            "pass all optimizers of the model, or freeze it by requires_grad_(False)"
        )


def unwrapped(copy: nn.Module) -> nn.Module:
    """The copy of the model inside an `AveragedModel`, or the copy itself."""
    return copy.module if isinstance(copy, AveragedModel) else copy


def check_copy(copy: nn.Module, axes: AxisMap, edited: Iterable[TensorLayout]) -> dict[str, Tensor]:
    """The tensors by name of a copy of the model that is to follow the edit. Raises `StaleMapError` if it is none."""
    if unwrapped(copy) is axes.model:
        raise EditError("the model itself is given in `follow`; give only copies of it")
    tensors = tensors_of(unwrapped(copy))
    checked: dict[int, TensorLayout] = {}
    for layout in edited:
        found = tensors.get(layout.name)
        if found is None or tuple(found.shape) != layout.shape(axes.sizes):
            raise StaleMapError(
                f"the {type(copy).__name__} in `follow` is no copy of the model as it is now: {layout.name} is "
                f"{'missing' if found is None else tuple(found.shape)}, expected {layout.shape(axes.sizes)}"
            )
        other = checked.setdefault(id(found), layout).name
        untied = [name for name in layout.names if tensors.get(name) is not found]
        if other != layout.name or untied:
            pair = f"{layout.name} and {untied[0] if untied else other}"
            raise StaleMapError(
                f"the {type(copy).__name__} in `follow` is no copy of the model as it is now: {pair} are "
                f"{'two tensors' if untied else 'one tensor'} in it, {'one' if untied else 'two'} in the model"
            )
    return tensors
