"""What shrinking a model comes to: the table that is shown before, and the record that is left after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from meristem.axes import AxisMap
from meristem.edit import AxisPreview, Preview


@dataclass(frozen=True)
class Shrunk:
    """A model that was made smaller, or would be. Print it for a table.

    Attributes:
        axes: today's map of the model; `axes.history` holds the edits, `meristem.save(path, axes)` writes everything.
        change: every axis with its size, and parameters, FLOPs and memory, before and after.
        seconds: the measured time of a forward pass on the example, before and after.
        left: by name the editable axes that were left alone, and why.
        done: whether it was carried out; if not, all of this is what would be.
        missed: what was asked for and what was measured at the end, if that is not the same; otherwise None.
    """

    axes: AxisMap
    change: Preview
    seconds: tuple[float, float]
    left: Mapping[str, str]
    done: bool
    missed: str | None = None

    def __rich__(self) -> Group:
        table = Table(title="Shrunk" if self.done else "Would be shrunk")
        table.add_column("axis", overflow="fold")
        for head in ("before", "after", "change"):
            table.add_column(head, justify="right")
        for axis in self.change.axes:
            table.add_row(Text(axis.name), f"{axis.before:,}", f"{axis.after:,}", _change(axis.before, axis.after))
        table.add_section()
        for name, values in (("parameters", self.change.parameters), ("FLOPs", self.change.flops)):
            table.add_row(name, *(f"{value:,}" for value in values), _change(*values))
        megabytes = [f"{count / 2**20:.2f}" for count in self.change.bytes]
        table.add_row("memory (MiB)", *megabytes, _change(*self.change.bytes))
        table.add_row("forward pass (ms)", *(f"{1e3 * s:.3g}" for s in self.seconds), _change(*self.seconds))
        return Group(
            table,
            *([Text(self.missed, style="bold red")] if self.missed else []),
            *(Text(f"left as they are ({reason}): {', '.join(names)}") for reason, names in self._reasons().items()),
        )

    def __str__(self) -> str:
        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def _reasons(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, reason in self.left.items():
            found.setdefault(reason, []).append(name)
        return found


def difference(before: AxisMap, sizes: Sequence[int]) -> Preview:
    """From a map to other, smaller sizes of its axes.

    Args:
        before: the map.
        sizes: the size of every axis, by its number.
    """
    rows = [
        AxisPreview(axis.name, axis.size, size, 0, axis.size - size, (f"removes {axis.size - size} units",))
        for axis, size in zip(before, sizes, strict=True)
        if axis.size != size
    ]
    return Preview(
        axes=tuple(rows),
        parameters=(before.parameter_count(), before.parameter_count(sizes)),
        flops=(before.flops(), before.flops(sizes)),
        bytes=(before.byte_count(), before.byte_count(sizes)),
        drift=None,
    )


def _change(before: float, after: float) -> str:
    return f"{after / before - 1:+.1%}" if before else ""
