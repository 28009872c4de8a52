"""Data sets by name: what is served, and where their files are looked for."""

from __future__ import annotations

import gzip
import socket
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torch.distributions import constraints

from pyro_vae.data import load


def _write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head + values.astype(np.uint8).tobytes())


def _write_mnist(folder: Path, sizes: dict[str, int]) -> None:
    """Image `i` is black but for a bar in its first row, as bright as `i` modulo 256."""
    for prefix, size in sizes.items():
        images = np.zeros((size, 28, 28))
        images[:, 0, 5:] = np.arange(size)[:, None] % 256
        _write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        _write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(size) % 10)


def test_digits_are_binary_above_one_half_and_split_without_overlap() -> None:
    data, levels = load("digits"), load("digits", levels=True)
    assert [len(data.train), len(data.validation), len(data.test)] == [1257, 180, 360]
    assert data.event_shape == (1, 8, 8)
    assert data.support is constraints.boolean
    assert data.binarize == "threshold"
    assert torch.equal(data.test, (levels.test > 8).float())
    served = torch.cat([levels.train, levels.validation, levels.test]).flatten(1)
    original = torch.from_numpy(load_digits().data).float()
    assert torch.equal(served.unique(dim=0), original.unique(dim=0))
    for x, y in ((levels.train, data.labels["train"]), (levels.test, data.labels["test"])):
        row = int((original == x[3].flatten()).all(1).nonzero()[0])
        assert y is not None
        assert y.dtype == torch.long
        assert y[3] == load_digits().target[row]


def test_digits_without_binarization() -> None:
    grey, levels = load("digits", binarize="none"), load("digits", levels=True)
    assert (grey.transform, levels.transform) == ("x / 16", "none")
    assert (grey.support, levels.support) == (
        constraints.unit_interval,
        constraints.nonnegative_integer,
    )
    assert torch.equal(grey.train * 16, levels.train)
    assert levels.train.max() == 16


def test_the_splits_and_fingerprints_of_digits_never_change() -> None:
    """Fails when a seed, a generator, the threshold or the fingerprint's recipe changes."""
    threshold, stochastic = load("digits"), load("digits", binarize="stochastic")
    assert threshold.base_measure()["fingerprint"].startswith("41e51c2ab91f57eb")
    assert stochastic.base_measure()["fingerprint"].startswith("7c73dd")
    assert load("digits", seed=1).base_measure() != threshold.base_measure()


def test_mnist_files_are_read_in_place(tmp_path: Path) -> None:
    _write_mnist(tmp_path / "MNIST" / "raw", {"train": 10_020, "t10k": 30})
    before = sorted(tmp_path.rglob("*"))
    data = load("mnist", root=tmp_path, binarize="none", download=False)
    assert sorted(tmp_path.rglob("*")) == before
    assert [len(data.train), len(data.validation), len(data.test)] == [20, 10_000, 30]
    assert data.event_shape == (1, 28, 28)
    assert data.transform == "x / 255"
    bar = torch.arange(20, 10_020) % 256 / 255
    assert torch.equal(data.validation[:, 0, 0, 5], bar)
    assert data.labels["validation"] is not None
    assert torch.equal(data.labels["validation"], torch.arange(20, 10_020) % 10)


def test_emnist_is_balanced_and_upright(tmp_path: Path) -> None:
    names = {"emnist-balanced-train": 18_810, "emnist-balanced-test": 200}
    _write_mnist(tmp_path / "EMNIST" / "raw", names)
    data = load("emnist", root=tmp_path, levels=True, download=False)
    assert [len(data.train), len(data.validation), len(data.test)] == [10, 18_800, 200]
    assert torch.equal(data.test[150, 0, :, 0], torch.tensor([0.0] * 5 + [150.0] * 23))


def test_omniglot_is_ink_on_28_by_28(tmp_path: Path) -> None:
    for part, characters in (("images_background", 2), ("images_evaluation", 3)):
        for character in range(characters):
            folder = tmp_path / "omniglot-py" / part / "Latin" / f"character{character:02}"
            folder.mkdir(parents=True)
            for drawing in range(5):
                page = np.full((105, 105), 255, dtype=np.uint8)
                page[:15, :30] = 0  # 4 by 8 pixels of ink at 28 by 28
                Image.fromarray(page).convert("1").save(folder / f"{drawing}.png")
    data = load("omniglot", root=tmp_path, download=False)
    assert [len(data.train), len(data.validation), len(data.test)] == [9, 1, 15]
    ink = torch.zeros(1, 28, 28)
    ink[:, :4, :8] = 1
    assert torch.equal(data.test, ink.expand(15, 1, 28, 28))
    assert data.labels["test"] is not None
    assert data.labels["test"].bincount().tolist() == [5, 5, 5]


def test_colour_sets_are_channels_first_and_grey_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(20)

    def cifar(root: Path, train: bool, download: bool) -> SimpleNamespace:
        return SimpleNamespace(data=pixels.transpose(0, 2, 3, 1), targets=labels.tolist())

    def svhn(root: Path, split: str, download: bool) -> SimpleNamespace:
        return SimpleNamespace(data=pixels, labels=labels)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", cifar)
    monkeypatch.setattr(torchvision.datasets, "SVHN", svhn)
    for name in ("cifar10", "svhn"):
        data = load(name, root=tmp_path)
        assert [len(data.train), len(data.validation), len(data.test)] == [18, 2, 20]
        assert (data.binarize, data.transform) == ("none", "x / 255")
        assert torch.equal(data.test, torch.from_numpy(pixels) / 255)
        assert torch.equal(data.train, data.test[data.labels["train"]])


@pytest.mark.parametrize("layout", ["npz", "amat"])
def test_binarized_mnist_is_served_as_it_was_drawn(tmp_path: Path, layout: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {k: rng.integers(0, 2, (n, 784)) for k, n in (("train", 6), ("valid", 3), ("test", 2))}
    folder = tmp_path / "binarized_mnist"
    folder.mkdir()
    if layout == "npz":
        np.savez(folder / "binarized_mnist.npz", **arrays)
    else:
        for key, array in arrays.items():
            np.savetxt(folder / f"binarized_mnist_{key}.amat", array, fmt="%d")
    data = load("binarized_mnist", root=tmp_path)
    assert (data.binarize, data.transform) == ("none", "none")
    assert data.support is constraints.boolean
    assert data.labels == {"train": None, "validation": None, "test": None}
    for split, key in (("train", "train"), ("validation", "valid"), ("test", "test")):
        expected = torch.from_numpy(arrays[key]).float().reshape(-1, 1, 28, 28)
        assert torch.equal(data.split(split), expected)


@pytest.mark.long
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "binarized_mnist"])
def test_real_images(real_data_root: Path, name: str) -> None:
    before = sorted(real_data_root.rglob("*"))
    data = load(name, root=real_data_root)
    assert sorted(real_data_root.rglob("*")) == before
    assert [len(data.train), len(data.validation), len(data.test)] == [50_000, 10_000, 10_000]
    assert data.support is constraints.boolean
    ink = {"mnist": 0.131, "fashion_mnist": 0.314, "binarized_mnist": 0.130}
    assert data.train.mean().item() == pytest.approx(ink[name], abs=0.002)
    if name == "mnist":
        assert data.labels["test"] is not None
        assert data.labels["test"][:5].tolist() == [7, 2, 1, 0, 4]


def test_a_failed_download_is_one_line_and_silent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def download(self: Any) -> None:
        print("100%", file=sys.stderr)
        raise RuntimeError(f"Error downloading:\n{URLError('no network')}")

    monkeypatch.setattr(torchvision.datasets.KMNIST, "download", download)
    timeout = socket.getdefaulttimeout()
    with pytest.raises(
        ValueError, match=r"put train-images-idx3-ubyte\.gz, .* in .*KMNIST.*no netw"
    ) as e:
        load("kmnist", root=tmp_path)
    assert "\n" not in str(e.value)
    assert capfd.readouterr() == ("", "")
    assert socket.getdefaulttimeout() == timeout


def test_a_download_is_silent_and_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def download(self: Any) -> None:
        print("100%", file=sys.stderr)
        _write_mnist(Path(self.raw_folder), {"train": 10_001, "t10k": 2})
        for file in Path(self.raw_folder).glob("*.gz"):
            file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))

    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", download)
    data = load("fashion_mnist", root=tmp_path)
    assert [len(data.train), len(data.test)] == [1, 2]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "t10k-labels-idx1-ubyte.gz"),
        ("omniglot", "images_background.zip"),
        ("cifar10", "cifar-10-python.tar.gz"),
        ("svhn", "test_32x32.mat"),
        ("binarized_mnist", "binarized_mnist.npz"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, name: str, file: str) -> None:
    with pytest.raises(ValueError, match=rf"`data`: .*{file}.* in {tmp_path}") as error:
        load(name, root=tmp_path, download=False)
    assert "\n" not in str(error.value)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    _write_mnist(folder, {"train": 10_001, "t10k": 2})
    broken = folder / "train-images-idx3-ubyte.gz"
    broken.write_bytes(broken.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
        load("mnist", root=tmp_path, download=False)
