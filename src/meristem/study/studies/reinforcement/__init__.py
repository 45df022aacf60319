"""Deep Q-learning with a net that grows, shrinks or renews its units while it learns."""

from meristem.study.studies.reinforcement.study import STUDY

__all__ = ["STUDY"]
