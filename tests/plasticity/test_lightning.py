"""The Lightning callback under a real Trainer."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from meristem.axes import trace
from meristem.errors import ConfigError, WrappedModelError
from meristem.grow import ZeroFanOut
from meristem.prune import Magnitude
from meristem.schedule import At, Every, OnPlateau
from tests.plasticity.packages import optional

L = optional("lightning.pytorch")

from meristem.callbacks.lightning import PlasticityCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::Warning:lightning")


class Regression(L.LightningModule):
    net: nn.Sequential

    def __init__(self, example=True):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3))
        if example:
            self.example_input_array = torch.zeros(2, 6)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def loader():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 6, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :3].cumsum(1)), batch_size=8)


def fit(module, *callbacks, epochs=1, ckpt_path=None, **settings):
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **settings,
    )
    trainer.fit(module, loader(), ckpt_path=ckpt_path)
    return trainer


SETTINGS = {"grow": ZeroFanOut(), "prune": Magnitude(), "schedule": Every(3, grow=4) | At(7, prune=2)}


@pytest.mark.filterwarnings("error::meristem.edit.StaleParameterWarning")
def test_growth_and_pruning_in_a_trainer_and_newborns_learn():
    module = Regression()
    callback = PlasticityCallback(**SETTINGS)
    trainer = fit(module, callback)
    assert [event.step for event in callback.events] == [3, 6, 7]
    assert module.net[0].get_parameter("weight").shape == (16, 6)
    assert trace(module, module.example_input_array).sizes == callback.plasticity.axes.sizes
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in module.parameters()} == {id(p) for p in trainer.optimizers[0].state}
    # the newborns of step 3 and 6 had a fan-out of zero; step 8 was the last
    assert module.net[3].get_parameter("weight")[:, 10:].detach().abs().min() > 0
    assert "on_load_checkpoint" not in vars(module)


def test_a_part_of_the_module_may_be_edited():
    module = Regression(example=False)
    callback = PlasticityCallback(torch.zeros(2, 6), module="net", **SETTINGS)
    fit(module, callback)
    assert module.net[0].out_features == 16
    assert callback.plasticity.model is module.net


def test_accumulated_batches_count_as_one_step():
    callback = PlasticityCallback(grow=ZeroFanOut(), schedule=Every(2, grow=1))
    fit(Regression(), callback, accumulate_grad_batches=2)
    assert callback.plasticity.steps == 4
    assert [event.step for event in callback.events] == [2, 4]


def test_the_loss_reaches_the_schedule():
    callback = PlasticityCallback(grow=ZeroFanOut(), schedule=OnPlateau(patience=1, window=2, threshold=0.999, grow=1))
    fit(Regression(), callback)
    assert [event.step for event in callback.events] == [4, 8]


def test_a_checkpoint_gives_a_fresh_module_its_structure_and_training_goes_on(tmp_path):
    whole = Regression()
    callback = PlasticityCallback(**SETTINGS)
    trainer = fit(whole, callback, epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    longer, expected = Regression(), PlasticityCallback(**SETTINGS)
    fit(longer, expected, epochs=2)

    resumed, again = Regression(), PlasticityCallback(**SETTINGS)
    fit(resumed, again, epochs=2, ckpt_path=tmp_path / "one.ckpt")
    assert again.plasticity.steps == 16
    assert [str(event) for event in again.events] == [str(event) for event in expected.events if event.step > 8]
    torch.testing.assert_close(resumed.state_dict(), longer.state_dict(), rtol=0, atol=0)
    assert again.plasticity.state_dict() == expected.plasticity.state_dict()


@pytest.mark.filterwarnings("ignore::meristem.edit.StaleParameterWarning")  # the first Trainer, not yet collected
def test_a_second_fit_goes_on_with_the_history():
    module = Regression()
    callback = PlasticityCallback(grow=ZeroFanOut(), schedule=At([2, 10], grow=2))
    fit(module, callback)
    fit(module, callback)
    assert len(callback.plasticity.history) == 2
    assert callback.plasticity.steps == 16


def test_without_an_example_it_says_what_to_pass():
    with pytest.raises(ConfigError, match="example_input_array"):
        fit(Regression(example=False), PlasticityCallback(**SETTINGS))


def test_a_strategy_that_wraps_the_module_is_refused(monkeypatch):
    module = Regression()
    callback = PlasticityCallback(**SETTINGS)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy._model = nn.Sequential(module)
    with pytest.raises(WrappedModelError, match="devices=1"):
        callback.on_fit_start(trainer, module)


def test_a_module_without_a_forward_needs_the_part_to_edit():
    class Training(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))

        def training_step(self, batch, batch_idx):
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    module = Training()
    with pytest.raises(ConfigError, match=r"Training has no forward.*module=\.\.\.\), one of 'net'"):
        fit(module, PlasticityCallback(torch.zeros(2, 6), **SETTINGS))
    fit(module, PlasticityCallback(torch.zeros(2, 6), module="net", **SETTINGS))
    assert module.net[0].out_features > 10
