"""Worker processes that run experiments, and that never outlive the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import torch

from meristem.errors import MeristemError
from meristem.study.study import Task
from meristem.train.data import load
from meristem.train.experiment import carry_out

SECONDS_BETWEEN_REPORTS = 0.2


@dataclass(frozen=True, slots=True)
class Stepped:
    """A run went on."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Done:
    """A run is finished; its result lies in its folder."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A run ended with an error, or its process died."""

    error: str


Message: TypeAlias = "Stepped | Done | Failed"


@dataclass(frozen=True, eq=False)
class _Worker:
    """The process of one run, with the end of its pipe that is on this side."""

    process: BaseProcess
    pipe: Connection
    task: Task


class Pool:
    """A few processes with one thread each; at the end of the `with` block they are killed, whatever they do.

    Every run has a process of its own, so that what it takes (memory above all) does not depend on which runs went
    before. Where the system can fork, it is forked from a process that has imported what runs need and has never run
    one, which takes hundredths of a second; elsewhere each imports it for itself. If this process is killed, all of
    them end within moments: each watches it.

    Args:
        jobs: how many processes at a time.
        data_dir: where data sets are read from; this process reads each of them once and hands it on.
    """

    def __init__(self, jobs: int, data_dir: Path | str) -> None:
        self._jobs, self._data_dir = jobs, data_dir
        self._data: dict[str | None, bytes] = {None: pickle.dumps(None)}
        get = multiprocessing.get_context
        self._context = get("forkserver") if _FORKS else get("spawn")
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Message]]:
        """Runs tasks in their order and tells what happens."""
        if _FORKS:  # heeded by the first pool; what is not imported beforehand each run imports
            kinds = (type(task.config).__module__ for task in tasks)
            self._context.set_forkserver_preload(["__main__", *dict.fromkeys((__name__, *_LATE, *kinds))])
        waiting = list(reversed(tasks))
        while waiting or self._workers:
            if waiting and len(self._workers) < self._jobs:
                task = waiting.pop()
                try:
                    self._workers.append(self._start(task, self._read(task.config.data)))
                except Exception as error:
                    yield task, _failed(task, error)
                continue
            ready = wait([worker.pipe for worker in self._workers])
            for worker in [worker for worker in self._workers if worker.pipe in ready]:
                message = _receive(worker)
                if not isinstance(message, Stepped):
                    worker.process.join()
                    worker.pipe.close()
                    self._workers.remove(worker)
                yield worker.task, message

    def _read(self, name: str | None) -> bytes:
        """A data set, pickled."""
        if name not in self._data:
            assert name is not None
            self._data[name] = pickle.dumps(load(name, self._data_dir), pickle.HIGHEST_PROTOCOL)
        return self._data[name]

    def _start(self, task: Task, data: bytes) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_work, args=(task, there), daemon=True)
        process.start()
        there.close()
        with suppress(BrokenPipeError):  # it was killed, which is noticed as soon as it is listened to
            here.send_bytes(data)
        return _Worker(process, here, task)


_FORKS = "forkserver" in multiprocessing.get_all_start_methods()

_LATE = ("torch._dynamo",)
"""What torch imports only when an optimizer makes its first step, for more than a second."""

_DIED = Failed("its process was killed (for want of memory?); with fewer --jobs each run has more")


def _receive(worker: _Worker) -> Message:
    try:
        return worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        return _DIED


def _work(task: Task, pipe: Connection) -> None:
    """All that a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted as well, and ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    pipe.send(_attempt(task, pipe))
    pipe.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _attempt(task: Task, pipe: Connection) -> Message:
    """One run; what goes wrong is a message, and with its traceback a file in the folder of the run."""
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_REPORTS or done == total:
            last = time.monotonic()
            pipe.send(Stepped(done, total))

    try:
        carry_out(task.config, pickle.loads(pipe.recv_bytes()), task.folder, progress)
    except Exception as error:
        return _failed(task, error)
    _trace_of(task).unlink(missing_ok=True)
    return Done()


def _failed(task: Task, error: Exception) -> Failed:
    task.folder.mkdir(parents=True, exist_ok=True)
    _trace_of(task).write_text("".join(traceback.format_exception(error)))
    kind = "" if isinstance(error, MeristemError) else f"{type(error).__name__}: "
    return Failed(f"{kind}{error}")


def _trace_of(task: Task) -> Path:
    return task.folder / "failure.txt"
