"""A small GPT over characters that grows in width and depth, against the same final model from scratch."""

from meristem.study.studies.language.study import STUDY

__all__ = ["STUDY"]
