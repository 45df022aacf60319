"""How arms are made and called, and the nets that stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from meristem.study.studies.grid.cells import Cells
from meristem.study.studies.grid.contender import Course, Level, norms
from meristem.study.studies.grid.experiment import Contest, Fixed
from meristem.study.studies.grid.insertion import Insertion
from meristem.study.studies.grid.layers import Layers
from meristem.study.studies.grid.neurons import Neurons
from meristem.study.studies.grid.settings import Size
from meristem.study.studies.grid.submission import Submitted
from meristem.study.studies.grid.weights import Weights
from meristem.study.study import Arm

Way: TypeAlias = Fixed | Neurons | Layers | Cells | Weights | Submitted

PLAIN, NAIVE, SAFE = "no BN", "BN", "BN, safe"
"""What the net has, and how newborns are put in."""

FORMS: dict[str, tuple[bool, Insertion]] = {
    PLAIN: (False, "published"),
    NAIVE: (True, "published"),
    SAFE: (True, "safe"),
}
"""By these names: with batch normalization or without, and which form of a method."""

SIDE, STATISTICS = "BN, other side", "BN, own statistics"

HALVES: dict[str, Insertion] = {SIDE: "side", STATISTICS: "statistics"}
"""Either half of what makes GradMax safe, alone."""

FIXED = "fixed nets"

_COPIED = (
    "data",
    "images",
    "shrink",
    "widths",
    "steps",
    "batch_size",
    "weight_decay",
    "times",
    "horizon",
    "tries",
    "looks",
    "device",
    "protocol",
)


@dataclass(frozen=True)
class Entry:
    """One arm, before it gets the settings of a scale.

    Attributes:
        level, course, norm, way: see `experiment.Contest`.
        what: short; with the contest it is the name.
        description: one sentence.
        tested: whether claims are tested with it, so that it gets more seeds.
        fixed: whether it belongs to no contest.
        further: whether no claim is about it, so that it gets fewer.
    """

    level: Level
    course: Course
    norm: bool
    way: Way
    what: str
    description: str
    tested: bool = False
    fixed: bool = False
    further: bool = False

    @property
    def name(self) -> str:
        """Of the arm."""
        return f"{'fixed' if self.fixed else contest(self.level, self.course)}: {self.what}"

    def arm(self, size: Size) -> Arm:
        """With the settings of a scale."""
        settings: dict[str, Any] = {key: getattr(size, key) for key in _COPIED}
        rate = size.learning_rate if self.norm else size.plain_rate
        config = Contest(
            level=self.level, course=self.course, norm=self.norm, way=self.way, learning_rate=rate, **settings
        )
        group = FIXED if self.fixed else contest(self.level, self.course)
        seeds = size.core_seeds if self.tested else size.further_seeds if self.further else None
        return Arm(self.name, self.description, config, group, seeds)


def contest(level: Level, course: Course) -> str:
    """The name of a contest."""
    return f"{level}, {course}"


def form_of(norm: bool) -> str:
    """How newborns are put in where there is but one way."""
    return NAIVE if norm else PLAIN


@dataclass(frozen=True)
class Net:
    """A net that stays as it is.

    Attributes:
        name: short.
        level, course: a contest that begins with it.
        tested: whether claims need it.
    """

    name: str
    level: Level
    course: Course
    tested: bool = False

    def entry(self, norm: bool) -> Entry:
        """It, trained."""
        way = Weights() if self.level == "weight" else Fixed()
        what = f"{self.name}, {form_of(norm)}"
        return Entry(self.level, self.course, norm, way, what, "nothing changes it", self.tested, fixed=True)


LARGE = Net("VGG-11", "neuron", "constant", True)
HALF = Net("VGG-11 at half the width", "neuron", "growing", True)
SHALLOW = Net("VGG-11 with four layers less", "layer", "growing", True)
DOUBLED = Net("VGG-11 with four branches more", "cell", "shrinking", True)
NORMALIZED = Net("VGG-11 with four normalized branches more", "normalized cell", "shrinking", True)
QUARTER = Net("VGG-11 with a quarter of the weights", "weight", "constant", True)

ENDS: dict[Level, tuple[Net, Net]] = {
    "neuron": (HALF, LARGE),
    "layer": (SHALLOW, LARGE),
    "cell": (LARGE, DOUBLED),
    "normalized cell": (LARGE, NORMALIZED),
    "weight": (QUARTER, LARGE),
}
"""The small and the large net of every level."""


def final_net(level: Level, course: Course) -> Net:
    """The fixed net that is as large as that with which a contest ends."""
    small, large = ENDS[level]
    return small if course == "shrinking" or (level, course) == ("weight", "constant") else large


def fixed_nets() -> Iterator[Entry]:
    """Of all levels, with and without batch normalization."""
    nets = dict.fromkeys(net for pair in ENDS.values() for net in pair)
    return (net.entry(norm) for net in nets for norm in norms(net.level))
