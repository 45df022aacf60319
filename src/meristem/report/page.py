"""HTML pages that need nothing else: no network and no other files."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates() -> Environment:
    """The package's page templates; what they print is escaped."""
    return Environment(
        loader=PackageLoader("meristem.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(path: Path, page: str) -> None:
    """Writes a page such that a kill in the middle leaves the old one; makes its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
