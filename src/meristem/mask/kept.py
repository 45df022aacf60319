"""What sparse training keeps: masks, and what is the method's own; the only place that writes to a model."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from meristem.edit import Commit
from meristem.errors import CheckpointError, ConfigError
from meristem.mask.arrangement import Arrangements
from meristem.mask.distribution import Distribution
from meristem.mask.following import deep, follow, newborn, renamed
from meristem.mask.masks import Masks, alike, silence
from meristem.mask.pattern import settled
from meristem.mask.scene import Plan, Scene
from meristem.mask.select import Chosen, weights_of
from meristem.mask.state import State, packed, unpacked
from meristem.mask.transformed import transformed
from meristem.mask.turned import turned


class Kept:
    """Masks and what belongs to them, of one model and its optimizers.

    Attributes:
        masks: which weights are there.
        arrangements: how weights are laid out.
        learning: which the optimizer may move, where these are others; by name.
        densities: the share of weights that each parameter is to have.
        memory: what the method keeps, by kind and tensor name.
        first: for each weight the first optimizer step, counted from 1, since it was born by `Sparse.rewire`; 0 for all
            others. By name, of parameters in which there are such; int32.
    """

    def __init__(self, masks: Masks, optimizers: Sequence[Optimizer], arrangements: Arrangements) -> None:
        self.masks = masks
        self.arrangements = arrangements
        self.learning: dict[str, Tensor] = {}
        self.densities: dict[str, float] = {}
        self.memory: dict[str, dict[str, Tensor]] = {}
        self.first: dict[str, Tensor] = {}
        self._optimizers = optimizers
        self._silent: dict[int, weakref.ref[Any]] = {}
        self._known: dict[tuple[str, str], Tensor] = {}

    def scene(
        self, step: int, seed: int, gradients: Mapping[str, Tensor], closure: Callable[[], Tensor] | None = None
    ) -> Scene:
        """What a method sees."""
        parameters = {name: self.masks.parameter(name) for name in self.masks}
        groups = {id(p): group for o in self._optimizers for group in o.param_groups for p in group["params"]}
        return Scene(
            step=step,
            seed=seed,
            masks=dict(self.masks),
            parameters=parameters,
            tensors=self._tensors(),
            learning=self.learning,
            targets=self._targets(),
            gradients=gradients,
            memory=self.memory,
            states=self._states(),
            groups={name: groups[id(p)] for name, p in parameters.items() if id(p) in groups},
            closure=closure,
            over=lambda distribution: turned(distribution, self.arrangements),
            known=self._known,
        )

    @property
    def settled(self) -> bool:
        """Whether all masked parameters have as many weights as they are to have."""
        found = self.masks.nonzeros
        return all(found[name] == count for name, count in self._targets().items())

    def _targets(self) -> dict[str, int]:
        return {name: max(1, round(share * self.masks[name].numel())) for name, share in self.densities.items()}

    @torch.no_grad()
    def carry_out(self, plan: Plan) -> None:
        """Do what a plan says. Raises `ConfigError`, before anything is changed, if a tensor has another shape."""
        tensors = self._tensors()
        contents = [plan.values, plan.gradients, plan.learning, plan.masks, *plan.memory.values()]
        for name, tensor in (item for mapping in contents for item in mapping.items()):
            if name not in tensors or tensors[name].shape != tensor.shape:
                raise ConfigError(
                    f"a method gave {tuple(tensor.shape)} for {name}, which has the shape "
                    f"{tuple(tensors[name].shape) if name in tensors else None}"
                )
        self.masks.replace(plan.masks)
        for name, value in plan.values.items():
            tensors[name].copy_(value)
        gradients = self.gradients()
        for name, gradient in plan.gradients.items():
            gradients[name].copy_(gradient)
        self._carry_out_entries(plan, tensors, gradients)
        if plan.masks:
            self._silent, self._known = {}, {}
            self.learning = dict(plan.learning)
            self.densities |= {name: int(mask.count_nonzero()) / mask.numel() for name, mask in plan.masks.items()}
        for kind, tensors_of_kind in plan.memory.items():
            self.memory[kind] = dict(tensors_of_kind)
        for optimizer in self._optimizers if plan.forget else ():
            optimizer.state.clear()

    def _carry_out_entries(self, plan: Plan, tensors: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """What a plan says of single entries."""
        for name, (places, values) in plan.entries.items():
            tensors[name].put_(places, values)
        states = self._states() if plan.swaps else {}
        for name, (gone, born, starts) in plan.swaps.items():
            self.masks.swap(name, gone, born)
            self._known.pop(("there", name), None)
            tensors[name].put_(gone, starts.new_zeros(len(gone))).put_(born, starts)
            changed = torch.cat([gone, born])
            for tensor in alike(states.get(name), tensors[name]):
                tensor.put_(changed, tensor.new_zeros(len(changed)))
        for name, (places, values) in plan.added.items():
            gradients[name].put_(places, values, accumulate=True)
        for kind, found in plan.kept.items():
            for name, (places, values) in found.items():
                self.memory[kind][name].put_(places, values)

    def born(self, before: Mapping[str, Tensor], step: int) -> None:
        """Take down which weights are there that were not with earlier masks, after so many steps."""
        for name, mask in before.items():
            new = self.masks[name] & ~mask
            if bool(new.any()):
                known = self.first.get(name)
                known = torch.zeros_like(new, dtype=torch.int32) if known is None else known
                self.first[name] = known.masked_fill(new, step + 1)

    @torch.no_grad()
    def apply(self, *, state: bool, learning: bool = False) -> None:
        """Zero for weights that are not there (or do not learn), and, if wanted, for the state of those that do not.

        A tensor of state is silenced once for the same masks: an entry that is zero and gets no gradient stays zero. An
        optimizer that fills it all the same cannot move the weight by it; `learning` silences all, before an update.
        """
        states = self._states() if state else {}
        for name, mask in self.masks.items():
            moves, weight = self.learning.get(name, mask), self.masks.parameter(name)
            kept = [t for t in alike(states.get(name), mask) if learning or not self._is_silent(t)]
            self._silent |= {id(t): weakref.ref(t) for t in kept}
            if moves is mask or learning:
                silence(moves, [weight, *kept])
            else:
                silence(mask, [weight])
                silence(moves, kept)

    @torch.no_grad()
    def apply_to_gradients(self) -> None:
        """Zero gradients for weights that do not learn."""
        for name, gradient in self.gradients().items():
            silence(self.learning.get(name, self.masks[name]), [gradient])

    def gradients(self) -> dict[str, Tensor]:
        """Those that there are."""
        found = {name: self.masks.parameter(name).grad for name in self.masks}
        return {name: gradient.detach() for name, gradient in found.items() if gradient is not None}

    def after(
        self, commit: Commit, newborns: float | None, seed: int, chosen: Chosen, pattern: Distribution | None
    ) -> None:
        """Follow an edit, see `Masks.after`. What a method keeps of newborns is what they start from.

        Parameters of inserted layers, if they are among the chosen ones, begin with the density of newborns and are to
        come to that of all masked parameters together.
        """
        self._silent, self._known, self.arrangements = {}, {}, Arrangements(self.masks.model, commit.axes)
        if deep(commit):
            return self._after_depth(commit, newborns, seed, chosen, pattern)
        learning = follow(commit, self.learning)
        memory = {kind: follow(commit, tensors) for kind, tensors in self.memory.items()}
        first = {name: moved for name, (moved, _) in follow(commit, self.first).items()}
        self.masks.after(commit, newborns, seed, pattern)
        self.first |= first
        tensors = self._tensors()
        for name, (moved, fresh) in learning.items():
            self.learning[name] = moved | self.masks[name] if fresh is None else moved | self.masks[name] | fresh
        for kind, found in memory.items():
            for name, (moved, fresh) in found.items():
                self.memory[kind][name] = moved if fresh is None else torch.where(fresh, tensors[name], moved)
        return None

    def _after_depth(
        self, commit: Commit, newborns: float | None, seed: int, chosen: Chosen, pattern: Distribution | None
    ) -> None:
        moved, density, masked = commit.moved, self.masks.density, set(self.masks)
        learning = renamed(commit, self.learning)
        memory = {kind: renamed(commit, tensors) for kind, tensors in self.memory.items()}
        kinds = {kind: tensors for kind, tensors in self.memory.items() if masked.issuperset(tensors)}
        stay, old = {moved[name] for name in masked if name in moved}, set(moved.values())
        inserted: dict[str, Tensor] = {}
        pattern = None if pattern is None else turned(pattern, self.arrangements)
        born = {name: p for name, p in weights_of(self.masks.model, chosen).items() if name not in old}
        computed = transformed(self.masks.model, born)
        for name, parameter in born.items():
            if name not in computed:
                whole, key = torch.ones_like(parameter, dtype=torch.bool), (seed, name, len(stay) + len(inserted))
                mask = newborn(whole, density if newborns is None else newborns, key)
                inserted[name] = (
                    mask if pattern is None else settled(pattern, name, parameter, mask, whole, density, key)
                )
        self.masks.after(commit, newborns, seed, pattern)
        self.masks.add(inserted)
        self.learning = {
            name: mask if fresh is None else mask | self.masks[name] | fresh for name, (mask, fresh) in learning.items()
        }
        self.densities = {moved[name]: share for name, share in self.densities.items() if name in moved}
        self.first = {name: steps for name, (steps, _) in renamed(commit, self.first).items()}
        self.densities |= dict.fromkeys(inserted, density)
        self.learning |= {name: self.masks[name].clone() for name in inserted if self.learning}
        tensors = self._tensors()
        for kind, kept in memory.items():
            new = inserted if kind in kinds else set(tensors) - set(moved.values())
            stayed = {
                name: tensor if fresh is None else torch.where(fresh, tensors[name], tensor)
                for name, (tensor, fresh) in kept.items()
            }
            self.memory[kind] = {**stayed, **{name: tensors[name].clone() for name in new}}

    def contents(self) -> list[Tensor]:
        """The masked weights, and what their optimizers remember of each of them."""
        states = self._states()
        return [t for n, mask in self.masks.items() for t in (self.masks.parameter(n), *alike(states.get(n), mask))]

    def packed(self) -> dict[str, Any]:
        """Everything, for a `State`."""
        return {
            "densities": self.densities,
            "masks": packed(self.masks),
            "learning": packed(self.learning),
            "memory": {kind: packed(tensors) for kind, tensors in self.memory.items()},
            "first": packed(self.first),
        }

    def restored(self, saved: State) -> Kept:
        """What was saved, for the same model. Raises `CheckpointError` if it is of another one."""
        tensors, learning, first = self._tensors(), unpacked(saved.learning), unpacked(saved.first)
        memory = {kind: unpacked(entries) for kind, entries in saved.memory.items()}
        for name, tensor in (item for entries in (learning, first, *memory.values()) for item in entries.items()):
            if name not in tensors or tensors[name].shape != tensor.shape:
                raise CheckpointError(f"the state is of another model: it holds {name} of shape {tuple(tensor.shape)}")
        try:
            found = Kept(Masks(self.masks.model, unpacked(saved.masks)), self._optimizers, self.arrangements)
        except ConfigError as error:
            raise CheckpointError(f"the state is of another model, load that first: {error}") from error
        found.densities = dict(saved.densities)
        found.learning = {name: mask.to(tensors[name].device) for name, mask in learning.items()}
        found.first = {name: steps.to(tensors[name].device) for name, steps in first.items()}
        found.memory = {k: {n: t.to(tensors[n].device) for n, t in entries.items()} for k, entries in memory.items()}
        return found

    def _is_silent(self, tensor: Tensor) -> bool:
        known = self._silent.get(id(tensor))
        return known is not None and known() is tensor

    def _states(self) -> dict[str, Mapping[str, Any]]:
        parameters = {name: self.masks.parameter(name) for name in self.masks}
        return {name: o.state[p] for name, p in parameters.items() for o in self._optimizers if p in o.state}

    def _tensors(self) -> dict[str, Tensor]:
        named = [*self.masks.model.named_parameters(), *self.masks.model.named_buffers()]
        return {name: tensor.detach() for name, tensor in named}
