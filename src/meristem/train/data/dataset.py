"""The record of one data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meristem.errors import DataError


@dataclass(frozen=True, slots=True)
class DataSet:
    """Images and labels, split into a training and a test part.

    Attributes:
        name: as in the catalogue.
        train_images: uint8, (examples, channels, height, width); likewise `test_images`.
        train_labels: int64, (examples,), 0 .. classes - 1; likewise `test_labels`.
        classes: number of classes.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def channel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over the training images, float32, each (channels, 1, 1)."""
        levels = torch.arange(256, dtype=torch.float64)
        counts = [torch.bincount(channel.flatten(), minlength=256) for channel in self.train_images.unbind(1)]
        shares = torch.stack(counts).double() / counts[0].sum()
        mean = shares @ levels
        deviation = (shares @ levels.square() - mean.square()).clamp_min(1e-6).sqrt()
        return mean.float()[:, None, None], deviation.float()[:, None, None]


def from_arrays(
    name: str, source: Path | str, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> DataSet:
    """A data set from arrays: images uint8 as (n, h, w) or (n, h, w, channels); labels integers as (n,).

    Raises:
        DataError: shapes, types or counts do not fit; the message names the source.
    """
    parts: list[Tensor] = []
    for part, (images, labels) in (("training", train), ("test", test)):
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
            raise DataError(
                f"{source}: the {part} images should be uint8 of shape (n, h, w) or (n, h, w, channels); "
                f"found {images.dtype} of shape {images.shape}"
            )
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise DataError(
                f"{source}: the {part} labels should be {len(images)} non-negative integers, one an image; "
                f"found {labels.dtype} of shape {labels.shape}"
            )
        channels_last = images if images.ndim == 4 else images[..., None]
        parts.append(torch.tensor(channels_last.transpose(0, 3, 1, 2)))
        parts.append(torch.tensor(labels, dtype=torch.int64))
    if parts[0].shape[1:] != parts[2].shape[1:]:
        shapes = f"{tuple(parts[0].shape[1:])} and {tuple(parts[2].shape[1:])}"
        raise DataError(f"{source}: training and test images should have the same shape; found {shapes}")
    classes = int(max(parts[1].max(), parts[3].max())) + 1
    return DataSet(name, parts[0], parts[1], parts[2], parts[3], classes)
