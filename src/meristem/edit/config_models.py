"""Models built from configurations, and what they must be like to be the edited one."""

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
from meristem.axes.flow import record_flow
from meristem.axes.map import Example
from meristem.edit.config_search import Sizes
from meristem.errors import EditError


def configuration(model: nn.Module) -> Any | None:
    """The model's `config`, an object from which its class might build it; None if there is none."""
    config = getattr(model, "config", None)
    return config if hasattr(config, "__dict__") else None


@dataclass(frozen=True, eq=False)
class EditedPlan:
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
        return shapes_of(self.edited.model if config is None else self._built(config))

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
        return {**shapes_of(model), **{f"{name} in run {n}": size for n, run in enumerate(runs) for name, size in run}}

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


def shapes_of(model: nn.Module) -> Sizes:
    """The shapes of all parameters."""
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


def differing(wanted: Sizes, found: Sizes) -> str:
    """The first sizes that are not those wanted, in words, those of parameters before those of runs; empty if none."""
    first = sorted(wanted.keys() | found.keys(), key=lambda name: (" in run " in name, name))
    names = [name for name in first if wanted.get(name) != found.get(name)]
    shown = ", ".join(f"{name} {wanted.get(name)} (would be {found.get(name)})" for name in names[:3])
    return f"{shown}, ..." if names[3:] else shown
