"""Every growth method has its card in the docs, and every card its method."""

import re
from pathlib import Path

import pytest

from meristem.grow import METHODS

CARDS = Path(__file__).parents[2] / "docs/methods"
NAMES = {type(method).__name__ for method in METHODS}


def card(name: str) -> Path:
    """`GradMaxOpt` has `grad_max_opt.md`."""
    return CARDS / (re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() + ".md")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_method_has_a_card_that_says_everything(name):
    text = card(name).read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert "```text\n" in text
    for field in ("When", "Cost", "Preserves", "Predicts", "What breaks it", "Source"):
        assert f"\n{field}\n: " in text, field


def test_every_card_has_a_method_and_is_listed():
    found = {path for path in CARDS.glob("*.md") if path.name not in ("index.md", "axes.md")}
    assert found == {card(name) for name in NAMES}
    index = (CARDS / "index.md").read_text(encoding="utf-8")
    assert [name for name in sorted(NAMES) if f"[{name}]({card(name).name})" not in index] == []
