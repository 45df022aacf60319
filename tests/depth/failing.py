"""A failure injected into every step of an edit in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meristem.edit.journal import Journal

from ..edit.snapshot import Snapshot


class Failing(Journal):
    """Fails at a step."""

    at = 0

    def perform(self, step: Any) -> None:
        if len(self._done) > Failing.at:
            raise MemoryError("injected")
        super().perform(step)


def fail_everywhere(commit: Callable[[], Any], before: Snapshot, monkeypatch: pytest.MonkeyPatch, stride: int) -> int:
    """Commit until it succeeds, failing one `stride` of steps later each time; everything is as before after a failure.

    Returns:
        the step at which there was nothing left to fail.
    """
    monkeypatch.setattr("meristem.edit.edit.Journal", Failing)
    steps = 0
    while True:
        Failing.at = steps
        try:
            commit()
        except MemoryError:
            before.check()
            steps += stride
        else:
            return steps
