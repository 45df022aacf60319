"""Which axes a monitor watches, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meristem.allocate import Selection, choose_among
from meristem.axes.map import Axis, AxisMap
from meristem.edit.record import parsed
from meristem.errors import ConfigError, StaleMapError
from meristem.signals.step_activity import StepActivity
from meristem.signals.weight_gradients import weights_of


@dataclass(frozen=True, eq=False)
class Watched:
    """Some axes of a model as it is now.

    Attributes:
        axes: the map.
        names: of the axes that are watched.
        undefined: by name of axis, why its activity cannot be measured.
    """

    axes: AxisMap
    names: tuple[str, ...]
    undefined: Mapping[str, str]

    @property
    def known(self) -> tuple[str, ...]:
        """The names of all axes that were chosen, whether their activity can be measured or not."""
        return (*self.names, *(name for name in self.undefined if name in self.axes.by_name))

    @classmethod
    def of(cls, axes: AxisMap, chosen: Sequence[Axis]) -> Watched:
        """Those of the chosen axes that can be. Raises `ConfigError` if there is none."""
        reasons = {axis.name: StepActivity(axis.name).undefined(axes, axis) for axis in chosen}
        found = cls(axes, *_parted(reasons))
        if not found.names:
            raise ConfigError(f"no axis has an activity that can be measured: {found.undefined}")
        return found

    def after(self, axes: AxisMap, selection: Selection) -> Watched:
        """After edits: the same axes by their names of now, and those of new layers that are selected.

        Args:
            axes: the map of now.
            selection: as the axes were chosen.

        Raises:
            StaleMapError: the history of the map does not continue that of the map before.
        """
        done = len(self.axes.history)
        if axes.history[:done][-1:] != self.axes.history[-1:] or len(axes.history) < done:
            raise StaleMapError(
                "this map is not a later one of the watched model; call monitor.begin(axes) for another"
            )
        after = [record.after for record in parsed(axes.history[done:]) if record.after is not None]
        if not after:
            return Watched(axes, self.names, self.undefined)
        names: list[str] = list(self.names)
        for succession in after:
            born = {axis.name for axis in choose_among(axes, selection, succession.born)}
            names = [*succession.names(names), *(name for name in succession.born if name in born)]
        found = [axes.by_name[name] for name in names if name in axes.by_name]
        reasons = {axis.name: axis.frozen or StepActivity(axis.name).undefined(axes, axis) for axis in found}
        known = {name: reason for name, reason in self.undefined.items() if name in axes.by_name}
        there, undefined = _parted(reasons)
        return Watched(axes, there, {**known, **undefined})

    def new_edits(self, axes: AxisMap) -> tuple[Mapping[str, Any], ...]:
        """The records of a later map that this one does not have."""
        return axes.history[len(self.axes.history) :]

    def require_current(self) -> None:
        """Raises `StaleMapError` if the model no longer has the shapes of the map."""
        for name in self.names:
            for weight in weights_of(self.axes, self.axes.by_name[name]):
                shape = tuple(self.axes.model.get_parameter(weight).shape)
                expected = self.axes.layouts[weight].shape(self.axes.sizes)
                if shape != expected:
                    raise StaleMapError(
                        f"{weight} has shape {shape}, its map says {expected}: the model was edited; give the map that "
                        "the commit returned to monitor.follow(axes)"
                    )


def _parted(reasons: Mapping[str, str | None]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names without a reason against them, and the others with theirs."""
    undefined = {name: reason for name, reason in reasons.items() if reason is not None}
    return tuple(name for name in reasons if name not in undefined), undefined
