"""One small model per operator that the zoo does not exercise: the axes found, and the judge's checks on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.judge import culprits, growth_check, half, permutation_check, prune_check, subject
from tests.zoo.row import Row


class Forward(nn.Module):
    """Modules by name, and a forward over them given as a function."""

    def __init__(self, run: Callable[..., Any], **modules: nn.Module | nn.Parameter | int) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def lora() -> nn.Module:
    """A low-rank update of a weight: two parameters contracted with each other."""
    return Forward(
        lambda m, x: m.head(F.linear(x, m.base.weight + m.up @ m.down).relu()),
        base=nn.Linear(5, 6),
        up=nn.Parameter(torch.randn(6, 4)),
        down=nn.Parameter(torch.randn(4, 5)),
        head=nn.Linear(6, 3),
    )


def image_net(middle: Callable[[Any, Tensor], Tensor], out: int, after: int, **modules: nn.Module) -> nn.Module:
    return Forward(
        lambda m, x: m.head(middle(m, m.stem(x)).mean((2, 3))),
        stem=nn.Conv2d(3, out, 3, padding=1),
        head=nn.Linear(after, 3),
        **modules,
    )


def grouped_query(m: Any, x: Tensor) -> Tensor:
    b, t, _ = x.shape
    q = m.q(x).view(b, t, -1, 4).transpose(1, 2)
    k, v = (layer(x).view(b, t, -1, 4).transpose(1, 2) for layer in (m.k, m.v))
    x = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return m.out(x.transpose(1, 2).reshape(b, t, -1))


def chosen_experts(m: Any, x: Tensor) -> Tensor:
    """The matrices of two experts for every sample."""
    shares, chosen = m.gate(x).softmax(-1).topk(2)
    hidden = torch.einsum("bi,beih->beh", x, m.up[chosen]).relu() + m.shift[chosen]
    return torch.einsum("beh,behk,be->bk", hidden, m.down[chosen], shares)


def dispatched_experts(m: Any, x: Tensor) -> Tensor:
    """Samples are sent to their two experts, one expert after the other."""
    shares, chosen = m.gate(x).softmax(-1).topk(2)
    found = x.new_zeros(len(x), m.down.shape[-1])
    for expert in range(m.gate.out_features):
        sample, place = torch.where(chosen == expert)
        hidden = (x[sample] @ m.up[expert]).relu() + m.shift[expert]
        found.index_add_(0, sample, hidden @ m.down[expert] * shares[sample, place, None])
    return found


def pooled(how: Callable[[Tensor, Tensor, Tensor], Tensor]) -> nn.Module:
    """Steps are pooled two by two into a tensor whose width the model keeps as a number."""

    def run(m: Any, x: Tensor) -> Tensor:
        place = (torch.arange(x.shape[1]) // 2)[None, :, None].expand(len(x), -1, m.width)
        return m.head(how(x.new_zeros(len(x), 2, m.width), place, m.a(x).tanh()).amax(1))

    return Forward(run, head=nn.Linear(6, 3), a=nn.Linear(5, 6), width=6)


def shift_of_one_step(m: Any, x: Tensor) -> Tensor:
    """A parameter is added to the step that scores best."""
    place = x.sum(2).argmax(1)[:, None, None].expand(-1, 1, m.width)
    return m.head(m.a(x).scatter_add(1, place, m.shift.expand(len(x), 1, -1)).tanh().mean(1))


def masked_by_another(m: Any, x: Tensor) -> Tensor:
    hidden = m.a(x).clone()
    hidden[m.b(x) > 0] = 0.5
    return m.head(hidden.tanh())


def transposed_in_place(m: Any, x: Tensor) -> Tensor:
    hidden = m.a(x)
    hidden.t_()
    hidden.mul_(2)
    hidden.transpose_(0, 1)
    return m.head(hidden.tanh())


def experts(run: Callable[..., Any]) -> nn.Module:
    return Forward(
        lambda m, x: m.head(run(m, m.stem(x))),
        stem=nn.Linear(5, 7),
        gate=nn.Linear(7, 4),
        up=nn.Parameter(torch.randn(4, 7, 6)),
        shift=nn.Parameter(torch.randn(4, 6)),
        down=nn.Parameter(torch.randn(4, 6, 8)),
        head=nn.Linear(8, 3),
    )


CASES: dict[str, tuple[Callable[[], nn.Module], Sequence[tuple[int, ...]], list[int]]] = {
    # name: (model, shapes of the inputs without the batch, sizes of the editable axes)
    "lora": (lora, [(5,)], [6, 4]),
    "bilinear": (
        lambda: Forward(
            lambda m, x: m.head(m.both(m.a(x), m.b(x)).relu()),
            a=nn.Linear(5, 4), b=nn.Linear(5, 6), both=nn.Bilinear(4, 6, 7), head=nn.Linear(7, 3),
        ),
        [(5,)],
        [4, 6, 7],
    ),
    "pixel shuffle": (lambda: image_net(lambda m, x: F.pixel_shuffle(x, 2), 12, 3), [(3, 4, 4)], [3]),
    "pixel unshuffle": (lambda: image_net(lambda m, x: F.pixel_unshuffle(x, 2), 4, 16), [(3, 4, 4)], [4]),
    "channel shuffle": (
        lambda: image_net(lambda m, x: m.conv(nn.ChannelShuffle(2)(x)), 6, 4, conv=nn.Conv2d(6, 4, 1)),
        [(3, 4, 4)],
        [3, 4],
    ),
    "patches": (
        lambda: Forward(
            lambda m, x: m.head(m.mix(F.unfold(m.stem(x), 2).transpose(1, 2)).mean(1)),
            stem=nn.Conv2d(3, 4, 1), mix=nn.Linear(16, 5), head=nn.Linear(5, 3),
        ),
        [(3, 4, 4)],
        [4, 5],
    ),
    "folded patches": (
        lambda: Forward(
            lambda m, x: m.head(F.fold(m.mix(x).transpose(1, 2), (3, 3), 2).mean((2, 3))),
            mix=nn.Linear(5, 16), head=nn.Linear(4, 3),
        ),
        [(4, 5)],
        [4],
    ),
    "prelu": (lambda: image_net(lambda m, x: m.act(x), 6, 6, act=nn.PReLU(6)), [(3, 4, 4)], [6]),
    "glu over channels": (lambda: image_net(lambda m, x: F.glu(x, 1), 8, 4), [(3, 4, 4)], [4]),
    "padded channels": (
        lambda: image_net(lambda m, x: m.conv(x) + F.pad(x, (0, 0, 0, 0, 1, 2)), 4, 7, conv=nn.Conv2d(4, 7, 1)),
        [(3, 4, 4)],
        [4],
    ),
    "interpolated skip": (
        lambda: image_net(
            lambda m, x: x + F.interpolate(m.down(F.max_pool2d(x, 2)), size=(4, 4)), 6, 6, down=nn.Conv2d(6, 6, 1)
        ),
        [(3, 4, 4)],
        [6],
    ),
    "stacked branches": (
        lambda: Forward(
            lambda m, x: m.head(torch.stack([m.a(x), m.b(x)], 1).amax(1)),
            a=nn.Linear(5, 6), b=nn.Linear(5, 6), head=nn.Linear(6, 3),
        ),
        [(5,)],
        [6],
    ),
    "repeat": (
        lambda: Forward(lambda m, x: m.head(m.a(x).repeat(1, 3)), a=nn.Linear(5, 4), head=nn.Linear(12, 3)),
        [(5,)],
        [4],
    ),
    "repeat interleave": (
        lambda: Forward(
            lambda m, x: m.head(m.a(x).repeat_interleave(3, 1)), a=nn.Linear(5, 4), head=nn.Linear(12, 3)
        ),
        [(5,)],
        [4],
    ),
    "einsum with an ellipsis": (
        lambda: Forward(
            lambda m, x: m.head(torch.einsum("...i,oi->...o", x, m.weight).relu()),
            weight=nn.Parameter(torch.randn(6, 5)), head=nn.Linear(6, 3),
        ),
        [(4, 5)],
        [6],
    ),
    "projected lstm": (
        lambda: Forward(
            lambda m, x: m.head(m.rnn(x)[0][:, -1]),
            rnn=nn.LSTM(5, 6, proj_size=4, batch_first=True), head=nn.Linear(4, 3),
        ),
        [(4, 5)],
        [6, 4],
    ),
    "plain rnn": (
        lambda: Forward(
            lambda m, x: m.head(m.rnn(x)[0][:, -1]), rnn=nn.RNN(5, 6, batch_first=True), head=nn.Linear(6, 3)
        ),
        [(4, 5)],
        [6],
    ),
    "gru cell": (
        lambda: Forward(
            lambda m, x: m.head(m.cell(x[:, 1], m.cell(x[:, 0]))), cell=nn.GRUCell(5, 6), head=nn.Linear(6, 3)
        ),
        [(4, 5)],
        [6],
    ),
    "grouped-query attention": (
        lambda: Forward(
            grouped_query, q=nn.Linear(8, 24), k=nn.Linear(8, 12), v=nn.Linear(8, 12), out=nn.Linear(24, 3)
        ),
        [(4, 8)],
        [3, 2],
    ),
    "addmm and baddbmm": (
        lambda: Forward(
            lambda m, x: m.head(torch.addmm(m.bias, x, m.weight).relu()),
            bias=nn.Parameter(torch.randn(6)), weight=nn.Parameter(torch.randn(5, 6)), head=nn.Linear(6, 3),
        ),
        [(5,)],
        [6],
    ),
    "unbatched-style convolution over time": (
        lambda: Forward(
            lambda m, x: m.head(m.conv(x.transpose(1, 2)).amax(2)),
            conv=nn.Conv1d(5, 6, 2), head=nn.Linear(6, 3),
        ),
        [(4, 5)],
        [6],
    ),
    "experts whose matrices are chosen": (lambda: experts(chosen_experts), [(5,)], [7, 6, 8]),
    "experts to which samples are sent": (lambda: experts(dispatched_experts), [(5,)], [7, 6, 8]),
    "a table": (
        lambda: Forward(
            lambda m, x: m.head((m.a(x) + m.table[x.argmax(1)]).relu() * m.scales.index_select(0, x.argmin(1))),
            a=nn.Linear(5, 6), table=nn.Parameter(torch.randn(5, 6)), scales=nn.Parameter(torch.randn(5, 6)),
            head=nn.Linear(6, 3),
        ),
        [(5,)],
        [6],
    ),
    "scattered": (lambda: pooled(lambda z, place, x: z.scatter_(1, place, x)), [(4, 5)], [6]),
    "scattered and added": (lambda: pooled(lambda z, place, x: z.scatter_add(1, place, x)), [(4, 5)], [6]),
    "scattered and reduced": (
        lambda: pooled(lambda z, place, x: z.scatter_reduce(1, place, x, "mean")), [(4, 5)], [6]
    ),
    "a scattered parameter": (
        lambda: Forward(
            shift_of_one_step,
            head=nn.Linear(6, 3), shift=nn.Parameter(torch.randn(6)), a=nn.Linear(5, 6), width=6,
        ),
        [(4, 5)],
        [6],
    ),
    "taken along a dimension": (
        lambda: Forward(
            lambda m, x: m.head(m.a(x).take_along_dim(x.sum(2).argmax(1)[:, None, None], 1)[:, 0]),
            a=nn.Linear(5, 6), head=nn.Linear(6, 3),
        ),
        [(4, 5)],
        [6],
    ),
    "masked by another layer": (
        lambda: Forward(masked_by_another, a=nn.Linear(5, 6), b=nn.Linear(5, 6), head=nn.Linear(6, 3)), [(5,)], [6]
    ),
    "unsqueezed in place": (
        lambda: Forward(
            lambda m, x: m.head(m.a(x).unsqueeze_(1).mul_(2).squeeze_(1).tanh()),
            a=nn.Linear(5, 6), head=nn.Linear(6, 3),
        ),
        [(5,)],
        [6],
    ),
    "transposed in place": (
        lambda: Forward(transposed_in_place, a=nn.Linear(5, 6), head=nn.Linear(6, 3)), [(5,)], [6]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str) -> None:
    build, shapes, sizes = CASES[name]
    traced = subject(Row(name, build, lambda batch: tuple(torch.randn(batch, *shape) for shape in shapes), small=True))
    assert sorted(axis.size for axis in traced.axes.editable) == sorted(sizes)
    for check in (permutation_check, prune_check(half), growth_check(lambda size: 2, 1e-12)):
        assert culprits(check, traced, traced.axes.editable) == {}


FROZEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    # name: (model with a layer `a` of 6 units between 5 inputs and an output, why `a` is frozen)
    "roll": (lambda: chain(lambda x: x.roll(1, 1)), "rolled"),
    "flip": (lambda: chain(lambda x: x.flip(1)), "order matters"),
    "sort": (lambda: chain(lambda x: x.sort(1).values), "order matters"),
    "cumsum": (lambda: chain(lambda x: x.cumsum(1)), "order matters"),
    "picked": (lambda: chain(lambda x: x[:, [0, 2, 1, 3, 4, 5]]), "picked by position"),
    "the first one for all": (
        lambda: chain(lambda x: x + x[:, None].gather(1, torch.zeros(len(x), 1, 1, dtype=torch.long))[:, 0]),
        "picked by position",
    ),
    "put in reverse": (lambda: chain(put_in_reverse), "picked by position"),
    "the first four scattered": (
        lambda: chain(
            lambda x: torch.zeros(len(x), 1, 6).scatter(1, torch.zeros(len(x), 1, 4, dtype=torch.long), x[:, None])[
                :, 0
            ]
        ),
        "picked by position",
    ),
    "quantile": (lambda: chain(lambda x: x * x.quantile(0.5, dim=1, keepdim=True)), "order matters"),
    "every other": (lambda: chain(lambda x: x[:, ::2], 3), "picked by position"),
    "a constant": (lambda: chain(lambda x: x * torch.arange(6.0)), "constant"),
    "positions of the largest": (lambda: chain(lambda x: x * x.argmax(1, keepdim=True)), "positions along it"),
    "pooled over units": (lambda: chain(lambda x: F.max_pool1d(x, 2), 3), "positions"),
}


def put_in_reverse(x: Tensor) -> Tensor:
    made = torch.zeros(6, len(x))
    made[torch.arange(5, -1, -1)] = x.t()
    return made.t()


def chain(middle: Callable[[Tensor], Tensor], after: int = 6) -> nn.Module:
    return Forward(lambda m, x: m.head(middle(m.a(x))), a=nn.Linear(5, 6), head=nn.Linear(after, 3))


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_with_the_reason(name: str) -> None:
    import meristem

    build, reason = FROZEN[name]
    model = build()
    frozen = meristem.trace(model, torch.randn(2, 5))["a"].frozen
    assert frozen is not None
    assert reason in frozen
