"""From a configuration to the objects that it names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

import meristem
from meristem.allocate import Allocator, Proportional, Uniform
from meristem.errors import ConfigError
from meristem.grow import Net2Wider, ZeroFanOut
from meristem.prune import Magnitude, Random
from meristem.schedule import Every, Schedule
from meristem.train.config import EditConfig, OptimizerConfig, TrainConfig
from meristem.train.data import DataSet
from meristem.train.models import FACTORIES

GROWTH = {"random": ZeroFanOut, "net2wider": Net2Wider}
CRITERIA = {"magnitude": Magnitude, "random": Random}
ALLOCATORS: dict[str, type[Allocator]] = {"uniform": Uniform, "proportional": Proportional}


def build_model(config: TrainConfig, data: DataSet) -> nn.Module:
    """The net for a data set. Raises `ConfigError` if its factory refuses the options."""
    try:
        return FACTORIES[config.model.name](data.input_shape, data.classes, **config.model.options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model.options does not fit the model {config.model.name!r}: {error}") from error


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The optimizer over all parameters."""
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.name == "sgd":
        return torch.optim.SGD(model.parameters(), **options, momentum=config.momentum, nesterov=config.momentum > 0)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name](model.parameters(), **options)


def build_scheduler(config: OptimizerConfig, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate over that many steps."""
    if config.decay == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    return LambdaLR(optimizer, lambda step: 1.0)


def build_plasticity(
    config: TrainConfig, model: nn.Module, optimizer: Optimizer, example: Tensor, steps_per_epoch: int
) -> meristem.Plasticity | None:
    """What grows and prunes the net, or None if the configuration asks for neither."""
    schedules: list[Schedule] = []
    if config.grow is not None:
        schedules.append(_schedule(config.grow, "grow", steps_per_epoch))
    if config.prune is not None:
        schedules.append(_schedule(config.prune, "prune", steps_per_epoch))
    if not schedules:
        return None
    return meristem.Plasticity(
        model,
        optimizer,
        example,
        grow=GROWTH[config.grow.method]() if config.grow else None,
        prune=CRITERIA[config.prune.criterion]() if config.prune else None,
        allocate=ALLOCATORS[config.allocate](),
        schedule=schedules[0] if len(schedules) == 1 else schedules[0] | schedules[1],
        seed=config.seed,
    )


def _schedule(edit: EditConfig, action: str, steps_per_epoch: int) -> Schedule:
    schedule = Every(edit.every, edit.start, edit.stop, steps_per_epoch, **{action: edit.amount})
    return schedule if edit.parameters is None else schedule.until(parameters=edit.parameters)
