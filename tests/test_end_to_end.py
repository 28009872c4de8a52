"""Cells, images, data sets and memory maps, from what people have to latent means and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from torch.utils.data import TensorDataset

import pyro_vae as pv
from pyro_vae import report
from pyro_vae.cli import main

CELLS, GENES = 240, 12
SMALL = ["--epochs", "15", "--latent-dim", "2", "--compile", "false", "--device", "cpu"]
SMALL += ["--encoder.hidden", "[32]", "--decoder.hidden", "[32]", "--num-samples", "20"]
FIT: dict[str, Any] = {"epochs": 15, "lr": 1e-2, "seed": 0, "compile": False, "device": "cpu"}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are other tests' concern, and take most of the time."""
    monkeypatch.setattr(report, "pictures", lambda *args: [])


def _networks(size: int = 32) -> dict[str, Any]:
    return {"encoder": pv.networks.MLP((size,)), "decoder": pv.networks.MLP((size,))}


def _cells() -> tuple[Any, np.ndarray]:
    """Two types of cells in two batches, sequenced to depths of their own; sparse counts."""
    anndata = pytest.importorskip("anndata")
    random = np.random.default_rng(0)
    kind, batch = random.integers(0, 2, CELLS), random.integers(0, 2, CELLS)
    rates = np.exp(random.normal(size=(2, GENES)))[kind]
    rates *= np.exp(0.5 * random.normal(size=(2, GENES)))[batch]
    depth = random.lognormal(sigma=0.4, size=CELLS)
    counts = random.poisson(3.0 * depth[:, None] * rates)
    obs = pd.DataFrame(
        {"batch": pd.Categorical(np.array(["p", "q"])[batch]), "depth": counts.sum(1) + 1.0},
        index=[f"cell {i}" for i in range(CELLS)],
    )
    normal = np.log1p(counts / (counts.sum(1, keepdims=True) + 1)).astype(np.float32)
    cells = anndata.AnnData(sparse.csr_matrix(normal), obs)
    cells.var_names = [f"gene {i}" for i in range(GENES)]
    cells.layers["counts"] = sparse.csr_matrix(counts)
    return cells, kind


def _apart(z: np.ndarray, kind: np.ndarray) -> float:
    """The share of cells that are nearer to the mean of their own kind."""
    means = np.stack([z[kind == each].mean(0) for each in (0, 1)])
    nearest = ((z[:, None] - means) ** 2).sum(-1).argmin(1)
    return float((nearest == kind).mean())


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
def test_cells_from_a_file_to_obsm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command line, then encoded from Python, as docs/data.md has it.

    Fails when a layer, the batches or the depths get lost on the way, or cells their order.
    """
    cells, kind = _cells()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells.write_zarr(tmp_path / "cells.zarr")
    out = str(tmp_path / "run")
    beside = ["--layers", "counts", "--cond", "batch", "--size-factor", "depth"]
    fit = ["fit", str(tmp_path / "cells.h5ad"), *beside, "--likelihood", "NegativeBinomial"]
    assert main([*fit, *SMALL, "--lr", "0.01", "--out", out]) == 0
    assert main(["check", out, "--json"]) == 0
    checks = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(checks) > 0
    vae = pv.load(out)
    known = {"layers": "counts", "cond": "batch", "size_factor": "depth"}
    everything = pv.data.load(cells, **known, validation=0, test=0)
    assert list(everything.index["train"]) == list(cells.obs_names)
    cells.obsm["X_vae"] = vae.encode(everything.rows("train")).mean.detach().numpy()
    assert cells.obsm["X_vae"].shape == (CELLS, 2)
    assert _apart(cells.obsm["X_vae"], kind) > 0.9
    stored = pv.data.load(tmp_path / "cells.zarr", **known, validation=0, test=0)
    assert torch.equal(stored.train, everything.train)
    assert torch.equal(stored.cond["train"], everything.cond["train"])
    anndata = pytest.importorskip("anndata")
    cells.write_h5ad(tmp_path / "encoded.h5ad")
    again = anndata.read_h5ad(tmp_path / "encoded.h5ad")
    np.testing.assert_array_equal(again.obsm["X_vae"], cells.obsm["X_vae"])


def _pictures(folder: Path) -> np.ndarray:
    """Bars that lie and bars that stand, of several brightnesses, a folder each."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 40, (200, 8, 6), dtype=np.uint8)
    for i, each in enumerate(pixels):
        bright = random.integers(150, 256)
        place = folder / ("lying", "standing")[i % 2]
        if i % 2 == 0:
            each[3:5] = bright
        else:
            each[:, 2:4] = bright
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(place / f"{i:03}.png")
    return pixels


@pytest.mark.long
def test_a_folder_of_images_from_png_to_latent_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Levels by their own likelihood; latent means by the names of files, in their order."""
    pixels = _pictures(tmp_path / "bars")
    out = str(tmp_path / "run")
    assert main(["fit", str(tmp_path / "bars"), *SMALL, "--lr", "0.01", "--out", out]) == 0
    vae = pv.load(out)
    assert type(vae.likelihood).__name__ == "DiscretizedLogistic"
    assert vae.likelihood.levels == 256
    assert main(["check", out, "--json"]) == 0
    capsys.readouterr()
    everything = pv.data.load(tmp_path / "bars", validation=0, test=0)
    assert torch.equal(everything.train[0, 0], torch.from_numpy(pixels[0].astype(np.float32)))
    z = vae.encode(everything.rows("train")).mean.detach().numpy()
    table = pd.DataFrame(z, index=everything.index["train"])
    standing = table.index.str.startswith("standing/").astype(int)
    assert standing.sum() == 100
    assert _apart(table.to_numpy(), standing) > 0.9
    refused = ["fit", str(tmp_path / "bars"), "--layout", "channels-last", "--out", f"{out}2"]
    assert main(refused) == 2
    assert "`layout`: expected None with pictures" in capsys.readouterr().err


@pytest.mark.long
def test_a_tensor_data_set_and_a_memory_map_go_all_the_way(tmp_path: Path) -> None:
    """Each is what its tensor is, in every function; fails when a map is changed on its file."""
    random = np.random.default_rng(0)
    z = random.normal(size=(160, 1))
    x = (z @ np.array([[2.0, -1.0, 1.0]]) + 0.3 * random.normal(size=(160, 3))).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    content = (tmp_path / "x.npy").read_bytes()
    forms = {
        "tensor": torch.from_numpy(x),
        "set": TensorDataset(torch.from_numpy(x), torch.arange(160) % 2),
        "map": np.load(tmp_path / "x.npy", mmap_mode="r"),
    }
    found = {}
    for name, data in forms.items():
        likelihood = pv.likelihoods.Normal((3,))
        vae = pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), likelihood, **_networks(), seed=0)
        pv.fit(vae, data, **FIT)
        scores = pv.evaluate(vae, data, num_samples=20, seed=0).log_marginal
        found[name] = torch.as_tensor(scores), vae.encode(data).mean.detach()
    for name in ("set", "map"):
        for one, known in zip(found[name], found["tensor"], strict=True):
            torch.testing.assert_close(one, known)
    assert abs(np.corrcoef(found["map"][1][:, 0], z[:, 0])[0, 1]) > 0.9
    assert len(pv.criticism.check(vae, forms["map"], seed=0).rows) > 5
    assert (tmp_path / "x.npy").read_bytes() == content
