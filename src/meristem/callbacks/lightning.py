"""Plasticity in a Lightning `Trainer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from meristem.errors import ConfigError, WrappedModelError
from meristem.plasticity import Event, Plasticity

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities import move_data_to_device
except ImportError as error:
    raise ImportError("the Lightning callback needs Lightning: pip install 'meristem[lightning]'") from error


class PlasticityCallback(Callback):
    """Grows and prunes a `LightningModule` while a Lightning `Trainer` trains it.

        trainer = Trainer(callbacks=[PlasticityCallback(schedule=Every(100, grow=0.1), grow=ZeroFanOut())])

    Checkpoints that Lightning writes hold the structure: `trainer.fit(fresh_module, ckpt_path=...)` gives a freshly
    built module the saved structure before its weights are loaded, and goes on from there.

    Args:
        example: an input for the module's forward, as for `meristem.trace`. Default: its `example_input_array`.
        loss: `loss(module, batch)` gives the training loss of a batch, without logging; only methods that evaluate the
            loss themselves need it.
        module: path of the submodule to edit, e.g. "net", in which case `example` is an input of that. Default: all.
        settings: everything else that `meristem.Plasticity` takes: `schedule`, `grow`, `prune`, `allocate`, ...

    Attributes:
        events: what was edited so far in this process.

    Raises:
        ConfigError: (from `fit`) there is no example, or the module has no forward and no `module` is named.
        WrappedModelError: (from `fit`) the strategy wraps the module (DDP, FSDP, ...) or it is compiled.
    """

    def __init__(
        self,
        example: Any = None,
        *,
        loss: Callable[[LightningModule, Any], Tensor] | None = None,
        module: str = "",
        **settings: Any,
    ) -> None:
        self._plasticity: Plasticity | None = None
        self.events: list[Event] = []
        self._example = example
        self._loss = loss
        self._module = module
        self._settings = settings
        self._seen = 0

    @property
    def plasticity(self) -> Plasticity:
        """The controller. Raises `ConfigError` before `fit` has begun."""
        if self._plasticity is None:
            raise ConfigError("there is no controller before `fit` has begun")
        return self._plasticity

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Be there when a checkpoint is loaded: Lightning restores weights before callbacks."""
        original = pl_module.on_load_checkpoint

        def restructured(checkpoint: dict[str, Any]) -> None:
            saved = checkpoint.get("callbacks", {}).get(self.state_key)
            if saved:
                self._plasticity = self._controller(pl_module)
                self._plasticity.load_state_dict(saved)
            original(checkpoint)

        pl_module.on_load_checkpoint = restructured

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind on the module."""
        vars(pl_module).pop("on_load_checkpoint", None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the optimizers, going on where an earlier `fit` or a checkpoint left off."""
        if trainer.strategy.model is not pl_module:
            raise WrappedModelError(
                f"{type(trainer.strategy).__name__} wraps the module in {type(trainer.strategy.model).__name__}, whose "
                "gradients would no longer be synchronized after an edit; train on one device (Trainer(devices=1))"
            )
        self._plasticity = self._controller(pl_module)
        self._plasticity.optimizers = tuple(trainer.optimizers)
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count an optimizer step, if this batch ended one."""
        if trainer.global_step == self._seen or self._plasticity is None:
            return
        self._seen = trainer.global_step
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        own = self._loss
        event = self._plasticity.step(loss, None if own is None else lambda: own(pl_module, batch))
        if event is not None:
            self.events.append(event)

    def state_dict(self) -> dict[str, Any]:
        """What goes into Lightning's checkpoint."""
        return {} if self._plasticity is None else self._plasticity.state_dict()

    def _controller(self, pl_module: LightningModule) -> Plasticity:
        """The controller of this module: the one there is, or a new one without optimizers."""
        target: nn.Module = pl_module.get_submodule(self._module)
        if self._plasticity is not None and self._plasticity.model is target:
            return self._plasticity
        if type(target).forward is LightningModule.forward:
            parts = ", ".join(repr(name) for name, _ in target.named_children())
            raise ConfigError(
                f"{type(target).__name__} has no forward: name the part to edit, PlasticityCallback(example=..., "
                f"module=...), one of {parts} say"
            )
        example = pl_module.example_input_array if self._example is None else self._example
        if example is None:
            raise ConfigError("pass PlasticityCallback(example=...), or give the module an `example_input_array`")
        return Plasticity(target, (), move_data_to_device(example, pl_module.device), **self._settings)
