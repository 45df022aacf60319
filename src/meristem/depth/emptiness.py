"""Which operators of a run cannot compute anything from tensors without entries, although fake tensors let them."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from meristem.axes.flow import Flow
from meristem.axes.recorder import Ref, references


def unable(flow: Flow) -> str | None:
    """Why an operator that is given nothing but empty tensors fails, or None if all can be run; they cost nothing."""
    shapes, dtypes = flow.recording.shapes, flow.recording.dtypes

    def made(item: Any) -> Any:
        if isinstance(item, Ref):
            return torch.empty(shapes[item.value], dtype=dtypes[item.value], device="cpu")
        if isinstance(item, (list, tuple)):
            return [made(entry) for entry in item]
        return item

    for call in flow.recording.calls:
        given = tuple(references(call))
        if given and not any(prod(shapes[number]) for number in given):
            try:
                call.operator(*made(call.args), **{key: made(value) for key, value in call.kwargs.items()})
            except Exception as error:  # whatever it is, the edited model would fail so
                return f"{call.name} at {call.site.where} cannot be run without units: {str(error).splitlines()[0]}"
    return None
