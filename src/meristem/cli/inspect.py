"""`meristem inspect`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import meristem
from meristem.cli.target import load_model, make_inputs
from meristem.errors import UnreachedWarning
from meristem.report.inspection import inspection
from meristem.report.picture import write_picture


def run_inspect(
    path: str, shapes: Sequence[str], kwargs: str, dtype: str, high: int, picture: Path, places: bool
) -> None:
    """Prints the map of a model, with its places if they are wanted, and writes the picture of both."""
    args, named = make_inputs(shapes, dtype, high)
    model = load_model(path, kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreachedWarning)  # the table says it
        axes = meristem.trace(model, args, named)
    console = Console()
    console.print(inspection(axes))
    found = meristem.depth.places(axes) if places else None
    if found is not None:
        console.print(found)
    write_picture(picture, f"{type(model).__name__} ({path})", axes, found)
    console.print(f"picture: {picture}")
