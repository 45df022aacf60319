"""The market of single weights: births by what their gradient could do, deaths by what they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isnan
from typing import Any, ClassVar

import torch
from torch import Tensor

from meristem.axes.expression import leaves, units_along
from meristem.axes.map import Axis, AxisMap
from meristem.edit import trial
from meristem.errors import ConfigError
from meristem.grow.parts.closure import evaluated
from meristem.grow.parts.line_search import lowest_along
from meristem.ledger.account import Account
from meristem.ledger.entry import Entry, Key, Kind, Ladder, Level, Lot
from meristem.ledger.market import Made, Market, Taken
from meristem.ledger.moves import Moves, WeightMoves
from meristem.ledger.trade import Rewiring
from meristem.mask.sparse import Sparse
from meristem.signals import Statistic, View

TINIEST = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, eq=False)
class Weights(Market):
    """Single weights of a model that trains sparsely.

    A weight w from x_j to z_i moves z_i by `w x_j`. Its death changes the loss by `-g w` in first order, g its
    gradient; worth is `|g| |w|`, with the root of the mean of g^2 over the recorded passes: Taylor on a single weight.

    A birth moves z_i from 0 to `w x_j`. The move that the loss asks for, at the rate of TINY's newborns, is minus the
    gradient of a sample's loss, `-N delta_i` with N samples and delta the gradient of their mean loss. The nearest to
    it that this weight can make, in least squares over samples and positions, has

        w = -E[N delta_i x_j] / E[x_j^2] = -g / S_j,    S_j = sum over positions of x_j^2, averaged over samples

    and changes the loss by `g w = -g^2 / S_j` in first order: the worth of the birth is `g^2 / S_j`, with g the mean
    over the recorded passes. This is what TINY's `s^2` is for a newborn unit, with one weight in place of a unit's
    fan-in and fan-out (derived; Verbockhaven et al. 2024, arXiv 2405.19816, section 4). As TINY's, newborns make the
    move at once, at an amplitude a: they start from `-a g / S_j` and are worth `a g^2 / S_j`.

    Cost of a weight: the operations of the contraction that its parameter is used in, divided by the number of its
    weights, whether they are there or not. So effective operations are density times those of the dense layer.

    Where `plasticity.step(loss, closure)` gives a closure, smaller amplitudes are tried too: for each parameter the one
    is taken with the lowest loss along the joint move of all its newborns. What they are worth falls with it.

    Weights are traded in lots, so that prices of millions of weights are compared in a moment.

    Attributes:
        sparse: keeps the masks; give it to the controller's `follow=` too. Its method should not change masks itself
            (`Static`). `RigL`, `SET`, `SNFS` and `DeepR` keep to the new densities; `GradualMagnitude`, `GraNet` and
            `IterativeMagnitude` go back to their own at each update: exchange after their last one.
        amplitude: a (default 1.0).
        lots: into how many lots what one parameter can trade at one edit is cut (default 32).
        least: so many weights stay in each parameter (default 1).
        age: from how many optimizer steps on a newborn weight may die, as for units (`Protect`). Weights of a newborn
            unit are as young as it is. Default 0: at once.

    Raises:
        ConfigError: `lots` or `least` is below 1, the age below 0, the amplitude not above 0, or the method's masks are
            its own: they keep to a pattern (`NM`, `Rows`), or are all chosen anew (`TopKAST`).

    Fails: prices are those of single trades. Weights that read alike and are born into the same row make the same move,
    of which each is promised the whole: give a closure, and trade a little at a time. Where the loss is a mean over
    many positions, each asks for a small part of the move only: then an amplitude of about their number is the better
    one to begin with.
    """

    level: ClassVar[Level] = "weight"

    sparse: Sparse
    amplitude: float = 1.0
    lots: int = 32
    least: int = 1
    age: int = 0

    def __post_init__(self) -> None:
        if self.lots < 1 or self.least < 1 or self.age < 0 or not self.amplitude > 0:
            raise ConfigError(
                f"expected lots and least of at least 1, an age of at least 0 and an amplitude above 0, got {self!r}"
            )
        method = self.sparse.method
        if method.obstacle is not None:
            raise ConfigError(
                f"single weights of {type(method).__name__} cannot be exchanged: {method.obstacle}. Use a method that "
                "leaves them to others, such as Static(distribution=Uniform())"
            )

    @property
    def masks(self) -> Mapping[str, Tensor]:
        return self.sparse.masks

    def require(self, axes: AxisMap, chosen: Sequence[Axis]) -> None:
        if self.sparse.model is not axes.model:
            raise ConfigError("Weights(sparse) belongs to another model than the one that is edited")
        account = Account(axes)
        for name in self.masks:
            account.weight(name)

    def needs(self, axes: AxisMap, chosen: Sequence[Axis], most: float) -> tuple[Statistic, ...]:
        return tuple(WeightMoves(name) for name in self.masks)

    def offers(self, view: View, chosen: Sequence[Axis], account: Account, most: float) -> tuple[Ladder, ...]:
        found = []
        for name, mask in self.masks.items():
            moves: Moves = view.recorded(WeightMoves(name))
            cost = account.weight(name)
            count = ceil(most / cost)
            absent, present = ~mask, int(mask.count_nonzero())
            lots = self._lots(name, "birth", self.amplitude * birth_worths(moves), absent, count, cost)
            found += [Ladder(Key("weight", "birth", name), lots)] if lots else []
            worths = death_worths(moves, view.tensors[name])
            mature = mask & ~self._young(view, name) if self.age else mask
            lots = self._lots(name, "death", worths, mature, min(count, present - self.least), cost)
            found += [Ladder(Key("weight", "death", name), lots)] if lots else []
        return tuple(found)

    def made(self, view: View, taken: Taken, known: dict[Any, Any]) -> Made:
        if not taken:
            return Made()
        starts, dear = {}, {}
        for key, lots in taken.items():
            if key.kind == "birth":
                move = birth_moves(view.recorded(WeightMoves(key.where)), lots)
                amplitude = self._best(view, key.where, move, lots)
                starts[key.where] = amplitude * move
                promised, kept = sum(lot.entry.worth for lot in lots), amplitude * _first_order(view, key.where, move)
                if kept < (1 - 1e-6) * promised:
                    dear[key] = kept / promised
        if dear:
            return Made(dear=dear)
        return Made(rewirings=(Rewiring(self.sparse, rewired(self.masks, taken), starts),))

    def _young(self, view: View, name: str) -> Tensor:
        """Which weights of a parameter are too young to die: themselves, or a unit that they belong to."""
        axes, found = view.axes, self.sparse.ages(name) < self.age
        for dim, expression in enumerate(axes.layouts[name].dims):
            for axis in dict.fromkeys(leaves(expression)):
                ages = view.ages.get(axes.axes[axis].name)
                if ages is not None and bool((ages < self.age).any()):
                    units = units_along(expression, axis, axes.sizes)
                    young = (units >= 0) & (ages < self.age)[units.clamp(min=0)]
                    found |= young.to(found.device).reshape(-1, *(1,) * (found.dim() - 1 - dim))
        return found

    def _best(self, view: View, name: str, move: Tensor, lots: Sequence[Lot]) -> float:
        """The amplitude with the lowest loss, see `line_search.best_amplitude`."""
        parameter = view.axes.model.get_parameter(name)
        before = parameter.detach().clone()

        def loss(amplitude: float) -> float:
            with trial(view.axes, []), torch.no_grad():
                parameter.add_((amplitude * move).to(parameter))
                try:
                    found = float(evaluated(view, view.generator.initial_seed()))
                finally:
                    parameter.copy_(before)
            return inf if isnan(found) else found

        return self.amplitude if view.closure is None else lowest_along(loss, self.amplitude)

    def _lots(self, name: str, kind: Kind, worths: Tensor, among: Tensor, count: int, cost: float) -> tuple[Lot, ...]:
        """The best births, or the cheapest deaths, among these weights."""
        places = among.reshape(-1).nonzero().flatten()
        order = worths.reshape(-1)[places].argsort(descending=kind == "birth", stable=True)[: max(count, 0)]
        chosen = places[order]
        size = max(1, ceil(len(chosen) / self.lots))
        return tuple(
            Lot(
                Entry("weight", kind, name, len(part), float(worths.reshape(-1)[part].sum()), len(part) * cost),
                tuple(part.tolist()),
            )
            for part in chosen.split(size)
            if len(part)
        )


def birth_moves(moves: Moves, lots: Sequence[Lot]) -> Tensor:
    """`-g / S_j` for the weights in these lots, 0 for all others."""
    members = torch.tensor([m for lot in lots for m in lot.members], device=moves.drive.device)
    found = torch.zeros_like(moves.drive)
    best = torch.where(moves.drive > 0, -moves.gradient / moves.drive.clamp(min=TINIEST), 0.0)
    found.view(-1)[members] = best.view(-1)[members]
    return found


def birth_worths(moves: Moves) -> Tensor:
    """`g^2 / S_j` for each weight; 0 where what it reads is always 0."""
    return torch.where(moves.drive > 0, moves.gradient.square() / moves.drive.clamp(min=TINIEST), 0.0)


def _first_order(view: View, name: str, move: Tensor) -> float:
    """By how much a move decreases the loss in first order."""
    moves: Moves = view.recorded(WeightMoves(name))
    return -float((moves.gradient * move).sum())


def death_worths(moves: Moves, weight: Tensor) -> Tensor:
    """`|g| |w|` for each weight."""
    return moves.square.sqrt() * weight.to(moves.square).abs()


def rewired(masks: Mapping[str, Tensor], taken: Taken) -> dict[str, Tensor]:
    """The masks after these births and deaths, of the parameters in which there are any."""
    found: dict[str, Tensor] = {}
    for key, lots in taken.items():
        mask = found.setdefault(key.where, masks[key.where].clone())
        members = torch.tensor([m for lot in lots for m in lot.members], dtype=torch.int64, device=mask.device)
        mask.view(-1)[members] = key.kind == "birth"
    return found
