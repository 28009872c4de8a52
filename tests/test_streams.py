"""Data that are read as they are asked for: the numbers of data in memory, and little of it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.data import Rows, Stream
from pyro_vae.data.dataset import fingerprint
from pyro_vae.data.source import ahead
from pyro_vae.data.sources import arrays
from pyro_vae.training import passes

SIZE, DIM = 600, 6
X = (np.random.RandomState(0).rand(SIZE, DIM) > 0.4).astype(np.float32)
LITTLE = 12_000  # bytes: six windows of X, which has 14,400


def vae(name: str = "Bernoulli") -> pv.VAE:
    parts = pv.priors.Normal(2), pv.guides.Normal(2), getattr(pv.likelihoods, name)((DIM,))
    return pv.VAE(*parts, seed=0)


def weights(program: pv.VAE) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in program.state_dict().items()}


def mapped(folder: Path, x: np.ndarray = X) -> np.ndarray:
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def fitted(x: Any, name: str = "Bernoulli", **options: Any) -> tuple[dict[str, Tensor], pv.Run]:
    program = vae(name)
    known: dict[str, Any] = {"epochs": 2, "batch_size": 50, "seed": 0, "compile": False}
    run = pv.fit(program, x, **known | options)
    return weights(program), run


class Own:
    """An object with a length and `take`."""

    def __init__(self, x: np.ndarray) -> None:
        self.x, self.reads = x, 0

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray) -> Rows:
        self.reads += len(rows)
        return Rows(torch.from_numpy(self.x[rows]))


@pytest.mark.long
def test_a_window_that_has_all_rows_gives_the_weights_of_data_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "window_of", lambda rows, memory, size: len(rows))
    held_out = X[:80]
    inside, run = fitted(X, "Normal", validation=held_out)
    outside, other = fitted(mapped(tmp_path), "Normal", validation=held_out, max_memory=LITTLE)
    assert equal(inside, outside)
    assert {**run.history, "seconds": 0} == {**other.history, "seconds": 0}
    shuffled, _ = fitted(mapped(tmp_path, X[::-1]), "Normal", max_memory=LITTLE)
    assert not equal(inside, shuffled)  # or nothing was compared


def test_bytes_stay_bytes_until_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = (4 * X + np.arange(DIM)).astype(np.uint8)
    monkeypatch.setattr(passes, "window_of", lambda rows, memory, size: len(rows))
    kinds = set()
    epoch = pv.CompiledSVI.epoch

    def noted(svi: pv.CompiledSVI, *tensors: Tensor, **options: Any) -> Tensor:
        kinds.add(tensors[0].dtype)
        return epoch(svi, *tensors, **options)

    inside, _ = fitted(x, "Poisson")
    monkeypatch.setattr(pv.CompiledSVI, "epoch", noted)
    outside, _ = fitted(mapped(tmp_path, x), "Poisson", max_memory=1000)
    assert equal(inside, outside)
    assert kinds == {torch.uint8}


def test_a_pass_takes_each_row_once_in_an_order_of_its_own() -> None:
    rows = pv.data.stream(np.arange(SIZE * DIM, dtype=np.float32).reshape(SIZE, DIM))
    program = vae("Normal")
    program.initialize(rows.read().x)
    windows = passes.Windows(passes.StreamedRows(program, rows), 100, 50, SIZE, torch.float32)
    orders = []
    for _ in range(2):
        position = windows._begun()
        assert len(position.order) == 100
        taken = []
        for window in range(6):
            order = windows._order(position.seed, window)
            places, (x,) = windows._read(position.blocks, window)
            assert x[:, 0].tolist() == (places * DIM).tolist()
            taken += places[order.numpy()].tolist()
        assert sorted(taken) == list(range(SIZE))
        orders.append(taken)
    assert orders[0] != orders[1]
    # A window has several blocks, from anywhere.
    assert max(np.abs(np.diff(orders[0][:100]))) > 200


@pytest.mark.long
def test_a_stream_is_resumed_to_the_last_bit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = mapped(tmp_path)
    known = {"validation": 0.2, "max_memory": LITTLE, "epochs": 3}
    through, _ = fitted(x, out=tmp_path / "through", **known)

    class Left(Exception):
        pass

    for step in (3, 4, 11, 18):  # of checkpoints after a window, in one, after a pass, in the next
        out = tmp_path / f"left-{step}"

        class Leaving:
            def on_step(self, number: int, loss: Tensor) -> None:
                if number == step:  # noqa: B023
                    raise Left

        with pytest.raises(Left):
            fitted(x, out=out, checkpoint_every=1, callbacks=[Leaving()], **known)
        # Other memory by now: the windows are those that it began with.
        with caplog.at_level(logging.INFO, "pyro_vae"):
            again, run = fitted(x, out=out, resume=True, **{**known, "max_memory": 10**9})
        assert "480 rows are read in 5 windows of 100" in caplog.text
        caplog.clear()
        assert equal(through, again)
        assert len(run.history["epoch"]) == 3


@pytest.mark.long
def test_a_finished_stream_goes_on_with_its_windows(tmp_path: Path) -> None:
    x = mapped(tmp_path)
    long, run = fitted(x, max_memory=LITTLE, epochs=3)
    assert run.window == 100
    assert fitted(X)[1].window is None
    _, short = fitted(x, max_memory=LITTLE, epochs=1)
    assert equal(long, weights(short.resume(epochs=3).vae))
    fitted(x, out=tmp_path / "run", max_memory=LITTLE, epochs=1)
    # With memory for all of them, the windows are what they were.
    gone_on, run = fitted(x, out=tmp_path / "run", max_memory=10**9, epochs=3, resume=True)
    assert run.window == 100
    assert equal(long, gone_on)
    assert pv.Run.load(tmp_path / "run").window == 100


@pytest.mark.parametrize("kind", ["data", "validation"])
def test_shards_are_of_rows_in_memory(kind: str, tmp_path: Path) -> None:
    elsewhere = pv.data.stream(mapped(tmp_path))
    with pytest.raises(ValueError, match=f"`{kind}`: expected rows that are in memory"):
        fitted(
            elsewhere if kind == "data" else X,
            validation=elsewhere if kind == "validation" else None,
            shards=2,
            max_memory=LITTLE,
        )


@pytest.mark.long
def test_verbs_give_the_numbers_of_data_in_memory(tmp_path: Path) -> None:
    program = vae()
    pv.fit(program, X, epochs=1, seed=0, compile=False)
    mask = torch.from_numpy(np.random.RandomState(1).rand(SIZE, DIM) > 0.3)
    rows, masked = pv.data.stream(mapped(tmp_path)), pv.data.stream(mapped(tmp_path), mask=mask)
    for stream, given in ((rows, {}), (masked, {"mask": mask})):
        one = pv.evaluate(program, X, num_samples=20, **given)
        other = pv.evaluate(program, stream, num_samples=20)
        assert np.array_equal(one.log_marginal, other.log_marginal)
        assert one.base_measure == other.base_measure
    little: dict[str, Any] = {"max_data": 60, "level": 0.9}
    one, other = (pv.criticism.check(program, x, **little) for x in (X, rows))
    assert repr(one) == repr(other)
    assert torch.allclose(program.encode(X).mean, program.encode(rows).mean, atol=1e-6)
    some = pv.evaluation.impute(program, masked, num_samples=100)
    assert torch.equal(some.x[mask], torch.from_numpy(X)[mask])
    inside = pv.evaluation.impute(program, X, mask, num_samples=100)
    # Other draws of the same means, whose errors are about 0.5 / sqrt(100).
    assert float((some.x - inside.x).square().mean().sqrt()) < 0.1


def test_a_fraction_validates_the_same_rows(tmp_path: Path) -> None:
    known = {"validation": 0.25, "epochs": 1}
    _, inside = fitted(X, out=tmp_path / "inside", **known)
    _, outside = fitted(mapped(tmp_path), out=tmp_path / "outside", max_memory=LITTLE, **known)
    assert len(outside.history["validation_elbo"]) == 1
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))[: SIZE // 4]
    wanted = fingerprint(torch.from_numpy(X)[order.sort().values])
    assert outside.settings["data"]["validation"] == wanted
    assert inside.settings["data"]["validation"] != wanted  # there in the order of the draw


def _written(kind: str, folder: Path) -> Any:
    """The rows of X in a file, or in a container of another package, which need not be there."""
    path = folder / f"x.{kind}"
    if kind == "npy":
        np.save(path, X)
    elif kind == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=X, chunks=(64, DIM))
    elif kind == "zarr":
        pytest.importorskip("zarr").save(str(path), X)
    elif kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({f"c{i}": X[:, i] for i in range(DIM)}), path, row_group_size=128)
    elif kind == "datasets":
        datasets = pytest.importorskip("datasets")
        return datasets.Dataset.from_dict({"x": X.tolist()}).with_format("numpy")
    elif kind == "h5ad":
        anndata = pytest.importorskip("anndata")
        anndata.AnnData(X).write_h5ad(path)
        return anndata.read_h5ad(path, backed="r")
    else:
        return {"array": X, "tensor": torch.from_numpy(X), "own": Own(X)}.get(
            kind, torch.utils.data.TensorDataset(torch.from_numpy(X))
        )
    return path


@pytest.mark.parametrize(
    "kind",
    ["npy", "h5", "zarr", "parquet", "datasets", "h5ad", "array", "tensor", "own", "torch"],
)
def test_sources_of_every_kind_have_the_same_rows(kind: str, tmp_path: Path) -> None:
    rows = pv.data.stream(_written(kind, tmp_path))
    assert isinstance(rows, Stream)
    assert (len(rows), tuple(rows.event_shape)) == (SIZE, (DIM,))
    index = np.array([599, 3, 4, 5, 77, 3])
    assert rows.take(index).x.tolist() == X[index].tolist()
    assert torch.cat([each.x for each in rows.blocks(70)]).tolist() == X.tolist()
    assert rows[::7][3:5].read().x.tolist() == X[::7][3:5].tolist()
    (found,) = rows.digests(lambda block, start: {"x": block.x.float()}).values()
    assert found == fingerprint(torch.from_numpy(X))


@pytest.mark.parametrize("wide", [False, True])
def test_a_chunk_is_unpacked_once_whatever_rows_are_asked_of_it(
    wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when each row by itself unpacks a chunk: 100,000 rows did so as many times.

    A chunk that is too large to be kept is read by runs of rows.
    """
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    asked: list[slice] = []

    class Chunked:
        shape, dtype, chunks = x.shape, x.dtype, (8, 3)

        def __getitem__(self, rows: slice) -> np.ndarray:
            asked.append(rows)
            return x[rows]

    if wide:
        monkeypatch.setattr(arrays, "_CHUNK", x[:8].nbytes - 1)
    source = arrays.ArraySource(Chunked())
    for rows in np.split(np.array([0, 2, 5, 6, 7, 11, 13, 40, 48, 49, 3, 4]), 3):
        assert np.array_equal(source.take(rows).x.numpy(), x[rows])
    firsts = [rows.start for rows in asked]
    assert firsts == ([0, 2, 5, 7, 11, 13, 40, 48, 3] if wide else [0, 8, 40, 0, 48])


def test_rows_of_a_parquet_file_are_fitted_by_row_groups(tmp_path: Path) -> None:
    path = _written("parquet", tmp_path)
    with pytest.raises(ValueError, match="`max_memory`: expected at least .* windows of 150 rows"):
        fitted(pv.data.stream(path), max_memory=10_000)
    _, run = fitted(pv.data.stream(path), max_memory=14_000, batch_size=16, epochs=1)
    assert run.steps == -(-SIZE // 16)


def test_a_parquet_file_refuses_what_are_no_numbers(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"a": [1.0, None, 3.0], "b": [1, 2, 3]}), tmp_path / "null.parquet")
    pq.write_table(pa.table({"a": ["x", "y"]}), tmp_path / "words.parquet")
    pq.write_table(pa.table({"a": [2**24 + 1, 2]}), tmp_path / "large.parquet")
    for name, what in (("null", "1 null.*missing"), ("words", "numbers in the column a"),
                       ("large", "below 2\\*\\*24 in a")):  # fmt: skip
        with pytest.raises(ValueError, match=what):
            pv.data.stream(tmp_path / f"{name}.parquet")
    rows = pv.data.stream(tmp_path / "null.parquet", missing=True).read()
    assert rows.mask is not None
    assert rows.mask.tolist() == [[True, True], [False, True], [True, True]]


def test_what_does_not_fit_is_refused_with_its_place(tmp_path: Path) -> None:
    bad = X.copy()
    bad[500, 2] = 0.5
    rows, program = pv.data.stream(mapped(tmp_path, bad)), vae()
    with pytest.raises(ValueError, match=r"0\.5 at index \[500, 2\]"):
        pv.fit(program, mapped(tmp_path, bad), max_memory=LITTLE, epochs=1)
    with pytest.raises(ValueError, match="`cond`: expected None, as the model has no use"):
        pv.evaluate(program, rows, cond=X)
    with pytest.raises(ValueError, match=r"`x`: expected rows in memory, as `\.read\(\)`"):
        program.reconstruct(rows)
    with pytest.raises(ValueError, match="`max_memory`: expected at least .* windows of 50 rows"):
        fitted(mapped(tmp_path), max_memory=1000)
    with pytest.raises(ValueError, match="`mask`: expected one row for each of 600 data"):
        pv.data.stream(X, mask=X[:5] > 0)


def test_the_windows_are_stated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pyro_vae"):
        fitted(mapped(tmp_path), epochs=1, max_memory=LITTLE)
    assert "600 rows are read in 6 windows of 100, 6 neighbours together" in caplog.text


def test_what_a_thread_raises_is_raised_where_it_is_waited_for() -> None:
    def fails() -> int:
        raise OSError("gone")

    found = ahead([lambda: 1, fails, lambda: 3])
    assert next(found) == 1
    with pytest.raises(OSError, match="gone"):
        next(found)


_PEAKS = """
import sys, threading, time
import numpy as np, torch
import pyro_vae as pv

ROWS, DIM = 40_000, 784
done = threading.Event()
found = []  # when, and how much

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))

def watch():
    while not done.wait(0.0005):
        found.append((time.monotonic(), anonymous()))

def fitted(x, **options):
    networks = pv.networks.MLP((8,)), pv.networks.MLP((8,))
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((DIM,))
    vae = pv.VAE(*parts, encoder=networks[0], decoder=networks[1], seed=0)
    known = dict(epochs=1, batch_size=200, seed=0, compile=False, progress=False)
    pv.fit(vae, x, **known, **options)

x = np.random.default_rng(0).random((ROWS, DIM), dtype=np.float32)
np.save(sys.argv[1], x)
fitted(np.array(x[:2500]))  # what does not depend on how many rows there are
threading.Thread(target=watch).start()
mapped = np.load(sys.argv[1], mmap_mode="r")
for data, options in ((x, {}), (torch.from_numpy(x), {}), (mapped, {"max_memory": "16MiB"})):
    before, start = anonymous(), time.monotonic()
    fitted(data, **options)
    print((max(size for when, size in found if when >= start) - before) / x.nbytes)
done.set()
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_the_peak_beside_the_model_is_one_copy_of_an_array_and_none_of_a_tensor(
    tmp_path: Path,
) -> None:
    """Of 125 MB, of which less than one is for what is worked on at once."""
    command = [sys.executable, "-c", _PEAKS, str(tmp_path / "x.npy")]
    known = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=known)
    array, tensor, mapped = map(float, found.stdout.split())
    assert array < 2
    assert tensor < 1
    assert mapped < 1


def test_a_file_for_which_there_is_no_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a command, too: nothing is read that a system would kill the process for."""
    h5py = pytest.importorskip("h5py")
    mapped(tmp_path)
    np.savez(tmp_path / "x.npz", x=X)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = X
    for name in ("x.npy", "x.npz", "x.h5"):
        monkeypatch.setattr("pyro_vae.data.budget.free_memory", lambda: X.nbytes)
        assert len(pv.data.load(tmp_path / name).train) > 0
        monkeypatch.setattr("pyro_vae.data.budget.free_memory", lambda: X.nbytes - 1)
        with pytest.raises(ValueError, match=r"^`data`: expected an array for which there is mem"):
            pv.data.load(tmp_path / name)


def test_a_map_of_whose_copy_memory_has_no_room_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of bytes, too, which are four times as many in single precision."""
    x = mapped(tmp_path, X.astype(np.uint8))
    monkeypatch.setattr("pyro_vae.data.budget.free_memory", lambda: X.nbytes)
    assert len(pv.data.load(x).train) > 0
    monkeypatch.setattr("pyro_vae.data.budget.free_memory", lambda: X.nbytes - 1)
    for data in (x, tmp_path / "x.npy"):
        with pytest.raises(ValueError, match=r"^`data`: expected an array for which there is mem"):
            pv.data.load(data)
