"""Nets for tables that find their own width, against a search over widths and against boosted trees."""

from meristem.study.studies.tabular.study import STUDY

__all__ = ["STUDY"]
