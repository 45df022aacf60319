"""The configuration of one training run: validated, with a default for everything."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from meristem.errors import ConfigError
from meristem.grow import METHODS
from meristem.prune.catalogue import BY_NAME
from meristem.train.experiment import Experiment, Progress, Strict
from meristem.train.record import Run, RunFolder


class ModelConfig(Strict):
    """Which net: a name from `meristem.train.models`, and the options of that factory."""

    name: Literal["mlp", "conv", "vgg", "resnet"] = "resnet"
    options: dict[str, Any] = Field(default={"width": 8, "inner": 8, "blocks": 2})


class OptimizerConfig(Strict):
    """The optimizer; the learning rate is constant or falls to zero over the run along half a cosine."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.02, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Nesterov momentum; sgd only")
    weight_decay: float = Field(default=5e-4, ge=0)
    decay: Literal["constant", "cosine"] = "cosine"


class EditConfig(Strict):
    """When units are born or die, and how many: `amount` at every edit, an edit every `every` epochs.

    `amount` is for all editable axes together: a whole number counts units, a fraction is a share of them.
    """

    amount: int | float = Field(gt=0)
    start: float = Field(ge=0, description="epoch of the first edit")
    stop: float = Field(gt=0, description="no edit after this epoch")
    every: float = Field(gt=0, description="epochs between two edits")
    parameters: int | None = Field(
        default=None, gt=0, description="growth stops before, pruning at this number of parameters"
    )

    @model_validator(mode="after")
    def _ordered(self) -> EditConfig:
        if self.stop < self.start:
            raise ValueError(f"stop ({self.stop}) should not come before start ({self.start})")
        return self


class GrowConfig(EditConfig):
    """Births by a growth method with its settings: a class of `meristem.grow`, or one of your own as `module:name`."""

    method: str = "ZeroFanOut"
    options: dict[str, Any] = Field(default={})
    amount: int | float = Field(default=0.25, gt=0)
    start: float = Field(default=2.0, ge=0)
    stop: float = Field(default=10.0, gt=0)
    every: float = Field(default=1.0, gt=0)

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        names = [type(known).__name__ for known in METHODS]
        if ":" not in method and method not in names:
            raise ValueError(f"no such growth method; expected one of {', '.join(names)}, or yours as module:name")
        return method


class PruneConfig(EditConfig):
    """Deaths by a criterion with its settings: a class of `meristem.prune`, in capitals or not, or one of your own as
    `module:name`. One that changes another is given that as `options.criterion`, a name alone or `{name: options}`."""

    criterion: str = "magnitude"
    options: dict[str, Any] = Field(default={})
    amount: int | float = Field(default=0.1, gt=0)
    start: float = Field(default=11.0, ge=0)
    stop: float = Field(default=15.0, gt=0)
    every: float = Field(default=1.0, gt=0)

    @field_validator("criterion")
    @classmethod
    def _known(cls, criterion: str) -> str:
        if ":" not in criterion and criterion.lower() not in map(str.lower, BY_NAME):
            raise ValueError(f"no such criterion; expected one of {', '.join(BY_NAME)}, or yours as module:name")
        return criterion

    @model_validator(mode="after")
    def _below_one(self) -> PruneConfig:
        if isinstance(self.amount, float) and self.amount >= 1:
            raise ValueError(f"amount should be a whole number of units or a share below 1; found {self.amount}")
        return self


class TrainConfig(Experiment):
    """One training run of an image classifier. `grow: null` or `prune: null` leaves that part out."""

    name: str = Field(default="digits", pattern=r"^[\w][\w.+-]*$")
    data: str = Field(
        default="digits",
        pattern=r"^[\w][\w.+-]*$",
        description="digits, mnist, fashion_mnist, cifar10, cifar100, or the name of an .npz file of yours",
    )
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=64, ge=2)
    evaluations: int = Field(default=20, ge=1, description="equally far apart, the last one at the end")
    grow: GrowConfig | None = GrowConfig()
    prune: PruneConfig | None = PruneConfig()
    axes: list[str] | None = Field(default=None, description="glob patterns of axes that may be edited; null: all")
    allocate: Literal["uniform", "proportional"] = Field(
        default="proportional", description="how an amount is shared between the axes: evenly, or by their sizes"
    )

    def run(self, data: Any, place: RunFolder, progress: Progress) -> Run:
        """Trains by the reference loop. Raises `ConfigError`: an option is refused, or the data does not fit."""
        from meristem.train.loop import train  # which takes the settings of this file

        return train(self, data, place, progress)


def read_config(path: Path | str) -> TrainConfig:
    """The configuration in a YAML file; what it leaves out has its default.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds an unknown key or a bad value; the message names it.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; 'meristem train --print-config' writes one"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a YAML file: {error}") from error
    return parse_config({} if content is None else content, str(path))


def parse_config(content: Any, source: str = "the configuration") -> TrainConfig:
    """The configuration in a parsed YAML document. Raises `ConfigError` as `read_config` does."""
    try:
        return TrainConfig.model_validate(content)
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors()]
        raise ConfigError(f"{source} is not valid:\n" + "\n".join(f"  {line}" for line in lines)) from error


def to_yaml(config: TrainConfig) -> str:
    """The configuration in full, as YAML."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def _explain(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"]) or "(top level)"
    if detail["type"] == "extra_forbidden":
        allowed = _keys(detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(allowed)}"
        return f"{place}: unknown key; {hint}"
    return f"{place}: {detail['msg']}; found {detail['input']!r}"


def _keys(location: tuple[Any, ...]) -> list[str]:
    """The keys that are allowed at a place in the configuration."""
    parts: dict[str, type[BaseModel]] = {
        "model": ModelConfig,
        "optimizer": OptimizerConfig,
        "grow": GrowConfig,
        "prune": PruneConfig,
    }
    return list((parts[location[0]] if location else TrainConfig).model_fields)
