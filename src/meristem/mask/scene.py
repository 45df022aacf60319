"""What a method sees at one step, and what it says shall happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from meristem.errors import ConfigError
from meristem.mask.best import places_of
from meristem.mask.distribution import Distribution
from meristem.mask.following import generator


@dataclass(frozen=True, eq=False)
class Scene:
    """The masked parameters of a model at one step. Methods read it and return plans; they never write to it.

    Attributes:
        step: number of optimizer steps so far, this one included; 0 at the start.
        seed: of everything random.
        masks: which weights are there, by parameter name.
        parameters: the masked parameters themselves, for methods that differentiate the loss.
        tensors: every parameter and buffer of the model by name, detached.
        learning: which weights the optimizer may move; by name, those that are there where nothing is said.
        targets: how many weights each masked parameter is to have.
        gradients: the dense gradient of this step with respect to all weights, those that are not there too; by name,
            only if the method wants it.
        memory: what the method keeps: by kind and tensor name.
        states: the optimizer's state of each masked parameter.
        groups: the optimizer's group of each masked parameter.
        closure: computes the training loss, without a backward pass; None if the caller gave none.
        over: a distribution as it is for these parameters (see `turned`).
        known: what `there` and `waiting` found; it is kept as long as masks are the same.
    """

    step: int
    seed: int
    masks: Mapping[str, Tensor]
    parameters: Mapping[str, nn.Parameter]
    tensors: Mapping[str, Tensor]
    learning: Mapping[str, Tensor] = field(default_factory=dict)
    targets: Mapping[str, int] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    states: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    closure: Callable[[], Tensor] | None = None
    over: Callable[[Distribution], Distribution] = lambda distribution: distribution
    known: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        """The masked parameters, detached."""
        return {name: self.tensors[name] for name in self.masks}

    def there(self, name: str) -> Tensor:
        """The places of the weights that are there, ascending, as `Tensor.take` counts them."""
        if ("there", name) not in self.known:
            self.known["there", name] = places_of(self.masks[name])
        return self.known["there", name]

    def waiting(self, name: str) -> Tensor:
        """Likewise those of the weights that learn but are not there."""
        if ("waiting", name) not in self.known:
            self.known["waiting", name] = places_of(self.learning[name] & ~self.masks[name])
        return self.known["waiting", name]

    def gradient(self, name: str) -> Tensor:
        """The dense gradient of one parameter. Raises `ConfigError` if the step had none."""
        if name not in self.gradients:
            raise ConfigError(
                f"{name} had no gradient in step {self.step}, by which it would have been rewired; leave it out with "
                "`parameters=`, or call loss.backward() before optimizer.step()"
            )
        return self.gradients[name]

    def source(self, name: str, what: str) -> torch.Generator:
        """Randomness on the CPU that belongs to a weight at this step; the same in every run with this seed."""
        return generator((self.seed, self.step, name, what))

    def normal(self, name: str, what: str, count: int | None = None) -> Tensor:
        """Standard normal numbers in the dtype and on the device of a weight: so many, or in its shape."""
        weight = self.tensors[name]
        dtype = torch.promote_types(weight.dtype, torch.float32)
        shape = weight.shape if count is None else (count,)
        return torch.randn(shape, generator=self.source(name, what), dtype=dtype, device="cpu").to(weight.device)

    def uniform(self, name: str, what: str) -> Tensor:
        """Numbers uniform in [0, 1), in the shape of the weight."""
        weight = self.tensors[name]
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return torch.rand(weight.shape, generator=self.source(name, what), dtype=dtype, device="cpu").to(weight.device)


Entries: TypeAlias = "tuple[Tensor, Tensor]"
"""Single entries of a tensor: their places, as `Tensor.take` counts them, and one number for each."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What shall happen. Whatever is not mentioned stays.

    Attributes:
        entries: new contents of single weights by name.
        swaps: after that, by name, the places of weights that go, of those that come, and what these start from. Those
            that go become zero, and so does the optimizer's state of all of them.
        added: what is added to single gradients by name.
        kept: new contents of single entries of what is kept, by kind and name.
        masks: new masks by parameter name. Weights that are no longer there become zero, grown ones start from zero.
        learning: weights that the optimizer may move though they are masked in the forward pass; by name.
        values: new contents of parameters or buffers by name, before masks are applied.
        gradients: new gradients by name.
        memory: what to keep, by kind and tensor name.
        forget: whether all state of the optimizers is dropped.
    """

    masks: Mapping[str, Tensor] = field(default_factory=dict)
    learning: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    forget: bool = False
    entries: Mapping[str, Entries] = field(default_factory=dict)
    swaps: Mapping[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    added: Mapping[str, Entries] = field(default_factory=dict)
    kept: Mapping[str, Mapping[str, Entries]] = field(default_factory=dict)
