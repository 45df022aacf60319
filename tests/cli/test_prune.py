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
from meristem.cli.given import criterion_of
from meristem.prune import LAMP, GroupNorm, Magnitude, Normalized, Protect

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
    assert "--tolerance looks at data: add --loader module:name" in plain(alone.output)


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


OWN_NETS = """
from types import SimpleNamespace
import torch
from torch import nn
class Cache:
    pass
class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(use_cache=True)
        self.table, self.qkv, self.out = nn.Embedding(100, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)
    def forward(self, tokens, extra=None):
        h = self.table(tokens)
        q, k, v = self.qkv(h).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).contiguous()
        h = h + self.out(y.view(*y.shape[:2], -1))
        found = {"logits": h + self.narrow(torch.relu(self.wide(h))), "seen": Cache()}
        if self.config.use_cache:
            found["past"] = Cache()
        return found
def decoder():
    return Decoder()
class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
        self.register_buffer("rows", torch.tensor([[1.0], [2.0], [3.0]]))
    def forward(self, x):
        return self.net(x) * self.rows
def short():
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3)).bfloat16()
def normed():
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(20, 64)), nn.ReLU(), nn.Linear(64, 3))
def boom():
    raise ValueError("my data are missing")
def sometimes():
    yield torch.zeros(2, 20), torch.zeros(2, dtype=torch.long)
none = []
class Failing:
    def __iter__(self):
        raise KeyError("row 7")
failing = Failing()
labels = [(torch.zeros(2, 20), torch.full((2,), 7))]
fractions = [(torch.zeros(2, 20), torch.zeros(2))]
narrow = [(torch.zeros(2, 10), torch.zeros(2, dtype=torch.long))]
unnamed = [{"input": torch.zeros(2, 20)}]
alone = [torch.zeros(2, 20)]
def number(model, batch):
    return 3.0
def vector(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
"""


def own(folder: Path, name: str) -> None:
    """Writes the module, and the weights of one of its models."""
    (folder / "own_nets.py").write_text(OWN_NETS)
    sys.modules.pop("own_nets", None)
    torch.manual_seed(0)
    torch.save(getattr(importlib.import_module("own_nets"), name)().state_dict(), f"{name}.pt")


def test_of_an_output_with_caches_its_tensors_are_exported_for_any_batch(folder):
    own(folder, "decoder")
    words = ("--model", "own_nets:decoder", "--shape", "tokens=1,6", "--dtype", "int64", "--flops", 0.8)
    done = run("prune", "decoder.pt", *words, "--yes", "--onnx")
    assert done.exit_code == 0, done.output
    assert "for any batch size" in plain(done.output)
    assert "of the output left out: seen (Cache), which no ONNX file holds" in plain(done.output)
    import onnxruntime

    model = importlib.import_module("own_nets").decoder()
    tokens = torch.randint(100, (5, 6))
    meristem.load("runs/prune/model.safetensors", model, {"tokens": tokens[:1]})
    session = onnxruntime.InferenceSession("runs/prune/model.onnx")
    (logits,) = session.run(None, {"tokens": tokens.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(tokens)["logits"].detach(), atol=1e-5, rtol=1e-4)


def test_where_the_batch_is_fixed_that_is_said(folder):
    own(folder, "Rows")
    words = ("--model", "own_nets:Rows", "--shape", "3,20", "--flops", 0.6, "--yes", "--onnx")
    done = run("prune", "Rows.pt", *words)
    assert done.exit_code == 0, done.output
    assert "for the batch size of the example only (any other cannot be exported: " in plain(done.output)


def test_what_onnxruntime_has_no_kernels_for_is_not_checked(folder):
    own(folder, "short")
    words = ("--model", "own_nets:short", "--shape", "1,20", "--dtype", "bfloat16", "--flops", 0.6)
    done = run("prune", "short.pt", *words, "--yes", "--onnx")
    assert done.exit_code == 0, done.output
    assert "model.onnx: not checked, since NumPy" in plain(done.output)


def test_the_deepest_cause_is_what_a_failed_export_shows(folder, monkeypatch):
    def failing(*args, **kwargs):
        try:
            raise KeyError("the operator")
        except KeyError as error:
            raise RuntimeError("This is step 1/3 of exporting") from error

    monkeypatch.setattr(torch.onnx, "export", failing)
    done = run("prune", "weights.pt", *BASE, "--flops", 0.5, "--yes", "--onnx")
    assert done.exit_code == 1
    assert "no ONNX file that can be used: KeyError: 'the operator'" in plain(done.output)
    assert "model.safetensors: weights and history" in plain(done.output)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_model_that_cannot_be_copied_is_built_again(folder):
    own(folder, "normed")
    done = run(
        "prune", "normed.pt", "--model", "own_nets:normed", "--shape", "1,20", "--flops", 0.6, "--yes", "--no-onnx"
    )
    assert done.exit_code == 0, done.output
    assert "differ by 0" in plain(done.output)


def test_losses_before_and_after_are_of_one_batch(folder):
    """A loader that shuffles would give another one."""
    (folder / "my_own.py").write_text(
        "import torch, my_nets\n"
        "seen = []\n"
        "def loss(model, batch):\n"
        "    seen.append(batch[0].clone())\n"
        "    return model(batch[0]).square().mean()\n"
    )
    words = ("--loader", "my_nets:loader", "--loss", "my_own:loss", "--criterion", "Magnitude")
    done = run("prune", "weights.pt", *BASE, "--flops", 0.5, *words, "--yes", "--no-onnx")
    seen = sys.modules.pop("my_own").seen
    assert done.exit_code == 0, done.output
    assert torch.equal(seen[0], seen[-1])


def test_a_criterion_takes_settings(folder):
    """As in the configuration of `meristem train`."""
    sizes = []
    for text in ("GroupNorm", "groupnorm: {p: 2}", "GroupNorm: {p: 1}"):
        done = run("prune", "weights.pt", *BASE, "--flops", 0.5, "--criterion", text, "--yes", "--no-onnx")
        assert done.exit_code == 0, done.output
        model = net()
        meristem.load("runs/prune/model.safetensors", model, torch.zeros(1, 20))
        sizes.append(model[0].weight)
    assert torch.equal(sizes[0], sizes[1])
    assert sizes[0].shape != sizes[2].shape or not torch.equal(sizes[0], sizes[2])


@pytest.mark.parametrize(
    ("text", "criterion"),
    [
        ("Normalized: {criterion: Magnitude, by: norm}", Normalized(Magnitude(), by="norm")),
        ("LAMP: {criterion: {Magnitude: {p: 1}}}", LAMP(Magnitude(p=1))),
        ("protect: {criterion: {LAMP: {criterion: GroupNorm}}, axes: ['2']}", Protect(LAMP(GroupNorm()), axes=("2",))),
    ],
)
def test_a_criterion_may_change_another(text, criterion):
    assert criterion_of(text) == criterion


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--loader", "own_nets:boom"), "--loader own_nets:boom failed: ValueError: my data are missing"),
        (("--loader", "own_nets:failing"), "--loader own_nets:failing failed: KeyError: 'row 7'"),
        (("--loader", "own_nets:sometimes"), "--loader own_nets:sometimes gives a generator, which can be read once"),
        (("--loader", "own_nets:none"), "--loader own_nets:none gives no batches"),
        (("--loader", "own_nets:labels"),
         "the default loss on a batch of --loader own_nets:labels failed: IndexError: Target 7 is out of bounds"),
        (("--loader", "own_nets:fractions"), "own_nets:fractions failed: RuntimeError: expected"),
        (("--loader", "own_nets:narrow"), "own_nets:narrow failed: RuntimeError: mat1 and mat2 shapes"),
        (("--loader", "own_nets:unnamed"), "put labels into the batches, or give --loss module:name, a function f("),
        (("--loader", "own_nets:alone"), "got Tensor; for others give --loss module:name, a function f(model, batch)"),
        (("--criterion", "Taylor"), "--criterion Taylor looks at data: add --loader module:name"),
        (("--loader", "my_nets:loader", "--loss", "own_nets:number"), "--loss own_nets:number on a batch of"),
        (("--loader", "my_nets:loader", "--loss", "own_nets:vector"), "gave a tensor of shape (32,)"),
        (("--model", "own_nets:boom"), "own_nets:boom failed: ValueError: my data are missing"),
        (("--example", "own_nets:boom"), "--example own_nets:boom failed: ValueError"),
        (("--criterion", "Magnitude: {q: 1}"), "--criterion 'Magnitude: {q: 1}': prune.options does not fit Magnitude"),
        (("--criterion", "Magnitude: {p: 7}"), "--criterion 'Magnitude: {p: 7}': Magnitude(p=...)"),
        (("--criterion", "Magnitude: 3"), "--criterion 'Magnitude: 3' is no criterion"),
        (("--criterion", "Magnitude: {"), "cannot be read"),
        (("--criterion", "Normalised"), "did you mean Normalized?"),
        (("--criterion", "Normalized"), "Normalized changes another criterion: give that as its option `criterion`"),
        (("--criterion", "LAMP: {criterion: Tailor}"), "no such criterion: 'Tailor'; expected one of"),
        (("--criterion", "LAMP: {criterion: [Taylor]}"), "('Taylor',) is no criterion"),
        (("--criterion", "Normalized: {criterion: Taylor}"), "Normalized looks at data: add --loader module:name"),
    ],
)  # fmt: skip
def test_errors_of_a_users_own_code_name_the_option(folder, words, message):
    (folder / "own_nets.py").write_text(OWN_NETS)
    sys.modules.pop("own_nets", None)
    done = run("prune", "weights.pt", *BASE, "--flops", 0.5, *words, "--yes", "--no-onnx")
    assert done.exit_code == 1, done.output
    assert plain(done.output).startswith("error: ")
    assert message in plain(done.output), plain(done.output)
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_file_of_something_else_is_one_message(folder, content):
    (folder / "junk.pt").write_bytes(content)
    done = run("prune", "junk.pt", *BASE, "--flops", 0.5, "--yes")
    assert done.exit_code == 1
    assert plain(done.output).startswith("error: junk.pt cannot be read: "), plain(done.output)


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
        (("weights.pt", *BASE, "--tolerance", 0.5, "--criterion", "Magnitude"), "--tolerance looks at data: add"),
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
