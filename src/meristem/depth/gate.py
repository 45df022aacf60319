"""Gate: branches go whose last scale, normalization or layer is near zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meristem.depth.change import Remove
from meristem.depth.columns import columns, largest
from meristem.depth.criterion import Closure, Cut, DepthCriterion, concatenated, path_of
from meristem.depth.silence import Obstacle, opened_by, silenced_by
from meristem.errors import EditError


@dataclass(frozen=True)
class Gate(DepthCriterion):
    """The largest absolute entry of the parameters that silence what is removed: 0 if the removal changes nothing.

    For a branch of a sum these are the parameters of its last layer, normalization or layer scale, for one of a
    concatenation the columns that read its units; for a block that is removed as a whole, those of all its branches.
    Training with a penalty on these scales drives whole branches to zero, as network slimming does with channels (Liu
    et al., ICCV 2017, arXiv 1708.06519; for blocks, with a factor for each, Huang and Wang, "Data-Driven Sparse
    Structure Selection", ECCV 2018, arXiv 1707.01213).

    Fails: scales are comparable only behind normalizations; two linear layers can trade a factor.

    Raises:
        EditError: no parameters silence one of the removals, such as that of units over which others are normalized.
    """

    requires_closure: ClassVar[bool] = False

    def scores(self, cuts: Sequence[Cut], closure: Closure | None = None) -> Tensor:
        return torch.tensor([self._score(cut) for cut in cuts], dtype=torch.float64)

    def _score(self, cut: Cut) -> float:
        flow, tensors = cut.places.flow, dict(cut.places.model.named_parameters())
        branch = concatenated(cut)
        if branch is not None:
            return largest(columns(cut.places.axes, branch), tensors)
        names: dict[str, None] = {}
        for call in flow.of[path_of(cut)]:
            given, returned = flow.version(call.inputs[0], call.first), flow.version(call.outputs[0], call.last)
            whole = isinstance(cut, Remove)
            found = opened_by(flow, given, returned) if whole else silenced_by(flow, returned)
            if isinstance(found, Obstacle):
                raise EditError(f"Gate is not defined for {path_of(cut)}: {found.reason}")
            names.update(dict.fromkeys(found))
        return max(float(tensors[name].detach().abs().max()) for name in names)
