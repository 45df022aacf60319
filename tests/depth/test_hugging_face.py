"""Growth of Hugging Face models, one table: every method of copies on every model, in each direction, and all at once.

A cell says what comes of it: "=" the function is preserved, "~" it is not and the plan says why, or a letter: the
method or the map refuses, for this reason.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from meristem import Axis, AxisMap, Edit, depth, trace
from meristem.edit import Change, Commit, ConfigurationWarning, fit_config, trial
from meristem.errors import EditError, FrozenAxisError
from meristem.grow import AKI, HyperCloning, Lemon, LiGO, Method, Net2Wider, ZeroExtension, ZeroFanOut
from meristem.grow.method import Growth
from meristem.signals import View

from ..zoo.models import row

pytestmark = pytest.mark.heavy

METHODS: dict[str, tuple[Method, int]] = {
    "Net2Wider": (Net2Wider(), 1),
    "AKI": (AKI(), 1),
    "HyperCloning": (HyperCloning(), 3),
    "Lemon": (Lemon(), 5),
    "ZeroFanOut": (ZeroFanOut(), 1),
    "ZeroExtension": (ZeroExtension(), 1),
}
"""By name: the method, and by how many thirds of the heads everything grows. `Lemon` makes more than two of one, and
not a multiple."""

PARTS = ("inner", "heads", "size", "stream")

MODELS: dict[str, dict[str, tuple[str, ...]]] = {
    "bert": {
        "inner": ("*intermediate.dense",),
        "heads": ("*query[[]0]",),
        "size": ("*query[[]1]",),
        "stream": ("*word_embeddings", "*pooler.dense"),
        "blocks": ("bert.encoder.layer",),
    },
    "gpt2": {
        "inner": ("*c_fc",),
        "heads": ("*c_attn[[]0]",),
        "size": ("*c_attn[[]1]",),
        "stream": ("*wte",),
        "blocks": ("transformer.h",),
    },
    "llama_gqa": {
        "inner": ("*gate_proj",),
        "heads": ("*q_proj[[]0]",),
        "size": ("*q_proj.weight.0[[]2]",),
        "stream": ("*embed_tokens",),
        "blocks": ("model.layers",),
    },
    "opt": {
        "inner": ("*fc1",),
        "heads": ("*q_proj[[]0]",),
        "size": ("*q_proj[[]1]",),
        "stream": ("*embed_tokens",),
        "blocks": ("model.decoder.layers",),
    },
    "vit": {
        "inner": ("*mlp.fc1",),
        "heads": ("*q_proj[[]0]",),
        "size": ("*q_proj[[]1]",),
        "stream": ("*projection",),
        "blocks": ("vit.layers",),
    },
    "t5_encoder": {
        "inner": ("*DenseReluDense.wi",),
        "heads": ("*q[[]0]",),
        "size": ("*q[[]1]",),
        "stream": ("shared",),
        "blocks": ("encoder.block.1",),
    },
    "qwen2": {
        "inner": ("*gate_proj",),
        "heads": ("*q_proj[[]0]",),
        "size": ("*q_proj.weight.0[[]2]",),
        "stream": ("*embed_tokens",),
        "blocks": ("model.layers",),
    },
    "distilbert": {
        "inner": ("*ffn.lin1",),
        "heads": ("*q_lin[[]0]",),
        "size": ("*q_lin[[]1]",),
        "stream": ("*word_embeddings", "pre_classifier"),
        "blocks": ("distilbert.transformer.layer",),
    },
}
"""By model: the axes of each direction in which it grows, and its blocks. GPT-2 and OPT have a tied output layer."""


REASONS = {
    "f": "two activations are contracted over it",
    "t": "one tensor both produces and reads it",
    "n": "no LayerNorm or RMSNorm over it alone",
    "b": "coupled otherwise than by a normalization: bilinear",
    "m": "LayerNorm subtracts its mean, which zeros would move",
    "r": "a buffer or constant is laid out over it",
    "o": "model output",
}
"""Why a cell is refused: `r` rotary positions, `o` a stream that the model returns."""

TABLE = """
                    Net2Wider  AKI  HyperCloning  Lemon  ZeroFanOut  ZeroExtension
bert        inner       =       ~        =          =        =             n
bert        heads       =       ~        =          =        =             n
bert        size        f       f        f          f        =             b
bert        stream      ~       ~        =          ~        ~             m
gpt2        inner       =       ~        =          =        =             n
gpt2        heads       =       ~        =          =        =             n
gpt2        size        f       f        f          f        =             b
gpt2        stream      t       t        t          t        ~             t
llama_gqa   inner       =       ~        =          =        =             n
llama_gqa   heads       =       ~        =          =        =             n
llama_gqa   size        r       r        r          r        r             r
llama_gqa   stream      ~       ~        ~          ~        ~             ~
opt         inner       =       ~        =          =        =             n
opt         heads       =       ~        =          =        =             n
opt         size        f       f        f          f        =             b
opt         stream      t       t        t          t        ~             t
vit         inner       =       ~        =          =        =             n
vit         heads       =       ~        =          =        =             n
vit         size        f       f        f          f        =             b
vit         stream      ~       ~        =          ~        ~             m
t5_encoder  inner       =       =        =          =        =             n
t5_encoder  heads       =       =        =          =        =             n
t5_encoder  size        f       f        f          f        =             b
t5_encoder  stream      o       o        o          o        o             o
qwen2       inner       =       ~        =          =        =             n
qwen2       heads       =       ~        =          =        =             n
qwen2       size        r       r        r          r        r             r
qwen2       stream      ~       ~        ~          ~        ~             ~
distilbert  inner       =       ~        =          =        =             n
distilbert  heads       =       ~        =          =        =             n
distilbert  size        f       f        f          f        =             b
distilbert  stream      ~       ~        =          ~        ~             m
"""
"""T5's first block has a table of positions that its second lacks: AKI finds no next block, and copies are plain."""

ROWS = [line.split() for line in TABLE.strip().splitlines()]
CELLS = {(name, part, m): cell for name, part, *line in ROWS[1:] for m, cell in zip(ROWS[0], line, strict=True)}

NEARLY = {("llama_gqa", "HyperCloning"): 1e-6, ("qwen2", "HyperCloning"): 1e-6, ("vit", "Lemon"): 1e-10}
"""What is exact in truth: Llama and Qwen2 compute their normalizations in float32, ViT's epsilon of 1e-12 stays."""

SHAPES = r"no \w+Config describes this model: .*\(would be "

SCALE = r"scaled_dot_product_attention \d+, given in run 0 \(0\.35.*would be \(0\.25"

CONFIG: dict[tuple[str, str], set[str] | str] = {
    ("bert", "inner"): {"intermediate_size"},
    ("bert", "heads"): SHAPES,
    ("bert", "size"): SHAPES,
    ("bert", "stream"): SHAPES,
    ("bert", "stream heads"): {"hidden_size", "num_attention_heads"},
    ("bert", "stream size"): SCALE,
    ("gpt2", "inner"): {"n_inner"},
    ("gpt2", "heads"): SHAPES,
    ("gpt2", "stream"): SHAPES,
    ("gpt2", "stream size"): SCALE,
    ("llama_gqa", "heads"): {"num_attention_heads", "num_key_value_heads"},
    ("llama_gqa", "stream"): "LlamaConfig does not take the numbers .* not a multiple of the number of attention heads",
    ("llama_gqa", "stream heads"): {"hidden_size", "num_attention_heads", "num_key_value_heads"},
    ("opt", "inner"): {"ffn_dim"},
    ("opt", "stream heads"): {"hidden_size", "num_attention_heads", "word_embed_proj_dim"},
    ("vit", "inner"): {"intermediate_size"},
    ("vit", "stream heads"): {"hidden_size", "num_attention_heads"},
    ("vit", "stream size"): SCALE,
    ("t5_encoder", "inner"): {"d_ff"},
    ("t5_encoder", "heads"): {"num_heads"},
    ("t5_encoder", "size"): {"d_kv"},
    ("qwen2", "heads"): SHAPES,
    ("qwen2", "stream"): SHAPES,
    ("qwen2", "stream heads"): {"hidden_size", "num_attention_heads", "num_key_value_heads"},
    ("distilbert", "heads"): SHAPES,
    ("distilbert", "stream heads"): {"dim", "n_heads"},
}
"""By model and what grows by a third (the size of heads is doubled): which numbers of the configuration change, or why
there is none."""


@dataclass(frozen=True)
class Subject:
    model: nn.Module
    example: Any
    axes: AxisMap

    def copied(self) -> Subject:
        """The same with a model of its own."""
        model = copy.deepcopy(self.model)
        return replace(self, model=model, axes=replace(self.axes, model_reference=weakref.ref(model)))

    def outputs(self) -> list[Tensor]:
        return outputs(self.model, self.example)


@cache
def subject(name: str) -> Subject:
    given = row(f"hf/{name}")
    model, (_, example) = given.model(), given.example()
    return Subject(model, example, trace(model, (), example))


def outputs(model: nn.Module, example: Mapping[str, Any]) -> list[Tensor]:
    with torch.no_grad():
        return [x for x in tree_leaves(model(**example)) if isinstance(x, Tensor) and x.is_floating_point()]


def found(axes: AxisMap, name: str, part: str) -> list[Axis]:
    axis = [axis for axis in axes if any(fnmatchcase(axis.name, pattern) for pattern in MODELS[name][part])]
    assert axis
    return axis


def planned(axes: AxisMap, name: str, part: str, method: Method, thirds: int) -> Iterator[Growth]:
    heads = found(axes, name, "heads")[0].size
    newborn = max(heads * thirds // 3, 1)
    for axis in found(axes, name, part):
        count = axis.size * newborn // heads
        yield method.propose(View(axes, generator=torch.Generator().manual_seed(0)), axis, count)


@pytest.mark.parametrize("name", MODELS)
def test_each_direction_by_each_method(name: str) -> None:
    for part in PARTS:
        for label, (method, thirds) in METHODS.items():
            subject_ = subject(name)
            cell, axes = CELLS[name, part, label], subject_.axes
            reasons = [axis.frozen or method.undefined(axes, axis) or "" for axis in found(axes, name, part)]
            if cell in REASONS:
                assert any(REASONS[cell] in reason for reason in reasons), (part, label, reasons)
                continue
            assert not any(reasons), (part, label, reasons)
            plans = list(planned(axes, name, part, method, thirds))
            assert all(plan.births == len(plan.gather) - plan.axis.size > 0 for plan in plans)
            said = [reason for plan in plans for reason in plan.inexact]
            assert bool(said) == (cell == "~"), (part, label, said)
            mean = any("of which no unit holds the mean" in reason for reason in said)
            assert mean == (name in ("bert", "distilbert") and (part, label) == ("stream", "Lemon"))
            before = subject_.outputs()
            with trial(axes, [Change(plan.axis, plan.gather, plan.start) for plan in plans]):
                after = subject_.outputs()
            limit = 1e-10 if cell == "=" else NEARLY.get((name, label)) if part == "stream" else None
            if limit is not None:
                for old, new in zip(before, after, strict=True):
                    torch.testing.assert_close(new, old, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("name", "part"), [(n, p) for n, p, m in CELLS if m == "ZeroFanOut" and CELLS[n, p, m] in "ro"]
)
def test_a_frozen_direction_is_refused(name: str, part: str) -> None:
    axes = subject(name).axes
    for axis in found(axes, name, part):
        with pytest.raises(FrozenAxisError, match=REASONS[CELLS[name, part, "ZeroFanOut"]]):
            Edit(axes).grow(axis, 1)


@pytest.mark.parametrize(("name", "parts"), CONFIG, ids=str)
def test_the_configuration_of_each_direction(name: str, parts: str, tmp_path: Any) -> None:
    grown = subject(name).copied()
    edit = Edit(grown.axes)
    for part in parts.split():
        for plan in planned(grown.axes, name, part, ZeroFanOut(), 3 if "size" in parts else 1):
            edit.gather(plan.axis, plan.gather, plan.start)
    axes = edit.commit().axes
    expected, config = CONFIG[name, parts], cast(Any, grown.model.config)
    if isinstance(expected, str):
        before = config.to_dict()
        with pytest.raises(EditError, match=expected) as refused:
            fit_config(axes)
        assert "meristem.save" in str(refused.value)
        assert config.to_dict() == before
    else:
        assert set(fit_config(axes)) == expected
        loads(grown, tmp_path)


def loads(grown: Subject, folder: Any) -> None:
    """A model built from the configuration has the same tensors; saved and loaded, it answers the same bit for bit."""
    model: Any = grown.model
    built = type(model)(copy.deepcopy(model.config))
    assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    model.save_pretrained(folder)
    again = copy.deepcopy(type(model).from_pretrained(folder, dtype=torch.float64).eval())  # aligned as any tensors are
    for old, new in zip(grown.outputs(), outputs(again, grown.example), strict=True):
        assert torch.equal(old, new)


TOGETHER: dict[str, tuple[Method | LiGO, int]] = {
    "Net2Wider": (Net2Wider(), 3),
    "AKI": (AKI(HyperCloning()), 3),
    "HyperCloning": (HyperCloning(), 3),
    "Lemon": (Lemon(), 1),
    "LiGO": (LiGO(steps=1), 3),
    "ZeroFanOut": (ZeroFanOut(), 1),
}

LOUD = {
    "bert": "LayerNorm|layer_norm",
    "distilbert": "layer_norm",
    "opt": r"aten\.view at .* stands between what it is given and what it returns",
}
"""Models in which no copy of a block is silent, and what is said of it: a normalization or a view comes last."""


@pytest.mark.parametrize("label", TOGETHER)
@pytest.mark.parametrize("name", MODELS)
def test_width_and_depth_together(name: str, label: str, tmp_path: Any) -> None:
    """The feed-forward layers, and the stream with its heads where it can grow, and one block more, in one edit."""
    method, thirds = TOGETHER[label]
    grown = subject(name).copied()
    before = grown.outputs()
    cells = "HyperCloning" if isinstance(method, LiGO) else label
    wide = CELLS[name, "stream", cells] in "=~"
    parts = ("inner", "stream", "heads") if wide else ("inner",)
    edit = Edit(grown.axes)
    for part in parts:
        for plan in planned(grown.axes, name, part, HyperCloning() if isinstance(method, LiGO) else method, thirds):
            edit.gather(plan.axis, plan.gather, plan.start)
    places, (blocks,) = depth.places(grown.axes), MODELS[name]["blocks"]
    first = places.run(blocks).blocks[-1][0]
    if name in LOUD:
        with pytest.raises(EditError, match=f"no zeros turn .* into the identity: .*({LOUD[name]})"):
            depth.duplicated(places, first, 1, depth.Silent())
    copies = depth.Plain() if name in LOUD or isinstance(method, LiGO) else depth.Silent()
    edit.depth(depth.duplicated(places, first, 1, copies))
    with pytest.warns(ConfigurationWarning, match=r"meristem\.edit\.fit_config\(axes\)"):
        axes = carried_out(method, edit, grown).axes
    configured((name, thirds, *parts), axes)
    exact = all(CELLS[name, part, cells] == "=" for part in parts) and isinstance(copies, depth.Silent)
    limit = 1e-10 if exact else NEARLY.get((name, label))
    if limit is not None and not isinstance(method, LiGO):
        for old, new in zip(before, grown.outputs(), strict=True):
            torch.testing.assert_close(new, old, rtol=0, atol=limit)
    loads(grown, tmp_path)


FITTED: dict[tuple[object, ...], dict[str, int]] = {}
"""What `fit_config` has said, by model and growth: it depends on nothing else."""


def configured(growth: tuple[object, ...], axes: AxisMap) -> None:
    """Bring the configuration up to date."""
    if growth not in FITTED:
        FITTED[growth] = {key: new for key, (_, new) in fit_config(axes).items()}
        assert FITTED[growth]
    for key, new in FITTED[growth].items():
        setattr(axes.model.config, key, new)


def carried_out(method: Method | LiGO, edit: Edit, grown: Subject) -> Commit:
    if isinstance(method, LiGO):
        return method.commit(edit, lambda: grown.model(**grown.example)[0].square().mean())
    return edit.commit()
