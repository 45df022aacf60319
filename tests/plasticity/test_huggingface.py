"""The Hugging Face callback under a real Trainer."""

import pytest
import torch
from torch.utils.data import Dataset

from meristem.axes import trace
from meristem.errors import CheckpointError, ConfigError, WrappedModelError
from meristem.grow import ZeroFanOut
from meristem.prune import Magnitude
from meristem.schedule import At, Every, OnPlateau
from tests.plasticity.packages import optional

transformers = optional("transformers")
optional("accelerate")

from meristem.callbacks.huggingface import PlasticityCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error::meristem.edit.StaleParameterWarning")


class Tokens(Dataset):
    """Sequences that count upwards."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        ids = torch.arange(index, index + 8) % 16
        return {"input_ids": ids, "labels": ids}


def build():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=16, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def train(model, callback, folder, steps=8, resume=None, **settings):
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        **{"save_strategy": "no", **settings},
    )
    trainer = transformers.Trainer(model, args, train_dataset=Tokens(), callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


HIDDEN = "transformer.h.0.mlp.c_fc"
SETTINGS = {"grow": ZeroFanOut(), "prune": Magnitude(), "schedule": Every(3, grow=6) | At(7, prune=4), "axes": HIDDEN}
EXAMPLE = {"input_ids": torch.zeros(1, 8, dtype=torch.int64)}


def test_growth_and_pruning_in_a_trainer_and_newborns_learn(tmp_path):
    model = build()
    callback = PlasticityCallback(EXAMPLE, **SETTINGS)
    trainer = train(model, callback, tmp_path)
    assert [event.step for event in callback.events] == [3, 6, 7]
    assert model.transformer.h[0].mlp.c_proj.weight.shape == (64 + 12 - 4, 16)
    assert trace(model, EXAMPLE).sizes == callback.plasticity.axes.sizes
    optimizer = trainer.optimizer.optimizer
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()} == {id(p) for p in optimizer.state}
    newborn = callback.plasticity.ages[HIDDEN] < 100
    assert int(newborn.sum()) >= 8
    assert model.transformer.h[0].mlp.c_proj.weight[newborn].detach().abs().min() > 0


def test_accumulated_batches_count_as_one_step(tmp_path):
    callback = PlasticityCallback(EXAMPLE, grow=ZeroFanOut(), schedule=Every(2, grow=2), axes=HIDDEN)
    train(build(), callback, tmp_path, steps=4, gradient_accumulation_steps=2)
    assert callback.plasticity.steps == 4
    assert [event.step for event in callback.events] == [2, 4]


def test_the_logged_loss_reaches_the_schedule(tmp_path):
    schedule = OnPlateau(patience=1, window=2, threshold=0.999, grow=1)
    callback = PlasticityCallback(EXAMPLE, grow=ZeroFanOut(), schedule=schedule, axes=HIDDEN)
    train(build(), callback, tmp_path)
    assert [event.step for event in callback.events] == [4, 8]


def test_a_checkpoint_gives_a_fresh_model_its_structure_and_training_goes_on(tmp_path):
    expected, callback = build(), PlasticityCallback(EXAMPLE, **SETTINGS)
    train(expected, callback, tmp_path / "whole", steps=8, save_strategy="steps", save_steps=4)

    model, again = build(), PlasticityCallback(EXAMPLE, **SETTINGS)
    folder = tmp_path / "whole" / "checkpoint-4"
    again.restore(model, folder)
    assert model.transformer.h[0].mlp.c_fc.nf == 70
    train(model, again, tmp_path / "resumed", steps=8, resume=str(folder))
    assert again.plasticity.steps == 8
    assert [event.step for event in again.events] == [6, 7]
    assert again.plasticity.state_dict() == callback.plasticity.state_dict()
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_what_cannot_be_resumed_or_edited_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"meristem\.json"):
        PlasticityCallback(EXAMPLE, **SETTINGS).restore(build(), tmp_path)

    callback = PlasticityCallback(**SETTINGS)
    train_begin = {"control": None, "state": None, "optimizer": None, "model": torch.nn.Linear(2, 2)}
    args = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(ConfigError, match="example"):
        callback.on_train_begin(args, **train_begin)
    args.torch_compile = True
    with pytest.raises(WrappedModelError, match="torch_compile"):
        callback.on_train_begin(args, **train_begin)
