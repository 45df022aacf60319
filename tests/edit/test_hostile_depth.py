"""Checkpoints whose history edits the module tree, made to harm: refused before they take memory."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from meristem import depth
from meristem.axes import AxisMap, trace
from meristem.edit import Edit, load, save, storage
from meristem.errors import CheckpointError

from .memory import little_memory
from .snapshot import Snapshot, same, values
from .test_checkpoint import at, rewritten, saved

ROOM = 100 * 2**20
X = torch.randn(4, 6).double()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 10), nn.Linear(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def built() -> tuple[Net, optim.Optimizer]:
    torch.manual_seed(0)
    model = Net().double()
    return model, optim.Adam(model.parameters())


def honest(axes: AxisMap, optimizer: optim.Optimizer) -> AxisMap:
    """Units, layers, units."""
    axes = Edit(axes, optimizer).grow("stem", 2).prune("blocks.0.up", [1]).commit().axes
    axes = Edit(axes, optimizer).depth(depth.duplicated(depth.places(axes), "blocks.1")).commit().axes
    axes = Edit(axes, optimizer).grow("blocks.2.up", 2).commit().axes
    inserted = depth.Insert(depth.places(axes), "after stem", depth.ZeroResidual())
    axes = Edit(axes, optimizer).depth(inserted).commit().axes
    axes = Edit(axes, optimizer).depth(depth.AddBranch(depth.places(axes), "blocks.0.up")).commit().axes
    return Edit(axes, optimizer).prune("stem.0", [0]).commit().axes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Net, optim.Optimizer, AxisMap]:
    model, optimizer = built()
    model(X).square().mean().backward()
    optimizer.step()
    axes = honest(trace(model, X), optimizer)
    model(X).square().mean().backward()
    optimizer.step()
    path = tmp_path_factory.mktemp("honest") / "c"
    save(path, axes, optimizer)
    return path, model, optimizer, axes


def test_an_honest_one_is_loaded_bit_for_bit(written):
    path, model, optimizer, axes = written
    fresh, other = built()
    with little_memory(ROOM):
        after = load(path, fresh, X, optimizers=other)
    assert same(values(fresh)[0], values(model)[0])
    assert same(values(other), values(optimizer))
    assert after.history == axes.history
    assert after.sizes == axes.sizes
    assert all(type(p) is nn.Parameter for p in fresh.parameters())


def nodes(content: Any, key: str) -> list[Any]:
    """All dicts in a document that have a key."""
    below = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    found = [content] if isinstance(content, dict) and key in content else []
    return [*found, *(node for one in below for node in nodes(one, key))]


def units(step: int, number: int) -> Callable[[Any], None]:
    """One edit of units grows by another number."""

    def change(document: Any) -> None:
        entry = document["history"][step]["axes"][0]
        entry["units"] = [[0, entry["before"]], [-1, number]]

    return change


def there_and_back(document: Any) -> None:
    """Units are born before a depth edit and go after it; in the end all fits."""
    first, last = document["history"][0]["axes"][0], document["history"][-1]["axes"][0]
    before, after = first["before"], sum(length for _, length in last["units"])
    first["units"] = [[0, before], [-1, 4_000_000]]
    last["before"], last["units"] = before + 4_000_000, [[0, after]]


def copies(document: Any) -> None:
    """A block is copied many times."""
    children = next(iter(document["history"][1]["depth"]["containers"].values()))
    node = next(node for node in children.values() if "copied" in node)
    children.update({f"more{number}": copy.deepcopy(node) for number in range(200)})


def wide_copies(document: Any) -> None:
    """A copy of a block is of another width."""
    for node in nodes(document["history"], "copied"):
        node["shapes"] = {"up.weight": [2_000_000, 10], "up.bias": [2_000_000], "down.weight": [10, 2_000_000]}


def wide_layers(document: Any) -> None:
    """Built layers are large."""
    (node, *_) = [node for node in nodes(document["history"], "build") if "in_features" in node["options"]]
    node["options"] |= {"in_features": 2**14, "out_features": 2**14}


def beyond_addresses(document: Any) -> None:
    """Built layers are larger than any memory."""
    (node, *_) = [node for node in nodes(document["history"], "build") if "in_features" in node["options"]]
    node["options"] |= {"in_features": 2**24, "out_features": 2**24}


def opening(document: Any) -> None:
    """Room for many units beside those of a module."""
    document["history"][1]["depth"]["widths"]["opened"] = [{"axis": "stem", "module": "blocks.0", "units": 2**24}]


ROWS: dict[str, tuple[Callable[[Any], None], str]] = {
    "a few more units": (units(0, 30), "could not be run"),
    "millions of units before a depth edit": (units(0, 4_000_000), "does not follow|bytes"),
    "millions of units after it": (units(2, 4_000_000), "does not follow|bytes|the tensor"),
    "2**24 units": (units(0, 2**24), "more than 16777216 units"),
    "10**15 units": (units(0, 10**15), "malformed"),
    "there and back": (there_and_back, "in between"),
    "copies": (copies, "."),
    "wide copies": (wide_copies, "bytes|run|tensor"),
    "wide layers": (wide_layers, "bytes"),
    "beyond addresses": (beyond_addresses, "bytes|cannot be"),
    "opening": (opening, "."),
    "a layer that is none": (lambda d: nodes(d, "build")[0].update(build="system"), "can be built"),
    "another axis": (at("history", 0, "axes", 0, "axis", "nowhere"), "does not have"),
}


@pytest.mark.parametrize("what", ROWS)
def test_a_hostile_one_is_refused_before_it_takes_memory(written, what, tmp_path):
    change, message = ROWS[what]
    storage.write(tmp_path / "c", *storage.read(written[0]))
    rewritten(tmp_path / "c", document=change)
    fresh, optimizer = built()
    before = Snapshot([fresh], [optimizer])
    with little_memory(ROOM), pytest.raises(CheckpointError, match=message):
        load(tmp_path / "c", fresh, X, optimizers=optimizer)
    before.check()


def test_there_and_back_without_depth(tmp_path):
    """In edits of units alone, likewise: only the end fits."""
    saved(tmp_path / "c")

    def change(document: Any) -> None:
        entry = document["history"][0]["axes"][0]
        after = sum(length for _, length in entry["units"])
        back = {"axis": entry["axis"], "before": 2**24, "units": [[0, after]]}
        again = {**entry, "units": [[0, entry["before"]], [-1, 2**24 - entry["before"]]], "duplicates": []}
        document["history"] = [{"axes": [again, *document["history"][0]["axes"][1:]]}, {"axes": [back]}]

    rewritten(tmp_path / "c", document=change)
    from .test_checkpoint import refused

    with little_memory(ROOM):
        refused(tmp_path / "c", "in between")


def test_a_model_that_is_traced_with_values_can_be_loaded(tmp_path):
    class Wavering(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            if float(x.square().sum()) >= 0:
                x = self.blocks(x)
            return self.head(x)

    model = Wavering().double()
    axes = trace(model, X)
    axes = Edit(axes).grow("stem", 2).commit().axes
    axes = Edit(axes).depth(depth.duplicated(depth.places(axes), "blocks.1")).commit().axes
    save(tmp_path / "c", axes)
    fresh = Wavering().double()
    load(tmp_path / "c", fresh, X)
    assert same(values(fresh)[0], values(model)[0])


def test_the_document_of_the_honest_one_has_what_is_made_to_harm(written):
    document = json.loads(storage.read(written[0])[1])
    assert nodes(document, "copied")
    assert nodes(document, "build")
