"""The comparison of pruning: nets that both sides can prune, equal targets, and what is made of the results."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
import torch

import meristem
from benchmarks.pruning import execute, ours, summary
from benchmarks.pruning.execute import Images, Task, judged, tasks, train, trained
from benchmarks.pruning.nets import build
from benchmarks.pruning.settings import CRITERIA, OWN, SCALES, Scale
from meristem.errors import EditError
from meristem.train.data import DataSet
from meristem.train.record import write_json

TOY = Scale(
    images=(24, 20),
    epochs=1,
    tuning=1,
    batch_size=8,
    learning_rate=1e-3,
    batches=2,
    seeds=1,
    nets={"vgg11_bn": {"width": 4}, "resnet20": {"width": 4}, "vit": {"width": 16, "heads": 2, "depth": 1}},
)


@pytest.fixture
def images() -> Images:
    draw = torch.Generator().manual_seed(0)
    pictures = [torch.randint(256, (n, 3, 32, 32), generator=draw, dtype=torch.uint8) for n in (30, 25)]
    labels = [torch.randint(10, (n,), generator=draw) for n in (30, 25)]
    return Images.of(DataSet("cifar10", pictures[0], labels[0], pictures[1], labels[1], 10), TOY)


@pytest.mark.parametrize("net", TOY.nets)
@pytest.mark.parametrize("criterion", [*CRITERIA, OWN])
def test_ours_meets_the_target_with_every_criterion(net, criterion, images):
    torch.manual_seed(0)
    model = build(net, dict(TOY.nets[net])).eval()
    x, batches = images.train[0][:4], [(images.train[0][:8], images.train[1][:8])]
    if (net, criterion) == ("vit", "batch norm scale"):
        with pytest.raises((EditError, ValueError)):
            ours.prune(model, x, batches, criterion, 0.5, 0, None)
        return
    full = meristem.trace(model, x).flops()
    pruned = ours.prune(model, x, batches, criterion, 0.5, 0, None)
    left = meristem.trace(pruned, x).flops() / full
    assert 0.3 < left <= 0.5
    assert pruned(x).shape == (4, 10)
    assert [layer.heads for layer in getattr(pruned, "layers", ())] == [2] * (net == "vit")


def test_images_are_standardized_and_the_same_net_is_judged_before_and_after_tuning(images, tmp_path, monkeypatch):
    assert images.train[0].shape == (24, 3, 16, 16)
    assert len(images.test[1]) == 20
    monkeypatch.setattr(execute, "SCALES", {"toy": TOY})
    task = Task("toy", "resnet20", 0, "ours", "L2", 0.5)
    base, accuracy = trained(task, images, tmp_path)
    again, same = trained(task, images, tmp_path)  # now from its file
    assert accuracy == same
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in base.state_dict().items())
    found = judged(base, again, task, images, images.train[0][:8])
    assert found["flops"] == found["parameters"] == 1
    assert found["accuracy"] == accuracy
    assert not torch.equal(again.state_dict()["0.weight"], base.state_dict()["0.weight"])
    train(base, images, TOY.tuning, TOY.batch_size, TOY.learning_rate / 4, 0)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in base.state_dict().items())


def test_every_run_has_a_file_of_its_own_and_both_sides_the_same_runs(tmp_path):
    for scale in SCALES:
        found = list(tasks(scale))
        assert len({task.path(tmp_path) for task in found}) == len(found)
        sides = [
            {(t.net, t.seed, t.criterion, t.removed) for t in found if t.side == side} for side in ("ours", "peer")
        ]
        assert {criterion for _, _, criterion, _ in sides[0] - sides[1]} == {OWN}
        assert sides[1] <= sides[0]


def test_our_side_removes_what_the_peer_removed(tmp_path):
    """Where the peer has a result; its own tasks, and those that only we have, are asked what the table says."""
    ours, peer = (Task("cpu", "vgg11_bn", 0, side, "L1", 0.5) for side in ("ours", "peer"))
    assert execute.wanted(ours, tmp_path) == 0.5
    peer.path(tmp_path).parent.mkdir(parents=True)
    write_json(peer.path(tmp_path), {"flops": 0.43})
    assert execute.wanted(ours, tmp_path) == pytest.approx(0.57)
    assert execute.wanted(peer, tmp_path) == 0.5
    write_json(peer.path(tmp_path), {"error": "ValueError: no"})
    assert execute.wanted(ours, tmp_path) == 0.5


def test_what_is_missing_or_failed_is_said_and_the_page_has_a_row_for_every_case(tmp_path):
    wanted = [task for task in tasks("cpu") if task.net == "vgg11_bn"]
    for task in wanted[:-1]:
        result = {"net": task.net, "removed": task.removed, "criterion": task.criterion, "side": task.side}
        numbers = dict.fromkeys(summary.NUMBERS, 0.4 + 0.2 * task.seed)
        answer = {"error": "ValueError: no"} if task.criterion == "L1" and task.side == "peer" else numbers
        task.path(tmp_path).parent.mkdir(parents=True, exist_ok=True)
        write_json(task.path(tmp_path), result | answer)
    assert summary.page(tmp_path, tmp_path) == ""
    assert summary.write_summary("cpu", wanted, tmp_path, tmp_path) == 1
    text = summary.page(tmp_path, tmp_path)
    assert "1 runs are missing" in text
    assert text.count("| L1 | Torch-Pruning |  | failed: ValueError: no |") == 3
    assert text.count("| L2 | meristem | 60.0 | 60.0 (40.0-80.0) |") == 3
    assert text.count(f"| {OWN} | meristem |") == 3
    rows = json.loads((tmp_path / "pruning.json").read_text())["results"]
    assert len(rows) == 3 * (2 * len(CRITERIA) + 1)
    ElementTree.fromstring((tmp_path / "pruning.svg").read_text())
