"""The examples run, at reduced size, and learn."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.plasticity.packages import optional

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(EXAMPLES / name))["main"]()


def test_lightning(monkeypatch, capsys):
    optional("lightning.pytorch")
    pytest.importorskip("sklearn")
    assert run(monkeypatch, "lightning_digits.py", "--epochs", 5) > 0.8
    assert "births" in capsys.readouterr().out


def test_hugging_face(monkeypatch, capsys):
    optional("transformers")
    optional("accelerate")
    assert run(monkeypatch, "huggingface_addition.py", "--steps", 80) < 2.3
    assert "births" in capsys.readouterr().out


def sizes(printed: str, column: int) -> list[int]:
    """The numbers in one column of the table that an example prints."""
    rows = [line.split("│") for line in printed.splitlines() if line.startswith("│")]
    return [int(row[column].replace(",", "")) for row in rows]


def test_tabular_data(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    assert run(monkeypatch, "grow_tabular.py", "--steps", 200) > 0.9
    parameters = sizes(capsys.readouterr().out, 3)
    assert parameters == sorted(parameters)
    assert parameters[-1] > 4 * parameters[0]


def test_tabular_regression_from_a_file(monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 5)).astype(np.float32)
    y = np.abs(x[:, 0]) + 10
    np.savez(tmp_path / "table.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    assert run(monkeypatch, "grow_tabular.py", "--data", tmp_path / "table.npz", "--steps", 200) > 0.3


def test_gpt(monkeypatch, capsys, tmp_path):
    pytest.importorskip("tqdm")
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 60, encoding="utf-8")
    assert run(monkeypatch, "grow_gpt.py", "--data", text, "--steps", 20) < 3
    parameters = sizes(capsys.readouterr().out, 4)
    assert parameters[-1] > 1.5 * parameters[0]


def test_resnet(monkeypatch, capsys, tmp_path):
    pytest.importorskip("tqdm")
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 768)
    images = random.integers(0, 60, (768, 32, 32, 3)) + 19 * labels[:, None, None, None]
    np.savez(
        tmp_path / "cifar10.npz",
        x_train=images[:640].astype(np.uint8),
        y_train=labels[:640],
        x_test=images[640:].astype(np.uint8),
        y_test=labels[640:],
    )
    accuracy = run(monkeypatch, "grow_resnet.py", "--data-dir", tmp_path, "--epochs", 4, "--width", 2)
    parameters = sizes(capsys.readouterr().out, 2)
    assert 5 * parameters[0] < parameters[-1] <= 10 * parameters[0]
    assert accuracy > 0.15


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) < 100
