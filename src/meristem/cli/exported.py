"""A model as an ONNX file, by torch's exporter, and what onnxruntime says of it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from meristem.cli.leaves import Leaves, doubled, input_names, tensors_of, without_caches
from meristem.cli.own import said
from meristem.edit.preview import drift_of
from meristem.errors import ConfigError, MeristemError

INSTALL = "pip install 'meristem[onnx]'"
TOLERANCE = 1e-3
"""The largest change of an output entry, relative to the largest entry, that other kernels may make."""

LARGEST = 2**30
"""Bytes of weights from which they go into a file of their own beside the ONNX file, which holds 2 GiB at most."""

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]


@dataclass(frozen=True)
class Exported:
    """What an ONNX file holds, and what was found about it. Print it for a line.

    Attributes:
        drift: by how much its outputs differ, relative to the largest entry; None if that is not known.
        unknown: why it is not known.
        fixed: why it takes batches of one size only; None if it takes any.
        left: what of the model's output is not in it, since it is no tensor.
    """

    drift: float | None
    unknown: str | None = None
    fixed: str | None = None
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        checked = f"not checked, since {self.unknown}" if self.drift is None else f"outputs differ by {self.drift:.1g}"
        size = "for any batch size" if self.fixed is None else f"for the batch size of the example only ({self.fixed})"
        left = [f"of the output left out: {', '.join(self.left)}, which no ONNX file holds"] if self.left else []
        return "; ".join((checked, size, *left))


class UnableError(Exception):
    """The exporter, or onnxruntime, cannot do what it was asked to."""


def exportable() -> bool:
    """Whether torch's exporter has what it needs."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxscript"))


def require_exporter() -> None:
    """Raise `ConfigError` if it has not."""
    if not exportable():
        raise ConfigError(f"ONNX files need onnx and onnxscript, which are not installed: {INSTALL}; or --no-onnx")


def outputs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """All floating-point outputs in eval mode, float64 on the CPU."""
    model.eval()
    with torch.no_grad():
        found = tree_leaves(model(*args, **kwargs))
    return _numbers([out for out in found if isinstance(out, Tensor)])


def export(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], path: Path) -> Exported:
    """Write an ONNX file of the model in eval mode, and run it.

    It takes batches of any size where all inputs are tensors of one first length and torch's exporter can keep that
    open; then it is run on the example, and on a batch twice as large. Everything else has the shapes of the example.
    What it gives is the tensors of the output, without the caches of generation.

    Raises:
        ConfigError: the exporter is not installed.
        MeristemError: the model cannot be exported, or the file gives other outputs.
    """
    require_exporter()
    model.eval()
    with without_caches(model):
        _, others = tensors_of(model, args, kwargs)
        whole = Leaves(model) if others else model
        names = input_names(model, args, kwargs)
        left = tuple(f"{name} ({type(value).__name__})" for name, value in others.items() if value is not None)
        more = doubled(args, kwargs)
        fixed = "its inputs are not all tensors of one first length" if more is None else None
        if more is not None:
            try:
                _export(whole, more, path, names, dynamic=True)
                drift, unknown = _compared(whole, ((args, kwargs), more), path)
                return Exported(drift, unknown, None, left)
            except UnableError as error:
                fixed = f"any other cannot be exported: {error}"
        try:
            _export(whole, (args, kwargs), path, names, dynamic=False)
            drift, unknown = _compared(whole, ((args, kwargs),), path)
        except UnableError as error:
            raise MeristemError(
                f"no ONNX file that can be used: {error}. The safetensors file is there; leave ONNX out with --no-onnx"
            ) from error
    return Exported(drift, unknown, fixed, left)


def _export(model: nn.Module, inputs: Inputs, path: Path, names: list[str] | None, dynamic: bool) -> None:
    args, kwargs = inputs
    large = sum(tensor.nbytes for tensor in model.state_dict().values()) > LARGEST
    first = {0: torch.export.Dim.DYNAMIC}
    shapes: Any = _shapes(model, args, kwargs, first) if dynamic else None
    with _silent(), sdpa_kernel(SDPBackend.MATH):  # whose strides are those of what the file is made of
        try:
            torch.onnx.export(
                model,
                args,
                path,
                kwargs=dict(kwargs),
                input_names=names,
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=large,
                verbose=False,
            )
        except Exception as error:
            raise UnableError(said(_deepest(error))) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what the exporter and its optimizer say about themselves."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _shapes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], one: dict[int, Any]) -> Any:
    """What is said of the shape of each input, in the form that the exporter wants for the model's signature."""
    names = input_names(model, args, {}) or []
    return {**dict.fromkeys(names, one), **dict.fromkeys(kwargs, one)}


def _deepest(error: BaseException) -> BaseException:
    """The error that an error comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _compared(model: nn.Module, batches: tuple[Inputs, ...], path: Path) -> tuple[float | None, str | None]:
    """By how much outputs differ over some batches; or None, and why that is not known."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None, "onnxruntime is not installed"
    drifts = []
    for args, kwargs in batches:
        try:
            drifts.append(_drift(model, args, kwargs, path))
        except NotImplementedError as error:
            return None, str(error)
    if not max(drifts) <= TOLERANCE:
        raise UnableError(
            f"{path} gives other outputs than the model, which differ by {max(drifts):.2g} of the largest"
        )
    return max(drifts), None


def _drift(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], path: Path) -> float:
    """By how much outputs differ. Raises `NotImplementedError`: onnxruntime has no kernel for the type of the model."""
    import onnxruntime  # pyright: ignore[reportMissingImports]
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Missing  # pyright: ignore

    given = [x for x in tree_leaves((args, dict(kwargs))) if isinstance(x, Tensor)]
    odd = next((x.dtype for x in given if x.dtype == torch.bfloat16), None)
    if odd is not None:
        raise NotImplementedError(f"NumPy, by which onnxruntime is fed, has no {odd}")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feed = {entry.name: x.cpu().numpy() for entry, x in zip(session.get_inputs(), given, strict=True)}
        found = [torch.from_numpy(out) for out in session.run(None, feed)]
    except Missing as error:
        raise NotImplementedError(f"onnxruntime cannot run it here ({said(error)})") from error
    except Exception as error:  # onnxruntime's own, which have no base class in common
        raise UnableError(said(error)) from error
    return drift_of(_numbers(tensors_of(model, args, kwargs)[0]), _numbers(found))


def _numbers(found: list[Tensor]) -> list[Tensor]:
    """Those of floating point, float64 on the CPU."""
    return [out.double().cpu() for out in found if out.is_floating_point()]
