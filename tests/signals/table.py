"""One of every statistic, and what their results hold in common: tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

import meristem.signals
from meristem.axes import AxisMap
from meristem.signals import (
    Activations,
    BestMove,
    Directions,
    Expansion,
    FanInGradient,
    Found,
    Proposals,
    Running,
    SecondMoment,
    Statistic,
    UnitActivity,
)
from meristem.signals.direct import Direct, Recording
from meristem.signals.reads import Reads
from meristem.signals.sensitivity import Sensitivity
from meristem.signals.sensor import Sensed
from meristem.signals.step_activity import ActivitySums, StepActivity


def every_statistic(name: str) -> tuple[Statistic, ...]:
    """Few directions and all of them; candidates as they are drawn."""
    return (
        Activations(name),
        BestMove(name),
        Directions(name, 40),
        Directions(name, 2),
        Directions(name, 2, whitened=True),
        Directions(name, 2, whitened=True, residual=True),
        Expansion(name, 5, 0),
        FanInGradient(name),
        Proposals(name, 5),
        Reads(name),
        SecondMoment(name),
        Sensitivity(name),
        StepActivity(name),
        UnitActivity(name, 0.3),
    )


def known() -> set[type[Statistic]]:
    """All that there are in `meristem.signals`, but for averages over all of training."""

    def below(kind: type) -> Iterator[type]:
        for other in kind.__subclasses__():
            yield other
            yield from below(other)

    abstract = {Direct, Sensed, Running}
    return {
        kind
        for kind in below(Statistic)
        if kind.__module__.startswith(meristem.signals.__name__)
        and kind not in abstract
        and not issubclass(kind, Running)
    }


def recorded(
    axes: AxisMap, statistics: tuple[Statistic, ...], step: Callable[[], object], **settings: Any
) -> Mapping[Statistic, Any]:
    """The results of one step."""
    axes.model.zero_grad()
    recording = Recording(axes, statistics, **settings)
    recording.closing()
    step()
    return recording.finish()


def tensors(found: Any) -> dict[str, Tensor]:
    """What a result says, whatever its form; of directions what does not depend on their signs."""
    if isinstance(found, Tensor):
        return {"": found.double()}
    if isinstance(found, Found):
        return {"values": found.values, "M": found.outgoing.T * found.values @ found.incoming}
    if isinstance(found, ActivitySums):
        means = {"sums": found.sums / found.read_rows, "gradient": found.gradient / found.given_rows}
        return {**means, "into": found.fan_in_squares, "out": found.fan_out_squares}
    if is_dataclass(found):
        return tensors({field.name: getattr(found, field.name) for field in fields(found)})
    if isinstance(found, Mapping):
        items = found.items()
    elif isinstance(found, (list, tuple)):
        items = enumerate(found)
    elif isinstance(found, float):
        return {"": torch.tensor(found, dtype=torch.float64)}
    else:
        return {}
    return {f"{key}/{name}": value for key, item in items for name, value in tensors(item).items()}


def assert_same(one: Mapping[Statistic, Any], two: Mapping[Statistic, Any], rtol=1e-9, atol=1e-11) -> None:
    """Equal results of the same statistics."""
    assert list(one) == list(two)
    for statistic, found in one.items():
        expected = tensors(found)
        assert expected
        other = tensors(two[statistic])
        assert expected.keys() == other.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                other[name].double(),
                value.double(),
                rtol=rtol,
                atol=atol,
                msg=lambda m, s=statistic, n=name: f"{s} {n}: {m}",
            )
