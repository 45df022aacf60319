"""The executor: carries out what integrators say, by hooks on the optimizers, and only while some unit is young."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from meristem.axes.map import Axis, AxisMap
from meristem.edit import ParentMoments, StatePolicy
from meristem.errors import CheckpointError, ConfigError
from meristem.integrate.checks import listed, require_able
from meristem.integrate.integrator import Cohorts, Integrator, Upkeep
from meristem.integrate.last_batch import LastBatch
from meristem.integrate.lineage import Lineage, of_size
from meristem.integrate.track import Track

_OLDEST = torch.iinfo(torch.int64).max


class Helpers:
    """All integrators of a training run at work.

    Between the birth of a unit and the end of the last window, each optimizer has a hook before and after its step; at
    all other times none. A step that a gradient scaler skips calls no hook, and so counts for nothing. If an integrator
    measures newborns at birth, the model has a hook all along that keeps its last batch.

    Args:
        integrate: what helps newborns: integrators and at most one state policy, in any order; None for nothing.

    Attributes:
        integrators: those of them that do more than start state.
        state: what the optimizer state of newborns starts from. Default: `ParentMoments()`.

    Raises:
        ConfigError: something is no integrator, or two say what state starts from.
    """

    def __init__(self, integrate: Integrator | StatePolicy | Sequence[Integrator | StatePolicy] | None = None) -> None:
        given = listed(integrate)
        self.integrators = tuple(one for one in given if isinstance(one, Integrator))
        policies = [one.state if isinstance(one, Integrator) else one for one in given]
        policies = [policy for policy in policies if policy is not None]
        if len(policies) > 1:
            raise ConfigError(
                f"integrate= says more than once what newborns' optimizer state starts from: "
                f"{', '.join(map(repr, policies))}; keep one of them"
            )
        self.state: StatePolicy = policies[0] if policies else ParentMoments()
        self._lineage = Lineage()
        self._clock: dict[int, int] = {}
        self._counts: dict[str, dict[int, int]] = {}
        self._remembered: dict[str, Any] = {}
        self._tracks: dict[int, list[Track]] = {}
        self._upkeep: dict[str, Upkeep] = {}
        self._handles: list[Any] = []
        measures = any(one.measures for one in self.integrators)
        self._batch, self._kept = (LastBatch() if measures else None), ExitStack()

    def require(self, axes: AxisMap, chosen: Iterable[Axis], optimizers: Sequence[Optimizer]) -> None:
        """Refuse at once what could only fail later.

        Raises:
            EditError: an integrator cannot help newborns of a chosen axis; the message names those that it can.
            ConfigError: one cannot help what an optimizer trains.
        """
        require_able(self.integrators, list(chosen), axes, optimizers)

    def begin(self, axes: AxisMap, optimizers: Sequence[Optimizer], ages: Mapping[str, Tensor], step: int) -> None:
        """Start, or go on after an interruption. Weights and optimizer state may be loaded before or afterwards.

        Args:
            axes: today's map.
            optimizers: those that train the model.
            ages: by axis name, the age of every unit in optimizer steps, the largest int64 for units that no edit
                inserted; axes without newborns may be left out.
            step: number of optimizer steps so far.
        """
        if not self.integrators:
            return
        lineage = Lineage().through(axes)
        self._lineage = Lineage(lineage.known, lineage.fresh)
        self._kept.close()
        if self._batch is not None:
            self._kept.callback(self._batch.listen(axes.model).remove)
        self._bind(axes, optimizers, ages, step, resumed=True)

    def follow(
        self,
        axes: AxisMap,
        optimizers: Sequence[Optimizer],
        ages: Mapping[str, Tensor],
        step: int,
        names: Mapping[str, str | None] | None = None,
    ) -> None:
        """Go on after an edit: right after every commit, with the new map and the new ages.

        Args:
            names: after an edit of the module tree, what every parameter and buffer of before is called now, None where
                it is gone.
        """
        if not self.integrators:
            return
        self._lineage = self._lineage.through(axes)
        if names is not None:
            self._rename(names)
        self._bind(axes, optimizers, ages, step, resumed=False)

    def close(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._tracks, self._upkeep = [], {}, {}

    def memory(self) -> dict[str, Any]:
        """What has to be known besides map, births, step and optimizers to go on exactly; JSON-able."""
        self._settle()
        clock = {str(birth): count for birth, count in self._clock.items()}
        odd = {
            name: {str(birth): count for birth, count in counts.items() if count != self._clock.get(birth)}
            for name, counts in self._counts.items()
        }
        updates = {name: counts for name, counts in odd.items() if counts}
        return {"clock": clock, "updates": updates, "upkeep": self._upkeep_memory()}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take back what `memory` gave; call it before `begin`. An empty memory is that of a run without integrators.

        Raises:
            CheckpointError: it is malformed.
        """
        try:
            self._clock = _numbers(memory.get("clock", {}))
            self._counts = {name: _numbers(counts) for name, counts in memory.get("updates", {}).items()}
            self._remembered = dict(memory.get("upkeep", {}))
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"malformed memory of integrators: {error!r}") from error
        self.close()

    def _bind(
        self, axes: AxisMap, optimizers: Sequence[Optimizer], ages: Mapping[str, Tensor], step: int, *, resumed: bool
    ) -> None:
        """Aim at the units of a map."""
        self._remembered |= self._upkeep_memory()
        self._settle()
        self.close()
        births = {name: torch.where(age == _OLDEST, -1, step - age) for name, age in ages.items()}
        present: list[int] = sorted({birth for found in births.values() for birth in found.tolist() if birth >= 0})
        self._clock = {int(birth): self._clock.get(birth, step - birth) for birth in present}
        sizes = {axis.name: axis.size for axis in axes if axis.name in births}
        fresh, new = (
            {name: of_size(flags, name, size) for name, size in sizes.items()}
            for flags in (self._lineage.fresh, self._lineage.new)
        )
        cohorts = Cohorts(axes, births, fresh, new, self._clock, resumed, self._batch)
        for position, integrator in enumerate(self.integrators):
            key = _key(position, integrator)
            upkeep = integrator.upkeep(cohorts, self._remembered.get(key))
            if upkeep is not None:
                self._upkeep[key] = upkeep
        self._remembered = {}
        for optimizer in optimizers:
            self._tracks[id(optimizer)] = list(self._tracked(cohorts, optimizer))
        self._counts = {}
        self._hook(optimizers)

    def _tracked(self, cohorts: Cohorts, optimizer: Optimizer) -> Iterator[Track]:
        """The parameters of one optimizer that hold young entries."""
        axes = cohorts.axes
        parameters = dict(axes.model.named_parameters(remove_duplicate=False))
        names = {id(parameters[layout.name]): layout for layout in axes.layouts.values() if not layout.buffer}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                layout = names.get(id(parameter))
                if layout is not None:
                    counts = {**self._clock, **self._counts.get(layout.name, {})}
                    counts = {birth: counts[birth] for birth in self._clock}
                    track = Track(self.integrators, optimizer, group, weakref.ref(parameter), layout, cohorts, counts)
                    if track.young:
                        yield track

    def _hook(self, optimizers: Sequence[Optimizer]) -> None:
        """Hooks where there is something to do, and one that counts steps.

        Those after a step run before all others: what masks do to weights afterwards is no part of the step.
        """
        if not self._upkeep and not any(self._tracks.values()):
            return
        for optimizer in optimizers:
            tracks = self._tracks[id(optimizer)]
            if tracks:
                self._handles.append(optimizer.register_step_pre_hook(self._before))
            if tracks or optimizer is optimizers[-1]:
                last = optimizer is optimizers[-1]
                handle = optimizer.register_step_post_hook(self._last if last else self._after)
                hooks = optimizer._optimizer_step_post_hooks
                hooks.update({key: hooks.pop(key) for key in list(hooks) if key != handle.id})
                self._handles.append(handle)

    @torch.no_grad()
    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        for track in self._tracks[id(optimizer)]:
            track.before()

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        tracks = self._tracks[id(optimizer)]
        for track in tracks:
            track.after()
        if any(not track.young for track in tracks):
            self._keep(tracks)
            self._tracks[id(optimizer)] = [track for track in tracks if track.young]

    @torch.no_grad()
    def _last(self, optimizer: Optimizer, *_: Any) -> None:
        self._after(optimizer)
        for birth in self._clock:
            self._clock[birth] += 1
        for key, upkeep in list(self._upkeep.items()):
            if not upkeep.after(self._clock):
                del self._upkeep[key]
        if not self._upkeep and not any(self._tracks.values()):
            self.close()

    def _rename(self, names: Mapping[str, str | None]) -> None:
        """Know everything by the names that modules and their parameters have now."""
        self._settle()
        self._tracks = {}
        self._counts = _renamed(self._counts, names)
        modules = {
            old.rpartition(".")[0]: None if new is None else new.rpartition(".")[0] for old, new in names.items()
        }
        self._remembered |= self._upkeep_memory()
        self._upkeep = {}
        for key, memory in self._remembered.items():
            if isinstance(memory, Mapping):
                self._remembered[key] = _renamed(memory, {**modules, **names})

    def _settle(self) -> None:
        """Note how many updates every parameter has had since each birth."""
        for tracks in self._tracks.values():
            self._keep(tracks)

    def _keep(self, tracks: Iterable[Track]) -> None:
        for track in tracks:
            self._counts[track.layout.name] = track.counts()

    def _upkeep_memory(self) -> dict[str, Any]:
        return {key: upkeep.memory() for key, upkeep in self._upkeep.items()}


def _key(position: int, integrator: Integrator) -> str:
    return f"{position} {type(integrator).__name__}"


def _renamed(known: Mapping[str, Any], names: Mapping[str, str | None]) -> dict[str, Any]:
    """What is known by names of before, by those of now; what is gone is left out, other keys stay."""
    found = {key: names.get(key, key) for key in known}
    return {new: known[old] for old, new in found.items() if new is not None}


def _numbers(counts: Mapping[str, Any]) -> dict[int, int]:
    return {int(birth): int(count) for birth, count in counts.items()}
