"""The zoo: every model that the judge, the report and the tests run over."""

from __future__ import annotations

from .awkward import AWKWARD_ROWS
from .convolutional import CONVOLUTIONAL_ROWS
from .dense import DENSE_ROWS
from .hugging_face import HF_ROWS
from .row import Row
from .sequence import SEQUENCE_ROWS
from .timm_models import TIMM_ROWS

SMALL_ROWS: tuple[Row, ...] = (*DENSE_ROWS, *SEQUENCE_ROWS, *CONVOLUTIONAL_ROWS)
"""Our own small models, each with a table written by hand."""

STOCK_ROWS: tuple[Row, ...] = (*TIMM_ROWS, *HF_ROWS)
"""Models of timm and Hugging Face."""

ROWS: tuple[Row, ...] = (*SMALL_ROWS, *AWKWARD_ROWS, *STOCK_ROWS)


def row(name: str) -> Row:
    """The row of that name."""
    return next(found for found in ROWS if found.name == name)
