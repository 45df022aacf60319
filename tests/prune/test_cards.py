"""Every criterion, wrapper and penalty has its card in the docs, and every card one of them."""

import inspect
import re
from pathlib import Path

import pytest

from meristem import prune
from meristem.prune import CRITERIA, ContributionUtility, GroupSparsity, Magnitude, Penalty, Taylor, Wrapper

DOCS = Path(__file__).parents[2] / "docs"
CARDS = {path.stem.replace("_", ""): path for path in (DOCS / "criteria").glob("*.md") if path.name != "index.md"}
PUBLIC = [value for value in vars(prune).values() if inspect.isclass(value)]
WRAPPERS = [kind for kind in PUBLIC if issubclass(kind, Wrapper) and kind is not Wrapper]
PENALTIES = [*(kind for kind in PUBLIC if issubclass(kind, Penalty) and kind is not Penalty), GroupSparsity]
SCORING = (*CRITERIA, ContributionUtility())
KINDS = [*map(type, SCORING), *WRAPPERS, *PENALTIES]


def card(name: str) -> Path:
    """`GroupNorm` has `group_norm.md`."""
    return CARDS[name.lower()]


def text_of(kind: type) -> str:
    return card(kind.__name__).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_everything_has_a_card_that_says_everything_and_names_its_source(kind):
    text = text_of(kind)
    assert text.startswith(f"# {kind.__name__}\n")
    assert "```text\n" in text
    use = "Afterwards" if kind in PENALTIES else "Comparable between axes"
    for heading in ("When", "Cost", use, "What breaks it", "Source"):
        assert f"\n{heading}\n: " in text, heading
    source = text.partition("\nSource\n: ")[2]
    cited, known = (set(re.findall(r"\d{4}\.\d{5}", part)) for part in (source, inspect.getdoc(kind) or ""))
    assert cited <= known
    assert bool(cited) == bool(known)
    assert f"\nSettings: {{py:class}}`meristem.prune.{kind.__name__}`." in source


@pytest.mark.parametrize("criterion", SCORING, ids=lambda criterion: type(criterion).__name__)
def test_every_card_says_the_truth_about_comparing(criterion):
    text = text_of(type(criterion))
    assert ("\nComparable between axes\n: Yes" in text) == criterion.comparable
    assert ("predicts the loss" in text) == criterion.predicts_loss
    assert ("A closure" in text) == criterion.requires_closure


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda wrapper: wrapper.__name__)
def test_every_wrapper_says_the_truth_about_comparing(wrapper):
    found = [wrapper(criterion).comparable for criterion in (Magnitude(), Taylor())]
    said = {"Yes": [True, True], "As the other criterion.": [False, True]}
    text = text_of(wrapper).partition("\nComparable between axes\n: ")[2]
    assert [expected for words, expected in said.items() if text.startswith(words)] == [found]


def test_every_card_is_of_something_and_is_listed():
    assert set(CARDS) == {kind.__name__.lower() for kind in KINDS}
    index = (DOCS / "criteria/index.md").read_text(encoding="utf-8")
    assert [path.name for path in CARDS.values() if f"]({path.name})" not in index] == []
    page = (DOCS / "pruning.md").read_text(encoding="utf-8")
    names = [type(criterion).__name__ for criterion in SCORING]
    assert [name for name in names if f"[{name}](criteria/{card(name).name})" not in page] == []
