"""What an edit of the module tree would do: it is put in place, traced, measured, and taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meristem.axes.trace import traced_again
from meristem.edit.commit import Request
from meristem.edit.deepen import DepthChange
from meristem.edit.journal import Journal
from meristem.edit.preview import AxisPreview, Preview, drift_of, in_training, outputs_of, rows_of
from meristem.edit.rebuild import rebuild


def deep_preview(request: Request, depth: Sequence[DepthChange], args: Any = None) -> Preview:
    """The preview of an edit that changes the module tree. With a batch, given as to `trace`, the drift is measured.

    Each depth change has a row with the number of the model's modules before and after all of them.

    Raises:
        EditError, TraceError: as `Edit.commit`.
    """
    axes, model = request.axes, request.axes.model
    training = args is not None and in_training(model, args)
    before = [] if args is None else outputs_of(model, args, training=training)
    modules = len(list(model.modules()))
    with Journal() as journal:
        try:
            rebuilt = rebuild(journal, request, depth)
            after = traced_again(axes, axes.history)
            successors = rebuilt.succession(after)
            size = after.byte_count()
            counts = len(list(model.modules())) - modules
            drift = None if args is None else drift_of(before, outputs_of(model, args, training=training))
        finally:
            journal.rollback()
    rows = [
        AxisPreview(str(change), modules, modules + counts, max(counts, 0), max(-counts, 0), change.inexact())
        for change in depth
    ]
    return Preview(
        axes=(*rows_of(request), *rows),
        parameters=(axes.parameter_count(), after.parameter_count()),
        flops=(axes.flops(), after.flops()),
        bytes=(axes.byte_count(), size),
        drift=drift,
        map=after,
        succession=successors,
        unreached=after.unreached,
    )
