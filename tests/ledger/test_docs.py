"""The page about the exchange: its examples run."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/exchange.md").read_text(encoding="utf-8")


def test_the_examples_run():
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    exec(compile(code, "docs/exchange.md", "exec"), {})
