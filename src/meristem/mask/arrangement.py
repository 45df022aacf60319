"""How weights are laid out: which of their dimensions are outputs, inputs, and positions of a kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from meristem.axes import trace
from meristem.axes.map import AxisMap, Role
from meristem.axes.running import untouched
from meristem.errors import ConfigError
from meristem.signals.contraction import read_call


@dataclass(frozen=True)
class Arrangement:
    """The dimensions of a weight by what they are. All that are neither outputs nor inputs are positions of a kernel.

    Attributes:
        outputs, inputs: by number, in the order in which they are counted.
        groups: into how many groups the first dimension is cut before dimensions are numbered, so that there is one
            more; None: it is not cut.
    """

    outputs: tuple[int, ...] = (0,)
    inputs: tuple[int, ...] = (1,)
    groups: int | None = None

    def seen(self, tensor: Tensor) -> Tensor:
        """A tensor in the shape of the weight as (outputs, inputs, *kernel)."""
        cut = self._cut(tensor)
        outs, ins = (prod(cut.shape[dim] for dim in dims) for dims in (self.outputs, self.inputs))
        kernel = self._order(cut.dim())[len(self.outputs) + len(self.inputs) :]
        return cut.permute(self._order(cut.dim())).reshape(outs, ins, *(cut.shape[dim] for dim in kernel))

    def back(self, seen: Tensor, like: Tensor) -> Tensor:
        """The inverse of `seen`, for a tensor in the shape of another one."""
        cut = self._cut(like)
        order = self._order(cut.dim())
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return seen.reshape([cut.shape[dim] for dim in order]).permute(inverse).reshape(like.shape)

    def _cut(self, tensor: Tensor) -> Tensor:
        return tensor if self.groups is None else tensor.unflatten(0, (self.groups, -1))

    def _order(self, dims: int) -> list[int]:
        first = [*self.outputs, *self.inputs]
        return [*first, *(dim for dim in range(dims) if dim not in first)]


def transposed(groups: int = 1) -> Arrangement:
    """That of weights (inputs, outputs / groups, *kernel), as of transposed convolutions and of `x @ weight`."""
    return Arrangement((0, 2), (1,), groups)


class Arrangements:
    """How the weights of a model are laid out, by name; worked out when it is asked for. Nothing is guessed.

    The modules that hold a weight say it: those of PyTorch by what they are, any other that has nothing but parameters
    by how its own forward multiplies a row of zeros with a matrix. Otherwise the map does: inputs are the dimensions by
    which a weight reads units. Dimensions that have to do with no units are positions of a kernel, unless they stand
    before those that do: experts, say, of which each has outputs of its own.

    Args:
        model: the model; it keeps its structure.
        axes: its map, or None.
    """

    def __init__(self, model: nn.Module, axes: AxisMap | None = None) -> None:
        self.model = model
        self.axes = axes
        self._known: dict[str, Arrangement] = {}

    def of(self, name: str) -> Arrangement:
        """That of one weight. Raises `ConfigError` if it has no inputs, or which they are is not known."""
        if name not in self._known:
            self._known[name] = self._found(name)
        return self._known[name]

    @cached_property
    def _holders(self) -> Mapping[int, Sequence[str]]:
        """All names of each parameter, by its identity."""
        found: dict[int, list[str]] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            found.setdefault(id(parameter), []).append(name)
        return found

    def _found(self, name: str) -> Arrangement:
        parameter = self.model.get_parameter(name)
        if parameter.dim() < 2:
            raise ConfigError(f"{name} has the shape {tuple(parameter.shape)}, without inputs; leave it out")
        names = self._holders.get(id(parameter), [name])
        known = {one for held in names for one in _own(self.model, held, parameter)}
        known = known or (set() if self.axes is None else _mapped(self.axes, names))
        if len(known) == 1:
            return known.pop()
        owner = type(self.model.get_submodule(name.rpartition(".")[0])).__name__
        if known:
            why = "it is multiplied from both sides"
        elif self.axes is None:
            why = f"its module, {owner}, does not tell. Give `example=`: inputs of the model, or its map"
        else:
            why = "by the map it reads nothing, or along each of its dimensions"
        raise ConfigError(
            f"along which dimension {name} has its inputs is not known: {why}; or leave it out with `parameters=`"
        )


def map_of(model: nn.Module, example: Any) -> AxisMap | None:
    """The map of a model, given it or an example; None for None. Raises `ConfigError` if it is of another model."""
    if example is None or not isinstance(example, AxisMap):
        return None if example is None else trace(model, example)
    if example.model_reference() is not model:
        raise ConfigError("the map given as `example=` is of another model; trace this one, or give inputs of it")
    return example


def _own(model: nn.Module, name: str, parameter: nn.Parameter) -> set[Arrangement]:
    """What a module that holds a weight says; several arrangements if it uses it in several ways."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    return _heard(module, parameter) or _conventional(module, leaf)


def _conventional(module: nn.Module, leaf: str) -> set[Arrangement]:
    """How PyTorch's own modules, and classes that are derived from them, lay out a weight of this name."""
    if isinstance(module, _ConvNd) and leaf == "weight":
        return {transposed(module.groups) if module.transposed else Arrangement()}
    if isinstance(module, nn.Bilinear) and leaf == "weight":
        return {Arrangement((0,), (1, 2))}
    weights = (
        (isinstance(module, nn.Linear) and leaf == "weight")
        or (isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and leaf.startswith("weight"))
        or (isinstance(module, nn.MultiheadAttention) and leaf.endswith("proj_weight"))
    )
    return {Arrangement()} if weights else set()


def _heard(module: nn.Module, parameter: nn.Parameter) -> set[Arrangement]:
    """How a module that has nothing but parameters multiplies a matrix; nothing if that is not heard."""
    if parameter.dim() != 2 or [*module.children(), *module.buffers()]:
        return set()
    others = (length for p in module.parameters() for length in p.shape)
    for length in dict.fromkeys((*reversed(parameter.shape), *others)):
        heard = _Layouts(parameter)  # the module may be of any kind, and want something else: then nothing is heard
        with suppress(Exception), torch.no_grad(), untouched(module), heard:  # nor does it say anything if it fails
            type(module).forward(module, parameter.new_zeros(1, length))
        if heard.found:
            return heard.found
    return set()


def _mapped(axes: AxisMap, names: Sequence[str]) -> set[Arrangement]:
    """What a map says, if that is one thing."""
    layout = next((axes.layouts[name] for name in names if name in axes.layouts), None)
    roles = [{role for kinds in dim.values() for role in kinds} for dim in (layout.roles if layout else ())]
    inputs = tuple(dim for dim, kinds in enumerate(roles) if Role.READS in kinds)
    met = [dim for dim, kinds in enumerate(roles) if kinds]
    if not inputs or len(inputs) == len(met):
        return set()
    outputs = (*range(met[0]), *(dim for dim in met if dim not in inputs))
    return {Arrangement(outputs, inputs)}


class _Layouts(TorchFunctionMode):
    """Hears in which layouts a matrix is multiplied."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.parameter = parameter
        self.found: set[Arrangement] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        call = read_call(func, args, kwargs)
        if call is not None and call.weight is self.parameter:
            self.found.add(transposed() if call.weight_is_transposed else Arrangement())
        return func(*args, **(kwargs or {}))
