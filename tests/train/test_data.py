"""Data sets are read from every layout that users have, and hostile or broken files load nothing."""

import gzip
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from meristem.errors import DataError
from meristem.train.data import load
from meristem.train.data.catalogue import SOURCES
from meristem.train.data.unpickle import read_pickle

RNG = np.random.default_rng(0)


def images(n: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def labels(n: int, classes: int = 10) -> np.ndarray:
    return np.arange(n) % classes


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, compress: bool) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    arrays = {
        "train-images-idx3-ubyte": images(12, 28, 28),
        "train-labels-idx1-ubyte": labels(12).astype(np.uint8),
        "t10k-images-idx3-ubyte": images(4, 28, 28),
        "t10k-labels-idx1-ubyte": labels(4).astype(np.uint8),
    }
    for stem, array in arrays.items():
        if compress:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / stem).write_bytes(idx_bytes(array))
    return arrays


def test_digits_are_real_images_with_a_test_part():
    digits = load("digits")
    assert digits.input_shape == (1, 8, 8)
    assert digits.classes == 10
    assert len(digits.train_images) + len(digits.test_images) == 1797
    assert digits.train_images.max() == 16
    assert sorted(set(digits.test_labels.tolist())) == list(range(10))


def test_channel_statistics_are_those_of_the_pixels():
    digits = load("digits")
    mean, deviation = digits.channel_statistics()
    pixels = digits.train_images[:, 0].double()
    assert mean.shape == deviation.shape == (1, 1, 1)
    assert mean.item() == pytest.approx(pixels.mean().item(), rel=1e-6)
    assert deviation.item() == pytest.approx(pixels.std(correction=0).item(), rel=1e-6)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
@pytest.mark.parametrize("compress", [False, True])
def test_torchvision_idx_folders(tmp_path, name, folder, compress):
    arrays = write_idx(tmp_path / folder / "raw", compress)
    found = load(name, tmp_path)
    np.testing.assert_array_equal(found.train_images[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(found.test_labels.numpy(), arrays["t10k-labels-idx1-ubyte"])


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "cifar100_small"])
def test_npz(tmp_path, name):
    shape = (28, 28) if "mnist" in name else (32, 32, 3)
    x, y = images(20, *shape), labels(20)
    np.savez_compressed(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x[:5], y_test=y[:5].astype(np.uint8))
    found = load(name.removesuffix("_small"), tmp_path)
    assert found.input_shape == ((1, 28, 28) if "mnist" in name else (3, 32, 32))
    assert found.classes == 10
    np.testing.assert_array_equal(found.train_images[3].permute(1, 2, 0).squeeze(-1).numpy(), x[3])


@pytest.mark.parametrize("protocol", [2, 4])
def test_torchvision_cifar_folders(tmp_path, protocol):
    ten, hundred = tmp_path / "cifar-10-batches-py", tmp_path / "cifar-100-python"
    ten.mkdir()
    hundred.mkdir()
    x = images(6, 3072)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (ten / name).write_bytes(pickle.dumps({b"data": x, b"labels": [0, 1, 2, 3, 4, 9]}, protocol))
    for name in ("train", "test"):
        content = {"data": x, "fine_labels": [0, 10, 99, 3, 4, 5], "coarse_labels": [0] * 6}
        (hundred / name).write_bytes(pickle.dumps(content, protocol))
    first, second = load("cifar10", tmp_path), load("cifar100", tmp_path)
    assert (len(first.train_images), len(first.test_images), first.classes) == (30, 6, 10)
    assert second.classes == 100
    np.testing.assert_array_equal(second.test_images[1].numpy(), x[1].reshape(3, 32, 32))


def test_a_missing_set_says_where_it_was_sought_and_how_to_get_it(tmp_path):
    for name in set(SOURCES):
        with pytest.raises(DataError) as caught:
            load(name, tmp_path)
        message = str(caught.value)
        assert str(tmp_path / f"{name}.npz") in message
        assert "download=True" in message
        assert "--data-dir" in message


def test_a_file_of_ones_own_is_a_set_of_its_name(tmp_path):
    x, y = images(6, 5, 4, 3), labels(6, 3)
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    found = load("mine", tmp_path)
    assert (found.name, found.classes, found.input_shape) == ("mine", 3, (3, 5, 4))
    assert np.array_equal(found.train_images.numpy(), x.transpose(0, 3, 1, 2))
    with pytest.raises(DataError, match=r"unknown data set 'yours'.*yours\.npz, which is not there"):
        load("yours", tmp_path)


def test_an_unknown_set_names_those_there_are():
    with pytest.raises(DataError, match="digits, mnist"):
        load("imagenet")


class Hostile:
    """Unpickling this with Python's own unpickler would run a function."""

    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({b"data": Hostile()}),
        pickle.dumps(Hostile()),
        pickle.dumps([1, 2]),
        pickle.dumps({b"data": np.array([{}], dtype=object)}, 2),
        pickle.dumps({b"data": np.ones(3)}, 2),
        b"cos\nsystem\n(S'true'\ntR.",
        b"cnumpy\nload\n(S'x.npy'\ntR.",
        pickle.dumps({b"data": images(2, 3)}, 2)[:-20],
        b"",
        b"\x80\x02}q\x00.garbage"[:3],
    ],
    ids=["call", "call-top", "list", "objects", "floats", "os.system", "numpy.load", "truncated", "empty", "short"],
)
def test_pickles_with_anything_but_bytes_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match="batch: not a data file"):
        read_pickle(tmp_path / "batch")
    assert not (tmp_path / "owned").exists()


def test_an_array_whose_shape_promises_too_much_is_refused(tmp_path):
    content = pickle.dumps({b"data": images(2, 3)}, 2).replace(b"K\x02K\x03", b"K\x7fK\x7f")
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match="shape"):
        read_pickle(tmp_path / "batch")


@pytest.mark.parametrize(
    "content",
    [
        idx_bytes(images(3, 28, 28))[:-1],
        idx_bytes(images(3, 28, 28)) + b"x",
        b"\0\0\x0d\x03" + b"\0" * 12,
        b"\0\0\x08\x03" + b"\xff" * 12,
        b"no",
    ],
    ids=["truncated", "too long", "floats", "huge", "no header"],
)
@pytest.mark.parametrize("compress", [False, True])
def test_broken_idx_files(tmp_path, content, compress):
    write_idx(tmp_path / "MNIST/raw", compress)
    name = tmp_path / "MNIST/raw" / ("train-images-idx3-ubyte.gz" if compress else "train-images-idx3-ubyte")
    name.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(DataError, match="train-images"):
        load("mnist", tmp_path)


def test_a_truncated_gzip(tmp_path):
    write_idx(tmp_path / "MNIST/raw", compress=True)
    name = tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz"
    name.write_bytes(name.read_bytes()[:-200])
    with pytest.raises(DataError, match="fetch"):
        load("mnist", tmp_path)


def npz_bytes(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


GOOD = {"x_train": images(4, 28, 28), "y_train": labels(4), "x_test": images(2, 28, 28), "y_test": labels(2)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a zip", "read safely"),
        (npz_bytes(**GOOD)[:900], "read safely"),
        (npz_bytes(x_train=GOOD["x_train"]), "y_train, x_test, y_test missing"),
        (npz_bytes(**{**GOOD, "y_train": np.array([{}] * 4, dtype=object)}), "read safely"),
        (npz_bytes(**{**GOOD, "x_train": GOOD["x_train"].astype(np.float32)}), "uint8"),
        (npz_bytes(**{**GOOD, "y_train": labels(3)}), "one an image"),
        (npz_bytes(**{**GOOD, "y_test": np.array([-1, 0])}), "non-negative"),
        (npz_bytes(**{**GOOD, "x_test": images(2, 14, 28)}), "same shape"),
    ],
)
def test_broken_npz_files(tmp_path, content, message):
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("mnist", tmp_path)
