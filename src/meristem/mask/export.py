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

    The weight of an `nn.Linear` becomes semi-structured (`torch.sparse.to_sparse_semi_structured`) where it is 2:4, on
    a GPU of compute capability 8.0 or more, and comes back from PyTorch's kernel for its type and shape entry for
    entry, which is tried; and CSR where its density is below `csr_below` and the device multiplies such matrices of its
    type. Everything else is dense: PyTorch has no sparse convolutions. Weights that are used by
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
            layout, sparse, reason = _laid_out(owner, name, weight, density, elsewhere, csr_below)
            found.append(Layout(name, layout, density, reason))
            if layout == "dense":
                parameter.copy_(weight)
            else:
                owner.register_parameter("weight", nn.Parameter(sparse, requires_grad=False))
                owner.__class__ = SparseLinear
    return Exported(exported, tuple(found))


def _laid_out(
    owner: nn.Module, name: str, weight: Tensor, density: float, elsewhere: str | None, csr_below: float
) -> tuple[str, Tensor, str]:
    """The layout for one weight, the weight in it, and why it is not a sparser one."""
    if type(owner).forward is not nn.Linear.forward or name.rpartition(".")[2] != "weight":
        return "dense", weight, f"{name} of {type(owner).__name__} has no sparse kernel in PyTorch"
    if elsewhere is not None:
        return "dense", weight, elsewhere
    found = semi_structured(weight)
    if isinstance(found, Tensor):
        return "2:4", found, ""
    if density >= csr_below:
        return "dense", weight, f"{found}; density {density:.3g} is not below csr_below={csr_below:g}"
    unknown = csr_obstacle(weight.dtype, weight.device)
    return ("csr", _csr(weight), found) if unknown is None else ("dense", weight, f"{found}; {unknown}")


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
    except RuntimeError as error:
        return f"{device.type} does not multiply CSR matrices of {dtype} ({str(error).splitlines()[0][:80]})"
    return None


def _csr(weight: Tensor) -> Tensor:
    """A matrix as CSR. PyTorch warns that its support is in beta; that is known here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return weight.to_sparse_csr()


def semi_structured(weight: Tensor) -> Tensor | str:
    """A matrix as 2:4, or why it cannot be stored so on its device.

    Which types and shapes PyTorch's kernels take, and whether they compute with all of a type's bits, differs between
    them and between releases: it is tried, and the matrix that the kernel multiplies must be the one that was given.
    """
    reason = semi_structured_obstacle(weight.device)
    if reason is not None:
        return reason
    if not two_of_four(weight):
        return "it is not 2:4"
    kind = f"{weight.dtype} of shape {tuple(weight.shape)}"
    try:
        sparse = _semi_structured(weight)
        again = sparse.to_dense()
    except RuntimeError as error:
        return f"2:4 has no kernel for {kind} ({str(error).splitlines()[0][:80]})"
    if not torch.equal(again, weight):
        return f"the kernel for 2:4 changes entries of {kind}"
    return sparse


def semi_structured_obstacle(device: torch.device) -> str | None:
    """Why no matrix can be stored as 2:4 on a device, or None."""
    if device.type != "cuda":
        return f"2:4 needs a GPU, not {device.type}"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"2:4 needs compute capability 8.0, this GPU has {capability[0]}.{capability[1]}"
    return None


def _semi_structured(weight: Tensor) -> Tensor:
    """A matrix as 2:4. PyTorch warns that its support is a prototype; that is known here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The PyTorch API of SparseSemiStructuredTensor")
        return torch.sparse.to_sparse_semi_structured(weight.contiguous())


def two_of_four(weight: Tensor) -> bool:
    """Whether at most two of every four neighbours in each row of a matrix are not zero."""
    return weight.shape[1] % 4 == 0 and bool(((weight != 0).unflatten(1, (-1, 4)).sum(-1) <= 2).all())
