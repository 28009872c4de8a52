"""Files of arrays: each array has a use, or is refused; none is passed over."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy import sparse

from pyro_vae.data import load

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
COUNTS = np.random.default_rng(1).poisson(2.0, (40, 3)).astype(np.float32)
Y = np.arange(40) % 3
MASK = np.random.default_rng(2).random((40, 3)) > 0.3


def _write(path: Path, arrays: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, each in arrays.items():
                file[name] = each
    return path


SUFFIXES = pytest.mark.parametrize("suffix", [".npz", ".h5", ".hdf5"])


@SUFFIXES
def test_a_mask_hides_what_is_not_observed(suffix: str, tmp_path: Path) -> None:
    """Fails when the mask is passed over, or read the other way round."""
    path = _write(tmp_path / f"x{suffix}", {"x": X, "mask": MASK})
    data = load(path, missing=True, validation=0, test=0)
    assert torch.equal(data.mask["train"], torch.from_numpy(MASK))
    assert torch.equal(data.train[data.mask["train"]], torch.from_numpy(X[MASK]))
    assert data.train[~data.mask["train"]].isnan().all()
    with pytest.raises(ValueError, match=r"`missing`: expected True \(--missing\) with a mask"):
        load(path)


def test_masks_go_with_their_splits(tmp_path: Path) -> None:
    arrays = {"x_train": X, "x_train_mask": MASK, "x_test": X[:5], "test_mask": MASK[5:10]}
    data = load(_write(tmp_path / "x.npz", arrays), missing=True, validation=0)
    assert torch.equal(data.mask["train"], torch.from_numpy(MASK))
    assert torch.equal(data.mask["test"], torch.from_numpy(MASK[5:10]))


def test_hidden_entries_may_be_anything_and_a_mask_of_ones_asks_for_nothing(tmp_path: Path) -> None:
    x = np.where(MASK, X, np.nan)
    data = load(_write(tmp_path / "x.npz", {"x": x, "mask": MASK.astype(int)}), missing=True)
    assert data.mask["train"].any()
    whole = load(_write(tmp_path / "y.npz", {"x": X, "mask": np.ones_like(MASK)}))
    assert whole.mask == {}
    x = np.where(MASK, np.nan, X)
    with pytest.raises(ValueError, match="a finite float32 value"):
        load(_write(tmp_path / "z.npz", {"x": x, "mask": np.ones_like(MASK)}))


@SUFFIXES
@pytest.mark.parametrize("name", ["y", "labels", "label", "target", "targets"])
def test_labels_go_with_one_array(name: str, suffix: str, tmp_path: Path) -> None:
    data = load(_write(tmp_path / f"x{suffix}", {"data": X, name: Y}))
    assert torch.equal(data.labels["test"], load(X, labels=Y).labels["test"])


@SUFFIXES
@pytest.mark.parametrize(
    ("arrays", "options", "says"),
    [
        ({"x": X, "weights": Y}, {}, "`data`: expected no weights of observations .weights."),
        ({"x": X, "sample_weight": Y}, {}, "no weights of observations .sample_weight."),
        ({"train": X, "train_weights": Y}, {}, "no weights of observations .train_weights."),
        ({"x": X, "z": Y}, {}, r"no arrays besides .*got \['z'\]; `key` \(--key\) reads one"),
        ({"train": X, "mask": MASK}, {}, r"no arrays besides .*got \['mask'\]"),
        ({"a": X, "b": X}, {}, r"got \['a', 'b'\]; `key` \(--key\) names the one that is x"),
        ({"a": X, "b": X}, {"key": "c"}, "`key`: expected one of a, b, got 'c'"),
        ({"x": X, "mask": MASK[:, :2]}, {}, r"`mask`: expected true or false, of shape \(40, 3\)"),
        ({"x": X, "mask": X}, {}, "`mask`: expected true or false"),
        ({"x": X}, {"layers": "x"}, "`layers`: expected None with"),
    ],
)
def test_what_has_no_use_is_refused(
    arrays: dict[str, Any], options: dict[str, Any], says: str, suffix: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says) as error:
        load(_write(tmp_path / f"x{suffix}", arrays), **options)
    assert "\n" not in str(error.value)


@SUFFIXES
def test_one_of_several_arrays_is_asked_for(suffix: str, tmp_path: Path) -> None:
    path = _write(tmp_path / f"x{suffix}", {"a": X, "b": COUNTS, "weights": Y})
    assert torch.equal(load(path, key="b").test, load(COUNTS).test)


def test_arrays_in_groups_go_by_their_path(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.h5", {"group/x": X, "group/y": COUNTS})
    assert torch.equal(load(path, key="group/y").test, load(COUNTS).test)


def test_other_files_under_an_hdf5_suffix_are_refused(tmp_path: Path) -> None:
    for name in ("x.h5", "x.h5ad"):
        (tmp_path / name).write_text("no such file")
        with pytest.raises(ValueError, match="`data`: expected an HDF5 file"):
            load(tmp_path / name)
    _write(tmp_path / "y.h5", {"x": X}).rename(tmp_path / "y.h5ad")
    with pytest.raises(ValueError, match=r"`data`: expected an .h5ad file of AnnData"):
        load(tmp_path / "y.h5ad")


def _h5ad(path: Path, made: Any, kind: str) -> Path:
    """As anndata 0.12 writes it."""
    with h5py.File(path, "w") as file:
        matrix = made(COUNTS)
        group = file.create_group("X")
        group.attrs.update({"encoding-type": kind, "shape": COUNTS.shape})
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        file["layers/scaled"] = COUNTS / 2
        obs, var = file.create_group("obs"), file.create_group("var")
        obs.attrs.update({"_index": "_index", "column-order": ["batch", "cell", "size", "odd"]})
        obs["_index"] = [f"cell {i}" for i in range(40)]
        batch = obs.create_group("batch")
        batch.attrs["encoding-type"] = "categorical"
        batch["categories"], batch["codes"] = ["p", "q"], (np.arange(40) % 2).astype(np.int8)
        obs["cell"], obs["size"] = [f"type {i}" for i in Y], COUNTS.sum(1) + 1
        odd = obs.create_group("odd")
        odd.attrs["encoding-type"] = "nullable-integer"
        odd["values"], odd["mask"] = np.arange(40), np.arange(40) % 2 == 0
        var.attrs["_index"] = "gene"
        var["gene"] = ["g1", "g2", "g3"]
    return path


@pytest.mark.parametrize(
    ("made", "kind"), [(sparse.csr_matrix, "csr_matrix"), (sparse.csc_matrix, "csc_matrix")]
)
def test_an_annotated_matrix_is_read_without_its_package(
    made: Any, kind: str, tmp_path: Path
) -> None:
    path = _h5ad(tmp_path / "x.h5ad", made, kind)
    data = load(path, cond="batch", size_factor="size", label="cell", validation=0, test=0)
    assert torch.equal(data.train, torch.from_numpy(COUNTS))
    assert list(data.names) == ["g1", "g2", "g3"]
    assert list(data.index["train"][:2]) == ["cell 0", "cell 1"]
    assert data.columns[0].words == ("p", "q")
    assert data.cond["train"].argmax(1).tolist() == [0, 1] * 20
    assert torch.equal(data.labels["train"], torch.from_numpy(Y))
    assert torch.equal(load(path, layers="scaled").test, load(COUNTS / 2).test)
    with pytest.raises(ValueError, match="`layers`: expected one of scaled, got 'scald'"):
        load(path, layers="scald")
    with pytest.raises(ValueError, match="a value for each observation in odd, got '20 missing'"):
        load(path, cond="odd")


# --- Archives from a stranger ---------------------------------------------------------------------


def test_what_has_no_use_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when all that is in an archive is read, before it is known what of it has a use."""
    np.savez_compressed(tmp_path / "x.npz", train=X, extra=np.zeros(10**6))
    opened: list[str] = []
    read = zipfile.ZipFile.open

    def noted(self: zipfile.ZipFile, name: Any, *args: Any, **options: Any) -> Any:
        opened.append(getattr(name, "filename", name))
        return read(self, name, *args, **options)

    monkeypatch.setattr(zipfile.ZipFile, "open", noted)
    with pytest.raises(ValueError, match="no arrays besides those that have a use, got .'extra'"):
        load(tmp_path / "x.npz")
    assert torch.equal(load(tmp_path / "x.npz", key="train", test=0, validation=0).train, _of(X))
    assert set(opened) == {"train.npy"}


def _of(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x)


def _member(descr: str, shape: tuple[int, ...], content: bytes) -> bytes:
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("x.npy", _member("<f8", (10**12,), b"0" * 8))], "a NumPy file of plain arrays"),
        ([("x.npy", _member("<f8", (-3, 2), b"0" * 48))], "a NumPy file of plain arrays"),
        ([("x.npy", _member("|O", (1,), b"0" * 8))], "a NumPy file of plain arrays"),
        ([("x.npy", b"no header")], "a NumPy file of plain arrays"),
        ([("x.npy", _member("<f4", (4, 2), bytes(32)))] * 2, "each key once"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_is_refused_before_there_is_memory_for_it(
    members: list[tuple[str, bytes]], says: str, tmp_path: Path
) -> None:
    """Fails, with a MemoryError, when a header is believed that promises what is not there."""
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=f"`data`: expected {says}") as error:
        load(tmp_path / "x.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".csv.gz", ".h5"])
def test_a_pipe_is_not_waited_for(suffix: str, tmp_path: Path) -> None:
    """Fails, without end, when what exists is opened whatever it is."""
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"loop{suffix}").symlink_to(tmp_path / f"loop{suffix}")
    for name in ("pipe", "loop"):
        with pytest.raises(ValueError, match="`data`: expected an existing file"):
            load(tmp_path / f"{name}{suffix}")


def test_a_home_that_there_is_not_is_no_traceback() -> None:
    """Fails, with a RuntimeError, when pathlib looks for the home of nobody."""
    with pytest.raises(ValueError, match="`data`: expected an existing file, got '~no-such-user/"):
        load("~no-such-user/x.csv")
