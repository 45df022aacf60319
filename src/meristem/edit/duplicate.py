"""A copy of a part of a model that shares with the rest what the rest holds too."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from meristem.edit.hollow import hollow, is_hollow

_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks") or "_hooks_" in name)
_OWN = ("_parameters", "_buffers", "_modules")


def copied(model: nn.Module) -> nn.Module:
    """A copy of a whole model, with all hooks; also after a forward pass, in which those of `torch.nn.utils` leave
    computed weights that `copy.deepcopy` refuses."""
    return copy.deepcopy(model, _computed(model.modules()))


def duplicate(module: nn.Module, model: nn.Module, *, share_tensors: bool = False) -> nn.Module:
    """Copy a module of a model.

    Parameters and buffers are copied; those that are tied with some outside the module stay tied. Objects that modules
    outside hold too, configurations and shared modules say, are shared. Hooks stay behind, but for those by which
    `torch.nn.utils` computes weights. Gradients stay behind. Parameters keep `requires_grad` and plain attributes.

    Args:
        module: what to copy.
        model: the model that it is a part of.
        share_tensors: share all tensors instead, for a rehearsal.
    """
    inside = list(module.modules())
    memo: dict[int, Any] = {id(value): value for value in _held_outside(model, inside)}
    memo.update(_computed(inside))
    for part in inside:
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if tensor is not None and share_tensors:
                memo[id(tensor)] = tensor
            elif is_hollow(tensor):
                memo.setdefault(id(tensor), hollow(tensor))
        for name in _HOOKS:
            hooks = vars(part).get(name)
            if isinstance(hooks, dict) and id(part) not in memo:
                memo[id(hooks)] = OrderedDict((k, copy.deepcopy(h)) for k, h in hooks.items() if _computes(h))
    found = copy.deepcopy(module, memo)
    for old, new in zip(module.parameters(), found.parameters(), strict=True):
        for name, value in vars(old).items() if new is not old else ():
            if not isinstance(value, Tensor):
                setattr(new, name, value)
    return found


def _computed(modules: Iterable[nn.Module]) -> dict[int, Tensor]:
    """What is computed before every forward pass and left in modules: by its id, a copy of its values."""
    held = (value for module in modules for value in vars(module).values())
    return {id(x): x.detach().clone() for x in held if isinstance(x, Tensor) and x.grad_fn is not None}


def _held_outside(model: nn.Module, inside: list[nn.Module]) -> Iterator[Any]:
    """Everything but numbers and strings that modules outside hold: modules, tensors, plain objects."""
    own = {id(part) for part in inside}
    for other in model.modules():
        if id(other) in own:
            continue
        for kind in _OWN:
            held = vars(other)[kind].values()
            yield from (value for value in held if value is not None and value is not inside[0])
        for name, value in vars(other).items():
            if name not in _OWN and name not in _HOOKS and not isinstance(value, (bool, int, float, str, type(None))):
                yield value


def _computes(hook: Any) -> bool:
    """Whether a hook is PyTorch's own, which computes a weight before every forward pass."""
    return type(hook).__module__.startswith("torch.nn.utils")
