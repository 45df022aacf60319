"""Running on tensors without values, and on real ones where values are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

Result = TypeVar("Result")

_NEEDS_VALUES = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
    NotImplementedError,
)


def fake_or_real(job: Callable[[bool], Result]) -> Result:
    """What a job gives on fake tensors; where that fails, because values are needed, say, on real ones.

    Args:
        job: told whether to use real tensors.

    Raises:
        Exception: the job failed on both: what it raised on real ones if it did the other time for lack of values only.
    """
    try:
        return job(False)
    except Exception as error:
        try:
            return job(True)
        except Exception as again:
            raise (again if _needs_values(error) else error) from None


def _needs_values(error: BaseException) -> bool:
    """Whether a run failed only because fake tensors hold no values."""
    return isinstance(error, _NEEDS_VALUES) or any(
        text in str(error) for text in ("data-dependent", "Cannot access data pointer", "FakeTensor", "fake tensor")
    )


def without_graph(job: Callable[[bool], Result]) -> Result:
    """What a job gives that keeps no graph from which to compute gradients; where it needs one, with it.

    Args:
        job: told whether to keep the graph.
    """
    try:
        return job(False)
    except Exception as error:
        if not any(text in str(error) for text in _NEEDS_GRAPH):
            raise
    return job(True)


_NEEDS_GRAPH = ("does not require grad", "nference tensor", "requires_grad=True")
"""Parts of what PyTorch says where there is no graph."""
