"""Plasticity in a Hugging Face `Trainer`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from meristem.errors import CheckpointError, ConfigError, WrappedModelError
from meristem.plasticity import Event, Plasticity

try:
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.utils import send_to_device
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.training_args import ParallelMode
except ImportError as error:
    raise ImportError("the Hugging Face callback needs Transformers: pip install 'meristem[transformers]'") from error

FILE = "meristem.json"
"""What the callback adds to each of the Trainer's checkpoint folders."""


class PlasticityCallback(TrainerCallback):
    """Grows and prunes a model while a Hugging Face `Trainer` trains it.

        callback = PlasticityCallback(schedule=Every(100, grow=0.1), grow=ZeroFanOut())
        trainer = Trainer(model, args, train_dataset=data, callbacks=[callback])

    The Trainer loads weights before it calls any callback, so resuming takes one line more, before `train`:

        callback.restore(model, "runs/checkpoint-500")      # gives a freshly built model the saved structure
        trainer.train(resume_from_checkpoint="runs/checkpoint-500")

    The Trainer does not hand its loss to callbacks; schedules that watch the loss get what it logs, once per
    `logging_steps`.

    Args:
        example: keyword arguments for the model's forward, as for `meristem.trace`. Default: its `dummy_inputs`.
        loss: `loss(model, batch)` gives the training loss of a batch; methods that evaluate the loss themselves call it
            on further batches of the training data. Default: the model's own, `model(**batch).loss`.
        settings: everything else that `meristem.Plasticity` takes: `schedule`, `grow`, `prune`, `allocate`, ...

    Attributes:
        events: what was edited so far in this process.

    Raises:
        ConfigError: (from `train`) there is no example.
        WrappedModelError: (from `train`) the Trainer wraps the model (several devices) or compiles it.
        CheckpointError: (from `restore`) the folder holds no state of this callback, or it does not fit the model.
    """

    def __init__(
        self, example: Any = None, *, loss: Callable[[nn.Module, Any], Tensor] | None = None, **settings: Any
    ) -> None:
        self._plasticity: Plasticity | None = None
        self.events: list[Event] = []
        self._example = example
        self._settings = settings
        self._loss_of = _own_loss if loss is None else loss
        self._loss: float | None = None

    @property
    def plasticity(self) -> Plasticity:
        """The controller. Raises `ConfigError` before `train` has begun."""
        if self._plasticity is None:
            raise ConfigError("there is no controller before `train` has begun")
        return self._plasticity

    def restore(self, model: nn.Module, folder: str | Path) -> None:
        """Give a freshly built model the structure of one of the Trainer's checkpoints, before its weights are loaded.

        Args:
            model: as it was built for the saved run.
            folder: the checkpoint's folder.
        """
        path = Path(folder) / FILE
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} is not the state of a PlasticityCallback: {error}") from error
        self._plasticity = self._controller(model)
        self._plasticity.load_state_dict(saved)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the optimizer, going on where an earlier `train` or `restore` left off."""
        if args.parallel_mode != ParallelMode.NOT_PARALLEL or args.torch_compile:
            raise WrappedModelError(
                f"the Trainer wraps the model (parallel mode {args.parallel_mode.value}, torch_compile="
                f"{args.torch_compile}), which would not follow edits; train on one device, uncompiled"
            )
        self._plasticity = self._controller(kwargs["model"])
        self._plasticity.optimizers = (_unwrapped(kwargs["optimizer"]),)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count an optimizer step."""
        if self._plasticity is None:
            return
        loss, self._loss = self._loss, None
        event = self._plasticity.step(loss, _Closure(self._loss_of, kwargs["model"], kwargs.get("train_dataloader")))
        if event is not None:
            self.events.append(event)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the loss for schedules that watch it."""
        self._loss = (logs or {}).get("loss")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the controller's state to the checkpoint that was just written."""
        if self._plasticity is not None and state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            (folder / FILE).write_text(json.dumps(self._plasticity.state_dict()), encoding="utf-8")

    def _controller(self, model: nn.Module) -> Plasticity:
        """The controller of this model: the one there is, or a new one without an optimizer."""
        if self._plasticity is not None and self._plasticity.model is model:
            return self._plasticity
        example = getattr(model, "dummy_inputs", None) if self._example is None else self._example
        if example is None:
            raise ConfigError("pass PlasticityCallback(example=...): keyword arguments for the model's forward")
        device = next(model.parameters()).device
        return Plasticity(model, (), send_to_device(example, device), **self._settings)


class _Closure:
    """The loss of one batch of the training data after another; nothing is read before the first call."""

    def __init__(
        self, loss: Callable[[nn.Module, Any], Tensor], model: nn.Module, loader: Iterable[Any] | None
    ) -> None:
        self._loss = loss
        self._model = model
        self._loader = loader
        self._batches: Iterator[Any] = iter(())

    def __call__(self) -> Tensor:
        if self._loader is None:
            raise ConfigError("the Trainer gave no training data to evaluate the loss on")
        batch = next(self._batches, None)
        if batch is None:
            self._batches = iter(self._loader)
            batch = next(self._batches)
        device = next(self._model.parameters()).device
        return self._loss(self._model, send_to_device(batch, device))


def _own_loss(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    return model(**batch).loss


def _unwrapped(optimizer: Any) -> Any:
    """The optimizer inside Accelerate's wrappers."""
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer
