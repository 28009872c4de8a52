"""The named sets. torchvision or scikit-learn fetch them; the files stay where they are found."""

from __future__ import annotations

import gzip
import io
import logging
import math
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.data.dataset import Split
from pyro_vae.data.raw import Raw
from pyro_vae.data.readers.numpy_files import arrays_of

_AMAT = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
            "Bag", "Ankle boot")  # fmt: skip
_TIMEOUT = 30.0  # seconds; torchvision opens its addresses without one
_BAD_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, zlib.error)
_DIGIT = ("digit", "label")
_log = logging.getLogger("pyro_vae")


class _Files:
    """The files of a set, which are read where they lie, downloaded, or asked for in one line."""

    def __init__(self, name: str, folder: Path, files: Sequence[str], address: str = "") -> None:
        self.name, self.folder, self.files, self.address = name, folder, files, address

    def missing(self, why: str) -> ValueError:
        """The error that names which files to put where."""
        origin = f" (from {self.address})" if self.address else ""
        return ValueError(
            f"`data`: expected the files of {self.name}{origin}: put {', '.join(self.files)} "
            f"in {self.folder}; {' '.join(why.split())[:200]}"
        )

    def download(self, fetch: Callable[[], object], allowed: bool) -> None:
        """Run a torchvision download without its prints and progress bars."""
        if not allowed:
            raise self.missing("none found, and download=False")
        _log.info("downloading %s to %s", self.name, self.folder)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_TIMEOUT)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                fetch()
        except (OSError, RuntimeError, EOFError, HTTPException, *_BAD_ARCHIVE) as error:
            raise self.missing(f"download failed: {error}") from error
        finally:
            socket.setdefaulttimeout(before)


def read_named(name: str, root: Path, download: bool) -> Raw:
    """One of the sets in `NAMES`, found under `root` or, if allowed, downloaded to it."""
    return _READERS[name](root, download)


def _digits(root: Path, download: bool) -> Raw:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Raw(
        splits={"train": torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)},
        labels={"train": torch.from_numpy(digits.target)},
        label_names=_DIGIT,
        top=16,
        binarize=True,
        held_out={"validation": 0.1, "test": 0.2},
    )


def _mnist_like(
    root: Path,
    download: bool,
    *,
    name: str,
    torch_name: str,
    prefixes: tuple[str, str] = ("train", "t10k"),
    validation: int = 10_000,
    transposed: bool = False,
    options: Mapping[str, str] | None = None,
    classes: Sequence[str] = (),
) -> Raw:
    """A set in MNIST's file format; the last `validation` training images are held out."""
    from torchvision import datasets

    folder = root / torch_name / "raw"
    stems = [f"{p}-{k}-ubyte" for p in prefixes for k in ("images-idx3", "labels-idx1")]

    def paths() -> list[Path | None]:
        # torchvision would unpack the archives next to themselves, and the folder may be read-only.
        found = [[folder / stem, folder / f"{stem}.gz"] for stem in stems]
        return [next((path for path in pair if path.is_file()), None) for pair in found]

    if None in paths():
        files = _Files(name, folder, [f"{stem}.gz" for stem in stems])
        fetch = partial(getattr(datasets, torch_name), root, download=True, **(options or {}))
        for train in (True, False):
            files.download(partial(fetch, train=train), download)
    x, y, x_test, y_test = (_read_idx(path) for path in paths() if path is not None)
    if transposed:
        x, x_test = x.mT, x_test.mT
    return Raw(
        splits={
            "train": x[:-validation].unsqueeze(1),
            "validation": x[-validation:].unsqueeze(1),
            "test": x_test.unsqueeze(1),
        },
        labels={"train": y[:-validation], "validation": y[-validation:], "test": y_test},
        label_names=_DIGIT if name == "mnist" else ("label",),
        top=255,
        binarize=True,
        classes=classes,
    )


def _read_idx(path: Path) -> Tensor:
    """Bytes in the IDX format: a magic number, big-endian sizes, values."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        magic, rank = content[:3], content[3]
        start = 4 + 4 * rank
        shape = struct.unpack(f">{rank}I", content[4:start])
    except (OSError, EOFError, IndexError, zlib.error, struct.error) as error:
        raise expected("data", "a readable IDX file (remove this one)", str(path)) from error
    if magic != b"\0\0\x08" or len(content) != start + math.prod(shape):
        raise expected("data", "a complete IDX file of bytes (remove this one)", str(path))
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)


def _omniglot(root: Path, download: bool) -> Raw:
    """Ink as the top level; 105 × 105 strokes reduced to 28 × 28 by averaging areas (a box filter).

    The background alphabets train, the evaluation alphabets test: other characters altogether.
    """
    from PIL import Image
    from torchvision import datasets

    folder = root / "omniglot-py"
    parts = ("images_background", "images_evaluation")
    if not all(any((folder / part).glob("*/*/*.png")) for part in parts):
        files = _Files("omniglot", folder, [f"{part}.zip (unpacked)" for part in parts])
        for background in (True, False):
            files.download(partial(datasets.Omniglot, root, background, download=True), download)

    def read(part: str) -> tuple[Tensor, Tensor]:
        paths = sorted((folder / part).glob("*/*/*.png"))
        images = np.empty((len(paths), 1, 28, 28), dtype=np.uint8)
        for image, path in zip(images, paths, strict=True):
            with Image.open(path) as file:
                image[0] = 255 - np.asarray(
                    file.convert("L").resize((28, 28), Image.Resampling.BOX)
                )
        characters = {path: i for i, path in enumerate(sorted({path.parent for path in paths}))}
        labels = torch.tensor([characters[path.parent] for path in paths])
        return torch.from_numpy(images), labels

    x, y = read(parts[0])
    x_test, y_test = read(parts[1])
    return Raw(
        splits={"train": x, "test": x_test},
        labels={"train": y, "test": y_test},
        top=255,
        binarize=True,
    )


def _cifar10(root: Path, download: bool) -> Raw:
    from torchvision import datasets

    files = _Files("cifar10", root, ["cifar-10-python.tar.gz (unpacked)"])
    train, test = (
        _checked(files, partial(datasets.CIFAR10, root, train), download) for train in (True, False)
    )
    return Raw(
        splits={k: torch.from_numpy(s.data).movedim(-1, 1) for k, s in _pair(train, test)},
        labels={k: torch.tensor(s.targets) for k, s in _pair(train, test)},
        top=255,
        classes=tuple(getattr(train, "classes", ())),
    )


def _svhn(root: Path, download: bool) -> Raw:
    from torchvision import datasets

    files = _Files("svhn", root, ["train_32x32.mat", "test_32x32.mat"])
    train, test = (
        _checked(files, partial(datasets.SVHN, root, split), download)
        for split in ("train", "test")
    )
    return Raw(
        splits={k: torch.from_numpy(s.data) for k, s in _pair(train, test)},
        labels={k: torch.from_numpy(s.labels) for k, s in _pair(train, test)},
        top=255,
    )


def _pair(train: Any, test: Any) -> tuple[tuple[Split, Any], tuple[Split, Any]]:
    return ("train", train), ("test", test)


def _checked(files: _Files, kind: Callable[..., Any], download: bool) -> Any:
    """A torchvision set whose files it checks itself: as found, or else downloaded."""
    try:
        return kind(download=False)
    except RuntimeError:
        files.download(partial(kind, download=True), download)
    return kind(download=False)


def _binarized_mnist(root: Path, download: bool) -> Raw:
    """Static binarised MNIST, drawn once by Larochelle & Murray (2011); no labels."""
    keys: dict[Split, str] = {"train": "train", "validation": "valid", "test": "test"}
    for folder in (root / "binarized_mnist", root):
        archive = folder / "binarized_mnist.npz"
        if archive.is_file():
            found = arrays_of(archive)
            if not set(keys.values()) <= set(found):
                raise expected("data", f"keys train, valid and test in {archive}", sorted(found))
            arrays = {split: found[key] for split, key in keys.items()}
            break
        texts = {split: folder / f"binarized_mnist_{key}.amat" for split, key in keys.items()}
        if all(path.is_file() for path in texts.values()):
            arrays = {split: _read_amat(path) for split, path in texts.items()}
            break
    else:
        names = ["binarized_mnist.npz (keys train, valid, test)"]
        names += [f"or binarized_mnist_{key}.amat" for key in keys.values()]
        files = _Files("binarized_mnist", root / "binarized_mnist", names, _AMAT)
        raise files.missing("none found")
    for split, array in arrays.items():
        if array.ndim != 2 or array.shape[1] != 784 or not np.isin(array, (0, 1)).all():
            raise expected("data", f"binary values of shape (N, 784) as {split} of {folder}", array)
    return Raw(
        splits={
            split: torch.from_numpy(array.astype(np.uint8)).reshape(-1, 1, 28, 28)
            for split, array in arrays.items()
        },
        top=1,
    )


def _read_amat(path: Path) -> np.ndarray:
    try:
        return np.loadtxt(path, dtype=np.uint8, ndmin=2)
    except ValueError as error:
        raise expected("data", "rows of 0 and 1 (remove this file)", str(path)) from error


_READERS: Mapping[str, Callable[[Path, bool], Raw]] = {
    "digits": _digits,
    "mnist": partial(_mnist_like, name="mnist", torch_name="MNIST"),
    "fashion_mnist": partial(
        _mnist_like, name="fashion_mnist", torch_name="FashionMNIST", classes=_CLOTHES
    ),
    "kmnist": partial(_mnist_like, name="kmnist", torch_name="KMNIST"),
    "emnist": partial(
        _mnist_like,
        name="emnist",
        torch_name="EMNIST",
        prefixes=("emnist-balanced-train", "emnist-balanced-test"),
        validation=18_800,
        transposed=True,
        options={"split": "balanced"},
    ),
    "omniglot": _omniglot,
    "cifar10": _cifar10,
    "svhn": _svhn,
    "binarized_mnist": _binarized_mnist,
}

NAMES = tuple(_READERS)
"""The data sets that are read by name."""
