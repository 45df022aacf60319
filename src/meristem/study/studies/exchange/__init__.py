"""One ledger for growth and pruning, against each of them alone, both in turn, and fixed nets."""

from meristem.study.studies.exchange.study import STUDY

__all__ = ["STUDY"]
