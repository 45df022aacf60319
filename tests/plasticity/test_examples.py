"""The examples of the callbacks run, at reduced size, and learn."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.plasticity.packages import optional

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    return runpy.run_path(str(EXAMPLES / name))["main"]()


def test_lightning(monkeypatch, capsys):
    optional("lightning.pytorch")
    pytest.importorskip("sklearn")
    assert run(monkeypatch, "lightning_digits.py", "--epochs", "5") > 0.8
    assert "births" in capsys.readouterr().out


def test_hugging_face(monkeypatch, capsys):
    optional("transformers")
    optional("accelerate")
    assert run(monkeypatch, "huggingface_addition.py", "--steps", "80") < 2.3
    assert "births" in capsys.readouterr().out
