"""Checkpoints: bit-exact, atomic, and deaf to hostile files."""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn, optim

from meristem.axes import trace
from meristem.edit import Edit, extra_of, load, save, storage
from meristem.edit.checkpoint import Document
from meristem.edit.journal import Journal
from meristem.errors import CheckpointError, StaleMapError

from .models import ROWS, some_edit, subject, trained
from .snapshot import Snapshot, same, values
from .test_transaction import Injector


def adam(parameters) -> optim.Optimizer:
    return optim.Adam(parameters, lr=1e-2)


def saved(path: Path, name: str = "mlp", make=adam, **options):
    found = subject(name)
    optimizer = trained(found, make)
    found = found.edited(some_edit(found, optimizer).commit().axes)
    found.backward()
    optimizer.step()
    save(path, found.axes, optimizer, **options)
    return found, optimizer


def loaded(path: Path, name: str = "mlp", make=adam):
    fresh = subject(name)
    optimizer = make(fresh.model.parameters())
    args, kwargs = fresh.row.example()
    return fresh.edited(load(path, fresh.model, args, kwargs, optimizer)), optimizer


def refused(path: Path, message: str = ".", name: str = "mlp", make=adam) -> None:
    fresh = subject(name)
    optimizer = make(fresh.model.parameters())
    before = Snapshot([fresh.model], [optimizer])
    args, kwargs = fresh.row.example()
    with pytest.raises(CheckpointError, match=message):
        load(path, fresh.model, args, kwargs, optimizer)
    before.check()


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_a_round_trip_is_bit_exact_and_training_goes_on_alike(name, tmp_path):
    found, optimizer = saved(tmp_path / "c.safetensors", name)
    fresh, other = loaded(tmp_path / "c.safetensors", name)
    assert same(values(fresh.model)[0], values(found.model)[0])
    assert same(values(other), values(optimizer))
    assert fresh.axes.history == found.axes.history
    assert fresh.axes.sizes == found.axes.sizes
    for subject_, optimizer_ in ((found, optimizer), (fresh, other)):
        optimizer_.zero_grad()
        subject_.backward()
        optimizer_.step()
    assert same(values(fresh.model), values(found.model))
    assert os.listdir(tmp_path) == ["c.safetensors"]


def test_without_optimizers_and_without_edits(tmp_path):
    found = subject("mlp")
    trained(found, adam)
    save(tmp_path / "c", found.axes)
    fresh = subject("mlp")
    args, kwargs = fresh.row.example()
    kept = fresh.model[0].weight
    axes = load(tmp_path / "c", fresh.model, args, kwargs)
    assert axes.history == ()
    assert fresh.model[0].weight is kept
    assert same(values(fresh.model)[0], values(found.model)[0])


def test_an_optimizer_may_be_left_out_when_loading(tmp_path):
    found, _ = saved(tmp_path / "c")
    fresh = subject("mlp")
    args, kwargs = fresh.row.example()
    load(tmp_path / "c", fresh.model, args, kwargs)
    assert same(values(fresh.model)[0], values(found.model)[0])


def test_schedules_and_odd_options_survive(tmp_path):
    def make(parameters):
        parameters = list(parameters)
        groups = [{"params": parameters[:2], "lr": torch.tensor(0.25), "note": "stem"}, {"params": parameters[2:]}]
        return optim.AdamW(groups, lr=0.5, betas=(0.8, 0.9), foreach=False, eps=math.inf)

    found, optimizer = saved(tmp_path / "c", make=make)
    optimizer.param_groups[1]["initial_lr"] = 0.125
    save(tmp_path / "c", found.axes, optimizer)
    _, other = loaded(tmp_path / "c", make=make)
    assert same(values(other), values(optimizer))
    assert isinstance(other.param_groups[0]["lr"], torch.Tensor)


def test_extra_values_are_kept(tmp_path):
    extra = {"step": 3, "ages": [1, 2, None], "best": math.inf, "rate": 0.1}
    saved(tmp_path / "c", extra=extra)
    assert extra_of(tmp_path / "c") == extra
    found = subject("mlp")
    with pytest.raises(CheckpointError, match="JSON"):
        save(tmp_path / "d", found.axes, extra={"a": torch.ones(1)})
    assert not (tmp_path / "d").exists()


def test_other_dtypes_and_memory_orders(tmp_path):
    def build():
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        return model.to(memory_format=torch.channels_last, dtype=torch.bfloat16)

    x = torch.randn(2, 3, 8, 8).to(torch.bfloat16)
    model = build()
    optimizer = adam(model.parameters())
    axes = Edit(trace(model, x), optimizer).prune("0", [1]).commit().axes
    model(x).sum().backward()
    optimizer.step()
    save(tmp_path / "c", axes, optimizer)
    other = build()
    theirs = adam(other.parameters())
    load(tmp_path / "c", other, x, optimizers=theirs)
    assert same(values(other)[0], values(model)[0])
    assert same(values(theirs), values(optimizer))
    states = [s["exp_avg"] for s in theirs.state.values() if s["exp_avg"].dim() == 4]
    assert all(s.is_contiguous(memory_format=torch.channels_last) for s in states)


def test_buffers_that_are_not_persistent_are_not_saved(tmp_path):
    class Masked(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
            self.register_buffer("cache", torch.ones(3), persistent=False)

    x = torch.randn(2, 4)
    model: Any = Masked()
    save(tmp_path / "c", trace(model, x))
    with safe_open(tmp_path / "c", "pt") as file:
        assert "model.cache" not in file.keys()  # noqa: SIM118
    other: Any = Masked()
    other.cache.zero_()
    load(tmp_path / "c", other, x)
    assert not other.cache.any()


KILLED = """
import os, signal, sys
import torch
import meristem
from meristem.edit import storage

path, function = sys.argv[1:]

def killed(first, second, *rest):
    if function == "save_file":  # into the temporary file
        with open(second, "wb") as file:
            file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

setattr(storage if function == "save_file" else storage.os, function, killed)
model = torch.nn.Linear(3, 2)
meristem.save(path, meristem.trace(model, torch.ones(1, 3)))
"""
"""A process that kills itself while it saves: with half of the file written, or all of it but not yet renamed."""


class TestFailingToWrite:
    """The old file stays as it was, and nothing is left behind."""

    @pytest.mark.parametrize("function", ["save_file", "_synchronize"])
    @pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
    def test_a_failure_in_the_middle(self, tmp_path, monkeypatch, function, error):
        path = tmp_path / "c"
        saved(path)
        before = path.read_bytes()

        def fail(*_, **__):
            if function == "save_file":
                next(tmp_path.glob(".c.*")).write_bytes(b"half")
            raise error

        monkeypatch.setattr(storage, function, fail)
        with pytest.raises((CheckpointError, KeyboardInterrupt)):
            saved(path, "residual_mlp")
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["c"]
        loaded(path)

    @pytest.mark.parametrize("function", ["save_file", "replace"])
    def test_a_process_that_is_killed(self, tmp_path, function):
        """It cannot clean up: its temporary file stays, and is in nobody's way."""
        path = tmp_path / "c"
        saved(path)
        before = path.read_bytes()
        killed = subprocess.run([sys.executable, "-c", KILLED, path, function], capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert path.read_bytes() == before
        assert len(list(tmp_path.glob(".c.*.tmp"))) == 1
        loaded(path)
        found, _ = saved(path, "residual_mlp")
        fresh, _ = loaded(path, "residual_mlp")
        assert same(values(fresh.model)[0], values(found.model)[0])

    def test_no_such_folder(self, tmp_path):
        found = subject("mlp")
        with pytest.raises(CheckpointError, match="could not be written"):
            save(tmp_path / "nowhere" / "c", found.axes)

    def test_a_stale_map(self, tmp_path):
        found = subject("mlp")
        Edit(found.axes).grow("0", 1).commit()
        with pytest.raises(StaleMapError):
            save(tmp_path / "c", found.axes)
        assert not os.listdir(tmp_path)

    def test_state_that_needs_pickle(self, tmp_path):
        found = subject("mlp")
        optimizer = trained(found, adam)
        optimizer.param_groups[0]["odd"] = object()
        with pytest.raises(CheckpointError, match="'odd', a object, which cannot be saved without pickle"):
            save(tmp_path / "c", found.axes, optimizer)


class TestUnsoundFiles:
    """A clear error, and nothing is loaded."""

    @pytest.fixture
    def path(self, tmp_path):
        saved(tmp_path / "c")
        return tmp_path / "c"

    def test_missing(self, tmp_path):
        refused(tmp_path / "nothing", "cannot be read")

    def test_empty_and_random(self, path):
        for content in (b"", b"\0" * 7, b"\xff" * 4096, b'{"a": 1}'):
            path.write_bytes(content)
            refused(path, "cannot be read")

    def test_truncated_anywhere(self, path):
        content = path.read_bytes()
        for length in range(0, len(content), len(content) // 40):
            path.write_bytes(content[:length])
            refused(path, "cannot be read")

    def test_one_byte_flipped_anywhere(self, path):
        content = path.read_bytes()
        for place in range(8, len(content), len(content) // 60):
            changed = bytearray(content)
            changed[place] ^= 0x01
            path.write_bytes(bytes(changed))
            refused(path)

    def test_a_header_that_claims_to_be_huge(self, path):
        path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])
        refused(path, "cannot be read")

    def test_a_tensor_that_claims_to_be_huge(self, path):
        header = json.dumps(
            {"model.0.weight": {"dtype": "F64", "shape": [2**40, 2**20], "data_offsets": [0, 2**63 - 1]}}
        )
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
        refused(path, "cannot be read")

    def test_a_safetensors_file_of_somebody_else(self, path):
        save_file({"a": torch.ones(2)}, path)
        refused(path, "none that meristem.save wrote")

    def test_a_pickle(self, path):
        torch.save({"a": torch.ones(2)}, path)
        refused(path, "cannot be read")


def rewritten(path: Path, document=None, tensors=None, text: str | None = None) -> None:
    """Change a checkpoint and give it a digest that fits: what an attacker would do."""
    held, old = storage.read(path)
    content = {} if text is not None else json.loads(old)
    if document is not None:
        document(content)
    if tensors is not None:
        tensors(held)
    storage.write(path, held, json.dumps(content) if text is None else text)


def at(*keys):
    """A change of one place of the document."""
    *way, last, value = keys

    def change(content):
        for key in way:
            content = content[key]
        content[last] = value

    return change


class TestHostileFiles:
    """Sound as files, with contents made to harm."""

    @pytest.fixture
    def path(self, tmp_path):
        saved(tmp_path / "c")
        return tmp_path / "c"

    @pytest.mark.parametrize(
        "change",
        [
            at("format", 2),
            at("format", None),
            at("model", 3),
            at("history", {}),
            at("history", [[]]),
            at("history", 0, "axes", 0, "axis", "../../etc/passwd"),
            at("history", 0, "axes", 0, "axis", "4"),
            at("history", 0, "axes", 0, "before", 11),
            at("history", 0, "axes", 0, "units", [[-1, 10**15]]),
            at("history", 0, "axes", 0, "units", [[-1, 2**24]] * 1000),
            at("history", 0, "axes", 0, "units", [[0, 12], [12, 2]]),
            at("history", []),
            at("more", 1),
            at("optimizers", []),
            at("optimizers", 0, "kind", "os.system"),
            at("optimizers", 0, "groups", 0, "options", "lr", "fast"),
            at("optimizers", 0, "groups", 0, "options", "betas", 0.5),
            at("optimizers", 0, "groups", 0, "options", "params", []),
            at("optimizers", 0, "groups", 0, "parameters", ["0.weight"]),
            at("optimizers", 0, "groups", 0, "parameters", 0, "__class__"),
            at("optimizers", 0, "groups", []),
            at("optimizers", 0, "state", 0, 1, 99),
            at("optimizers", 0, "state", 0, 0, -1),
            at("optimizers", 0, "state", 0, 2, "exp_avg", {"tensor": "nowhere"}),
            at("optimizers", 0, "state", 0, 2, "exp_avg", {"object": "os.system"}),
            at("optimizers", 0, "state", 0, 2, "exp_avg", [1]),
            at("optimizers", 0, "state", 0, 2, "exp_avg", {}),
            at("optimizers", 0, "state", 0, 2, "exp_avg", {"float": "1.0"}),
        ],
    )
    def test_documents(self, path, change):
        rewritten(path, document=change)
        refused(path)

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: t.update({"model.0.weight": torch.zeros(14, 7, dtype=torch.float64)}),
            lambda t: t.update({"model.0.weight": torch.zeros(14, 6)}),
            lambda t: t.pop("model.0.bias"),
            lambda t: t.update({"model.__class__": torch.zeros(1)}),
            lambda t: t.update({"../../up": torch.zeros(1)}),
        ],
    )
    def test_tensors(self, path, change):
        rewritten(path, tensors=change)
        refused(path, "the tensor")

    @pytest.mark.parametrize("shape", [(3, 3), (15,), (14, 6, 1), (6, 6)])
    def test_optimizer_state_that_fits_no_parameter(self, path, shape):
        _, document = storage.read(path)
        key = json.loads(document)["optimizers"][0]["state"][0][2]["exp_avg"]["tensor"]
        rewritten(path, tensors=lambda t: t.update({key: torch.zeros(shape)}))
        refused(path, "has the shape")

    def test_a_tensor_that_no_optimizer_refers_to(self, path):
        rewritten(path, tensors=lambda t: t.update({"optimizer.999": torch.zeros(2)}))
        refused(path, "no optimizer in it refers to its tensor optimizer.999")

    def test_deep_json(self, path):
        deep = "[" * 100_000 + "]" * 100_000
        rewritten(path, text=deep)
        refused(path, "malformed")

    def test_deep_json_inside_a_sound_document(self, path):
        _, old = storage.read(path)
        deep = "[" * 50_000 + "1" + "]" * 50_000
        rewritten(path, text=old.replace('"extra": {}', f'"extra": {{"a": {deep}}}'))
        refused(path, "malformed")

    def test_no_json(self, path):
        for text in ("", "null", "{", "[1", '{"format": 1}', "\0"):
            rewritten(path, text=text)
            refused(path, "malformed")

    def test_the_file_of_another_model(self, path):
        refused(path, name="residual_mlp")

    def test_another_optimizer(self, path):
        refused(path, "holds a torch.optim.adam.Adam, the optimizer given is", make=partial(optim.SGD, lr=0.1))

    def test_other_groups(self, path):
        refused(path, "in its groups", make=lambda p: adam(list(p)[:-1]))


@pytest.mark.parametrize("name", ["mlp", "conv_flatten_linear", "tied_language_model"])
def test_a_failure_at_any_step_of_loading_leaves_everything_as_it_was(name, tmp_path, monkeypatch):
    saved(tmp_path / "c", name)
    fresh = subject(name)
    optimizer = trained(fresh, adam)
    before = Snapshot([fresh.model], [optimizer])
    args, kwargs = fresh.row.example()
    injector = Injector(monkeypatch, Journal, "perform")
    for step in range(10_000):
        injector.arm(step)
        try:
            load(tmp_path / "c", fresh.model, args, kwargs, optimizer)
        except injector.error:
            before.check()
        else:
            break
    assert step >= 20


def test_the_document_says_what_it_holds(tmp_path):
    saved(tmp_path / "c")
    document = Document.model_validate_json(storage.read(tmp_path / "c")[1])
    assert document.model == "torch.nn.modules.container.Sequential"
    assert document.optimizers[0].kind == "torch.optim.adam.Adam"


def test_a_model_without_its_map_is_refused(tmp_path):
    model: Any = nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match=r"expects the map of the model, got Linear; give `plasticity\.axes`"):
        save(tmp_path / "x.safetensors", model)
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_model_says_whose_it_is(tmp_path):
    path = tmp_path / "x.safetensors"
    model = nn.Linear(3, 2)
    save(path, trace(model, torch.ones(1, 3)), adam(model.parameters()))
    refused(path, r"it is of torch\.nn\.modules\.linear\.Linear, not ")
