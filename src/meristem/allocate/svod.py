"""SVoD: candidates on all axes, trained together for a moment, vote for where newborns go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor, nn

from meristem.allocate.allocator import Allocator, Offer
from meristem.allocate.ranked import best
from meristem.axes.expression import units_along
from meristem.axes.map import Axis, AxisMap, Place, Role
from meristem.edit import Change, Gather, Newborns, Slice, Trial, trial
from meristem.edit.newborns import copied, incumbents
from meristem.edit.noise import draw_uniform
from meristem.errors import ConfigError, EditError
from meristem.grow.parts.closure import gradients
from meristem.prune.scales import carried_scales
from meristem.signals import View

BOUND = 1e-2
"""Of all weights and biases of candidates at first."""


@dataclass(frozen=True)
class SVoD(Allocator):
    """The Steepest Voting Distributor: newborns go where candidates would lower the loss most steeply. For growth only.

    Chatzis, Kordonis, Theodosis, Maragos, arXiv 2509.18842, as in the published code. To divide N newborns,

    1. every axis gets 2 N candidates, all axes at once, all of whose weights and biases are `U(-0.01, 0.01)`;
    2. the whole model is trained with them by RMSprop (alpha 0.9, momentum 0.1);
    3. a gate y multiplies the pre-activation of each candidate by 1 + y, and its score is dL/dy at y = 0, summed over
       samples, positions and evaluations of the loss;
    4. of all candidates the N with the lowest scores have one vote each, for the axis they stand on.

    Then everything is put back bit for bit, and the growth method makes the newborns, as ever. Votes are the same for
    the same seed and step. Limits hold: an axis has no more votes than it may gain units.

    Gates need not exist. A factor on a pre-activation is one on everything that makes it, so `dL/dy = sum w dL/dw` over
    the weights and biases that produce the unit, in all their positions and, of several weights that add into one
    activation, in all of them (derived). Batch normalization answers the same whatever the scale of what it is given,
    so behind it the gate multiplies what it gives, its scale and bias; and where it has none, what reads the unit.

    Not as in the paper: it trains for one epoch and judges in another, here the loss is evaluated `steps + passes`
    times, on the batches that the closure gives. A closure that goes through the data once in `steps` evaluations, and
    once more in `passes`, is the paper's.

    Attributes:
        steps: of training (default 100).
        passes: evaluations of the loss for the scores (default 10).
        learning_rate: of RMSprop (default 0.001, as published).

    Raises:
        ConfigError: a setting is out of its range; it is asked to divide pruning; or no closure was given (when an edit
            is due).
        EditError: (when an edit is due) an axis has no weights that a gate could multiply.
        SignalError: (when an edit is due) the loss or its gradient is not finite.

    Fails: candidates are small and hardly trained, so axes with large gradients win. All of them are in place at once,
    so they disturb one another, and take the memory of 2 N units on every axis. A weight that both reads and produces
    an axis in one dimension (a tied embedding) counts with both. Behind a norm of single units other than batch
    normalization scores are next to nothing.
    """

    steps: int = 100
    passes: int = 10
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.steps >= 0 and self.passes >= 1 and 0 < self.learning_rate < inf):
            raise ConfigError(f"expected steps >= 0, passes >= 1 and learning_rate > 0, got {self!r}")

    @property
    def polls(self) -> bool:
        return True

    def polled(self, view: View, offers: Sequence[Offer], total: int) -> Sequence[Offer]:
        """Offers with the votes that could be cast for them: minus the scores of candidates, the best first."""
        scores = self.scores(view, [offer.axis for offer in offers if offer.counts], total)
        none = torch.zeros(0, dtype=torch.float64)
        return [replace(o, gains=-scores.get(o.axis.name, none).sort().values) for o in offers]

    def shares(self, total: int, offers: Sequence[Offer]) -> Sequence[float]:
        """The votes."""
        found = [offer.gains[: offer.most] for offer in offers if offer.gains is not None]
        if offers[0].action != "grow" or len(found) < len(offers):
            raise ConfigError(
                "SVoD divides growth by the votes of candidates, which it takes from the loss; "
                + (
                    "nothing votes for pruning or replacement: use Separately(grow=SVoD(), prune=...)"
                    if offers[0].action != "grow"
                    else "these offers come without: `polled` takes them"
                )
            )
        return best(found, total)

    def votes(self, view: View, axes: Sequence[Axis], total: int) -> dict[str, int]:
        """How many of `total` newborns each axis is voted for, by name, whatever the limits.

        Args:
            view: the model today, with a closure; the seed of its generator is that of the candidates.
            axes: the axes, at least one.
            total: how many newborns.
        """
        scores = self.scores(view, axes, total)
        counts = best([-found.sort().values for found in scores.values()], total)
        return dict(zip(scores, map(int, counts), strict=True))

    def scores(self, view: View, axes: Sequence[Axis], total: int) -> dict[str, Tensor]:
        """dL/dy of the gates of the candidates of each axis, by name: float64 on the CPU, shape (2 total,)."""
        if view.closure is None:
            raise ConfigError(
                "SVoD takes votes from the training loss: call plasticity.step(loss, closure) with a function that "
                "runs the model on a batch and returns the loss"
            )
        if not axes or total < 1:
            return {axis.name: torch.zeros(0, dtype=torch.float64) for axis in axes}
        seed = view.generator.initial_seed()
        view = replace(view, generator=torch.Generator().manual_seed(seed))
        gates = {axis.name: (axis, _gated(view.axes, axis)) for axis in axes}
        before = list(view.axes.model.parameters())
        changes = [Change(axis, Gather.grow(axis.size, 2 * total), Candidates()) for axis in axes]
        with trial(view.axes, changes, seed) as tried, _kept(_shared(view.axes.model, before) if self.steps else ()):
            _train(view, self.steps, self.learning_rate)
            found = [torch.zeros(2 * total, dtype=torch.float64) for _ in axes]
            for _ in range(self.passes):
                for scores, new in zip(found, _slopes(view, tried, list(gates.values())), strict=True):
                    scores += new
        return dict(zip(gates, found, strict=True))


@dataclass(frozen=True)
class Candidates(Newborns):
    """Newborns all of whose weights and biases are small random numbers; scales, means and variances do nothing.

    Preserved: nothing.
    """

    def values(self, s: Slice) -> Tensor:
        if copied(s.layout, s.roles):
            return incumbents(s)
        carried = not s.roles & {Role.PRODUCES, Role.READS} and (s.layout.buffer or s.layout.neutral)
        if carried or not s.old.is_floating_point():
            return s.old.new_full((), s.layout.neutral or 0).expand(s.shape)
        return draw_uniform(s.old.new_empty(s.shape), BOUND, s.generator)


def _gated(axes: AxisMap, axis: Axis) -> tuple[Place, ...]:
    """The dimensions of parameters in which a gate on the pre-activation of a unit multiplies what belongs to it."""
    places = [place for place in axes.places[axis.index] if not place.layout.buffer]
    paths = axes.paths.get(axis.index, ())
    producing = {place.layout.name for place in places if Role.PRODUCES in place.roles}
    scales = {place.layout.name for place in carried_scales(axes, axis)}
    if scales and not any(path.blocked is None and not path.batch_norms for path in paths):
        wanted = scales | _beside(places, scales)
        return tuple(place for place in places if place.layout.name in wanted)
    if producing and not (paths and all(path.batch_norms for path in paths)):
        known = {path.producer.weight: path.producer.bias for path in paths}
        biases = {*known.values(), *_beside(places, producing - known.keys())}
        return tuple(p for p in places if Role.PRODUCES in p.roles or p.layout.name in biases)
    reading = tuple(place for place in places if Role.READS in place.roles)
    if not reading:
        raise EditError(f"SVoD has no gates on {axis.name!r}: no weights produce or read it; leave it out with `axes=`")
    return reading


def _beside(places: Iterable[Place], names: Iterable[str]) -> set[str]:
    """The biases in the modules of some weights."""
    modules = {name.rpartition(".")[0] for name in names}
    return {
        place.layout.name
        for place in places
        if place.roles == {Role.CARRIES}
        and place.layout.neutral == 0.0
        and place.layout.name.rpartition(".")[0] in modules
    }


def _shared(model: nn.Module, before: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that a trial trains but has not put in the place of others."""
    known = {id(parameter) for parameter in before}
    return [p for p in model.parameters() if p.requires_grad and id(p) in known]


@contextmanager
def _kept(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Parameters are afterwards as they were, bit for bit."""
    values = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)


def _train(view: View, steps: int, learning_rate: float) -> None:
    """Train all parameters of the model, in float32 or better; their `grad` stays as it is."""
    parameters = [p for p in view.axes.model.parameters() if p.requires_grad]
    with torch.inference_mode(False), torch.no_grad():
        leaves = [p.detach().to(torch.promote_types(p.dtype, torch.float32)) for p in parameters]
        optimizer = torch.optim.RMSprop(leaves, learning_rate, alpha=0.9, momentum=0.1)
        for _ in range(steps):
            for leaf, gradient in zip(leaves, gradients(view, parameters), strict=True):
                leaf.grad = gradient.to_dense().to(leaf)
            optimizer.step()
            for parameter, leaf in zip(parameters, leaves, strict=True):
                parameter.copy_(leaf)


def _slopes(view: View, tried: Trial, gates: Sequence[tuple[Axis, Sequence[Place]]]) -> Iterator[Tensor]:
    """dL/dy of every candidate in one evaluation of the loss: for each axis float64 on the CPU, shape (candidates,)."""
    names = list(dict.fromkeys(place.layout.name for _, places in gates for place in places))
    parameters = [tried.parameter(name).requires_grad_() for name in names]  # of the trial alone, frozen ones too
    products: Mapping[str, Tensor] = {
        name: parameter.detach().double() * gradient.to_dense().double()
        for name, parameter, gradient in zip(names, parameters, gradients(view, parameters), strict=True)
    }
    for axis, places in gates:
        sums = torch.zeros(tried.sizes[axis.index], dtype=torch.float64)
        for place in places:
            units = units_along(place.layout.dims[place.dim], axis.index, tried.sizes)
            product = products[place.layout.name].movedim(place.dim, 0)
            along = product.reshape(len(product), -1).sum(1).cpu()
            sums.index_add_(0, units[units >= 0], along[units >= 0])
        yield sums[axis.size :]
