"""The command line, as a user types it."""

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from meristem.cli import app
from meristem.cli.target import load_model, make_inputs
from meristem.errors import ConfigError
from tests.zoo import torchvision_stub

README = Path(__file__).parents[2] / "README.md"
RESNET = "meristem.train.models:resnet"
ARGUMENTS = json.dumps({"input_shape": [1, 8, 8], "classes": 10})


def run(*words: str):
    return CliRunner().invoke(app, [str(word) for word in words])


def plain(text: str) -> str:
    """Without colours and line breaks."""
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))


def test_help_names_every_command():
    text = plain(run("--help").output)
    assert all(command in text for command in ("demo", "inspect", "train"))


def test_inspect_prints_the_axes_and_writes_the_picture(tmp_path):
    picture = tmp_path / "picture.html"
    done = run("inspect", RESNET, "--shape", "2,1,8,8", "--kwargs", ARGUMENTS, "--picture", picture)
    assert done.exit_code == 0, done.output
    assert "block2.inner.conv" in done.output
    assert "model output" in done.output
    assert "<svg" in picture.read_text()
    assert "insert" not in done.output


def test_inspect_prints_where_layers_may_be_inserted_and_removed(tmp_path):
    words = ("--shape", "2,1,8,8", "--kwargs", ARGUMENTS, "--picture", tmp_path / "picture.html", "--places")
    text = plain(run("inspect", RESNET, *words).output)
    assert "insert │ after block1" in text
    assert "block1..block2" in text


def test_inspect_takes_models_from_the_current_folder_and_integer_inputs_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_own_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 2)\n"
        "    def forward(self, tokens):\n"
        "        return self.head(self.embed(tokens))\n"
        "net = Net()\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("Net", "net"):
        done = run("inspect", f"my_own_net:{name}", "--shape", "tokens=1,5", "--dtype", "int64", "--high", "50")
        assert done.exit_code == 0, done.output
        assert "embed" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "expected module:name"),
        (["nowhere.at_all:x"], "cannot be imported"),
        (["meristem.train.models:nothing"], "cannot be imported"),
        (["meristem.train.models:FACTORIES"], "expected an nn.Module"),
        (["builtins:dict"], "returned a dict"),
        ([RESNET], "Give arguments with --kwargs"),
        ([RESNET, "--kwargs", "{"], "not JSON"),
        ([RESNET, "--kwargs", "[1]"], "JSON object"),
        ([RESNET, "--dtype", "float31"], "unknown type 'float31'"),
        ([RESNET, "--kwargs", ARGUMENTS, "--shape", "1,x"], "no shape"),
        ([RESNET, "--kwargs", ARGUMENTS], "could not be run"),
    ],
)
def test_wrong_models_and_inputs_end_with_one_message(tmp_path, words, message):
    shape = [] if "--shape" in words else ["--shape", "1,3,4"]
    done = run("inspect", *words, *shape, "--picture", tmp_path / "p.html")
    assert done.exit_code == 1
    assert plain(done.output).startswith("error: ")
    assert message in plain(done.output)
    assert not (tmp_path / "p.html").exists()


@pytest.mark.parametrize("error", ["RuntimeError", "ValueError", "ZeroDivisionError", "AssertionError", "ImportError"])
def test_whatever_a_module_raises_while_it_is_imported_is_explained(tmp_path, monkeypatch, error):
    (tmp_path / f"raises_{error}.py").write_text(f"raise {error}('operator torchvision::nms does not exist')\n")
    monkeypatch.chdir(tmp_path)
    done = run("inspect", f"raises_{error}:net", "--shape", "1,3", "--picture", tmp_path / "p.html")
    assert done.exit_code == 1
    message = f"error: raises_{error}:net cannot be imported: {error}: operator torchvision::nms does not exist"
    assert message in plain(done.output)
    with pytest.raises(ConfigError) as caught:
        load_model(f"raises_{error}:net", "{}")
    assert type(caught.value.__cause__).__name__ == error


def test_the_inspect_command_of_the_readme(tmp_path):
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    torchvision_stub.install()
    (command,) = re.findall(r"^meristem (inspect .*)$", README.read_text(), re.MULTILINE)
    done = run(*command.split(), "--picture", tmp_path / "picture.html")
    assert done.exit_code == 0, done.output
    assert "layer4.1.conv1" in plain(done.output)
    assert (tmp_path / "picture.html").is_file()


def test_inputs_have_the_type_and_range_that_was_asked_for():
    args, named = make_inputs(["2,3", "mask=4"], "int64", 5)
    assert args[0].shape == (2, 3)
    assert args[0].dtype is torch.int64
    assert int(args[0].max()) < 5
    assert named["mask"].shape == (4,)
    assert make_inputs(["7"], "bfloat16", 5)[0][0].dtype is torch.bfloat16


def test_a_model_takes_no_arguments(tmp_path, monkeypatch):
    (tmp_path / "ready_made.py").write_text("from torch import nn\nnet = nn.Linear(2, 2)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="a model already"):
        load_model("ready_made:net", '{"a": 1}')


def test_train_prints_its_default_and_runs_it(tmp_path):
    config = yaml.safe_load(run("train", "--print-config").output)
    assert config["grow"]["method"] == "ZeroFanOut"
    config |= {"name": "short", "epochs": 3, "evaluations": 3}
    config["grow"] |= {"start": 0.5, "stop": 1.5}
    config["prune"] |= {"start": 2, "stop": 3}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = run("train", tmp_path / "config.yaml", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "births" in done.output
    assert json.loads((tmp_path / "run" / "config.json").read_text())["name"] == "short"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["changes"]) == 4


def test_train_explains_what_is_wrong(tmp_path):
    (tmp_path / "bad.yaml").write_text("epoch: 3\n")
    (tmp_path / "mnist.yaml").write_text("data: mnist\n")
    assert "which configuration" in plain(run("train").output)
    assert "did you mean 'epochs'" in plain(run("train", tmp_path / "bad.yaml").output)
    done = run("train", tmp_path / "mnist.yaml", "--data-dir", tmp_path)
    assert done.exit_code == 1
    assert str(tmp_path / "mnist.npz") in done.output


@pytest.mark.heavy
def test_the_demo_prints_its_table_and_writes_its_report(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = run("demo", "--out", tmp_path, "--seeds", "1", "--epochs", "2")
    assert done.exit_code == 0, done.output
    text = plain(done.output)
    assert all(name in text for name in ("small", "grown", "pruned", "large"))
    assert all(word in text for word in ("final accuracy", "over training", "parameters", "training FLOPs", "seconds"))
    assert re.search(r"\d+ seconds in total", text)
    page = (tmp_path / "report.html").read_text()
    assert "Widths, births and deaths" in page
    assert "meristem demo --seeds 1 --epochs 2" in page


def test_studies_are_listed_and_wrong_ones_explained(tmp_path):
    assert "stability" in plain(run("study", "--list").output)
    assert "which study" in plain(run("study").output)
    assert "there is no study 'stabilty'" in plain(run("study", "stabilty").output)
    assert "expected one of smoke, cpu, full" in plain(run("study", "stability", "--scale", "huge").output)
    done = run("study", "stability", "--scale", "smoke", "--out", tmp_path, "--report-only")
    assert done.exit_code == 1
    assert "holds no finished run" in plain(done.output)


OWN_STUDY = """
from meristem.study import Arm, Measure, Scale, Study
from meristem.train.config import ModelConfig, TrainConfig

def arms(scale):
    settings = {"model": ModelConfig(name="mlp", options={"widths": [4]}), "epochs": 1, "evaluations": 1}
    return [Arm("small", "four units", TrainConfig(grow=None, prune=None, data=DATA, **settings))]

DATA = "digits"
STUDY = Study(name="own", title="Own", question="?", scales={"cpu": Scale(1)}, arms=arms,
              measures=[Measure("final accuracy", percent=True)])
"""


@pytest.fixture
def own_study(tmp_path, monkeypatch):
    (tmp_path / "own_study.py").write_text(OWN_STUDY)
    (tmp_path / "without_data.py").write_text(OWN_STUDY.replace("digits", "nowhere"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_study", "without_data"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_study_of_ones_own_is_run_by_its_import_path(own_study, tmp_path):
    done = run("study", "own_study:STUDY", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "runs/own/cpu/report.html").is_file()
    assert "expected a meristem.study.Study" in plain(run("study", "own_study:arms").output)


def test_without_its_data_a_study_runs_nothing(own_study, tmp_path):
    done = run("study", "without_data:STUDY")
    assert done.exit_code == 1
    assert plain(done.output).startswith("error: unknown data set 'nowhere'")
    assert not (tmp_path / "runs").exists()


def test_a_study_of_which_every_run_fails_says_why(own_study, tmp_path):
    (tmp_path / "own_study.py").write_text(OWN_STUDY.replace("widths", "width"))
    done = run("study", "own_study:STUDY", "--jobs", "1", "--out", tmp_path / "failed")
    assert done.exit_code == 1
    assert "small, seed 0: model.options does not fit the model 'mlp'" in plain(done.output)
