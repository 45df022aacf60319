"""Grow and prune a small GPT-2 in a Hugging Face Trainer while it learns to add.

    pip install "meristem[transformers]"
    python examples/huggingface_addition.py

The model starts with narrow feed-forward layers and two heads a layer. Both grow while it trains, and the weakest
hidden units go towards the end.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import meristem
from meristem.callbacks.huggingface import PlasticityCallback

CHARACTERS = "0123456789+="
IGNORED = -100


class Additions(Dataset):
    """Lines like `47+05=052` as character numbers; the loss counts the digits after `=` only."""

    def __len__(self) -> int:
        return 100 * 100

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        a, b = divmod(index, 100)
        line = f"{a:02d}+{b:02d}={a + b:03d}"
        ids = torch.tensor([CHARACTERS.index(c) for c in line])
        labels = ids.clone()
        labels[:6] = IGNORED
        return {"input_ids": ids, "labels": labels}


def main() -> float:
    """Train, print every edit, and return the last loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(CHARACTERS),
        n_positions=9,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_inner=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    plasticity = PlasticityCallback(
        {"input_ids": torch.zeros(2, 9, dtype=torch.int64)},
        grow=meristem.grow.ZeroFanOut(),
        prune=meristem.prune.Protect(meristem.prune.Magnitude(), age=steps // 10),
        schedule=meristem.schedule.Every(steps // 8, end=steps // 2, grow=0.3)
        | meristem.schedule.At([steps * 3 // 4], prune=0.2),
        axes=lambda axis: axis.exact,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=64,
            learning_rate=3e-3,
            logging_steps=max(1, steps // 10),
            save_strategy="no",
            report_to=[],
            use_cpu=True,
        )
        trainer = Trainer(model, arguments, train_dataset=Additions(), callbacks=[plasticity])
        trainer.train()

    for event in plasticity.events:
        print(event)
    loss = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1]
    print(f"loss of the last {max(1, steps // 10)} steps: {loss:.3f}")
    return loss


if __name__ == "__main__":
    main()
