"""Forms of data that people have, beyond those of the other tests of readers and containers.

All that ``experiments/doors.py`` tries runs here where the packages that hold some of it are there.
"""

from __future__ import annotations

import bz2
import lzma
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import report
from pyro_vae.cli import main
from pyro_vae.data import load

N = 60
X = np.random.default_rng(0).normal(size=(N, 3)).round(3)
SMALL = ["--epochs", "1", "--latent-dim", "2", "--num-samples", "5", "--compile", "false"]
SMALL += ["--encoder.hidden", "[4]", "--decoder.hidden", "[4]"]
TEXT = pd.DataFrame(X, columns=list("abc")).to_csv(index=False)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "pictures", lambda *args: [])


def _loaded(data: Any, **options: Any) -> torch.Tensor:
    return load(data, validation=0, test=0, **options).train


def _frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"a": X[:, 0], "b": X[:, 1], **columns})


@pytest.mark.parametrize(("suffix", "opener"), [(".bz2", bz2.open), (".xz", lzma.open)])
def test_compressed_tables_are_told_by_their_suffix(
    suffix: str, opener: Any, tmp_path: Path
) -> None:
    with opener(path := tmp_path / f"t.csv{suffix}", "wt") as file:
        file.write(TEXT)
    np.testing.assert_allclose(_loaded(path), X, rtol=1e-6)


def test_a_title_above_names_is_named(tmp_path: Path) -> None:
    """Fails where the line about ragged rows does not say which option reads the file."""
    (path := tmp_path / "t.csv").write_text(f"# by hand\n\n# in May\n{TEXT}")
    with pytest.raises(ValueError, match=r"1 cell in row 4, got 3; `header` \(--header 2\) takes"):
        load(path)
    assert _loaded(path, header=2).shape == (N, 3)
    path.write_text(TEXT + "1,2\n")
    with pytest.raises(ValueError, match=r"3 cells in row 62, got 2$"):
        load(path)


def test_amounts_with_signs_are_no_scale(tmp_path: Path) -> None:
    """Fails when sixty amounts of money become sixty levels; bands and a few prices are levels."""
    (path := tmp_path / "t.csv").write_text("a,b\n" + "".join(f"${i}.5,{i}.25\n" for i in range(N)))
    with pytest.raises(
        ValueError, match=r"a number in row 2, column 1 \(a\), got '\$0.5'.*--kind a"
    ):
        load(path)
    bands = [f"{5 * (i % 25)}-{5 * (i % 25) + 4}" for i in range(N)]
    for words in (bands, [f"${5 * (i % 3)}" for i in range(N)]):
        schema = load(_frame(w=words)).schema
        assert schema is not None
        assert schema["w"].kind == "ordinal"


def test_a_mark_among_numbers_is_asked_about() -> None:
    """Fails when a column of numbers is left out for a text because of how its gaps are written."""
    marked = ["gone" if i % 9 == 0 else f"{value}" for i, value in enumerate(X[:, 2])]
    with pytest.raises(
        ValueError, match=r"a number in row 0, column 3 \(c\), got 'gone'.*--na-val"
    ):
        load(_frame(c=marked))
    # Tickets, of which words differ as numbers do, are no numbers.
    tickets = [f"PC {i}" if i % 4 == 0 else f"{1000 + 7 * i}" for i in range(N)]
    schema = load(_frame(ticket=tickets)).schema
    assert schema is not None
    assert schema["ticket"].kind == "id"


def _rows() -> Iterator[list[float]]:
    yield from X.tolist()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"a": X[:, 0]}, r"; `pd.DataFrame\(data\)` makes a table of columns"),
        (X.tobytes(), r"; `np.frombuffer\(data, np.uint8\)"),
        (_rows(), r"; `list\(data\)` makes rows"),
        (X[:, 0], r"got ndarray of shape \(60,\).*; `x\[:, None\]` makes each number"),
        (
            _frame(w=[[1, 2]] * N),
            r"words or dates in w, got \[1, 2\]; `drop` \(--drop w\) leaves it",
        ),
    ],
)
def test_what_is_no_data_yet_is_named_with_the_way(data: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        load(data)
    assert "\n" not in str(error.value)


def test_sparse_arrays_of_more_dimensions_are_dense() -> None:
    sparse = pytest.importorskip("sparse")
    stack = np.random.default_rng(0).poisson(0.3, (N, 4, 3))
    assert _loaded(sparse.COO.from_numpy(stack)).tolist() == stack.tolist()


# --- Zarr -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two arrays, one in a group, with labels."""
    group = pytest.importorskip("zarr").open_group(str(tmp_path / "t.zarr"), mode="w")
    group["x"], group["y"] = X, np.arange(N) % 2
    return tmp_path / "t.zarr"


def test_a_zarr_folder_is_a_file_of_arrays(folder: Path, tmp_path: Path) -> None:
    data = load(folder, validation=0, test=0)
    np.testing.assert_allclose(data.train, X, rtol=1e-6)
    assert data.labels["train"].tolist() == [0, 1] * (N // 2)
    zarr = pytest.importorskip("zarr")
    zarr.open_group(str(folder), mode="a").create_group("g")["z"] = X[:, :2]
    with pytest.raises(ValueError, match=r"no arrays besides .*g/z.*; `key` \(--key\) reads one"):
        load(folder)
    assert load(folder, key="g/z").event_shape == (2,)
    zarr.save_array(str(tmp_path / "a.zarr"), X)
    np.testing.assert_allclose(_loaded(tmp_path / "a.zarr"), X, rtol=1e-6)
    for options in ({"key": "x"}, {"layers": "x"}):
        with pytest.raises(ValueError, match="expected None with a .zarr folder of one array"):
            load(tmp_path / "a.zarr", **options)


def test_what_is_no_zarr_folder_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    (tmp_path / "t.zarr").write_text("x")
    with pytest.raises(ValueError, match="expected a folder, as Zarr writes one"):
        load(tmp_path / "t.zarr")
    (tmp_path / "u.zarr").mkdir()
    (tmp_path / "u.zarr" / "notes.txt").write_text("x")
    with pytest.raises(
        ValueError, match="`data`: expected a folder that Zarr has written"
    ) as error:
        load(tmp_path / "u.zarr")
    assert "\n" not in str(error.value)


def test_the_command_line_fits_a_zarr_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["fit", str(folder), "--likelihood", "Normal", "--out", out, *SMALL]) == 0
    assert main(["evaluate", out, "--num-samples", "5", "--json"]) == 0
    capsys.readouterr()


# --- All of them ----------------------------------------------------------------------------------

_PACKAGES = ("anndata", "datasets", "openpyxl", "polars", "pyarrow", "sparse", "zarr")


@pytest.mark.slow
def test_every_form_is_read_right_or_refused_with_what_helps() -> None:
    """Fails where one is misread in silence, or a refusal does not name the way."""
    for package in _PACKAGES:
        pytest.importorskip(package)
    script = Path(__file__).parents[1] / "experiments" / "doors.py"
    for options in ((), ("--timing",)):
        command = [sys.executable, str(script), "--smoke", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
