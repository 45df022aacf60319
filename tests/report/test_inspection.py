"""The map in the terminal and as a picture."""

import re

import pytest
import torch
from rich.console import Console

import meristem
from meristem.report.inspection import inspection
from meristem.report.picture import draw, write_picture
from meristem.report.summary import editable_rows, editable_share, frozen_groups
from meristem.train.models import resnet
from tests.report.browser import load
from tests.signals.test_activity_anywhere import Attention

MODEL = resnet((3, 8, 8), 10, width=5, inner=7, blocks=2)
AXES = meristem.trace(MODEL, torch.zeros(2, 3, 8, 8))


def test_the_terminal_shows_axes_reasons_and_totals():
    console = Console(width=160, record=True)
    console.print(inspection(AXES))
    text = console.export_text()
    for part in ("trunk.conv", "block2.inner.conv", "exact", "kernel size", "model input", "model output"):
        assert part in text
    assert f"{len(AXES.editable)} editable axes" in text
    assert "of them in tensors that can be resized" in text


def test_frozen_axes_are_grouped_by_reason():
    groups = {group.reason: len(group.axes) for group in frozen_groups(AXES)}
    assert groups == {"kernel size": 10, "model input": 1, "model output": 1}


def test_what_a_zero_counterpart_settles_is_no_reason():
    """Queries and keys are multiplied, which newborns with zero queries do not disturb; that the code divides by a root
    of their size does."""
    growth = {
        name: growth for name, _, _, growth, _ in editable_rows(meristem.trace(Attention(), torch.randn(2, 5, 4)))
    }
    assert growth == {"query[0]": "exact", "query[1]": "exact", "query[2]": "inexact: scaled", "value[1]": "exact"}


def test_the_share_of_parameters_that_can_be_resized():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    axes = meristem.trace(model, torch.zeros(1, 3))
    assert editable_share(axes) == pytest.approx((12 + 4 + 8) / 26)


@pytest.mark.filterwarnings("ignore::meristem.errors.UnreachedWarning")
def test_unreached_parameters_are_named():
    class Idle(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    console = Console(width=160, record=True)
    console.print(inspection(meristem.trace(model := Idle(), torch.zeros(1, 3))))
    assert model.idle is not None
    assert "idle.weight, idle.bias" in console.export_text()


def test_modules_come_in_order_and_lines_join_producers_and_readers():
    picture = draw(AXES)
    modules = [row.module for row in picture.rows]
    assert modules[:4] == ["trunk.conv", "trunk.norm", "block1.inner.conv", "block1.inner.norm"]
    assert modules[-1] == "head"
    trunk = next(line for line in picture.lines if "trunk.conv" in line.hint)
    assert (trunk.top, trunk.bottom) == (picture.rows[0].y, picture.rows[-1].y)
    on_trunk = {row.module: mark for row in picture.rows for mark in row.marks if mark.x == trunk.x}
    assert on_trunk["trunk.conv"].produces
    assert on_trunk["block1.inner.conv"].reads
    assert not on_trunk["trunk.norm"].produces
    assert not on_trunk["trunk.norm"].reads
    assert on_trunk["head"].reads


def test_lines_of_one_lane_never_overlap():
    lines = draw(AXES).lines
    for one in lines:
        for other in lines:
            assert one is other or one.x != other.x or one.bottom < other.top or other.bottom < one.top


@pytest.mark.heavy
def test_a_browser_shows_the_picture(tmp_path):
    write_picture(tmp_path / "sub" / "picture.html", "a <b>title</b>", AXES)
    loaded = load(tmp_path / "sub" / "picture.html", tmp_path / "profile")
    assert loaded.console == []
    assert "&lt;b&gt;title" in loaded.dom
    picture = draw(AXES)
    assert len(re.findall('<path class="axis"', loaded.dom)) == len(AXES.editable)
    assert len(re.findall("<circle", loaded.dom)) == sum(m.produces or m.reads for r in picture.rows for m in r.marks)
