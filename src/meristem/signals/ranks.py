"""One answer for all ranks of a distributed run, so that all of them make the same plan."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from meristem.errors import SignalError
from meristem.signals.statistic import Accumulator, Statistic


def distributed() -> bool:
    """Whether `torch.distributed` is initialised, with more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def agree(
    accumulators: Mapping[Statistic, Accumulator], problem: str | None, device: torch.device
) -> Mapping[Statistic, Any]:
    """The results, the same on every rank: what is additive is summed over ranks, everything else is that of rank 0.

    Called by all ranks between two training steps, never during a backward pass, where its collectives could get among
    those of DDP.

    Args:
        accumulators: this rank's.
        problem: why this rank has no results, or None if it has.
        device: where this rank's results are wanted.

    Raises:
        SignalError: on all ranks, if one of them has a problem.
    """
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    found = next((f"{text} (on rank {rank})" for rank, text in enumerate(problems) if text is not None), None)
    if found is not None:
        raise SignalError(found)
    for accumulator in accumulators.values():
        for part in accumulator.parts():
            dist.all_reduce(part)
    sent: list[Any] = [_packed(accumulators) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(sent)
    if isinstance(sent[0], str):
        raise SignalError(sent[0])
    results = torch.load(io.BytesIO(sent[0]), map_location=device, weights_only=False)  # made by rank 0 just now
    return dict(zip(accumulators, results, strict=True))


def _packed(accumulators: Mapping[Statistic, Accumulator]) -> bytes | str:
    """The results; or why there are none, so that no rank waits for them."""
    buffer = io.BytesIO()
    try:
        torch.save([accumulator.result() for accumulator in accumulators.values()], buffer)
    except Exception as error:
        return f"statistics could not be computed on rank 0: {type(error).__name__}: {error}"
    return buffer.getvalue()
