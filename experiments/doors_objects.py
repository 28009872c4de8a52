"""Objects of Python that hold data, and functions that take them: what ``doors.py`` tries."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import datasets
import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import sparse
import torch
import torchvision
import xarray
import zarr
from doors_cases import (
    ALL,
    BYTES,
    CLASSES,
    COLOUR,
    COUNTS,
    DATES,
    FRAME,
    HOLES,
    NAMES,
    NUMBERS,
    SCALE,
    WORDS,
    X4,
    Case,
    Gives,
    N,
    X,
    given,
    refused,
    table,
)
from PIL import Image
from scipy import sparse as matrices
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv

CELLS = [f"cell {i}" for i in range(N)]
OF_ALL = {"w": WORDS, "since": pd.to_datetime(DATES), "member": CLASSES > 0}


def _cells() -> anndata.AnnData:
    obs = pd.DataFrame({"batch": WORDS, "depth": COUNTS.sum(1) + 1.0}, index=CELLS)
    cells = anndata.AnnData(matrices.csr_matrix(X), obs, pd.DataFrame(index=NAMES))
    cells.layers["counts"] = matrices.csr_matrix(COUNTS)
    return cells


def _h5ad(folder: Path) -> Path:
    _cells().write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def _h5(folder: Path) -> Any:
    with h5py.File(folder / "x.h5", "w") as file:
        file["x"] = X
    return h5py.File(folder / "x.h5")["x"]


def _zarr(folder: Path, **arrays: Any) -> Path:
    group = zarr.open_group(str(folder / "t.zarr"), mode="w")
    for name, each in arrays.items():
        group.create_array(name, data=each)
    return folder / "t.zarr"


def _zarr_array(folder: Path) -> Path:
    zarr.save_array(str(folder / "a.zarr"), X)
    return folder / "a.zarr"


TABLES: dict[str, Case] = {
    "pandas": (given(FRAME), {}, NUMBERS),
    "pandas without names": (given(pd.DataFrame(X)), {}, Gives(X, [])),
    "pandas of words, dates and truth values": (
        given(table(**OF_ALL)),
        {},
        Gives(kinds={"since": "time"}, table=table(**OF_ALL)),
    ),
    "pandas of categories in an order": (
        given(table(w=pd.Categorical(SCALE, ["low", "middle", "high"], ordered=True))),
        {},
        Gives(np.c_[X[:, :2], np.arange(N) % 3], kinds={"w": "ordinal"}),
    ),
    "pandas of nullable integers": (
        given(FRAME.assign(n=pd.array([None, *range(1, N)], "Int64"))),
        {**ALL, "kinds": {"n": "count"}},
        Gives(np.c_[X, [np.nan, *range(1, N)]], [*NAMES, "n"]),
    ),
    "pandas with NaN": (given(HOLES), ALL, Gives(HOLES.to_numpy(), NAMES)),
    "pandas with NaN, and nobody says so": (given(HOLES), {}, refused("--missing")),
    "pandas of two levels of names": (
        given(FRAME.set_axis(pd.MultiIndex.from_product([["u"], NAMES]), axis=1)),
        {},
        refused("columns of one name"),
    ),
    "a series": (given(FRAME["a"]), {}, refused(".to_frame()")),
    "polars": (given(pl.from_pandas(FRAME)), {}, NUMBERS),
    "polars, lazy": (given(pl.from_pandas(FRAME).lazy()), {}, NUMBERS),
    "polars of words, dates and truth values": (
        given(lambda: pl.from_pandas(table(**OF_ALL))),
        {},
        Gives(kinds={"since": "time"}, table=table(**OF_ALL)),
    ),
    "pyarrow": (given(pa.Table.from_pandas(FRAME)), {}, NUMBERS),
    "pyarrow of words, dates and truth values": (
        given(lambda: pa.Table.from_pandas(table(**OF_ALL))),
        {},
        Gives(kinds={"since": "time"}, table=table(**OF_ALL)),
    ),
    "a mapping of columns": (
        given({name: X[:, i] for i, name in enumerate(NAMES)}),
        {},
        refused("`pd.DataFrame(data)`"),
    ),
}

CONTAINERS: dict[str, Case] = {
    "xarray DataArray": (given(xarray.DataArray(X, dims=("row", "column"))), {}, Gives(X)),
    "xarray Dataset of columns": (
        given(xarray.Dataset({name: ("row", X[:, i]) for i, name in enumerate(NAMES)})),
        {},
        NUMBERS,
    ),
    "xarray Dataset of two arrays": (
        given(xarray.Dataset({"u": (("row", "p"), X), "v": (("row", "q"), X4)})),
        {},
        refused("--key"),
    ),
    "SciPy's sparse rows": (given(matrices.csr_matrix(X)), {}, Gives(X)),
    "SciPy's sparse array": (given(matrices.coo_array(X)), {}, Gives(X)),
    "sparse.COO": (given(sparse.COO.from_numpy(X)), {}, Gives(X)),
    "AnnData": (given(_cells), {}, NUMBERS),
    "AnnData, a layer and columns of obs": (
        given(_cells),
        {"layers": "counts", "cond": "batch", "size_factor": "depth"},
        Gives(COUNTS, NAMES),
    ),
    "AnnData, no such layer": (given(_cells), {"layers": "count"}, refused("`layers`", "counts")),
    "an .h5ad file": (_h5ad, {}, NUMBERS),
    "an .h5ad file, a layer": (_h5ad, {"layers": "counts"}, Gives(COUNTS, NAMES)),
    "an open array of HDF5": (_h5, {}, Gives(X)),
    "a Zarr array": (given(lambda: zarr.array(X)), {}, Gives(X)),
    "a .zarr folder of an array": (_zarr_array, {}, Gives(X)),
    "a .zarr folder of x and y": (
        lambda folder: _zarr(folder, x=X, y=CLASSES),
        {},
        Gives(X, labels=CLASSES),
    ),
    "a .zarr folder of several arrays": (lambda f: _zarr(f, u=X, v=X4), {}, refused("--key")),
    "a .zarr folder, one chosen": (lambda f: _zarr(f, u=X, v=X4), {"key": "v"}, Gives(X4)),
}

DATA_SETS: dict[str, Case] = {
    "TensorDataset": (given(TensorDataset(torch.tensor(X))), {}, Gives(X)),
    "TensorDataset with labels": (
        given(TensorDataset(torch.tensor(X), torch.tensor(CLASSES))),
        {},
        Gives(X, labels=CLASSES),
    ),
    "TensorDataset with more beside": (
        given(TensorDataset(torch.tensor(X), torch.tensor(X4))),
        {},
        refused("`cond`, `mask` or `covariates`"),
    ),
    "a DataLoader": (
        given(DataLoader(TensorDataset(torch.tensor(X)))),
        {},
        refused("`loader.dataset`"),
    ),
    "torchvision": (
        given(lambda: torchvision.datasets.FakeData(4, (3, 8, 6))),
        {},
        Gives([np.moveaxis(np.asarray(torchvision.datasets.FakeData(4, (3, 8, 6))[i][0]), -1, 0)
               for i in range(4)]),
    ),
    "Hugging Face, columns": (given(lambda: datasets.Dataset.from_pandas(FRAME)), {}, NUMBERS),
    "Hugging Face, images": (
        given(lambda: datasets.Dataset.from_dict(
            {"image": [Image.fromarray(each) for each in COLOUR], "label": CLASSES.tolist()},
            features=datasets.Features(image=datasets.Image(), label=datasets.Value("int64")),
        )),
        {},
        Gives(np.moveaxis(COLOUR, -1, 1), labels=CLASSES),
    ),
    "Hugging Face, streamed": (
        given(lambda: datasets.Dataset.from_pandas(FRAME).to_iterable_dataset()),
        {},
        refused("from_list"),
    ),
}  # fmt: skip


def _dtypes() -> dict[str, Case]:
    """Arrays and tensors of several dtypes."""
    cases: dict[str, Case] = {}
    for name in ("float16", "float32", "float64", "int8", "int64", "uint8", "bool"):
        values = COUNTS.astype(name)
        cases[f"NumPy, {name}"] = (given(values), {}, Gives(values.astype(float)))
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool):
        values = torch.tensor(COUNTS).to(dtype)
        cases[f"{dtype}"] = (given(values), {}, Gives(values.double().numpy()))
    return cases


OTHERS: dict[str, Case] = {
    **_dtypes(),
    "a list of lists": (given(X.tolist()), {}, Gives(X)),
    "a ragged list": (given([[1.0, 2.0], [1.0]]), {}, refused("rows of one length")),
    "an array of complex numbers": (given(X + 1j), {}, refused("real, integer or boolean")),
    "an array of objects": (given(X.astype(object)), {}, refused("`.astype(float)`")),
    "an array of words": (given(np.array(WORDS)[:, None]), {}, refused("real, integer or")),
    "an array of dates": (
        given(np.array(DATES, dtype="datetime64[D]")[:, None]),
        {},
        refused("real, integer or boolean"),
    ),
    "an array of one dimension": (given(X[:, 0]), {}, refused("x[:, None]")),
    "a masked array": (given(np.ma.masked_less(X, 0)), {}, refused("`.filled(nan)`")),
    "an array with NaN": (given(HOLES.to_numpy()), {}, refused("--missing")),
    "an array with infinity": (given(np.where(X > 2, np.inf, X)), {}, refused("finite")),
    "1e9 and noise": (given(1e9 + X), {}, refused("subtract")),
    "a torch sparse tensor": (given(torch.tensor(X).to_sparse()), {}, refused("`.to_dense()`")),
    "a nested tensor": (
        given(lambda: torch.nested.nested_tensor([torch.rand(3), torch.rand(2)])),
        {},
        refused("to_padded_tensor"),
    ),
    "a tensor without numbers": (given(torch.empty(9, 3, device="meta")), {}, refused("meta")),
    "a tensor with gradients": (given(torch.tensor(X, requires_grad=True)), {}, Gives(X)),
    "bytes": (given(BYTES.tobytes()), {}, refused("np.frombuffer")),
    "a generator": (given(lambda: (row for row in X)), {}, refused("`list(data)`")),
    "images (N, H, W, 1)": (
        given(BYTES[..., None]),
        {},
        Gives(BYTES[:, None], says="channels last"),
    ),
    "images (N, H, W)": (given(BYTES), {"layout": "no-channels"}, Gives(BYTES[:, None])),
}

# --- Functions ------------------------------------------------------------------------------------


def _vae(likelihood: Any, **options: Any) -> pv.VAE:
    networks = {"encoder": pv.networks.MLP((8,)), "decoder": pv.networks.MLP((8,))}
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, **networks | options)


def _fit(vae: pv.VAE, x: Any, **options: Any) -> torch.Tensor:
    how = {"epochs": 1, "batch_size": 32, "seed": 0, "compile": False, "device": "cpu"}
    torch.manual_seed(0)
    pv.fit(vae, x, **how | options)
    return torch.cat([each.detach().flatten() for each in vae.parameters()])


def _same(one: Callable[[], torch.Tensor], other: Callable[[], torch.Tensor]) -> str:
    return "" if torch.equal(one(), other()) else "another result than with a tensor"


def _beside() -> str:
    """Conditions and masks as arrays of NumPy."""
    cond = np.eye(2, dtype=np.float32)[CLASSES]

    def fitted(kind: Callable[[Any], Any]) -> torch.Tensor:
        vae = _vae(pv.likelihoods.Normal((3,)), cond_size=2, seed=0)
        seen = kind(X > -1)
        return _fit(vae, kind(X.astype(np.float32)), cond=kind(cond), mask=seen)

    return _same(lambda: fitted(np.asarray), lambda: fitted(torch.tensor))


def _frames() -> str:
    """A frame and an array in what judges a model."""
    vae = _vae(pv.likelihoods.Normal((3,)), seed=0).eval()

    def scores(x: Any) -> torch.Tensor:
        found = pv.evaluate(vae, x, num_samples=5, seed=0).log_marginal
        return torch.cat([torch.as_tensor(found), vae.encode(x).mean.detach().flatten()])

    tensor = torch.tensor(X, dtype=torch.float32)
    for other in (X.astype(np.float32), FRAME, pl.from_pandas(FRAME)):
        if wrong := _same(lambda other=other: scores(other), lambda: scores(tensor)):
            return wrong
    return ""


def _refuses(names: tuple[str, ...], call: Callable[[], Any]) -> str:
    try:
        call()
    except ValueError as error:
        lost = [name for name in names if name not in str(error)]
        return f"{lost} not in: {error}" if lost or "\n" in str(error) else ""
    return "taken"


def _words_in_a_frame() -> str:
    vae = _vae(pv.likelihoods.Normal((3,)))
    frame = table(w=WORDS)
    for call in (
        lambda: _fit(vae, frame),
        lambda: pv.evaluate(vae, frame),
        lambda: vae.encode(frame),
    ):
        if wrong := _refuses(("pv.data.load(frame)",), call):
            return wrong
    return ""


def _unchecked() -> str:
    vae = _vae(pv.likelihoods.Poisson((3,))).eval()
    for bad, what in ((np.nan, "finite"), (-5.0, "whole"), (0.5, "whole")):
        x = torch.full((2, 3), bad)
        for call in (lambda x=x: vae.encode(x), lambda x=x: vae.reconstruct(x)):
            if wrong := _refuses(("`x`",), call):
                return f"{bad}, {what}: {wrong}"
    return ""


def _own_networks() -> str:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))

    def back() -> nn.Sequential:
        return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))

    vae = _vae(pv.likelihoods.Normal((3,), scale=1.0), encoder=build(), decoder=back())
    _fit(vae, torch.tensor(X, dtype=torch.float32))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pv.save(vae, f"{folder}/m")
        again = pv.load(f"{folder}/m", encoder=build(), decoder=back())
    pairs = zip(vae.parameters(), again.parameters(), strict=True)
    del caught
    return "" if all(torch.equal(a, b) for a, b in pairs) else "other weights"


def _last_batch() -> str:
    """33 rows in batches of 32, and a network that standardises its batches."""
    norm = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    vae = _vae(pv.likelihoods.Normal((3,)), encoder=norm)
    try:
        _fit(vae, torch.randn(33, 3))
    except ValueError as error:
        return "" if "batch_size" in str(error) else str(error)
    return ""


CALLS: dict[str, Callable[[], str]] = {
    "fit with arrays of NumPy beside x": _beside,
    "evaluate and encode of arrays and frames": _frames,
    "fit, evaluate and encode of a frame with words": _words_in_a_frame,
    "encode and reconstruct of what is outside the support": _unchecked,
    "save and load of networks of one's own": _own_networks,
    "a batch of one row left over": _last_batch,
}
