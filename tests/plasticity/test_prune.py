"""Criteria against brute force over whatever belongs to a unit."""

import pytest
import torch
from torch import nn

from meristem.axes import Role, trace
from meristem.errors import ConfigError, EditError, UnknownAxisError
from meristem.prune import Magnitude, Protect, Random
from meristem.prune.catalogue import require_defined
from meristem.signals import View
from tests.plasticity.models import build


def norm(*slices: torch.Tensor, p: int = 2) -> torch.Tensor:
    return torch.cat([s.detach().flatten() for s in slices]).norm(p)


@pytest.mark.parametrize("p", [1, 2])
def test_magnitude_is_the_norm_of_the_producing_slices(p):
    model, x = build("convolutions")
    axes = trace(model, x)
    scores = Magnitude(p).scores(View(axes), axes["0"])
    # the depthwise kernel is carried along, it does not produce the channels
    expected = torch.stack([norm(model[0].weight[j], p=p) for j in range(6)])
    torch.testing.assert_close(scores, expected)
    scores = Magnitude(p).scores(View(axes), axes["5"])
    torch.testing.assert_close(scores, torch.stack([norm(model[5].weight[j], p=p) for j in range(4)]))


def test_magnitude_over_the_whole_group_counts_everything_but_buffers():
    model, x = build("convolutions")
    axes = trace(model, x)
    scores = Magnitude(roles=tuple(Role)).scores(View(axes), axes["5"])
    columns = model[8].weight.detach().unflatten(1, (4, 16))
    expected = torch.stack([norm(model[5].weight[j], model[5].bias[j], columns[:, j]) for j in range(4)])
    torch.testing.assert_close(scores, expected)


def test_magnitude_of_a_residual_stream_counts_all_its_producers():
    model, x = build("residual")
    axes = trace(model, x)
    scores = Magnitude().scores(View(axes), axes["stem"])
    expected = torch.stack([norm(model.stem.weight[j], model.down.weight[j]) for j in range(8)])
    torch.testing.assert_close(scores, expected)


def test_magnitude_of_heads_is_that_of_all_their_rows():
    model, x = build("attention")
    axes = trace(model, x)
    heads = next(axis for axis in axes.editable if axis.size == 2)
    rows = [getattr(model, name).weight.detach().unflatten(0, (2, 4)) for name in "qkv"]
    expected = torch.stack([norm(*(row[h] for row in rows)) for h in range(2)])
    torch.testing.assert_close(Magnitude().scores(View(axes), heads), expected)


def test_magnitude_sums_half_precision_in_float32():
    producer = nn.Linear(4096, 2, bias=False)
    nn.init.ones_(producer.weight)
    model = nn.Sequential(producer, nn.Linear(2, 1)).to(torch.bfloat16)
    axes = trace(model, torch.ones(1, 4096, dtype=torch.bfloat16))
    scores = Magnitude(1).scores(View(axes), axes["0"])
    assert scores.dtype == torch.float32
    assert scores.tolist() == [4096.0, 4096.0]


def test_random_is_a_function_of_the_generator_alone():
    model, x = build("mlp")
    axes = trace(model, x)
    before = torch.get_rng_state()
    first, again, other = (
        Random().scores(View(axes, generator=torch.Generator().manual_seed(seed)), axes["0"]) for seed in (1, 1, 2)
    )
    assert first.equal(again)
    assert not first.equal(other)
    assert torch.get_rng_state().equal(before)


def test_protect_keeps_newborns_below_the_age():
    model, x = build("mlp")
    axes = trace(model, x)
    ages = torch.tensor([torch.iinfo(torch.int64).max] * 7 + [0, 49, 50])
    scores = Protect(Magnitude(), age=50).scores(View(axes, 90, {"0": ages}), axes["0"])
    plain = Magnitude().scores(View(axes), axes["0"])
    assert scores[7:9].isinf().all()
    assert scores[:7].equal(plain[:7])
    assert scores[9] == plain[9]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"axes": ("0", "layer2*")}, r"axes=...\) names 'layer2\*', but the model has no such axis"),
        ({"units": {"zero": [0, 1]}}, r"units=...\) names 'zero'"),
    ],
)
def test_a_name_that_protects_nothing_is_an_error(settings, message):
    model, x = build("mlp")
    axes = trace(model, x)
    with pytest.raises(UnknownAxisError, match=message):
        Protect(Magnitude(), **settings).scores(View(axes), axes["0"])
    assert Protect(Magnitude(), axes=("?",), units={"0": [1]}).scores(View(axes), axes["0"]).isinf().all()


def test_a_criterion_without_meaning_is_refused_by_name():
    model, x = build("mlp")
    axes = trace(model, x)
    with pytest.raises(EditError, match=r"Magnitude is not defined for: 0\.weight\.1 .*no parameter produces"):
        require_defined(Magnitude(), axes, axes)


@pytest.mark.parametrize("make", [lambda: Magnitude(3), lambda: Magnitude(roles=()), lambda: Protect(Random(), -1)])
def test_nonsense_is_refused(make):
    with pytest.raises(ConfigError):
        make()
