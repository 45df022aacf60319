"""Depth edits of published architectures, small and with random weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from meristem import AxisMap, Edit, depth, replay, trace
from meristem.axes.expression import units_along
from meristem.axes.map import Role
from meristem.edit import fit_config
from meristem.grow import AKI, HyperCloning, Lemon, LiGO, Method
from meristem.signals import View

from ..zoo import torchvision_stub
from ..zoo.models import row
from ..zoo.row import scramble

Make = Callable[[depth.Places], depth.Change]


def resnet18() -> tuple[nn.Module, Any]:
    found = row("timm/resnet18")
    args, _ = found.example()
    return found.model(), args


def hugging_face(name: str) -> tuple[nn.Module, Any]:
    found = row(f"hf/{name}")
    model = found.model()
    _, kwargs = found.example()
    return model, kwargs


def inception() -> tuple[nn.Module, Any]:
    """The first and the second kind of block of Inception v3, the second halves the image."""
    torchvision_stub.install()
    from torchvision.models.inception import InceptionA, InceptionB

    torch.manual_seed(0)
    blocks = InceptionA(12, pool_features=4), InceptionB(228)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(708, 5))
    scramble(model)
    return model.double().eval(), (torch.randn(2, 3, 12, 12).double(),)


def densenet() -> tuple[nn.Module, Any]:
    found = row("timm/densenet121")
    model = found.model()
    args, _ = found.example()
    return model, args


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "resnet18": resnet18,
    "inception": inception,
    "densenet": densenet,
    **{name: (lambda name=name: hugging_face(name)) for name in ("vit", "bert", "gpt2", "llama_gqa", "qwen2")},
}

EXACT: dict[str, tuple[str, Make]] = {  # for every edit on every model see test_zoo.py; these are replayed, too
    "resnet18 silent": ("resnet18", lambda p: depth.duplicated(p, "layer1.1", 1, depth.Silent())),
    "resnet18 deeper": ("resnet18", lambda p: depth.Insert(p, "after layer2.0", depth.Net2Deeper())),
    "resnet18 residual": ("resnet18", lambda p: depth.Insert(p, "after conv1", depth.ZeroResidual(activation="SiLU"))),
    "vit silent": ("vit", lambda p: depth.duplicated(p, "vit.layers.1", 1, depth.Silent())),
    "bert beside": ("bert", lambda p: depth.Insert(p, "after bert.encoder.layer.0", depth.ResidualCopy())),
    "gpt2 beside": ("gpt2", lambda p: depth.AddBranch(p, "transformer.h.1.mlp.c_fc")),
    "llama silent": ("llama_gqa", lambda p: depth.duplicated(p, "model.layers.0", 2, depth.Silent())),
    "inception branch": ("inception", lambda p: depth.ConcatBranch(p, "1.branch5x5_2", 5)),
    "densenet branch": ("densenet", lambda p: depth.ConcatBranch(p, "features.denseblock1.denselayer1", 3)),
    "qwen2 silent": ("qwen2", lambda p: depth.duplicated(p, "model.layers.1", 1, depth.Silent())),
}


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    with torch.no_grad():
        result = model(**example) if isinstance(example, Mapping) else model(*example)
    return [x for x in tree_leaves(result) if isinstance(x, Tensor) and x.is_floating_point()]


def opened(name: str) -> tuple[nn.Module, Any, AxisMap]:
    model, example = MODELS[name]()
    return model, example, trace(model, example)


@pytest.mark.heavy
@pytest.mark.parametrize("case", EXACT)
def test_the_function_is_preserved(case: str) -> None:
    name, make = EXACT[case]
    model, example, axes = opened(name)
    before = outputs(model, example)
    change = make(depth.places(axes))
    assert change.inexact() == ()
    axes = Edit(axes).depth(change).commit().axes
    for old, new in zip(before, outputs(model, example), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-12)
    fresh, _ = MODELS[name]()
    replay(json.loads(json.dumps(list(axes.history))), fresh, example)
    assert list(fresh.state_dict()) == list(model.state_dict())


@pytest.mark.heavy
@pytest.mark.parametrize("case", ["resnet18 silent", "resnet18 residual"])
def test_so_it_is_in_train_mode(case: str) -> None:
    name, make = EXACT[case]
    model, example, axes = opened(name)
    model.train()
    before = outputs(copy.deepcopy(model), example)
    Edit(axes).depth(make(depth.places(axes))).commit()
    for old, new in zip(before, outputs(model.train(), example), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-12)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "branch"),
    [
        ("inception", "1.branch3x3dbl_3"),
        ("inception", "2.branch3x3"),
        ("inception", "2.branch3x3dbl_3"),
        ("densenet", "features.denseblock2.denselayer2"),
    ],
)
def test_a_removed_branch_of_a_concatenation_is_zeros_in_what_reads_it(name: str, branch: str) -> None:
    model, example, axes = opened(name)
    reference, places = copy.deepcopy(model), depth.places(axes)
    units = {axes[unit].index for unit in places.branch(branch).units}
    assert units
    with torch.no_grad():
        for place in (place for unit in units for place in axes.places[unit] if Role.READS in place.roles):
            index = torch.cat([units_along(place.layout.dims[place.dim], unit, axes.sizes)[None] for unit in units])
            read = (index >= 0).any(0).nonzero().flatten()
            reference.get_parameter(place.layout.name).index_fill_(place.dim, read, 0)
    Edit(axes).depth(depth.RemoveBranch(places, branch)).commit()
    for found, expected in zip(outputs(model, example), outputs(reference, example), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "blocks"),
    [("vit", "vit.layers"), ("bert", "bert.encoder.layer"), ("gpt2", "transformer.h"), ("llama_gqa", "model.layers")],
)
def test_configurations_follow(name: str, blocks: str, tmp_path: Any) -> None:
    """`save_pretrained` and `from_pretrained` round-trip after stacking and after a removal, and a model built from the
    configuration has the same tensors; with a cache for keys and values the model generates as without."""
    model, example, axes = opened(name)
    for order in (depth.stacked(2, 5), (0, 1, 4)):
        axes = Edit(axes).depth(depth.Arrange(depth.places(axes), blocks, order)).commit().axes
        built = type(model)(copy.deepcopy(model.config))
        assert {k: v.shape for k, v in built.state_dict().items()} == {
            k: v.shape for k, v in model.state_dict().items()
        }
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path, dtype=torch.float64).eval()
        for old, new in zip(outputs(model, example), outputs(again, example), strict=True):
            torch.testing.assert_close(new, old, rtol=0, atol=1e-12)
    if name in ("gpt2", "llama_gqa"):
        settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
        cached = model.generate(example["input_ids"], use_cache=True, **settings)
        assert torch.equal(cached, model.generate(example["input_ids"], use_cache=False, **settings))


def untied(name: str) -> tuple[nn.Module, Any, AxisMap]:
    """A model whose output layer has a matrix of its own."""
    model, example, axes = opened(name)
    if getattr(model.config, "tie_word_embeddings", False) and model.get_output_embeddings() is not None:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
        axes = trace(model, (), example)
    return model, example, axes


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "method", "blocks", "exact"),
    [
        ("bert", HyperCloning(), None, True),
        ("bert", Lemon(), None, True),
        ("gpt2", HyperCloning(), "transformer.h", True),
        ("llama_gqa", AKI(HyperCloning()), "model.layers", False),
    ],
    ids=str,
)
def test_methods_of_transformers_grow_them_with_their_configuration(
    name: str, method: Method, blocks: str | None, exact: bool, tmp_path: Any
) -> None:
    """All that the method is defined for is made twice as wide, and all blocks are doubled."""
    model, example, axes = untied(name)
    before = outputs(model, example)
    edit = Edit(axes)
    for axis in axes.editable:
        if method.undefined(axes, axis) is None:
            plan = method.propose(View(axes), axis, axis.size)
            edit.gather(axis, plan.gather, plan.start)
    if blocks is not None:
        edit.depth(depth.Arrange(depth.places(axes), blocks, depth.stacked(2, 4), depth.Silent()))
    axes = edit.commit().axes
    after = outputs(model, example)
    if exact:
        for old, new in zip(before, after, strict=True):
            if old.shape == new.shape:
                torch.testing.assert_close(new, old, rtol=0, atol=1e-12)
    assert fit_config(axes)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float64).eval()
    for old, new in zip(after, outputs(again, example), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-12)


@pytest.mark.heavy
def test_ligo_grows_a_transformer_with_its_configuration(tmp_path: Any) -> None:
    model, example, axes = untied("gpt2")
    ids, method, edit = example["input_ids"], HyperCloning(), Edit(axes)
    for axis in axes.editable:
        if method.undefined(axes, axis) is None:
            plan = method.propose(View(axes), axis, axis.size)
            edit.gather(axis, plan.gather, plan.start)
    edit.depth(depth.Arrange(depth.places(axes), "transformer.h", depth.interlaced(2, 4)))
    axes = LiGO(steps=2).commit(edit, lambda: model(input_ids=ids, labels=ids).loss).axes
    assert "n_embd" in fit_config(axes)
    assert model.config.n_layer == len(model.transformer.h) == 4
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float64).eval()
    for old, new in zip(outputs(model, example), outputs(again, example), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-12)


@pytest.mark.heavy
def test_a_layer_can_be_named_by_its_run() -> None:
    """Depth up-scaling and interlacing of a transformer, then training."""
    model, example, axes = opened("gpt2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for order in (depth.interlaced(2, 4), depth.upscaled(4, 1)):
        places = depth.places(axes)
        axes = Edit(axes, optimizer).depth(depth.Arrange(places, "transformer.h", order)).commit().axes
    assert len(model.transformer.h) == model.config.n_layer == 6
    assert [block.attn.layer_idx for block in model.transformer.h] == list(range(6))
    ids = example["input_ids"]
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.heavy
def test_an_edited_model_can_be_exported_and_compiled() -> None:
    """Inserted layers, sums and zeros are ordinary modules."""
    model, example, axes = opened("resnet18")
    for make in (
        lambda p: depth.Insert(p, "after layer2.0", depth.Net2Deeper()),
        lambda p: depth.Insert(p, "after layer1.0.conv1", depth.ZeroResidual()),
        lambda p: depth.AddBranch(p, "layer1.1.conv2"),
        lambda p: depth.RemoveBranch(p, "layer4.1.bn2"),
        lambda p: depth.Remove(p, "layer3.1"),
    ):
        axes = Edit(axes).depth(make(depth.places(axes))).commit().axes
    (expected,) = outputs(model, example)
    exported = torch.export.export(model, example).module()
    torch.testing.assert_close(exported(*example), expected, rtol=0, atol=1e-12)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*example), expected, rtol=0, atol=1e-12)
