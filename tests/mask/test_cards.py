"""Every way to mask weights has its card in the docs, and every card its method or distribution."""

import inspect
import re
from operator import attrgetter
from pathlib import Path

import pytest

from meristem import mask
from meristem.mask import METHODS, ONE_SHOT, Distribution

FOLDER = Path(__file__).parents[2] / "docs/masks"
CARDS = {path.stem.replace("_", ""): path for path in FOLDER.glob("*.md") if path.name != "index.md"}
DISTRIBUTIONS = {
    value
    for value in vars(mask).values()
    if inspect.isclass(value) and issubclass(value, Distribution) and not inspect.isabstract(value)
}
KINDS: set[type] = {type(method) for method in (*METHODS, *ONE_SHOT)} | DISTRIBUTIONS


def text_of(kind: type) -> str:
    """`DeepR` has `deep_r.md`."""
    return CARDS[kind.__name__.lower()].read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", sorted(KINDS, key=attrgetter("__name__")), ids=lambda kind: kind.__name__)
def test_everything_has_a_card_that_says_everything_and_names_its_source(kind):
    text = text_of(kind)
    assert text.startswith(f"# {kind.__name__}\n")
    assert "```text\n" in text
    for heading in ("When", "Cost", "Counts", *(() if kind in DISTRIBUTIONS else ("Preserves",)), "What breaks it"):
        assert f"\n{heading}\n: " in text, heading
    source = text.partition("\nSource\n: ")[2]
    assert set(re.findall(r"\d{4}\.\d{5}", source)) == set(re.findall(r"\d{4}\.\d{5}", inspect.getdoc(kind) or ""))
    assert source.startswith("None.") == ("arXiv" not in source)
    assert f"\nSettings: {{py:class}}`meristem.mask.{kind.__name__}`." in source


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_every_card_says_the_truth_about_costs(method):
    cost = text_of(type(method)).partition("\nCost\n: ")[2].partition("\nCounts\n: ")[0]
    assert ("A closure" in cost) == method.requires_closure
    assert ("The dense gradient at updates" in cost) == method.wants_gradient
    assert ("takes the place of the gradient step" in cost) == method.replaces_step
    assert ("Optimizer state stays dense" in cost) == method.dense_state


def test_every_card_is_of_something_and_is_listed():
    assert set(CARDS) == {kind.__name__.lower() for kind in KINDS}
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert [path.name for path in CARDS.values() if f"]({path.name})" not in index] == []
