"""The controller that a training loop calls once per optimizer step."""

from meristem.plasticity.controller import Plasticity
from meristem.plasticity.event import Event

__all__ = ["Event", "Plasticity"]
