"""Paths of several recordings as one: what other examples and training mode add, and where they contradict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from meristem.axes.map import Example
from meristem.axes.operators import short_name
from meristem.axes.path import BatchNorm, End, Path

_Ends = tuple[tuple[str, int], tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Run:
    """What was followed in one recording.

    Attributes:
        title: which it was, for people: "training mode", "example 2 in evaluation mode".
        paths: by axis.
        called: the calls, (weight, number), in which a weight contracts an activation or looks units up.
        contractions: those that contract, in the order of the calls.
        others: the weights that are used in another way.
    """

    title: str
    paths: Mapping[int, tuple[Path, ...]]
    called: frozenset[tuple[str, int]]
    contractions: tuple[End, ...]
    others: frozenset[str]


def titles(examples: Sequence[Example]) -> list[str]:
    """What runs of examples are called."""
    numbers: dict[tuple[int, int], int] = {}
    for args, kwargs, _ in examples:
        numbers.setdefault((id(args), id(kwargs)), len(numbers) + 1)
    several = len(numbers) > 1
    return [
        (f"example {numbers[id(args), id(kwargs)]} in " if several else "")
        + ("training mode" if training else "evaluation mode")
        for args, kwargs, training in examples
    ]


def joined(runs: Sequence[Run]) -> dict[int, tuple[Path, ...]]:
    """All paths of all runs, by axis.

    They are joined so that those of them of which a pass calls both ends are its own, whichever run it is like: where
    that cannot be, because two runs lead from one call to another by different ways, or because a call has another role
    in another run, the paths are blocked.
    """
    axes = dict.fromkeys(axis for run in runs for axis in run.paths)
    return {axis: _joined(axis, runs) for axis in axes}


def contractions_of(runs: Sequence[Run]) -> dict[str, tuple[End, ...]]:
    """By weight, in the order in which they are called, all calls of all runs in which activations are contracted.

    Weights that are used in another way besides, or cut into groups differently from call to call, or laid out
    differently in one call of two runs, are left out.
    """
    found: dict[str, dict[int, End]] = {}
    unclear = {name for run in runs for name in run.others}
    for end in (end for run in runs for end in run.contractions):
        known = found.setdefault(end.weight, {})
        one, first = known.setdefault(end.call, end), next(iter(known.values()))
        if end.groups != first.groups or end.transposed != one.transposed:
            unclear.add(end.weight)
    return {weight: tuple(ends.values()) for weight, ends in found.items() if weight not in unclear}


def _joined(axis: int, runs: Sequence[Run]) -> tuple[Path, ...]:
    found: dict[_Ends, list[Path]] = {}
    first: dict[_Ends, Run] = {}
    for run in runs:
        for ends, own in _by_ends(run.paths.get(axis, ())).items():
            known = found.get(ends)
            if known is None or (_alike(known, own) and any(path.unknown for path in own)):
                found[ends] = own if run is runs[0] else [_of(path, run) for path in own]
            first.setdefault(ends, run)
    paths = tuple(path for several in found.values() for path in several)
    if any(path.blocked and not path.several for path in paths):
        return paths
    reasons = (_contradiction(axis, run, found, first) for run in runs)
    reason = next(filter(None, reasons), None)
    return paths if reason is None else tuple(replace(path, steps=(), blocked=reason, several=False) for path in paths)


def _contradiction(axis: int, run: Run, found: Mapping[_Ends, list[Path]], first: Mapping[_Ends, Run]) -> str | None:
    """Why paths of all runs do not hold in one of them, or None if they do."""
    own = _by_ends(run.paths.get(axis, ()))
    for ends, paths in found.items():
        other = first[ends]
        if run.called.issuperset(ends) and not _alike(own.get(ends, []), paths):
            blocked = next((path.blocked for path in own.get(ends, ()) if path.blocked and not path.several), None)
            if blocked is not None:
                return f"{blocked}, in {run.title}"
            here, there = _way(own.get(ends, ())), _way(paths)
            here = f"{here} with other settings" if here == there else here
            return f"{ends[0][0]} reaches {ends[1][0]} {there} in {other.title}, and {here} in {run.title}"
        for place, does in enumerate(("produces", "reads")):
            if ends[place] in run.called and all(ends[place] != known[place] for known in own):
                return f"{ends[place][0]} {does} it in {other.title}, and not in {run.title}"
    return None


def _by_ends(paths: Sequence[Path]) -> dict[_Ends, list[Path]]:
    found: dict[_Ends, list[Path]] = {}
    for path in paths:
        found.setdefault((_call(path.producer), _call(path.consumer)), []).append(path)
    return found


def _call(end: End) -> tuple[str, int]:
    return end.weight, end.call


def _alike(one: Sequence[Path], other: Sequence[Path]) -> bool:
    """Whether the same is applied on all of the ways, whatever a newborn meets there besides."""
    bare, others = ([replace(path, unknown=None) for path in paths] for paths in (one, other))
    return len(bare) == len(others) and all(bare.count(path) == others.count(path) for path in bare)


def _of(path: Path, run: Run) -> Path:
    """A path with the run in which it is what it is, where that is not the first."""
    blocked, unknown = (reason and f"{reason}, in {run.title}" for reason in (path.blocked, path.unknown))
    return replace(path, blocked=blocked, unknown=unknown)


def _way(paths: Sequence[Path]) -> str:
    """What is applied on the way, in words."""
    if not paths:
        return "not at all"
    steps = (step for path in paths for step in path.steps)
    names = ("batch_norm" if isinstance(step, BatchNorm) else short_name(step.operator) for step in steps)
    return (
        f"through {', '.join(name.rpartition('.')[2] for name in names)}" if any(p.steps for p in paths) else "directly"
    )
