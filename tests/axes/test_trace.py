"""`trace`: what it leaves behind (nothing), what it refuses, and what it says of a model."""

from __future__ import annotations

import copy
import logging
import re
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import meristem
from meristem.axes import Concat, Coupling, Leaf, Product, Role
from meristem.errors import EditError, StaleMapError, TraceError, UnknownAxisError, UnreachedWarning, WrappedModelError


class Net(nn.Module):
    """A convolutional net with a cache, a counter and a mode-dependent head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 16, 5)
        self.aux = nn.Linear(6 * 16, 5)
        self.cache: dict[str, Any] = {}
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        x = F.relu(self.norm(self.conv(x))).flatten(1)
        self.cache["last"] = x
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


def image(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_the_model_is_left_as_it_was() -> None:
    model = Net().train()
    model.aux.eval()
    before = copy.deepcopy(model.state_dict())
    parameters = {name: id(p) for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    meristem.trace(model, image())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    assert (model.training, model.conv.training, model.aux.training) == (True, True, False)
    assert model.cache == {}
    assert model.calls == 0
    assert torch.equal(torch.get_rng_state(), state)
    model(image())[0].sum().backward()  # and it still trains
    assert model.conv.weight.grad is not None


def test_hooks_that_the_first_run_registers_are_taken_back() -> None:
    class Lazy(nn.Module):
        """Collects what its layers return by hooks, which it registers when it is first run."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
            self.hooked = False

        def forward(self, x: Tensor) -> Tensor:
            collected: list[Tensor] = []
            self.collected = collected
            if not self.hooked:
                for layer in (self.a, self.b):
                    layer.register_forward_hook(lambda _module, _args, result: self.collected.append(result))
                self.hooked = True
            self.b(self.a(x).relu())
            hidden, result = collected
            return hidden.sum() + result

    model, x = Lazy(), torch.randn(2, 4)
    meristem.trace(model, x)
    assert not model.hooked
    assert not model.a._forward_hooks
    assert model(x).shape == (2, 3)  # it would have collected each result twice


def test_a_cache_of_computed_tensors_is_set_back_by_an_edit() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
            self.memory: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            if "weight" not in self.memory:
                self.memory["weight"] = self.a.weight * 2
            return self.b(F.linear(x, self.memory["weight"]).relu())

    model, x = Caching(), torch.randn(2, 4)
    axes = meristem.trace(model, x)
    assert [(cache.attribute, cache.before) for cache in axes.caches] == [("memory", {})]
    before = model(x)
    meristem.Edit(axes).permute(axes["a"], [5, 4, 3, 2, 1, 0]).commit()
    assert model.memory == {}
    torch.testing.assert_close(model(x), before)


def test_nothing_is_computed_and_nothing_is_allocated() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(100_000, 1_000_000), nn.ReLU(), nn.Linear(1_000_000, 10))
    axes = meristem.trace(model, torch.empty(2, 100_000, device="meta"))
    assert axes["0"].size == 1_000_000
    assert axes["0"].editable


@pytest.mark.parametrize("example", [image(), (image(),), {"x": image()}], ids=["tensor", "tuple", "mapping"])
def test_ways_to_give_an_example(example: Any) -> None:
    assert [axis.name for axis in meristem.trace(Net(), example).editable] == ["conv"]


def test_training_mode_reaches_what_evaluation_mode_does_not() -> None:
    axes = meristem.trace(Net(), image())
    assert axes.unreached == ()
    assert [place.layout.name for place in axes.places[axes["conv"].index]].count("aux.weight") == 1


def test_training_mode_is_reached_with_a_batch_of_one() -> None:
    """Batch normalization refuses to train on it; what training mode adds must be seen nevertheless, or an edit would
    leave it behind."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
            self.head, self.aux = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.a(x))
            return self.head(x) + self.aux(x) if self.training else self.head(x)

    model = Auxiliary()
    axes = meristem.trace(model, torch.randn(1, 4))
    assert axes.unreached == ()
    meristem.Edit(axes).grow("a", 2).commit()
    assert model.training
    assert model.norm.training
    assert model(torch.randn(5, 4)).shape == (5, 3)


class TwoWays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.left = nn.Linear(6, 3)
        self.right = nn.Linear(6, 3)

    def forward(self, x: Tensor, left: bool = True) -> Tensor:
        x = self.stem(x).relu()
        return self.left(x) if left else self.right(x)


def test_a_branch_not_taken_is_reported_and_another_example_covers_it() -> None:
    x = torch.randn(2, 4)
    with pytest.warns(UnreachedWarning, match="right.weight"):
        axes = meristem.trace(TwoWays(), x)
    assert axes.unreached == ("right.weight", "right.bias")
    covered = meristem.trace(TwoWays(), x, also=[((x,), {"left": False})])
    assert covered.unreached == ()
    read = [place.layout.name for place in covered.places[covered["stem"].index] if Role.READS in place.roles]
    assert read == ["left.weight", "right.weight"]


class Bad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class Asserting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        if (x := self.a(x)).shape[1] != 5:
            raise ValueError("five features")
        return x


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (Bad(), r"at \S*test_trace\.py:\d+, in aten\.linear\.default of module 'b' \(Linear\)\."),
        (
            nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.Linear(5, 3))),
            r", in aten\.linear\.default of module '2\.0' \(Linear\)\.",
        ),
        (nn.Linear(3, 2), r", in aten\.linear\.default\."),
        (
            nn.Sequential(nn.Identity(), Asserting()),
            r"features, at \S*test_trace\.py:\d+, in module '1' \(Asserting\)\.",
        ),
    ],
    ids=["own code", "no own code", "no other module", "raised by own code"],
)
def test_a_model_that_does_not_run_names_the_line_the_operator_and_the_module(model: nn.Module, place: str) -> None:
    """Those that failed, not the last ones that did not, and no line of whoever traces."""
    with pytest.raises(TraceError, match=place) as caught:
        meristem.trace(model, torch.randn(2, 4))
    assert str(caught.value).count(".py:") == place.count("test_trace")


@pytest.mark.parametrize(
    ("args", "called"),
    [((), "TwoWays()"), ((torch.randn(2, 4), torch.randn(2, 4), 3), "TwoWays(float32 (2, 4), float32 (2, 4), 3)")],
    ids=["too few", "too many"],
)
def test_wrong_arguments_are_shown(args: tuple[Any, ...], called: str) -> None:
    with pytest.raises(TraceError, match=re.escape(f"called as {called}")):
        meristem.trace(TwoWays(), args)


def test_an_array_is_no_example() -> None:
    """It is not taken for a row of arguments."""
    with pytest.raises(TraceError, match=r"got ndarray .*torch\.as_tensor"):
        meristem.trace(TwoWays(), numpy.zeros((2, 4), numpy.float32))


def test_torch_does_not_log_what_the_error_says(caplog: pytest.LogCaptureFixture) -> None:
    """It would print a traceback of its own insides before ours."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addHandler(caplog.handler)
    try:
        with pytest.raises(TraceError):
            meristem.trace(Bad(), torch.randn(2, 4))
        assert not caplog.records
        logger.error("others are heard")
        assert caplog.messages == ["others are heard"]
    finally:
        logger.removeHandler(caplog.handler)


def test_wrappers_are_refused_with_the_remedy() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    x = torch.randn(2, 4)
    with pytest.raises(WrappedModelError, match=r"model\.module"):
        meristem.trace(nn.DataParallel(model), x)
    with pytest.raises(WrappedModelError, match="compile again"):
        meristem.trace(torch.compile(model), x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(WrappedModelError, match="Python model"):
        meristem.trace(torch.jit.trace(model, x), x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TraceError, match=r"expected a torch\.nn\.Module"):
        meristem.trace(lambda x: x, x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TraceError, match="lazy"):
        meristem.trace(nn.LazyLinear(3), x)


class OnData(nn.Module):
    """Branches on data: fake tensors cannot follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.abs().sum().item() > 0:
            x = x[x.sum(1) > -1e9]
        return self.b(x.relu())


def test_branches_on_data_are_followed_on_real_tensors() -> None:
    model = OnData()
    before = copy.deepcopy(model.state_dict())
    axes = meristem.trace(model, torch.randn(2, 4))
    assert axes["b"].frozen == "model output"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Attention(nn.Module):
    """Sizes from attributes, from another attribute's quotient, and from the shape of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 3, 4
        self.qkv, self.out = nn.Linear(8, 36), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        x = ((q @ k.transpose(-1, -2)) * self.head_dim**-0.5).softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(b, t, -1))


def test_attributes_that_the_code_reshapes_by_are_bound() -> None:
    axes = meristem.trace(Attention(), torch.randn(2, 5, 8))
    heads, size = axes.editable
    assert (heads.size, size.size) == (3, 4)
    bound = {b.path: b.value for b in axes.attributes if b.module == ""}
    assert bound == {("num_heads",): Leaf(heads.index), ("head_dim",): Leaf(size.index)}
    assert isinstance(axes.dimension("out.weight", 1), Product)
    assert Coupling.BILINEAR in size.couplings
    assert Coupling.SCALED in size.couplings  # 1/sqrt(head size) is computed in the forward
    assert heads.exact


def test_an_attribute_that_holds_the_same_number_by_chance_is_not_bound() -> None:
    class Numbered(Attention):
        """The third layer of some model, with three heads."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = 3
            self.num_heads = self.__dict__.pop("num_heads")  # behind `layer`, which is thus tried first

        def forward(self, x: Tensor) -> Tensor:
            assert self.layer >= 0
            b, t, _ = x.shape
            q, k, v = self.qkv(x).view(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            x = F.scaled_dot_product_attention(q, k, v)
            return self.out(x.transpose(1, 2).reshape(b, t, -1))

    axes = meristem.trace(Numbered(), torch.randn(2, 5, 8))
    assert {b.path for b in axes.attributes if b.module == ""} == {("num_heads",), ("head_dim",)}
    assert [axis.size for axis in axes.editable] == [3, 4]


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(2, 6))


def test_a_size_written_into_the_code_is_frozen_with_the_line() -> None:
    axis = meristem.trace(Fixed(), torch.randn(2, 4))["a"]
    assert axis.frozen is not None
    assert "fixes its size" in axis.frozen
    assert "test_trace.py:" in axis.frozen


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu())
        return self.c(torch.linalg.solve(torch.eye(6) * 2, x.T).T)


def test_an_unknown_operator_freezes_what_it_touches_and_names_itself() -> None:
    axes = meristem.trace(Unknown(), torch.randn(2, 4))
    assert axes["a"].editable
    assert "has no rule" in (axes["b"].frozen or "")
    assert "linalg" in (axes["b"].frozen or "")


def test_several_axes_in_one_dimension_and_concatenations() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 2), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    axes = meristem.trace(Joined(), torch.randn(2, 4))
    assert axes.dimension("c.weight", 1) == Concat((Leaf(axes["a"].index), Leaf(axes["b"].index)))


def test_squeezing_all_lengths_of_one_needs_two_units() -> None:
    class Squeezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).mean((2, 3), keepdim=True).squeeze())

    model = Squeezing()
    axes = meristem.trace(model, image())
    assert axes["conv"].minimum == 2
    with pytest.raises(EditError, match="at least 2"):
        meristem.Edit(axes).prune("conv", range(5)).commit()
    meristem.Edit(axes).prune("conv", range(4)).commit()
    assert model(image()).shape == (2, 3)


def test_units_that_only_a_longer_input_reads_are_frozen() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 6), nn.Linear(6, 3)
            self.position = nn.Parameter(torch.randn(10, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x) + self.position[: x.shape[1]])

    axes = meristem.trace(Positions(), torch.randint(7, (2, 4)))
    assert [axis.name for axis in axes.editable] == ["embed"]


def test_looking_up_an_axis() -> None:
    model = Net()
    axes = meristem.trace(model, image())
    assert axes["conv"] == axes["conv.weight"] == axes["norm"]
    assert len(axes) == len(list(axes))
    with pytest.raises(UnknownAxisError, match=r"did you mean.*conv"):
        axes["cnv"]
    with pytest.raises(UnknownAxisError, match=r"no axis found for 'zzzzz'; the editable ones are conv"):
        axes["zzzzz"]
    attention = meristem.trace(Attention(), torch.randn(2, 5, 8))
    with pytest.raises(UnknownAxisError, match="several axes"):
        attention["qkv"]


def test_a_map_prints_as_its_editable_axes() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    axes = meristem.trace(model, torch.randn(2, 4))
    assert repr(axes) == "<AxisMap: 1 of 3 axes editable>"
    assert str(axes) == "1 of 3 axes editable\n0: 8 features"


def test_the_map_does_not_keep_the_model_alive() -> None:
    axes = meristem.trace(nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 4))
    with pytest.raises(StaleMapError, match="no longer exists"):
        _ = axes.model


def test_counts_agree_with_pytorch() -> None:
    model = Net().eval()
    axes = meristem.trace(model, image())
    with FlopCounterMode(display=False) as counter:
        model(image())
    assert axes.flops() == counter.get_total_flops()
    assert axes.parameter_count() == sum(p.numel() for p in model.parameters())
    half = {**dict(enumerate(axes.sizes)), axes["conv"].index: 3}
    sizes = [half[i] for i in range(len(axes))]
    assert axes.flops(sizes) * 2 == axes.flops()


def test_tracing_is_deterministic() -> None:
    first, second = (meristem.trace(Net(), image()) for _ in range(2))
    assert first.axes == second.axes
    assert dict(first.layouts) == dict(second.layouts)
    assert first.attributes == second.attributes
