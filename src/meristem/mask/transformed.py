"""Which parameters are no weights themselves: the model computes its weights from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from meristem.axes.recorder import tensors_in
from meristem.axes.running import untouched
from meristem.axes.trace import examples_of
from meristem.errors import TraceError
from meristem.signals.contraction import read_call
from meristem.signals.inside import inside

PARAMETRIZED = "a parametrization computes the weight from it"
HOOKED = "a hook computes {} from it"
COMPUTED = "the forward computes a weight from it, in which its zeros are no zeros or change other entries"


def transformed(model: nn.Module, names: Iterable[str], example: Any = None) -> dict[str, str]:
    """The parameters whose zeros are not simply zeros of a weight, each with what is done to it.

    `weight_norm` divides a row by its norm (a row of zeros is 0 / 0), `orthogonal` makes another matrix of it,
    standardization subtracts a mean. Known are parametrizations of PyTorch, whichever they are; hooks that compute a
    tensor `weight` from a parameter `weight_...` of its shape, as the older functions of PyTorch do; and code in a
    forward, which is run: that of the module that holds the parameter, on a few ones, where it takes a tensor, and with
    an example that of the whole model. There a weight has to be zero where the parameter is, and the same elsewhere.

    Fails: a zero that is lost in any other way than on the way to a linear map or a convolution is not seen.

    Args:
        model: the model; it stays as it is, unless its forward writes to parameters itself.
        names: of the parameters in question.
        example: inputs of the model, as for `meristem.trace`, or its map; or None.

    Raises:
        TraceError: the model cannot be run on the example.
    """
    wanted = {name: model.get_parameter(name) for name in names}
    found = {name: reason for name in wanted if (reason := _declared(model, name)) is not None}
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in wanted if name not in found}
    alone = {name: module for name, module in owners.items() if _has_own_code(module)}
    if example is None and not alone:
        return found
    mode = _Shadows({name: wanted[name] for name in owners})
    with _looking(model):
        for name, module in alone.items():
            _alone(module, wanted[name], mode)
        for args, kwargs, _ in examples_of(example):
            try:
                mode.run(model, *args, **kwargs)
            except Exception as error:  # whatever the model raises
                raise TraceError(f"the model cannot be run on the example: {type(error).__name__}: {error}") from error
    return {name: found.get(name, COMPUTED) for name in wanted if name in found or name in mode.computed}


def _declared(model: nn.Module, name: str) -> str | None:
    """What PyTorch's means for computing weights say of a parameter."""
    path, _, leaf = name.rpartition(".")
    parts = path.split(".") if path else []
    above = (model.get_submodule(".".join(parts[:end])) for end in range(len(parts) + 1))
    if any(isinstance(module, ParametrizationList) for module in above):
        return PARAMETRIZED
    shape = model.get_parameter(name).shape
    for key, value in model.get_submodule(path).__dict__.items():
        if isinstance(value, Tensor) and leaf.startswith(f"{key}_") and value.shape == shape:
            return HOOKED.format(key)
    return None


def _has_own_code(module: nn.Module) -> bool:
    """Whether a module has no others in it, and a forward that is not one of PyTorch's."""
    return not [*module.children()] and not getattr(type(module).forward, "__module__", "").startswith("torch.nn.")


def _alone(module: nn.Module, parameter: nn.Parameter, mode: _Shadows) -> None:
    """Run the forward of a module without its hooks, if it takes one tensor."""
    lengths = dict.fromkeys((*parameter.shape[:2], *(n * getattr(module, "groups", 1) for n in parameter.shape[1:2])))
    for length in lengths:
        with suppress(Exception):  # the module may be of any kind, and want something else: then nothing is heard
            mode.run(module.forward, parameter.new_ones(1, length, *parameter.shape[2:]))


@contextmanager
def _looking(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients, and everything as before afterwards, also what a buffer held."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with torch.no_grad(), untouched(model):
            model.eval()
            yield
    finally:
        for buffer, before in buffers:
            if not torch.equal(buffer, before):
                with torch.no_grad():
                    buffer.copy_(before)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class _Shadows(TorchFunctionMode):
    """While the model runs, computes what depends on parameters alone for other values of them, too, and compares what
    inputs are multiplied with.

    Attributes:
        computed: the parameters for which a zero was not just a zero.
    """

    def __init__(self, wanted: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.computed: set[str] = set()
        self._wanted = {id(p): name for name, p in wanted.items()}
        self._dynamic = WeakIdKeyDictionary()
        self._shadows = WeakIdKeyDictionary()

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call something of the model with inputs."""
        for tensor in tensors_in((args, kwargs)):
            self._dynamic[tensor] = True
        with self:
            function(*args, **kwargs)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        names = {name for tensor in given for name in self._names(tensor)}
        call = read_call(func, args, kwargs)
        if call is not None:
            self._judge(call.weight)
        depends = any(tensor in self._dynamic for tensor in given)
        others = self._for_other_values(func, args, kwargs, names) if names and call is None and not depends else []
        result = inside(self, func, args, kwargs)
        for number, output in enumerate(_tensors(result)):
            if depends:
                self._dynamic[output] = True
            elif others:
                self._shadows[output] = names, [_tensors(other)[number] for other in others]
        return result

    def _for_other_values(self, func: Any, args: Any, kwargs: Any, names: set[str]) -> list[Any]:
        """What a call gives for the other values of parameters; nothing, and they count as computed with, if it fails
        for these (the inverse of zeros)."""

        def of(number: int) -> Callable[[Any], Any]:
            return lambda leaf: self._values(leaf)[number] if isinstance(leaf, Tensor) else leaf

        try:
            with torch.random.fork_rng(devices=[]):
                return [func(*tree_map(of(number), args), **tree_map(of(number), kwargs)) for number in range(3)]
        except RuntimeError:
            self.computed |= names
            return []

    def _names(self, tensor: Tensor) -> set[str]:
        """The parameters that a tensor is computed from."""
        if id(tensor) in self._wanted:
            return {self._wanted[id(tensor)]}
        known = self._shadows.get(tensor)
        return set() if known is None else known[0]

    def _values(self, tensor: Tensor) -> list[Tensor]:
        """Its other values: for some random parameters, for these with zeros, and for zeros alone."""
        if id(tensor) in self._wanted:
            generator = torch.Generator().manual_seed(0)
            some = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
            return [some, torch.where(some.abs() > some.abs().median(), some, 0), torch.zeros_like(some)]
        known = self._shadows.get(tensor)
        return [tensor] * 3 if known is None else known[1]

    def _judge(self, weight: Tensor) -> None:
        """Whether the zeros of parameters are zeros of what inputs are multiplied with, and nothing else changes."""
        if id(weight) in self._wanted or weight not in self._shadows:
            return
        names, (some, fewer, none) = self._shadows[weight]
        same = bool(((fewer == some) | (fewer == 0)).all())
        if not (same and bool((none == 0).all())):
            self.computed |= names
