"""Experiments without a net, for the tests of the framework."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from meristem.diagnose import Monitor
from meristem.study import Arm, Claim, Experiment, Greater, Log, Measure, Plan, Progress, Run, RunFolder, Scale, Study

_KEPT: list[torch.Tensor] = []


class Coin(Experiment):
    """Tosses a coin; its result follows from the seed. The process keeps so many bytes, as caches do."""

    heads: float = 0.5
    seconds: float = 0.0
    fails: bool = False
    dies: bool = False
    kept: int = 0

    def run(self, data: Any, place: RunFolder, progress: Progress) -> Run:
        torch.manual_seed(self.seed)
        _KEPT.append(torch.ones(self.kept, dtype=torch.uint8))
        log, share = Log(place), 0.0
        for step in range(1, 6):
            share += float(torch.rand(()) < self.heads) / 5
            log.evaluated(step, {"accuracy": share}, parameters=10 * step, sizes={"axis": 3})
            progress(step, 5)
            (place.path / "alive").write_text(str(os.getpid()))
            time.sleep(self.seconds)
        if self.fails:
            raise ValueError("the coin stood on its edge")
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return log.finish(self.seed, {"share": share, "threads": torch.get_num_threads()})


def plan(seeds: int = 2, **arms: Coin) -> Plan:
    """One arm for each keyword; they are compared if there are several."""
    names = list(arms)
    study = Study(
        name="toy",
        title="Coins",
        question="Which coin is better?",
        scales={"smoke": Scale(seeds)},
        arms=lambda scale: [Arm(name, "a coin", config) for name, config in arms.items()],
        claims=lambda scale: [Claim("The first is better.", [Greater("share", *names[:2])])] if len(names) > 1 else [],
        measures=[Measure("share", percent=True)],
    )
    return study.plan("smoke")


def timed_looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """From now on, for every step of a monitor whether the clock of a log ran."""
    running: list[Log] = []
    found: list[bool] = []
    step = Monitor.step

    @contextmanager
    def timing(log: Log) -> Iterator[None]:
        running.append(log)
        yield
        running.pop()

    def stepped(monitor: Monitor, *args: Any) -> None:
        found.append(bool(running))
        step(monitor, *args)

    monkeypatch.setattr(Log, "timing", timing)
    monkeypatch.setattr(Monitor, "step", stepped)
    return found
