"""The judgement of a family, and the page that is made of many."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meristem.axes.map import Axis

from . import families
from .judge import Subject


def test_a_model_is_judged_at_the_first_size_that_it_takes() -> None:
    found = families.judged("test_vit")
    assert found["size"] == 64
    assert found["problems"] == {}
    assert found["editable"] > 10
    assert found["changeable_share"] > 0.99


def test_what_goes_wrong_is_told_with_the_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = families.subject(families.fitting("test_resnet"))
    culprit = traced.axes.editable[1].name

    def bad(subject: Subject, axes: Sequence[Axis]) -> str | None:
        return "drifts" if culprit in {axis.name for axis in axes} else None

    monkeypatch.setitem(families.CHECKS, "grow by 1", bad)
    assert families.problems(traced) == {f"grow by 1: {culprit}": "drifts"}


def test_what_is_too_large_is_an_entry() -> None:
    assert "413 M" in families.asked("deepseek_vit_412m", 413e6)["error"]


def test_the_page_counts_what_was_judged() -> None:
    right = {
        "family": "a", "name": "a1", "size": 64, "parameters": 2e6, "editable": 3, "changeable_share": 1.0,
        "problems": {}, "frozen_parameters": {},
    }  # fmt: skip
    wrong = right | {"family": "b", "problems": {"reorder: x": "changes | by 1"}, "changeable_share": 0.5}
    wrong["frozen_parameters"] = {"the code fixes it": 1_000_000}
    text = families.page([right, wrong, {"family": "c", "name": "c1", "error": "too large"}])
    assert "Of 3 families 2 are judged; in 1 every edit is right; in 1\nat least" in text
    assert "| b | a1 | 64 | 2.0 M | 3 | 50.0% | reorder: x: changes / by 1 |" in text
    assert "- a1: the code fixes it (1.00 M)" in text
    assert "| c | c1 | | | | | too large |" in text
