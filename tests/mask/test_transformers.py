"""SparseGPT and Wanda on transformers with random weights: exact counts, reconstruction errors, the formula of OBS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meristem.mask import Masks, SparseGPT, Wanda, one_shot
from meristem.mask.one_shot import OneShot
from tests.zoo.hugging_face import VOCABULARY
from tests.zoo.models import row

LAYERS = {"bert": "bert.encoder.layer.", "gpt2": "transformer.h.", "llama_gqa": "model.layers."}
COUNTS = {"bert": 12, "gpt2": 8, "llama_gqa": 14}
"""Two blocks of query, key, value and output (GPT-2: three in one), and two or three feed-forward layers."""


@dataclass
class Heard:
    """A transformer, and what each of its linear layers reads on the calibration data."""

    model: nn.Module
    batch: dict[str, Any]
    reads: dict[str, Tensor]
    transposed: bool

    @classmethod
    def of(cls, name: str) -> Heard:
        model = row(f"hf/{name}").model()
        batch = {"input_ids": torch.randint(VOCABULARY, (48, 7), generator=torch.Generator().manual_seed(0))}
        found: dict[str, Tensor] = {}
        handles = [
            module.register_forward_pre_hook(
                lambda _, args, path=path: found.update({f"{path}.weight": args[0].detach().flatten(0, -2)})
            )
            for path, module in model.named_modules()
            if path.startswith(LAYERS[name]) and type(module).__name__ in ("Linear", "Conv1D")
        ]
        with torch.no_grad():
            model(**batch)
        for handle in handles:
            handle.remove()
        return cls(model, batch, found, name == "gpt2")

    def weight(self, name: str) -> Tensor:
        """Rows are outputs; a copy."""
        return self.rows(self.model.get_parameter(name).detach().clone())

    def rows(self, tensor: Tensor) -> Tensor:
        """Rows are outputs: GPT-2 keeps its matrices the other way round."""
        return tensor.T if self.transposed else tensor

    def prune(self, method: OneShot) -> Masks:
        """All layers of the blocks at once: each hears the model as it was."""
        return one_shot(self.model, method, lambda: self.model(**self.batch), parameters=list(self.reads))


@pytest.fixture(params=LAYERS)
def case(request: pytest.FixtureRequest) -> tuple[str, Heard]:
    return request.param, Heard.of(request.param)


@pytest.mark.parametrize("m", [None, 4])
def test_wanda_keeps_as_many_of_every_row(case: tuple[str, Heard], m: int | None) -> None:
    name, heard = case
    before = {path: heard.weight(path) for path in heard.reads}
    masks = heard.prune(Wanda(density=0.5, m=m))
    assert len(masks) == COUNTS[name]
    for path, mask in masks.items():
        chosen, weight = heard.rows(mask), before[path]
        worth = weight.abs() * heard.reads[path].norm(dim=0)
        size = m or weight.shape[1]
        for kept, scores in zip(chosen.reshape(-1, size), worth.reshape(-1, size), strict=True):
            assert int(kept.sum()) == size // 2
            assert float(scores[kept].min()) >= float(scores[~kept].max())
        assert torch.equal(heard.weight(path), weight * chosen)


@pytest.mark.parametrize("m", [None, 4])
def test_sparse_gpt_reconstructs_best_in_every_layer(case: tuple[str, Heard], m: int | None) -> None:
    """On the calibration inputs its error is below magnitude's and below Wanda's, with the same number of weights."""
    name, heard = case
    before = {path: heard.weight(path) for path in heard.reads}
    masks = heard.prune(SparseGPT(density=0.5, m=m))
    assert len(masks) == COUNTS[name]
    for path, mask in masks.items():
        chosen, weight, x = heard.rows(mask), before[path], heard.reads[path]
        values = heard.weight(path)
        assert not bool(values[~chosen].any())
        assert int(chosen.sum()) == round(0.5 * chosen.numel())
        if m is not None:
            assert chosen.reshape(-1, m).sum(1).unique().tolist() == [m // 2]
        error = float((x @ (values - weight).T).square().sum())
        for worth in (weight.abs(), weight.abs() * x.norm(dim=0)):
            groups = worth.reshape(len(worth), -1, m or worth.shape[1])
            order = groups.argsort(-1, descending=True)
            kept = torch.zeros_like(groups).scatter(-1, order[..., : groups.shape[-1] // 2], 1.0).reshape(weight.shape)
            other = float((x @ (weight * kept - weight).T).square().sum())
            assert error < other, path


@pytest.mark.parametrize("number", [0, 5])
def test_a_row_is_pruned_as_the_formula_of_obs_says(case: tuple[str, Heard], number: int) -> None:
    """Optimal Brain Surgeon, one weight after the other, with an inverse of its own for the columns that are left:
    weights go by `w_j ** 2 / inverse_jj`, and the others make up by `-w_j / inverse_jj * inverse_j`."""
    name, heard = case
    path = {
        "bert": "bert.encoder.layer.1.intermediate.dense.weight",
        "gpt2": "transformer.h.1.mlp.c_proj.weight",
        "llama_gqa": "model.layers.0.self_attn.o_proj.weight",
    }[name]
    weight, x = heard.weight(path), heard.reads[path]
    masks = heard.prune(SparseGPT(density=0.5, damping=0.01))
    moment = x.T @ x
    moment += 0.01 * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    inverses = [torch.linalg.inv(moment[j:, j:]) for j in range(len(moment))]
    worth = weight.square() / torch.stack([inverse[0, 0] for inverse in inverses])
    kept = worth >= worth.flatten().topk(round(0.5 * worth.numel())).values.min()
    assert torch.equal(heard.rows(masks[path]), kept)
    one = weight[number].clone()
    for j, inverse in enumerate(inverses):
        if not kept[number, j]:
            one[j:] -= one[j] / inverse[0, 0] * inverse[0]
    found = heard.weight(path)[number]
    torch.testing.assert_close(found, one * kept[number], rtol=0, atol=1e-8)
    own = kept[number]
    target = x @ weight[number]
    best = torch.linalg.lstsq(x[:, own], target[:, None]).solution[:, 0]
    errors = [float((x @ w - target).square().sum()) for w in (found, weight[number] * own)]
    assert float((x[:, own] @ best - target).square().sum()) <= errors[0] < errors[1]
