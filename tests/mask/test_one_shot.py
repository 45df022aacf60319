"""One-shot pruning and export against the plain formulas."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn.utils.prune import l1_unstructured
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from meristem.errors import ConfigError, SignalError
from meristem.mask import (
    Fixed,
    Magnitude,
    Sparse,
    SparseGPT,
    Static,
    Wanda,
    export,
    one_shot,
    to_torch_sparse,
    weights_of,
)
from meristem.mask.export import semi_structured, two_of_four
from meristem.mask.inputs import Hearing, energy
from meristem.mask.readers import readers
from meristem.mask.rows import best
from tests.mask.models import batches, convnet, mlp

IMAGES = [torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in range(4)]


def correlated(count: int = 40) -> torch.Tensor:
    """Inputs whose entries depend on one another."""
    source = torch.Generator().manual_seed(0)
    mix = torch.randn(20, 20, generator=source, dtype=torch.float64)
    return torch.randn(count * 8, 20, generator=source, dtype=torch.float64) @ mix


def test_the_energy_of_inputs_of_linear_maps_and_convolutions():
    net = convnet().eval()
    read = {}
    for name in ("0", "3", "6"):
        net.get_submodule(name).register_forward_pre_hook(
            lambda m, args, name=name: read.setdefault(name, []).append(args[0])
        )
    with torch.no_grad(), Hearing(weights_of(net), energy) as hearing:
        for x in IMAGES:
            net(x)
    flat = torch.cat(read["6"])
    assert torch.allclose(hearing.totals["6.weight"], flat.square().sum(0).expand(5, 96))
    for name, padding in (("0", 1), ("3", 0)):
        patches = nn.functional.unfold(torch.cat(read[name]), 3, padding=padding).square().sum((0, 2))
        weight = net.get_submodule(name).weight
        assert torch.allclose(hearing.totals[f"{name}.weight"].flatten(1), patches.expand(weight.shape[0], -1))


@pytest.mark.parametrize(
    "make", [lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), lambda: nn.Conv2d(4, 6, 2, groups=2)]
)
def test_groups_and_transposed_convolutions_are_heard(make):
    torch.manual_seed(0)
    layer = make().double()
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    with torch.no_grad(), Hearing(weights_of(layer), energy) as hearing:
        layer(x)
    squared = copy.deepcopy(layer)
    squared.bias = None
    squared(x.square()).sum().backward()
    assert torch.allclose(hearing.totals["weight"], squared.weight.grad)
    before = layer(x)
    one_shot(layer, SparseGPT(density=1.0), lambda: layer(x))
    assert torch.equal(layer(x), before)
    masks = one_shot(layer, SparseGPT(density=0.5), lambda: layer(x))
    assert masks.density == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("m", [None, 4])
def test_wanda_compares_within_rows(m):
    net = mlp()
    x = correlated()
    weights = {name: p.detach().clone() for name, p in weights_of(net).items()}
    reads = {"0.weight": x, "2.weight": net[:2](x), "4.weight": net[:4](x)}
    masks = one_shot(net, Wanda(density=0.5, m=m), lambda: net(x))
    for name, mask in masks.items():
        worth = weights[name].abs() * reads[name].norm(dim=0)
        size = m or worth.shape[1]
        for scores, chosen in zip(worth.view(-1, size), mask.view(-1, size), strict=True):
            assert int(chosen.sum()) == size // 2
            assert scores[chosen].min() >= scores[~chosen].max()
        assert torch.equal(net.get_parameter(name), weights[name] * mask)


def test_sparse_gpt_without_sparsity_changes_nothing():
    net = mlp(dtype=torch.float32)
    before = copy.deepcopy(net.state_dict())
    masks = one_shot(net, SparseGPT(density=1.0), lambda: net(correlated().float()))
    assert all(mask.all() for mask in masks.values())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("density", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(("m", "block"), [(None, 4), (4, 4), (4, 128), (None, 128)])
def test_sparse_gpt_reconstructs_better_than_choices_without_updates(density, m, block, seed):
    """Also than its own; than others only where it chooses among few columns at once."""
    torch.manual_seed(seed)
    x = correlated()
    layer = nn.Linear(20, 16, bias=False).double()
    weight = layer.weight.detach().clone()
    masks = one_shot(layer, SparseGPT(density=density, m=m, block=block), lambda: layer(x))
    error = (x @ (layer.weight - weight).T).pow(2).sum()
    assert masks.density == pytest.approx(density, abs=0.01)
    assert not layer.weight[~masks["weight"]].any()
    choices = [masks["weight"]]
    for worth in (weight.abs(), weight.abs() * x.norm(dim=0)):
        if m is not None:
            choices.append(best(worth.unflatten(-1, (-1, m)), density).flatten(-2))
        elif block == 4:
            choices.append(worth >= worth.flatten().topk(round(density * 320)).values.min())
    for chosen in choices:
        assert error < (x @ (weight * chosen - weight).T).pow(2).sum()


def test_sparse_gpt_updates_as_the_best_update_for_a_removed_column():
    """Removing the first column alone, the others take its place as least squares says (up to the damping)."""
    x = correlated()
    layer = nn.Linear(20, 3, bias=False).double()
    weight = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight[:, 0] *= 1e-9  # the least important of all
        start = layer.weight.detach().clone()
    one_shot(layer, SparseGPT(density=19 / 20, damping=1e-9), lambda: layer(x))
    assert not layer.weight[:, 0].any()
    assert torch.allclose(layer.weight, start * (torch.arange(20) > 0), atol=1e-7)
    h = x.T @ x
    rest = torch.linalg.solve(h[1:, 1:], h[1:, 0])
    with torch.no_grad():
        layer.weight.copy_(weight)
    method = SparseGPT(density=0.95, damping=1e-12)
    matrix = method._factor(h)
    u = matrix[0] / matrix[0, 0]
    updated = weight - weight[:, :1] * u
    assert torch.allclose(updated[:, 1:], weight[:, 1:] + weight[:, :1] * rest, atol=1e-8)


def test_patterns_are_exact():
    net = mlp(dtype=torch.float32)
    for method in (SparseGPT(density=0.5, m=4), Wanda(density=0.5, m=4)):
        one_shot(net, method, lambda: net(correlated().float()))
        assert all(two_of_four(p) for p in weights_of(net).values())


def test_stages_hear_what_earlier_ones_left():
    nets = [mlp(), mlp(), mlp()]
    x = correlated()
    method = SparseGPT(density=0.4)
    one_shot(nets[0], method, lambda: nets[0](x), stages=["0.weight", "2.weight"])
    for name in ("0.weight", "2.weight"):
        one_shot(nets[1], method, lambda: nets[1](x), parameters=name)
    one_shot(nets[2], method, lambda: nets[2](x), parameters=["0.weight", "2.weight"])
    assert torch.equal(nets[0][2].weight, nets[1][2].weight)
    assert not torch.equal(nets[0][2].weight, nets[2][2].weight)
    assert torch.equal(nets[0][4].weight, mlp()[4].weight)


def test_what_is_not_heard_is_refused_before_anything_changes():
    net = nn.ModuleDict({"used": nn.Linear(20, 4), "idle": nn.Linear(4, 8)}).double()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(SignalError, match=r"idle\.weight"):
        one_shot(net, Wanda(), lambda: net["used"](batches(1)[0]))
    with pytest.raises(ConfigError, match="no multiple of m=16"):
        one_shot(net["used"], Wanda(m=16), lambda: net["used"](batches(1)[0]))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_training_goes_on_with_the_masks():
    net = mlp()
    masks = one_shot(net, Wanda(density=0.5), lambda: net(correlated()), parameters=["0.weight", "2.weight"])
    sparsity = Sparse(net, torch.optim.SGD(net.parameters(), lr=0.1), Fixed(masks=masks))
    assert torch.equal(sparsity.masks["0.weight"], masks["0.weight"])
    assert sparsity.masks["4.weight"].all()


# ------------------------------------------------------------------ export


def test_export_is_the_same_function_and_says_why():
    net = convnet().float().eval()
    net = nn.Sequential(net, nn.ReLU(), nn.Linear(5, 40), nn.Linear(40, 40), nn.Linear(40, 40)).eval()
    net[4].weight = net[3].weight
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    chosen = Static(density=0.08, score=Magnitude())
    sparsity = Sparse(net, optimizer, chosen)
    x = IMAGES[0].float()
    before = copy.deepcopy(net.state_dict())
    exported = to_torch_sparse(net, sparsity.masks, csr_below=0.5)
    with torch.no_grad():
        assert torch.allclose(exported.model(x), net(x), rtol=0, atol=1e-5)
    found = {layout.name: layout for layout in exported.layouts}
    assert found["0.6.weight"].layout == "csr"
    assert exported.model[0][6].weight.layout == torch.sparse_csr
    assert found["0.0.weight"].layout == "dense"
    assert "Conv2d" in found["0.0.weight"].reason
    assert "several" in found["3.weight"].reason
    assert "2:4 needs a GPU" in found["0.6.weight"].reason
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    dense = to_torch_sparse(net, sparsity.masks, csr_below=0.0)
    assert {layout.layout for layout in dense.layouts} == {"dense"}
    assert torch.equal(dense.model(x), net(x))


class Attending(nn.Module):
    """Attention to itself, and a linear layer of its own."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 8)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize(
    ("net", "dense"),
    [
        (lambda: nn.Sequential(nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True), nn.Linear(16, 8)), "0."),
        (Attending, "attention."),
    ],
)
def test_weights_that_a_fused_kernel_reads_stay_dense(net, dense):
    torch.manual_seed(0)
    model, x = net().eval(), torch.randn(2, 5, 16)
    masks = Sparse(model, torch.optim.SGD(model.parameters(), lr=0.1), Static(density=0.05)).masks
    exported = to_torch_sparse(model, masks)
    wanted = model(x)
    assert torch.allclose(exported.model(x), wanted, rtol=0, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(exported.model(x), wanted, rtol=0, atol=1e-5)
    inside = [layout for layout in exported.layouts if layout.name.startswith(dense)]
    outside = [layout for layout in exported.layouts if layout not in inside]
    assert len(inside) >= 2
    assert all(layout.layout == "dense" for layout in inside)
    assert all("reads it itself" in layout.reason for layout in inside if "in_proj" not in layout.name)
    assert [layout.layout for layout in outside] == ["csr"]


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({"9.weight": torch.ones(8, 20, dtype=torch.bool)}, "no parameter '9.weight'"),
        ({"0.weight": torch.ones(4, 20, dtype=torch.bool)}, r"bool of shape \(8, 20\), got torch.bool \(4, 20\)"),
        ({"0.weight": torch.ones(20, dtype=torch.bool)}, r"got torch.bool \(20,\)"),
        ({"0.weight": torch.ones(8, 20)}, "got torch.float32"),
    ],
)
def test_masks_that_do_not_fit_are_not_exported(masks, said):
    with pytest.raises(ConfigError, match=said):
        to_torch_sparse(nn.Sequential(nn.Linear(20, 8)), masks)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda layer: nn.utils.weight_norm(layer), "0.weight_v"),
        (lambda layer: l1_unstructured(layer, "weight", 0.5), "0.weight_orig"),
        (lambda layer: layer, "0.bias"),
    ],
)
def test_weights_that_hooks_compute_are_exported_dense(wrap, name):
    """They are left in the model by a forward pass, and Python does not copy such tensors; nor has a bias a layout."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(20, 8)), torch.randn(3, 20)
    wrap(model[0])
    model(x)
    mask = torch.rand_like(model.get_parameter(name)) > 0.5
    found = to_torch_sparse(model, {name: mask}, csr_below=1.0)
    assert [layout.layout for layout in found.layouts] == ["dense"]
    with torch.no_grad():
        model.get_parameter(name).mul_(mask)
    torch.testing.assert_close(found.model(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("turned", [lambda x: x, lambda x: x.transpose(0, 1), lambda x: x[0], lambda x: x[0, ::2].T])
def test_sparse_layers_take_inputs_of_every_layout(turned, bias):
    torch.manual_seed(0)
    x = turned(torch.randn(6, 12, 6))
    model = nn.Sequential(nn.Linear(x.shape[-1], 8, bias=bias))
    masks = Sparse(model, torch.optim.SGD(model.parameters(), lr=0.1), Static(density=0.3)).masks
    exported = to_torch_sparse(model, masks, csr_below=0.5)
    assert [layout.layout for layout in exported.layouts] == ["csr"]
    assert torch.allclose(exported.model(x), model(x), rtol=0, atol=1e-5)
    assert torch.allclose(exported.model[0](input=x), model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_what_the_device_cannot_multiply_stays_dense(dtype):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 64)).to(dtype), torch.randn(2, 3, 64, dtype=dtype)
    masks = Sparse(model, torch.optim.SGD(model.parameters(), lr=0.1), Static(density=0.05)).masks
    exported = to_torch_sparse(model, masks)
    assert torch.allclose(
        exported.model(x).double(), model(x).double(), rtol=0, atol=1e-2 if dtype.itemsize < 4 else 1e-6
    )
    (layout,) = exported.layouts
    assert (layout.layout == "csr") == ("does not multiply" not in layout.reason)
    assert dtype.itemsize < 4 or layout.layout == "csr"


def test_sparse_layers_run_under_autocast():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)), torch.randn(2, 3, 64)
    masks = Sparse(model, torch.optim.SGD(model.parameters(), lr=0.1), Static(density=0.05)).masks
    exported = to_torch_sparse(model, masks)
    assert {layout.layout for layout in exported.layouts} == {"csr"}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted, found = model(x), exported.model(x)
    assert found.dtype == wanted.dtype == torch.bfloat16
    assert torch.allclose(found, wanted, rtol=0, atol=2e-2)


class Borrowing(nn.Module):
    """Computes with the weight of one of its layers itself."""

    def __init__(self):
        super().__init__()
        self.own, self.other = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        return self.other(nn.functional.linear(x.transpose(0, 1), self.own.weight, self.own.bias))


def test_an_example_shows_what_computes_with_a_weight_elsewhere():
    torch.manual_seed(0)
    model, x = Borrowing(), torch.randn(3, 4, 64)
    masks = Sparse(model, torch.optim.SGD(model.parameters(), lr=0.1), Static(density=0.05)).masks
    exported = to_torch_sparse(model, masks, example=x)
    found = {layout.name: layout for layout in exported.layouts}
    assert found["own.weight"].layout == "dense"
    assert "Borrowing computes with it itself" in found["own.weight"].reason
    assert found["other.weight"].layout == "csr"
    assert torch.allclose(exported.model(x), model(x), rtol=0, atol=1e-5)
    model = Attending().eval()
    masks = Sparse(model, torch.optim.SGD(model.parameters(), lr=0.1), Static(density=0.1)).masks
    assert list(readers(model, masks, torch.randn(2, 5, 16))) == ["attention.out_proj.weight"]


def test_two_of_four():
    assert two_of_four(torch.tensor([[0.0, 1, 2, 0, 3, 0, 0, 0]]))
    assert not two_of_four(torch.tensor([[0.0, 1, 2, 3]]))
    assert not two_of_four(torch.tensor([[0.0, 1, 2]]))


class Packed(torch.Tensor):
    """A matrix as PyTorch packs it for one of its kernels for 2:4, by its own conversion on a processor."""

    def to_dense(self):
        plain = self.as_subclass(torch.Tensor)
        return sparse_semi_structured_to_dense_cutlass(*sparse_semi_structured_from_dense_cutlass(plain))


def half_of(weight):
    """Of every four neighbours the two last."""
    weight = weight.clone().unflatten(1, (-1, 4))
    weight[..., :2] = 0
    return weight.flatten(1)


@pytest.mark.parametrize(
    ("dtype", "rows", "layout", "reason"),
    [
        (torch.float16, 64, "2:4", ""),
        (torch.bfloat16, 64, "2:4", ""),
        (torch.float32, 64, "dense", "changes entries of torch.float32"),
        (torch.float64, 64, "dense", "has no kernel for torch.float64"),
        (torch.float16, 60, "dense", r"has no kernel for torch.float16 of shape \(60, 64\) \(Number of rows"),
    ],
)
def test_two_of_four_is_exported_where_the_kernel_gives_it_back(monkeypatch, dtype, rows, layout, reason):
    """The packing for float32 holds one of two, so that it would lose weights without an error."""
    torch.manual_seed(0)
    monkeypatch.setattr(export, "semi_structured_obstacle", lambda device: None)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda weight: weight.as_subclass(Packed))
    model, x = nn.Sequential(nn.Linear(64, rows)).to(dtype), torch.randn(2, 64).to(dtype)
    with torch.no_grad():
        model[0].weight.copy_(half_of(model[0].weight))
    exported = to_torch_sparse(model, {"0.weight": model[0].weight != 0})
    (found,) = exported.layouts
    assert found.layout == layout
    assert re.search(reason, found.reason)
    assert isinstance(exported.model[0].weight, Packed) == (layout == "2:4")
    torch.testing.assert_close(exported.model(x).as_subclass(torch.Tensor), model(x), rtol=0, atol=0)


def test_two_of_four_needs_its_pattern_and_a_gpu(monkeypatch):
    assert semi_structured(torch.zeros(64, 64)) == "2:4 needs a GPU, not cpu"
    monkeypatch.setattr(export, "semi_structured_obstacle", lambda device: None)
    assert semi_structured(torch.ones(64, 64)) == "it is not 2:4"


def test_a_pattern_of_a_block_chooses_its_weights_alone():
    block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU())
    model, x = nn.Sequential(block, nn.Sequential(nn.Linear(8, 4))).eval(), torch.randn(32, 8)
    masks = one_shot(model, SparseGPT(density=0.5, m=None), lambda: model(x), stages=["0.*", "1.*"])
    assert list(masks) == ["0.1.weight", "1.0.weight"]
    assert list(weights_of(model, ["*.bias"])) == ["0.0.bias", "0.1.bias", "1.0.bias"]
    assert list(weights_of(model, ["0.0.weight", "1.*"])) == ["0.0.weight", "1.0.weight"]
    assert list(weights_of(model.requires_grad_(False), "*")) == ["0.1.weight", "1.0.weight"]


def test_an_example_for_export_may_be_a_dict_of_keyword_arguments():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.called = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, *, x, scale):
            return self.called(nn.functional.linear(x, self.read.weight) * scale)

    model, example = Named(), {"x": torch.randn(3, 8), "scale": torch.tensor(2.0)}
    masks = {n: torch.eye(8) > 0 for n in ("read.weight", "called.weight")}
    exported = to_torch_sparse(model, masks, example=example, csr_below=0.5)
    assert [layout.layout for layout in exported.layouts] == ["dense", "csr"]
    assert exported.model(**example).shape == (3, 8)
