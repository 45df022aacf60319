"""The same promises on a CUDA device: trace, edit, optimizer variants that exist only there. Skipped without one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

import meristem
from meristem.mask import Wanda, one_shot, to_torch_sparse

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "adam capturable": lambda p: torch.optim.Adam(p, lr=1e-3, capturable=True, amsgrad=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "nadam capturable": lambda p: torch.optim.NAdam(p, lr=1e-3, capturable=True),
    "radam capturable": lambda p: torch.optim.RAdam(p, lr=1e-3, capturable=True),
    "rmsprop foreach": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, foreach=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(24 * 49, 32), nn.ReLU(), nn.Linear(32, 10),
    ).cuda()  # fmt: skip


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator(device="cuda").manual_seed(1)
    x = torch.randn(32, 3, 16, 16, device="cuda", generator=generator)
    return x, torch.randint(0, 10, (32,), device="cuda", generator=generator)


def step(model: nn.Module, optimizer: Optimizer) -> torch.Tensor:
    x, y = batch()
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_grow_then_prune_the_newborns_restores_model_and_optimizer_bit_for_bit(name: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(3):
        step(model, optimizer)
    axes = meristem.trace(model, batch()[0])
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    before = model.eval()(batch()[0])
    grown = meristem.Edit(axes, optimizer).grow("0", 8).grow("6", 8).commit().axes
    torch.testing.assert_close(model(batch()[0]), before, rtol=1e-4, atol=1e-4)
    assert all(p.is_cuda for p in model.parameters())
    meristem.Edit(grown, optimizer).prune("0", range(16, 24)).prune("6", range(32, 40)).commit()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert equal(optimizer.state_dict(), state)
    assert torch.isfinite(step(model.train(), optimizer))


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_training_goes_on(dtype: torch.dtype) -> None:
    model = net().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    axes = meristem.trace(model, batch()[0])
    losses = []
    for i in range(40):
        x, y = batch()
        with torch.autocast("cuda", dtype):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
        if i in (10, 20):
            edit = meristem.Edit(axes, optimizer).grow("0", 8)
            axes = (edit.prune("6", range(4)) if i == 20 else edit).commit().axes
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert losses[-1] < losses[0] / 2


def test_compiled_after_each_edit() -> None:
    model = net().eval()
    axes = meristem.trace(model, batch()[0])
    for count in (4, 8):
        axes = meristem.Edit(axes).grow("0", count).commit().axes
        compiled = torch.compile(model)
        with torch.no_grad():
            torch.testing.assert_close(compiled(batch()[0]), model(batch()[0]), rtol=1e-3, atol=1e-3)


def test_memory_of_an_edit_is_that_of_the_edited_tensors() -> None:
    model = nn.Sequential(
        nn.Linear(4096, 8192), nn.ReLU(), nn.Linear(8192, 4096), nn.ReLU(), nn.Linear(4096, 10)
    ).cuda()
    axes = meristem.trace(model, torch.randn(2, 4096, device="cuda"))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    meristem.Edit(axes).prune("2", range(2048)).commit()  # touches the second layer (128 MiB) and the small last one
    extra = torch.cuda.max_memory_allocated() - before
    assert extra <= 1.1 * (8192 * 2048 + 2048 * 10) * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_two_of_four_is_exported_for_the_kernels_of_the_device(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 128)).cuda()
    masks = one_shot(model, Wanda(density=0.5, m=4), lambda: model(torch.randn(64, 256, device="cuda")))
    model, x = model.to(dtype), torch.randn(64, 256, device="cuda", dtype=dtype)
    exported = to_torch_sparse(model, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
        torch.testing.assert_close(exported.model(x), model(x), rtol=1e-2, atol=1e-2)
    supported = torch.cuda.get_device_capability() >= (8, 0) and dtype.itemsize == 2
    assert {layout.layout for layout in exported.layouts} == ({"2:4"} if supported else {"dense"})
