"""The table of growth methods and kinds of axis: as the code gives it, on the committed page and in the terminal."""

from functools import cache
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from meristem.cli import app
from meristem.grow import METHODS, HyperCloning, Net2Wider, ZeroFanOut
from meristem.report.kinds import KINDS
from meristem.report.methods import Answer, Footnotes, methods_page, parts

PAGE = Path(__file__).parents[2] / "docs/methods/axes.md"


@cache
def tables():
    return parts()


def answers(method: str) -> dict[str, Answer]:
    return {kind.name: found for part in tables() for kind, found in zip(part.kinds, part.rows[method], strict=True)}


@pytest.mark.heavy
def test_the_page_of_the_docs_is_what_the_code_gives():
    assert PAGE.read_text(encoding="utf-8") == methods_page(tables()), (
        "the page is out of date; write it anew: meristem methods --markdown docs/methods/axes.md"
    )


def test_every_method_answers_for_every_kind():
    for part in tables():
        assert list(part.rows) == [type(method).__name__ for method in METHODS]
    assert {len(answers(type(method).__name__)) for method in METHODS} == {sum(map(len, KINDS.values()))}


def test_what_is_not_exact_says_why():
    for method in METHODS:
        for found in answers(type(method).__name__).values():
            assert bool(found.reasons) == (found.verdict != "exact")


def test_known_answers():
    zero, copies, cloned = (answers(type(method).__name__) for method in (ZeroFanOut(), Net2Wider(), HyperCloning()))
    assert {found.verdict for found in zero.values()} == {"exact", "inexact"}
    assert zero["linear"] == Answer("exact")
    assert zero["LayerNorm"] == Answer("inexact", ("normalized",))
    assert copies["query size"].verdict == "undefined"
    assert cloned["LayerNorm"] == Answer("exact")


def test_asking_changes_no_random_state():
    before = torch.get_rng_state()
    parts(METHODS[:1])
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_reasons_share_a_footnote_and_none_names_a_place_in_the_code():
    notes = Footnotes()
    first = notes.number(Answer("undefined", ("mul at src/net.py:7 combines it",)))
    assert notes.number(Answer("undefined", ("mul at elsewhere/net.py:9 combines it",))) == first == 1
    assert notes.number(Answer("inexact", ("normalized",))) == 2
    assert notes.number(Answer("exact")) is None
    assert list(notes) == [(1, "not defined: mul combines it"), (2, "not preserved: normalized")]


def test_the_command_prints_the_table_and_writes_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr("meristem.cli.methods.parts", tables)
    printed = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "120"})
    assert printed.exit_code == 0, printed.output
    assert all(type(method).__name__ in printed.output for method in METHODS)
    assert CliRunner().invoke(app, ["methods", "--markdown", str(tmp_path / "new/page.md")]).exit_code == 0
    assert (tmp_path / "new/page.md").read_text(encoding="utf-8") == methods_page(tables())
