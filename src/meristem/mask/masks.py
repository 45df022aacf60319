"""The masks of a model's parameters, and how they are held on to."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from meristem.edit import Commit
from meristem.errors import ConfigError, StaleMapError
from meristem.mask.arrangement import Arrangements
from meristem.mask.distribution import Distribution
from meristem.mask.following import deep, follow, newborn, renamed
from meristem.mask.pattern import settled
from meristem.mask.turned import turned


class Masks(Mapping[str, Tensor]):
    """Which weights of a model are there: one bool tensor for each masked parameter, by name.

    Nothing is wrapped: weights that are not there are zeros in plain parameters, so `state_dict`, `torch.compile`, DDP
    and structural edits see the model they know. No parameter is held on to, only modules.

    Args:
        model: the model itself.
        masks: by parameter name a bool tensor of the parameter's shape; they are copied to where the parameter is.

    Raises:
        ConfigError: no such parameter, or a mask of another shape or type.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        self.model = model
        self._masks: dict[str, Tensor] = {}
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._known: dict[str, weakref.ref[Any]] = {}
        named = dict(model.named_parameters(remove_duplicate=False))
        for name, mask in masks.items():
            if name not in named:
                raise ConfigError(f"the model has no parameter {name!r}; expected one of {', '.join(list(named)[:5])}")
            if mask.dtype != torch.bool or mask.shape != named[name].shape:
                raise ConfigError(
                    f"the mask of {name} must be bool of shape {tuple(named[name].shape)}, got {mask.dtype} "
                    f"{tuple(mask.shape)}"
                )
        self._put(masks)

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def nonzeros(self) -> dict[str, int]:
        """How many weights of each parameter are there, exactly."""
        return {name: int(mask.count_nonzero()) for name, mask in self._masks.items()}

    @property
    def densities(self) -> dict[str, float]:
        """The share of each parameter's weights that is there."""
        return {name: count / self._masks[name].numel() for name, count in self.nonzeros.items()}

    @property
    def density(self) -> float:
        """The share of all masked parameters' weights that is there."""
        return sum(self.nonzeros.values()) / sum(mask.numel() for mask in self._masks.values())

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter as it is now.

        Raises:
            StaleMapError: an edit replaced it, and these masks were not told.
        """
        module, leaf = self._places[name]
        found = getattr(module, leaf)
        if self._known[name]() is not found or found.shape != self._masks[name].shape:
            raise StaleMapError(
                f"{name} was replaced by an edit that its mask does not know; call `after(commit)` with what "
                "`edit.commit()` returned, or pass this object to Plasticity(..., follow=[...])"
            )
        return found

    @torch.no_grad()
    def apply(self) -> None:
        """In place: zero for every weight that is not there."""
        for name, mask in self._masks.items():
            silence(mask, [self.parameter(name)])

    @torch.no_grad()
    def apply_to_gradients(self) -> None:
        """In place: zero gradients for weights that are not there. Worth a call before `clip_grad_norm_`."""
        for name, mask in self._masks.items():
            gradient = self.parameter(name).grad
            if gradient is not None:
                silence(mask, [gradient])

    @torch.no_grad()
    def apply_to_state(self, optimizer: Optimizer) -> None:
        """In place: zero for every entry of optimizer state that belongs to a weight that is not there."""
        for name, mask in self._masks.items():
            silence(mask, alike(optimizer.state.get(self.parameter(name)), mask))

    def replace(self, masks: Mapping[str, Tensor]) -> None:
        """Other masks for some parameters, of the same shapes. Weights stay as they are until `apply`."""
        for name, mask in masks.items():
            if name not in self._masks or mask.dtype != torch.bool or mask.shape != self._masks[name].shape:
                raise ConfigError(f"expected a bool mask of the shape of {name}, got {mask.dtype} {tuple(mask.shape)}")
        self._put(masks)

    def swap(self, name: str, gone: Tensor, born: Tensor) -> None:
        """Another mask for a parameter: without the weights at some places, and with those at others."""
        mask = self._masks[name].clone()
        self._masks[name] = mask.put_(gone, mask.new_zeros(len(gone))).put_(born, mask.new_ones(len(born)))

    def after(
        self, commit: Commit, newborns: float | None = 1.0, seed: int = 0, pattern: Distribution | None = None
    ) -> None:
        """Follow an edit: masks are gathered like their parameters, and go by their new names after a depth edit.

        Parameters of layers that a depth edit inserted have no mask; `Sparse` gives them one.

        Args:
            commit: what `edit.commit()` returned.
            newborns: the density of entries without a source: 1.0 (default) for all, so that whatever a growth method
                promises holds; None for the density that the layer had; or a number. Those masked are set to zero.
            seed: of the positions; a function of it, the name and the number of edits.
            pattern: what masks keep to beyond counts (`NM`, `Rows`), or None. With one newborns have the density of
                their layer at once, and where the edit tore groups apart the largest weights of each stay.

        Raises:
            StaleMapError: the masks are not those of the model before this edit, or the model is not as it left it.
            ConfigError: a parameter has now a shape that cannot have the pattern, or along which dimension it has its
                inputs is not known. Nothing is changed.
        """
        if deep(commit):
            known = {commit.moved[name]: share for name, share in self.densities.items() if name in commit.moved}
            followed = renamed(commit, self._masks)
        else:
            known, followed = self.densities, follow(commit, self._masks)
        parameters, found = dict(self.model.named_parameters(remove_duplicate=False)), {}
        pattern = None if pattern is None else turned(pattern, Arrangements(self.model, commit.axes))
        for name, (moved, fresh) in followed.items():
            key = (seed, name, len(commit.axes.history))
            if fresh is not None and pattern is None:
                moved |= newborn(fresh, known[name] if newborns is None else newborns, key)
            now = tuple(parameters[name].shape) if name in parameters else None
            if tuple(moved.shape) != now:
                raise StaleMapError(
                    f"{name} has the shape {now}, this edit left it with {tuple(moved.shape)}: there was another one "
                    "since. Call `after(commit)` right after each edit"
                )
            if pattern is not None:
                moved = settled(pattern, name, parameters[name], moved, fresh, known[name], key)
            found[name] = moved
        if deep(commit):
            self._masks, self._known, self._places = {}, {}, {}
        self._put(found)
        return self.apply()

    def add(self, masks: Mapping[str, Tensor]) -> None:
        """Masks for further parameters."""
        self._put(masks)
        self.apply()

    def _put(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            path, _, leaf = name.rpartition(".")
            module = self.model.get_submodule(path)
            parameter = getattr(module, leaf)
            self._places[name] = module, leaf
            self._masks[name] = torch.empty_like(parameter, dtype=torch.bool, requires_grad=False).copy_(mask)
            self._known[name] = weakref.ref(parameter)


CHUNK = 2**16
"""So many entries are silenced at once on the CPU: what is read and written several times stays in its cache."""

BITS: Mapping[int, torch.dtype] = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By so many bytes, the integers that hold them."""


def silence(mask: Tensor, tensors: Iterable[Tensor]) -> None:
    """In place: zero in tensors of a mask's shape wherever the mask is False, whatever stood there. (By their bits: in
    the cache that is far faster than choices, and what is infinite or no number would outlive a product with zero.)"""
    dense: list[Tensor] = []
    for tensor in tensors:
        if tensor.layout is torch.sparse_coo:
            silence(mask[tuple(tensor._indices())], [tensor._values()])
        else:
            dense += torch.view_as_real(tensor).unbind(-1) if tensor.is_complex() else (tensor,)
    pieces = [mask.view(torch.int8), *(tensor.view(BITS[tensor.element_size()]) for tensor in dense)]
    order = sorted(range(mask.dim()), key=mask.stride, reverse=True)
    flat = [piece.permute(order) for piece in pieces]
    if all(piece.is_cpu and piece.is_contiguous() for piece in flat):
        chunks = zip(*(piece.view(-1).split(CHUNK) for piece in flat), strict=True)
    else:
        chunks = [tuple(pieces)]
    for there, *rest in chunks:
        kept = there.neg()  # all bits where the mask is True
        whole = {(t.device, t.dtype): kept.to(t.device, t.dtype) for t in rest}
        for bits in rest:
            bits.bitwise_and_(whole[bits.device, bits.dtype])


def alike(state: Any, mask: Tensor) -> list[Tensor]:
    """The tensors of one parameter's optimizer state that have the shape of its mask."""
    values = state.values() if isinstance(state, dict) else ()
    return [v for v in values if isinstance(v, Tensor) and v.dim() and v.shape == mask.shape]
