"""Whole methods, put together from parts: ready controllers for training, and `shrink` for after it."""

from meristem.recipes.continual_backprop import continual_backprop
from meristem.recipes.early_growth import early_growth
from meristem.recipes.evidence import evidence, supervised
from meristem.recipes.redo import redo
from meristem.recipes.regrama import regrama
from meristem.recipes.shrink import shrink
from meristem.recipes.shrunk import Shrunk

__all__ = ["Shrunk", "continual_backprop", "early_growth", "evidence", "redo", "regrama", "shrink", "supervised"]
