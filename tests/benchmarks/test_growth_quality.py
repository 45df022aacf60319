"""The comparison of growth methods: equal ends, resumable runs, and what counts as an inactive unit."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import meristem
from benchmarks.growth_quality import execute, tasks
from benchmarks.growth_quality.activity import activities
from benchmarks.growth_quality.figure import figure
from benchmarks.growth_quality.nets import prepared, remove_norms, shrunk
from benchmarks.growth_quality.run import run
from benchmarks.growth_quality.settings import SCALES, Scale, Widths
from benchmarks.growth_quality.summary import write_summary
from benchmarks.growth_quality.table import TITLES, asked, by_case, cells
from benchmarks.growth_quality.tasks import ARMS, LARGE, SMALL, Task, all_tasks, label
from benchmarks.pair import RESULTS, ROOT
from meristem.errors import ConfigError
from meristem.grow import METHODS
from meristem.train.data import DataSet
from meristem.train.loop import Standardized
from meristem.train.models import FACTORIES
from meristem.train.record import write_json

TOY = Scale(
    images=(64, 40),
    shrink=2,
    epochs=2,
    batch_size=8,
    learning_rate=0.02,
    evaluations=2,
    edits=2,
    seeds=2,
    device="cpu",
    nets={"vgg": Widths({"widths": (2, 3), "hidden": 4}, {"widths": (5, 7), "hidden": 9})},
)


@pytest.fixture
def data() -> DataSet:
    draw = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (n, 1, 16, 16), generator=draw, dtype=torch.uint8) for n in (80, 50)]
    labels = [torch.randint(4, (n,), generator=draw) for n in (80, 50)]
    return prepared(DataSet("fashion_mnist", images[0], labels[0], images[1], labels[1], 4), TOY)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(tasks, "SCALES", {"cpu": TOY})


def task(arm: str, seed: int = 0, norm: bool = True) -> Task:
    return Task("cpu", "fashion_mnist", "vgg", norm, arm, seed)


@pytest.mark.heavy
@pytest.mark.parametrize("norm", [True, False])
def test_methods_begin_and_end_where_the_fixed_nets_are(toy, data, norm):
    small, large, grown = (run(task(arm, norm=norm), data) for arm in (SMALL, LARGE, "ZeroFanOut"))
    first, last = (grown["run"]["evaluations"][i] for i in (0, -1))
    assert last["sizes"] == large["run"]["evaluations"][-1]["sizes"] != small["run"]["evaluations"][-1]["sizes"]
    assert last["parameters"] == large["run"]["evaluations"][-1]["parameters"]
    assert small["run"]["evaluations"][-1]["flops"] < last["flops"] < large["run"]["evaluations"][-1]["flops"]
    assert first["step"] == 8
    assert [change["step"] for change in grown["run"]["changes"]] == [2, 10]
    assert grown["newborns"]["units"] == 3 + 3 + 4 + 4 + 5
    assert large["newborns"]["units"] == 5 + 5 + 7 + 7 + 9
    assert grown["undefined"] == {}


@pytest.mark.heavy
def test_a_run_is_the_same_again_but_for_its_duration(toy, data):
    found = [run(task("Net2Wider"), data) for _ in range(2)]
    for result in found:
        for evaluation in result["run"]["evaluations"]:
            del evaluation["seconds"]
        costs = result["run"]["costs"]
        del costs["seconds"], costs["edit_seconds"], costs["peak_bytes"]
    assert found[0] == found[1]


@pytest.mark.heavy
def test_finished_runs_are_found_and_summarized(toy, data, tmp_path):
    for arm in (SMALL, "ZeroFanOut"):
        for seed in (0, 1):
            assert task(arm, seed).result(tmp_path) is None
            path = task(arm, seed).path(tmp_path)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, run(task(arm, seed), data))
    assert task(SMALL).result(tmp_path) is not None
    chosen = [t for t in all_tasks("cpu") if t.arm in (SMALL, LARGE, "ZeroFanOut") and t.data == "fashion_mnist"]
    write_summary("cpu", chosen, tmp_path, tmp_path)
    found = json.loads((tmp_path / "growth_quality.json").read_text())
    assert [row["arm"] for row in found["results"]] == [SMALL, "ZeroFanOut"]
    assert found["missing_runs"] == len(chosen) - 4
    assert all(len(cells(row)) == len(TITLES) for row in found["results"])
    assert "±" in cells(found["results"][0])[1]
    ElementTree.fromstring(figure(found["results"]))


def test_a_file_of_other_settings_is_refused(toy, tmp_path, monkeypatch):
    path = task(SMALL).path(tmp_path)
    path.parent.mkdir(parents=True)
    write_json(path, {"config": task(SMALL).config})
    monkeypatch.setattr(tasks, "SCALES", {"cpu": replace(TOY, epochs=3)})
    with pytest.raises(ConfigError, match="other settings"):
        task(SMALL).result(tmp_path)


def test_a_method_without_a_meaning_is_reported_and_not_replaced(toy, data, monkeypatch):
    method = tasks.GROWING["ZeroFanOut"]
    monkeypatch.setattr(type(method), "undefined", lambda self, axes, axis: "no meaning")
    result = run(task("ZeroFanOut"), data)
    assert result["run"] is None
    assert set(result["undefined"].values()) == {"no meaning"}
    row = {"arm": "ZeroFanOut", "undefined": result["undefined"], "failures": []}
    assert cells(row)[-1] == "not defined for all axes"


def test_a_run_that_fails_is_reported_and_tried_again(toy, data, tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "images", lambda *_: data)
    monkeypatch.setattr(tasks.GROWING["ZeroFanOut"].__class__, "propose", lambda *_: 1 / 0)
    execute.work(task("ZeroFanOut"), tmp_path, tmp_path)
    assert task("ZeroFanOut").result(tmp_path) is None
    assert "ZeroDivisionError" in str(task("ZeroFanOut").failure(tmp_path))
    write_summary("cpu", [task("ZeroFanOut")], tmp_path, tmp_path)
    (row,) = json.loads((tmp_path / "growth_quality.json").read_text())["results"]
    assert cells(row)[-1] == "1 run failed"


def test_nets_that_end_smaller_than_asked_for_and_seeds_that_are_missing_are_marked():
    number = [0.5, 0.1]
    row = {"final_accuracy": number, "mean_accuracy": number, "flops": number, "seconds": number, "inactive": number,
           "undefined": {}, "failures": [], "seeds": 5}  # fmt: skip
    rows = [
        {"case": "a", "arm": arm, "parameters": [size, None], **row}
        for arm, size in ((SMALL, 100.0), (LARGE, 1000.0), ("TINY", 780.4), ("GradMax", 999.9), ("Random", 1000.0))
    ]
    rows[2] |= {"seeds": 3, "failures": ["SignalError", "SignalError"]}
    whole = asked(rows)
    assert whole == 1000
    assert [cells(r, whole, 5)[-1] for r in rows] == [
        "", "", "ended at 78 % of the size asked for; 3 of 5 seeds; 2 runs failed",
        "ended at 99 % of the size asked for", "",
    ]  # fmt: skip
    assert asked(rows[2:]) is None
    assert cells(rows[3], None, 5)[-1] == ""


def test_the_page_marks_all_committed_results_of_smaller_nets():
    found = json.loads((RESULTS / "growth_quality.json").read_text())
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    marked = 0
    for rows in by_case(found["results"]).values():
        whole = asked(rows)
        for row in rows:
            line = "| " + " | ".join(cells(row, whole, found["settings"]["seeds"])) + " |"
            assert line in page
            if "parameters" in row and row["arm"] not in (SMALL, LARGE):
                smaller = row["parameters"][0] < whole
                assert smaller == ("of the size asked for" in line)
                marked += smaller
    assert marked


def test_every_method_takes_part_under_a_name_of_its_own():
    assert (SMALL, LARGE, *map(label, METHODS), "Mitosis kick=0.5") == ARMS
    assert len(set(ARMS)) == len(METHODS) + 3
    assert all(scale.seeds >= 5 for scale in SCALES.values())


def test_inactive_are_silent_constant_and_unread_units(data):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 4))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
        net[1].bias[0] = -1e4  # never fires
        net[1].weight[1], net[1].bias[1] = 0.0, 3.0  # always gives 3
        net[3].weight[:, 2] = 0.0  # read by nobody
    inputs = Standardized(*data.channel_statistics())
    axes = meristem.trace(net, inputs(data.train_images[:2]))
    (found,) = activities(axes, ["1"], inputs, data).values()
    assert found.silent.tolist() == [True, False, False, False, False]
    assert found.inactive.tolist() == [True, True, True, False, False]
    hidden = net[:3](inputs(data.test_images)).double()
    power = hidden.var(0, correction=0) * net[3].weight.double().square().sum(0)
    torch.testing.assert_close(found.seen, (power / power.mean()).sqrt().detach(), rtol=1e-5, atol=1e-9)


def test_without_norms_nothing_but_the_norms_is_missing():
    for name in ("vgg", "resnet"):
        net = FACTORIES[name]((1, 8, 8), 4)
        before = sum(isinstance(m, nn.Conv2d) for m in net.modules())
        remove_norms(net)
        convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
        assert len(convolutions) == before
        assert all(m.bias is not None for m in convolutions)
        assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


def test_images_shrink_by_averages():
    images = torch.tensor([[0, 4], [8, 4]], dtype=torch.uint8).repeat(1, 1, 2, 2)
    assert shrunk(images, 2).tolist() == [[[[4, 4], [4, 4]]]]
    assert shrunk(images, 1) is images
