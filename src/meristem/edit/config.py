"""`fit_config`: the configuration from which a model of the edited structure is built."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from meristem.axes import AxisMap
from meristem.axes.attributes import read, write
from meristem.axes.flow import record_flow
from meristem.axes.map import Example
from meristem.edit.config_search import Sizes, closest, entries
from meristem.errors import EditError


def fit_config(axes: AxisMap, build: Callable[[Any], nn.Module] | None = None) -> dict[str, tuple[int | None, int]]:
    """Bring a model's configuration up to date with its structure, so that a model built from it is the same.

        axes = edit.commit().axes
        meristem.edit.fit_config(axes)
        model.save_pretrained(folder)                    # and `from_pretrained(folder)` gives the edited model

    Which numbers change is found out, not looked up: where a size in the model differs from that of one built from the
    configuration, numbers of the configuration are changed in the same proportion, and kept if more sizes are right
    then. In the end the shapes of all parameters must be, and of all tensors that a run on the map's examples makes
    (the number of heads shows in no parameter), and the numbers that operators are given (an edit leaves the factor of
    attention as it is, a configuration computes it of the size of heads). Models are built on the meta device, which
    takes no memory.

    Args:
        axes: the map of an edited model that has a `config` from which its class is built, like those of Hugging Face.
        build: makes a model of a configuration. Default: the model's own class.

    Returns:
        what changed, old (None where nothing was said) and new, by name; names inside of nested configurations and
        lists are joined by dots.

    Raises:
        EditError: there is no configuration, no model can be built from it, or none can say what the model looks like
            (layers of different width, say), or it does not take the numbers that do. Nothing has changed then.
    """
    model = axes.model
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "__dict__"):
        raise EditError(f"{type(model).__name__} has no `config`; save the model with meristem.save")
    plan = _Plan(axes, type(model) if build is None else build)
    trial = _fitted(plan, config)
    changed = {path: (old, read(trial, path)) for path, old in entries(config) if read(trial, path) != old}
    for path, (_, new) in changed.items():
        write(config, path, new)
    return {".".join(map(str, path)): values for path, values in changed.items()}


@dataclass(frozen=True, eq=False)
class _Plan:
    """What a model of a configuration has to be like.

    Attributes:
        edited: the map of the edited model.
        build: makes a model of a configuration.
    """

    edited: AxisMap
    build: Callable[[Any], nn.Module]

    def shapes(self, config: Any | None) -> Sizes:
        """The shapes of all parameters in a model of this configuration; None: in the edited model.

        Raises:
            EditError: there is no such model.
        """
        return _shapes(self.edited.model if config is None else self._built(config))

    def sizes(self, config: Any | None) -> Sizes:
        """As `shapes`, and the shapes of all tensors that runs on the examples make.

        Raises:
            EditError: there is no such model, or it cannot be run.
        """
        if config is None:
            return self._sizes(self.edited.model, self.edited.examples)
        examples = tree_map_only(Tensor, lambda given: given.to("meta"), self.edited.examples)
        return self._sizes(self._built(config), examples)

    def _sizes(self, model: nn.Module, examples: Sequence[Example]) -> Sizes:
        try:
            runs = [list(_made(model, example)) for example in examples]
        except Exception as error:  # whatever a model's code raises
            raise EditError(f"a model of this configuration cannot be run: {error}") from error
        return {**_shapes(model), **{f"{name} in run {n}": size for n, run in enumerate(runs) for name, size in run}}

    def _built(self, config: Any) -> nn.Module:
        """A model of this configuration on the meta device, of the edited model's type."""
        types = {p.dtype for p in self.edited.model.parameters() if p.is_floating_point()}
        found = built_from(config, self.build)
        return found.to(next(iter(types))) if len(types) == 1 else found


def built_from(config: Any, build: Callable[[Any], nn.Module]) -> nn.Module:
    """A model of a configuration on the meta device, without memory for its tensors; no random number is drawn.

    Raises:
        EditError: there is no such model.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return build(copy.deepcopy(config))
    except Exception as error:  # whatever a builder refuses a configuration with
        raise EditError(f"no model can be built from this configuration: {error}") from error


def _shapes(model: nn.Module) -> Sizes:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _made(model: nn.Module, example: Example) -> Iterator[tuple[str, tuple[float, ...]]]:
    """The shapes of all tensors that a run makes, and the fractions that operators are given, by the operator call
    within the module."""
    recording = record_flow(model, example).recording
    counts: Counter[str] = Counter()
    for call in recording.calls:
        counts[call.site.module] += 1
        name = f"{call.site.module}: {call.name} {counts[call.site.module]}"
        for place, number in enumerate(call.outputs):
            yield f"{name}.{place}", recording.shapes[number]
        if given := tuple(value for value in (*call.args, *call.kwargs.values()) if isinstance(value, float)):
            yield f"{name}, given", given


def _fitted(plan: _Plan, config: Any) -> Any:
    """A copy of the configuration, changed until all sizes are right."""
    wanted = plan.sizes(None)
    trial, found = closest(plan, config, wanted)
    if found != wanted:
        raise EditError(_inexpressible(config, wanted, found))
    _accepted(trial)
    return trial


def _accepted(config: Any) -> None:
    """Raise `EditError` if a configuration that checks its numbers together, as some do when saved, refuses them."""
    validate = getattr(config, "validate", None)
    if callable(validate):
        try:
            validate()
        except Exception as error:  # each in its own way
            said = " ".join(str(error).split()).rstrip(".")
            raise EditError(
                f"{type(config).__name__} does not take the numbers that describe this model: {said}; save the model "
                "with meristem.save"
            ) from error


def _inexpressible(config: Any, wanted: Sizes, found: Sizes) -> str:
    first = sorted(wanted.keys() | found.keys(), key=lambda name: (" in run " in name, name))
    names = [name for name in first if wanted.get(name) != found.get(name)]
    shown = ", ".join(f"{name} {wanted.get(name)} (would be {found.get(name)})" for name in names[:3])
    return (
        f"no {type(config).__name__} describes this model: {shown}{', ...' if names[3:] else ''}. A configuration has "
        "one width for all layers: edit them alike (`allocate=meristem.allocate.Alike(...)`), or save the model with "
        "meristem.save"
    )
