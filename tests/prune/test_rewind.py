"""After pruning: earlier weights, or fresh ones in the structure that was found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import meristem
from meristem.edit import Edit
from meristem.errors import EditError
from meristem.mask import RigL, Sparse
from meristem.prune import Snapshot, fresh
from tests.zoo.judge import drift, subject
from tests.zoo.models import row


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)
    ).double()


def train(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor))


X = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["mlp", "swiglu", "code_sized_attention", "unet", "resnext", "lstm_2_bidirectional"])
def test_rewinding_is_pruning_the_earlier_model(name):
    work = subject(row(name)).copied()
    start = Snapshot.of(work.axes)
    expected = work.copied()
    train(work.model)
    units = {axis.name: [0] for axis in work.axes.editable if axis.size > axis.minimum}
    for model in (work, expected):
        edit = Edit(model.axes)
        for axis, gone in units.items():
            edit.prune(axis, gone)
        commit = edit.commit()
        if model is work:
            train(work.model)
            start.rewind(commit.axes)
    assert drift(work.answers(), expected.answers()) == 0


def test_several_edits_and_newborns():
    """What was born stays as it is; what stood is as it was, wherever it stands now."""
    model = build()
    axes = Edit(meristem.trace(model, X)).prune("0", [7]).commit().axes
    start, then = Snapshot.of(axes), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model)
    axes = Edit(axes).prune("0", [0, 3]).prune("3", [1]).commit().axes
    axes = Edit(axes).permute("0", [4, 3, 2, 1, 0]).grow("0", 2).commit().axes
    now = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start.rewind(axes)
    kept, others = [6, 5, 4, 2, 1], [0, 2, 3, 4, 5]
    assert torch.equal(model[0].weight[:5], then["0.weight"][kept])
    assert torch.equal(model[1].running_var[:5], then["1.running_var"][kept])
    assert torch.equal(model[3].weight[:, :5], then["3.weight"][others][:, kept])
    assert torch.equal(model[0].weight[5:], now["0.weight"][5:])
    assert torch.equal(model[3].weight[:, 5:], now["3.weight"][:, 5:])


def test_masks_hold_after_rewinding():
    """All weights came back, those too that a model that trains sparsely does not have."""
    model = build()
    axes = meristem.trace(model, X)
    start = Snapshot.of(axes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sparsity = Sparse(model, optimizer, RigL(density=0.3, end=100, interval=2))
    for _ in range(5):
        model(X).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    commit = Edit(axes, optimizer).prune("0", [1, 2]).commit()
    sparsity.after(commit)
    first = {name: mask.clone() for name, mask in sparsity.masks.items()}
    start.rewind(commit.axes, sparsity.masks)
    for name, mask in first.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)
    assert torch.equal(model[0].weight, start.tensors["0.weight"][[0, 3, 4, 5, 6, 7]] * first["0.weight"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(EditError, match="as it is now"):
        start.rewind(commit.axes, {"0.weight": torch.ones(8, 3, dtype=torch.bool)})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_snapshot_of_another_history_is_refused():
    model, other = build(), build()
    axes, pruned = meristem.trace(model, X), Edit(meristem.trace(other, X)).prune("0", [0]).commit().axes
    later = Snapshot.of(pruned)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(EditError, match="another history"):
        later.rewind(axes)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_fresh_weights_have_the_scale_of_the_final_size():
    model = build()
    axes = Edit(meristem.trace(model, X)).prune("0", range(7)).commit().axes
    scratch = build()
    first = scratch[5].weight.detach().clone()
    found = fresh(axes.history, scratch, X)
    assert found.sizes == axes.sizes
    assert scratch[3].weight.shape == (6, 1)
    assert scratch[3].weight.abs().max() > 8**-0.5  # uniform up to 1 / sqrt(fan-in): out of reach with a fan-in of 8
    assert torch.equal(scratch[5].weight, first)  # whoever was not edited keeps what it was built with
    assert scratch(X).shape == (5, 2)


def test_what_the_model_initializes_otherwise_keeps_what_it_was_built_with():
    """A small embedding, and a scale of zero that ends a branch: their modules' own resets would change both."""

    def made() -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(40, 12), nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 2))
        nn.init.normal_(model[0].weight, std=0.02)
        nn.init.zeros_(model[2].weight)
        return model.double()

    x = torch.arange(40)
    model, scratch, built = made(), made(), made()
    axes = Edit(meristem.trace(model, x)).prune("0", [0, 1]).prune("1", [3]).commit().axes
    fresh(axes.history, scratch, x)
    assert torch.equal(scratch[0].weight, built[0].weight[:, 2:])
    assert scratch[2].weight.abs().max() == 0
    assert scratch[1].weight.shape == (8, 10)
    assert not torch.equal(scratch[1].weight, built[1].weight[[0, 1, 2, 4, 5, 6, 7, 8], 2:])  # drawn as it was built
    assert scratch[1].weight.abs().max() <= 10**-0.5


def test_fresh_weights_by_ones_own_initialization():
    model, scratch = build(), build()
    axes = Edit(meristem.trace(model, X)).prune("3", [2]).commit().axes

    def ones(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.ones_(module.weight)

    fresh(axes.history, scratch, X, initialize=ones)
    assert all(bool((module.weight == 1).all()) for module in scratch if isinstance(module, nn.Linear))
