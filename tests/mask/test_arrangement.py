"""Along which dimension weights have their inputs: heard, told by a map, or asked for; never guessed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem import Edit, trace
from meristem.errors import ConfigError
from meristem.mask import ERK, NM, Fixed, GradualMagnitude, Method, Rows, Sparse, Static, Wanda, one_shot

WIDTH = 16


class Two(nn.Module):
    """Nothing but two matrices: a row of zeros is heard."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(WIDTH, 32) / 4), nn.Parameter(torch.randn(32, 8) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.a) @ self.b


class Beside(nn.Module):
    """Matrices beside a buffer and a child."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(WIDTH, 24) / 4), nn.Parameter(torch.randn(8, 24) / 4)
        self.register_buffer("scale", torch.ones(24))
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(F.linear(torch.relu(x @ self.a) * self.scale, self.b)))


class Listed(nn.Module):
    """Matrices in a list, which computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterList([torch.randn(WIDTH, 32) / 4, torch.randn(32, 8) / 4])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.w[0]) @ self.w[1]


class Experts(nn.Module):
    """Experts that are chosen by number, laid out (experts, outputs, inputs)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 24, WIDTH) / 4), nn.Parameter(torch.randn(4, WIDTH, 24) / 4)

    def forward(self, x: Tensor) -> Tensor:
        share = torch.softmax(self.gate(x), -1)
        found = [F.linear(torch.relu(F.linear(x, self.up[e])), self.down[e]) * share[:, e : e + 1] for e in range(4)]
        return torch.stack(found).sum(0)


class Mixed(nn.Module):
    """All experts at once, laid out (experts, inputs, outputs): the last sum is over inputs of all experts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, 4), nn.Parameter(torch.randn(4, WIDTH, 24) / 4)
        self.down = nn.Parameter(torch.randn(4, 24, WIDTH) / 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.einsum("bi,eio->beo", x, self.up))
        return torch.einsum("beo,eoi,be->bi", hidden, self.down, torch.softmax(self.gate(x), -1))


class Heads(nn.Module):
    """Outputs, and then inputs, along two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Parameter(torch.randn(WIDTH, 4, 8) / 4), nn.Parameter(torch.randn(4, 8, 12) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bhd,hdw->bw", torch.relu(torch.einsum("bi,ihd->bhd", x, self.q)), self.o)


class Standardized(nn.Module):
    """A convolution by a kernel of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.kernel = nn.Conv2d(1, 8, 3), nn.Parameter(torch.randn(6, 8, 3, 3) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(torch.relu(self.first(x.view(-1, 1, 4, 4).repeat(1, 1, 2, 2))), self.kernel)


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "two": (Two, {"a": "i o", "b": "i o"}),
    "beside": (Beside, {"a": "i o", "b": "o i", "last.weight": "o i"}),
    "listed": (Listed, {"w.0": "i o", "w.1": "i o"}),
    "experts": (Experts, {"up": "o o i", "down": "o o i", "gate.weight": "o i"}),
    "mixed": (Mixed, {"up": "o i o", "down": "i i o", "gate.weight": "o i"}),
    "heads": (Heads, {"q": "i o o", "o": "i i o"}),
    "kernel": (Standardized, {"first.weight": "o i k k", "kernel": "o i k k"}),
    "bilinear": (lambda: nn.Sequential(nn.Linear(WIDTH, 8), Squared()), {"0.weight": "o i", "1.both.weight": "o i i"}),
    "recurrent": (lambda: Recurrent(), {"lstm.weight_ih_l0": "o i", "lstm.weight_hh_l0": "o i"}),
    "attention": (lambda: Attending(), {"own.in_proj_weight": "o i", "own.out_proj.weight": "o i"}),
}
"""What each dimension of each weight is, by hand: outputs, inputs, positions of a kernel."""
KNOWN = {"two", "bilinear", "recurrent", "attention"}


class Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Bilinear(8, 8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x, x.relu())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x[:, None])[0][:, 0]


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x[:, None], x[:, None], x[:, None], need_weights=False)[0][:, 0]


def built(case: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return CASES[case][0](), torch.randn(12, WIDTH)


def seen(mask: Tensor, dims: str) -> Tensor:
    """A mask as (outputs, inputs, *kernel)."""
    kinds = dims.split()
    order = [dim for kind in "oik" for dim, found in enumerate(kinds) if found == kind]
    last = next(dim for dim, found in enumerate([kinds[d] for d in order]) if found != "o")
    rest = mask.permute(order).flatten(0, last - 1) if last > 1 else mask.permute(order)
    return rest.flatten(1, kinds.count("i"))


def check_groups(sparsity: Sparse, dims: dict[str, str]) -> None:
    for name in sparsity.masks:
        found = seen(sparsity.masks[name], dims[name]).movedim(1, -1).unflatten(-1, (-1, 4)).sum(-1)
        assert set(found.flatten().tolist()) == {2}, name


def started(net: nn.Module, method: Method, **settings: object) -> Sparse:
    weights = [name for name, p in net.named_parameters() if p.dim() > 1 and p.shape[1] > 1 and "first" not in name]
    return Sparse(net, torch.optim.SGD(net.parameters(), 0.1), method, parameters=weights, **settings)


@pytest.mark.parametrize("pattern", [NM(m=4), Rows()], ids=["NM", "Rows"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_not_known_is_asked_for(case: str, pattern: NM | Rows) -> None:
    net, x = built(case)
    method = Static(density=0.5, distribution=pattern)
    if case not in KNOWN:
        with pytest.raises(ConfigError, match=r"inputs is not known.*example="):
            started(net, method)
    for example in (x, trace(net, x), *((None,) if case in KNOWN else ())):
        sparsity = started(net, method, example=example)
        for name, mask in sparsity.masks.items():
            found = seen(mask, CASES[case][1][name])
            if isinstance(pattern, NM):
                assert set(found.movedim(1, -1).unflatten(-1, (-1, 4)).sum(-1).flatten().tolist()) == {2}
            else:
                assert set(found.flatten(1).sum(1).tolist()) == {found[0].numel() // 2}
        sparsity.close()


def test_what_only_counts_asks_for_nothing() -> None:
    net, _ = built("listed")
    assert started(net, Static(density=0.5, distribution=ERK())).masks.density == 0.5


@pytest.mark.parametrize("case", ["two", "beside", "listed"])
def test_masks_of_wanda_are_gone_on_with(case: str) -> None:
    net, x = built(case)
    masks = one_shot(net, Wanda(density=0.5, m=4), lambda: net(x))
    sparsity = started(net, Fixed(masks=masks, distribution=NM(m=4)), example=x)
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsity.masks.items())


@pytest.mark.parametrize("case", ["beside", "mixed", "heads"])
def test_edits_keep_the_groups(case: str) -> None:
    net, x = built(case)
    sparsity = started(net, GradualMagnitude(density=0.5, end=4, interval=2, distribution=NM(m=4)), example=x)
    (optimizer,) = sparsity.optimizers
    axes = trace(net, x)
    for step in range(10):
        net(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        axis = next(axis for axis in axes.editable if axis.name in ("b", "up", "q#2"))
        if step > 4:
            edit = Edit(axes, optimizer, follow=[sparsity])
            axes = (edit.grow(axis, 4) if step % 2 else edit.prune(axis, [0, 5, 6, 7])).commit().axes
            check_groups(sparsity, CASES[case][1])
    assert len(axes.history) == 5
    state = sparsity.state_dict()
    sparsity.close()
    with pytest.raises(ConfigError, match="example="):
        started(net, sparsity.method, state=state)
    assert started(net, sparsity.method, state=state, example=axes).masks.density == 0.5


def test_a_matrix_that_is_multiplied_from_both_sides_is_refused() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.last = nn.Parameter(torch.randn(WIDTH, 8)), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(x @ self.w) @ self.w.T)

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.randn(12, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.places

    for net in (Tied(), Added()):
        with pytest.raises(ConfigError, match=r"nothing, or along each of its dimensions.*leave it out"):
            started(net, Static(density=0.5, distribution=NM(m=4)), example=torch.randn(12, WIDTH))
    with pytest.raises(ConfigError, match="of another model"):
        started(built("two")[0], Static(density=0.5, distribution=NM(m=4)), example=trace(net, torch.randn(12, WIDTH)))
