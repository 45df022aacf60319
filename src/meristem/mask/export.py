"""Export: sparse weights in the layout that the device can make use of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meristem.axes.operators import FUSED
from meristem.edit.duplicate import copied
from meristem.mask.masks import Masks
from meristem.mask.readers import readers

SMALLEST: Mapping[torch.dtype, tuple[int, int]] = {
    torch.int8: (16, 128),
    torch.float16: (32, 64),
    torch.bfloat16: (32, 64),
    torch.float32: (32, 32),
}
"""Rows and columns of which a semi-structured matrix must have a multiple, by type."""


@dataclass(frozen=True)
class Layout:
    """How one weight was exported.

    Attributes:
        name: of the parameter.
        layout: "csr", "2:4" or "dense".
        density: the share of its entries that is not zero.
        reason: why it was not exported more sparsely; empty for 2:4.
    """

    name: str
    layout: str
    density: float
    reason: str


@dataclass(frozen=True, eq=False)
class Exported:
    """A copy of a model for inference, and how each masked weight is laid out in it."""

    model: nn.Module
    layouts: tuple[Layout, ...]


def to_torch_sparse(
    model: nn.Module, masks: Mapping[str, Tensor], *, example: Any = None, csr_below: float = 0.1
) -> Exported:
    """A copy of a model in eval mode whose sparse weights are stored sparse where that pays. It is for inference.

    The weight of an `nn.Linear` becomes semi-structured (`torch.sparse.to_sparse_semi_structured`) where it is 2:4 and
    on a GPU of compute capability 8.0 or more, and CSR where its density is below `csr_below` and the device multiplies
    such matrices of its type. Everything else is dense: PyTorch has no sparse convolutions. Weights that are used by
    several modules stay dense, and so do those in `nn.MultiheadAttention` and `nn.TransformerEncoderLayer`, which in
    inference hand them to one fused kernel. With an example so does every weight that anything but the forward of its
    own layer computes with, `F.linear(x, self.layer.weight)` for instance; without one such code raises PyTorch's error
    when it meets a sparse weight. Sparse layers compute in the type of their weight also under autocast.

    Args:
        model: stays as it is.
        masks: by parameter name a bool tensor of the parameter's shape: which weights are there.
        example: inputs of the model, as for `meristem.trace`, to find out what computes with which weight; or None.
        csr_below: the density below which CSR is used (default 0.1). Measure on your device: on CPUs it pays below
            about that, on GPUs later.

    Raises:
        ConfigError: no such parameter, or a mask of another shape or type.
    """
    masks = Masks(model, masks)
    exported = copied(model).eval()
    strangers = {} if example is None else readers(exported, masks, example)
    names: dict[int, list[str]] = {}
    for name, parameter in exported.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    found: list[Layout] = []
    with torch.no_grad():
        for name, mask in masks.items():
            parameter = exported.get_parameter(name)
            owner = exported.get_submodule(name.rpartition(".")[0])
            weight = torch.where(mask, parameter.detach(), 0)
            density = int((weight != 0).sum()) / weight.numel()
            shared = len(names[id(parameter)]) > 1
            elsewhere = "several modules use it" if shared else (_reader(exported, name) or strangers.get(name))
            layout, reason = _layout(owner, name, weight, density, elsewhere, csr_below)
            found.append(Layout(name, layout, density, reason))
            if layout == "dense":
                parameter.copy_(weight)
            else:
                sparse = torch.sparse.to_sparse_semi_structured(weight) if layout == "2:4" else _csr(weight)
                owner.register_parameter("weight", nn.Parameter(sparse, requires_grad=False))
                owner.__class__ = SparseLinear
    return Exported(exported, tuple(found))


def _layout(
    owner: nn.Module, name: str, weight: Tensor, density: float, elsewhere: str | None, csr_below: float
) -> tuple[str, str]:
    """The layout for one weight, and why it is not a sparser one."""
    if type(owner).forward is not nn.Linear.forward or name.rpartition(".")[2] != "weight":
        return "dense", f"{name} of {type(owner).__name__} has no sparse kernel in PyTorch"
    if elsewhere is not None:
        return "dense", elsewhere
    reason = semi_structured_obstacle(weight)
    if reason is None:
        return "2:4", ""
    if density < csr_below:
        unknown = csr_obstacle(weight.dtype, weight.device)
        return ("csr", reason) if unknown is None else ("dense", f"{reason}; {unknown}")
    return "dense", f"{reason}; density {density:.3g} is not below csr_below={csr_below:g}"


def _reader(model: nn.Module, name: str) -> str | None:
    """Why the module that holds a weight is not the one that reads it, or None."""
    path = ""
    for part in name.split(".")[:-1]:
        module = model.get_submodule(path)
        if isinstance(module, FUSED):
            return f"{type(module).__name__} reads it itself, by a kernel for dense weights"
        path = f"{path}.{part}".lstrip(".")
    return None


class SparseLinear(nn.Linear):
    """A linear layer with a sparse weight. Inputs become contiguous, PyTorch's kernels take no others of more than two
    dimensions; under autocast it computes in the weight's type, for which there is a kernel, and gives autocast's."""

    def forward(self, input: Tensor) -> Tensor:
        kind = input.device.type
        if not torch.is_autocast_enabled(kind):
            return nn.functional.linear(input.contiguous(), self.weight, self.bias)
        with torch.autocast(kind, enabled=False):
            found = nn.functional.linear(input.to(self.weight.dtype).contiguous(), self.weight, self.bias)
        return found.to(torch.get_autocast_dtype(kind))


def csr_obstacle(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why a device cannot multiply CSR matrices of a type, or None: a small product is tried."""
    try:
        nn.functional.linear(
            torch.ones(2, 2, dtype=dtype, device=device), _csr(torch.eye(2, dtype=dtype, device=device))
        )
    except (RuntimeError, NotImplementedError) as error:
        return f"{device.type} does not multiply CSR matrices of {dtype} ({str(error).splitlines()[0][:80]})"
    return None


def _csr(weight: Tensor) -> Tensor:
    """A matrix as CSR. PyTorch warns that its support is in beta; that is known here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return weight.to_sparse_csr()


def semi_structured_obstacle(weight: Tensor) -> str | None:
    """Why a matrix cannot be stored as 2:4 on its device, or None."""
    if weight.device.type != "cuda":
        return f"2:4 needs a GPU, not {weight.device.type}"
    capability = torch.cuda.get_device_capability(weight.device)
    if capability < (8, 0):
        return f"2:4 needs compute capability 8.0, this GPU has {capability[0]}.{capability[1]}"
    smallest = SMALLEST.get(weight.dtype)
    if smallest is None or any(n % least for n, least in zip(weight.shape, smallest, strict=True)):
        return f"2:4 has no kernel for {weight.dtype} of shape {tuple(weight.shape)}"
    return None if two_of_four(weight) else "it is not 2:4"


def two_of_four(weight: Tensor) -> bool:
    """Whether at most two of every four neighbours in each row of a matrix are not zero."""
    return weight.shape[1] % 4 == 0 and bool(((weight != 0).unflatten(1, (-1, 4)).sum(-1) <= 2).all())
