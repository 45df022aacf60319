"""Sparse training: masks, a method that changes them, and the hooks that keep to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from meristem.axes.wrapped import check_model
from meristem.edit import Commit
from meristem.errors import CheckpointError, ConfigError
from meristem.mask.alone import AT_WORK, check_alone
from meristem.mask.arrangement import Arrangements, map_of
from meristem.mask.beginning import Beginning
from meristem.mask.kept import Kept
from meristem.mask.masks import Masks
from meristem.mask.method import Method
from meristem.mask.scene import Plan
from meristem.mask.select import Chosen, held_of, maskable, weights_of
from meristem.mask.state import State

log = logging.getLogger("meristem.mask")


class Sparse:
    """Trains a model with few of its weights. The training loop stays as it is: two hooks of the optimizer do it all.

        sparsity = meristem.mask.Sparse(model, optimizer, meristem.mask.RigL(density=0.1, end=7_500))
        for x, y in loader:
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    To go on with a run, load the model and its optimizer, then give the saved state:

        sparsity = meristem.mask.Sparse(model, optimizer, method, state=saved)

    Before every optimizer step gradients of weights that are not there become zero (dense ones are kept aside only
    where an update needs them); after it those weights do, and their optimizer state whenever masks or state are new:
    what is zero and gets no gradient stays zero. Works with closures, gradient accumulation, a `GradScaler` (a skipped
    step is no step), `torch.compile` and DDP (build it on the model inside; the seed makes all ranks choose the same).
    Before `clip_grad_norm_` call `sparsity.masks.apply_to_gradients()` if the norm shall be that of the sparse net.
    Fully sharded models are refused.

    Args:
        model: the model itself, not a wrapper of it.
        optimizer: its optimizer, or several; a step is complete when the last one has stepped.
        method: which weights are there, and how that changes.
        parameters: which parameters are masked: glob patterns of names, a predicate of name and parameter, or every
            weight (None; see `weights_of`). Those of them are masked that the optimizers hold now, whatever the method;
            everything else stays dense. So do parameters from which the model computes its weights (`weight_norm`,
            `orthogonal`, standardization): zeros in them are not simply zeros of weights. They are left out, see
            `left`; a predicate or a pattern that chooses nothing else is refused.
        newborns: the density of what structural edits insert, see `Masks.after`. Methods with updates bring a layer
            back to its density at the next one.
        closure: computes the training loss on a batch, without a backward pass; for methods that evaluate it.
        seed: of everything random, together with the step and the parameter's name.
        state: a saved `state_dict()` to go on from: masks, steps and seed are those saved, nothing is chosen and no
            closure called. The model has to have the saved structure.
        example: inputs of the model, as for `meristem.trace`, or its map. Patterns (`NM`, `Rows`) need it where modules
            do not say along which dimension their weights have their inputs, see `Arrangements`; and without it
            weights that are computed by code are found only where a module does it that has no others in it and takes
            one tensor, see `transformed`: the model is run on it.

    Attributes:
        steps: number of optimizer steps so far.
        updated: the step of the last update, or None.
        left: why weights that were chosen are dense, by name, as they were when this was built.

    Raises:
        ConfigError: nothing to mask, a parameter asked for from which the model computes a weight, a density that
            cannot be had, no closure or example where one is needed, or another object of this kind whose updates would
            get in the way trains by the same optimizer: `close` it.
        TraceError: the model cannot be run on the example.
        CheckpointError: the state is malformed, of another method, or of another model.
        WrappedModelError: the model is a wrapper (DDP, FSDP, compiled), or a parameter is split over devices.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        method: Method,
        *,
        parameters: Chosen = None,
        newborns: float | None = 1.0,
        closure: Callable[[], Tensor] | None = None,
        seed: int = 0,
        state: Mapping[str, Any] | None = None,
        example: Any = None,
    ) -> None:
        self.model = model
        self.optimizers = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
        self.method = method
        self.steps = 0
        self.updated: int | None = None
        self._newborns = newborns
        self._chosen = parameters
        self._seed = seed
        self._dense: dict[str, Tensor] = {}
        self._withheld: dict[Optimizer, list[tuple[Tensor, Tensor]]] = {}
        chosen = held_of(weights_of(check_model(model), parameters), self.optimizers)
        if not chosen:
            raise ConfigError("the optimizer holds none of the parameters to mask; build it on model.parameters()")
        chosen, self.left = maskable(model, chosen, parameters, example)
        if method.requires_closure and closure is None and state is None:
            raise ConfigError(f"{type(method).__name__} evaluates the training loss: give Sparse(..., closure=...)")
        arrangements = Arrangements(model, None if method.pattern is None else map_of(model, example))
        for name in chosen if method.pattern is not None else ():
            arrangements.of(name)  # raises where it is not known
        everything = Masks(model, {name: torch.ones_like(p, dtype=torch.bool) for name, p in chosen.items()})
        self._kept = Kept(everything, self.optimizers, arrangements)
        self._beginning: Beginning | None = None
        check_alone(self)
        if state is None:
            self._begin(closure)
        else:
            self.load_state_dict(state)
        self._handles = [
            handle
            for o in self.optimizers
            for handle in (o.register_step_pre_hook(self._enter), o.register_step_post_hook(self._leave))
        ]
        AT_WORK.add(self)
        for name, reason in self.left.items():
            log.warning("%s stays dense: %s", name, reason)

    def _begin(self, closure: Callable[[], Tensor] | None) -> None:
        """The first masks."""
        self._beginning = Beginning(self._kept.contents())
        self._kept.carry_out(self.method.start(self._kept.scene(0, self._seed, {}, closure)))
        self._kept.apply(state=not self.method.dense_state)
        self._beginning.done()

    @property
    def masks(self) -> Masks:
        """Which weights are there."""
        return self._kept.masks

    def ages(self, name: str) -> Tensor:
        """For each weight of a masked parameter the number of optimizer steps since it was born by `rewire`: int64, in
        its shape; the largest int64 for all others."""
        first, mask = self._kept.first.get(name), self.masks[name]
        oldest = torch.full(mask.shape, torch.iinfo(torch.int64).max, device=mask.device)
        return oldest if first is None else torch.where(first > 0, self.steps + 1 - first.long(), oldest)

    def close(self) -> None:
        """Remove the hooks: from now on all weights train."""
        AT_WORK.discard(self)
        for handle in self._handles:
            handle.remove()

    def after(self, commit: Commit) -> None:
        """Follow a structural edit: masks, and all that the method keeps, are gathered like the parameters, or go by
        their new names. Weights of inserted layers get masks if `parameters` chooses them.

        Call it with what `edit.commit()` returned; `Plasticity(..., follow=[sparsity])` does it by itself.

        A pattern (`NM`, `Rows`) holds after the edit as before it, see `Masks.after`.

        Raises:
            StaleMapError: an earlier edit was missed, or there was another one since.
            ConfigError: a parameter has now a shape that cannot have the method's pattern. `Edit(..., follow=sparsity)`
                and `Plasticity(..., follow=[sparsity])` take the edit back.
        """
        self._kept.after(commit, self._newborns, self._seed, self._chosen, self.method.pattern)

    @torch.no_grad()
    def rewire(self, masks: Mapping[str, Tensor], starts: Mapping[str, Tensor] | None = None) -> None:
        """Other masks for some parameters, between two steps; their densities are what they are to have from now on.

        Weights that are no longer there become zero, with their optimizer state. Those that come are newborn (`ages`).

        Args:
            masks: by parameter name.
            starts: what is added to weights of these parameters: what born ones start from. Default: zeros.

        Raises:
            ConfigError: a tensor has another shape than its parameter, or the method's masks are its own
                (`Method.obstacle`); nothing is changed.
        """
        if self.method.obstacle is not None:
            raise ConfigError(f"the masks of {type(self.method).__name__} cannot be changed: {self.method.obstacle}")
        given = dict(starts or {})
        for name, start in given.items():
            if name not in self.masks or start.shape != self.masks[name].shape:
                raise ConfigError(f"a start of shape {tuple(start.shape)} was given for {name}, which is not masked so")
        moved = {name: self.masks.parameter(name) + start for name, start in given.items()}
        before = {name: mask for name, mask in self.masks.items() if name in masks}
        self._kept.carry_out(Plan(masks=masks, values=moved))
        self._kept.born(before, self.steps)
        self._kept.apply(state=not self.method.dense_state)

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on exactly, JSON-able: masks as bits, packed into text.

        Weights and optimizer state are not in it. All of it fits into one file without pickle:
        `meristem.save(path, axes, optimizer, extra=sparsity.state_dict())`.
        """
        kind = type(self.method).__name__
        return State(
            method=kind, step=self.steps, updated=self.updated, seed=self._seed, **self._kept.packed()
        ).model_dump(mode="json")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. The model must have the saved structure. Its weights, and the optimizer, may be
        loaded earlier or later, also before this object was built: until the first step what its own choice of masks
        did to them is undone. Then weights that the saved masks do not have are zero.

        Raises:
            CheckpointError: the state is malformed, of another method, or of another model.
        """
        saved = State.parse(state)
        if saved.method != type(self.method).__name__:
            raise CheckpointError(f"the state is of {saved.method}, this is {type(self.method).__name__}")
        computed = [name for name in saved.masks if name in self.left]
        if computed:
            raise CheckpointError(f"the state has masks of {computed[0]}, which stays dense: {self.left[computed[0]]}")
        self._kept = self._kept.restored(saved)
        self.steps, self.updated, self._seed = saved.step, saved.updated, saved.seed
        if self._beginning is not None:
            self._beginning.undo()
        self._kept.apply(state=not self.method.dense_state)

    def _due(self) -> bool:
        """Whether an update belongs to the next step."""
        step = self.steps + 1
        return self.method.due(step) or (self.method.comes_back(step) and not self._kept.settled)

    def _enter(self, optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> Any:
        """Before a step: gradients are there, or a closure will compute them."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            if optimizer is self.optimizers[0]:
                self._prepare()
            return None

        def masked() -> Any:
            with torch.enable_grad():
                loss = closure()
            self._prepare()
            return loss

        return (args[0], masked), {key: value for key, value in kwargs.items() if key != "closure"}

    @torch.no_grad()
    def _prepare(self) -> None:
        """Keep dense gradients aside if the update needs them; then mask them, or withhold all of them."""
        self._beginning = None
        due = self._due()
        if due and self.method.replaces_step:
            self._dense = self._kept.gradients()
            for optimizer in self.optimizers:
                own = [p for group in optimizer.param_groups for p in group["params"]]
                self._withheld[optimizer] = [(p, p.grad) for p in own if p.grad is not None]
                for parameter in own:
                    parameter.grad = None
            return
        if due and self.method.wants_gradient:
            self._dense = {name: gradient.clone() for name, gradient in self._kept.gradients().items()}
        if type(self.method).before is not Method.before:
            scene = self._kept.scene(self.steps, self._seed, self._kept.gradients())
            self._kept.carry_out(self.method.before(scene) or Plan())
        if not self.method.dense_state:
            self._kept.apply_to_gradients()

    @torch.no_grad()
    def _leave(self, optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
        """After a step of the last optimizer: what is not there is zero; then the update that is due."""
        for parameter, gradient in self._withheld.pop(optimizer, ()):
            parameter.grad = gradient
        if optimizer is not self.optimizers[-1]:
            return
        state, due, by_places = not self.method.dense_state, self._due(), self.method.by_places
        overflow = getattr(optimizer, "found_inf", None) if due else None
        if overflow is None or not float(overflow):  # a fused optimizer is called, but does nothing, if they overflow
            self.steps += 1
            if type(self.method).after is not Method.after:
                self._kept.carry_out(self.method.after(self._kept.scene(self.steps, self._seed, {})) or Plan())
            if due:
                self._kept.apply(state=state, learning=not by_places)
                scene = self._kept.scene(self.steps, self._seed, self._dense)
                self._kept.carry_out(self.method.update(scene))
                self.updated = self.steps
                log.debug("step %d: %s, densities %s", self.steps, type(self.method).__name__, self._kept.densities)
        if not (due and by_places):
            self._kept.apply(state=state)
        self._dense = {}
