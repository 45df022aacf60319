"""Which data sets there are, in which files they are sought, and how to get them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meristem.errors import DataError
from meristem.train.data import cifar, idx, npz
from meristem.train.data.dataset import DataSet, from_arrays
from meristem.train.data.table import Table, read_adult, read_housing
from meristem.train.data.text import Text, read_text

Part = tuple[np.ndarray, np.ndarray]
Data = DataSet | Text | Table
Reader = Callable[[Path], "tuple[Part, Part] | None"]


@dataclass(frozen=True, slots=True)
class Source:
    """A data set that lies in a data folder.

    Attributes:
        torchvision: name of the class that downloads it.
        places: file or folder below the data folder, with the function that reads it; the first that exists is taken.
    """

    torchvision: str
    places: tuple[tuple[str, Reader], ...]


SOURCES = {
    "mnist": Source("MNIST", (("mnist.npz", npz.read), ("MNIST/raw", idx.read_folder))),
    "fashion_mnist": Source("FashionMNIST", (("fashion_mnist.npz", npz.read), ("FashionMNIST/raw", idx.read_folder))),
    "cifar10": Source("CIFAR10", (("cifar10.npz", npz.read), ("cifar-10-batches-py", cifar.read_ten))),
    "cifar100": Source(
        "CIFAR100",
        (
            ("cifar100.npz", npz.read),
            ("cifar-100-python", cifar.read_hundred),
            ("cifar100_small.npz", npz.read),
        ),
    ),
}


def load(name: str, data_dir: Path | str = "data") -> Any:
    """A data set by name; `digits` comes with scikit-learn, the others are read from a data folder.

    Args:
        name: one of `NAMES`; or that of an .npz file with images in the data folder, without the ending.
        data_dir: the folder with `.npz` and `.txt` files or with the folders that torchvision writes. Not used by
            `digits`.

    Returns:
        a `DataSet` of images, a `Text` or a `Table`, as the name says.

    Raises:
        DataError: the name is unknown, or the files are missing (the message says where they were sought and how to
            get them) or malformed.
    """
    return NAMES[name](Path(data_dir)) if name in NAMES else _own(name, Path(data_dir))


def _own(name: str, data_dir: Path) -> DataSet:
    """Images in an .npz file that is none of the catalogue's."""
    path = data_dir / f"{name}.npz"
    parts = npz.read(path)
    if parts is None:
        raise DataError(
            f"unknown data set {name!r}; expected one of {', '.join(NAMES)}, or one of your own in "
            f"{path.absolute()}, which is not there: an .npz file with {', '.join(npz.KEYS)} (uint8 images, integer "
            "labels)"
        )
    return from_arrays(name, path, *parts)


def _digits(_: Path) -> DataSet:
    """The 1797 handwritten digits of scikit-learn (UCI), 8 x 8 pixels; the test is the last quarter."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "digits comes with scikit-learn, which is not installed: pip install 'meristem[demo]'"
        ) from error
    pixels, target = load_digits(return_X_y=True)
    images, labels = np.asarray(pixels, np.uint8).reshape(-1, 8, 8), np.asarray(target)
    cut = len(labels) * 3 // 4
    return from_arrays("digits", "scikit-learn", (images[:cut], labels[:cut]), (images[cut:], labels[cut:]))


def _from_files(name: str, data_dir: Path) -> DataSet:
    source = SOURCES[name]
    for place, reader in source.places:
        parts = reader(data_dir / place)
        if parts is not None:
            return from_arrays(name, data_dir / place, *parts)
    sought = "\n".join(f"  {(data_dir / place).absolute()}" for place, _ in source.places)
    raise DataError(
        f"the data set {name!r} was not found (or is incomplete). It was sought in\n{sought}\n"
        f"Give the folder that holds it with --data-dir, or download it once:\n"
        f'  pip install torchvision && python -c "import torchvision.datasets as d; '
        f'[d.{source.torchvision}({str(data_dir)!r}, train=t, download=True) for t in (True, False)]"\n'
        f"or put there an .npz file with {', '.join(npz.KEYS)} (uint8 images, integer labels)."
    )


def _from_file(name: str, file: str, contents: str, reader: Callable[[Path], Data | None], data_dir: Path) -> Data:
    found = reader(data_dir / file)
    if found is None:
        raise DataError(
            f"the data set {name!r} was not found. It was sought in\n  {(data_dir / file).absolute()}\n"
            f"Give the folder that holds it with --data-dir, or put the file there: {contents}"
        )
    return found


NAMES: dict[str, Callable[[Path], Data]] = {
    "digits": _digits,
    **{name: partial(_from_files, name) for name in SOURCES},
    "tinyshakespeare": partial(
        _from_file,
        "tinyshakespeare",
        "tinyshakespeare.txt",
        "UTF-8 text; https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        partial(read_text, "tinyshakespeare"),
    ),
    "adult": partial(
        _from_file,
        "adult",
        "adult.npz",
        "num_*, cat_* and y_* for train and test (see docs/data.md), made from https://archive.ics.uci.edu/dataset/2",
        read_adult,
    ),
    "california_housing": partial(
        _from_file,
        "california_housing",
        "california_housing.npz",
        "x_train, y_train, x_test, y_test and feature_names (see docs/data.md)",
        read_housing,
    ),
}
"""Every data set by name."""
