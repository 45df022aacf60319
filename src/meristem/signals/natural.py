"""The natural expansion score: what newborns add to `g^T F^-1 g`, from second moments, with Kronecker-factored F.

For one layer with inputs a and the gradient g of the loss with respect to its outputs, F is `E[a a^T] (x) E[g g^T]` and
the gradient of its weight is `D = E[g a^T]`, so that

    eta = g^T F^-1 g = tr(D A^-1 D^T G^-1),    A = E[a a^T], G = E[g g^T]

and newborns with activations f, written behind a, add (the Schur complement of the larger A)

    tr(C^T R^-1 C G^-1),    C = E[f res^T], res = g - D A^-1 a,    R = E[f f^T] - E[f a^T] A^-1 E[a f^T].

Mitchell, Menzenbach, Kersting, Mundt, "Self-Expanding Neural Networks", arXiv 2307.04526. Their code has `E[f f^T]` in
the place of R, which is never smaller, and so a lower bound; it is `bound` here, and the guide of the search for
newborns. For convolutions a and f are patches, and means are over samples and positions (KFC: Grosse, Martens 2016,
arXiv 1602.01407).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Reader:
    """Second moments at one weight that reads an axis, as means over samples and positions; float64.

    Attributes:
        inputs: of [what it reads today (1 too, if it has a bias), what it would read of candidates], shape
            (today + candidates * taps, today + candidates * taps).
        cross: mean of `g [a, f]^T`, shape (outs, today + candidates * taps).
        outputs: mean of `g g^T`, shape (outs, outs).
        today: how many inputs there are today.
        taps: how many entries of its weight belong to one candidate and output.
        positions: how many positions it has per sample.
    """

    inputs: Tensor
    cross: Tensor
    outputs: Tensor
    today: int
    taps: int
    positions: float


def score(reader: Reader, ridge: float) -> float:
    """`eta` of one reader today: at most its number of outputs, times positions.

    Half of it is the decrease of the local quadratic model of the loss, per sample, if the loss is a negative
    log-likelihood. It does not depend on the scale of the loss.

    Args:
        reader: its moments.
        ridge: what is added to A and G, as a share of their mean diagonals.
    """
    n = reader.today
    d = inverse_root(reader.outputs, ridge) @ reader.cross[:, :n]
    return reader.positions * float((d * torch.linalg.solve(ridged(reader.inputs[:n, :n], ridge), d.T).T).sum())


@dataclass(eq=False)
class Remaining:
    """What candidates would still add at one reader, after some have been chosen.

    Attributes:
        moments: R, shape (candidates, taps, candidates, taps).
        products: `C G^-1/2`, shape (candidates, taps, outs).
        positions: as the reader's.
    """

    moments: Tensor
    products: Tensor
    positions: float

    @classmethod
    def of(cls, reader: Reader, ridge: float) -> Remaining:
        """With none chosen."""
        n = reader.today
        mixed = reader.inputs[:n, n:]
        solved = torch.linalg.solve(ridged(reader.inputs[:n, :n], ridge), mixed)
        moments = reader.inputs[n:, n:] - mixed.T @ solved
        moments.diagonal().add_(ridge * reader.inputs.diagonal()[n:].clamp(min=0) + torch.finfo(moments.dtype).tiny)
        products = (reader.cross[:, n:] - reader.cross[:, :n] @ solved).T @ inverse_root(reader.outputs, ridge)
        shape = (len(moments) // reader.taps, reader.taps)
        return cls(moments.reshape(*shape, *shape), products.unflatten(0, shape), reader.positions)

    def increases(self) -> Tensor:
        """What each candidate alone would add now: shape (candidates,)."""
        own = self.moments.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        return self.positions * (self.products * torch.linalg.solve(own, self.products)).sum((1, 2))

    def choose(self, candidate: int) -> Remaining:
        """With one more chosen: the others are freed from what it explains, and it has nothing more to add."""
        column = self.moments[:, :, candidate]
        solved = torch.linalg.solve(column[candidate], column.flatten(0, 1).T)
        moments = self.moments - (column.flatten(0, 1) @ solved).reshape(self.moments.shape)
        explained = (solved.T @ self.products[candidate]).reshape(self.products.shape)
        products = self.products - explained
        moments[candidate, :, candidate] = torch.eye(moments.shape[1], dtype=moments.dtype, device=moments.device)
        products[candidate] = 0
        return Remaining(moments, products, self.positions)


def chosen(readers: tuple[Reader, ...], count: int, ridge: float) -> tuple[list[int], list[float]]:
    """Candidates that add most to the score, one after the other, and by how much each raises it.

    What they add together is the sum, whatever the order. Candidates that add no more than rounding are not chosen.

    Args:
        readers: of one axis; their F is block-diagonal, so that their scores add up.
        count: how many at most.
        ridge: as for `score`; R gets it as a share of what each candidate has for itself.
    """
    left = [Remaining.of(reader, ridge) for reader in readers]
    found: list[int] = []
    added: list[float] = []
    floor = 1e-9 * sum(reader.positions for reader in readers)
    while len(found) < min(count, len(left[0].moments)):
        values = torch.stack([remaining.increases() for remaining in left]).sum(0)
        best = int(values.argmax())
        if not values[best] > floor:
            break
        found.append(best)
        added.append(float(values[best]))
        left = [remaining.choose(best) for remaining in left]
    return found, added


def bound(taps: Tensor, residual: Tensor, ridge: float) -> Tensor:
    """`tr(C^T E[f f^T]^-1 C G^-1)` of each candidate alone: at most what it would add. Differentiable.

    Args:
        taps: what the reader would read of each candidate, shape (candidates, rows, taps).
        residual: `G^-1/2 res`, shape (rows, outs).
        ridge: added to the moments of the taps, as a share of their mean diagonal.

    Returns:
        shape (candidates,).
    """
    moments = taps.mT @ taps / len(residual)
    products = taps.mT @ residual / len(residual)
    mean = moments.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(moments.dtype).tiny)
    moments = moments + ridge * torch.diag_embed(mean[:, None].expand(moments.shape[:2]))
    return (products * torch.linalg.solve(moments, products)).sum((1, 2))


def most_additions(score: float, ceiling: float, relative: float) -> float:
    """After how many additions, each of which raises the score by at least a share of it, it would be at its ceiling.

    The bound on the rate of addition: `ln(ceiling / score) / ln(1 + relative)`.

    Args:
        score: eta today.
        ceiling: what eta cannot exceed; for one layer the number of outputs, times positions.
        relative: the share by which each addition has to raise it.
    """
    ratio = torch.tensor(ceiling, dtype=torch.float64) / score
    return max(0.0, float(ratio.log() / torch.tensor(relative, dtype=torch.float64).log1p()))


def ridged(moment: Tensor, ridge: float) -> Tensor:
    """A second moment with a share of its mean diagonal added to its diagonal; the identity if it is zero."""
    mean = float(moment.diagonal().mean()) or 1.0
    return moment + ridge * mean * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)


def inverse_root(moment: Tensor, ridge: float) -> Tensor:
    """`(G + ridge)^-1/2`, symmetric."""
    values, vectors = torch.linalg.eigh(ridged(moment, ridge))
    floor = torch.finfo(values.dtype).eps * float(values[-1])
    return vectors / values.clamp(min=floor).sqrt() @ vectors.T
