"""Experiments that answer a question: a protocol, several seeds, a summary with confidence intervals."""

from meristem.study.protocol import Arm, Protocol
from meristem.study.summary import Interval, Row, interval, summarize

__all__ = ["Arm", "Interval", "Protocol", "Row", "interval", "summarize"]
