"""`meristem methods`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from meristem.report.methods import methods_page, methods_table, parts


def run_methods(page: Path | None) -> None:
    """Prints which growth method is defined for which kind of axis, or writes it as a page."""
    found, console = parts(), Console()
    if page is None:
        console.print(methods_table(found))
        return
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(methods_page(found), encoding="utf-8")
    console.print(f"page: {page}")
