"""What holds data in other packages is data everywhere: the same numbers, and their names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import xarray
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

import pyro_vae as pv
from pyro_vae.data import load

SIZE, NAMES = 40, ["a", "b", "c"]
X = np.random.default_rng(0).poisson(2.0, (SIZE, 3)).astype(np.float32)
CLASSES = np.arange(SIZE) % 3
BATCH = np.array(["p", "q"] * (SIZE // 2))


def _of(package: str, kind: type[Any], *args: Any, **kwargs: Any) -> Any:
    """A stand-in, of a class that has the name and the protocol of another package's."""
    return type(kind.__name__, (kind,), {"__module__": f"{package}.core"})(*args, **kwargs)


class AnnData:
    """As anndata has it: a matrix, layers, and tables that describe its rows and columns."""

    def __init__(self, x: Any, obs: pd.DataFrame, **layers: Any) -> None:
        self.X, self.obs, self.layers = x, obs, layers
        self.obsm: dict[str, Any] = {}
        self.obs_names, self.var_names = obs.index, pd.Index(NAMES)


class ZarrArray:
    """As zarr has it: a shape, a type, and what NumPy reads."""

    def __init__(self, x: np.ndarray) -> None:
        self.values, self.shape, self.dtype = x, x.shape, x.dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values


class Pairs(TorchDataset[Any]):
    """A map-style data set that, as many, does not raise at its end."""

    def __init__(self, item: Callable[[int], Any]) -> None:
        self.item = item

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> Any:
        return self.item(i % SIZE)


class Columns:
    """As Hugging Face's data sets are: columns by name, features that describe them."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns, self.column_names = columns, list(columns)
        self.features = {name: _of("datasets", self.kind(name)) for name in columns}

    def kind(self, name: str) -> type[Any]:
        value = self.columns[name][0]
        plain = {"label": "ClassLabel"}.get(name, "Value")
        known = "Image" if hasattr(value, "getbands") else plain
        kind = type("List" if isinstance(value, list) else known, (), {})
        if name == "label":
            kind.names = ["cat", "dog", "eel"]  # type: ignore[attr-defined]
        return kind

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]


def _obs() -> pd.DataFrame:
    table = pd.DataFrame({"batch": pd.Categorical(BATCH), "total": X.sum(1) + 1, "cell": CLASSES})
    return table.set_axis([f"cell {i}" for i in range(SIZE)])


def _stored(folder: Path) -> h5py.File:
    file = h5py.File(folder / "x.h5", "w")
    file["x"] = X
    return file


KINDS: dict[str, Callable[[], Any]] = {
    "DataFrame": lambda: pd.DataFrame(X, columns=NAMES),
    "DataFrame of nullable integers": lambda: pd.DataFrame(X.astype(int)).astype("Int64"),
    "DataFrame of several types": lambda: pd.DataFrame(X).astype({0: "int8", 1: "float64"}),
    "DataArray": lambda: xarray.DataArray(X, dims=("cell", "gene")),
    "Dataset of one variable": lambda: xarray.Dataset({"x": (("cell", "gene"), X)}),
    "Dataset of columns": lambda: xarray.Dataset(
        {name: ("cell", X[:, i]) for i, name in enumerate(NAMES)}
    ),
    "sparse rows": lambda: sparse.csr_matrix(X),
    "sparse array": lambda: sparse.coo_array(X),
    "AnnData": lambda: _of("anndata", AnnData, X, _obs()),
    "sparse AnnData": lambda: _of("anndata", AnnData, sparse.csr_matrix(X), _obs()),
    "TensorDataset": lambda: TensorDataset(torch.from_numpy(X)),
    "TensorDataset with labels": lambda: TensorDataset(
        torch.from_numpy(X), torch.from_numpy(CLASSES)
    ),
    "Subset": lambda: Subset(TensorDataset(torch.from_numpy(X)), range(SIZE)),
    "map-style, arrays": lambda: Pairs(lambda i: X[i]),
    "map-style, pairs": lambda: Pairs(lambda i: (torch.from_numpy(X[i]), int(CLASSES[i]))),
    "map-style, mappings": lambda: Pairs(lambda i: {"x": X[i], "label": CLASSES[i]}),
    "Hugging Face, arrays": lambda: _of("datasets", Columns, v=X.tolist()),
    "Hugging Face, columns": lambda: _of(
        "datasets", Columns, **{name: X[:, i].tolist() for i, name in enumerate(NAMES)}
    ),
    "Zarr": lambda: _of("zarr", ZarrArray, X),
    "of an unknown package": lambda: _of("somewhere", ZarrArray, X),
}


@cache
def _model() -> pv.VAE:
    networks = {"encoder": pv.networks.MLP((4,)), "decoder": pv.networks.MLP((4,))}
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((3,))
    return pv.VAE(*parts, **networks, seed=0).eval()


def _fitted(x: Any) -> Tensor:
    networks = {"encoder": pv.networks.MLP((4,)), "decoder": pv.networks.MLP((4,))}
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((3,))
    vae = pv.VAE(*parts, **networks, seed=0)
    pv.fit(vae, x, epochs=1, compile=False, device="cpu", seed=0, validation=x)
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


VERBS: dict[str, Callable[[Any], Any]] = {
    "load": lambda x: load(x).test,
    "fit": _fitted,
    "encode": lambda x: _model().encode(x).mean.detach(),
    "reconstruct": lambda x: _model().reconstruct(x),
    "evaluate": lambda x: torch.from_numpy(
        pv.evaluate(_model(), x, num_samples=5, seed=0).log_marginal
    ),
    "check": lambda x: torch.tensor(
        [row.p_value for row in pv.criticism.check(_model(), x, seed=0).rows]
    ),
    "to_datatree": lambda x: torch.from_numpy(
        pv.to_datatree(_model(), x, num_draws=3, seed=0)["posterior"]["z"].values
    ),
}


@cache
def _known(verb: str) -> Any:
    return VERBS[verb](torch.from_numpy(X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_container_is_data_in_every_verb(verb: str, kind: str) -> None:
    """Fails where it is refused, or other numbers are taken out of it."""
    torch.testing.assert_close(VERBS[verb](KINDS[kind]()), _known(verb))


def test_an_open_file_is_data(tmp_path: Path) -> None:
    with _stored(tmp_path) as file:
        assert torch.equal(load(file["x"]).test, _known("load"))
        assert torch.equal(load(file).test, _known("load"))
        torch.testing.assert_close(VERBS["encode"](file["x"]), _known("encode"))


@pytest.mark.long
def test_a_memory_map_is_read_once(tmp_path: Path) -> None:
    """Fails when the file is read as a whole, and then copied."""
    np.save(tmp_path / "x.npy", np.zeros((1000, 1000), np.float32))
    program = (
        "import tracemalloc, sys, pyro_vae.data.readers as readers; from pathlib import Path\n"
        "tracemalloc.start(); readers.read_file(Path(sys.argv[1]))\n"
        "print(tracemalloc.get_traced_memory()[1] / 4e6)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.5
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert load(mapped).train.shape == (800, 1000)


def test_no_package_is_imported_for_a_container_of_another() -> None:
    """Fails when what is looked for among containers is imported."""
    program = (
        "import sys, numpy as np, pyro_vae as pv\n"
        "pv.data.load(np.ones((20, 2)))\n"
        "print({'anndata', 'datasets', 'polars', 'pyarrow', 'zarr'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


# --- What lies beside x ---------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["pandas", "polars", "pyarrow"])
def test_columns_of_a_table_go_by_name(package: str) -> None:
    """Words are conditions or labels, and are no part of x; fails when names are lost."""
    columns: Mapping[str, Any] = {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2] + 1, "batch": BATCH}
    if package == "pandas":
        table: Any = pd.DataFrame(columns)
    elif package == "polars":
        table = pytest.importorskip("polars").DataFrame(columns)
    else:
        table = pytest.importorskip("pyarrow").table({k: list(v) for k, v in columns.items()})
    data = load(table, cond="batch", size_factor="c")
    assert list(data.names) == ["a", "b"]
    assert torch.equal(data.train, load(X[:, :2]).train)
    assert data.columns[0].words == ("p", "q")
    one_hot = load(X, labels=(BATCH == "q").astype(int)).labels["test"]
    assert torch.equal(data.cond["test"].argmax(1), one_hot)
    assert torch.equal(load(table, labels="batch").labels["test"], one_hot)


def test_annotations_go_by_name_and_latent_means_are_written_back() -> None:
    """Counts of a layer, with the batch, the size and the cell type of each cell."""
    adata = _of("anndata", AnnData, np.log1p(X), _obs(), counts=sparse.csr_matrix(X))
    beside = {"cond": "batch", "size_factor": "total", "labels": "cell"}
    data = load(adata, layers="counts", **beside, validation=0, test=0)
    assert torch.equal(data.train, torch.from_numpy(X))
    assert list(data.names) == NAMES
    assert torch.equal(data.cond["train"].argmax(1), torch.from_numpy((BATCH == "q").astype(int)))
    assert torch.equal(data.labels["train"], torch.from_numpy(CLASSES))
    assert list(data.index["train"]) == list(adata.obs_names)
    sizes = X.sum(1) + 1
    found = data.covariates["train"]["size_factor"].numpy()
    np.testing.assert_allclose(found, sizes / sizes.mean(), rtol=1e-6)
    likelihood = pv.likelihoods.NegativeBinomial((3,), size_factor=True)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, cond_size=2)
    adata.obsm["X_vae"] = vae.encode(data.rows("train")).mean.detach().numpy()
    assert adata.obsm["X_vae"].shape == (SIZE, 2)
    assert torch.equal(load(adata).train, load(np.log1p(X)).train)


def test_rows_keep_their_labels_through_the_splits() -> None:
    data = load(pd.DataFrame(X, index=[f"r{i}" for i in range(SIZE)]))
    for split in ("train", "validation", "test"):
        rows = [int(name[1:]) for name in data.index[split]]
        assert torch.equal(data.split(split), torch.from_numpy(X[rows]))


def test_labels_come_with_data_sets_of_pairs() -> None:
    for kind in ("TensorDataset with labels", "map-style, pairs", "map-style, mappings"):
        data = load(KINDS[kind]())
        assert torch.equal(data.labels["test"], load(X, labels=CLASSES).labels["test"]), kind
    label = _of("datasets", Columns, v=X.tolist(), label=CLASSES.tolist())
    assert torch.equal(load(label).labels["test"], load(X, labels=CLASSES).labels["test"])
    assert load(label, cond="label").columns[0].words == ("cat", "dog", "eel")


def test_splits_of_hugging_face_are_splits() -> None:
    class DatasetDict(dict[str, Any]):
        pass

    half = _of("datasets", Columns, v=X[:20].tolist())
    data = load(_of("datasets", DatasetDict, train=half, test=half))
    assert [len(data.train), len(data.validation), len(data.test)] == [18, 2, 20]


# --- Dimensions and coordinates -------------------------------------------------------------------


def _array() -> xarray.DataArray:
    times = pd.date_range("2020-01-01", periods=SIZE).values
    coords = {"time": times, "band": [10.0, 20.0, 30.0], "station": ("time", BATCH)}
    return xarray.DataArray(X, dims=("time", "band"), coords=coords)


def test_dimensions_and_coordinates_reach_the_tree_of_draws() -> None:
    """Fails when they are counted there, or when those of other rows are taken."""
    array = _array()
    data = load(array, cond="station")
    assert data.columns[0].words == ("p", "q")
    for x in (array, load(array).test, load(array).rows("test")):
        tree = pv.to_datatree(_model(), x, num_draws=3)
        observed = tree["observed_data"]["x"]
        assert tree["posterior_predictive"]["x"].dims == ("chain", "draw", "data", "band")
        assert list(observed.coords["band"].values) == [10.0, 20.0, 30.0]
        picked = array.sel(time=observed.coords["data"].values).values
        np.testing.assert_array_equal(observed.values, picked)


def test_names_of_columns_label_the_tree_of_draws() -> None:
    table = pd.DataFrame(X, columns=NAMES)
    for x in (table, load(table).test):
        tree = pv.posterior_predictive(_model(), x, num_draws=3)
        assert list(tree["observed_data"]["x"].coords["feature"].values) == NAMES
    named = pv.to_datatree(_model(), table, num_draws=3, dims={"x": ["gene"]})
    assert list(named["observed_data"]["x"].coords["gene"].values) == NAMES
    own = pv.to_datatree(_model(), table, num_draws=3, coords={"feature": [1, 2, 3]})
    assert list(own["observed_data"]["x"].coords["feature"].values) == [1, 2, 3]


def test_names_that_are_taken_or_twice_there_do_no_harm() -> None:
    array = xarray.DataArray(X, dims=("draw", "latent"), coords={"latent": [1, 2, 2]})
    tree = pv.to_datatree(_model(), array, num_draws=3)
    assert tree["observed_data"]["x"].dims == ("data", "x_latent")


# --- What cannot be taken -------------------------------------------------------------------------


class _Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "meta tensor": (lambda: torch.empty(SIZE, 3, device="meta"), "on the device meta"),
    "nested tensor": (
        lambda: torch.nested.nested_tensor([torch.rand(3), torch.rand(2)], layout=torch.jagged),
        "a nested one: `torch.nested.to_padded_tensor`",
    ),
    "sparse tensor": (lambda: torch.from_numpy(X).to_sparse(), r"a sparse one .*`.to_dense\(\)`"),
    "words in a table": (
        lambda: pd.DataFrame(X, columns=NAMES).assign(s=BATCH),
        "a column of numbers as s, got .*; `pv.data.load.frame.` makes numbers of words",
    ),
    "dates in a table": (
        lambda: pd.DataFrame({"t": pd.date_range("2020", periods=SIZE)}),
        "a column of numbers as t",
    ),
    "one name twice": (lambda: pd.DataFrame(X, columns=["a", "b", "a"]), "a table of numbers, got"),
    "two variables": (
        lambda: xarray.Dataset({"x": (("n", "d"), X), "y": (("n", "d"), X)}),
        r"`key`: expected the name \(--key\) of the variable that is x",
    ),
    "a variable without use": (
        lambda: xarray.Dataset({"x": (("n", "d"), X), "y": ("m", X[0])}),
        r"`key`: expected the name of the variable that is x, as \['y'\] has no use",
    ),
    "DataTree": (lambda: xarray.DataTree(), "a DataArray or a Dataset, got DataTree"),
    "DataLoader": (lambda: DataLoader(Pairs(lambda i: X[i])), "its data set is `loader.dataset`"),
    "stream": (_Stream, "a map-style data set, which has a length"),
    "triples": (lambda: Pairs(lambda i: (X[i], 1, 2)), "items that are x, or x and a label"),
    "labels that are none": (lambda: Pairs(lambda i: (X[i], 0.5)), "an integer as the second"),
    "items of several shapes": (
        lambda: Pairs(lambda i: X[i, : 1 + i % 3]),
        r"observations of one shape \(item 0 has \(1,\)\), got \(2,\) of item 1",
    ),
    "tensors with more beside": (
        lambda: TensorDataset(torch.from_numpy(X), torch.rand(SIZE, 2)),
        "a TensorDataset of x, or of x and integer labels",
    ),
    "no layer": (lambda: _of("anndata", AnnData, None, _obs(), counts=X), "`layers`: .* counts"),
    "words of Hugging Face": (lambda: _of("datasets", Columns, s=BATCH.tolist()), "columns of num"),
    "a class that NumPy cannot read": (
        lambda: SimpleNamespace(__array__=None),
        "expected an array .*SimpleNamespace",
    ),
}


# What a schema makes numbers of.
AS_TABLES = ("words in a table", "dates in a table", "one name twice")


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("verb", ["load", "fit", "encode"])
def test_what_cannot_be_taken_is_named_with_the_way(verb: str, kind: str) -> None:
    """Fails with the traceback of another package."""
    make, says = WRONG[kind]
    if verb == "load" and kind in AS_TABLES:
        assert len(load(make()).train) == 32
        return
    with pytest.raises(ValueError, match=says) as error:
        VERBS[verb](make())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (pd.DataFrame(X).loc[:, 0], {}, r"a table of columns, got a Series: `.to_frame\(\)`"),
        (pd.DataFrame(X), {"key": "x"}, "`key`: expected None with a DataFrame"),
        (pd.DataFrame(X), {"layers": "x"}, "`layers`: expected None with a DataFrame"),
        (X, {"layers": "x"}, "`layers`: expected None with a named set or an array"),
        (_array(), {"cond": "nowhere"}, "`cond`: expected one of .*'nowhere'"),
        (
            _of("anndata", AnnData, X, _obs(), counts=X),
            {"layers": "count"},
            "did you mean 'counts'",
        ),
        (
            pd.DataFrame(X / 2, columns=NAMES),
            {"labels": "a"},
            "`label`: expected words or whole numbers",
        ),
        (np.ma.masked_equal(X, 0), {}, r"no masked array.*`.filled\(nan\)`"),
        (X.astype(object), {}, r"got ndarray.*object; `.astype\(float\)`"),
    ],
)
def test_options_that_do_not_fit_are_named(data: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        load(data, **options)
    assert "\n" not in str(error.value)


def test_what_is_first_to_be_loaded_is_named() -> None:
    with pytest.raises(ValueError, match=r"`x`: .*`pv.data.load\('digits'\)`"):
        _model().encode("digits")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'one split of a data set, such as `data.rows\("test"\)`'):
        pv.evaluate(_model(), load(X))  # type: ignore[arg-type]


def test_what_goes_with_data_may_be_containers() -> None:
    table = pd.DataFrame(X)
    seen = table > 0
    x = torch.from_numpy(X)
    known = _model().encode(x, mask=x > 0).mean
    assert torch.equal(_model().encode(table, mask=seen).mean, known)
    likelihood = pv.likelihoods.Poisson((3,), size_factor=True)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, cond_size=1).eval()
    size, cond = table.sum(axis=1) + 1, table[[0]]
    found = vae.encode(table, cond=cond, covariates={"size_factor": size}).mean
    beside = {"size_factor": torch.tensor(size.to_numpy())}
    assert torch.equal(found, vae.encode(x, cond=x[:, :1], covariates=beside).mean)
