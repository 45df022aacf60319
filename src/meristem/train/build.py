"""From a configuration to the objects that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from meristem.allocate import Allocator, Proportional, Uniform
from meristem.axes import AxisMap
from meristem.errors import ConfigError
from meristem.grow import METHODS, Method
from meristem.plasticity import Plasticity
from meristem.prune import Criterion, Wrapper
from meristem.prune.catalogue import BY_NAME
from meristem.schedule import Every, Schedule, Together
from meristem.train.config import EditConfig, GrowConfig, OptimizerConfig, PruneConfig, TrainConfig
from meristem.train.data import DataSet
from meristem.train.imported import resolve
from meristem.train.models import FACTORIES

Made = TypeVar("Made", Method, Criterion)

GROWTH: dict[str, type[Method]] = {type(method).__name__: type(method) for method in METHODS}
DEATH: dict[str, type[Criterion]] = {name.lower(): kind for name, kind in BY_NAME.items()}
ALLOCATORS: dict[str, type[Allocator]] = {"uniform": Uniform, "proportional": Proportional}


def build_model(config: TrainConfig, data: DataSet) -> nn.Module:
    """The net for a data set. Raises `ConfigError` if its factory refuses the options."""
    try:
        return FACTORIES[config.model.name](data.input_shape, data.classes, **config.model.options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model.options does not fit the model {config.model.name!r}: {error}") from error


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The optimizer over all parameters."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.name == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(model.parameters(), rate, config.momentum, weight_decay=decay, nesterov=nesterov)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name](
        model.parameters(), lr=rate, weight_decay=decay
    )


def build_scheduler(config: OptimizerConfig, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate over that many steps."""
    if config.decay == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    return LambdaLR(optimizer, lambda step: 1.0)


def build_plasticity(
    config: TrainConfig, axes: AxisMap, optimizer: Optimizer, steps_per_epoch: int
) -> Plasticity | None:
    """What grows and prunes the net, or None if the configuration asks for neither."""
    wanted: tuple[tuple[str, EditConfig | None], ...] = (("grow", config.grow), ("prune", config.prune))
    schedules = [_schedule(edit, action, steps_per_epoch) for action, edit in wanted if edit is not None]
    if not schedules:
        return None
    return Plasticity(
        axes.model,
        optimizer,
        axes,
        schedule=Together(tuple(schedules)),
        grow=build_method(config.grow) if config.grow else None,
        prune=build_criterion(config.prune) if config.prune else None,
        allocate=ALLOCATORS[config.allocate](),
        axes=config.axes,
        seed=config.seed,
    )


def build_method(config: GrowConfig) -> Method:
    """The growth method. Raises `ConfigError` if there is none at its path, or it refuses its options."""
    kind = resolve(config.method) if ":" in config.method else GROWTH[config.method]
    return _made("grow", config.method, kind, config.options, Method)


def build_criterion(config: PruneConfig) -> Criterion:
    """The criterion. Raises `ConfigError` if there is none at its path, or it refuses its options."""
    kind = resolve(config.criterion) if ":" in config.criterion else DEATH[config.criterion.lower()]
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in config.options.items()}
    if isinstance(kind, type) and issubclass(kind, Wrapper):
        if "criterion" not in options:
            raise ConfigError(
                f"prune: {config.criterion} changes another criterion: give that as its option `criterion`"
            )
        options["criterion"] = _inner(options["criterion"])
    return _made("prune", config.criterion, kind, options, Criterion)


def named(given: Any, what: str) -> tuple[str, dict[str, Any]]:
    """What a name alone, `Magnitude`, or one with its settings, `{Magnitude: {p: 1}}`, stands for: name and settings.

    Args:
        given: the one or the other.
        what: how it is called in messages.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(given, str):
        return given, {}
    name, options = next(iter(given.items())) if isinstance(given, dict) and len(given) == 1 else (None, None)
    if not isinstance(name, str) or not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ConfigError(f"{what} is no criterion; expected a name, or 'Magnitude: {{p: 1}}'")
    return name, options


def _inner(given: Any) -> Criterion:
    """The criterion that another one changes."""
    name, options = named(given, f"prune: {given!r}")
    if ":" not in name and name.lower() not in DEATH:
        known = ", ".join(kind.__name__ for kind in DEATH.values())
        raise ConfigError(f"prune: no such criterion: {name!r}; expected one of {known}, or yours as module:name")
    return build_criterion(PruneConfig(criterion=name, options=options))


def _made(part: str, name: str, kind: Any, options: Mapping[str, Any], expected: type[Made]) -> Made:
    try:
        made = kind(**options)
    except TypeError as error:
        raise ConfigError(f"{part}.options does not fit {name}: {error}") from error
    if not isinstance(made, expected):
        raise ConfigError(f"{part}: {name} makes a {type(made).__name__}; expected a {expected.__name__}")
    return made


def _schedule(edit: EditConfig, action: str, steps_per_epoch: int) -> Schedule:
    schedule = Every(edit.every, edit.start, edit.stop, steps_per_epoch, **{action: edit.amount})
    return schedule if edit.parameters is None else schedule.until(parameters=edit.parameters)
