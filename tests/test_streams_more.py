"""Streams where they meet what else there is: options, containers, sources of the user's own."""

from __future__ import annotations

import copy
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.data import Rows

SIZE, DIM = 600, 6
X = (np.random.RandomState(0).rand(SIZE, DIM) > 0.4).astype(np.float32)
LITTLE = 12_000  # bytes: six windows of X, which has 14,400


def vae(**options: Any) -> pv.VAE:
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((DIM,))
    return pv.VAE(*parts, seed=0, **options)


def fitted(x: Any, **options: Any) -> tuple[dict[str, Tensor], pv.Run]:
    program = vae()
    known: dict[str, Any] = {"epochs": 1, "batch_size": 50, "seed": 0, "compile": False}
    run = pv.fit(program, x, **known | options)
    return {name: tensor.clone() for name, tensor in program.state_dict().items()}, run


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


class Own:
    def __init__(self, x: np.ndarray, rows_a_block: int | None = None) -> None:
        self.x, self.rows_a_block = x, rows_a_block

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray) -> Rows:
        return Rows(torch.from_numpy(self.x[rows]))


def test_a_stream_is_read_in_the_windows_of_what_it_streams() -> None:
    """A stream of a stream would take what a free source reads at once for blocks of a file."""
    rows = pv.data.stream(X)
    assert pv.data.stream(rows) is rows
    mask = pv.data.stream(rows, mask=X > 2)
    assert not mask.has_blocks
    assert pv.data.stream(pv.data.stream(Own(X, 64)), mask=X > 2).rows_a_block == 64
    weights, run = fitted(rows, max_memory=LITTLE)
    assert run.window == 100
    assert equal(weights, fitted(Own(X), max_memory=LITTLE)[0])


def test_a_stream_that_fits_is_fitted_as_a_tensor_is() -> None:
    """Validation rows are drawn in the same order, too."""
    known: dict[str, Any] = {"validation": 0.2, "epochs": 2}
    inside, run = fitted(X, **known)
    outside, other = fitted(pv.data.stream(X), **known)
    assert equal(inside, outside)
    assert {**run.history, "seconds": 0} == {**other.history, "seconds": 0}
    assert not equal(inside, fitted(pv.data.stream(X[::-1].copy()), **known)[0])


def test_a_source_is_one_however_little_it_has() -> None:
    program = vae()
    pv.fit(program, Own(X), validation=Own(X[:50]), epochs=1, seed=0, compile=False)
    one, other = (pv.evaluate(program, x, num_samples=5) for x in (X, Own(X)))
    assert np.array_equal(one.log_marginal, other.log_marginal)
    assert torch.equal(program.encode(Own(X)).mean, program.encode(pv.data.stream(X)).mean)


def test_validation_rows_that_do_not_fit_stay_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held_out = pv.data.stream(Own(X))

    def read(stream: pv.data.Stream) -> Rows:
        raise AssertionError("all of them are read at once")

    few = pv.data.stream(X[:100]).read()
    monkeypatch.setattr(pv.data.Stream, "read", read)
    _, run = fitted(few.x, validation=held_out, max_memory=LITTLE)
    assert len(run.history["validation_elbo"]) == 1


def test_windows_are_of_whole_batches_of_whole_blocks() -> None:
    source = pv.data.stream(Own(X, 50))
    bytes_a_row = 4 * DIM
    enough = 4 * 80 * bytes_a_row
    with pytest.raises(ValueError, match=f"`max_memory`: expected at least {enough:,} bytes"):
        fitted(source, batch_size=40, max_memory=4 * 60 * bytes_a_row)
    assert fitted(source, batch_size=40, max_memory=enough)[1].window == 80


def test_what_a_stream_cannot_heed_is_refused() -> None:
    rows = pv.data.stream(X, mask=X > 2)
    hidden = np.ma.MaskedArray(X, mask=X > 0)
    for data, options, what in (
        (rows, {"missing": True}, "`missing`: expected False"),
        (rows, {"key": "x"}, "`key`: expected None"),
        (rows, {"mask": X > 0}, "`mask`: expected None, as the stream brings its own"),
        (Own(X), {"missing": True}, "`missing`: expected False"),
        (torch.from_numpy(X), {"key": "x"}, "`key`: expected None"),
        (X, {"key": "x"}, "`key`: expected None with an array"),
        (X, {"missing": True, "mask": X > 0}, "`mask`: expected None with `missing`"),
        (hidden, {}, "`data`: expected no masked array"),
        (X, {"mask": hidden}, "`mask`: expected a plain array"),
        (X, {"cond": rows}, "`cond`: expected a plain array"),
        (X[:, :0], {}, "`data`: expected at least one entry"),
        (X[:0], {}, "`data`: expected at least one observation, got 0"),
    ):
        with pytest.raises(ValueError, match=what):
            pv.data.stream(data, **options)
    x = X.copy()
    x[3, 2] = np.nan
    items = torch.utils.data.TensorDataset(torch.from_numpy(x))
    mask = pv.data.stream(items, missing=True).read().mask
    assert mask is not None
    assert mask.logical_not().nonzero().tolist() == [[3, 2]]
    program = vae()
    program.initialize(torch.from_numpy(X))
    with pytest.raises(ValueError, match="`refit`: expected None without `num_fits`"):
        pv.evaluation.impute(program, rows, refit=lambda rows, seed: program)


def test_pages_of_a_private_copy_are_not_given_back(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[:] = 7
    private.flags.writeable = False
    rows = pv.data.stream(private[:5])
    assert rows.read().x.unique().tolist() == [7]
    assert rows.read().x.unique().tolist() == [7]


def test_columns_of_a_parquet_file_are_those_of_its_table(tmp_path: Path) -> None:
    """An index that pandas wrote is none, and integers are exact beside missing ones."""
    pd, pa, pq = map(pytest.importorskip, ("pandas", "pyarrow", "pyarrow.parquet"))
    table = pd.DataFrame(X, columns=list("abcdef"))
    table.sample(frac=1, random_state=0).to_parquet(tmp_path / "shuffled.parquet")
    rows = pv.data.stream(tmp_path / "shuffled.parquet")
    assert rows.names == tuple("abcdef")
    assert rows.read().x.tolist() == table.sample(frac=1, random_state=0).to_numpy().tolist()
    pq.write_table(pa.table({"a": [2**24 + 1, None], "b": [1, 2]}), tmp_path / "large.parquet")
    with pytest.raises(ValueError, match=r"below 2\*\*24 in a"):
        pv.data.stream(tmp_path / "large.parquet", missing=True)


@pytest.mark.parametrize("kind", ["mask", "dtype", "length"])
def test_rows_of_a_source_are_all_alike(kind: str) -> None:
    """Of a window that has a mask beside others that have none, nobody would know whose it is."""

    class Unlike(Own):
        def take(self, rows: np.ndarray) -> Rows:
            x = torch.from_numpy(self.x[rows])
            if 300 not in rows:
                return Rows(x)
            mask = torch.ones(len(x) - (kind == "length"), DIM, dtype=torch.bool)
            return Rows(x.double()) if kind == "dtype" else Rows(x, {"mask": mask})

    what = "takes 600 rows of all" if kind == "length" else r"alike, x float32 \(6,\), got 'x float"
    with pytest.raises(ValueError, match=f"`data`: expected a source .*{what}"):
        fitted(Unlike(X), max_memory=LITTLE)


def test_items_that_are_integers_in_some_blocks_are_numbers_of_one_type() -> None:
    items = [([0.5, 1.0], 0), ([1, 2], 0), ([3, 4], 0)]

    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(items)

        def __getitem__(self, index: int) -> Any:
            return items[index]

    rows = pv.data.stream(Items())
    assert rows[1:].read().x.tolist() == [[1, 2], [3, 4]]
    assert rows[1:].read().x.dtype is rows.dtype is torch.float64


def test_columns_of_containers_keep_their_names() -> None:
    anndata = pytest.importorskip("anndata")
    data = anndata.AnnData(X)
    data.var_names = list("abcdef")
    assert pv.data.stream(data)[3:].names == tuple("abcdef")


class Left(Exception):
    pass


def test_a_source_is_never_read_twice_at_once() -> None:
    class Alone(Own):
        reading = 0

        def take(self, rows: np.ndarray) -> Rows:
            assert self.reading == 0
            self.reading += 1
            sleep(0.01)
            self.reading -= 1
            return super().take(rows)

    rows = pv.data.stream(Alone(X))

    class Looking:
        def on_step(self, number: int, loss: Tensor) -> None:
            rows[number : number + 3].read()

    _, run = fitted(rows, max_memory=LITTLE, callbacks=[Looking()])
    assert run.window == 100
    again = copy.deepcopy(rows[5:])
    assert torch.equal(again.read().x, torch.from_numpy(X[5:]))


@pytest.fixture(scope="module")
def through() -> dict[str, Tensor]:
    return fitted(Own(X), max_memory=LITTLE, epochs=2)[0]


@pytest.mark.parametrize(("form", "step"), [("blocks", 3), ("tensor", 3), ("blocks", None)])
def test_a_run_goes_on_in_its_windows_whatever_has_the_rows_by_now(
    form: str, step: int | None, tmp_path: Path, through: dict[str, Tensor]
) -> None:
    """In the middle of a pass, and after the last one."""

    class Leaving:
        def on_step(self, number: int, loss: Tensor) -> None:
            if number == step:
                raise Left

    known: dict[str, Any] = {"max_memory": LITTLE, "epochs": 2}
    short: dict[str, Any] = {**known, "out": tmp_path / "run"}
    if step is None:
        fitted(Own(X), **{**short, "epochs": 1})
    else:
        with pytest.raises(Left):
            fitted(Own(X), checkpoint_every=1, callbacks=[Leaving()], **short)
    now = Own(X, 150) if form == "blocks" else torch.from_numpy(X)
    again, run = fitted(now, resume=True, **short)
    assert run.window == 100
    assert equal(through, again)


def test_what_needs_all_rows_says_so(tmp_path: Path) -> None:
    """And who has no rows at all is told what is expected."""
    program, stream = vae(), pv.data.stream(X)
    for take, message in (
        (lambda: pv.data.inspect(stream), "`data`: expected a data set, as `pv.data.load`"),
        (lambda: pv.plots.pairs(program, stream), "`reference`: expected data in memory"),
        (lambda: pv.plots.pairs(program, None), "`reference`: expected data in memory"),
    ):
        with pytest.raises(ValueError, match=message):
            take()
    lacking = X.copy()
    lacking[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"nan at index \[3, 2\].*`missing`"):
        pv.fit(program, pv.data.stream(lacking), epochs=1, progress=False)
