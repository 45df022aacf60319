"""What must hold before an edit touches anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from meristem.axes.map import AxisMap, TensorLayout
from meristem.errors import EditError, StaleMapError, WrappedModelError

AGAIN = "trace the model again, or use the map that commit() returned"


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by all their names, tied ones under each."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def check_model(axes: AxisMap, edited: Iterable[TensorLayout]) -> dict[str, Tensor]:
    """The model's tensors by name, after a check that they are those of the map.

    Buffers that the edit does not concern may differ: caches grow while a model runs.

    Raises:
        StaleMapError: a parameter is new, gone, untied or of another shape.
        WrappedModelError: a parameter is split over devices.
    """
    tensors = tensors_of(axes.model)
    concerned = {layout.name for layout in edited}
    for layout in axes.layouts.values():
        if not layout.buffer or layout.name in concerned:
            _check_tensor(layout, tensors, layout.shape(axes.sizes))
    known = {name for layout in axes.layouts.values() for name in layout.names} | set(axes.unreached)
    for name, parameter in tensors.items():
        if isinstance(parameter, nn.Parameter) and name not in known:
            raise StaleMapError(f"the model has a parameter {name} that the map does not know; {AGAIN}")
    return tensors


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
    for layout in edited:
        found = tensors.get(layout.name)
        if found is None or tuple(found.shape) != layout.shape(axes.sizes):
            raise StaleMapError(
                f"the {type(copy).__name__} in `follow` is no copy of the model as it is now: {layout.name} is "
                f"{'missing' if found is None else tuple(found.shape)}, expected {layout.shape(axes.sizes)}"
            )
    return tensors
