"""What a monitor writes down: one record a sample, numbers and words only, so that it goes through JSON unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.table import Table

from meristem.diagnose.parity import log_parity
from meristem.diagnose.survivors import Stability
from meristem.diagnose.terminal import line, table
from meristem.errors import CheckpointError

MEASURES: tuple[str, ...] = (
    "frequency",
    "size",
    "gradient",
    "fan_in",
    "fan_out",
    "fan_in_gradient",
    "fan_out_gradient",
    "utility",
)
"""What is measured of each unit: as in `Activity`; `fan_in` and `fan_out` are the norms of its weights, `utility` is
`size * fan_out`: how much of what its readers get comes from it, up to the directions."""


@dataclass(frozen=True)
class Cohort:
    """The units of one axis that one edit inserted, beside all that stood before them.

    Attributes:
        born: the optimizer step after which they were inserted.
        age: optimizer steps since then: those that these numbers are of included.
        units: how many of them are left.
        incumbents: how many of the units that are older are left.
        means: by measure, the mean over the cohort.
        ratios: by measure, that mean divided by the mean over the older units; None where that is zero or where there
            are none left. 0 / 0 is 0.
        first: the least age at which R_grad was at least the level of integration (0.9), or None.
        lasting: the age from which on it has stayed there until now, or None.
    """

    born: int
    age: int
    units: int
    incumbents: int
    means: Mapping[str, float]
    ratios: Mapping[str, float | None]
    first: int | None = None
    lasting: int | None = None

    @property
    def activation(self) -> float | None:
        """R_act: of how often units are active."""
        return self.ratios["frequency"]

    @property
    def gradient(self) -> float | None:
        """R_grad: of the size of the gradients of pre-activations."""
        return self.ratios["gradient"]

    @property
    def fan_out(self) -> float | None:
        """Of the norms of the weights that read a unit, which explain part of R_grad."""
        return self.ratios["fan_out"]

    def parity(self) -> dict[str, float]:
        """R_act and R_grad, their logarithms and the ratio of the fan-out norms, as far as they are finite."""
        found = {"R_act": self.activation, "R_grad": self.gradient, "fan_out_ratio": self.fan_out}
        logs = {f"log_{name}": log_parity(found[name] or 0) for name in ("R_act", "R_grad") if found[name]}
        return {name: number for name, number in {**found, **logs}.items() if number is not None}


@dataclass(frozen=True)
class AxisRecord:
    """One axis at one sample.

    Attributes:
        size: its number of units.
        incumbents: how many units are older than all cohorts listed here.
        means: by measure, the mean over these.
        cohorts: the youngest ones, oldest first; older newborns count as incumbents.
    """

    size: int
    incumbents: int
    means: Mapping[str, float]
    cohorts: tuple[Cohort, ...] = ()

    @property
    def newborns(self) -> int:
        """How many units the cohorts have."""
        return sum(cohort.units for cohort in self.cohorts)


@dataclass(frozen=True)
class Unmeasured:
    """The youngest newborns of an axis whose activity cannot be measured: what is defined of them all the same.

    Attributes:
        born: the optimizer step after which they were inserted.
        age: optimizer steps since then.
        units: how many of them are left.
        fan_in, fan_out: the mean norms of their weights divided by those of all older units; None where there are none.
    """

    born: int
    age: int
    units: int
    fan_in: float | None
    fan_out: float | None


@dataclass(frozen=True)
class Death:
    """One unit that an edit removed.

    Attributes:
        axis: the name of its axis.
        unit: its number on the axis, before that edit.
        step: the optimizer step after which it was removed.
        born: the step after which it was inserted; None if no edit inserted it.
        seen: the step that its last numbers are of; None if it was never seen.
        last: these numbers, by measure.
    """

    axis: str
    unit: int
    step: int
    born: int | None
    seen: int | None
    last: Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """All watched axes at one optimizer step. Print it for one line, or give it to rich for a table.

    Attributes:
        step: the optimizer step whose forward and backward pass was heard.
        axes: by name.
        survivors: by name of axis, how the units that were left changed over the removals since the last record.
        deaths: who was removed since the last record.
        silent: axes that were not heard in this step, with the reason.
        unmeasured: by name of axis, the youngest newborns of axes whose activity cannot be measured.
    """

    step: int
    axes: Mapping[str, AxisRecord]
    survivors: Mapping[str, Stability]
    deaths: tuple[Death, ...] = ()
    silent: Mapping[str, str] = field(default_factory=dict)
    unmeasured: Mapping[str, Unmeasured] = field(default_factory=dict)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Record:
        """The record from what `plain` gave. Raises `CheckpointError` if it is none."""
        try:
            return TypeAdapter(cls).validate_python(plain)
        except ValidationError as error:
            raise CheckpointError(f"this is no record of a Monitor: {error}") from error

    def plain(self) -> dict[str, Any]:
        """As nested dicts, lists, numbers and strings: what goes through JSON unchanged."""
        return asdict(self)

    def numbers(self) -> dict[str, float]:
        """As a flat mapping for trackers: of every axis its size, the means over its incumbents, and of its youngest
        cohort the age, R_act, R_grad, their logarithms and the ratio of fan-out norms.

        The names are `axis/measure`. What is not finite (the logarithm of 0) is left out.
        """
        found: dict[str, float] = {}
        for name, axis in self.axes.items():
            found[f"{name}/units"] = axis.size
            found.update({f"{name}/incumbents/{measure}": mean for measure, mean in axis.means.items()})
            if axis.cohorts:
                youngest = axis.cohorts[-1]
                found.update({f"{name}/newborns/age": youngest.age, f"{name}/newborns/units": youngest.units})
                found.update({f"{name}/newborns/{what}": ratio for what, ratio in youngest.parity().items()})
        for name, change in self.survivors.items():
            found[f"{name}/survivors/frequency"] = change.frequency
            if change.size is not None:
                found[f"{name}/survivors/size"] = change.size
        return found

    def __str__(self) -> str:
        return line(self)

    def __rich__(self) -> Table:
        return table(self)
