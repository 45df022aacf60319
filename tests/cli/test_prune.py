"""`meristem prune`, as a user types it, and as the guide shows it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from typer.testing import CliRunner

import meristem
from meristem.cli import app, exported

GUIDE = (Path(__file__).parents[2] / "docs/shrink.md").read_text(encoding="utf-8")
MODULE = re.findall(r"^```py\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)[0]
COMMANDS = re.findall(r"^meristem (prune .*)$", GUIDE, re.MULTILINE)
BASE = ("--model", "my_nets:build", "--shape", "1,20")


def run(*words: object, answer: str | None = None):
    return CliRunner().invoke(app, [str(word) for word in words], input=answer)


def plain(text: str) -> str:
    """Without colours and line breaks."""
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the guide's module and its weights."""
    monkeypatch.chdir(tmp_path)
    for name in ("my_nets", "odd_nets", "tied"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_nets.py").write_text(MODULE)
    torch.manual_seed(0)
    torch.save(net().state_dict(), tmp_path / "weights.pt")
    return tmp_path


def test_the_commands_of_the_guide_run(folder):
    assert len(COMMANDS) == 2
    first = run(*COMMANDS[0].split(), answer="y\n")
    assert first.exit_code == 0, first.output
    text = plain(first.output)
    for words in ("Would be shrunk", "Prune like this?", "epoch 3 of 3", "loss on the first batch", "differ by 0"):
        assert words in text
    small = net()
    axes = meristem.load("runs/prune/model.safetensors", small, torch.zeros(1, 20))
    full = meristem.trace(net(), torch.zeros(1, 20))
    assert axes.flops() <= 0.5 * full.flops()
    assert len(axes.history) == 2
    second = run(*COMMANDS[1].split())
    assert second.exit_code == 0, second.output
    smaller = meristem.load("runs/prune/model.safetensors", net(), torch.zeros(1, 20))
    assert smaller.parameter_count() <= 0.8 * axes.parameter_count()
    assert len(smaller.history) == 3


def test_a_no_changes_and_writes_nothing(folder):
    done = run("prune", "weights.pt", *BASE, "--flops", 0.5, answer="n\n")
    assert done.exit_code == 0, done.output
    assert "nothing was changed" in plain(done.output)
    assert not (folder / "runs").exists()


def test_state_dicts_of_every_kind_are_read(folder):
    state = torch.load("weights.pt", weights_only=True)
    save_file(state, "weights.safetensors")
    torch.save({"epoch": 3, "model": {f"module.{name}": x for name, x in state.items()}}, "nested.pt")
    lightning = {**{f"net.{name}": x for name, x in state.items()}, "loss.weight": torch.ones(3)}
    torch.save({"epoch": 3, "state_dict": lightning}, "lightning.ckpt")
    settings = (*BASE, "--flops", 0.5, "--yes", "--no-onnx")
    saved = []
    for number, file in enumerate(("weights.pt", "weights.safetensors", "nested.pt", "lightning.ckpt")):
        done = run("prune", file, *settings, "--out", f"out{number}")
        assert done.exit_code == 0, done.output
        model = net()
        meristem.load(f"out{number}/model.safetensors", model, torch.zeros(1, 20))
        saved.append(model.state_dict())
    for other in saved[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in saved[0].items())


def test_a_checkpoint_that_holds_the_model_twice_is_refused(folder):
    state = torch.load("weights.pt", weights_only=True)
    torch.save({f"{prefix}.{name}": x for prefix in ("net", "ema") for name, x in state.items()}, "twice.pt")
    done = run("prune", "twice.pt", *BASE, "--flops", 0.5, "--yes", "--no-onnx")
    assert done.exit_code == 1
    assert "twice.pt does not fit Sequential: missing: 0.weight" in plain(done.output)


def test_a_tolerance_of_the_loss(folder):
    words = (*BASE, "--tolerance", 0.02, "--yes", "--no-onnx")
    done = run("prune", "weights.pt", *words, "--loader", "my_nets:loader")
    assert done.exit_code == 0, done.output
    assert "Shrunk" in plain(done.output)
    alone = run("prune", "weights.pt", *words)
    assert alone.exit_code == 1
    assert "tolerance= looks at data" in plain(alone.output)


def test_examples_losses_and_ready_models_come_by_import_path(folder):
    (folder / "my_own.py").write_text(
        "import torch, my_nets\n"
        "net = my_nets.build()\n"
        "example = {'input': torch.zeros(2, 20)}\n"
        "batches = [torch.randn(4, 20)]\n"
        "def loss(model, batch): return model(batch).square().sum()\n"
    )
    words = ("--model", "my_own:net", "--example", "my_own:example", "--loader", "my_own:batches")
    done = run("prune", "weights.pt", *words, "--loss", "my_own:loss", "--memory", 0.6, "--yes", "--no-onnx")
    sys.modules.pop("my_own", None)
    assert done.exit_code == 0, done.output
    small, full = net(), net()
    axes = meristem.load("runs/prune/model.safetensors", small, torch.zeros(2, 20))
    assert axes.byte_count() <= 0.6 * meristem.trace(full, torch.zeros(2, 20)).byte_count()


def test_without_the_exporter_that_is_said(folder, monkeypatch):
    monkeypatch.setattr(exported, "exportable", lambda: False)
    monkeypatch.setattr("meristem.cli.prune.exportable", lambda: False)
    done = run("prune", "weights.pt", *BASE, "--flops", 0.5, "--yes")
    assert done.exit_code == 0, done.output
    assert "no ONNX file" in plain(done.output)
    assert "pip install 'meristem[onnx]'" in plain(done.output)
    wanted = run("prune", "weights.pt", *BASE, "--flops", 0.5, "--yes", "--onnx", "--out", "other")
    assert wanted.exit_code == 1
    assert "pip install 'meristem[onnx]'" in plain(wanted.output)
    assert not (folder / "other").exists()


def test_the_onnx_file_gives_the_same_outputs(folder):
    done = run("prune", "weights.pt", *BASE, "--flops", 0.5, "--yes", "--onnx")
    assert done.exit_code == 0, done.output
    assert "model.onnx: outputs differ by" in plain(done.output)
    other, x = net(), (torch.ones(1, 20),)
    meristem.load("runs/prune/model.safetensors", other, x)
    with torch.no_grad():
        other[4].bias += 1
    assert exported._drift(other, x, {}, folder / "runs/prune/model.onnx") > exported.TOLERANCE


ODD_NETS = """
import torch
from torch import nn
def letters():
    return nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)
def noisy():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), Noise(), nn.Linear(16, 3))
"""


def test_a_model_with_random_outputs_is_not_compared(folder):
    (folder / "odd_nets.py").write_text(ODD_NETS)
    torch.save(importlib.import_module("odd_nets").noisy().state_dict(), "noisy.pt")
    words = ("--model", "odd_nets:noisy", "--shape", "2,6", "--flops", 0.6, "--yes", "--no-onnx")
    done = run("prune", "noisy.pt", *words)
    assert done.exit_code == 0, done.output
    assert "not compared, since the model's outputs are random" in plain(done.output)
    assert (folder / "runs/prune/model.safetensors").is_file()


def test_tied_tensors_need_be_in_the_file_once(folder):
    """As `safetensors.torch.save_model` and Hugging Face write them."""
    (folder / "tied.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 8))\n"
        "    model[4].weight = model[3].weight\n"
        "    return model\n"
    )
    model = importlib.import_module("tied").build()
    save_model(model, "tied.safetensors")
    words = ("--model", "tied:build", "--shape", "1,6", "--flops", 0.9, "--yes", "--no-onnx")
    done = run("prune", "tied.safetensors", *words)
    assert done.exit_code == 0, done.output
    assert "differ by 0" in plain(done.output)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("weights.pt", "--flops", 0.5, "--model", "my_nets:build"), "Give --shape 1,3,224,224"),
        (("weights.pt", *BASE), "expected exactly one of flops"),
        (("weights.pt", *BASE, "--flops", 0.5, "--epochs", 1), "add --loader"),
        (("weights.pt", *BASE, "--flops", 0.5, "--criterion", "Tailor"), "did you mean Taylor?"),
        (("weights.pt", *BASE, "--flops", 0.5, "--criterion", "Taylor"), "give batches="),
        (("weights.pt", *BASE, "--flops", 0.5, "--loader", "my_nets:nothing"), "cannot be imported"),
        (("weights.pt", *BASE, "--flops", 0.5, "--loader", "torch:pi"), "should be a DataLoader"),
        (("weights.pt", *BASE, "--flops", 0.001), "at best"),
        (("weights.pt", *BASE, "--flops", 0.5, "--out", "my_nets.py"), "--out my_nets.py cannot be written to"),
        (("weights.pt", *BASE, "--flops", 0.5, "--out", "my_nets.py/a"), "my_nets.py is no folder"),
        (("weights.pt", *BASE, "--flops", 0.5, "--loss", "torch:pi"), "--loss torch:pi is a float"),
        (("letters.pt", "--model", "odd_nets:letters", "--shape", "1,5", "--dtype", "int64", "--flops", 0.5),
         "whole numbers were drawn from 0 to 99 (--high)"),
        (("nowhere.pt", *BASE, "--flops", 0.5), "nowhere.pt cannot be read"),
        (("my_nets.py", *BASE, "--flops", 0.5), "my_nets.py is damaged"),
        (("broken.safetensors", *BASE, "--flops", 0.5), "broken.safetensors cannot be read"),
        (("number.pt", *BASE, "--flops", 0.5), "should hold one state dict; found int"),
        (("two.pt", *BASE, "--flops", 0.5), "found 'a', 'b'"),
        (("other.pt", *BASE, "--flops", 0.5),
         "other.pt does not fit Sequential: missing: 0.weight, 0.bias, 2.weight and 3 more; not in the model: weight"),
        (("wide.pt", *BASE, "--flops", 0.5), "of another shape: 4.weight (4, 64) instead of (3, 64), 4.bias (4,)"),
        (("weights.pt", *BASE, "--flops", 0.5, "--keep", "stem*"), "keep='stem*' matches no axis"),
        (("weights.pt", *BASE, "--flops", 0.5, "--device", "hpu"), "--device hpu cannot be used"),
        (("model.pt", *BASE, "--flops", 0.5), "holds pickled objects"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_message_and_nothing_written(folder, words, message):
    (folder / "broken.safetensors").write_bytes(b"12345678")
    torch.save(3, "number.pt")
    torch.save({"a": net().state_dict(), "b": net().state_dict()}, "two.pt")
    torch.save(nn.Linear(2, 2).state_dict(), "other.pt")
    wide = nn.Linear(64, 4).state_dict(prefix="4.")
    torch.save(net().state_dict() | wide, "wide.pt")
    torch.save(net(), "model.pt")
    (folder / "odd_nets.py").write_text(ODD_NETS)
    torch.save(importlib.import_module("odd_nets").letters().state_dict(), "letters.pt")
    done = run("prune", *words, "--yes")
    assert done.exit_code == 1, done.output
    assert plain(done.output).startswith("error: ")
    assert message in plain(done.output), plain(done.output)
    assert not (folder / "runs").exists()
