"""One rule per operator family: what a call says about the axes of the tensors that it touches."""

from meristem.axes.rules import (
    attention,
    contraction,
    convolution,
    creation,
    embedding,
    indexing,
    normalization,
    pointwise,
    recurrent,
    reduction,
    scattering,
    shape,
    spatial,
)
from meristem.axes.rules.registry import find, known

__all__ = [
    "attention",
    "contraction",
    "convolution",
    "creation",
    "embedding",
    "find",
    "indexing",
    "known",
    "normalization",
    "pointwise",
    "recurrent",
    "reduction",
    "scattering",
    "shape",
    "spatial",
]
