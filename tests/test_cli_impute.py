"""``pyro-vae impute``: missing cells are filled, and nothing else is touched."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae import checkpoint
from pyro_vae.cli import main

Fails = Callable[..., str]

QUICK = ["--epochs", "2", "--num-samples", "10", "--compile", "false", "--device", "cpu"]
SMALL = ["--encoder.hidden", "[8]", "--decoder.hidden", "[8]", "--latent-dim", "2", *QUICK]
KINDS = ("cat", "dog", "fox")
HEADER = "a,kind,size,b,c"


def table(size: int = 60) -> list[list[str]]:
    """Counts of three kinds under sizes; of the counts a third is missing."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(size):
        sizes = rng.uniform(5, 20)
        counts = [str(n) for n in rng.poisson(sizes * np.array([0.3, 1.0, 3.0]))]
        hidden = rng.uniform(size=3) < 1 / 3
        cells = [("", "NA", "nan")[j] if hidden[j] else counts[j] for j in range(3)]
        rows.append([cells[0], KINDS[i % 3], f"{sizes:.4f}", *cells[1:]])
    return rows


def text(rows: list[list[str]]) -> str:
    return "\n".join([HEADER, *(",".join(row) for row in rows)]) + "\n"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run; do not write to it."""
    folder = tmp_path_factory.mktemp("fitted")
    path = folder / "t.csv"
    path.write_text(text(table()))
    arguments = ["--missing", "--cond", "kind", "--size-factor", "size", "--likelihood", "Poisson"]
    assert main(["fit", str(path), *arguments, *SMALL, "--json", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def known(rows: list[list[str]], run: Path) -> tuple[Tensor, dict[str, Any]]:
    """What is in those of the rows that lack a count, and what goes with them."""
    lacking = [row for row in rows if any(not row[i].isdigit() for i in (0, 3, 4))]
    numbers = [[float(row[i] or "nan") if row[i] != "NA" else np.nan for i in (0, 3, 4)]
               for row in lacking]  # fmt: skip
    unit = checkpoint.read_json(run / "data.json")["size_unit"]
    sizes = torch.tensor([float(row[2]) / unit for row in lacking])
    cond = torch.tensor([[float(row[1] == kind) for kind in KINDS] for row in lacking])
    return torch.tensor(numbers), {"cond": cond, "covariates": {"size_factor": sizes}}


def cells(path: str | Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(Path(path).read_text())))[1:]


def check_filled(before: list[list[str]], after: list[list[str]], filled: Tensor) -> None:
    """Checks that each missing cell has its number, and all others are as they were."""
    numbers = iter(filled.tolist())
    for old, new in zip(before, after, strict=True):
        entries = (0, 3, 4)
        expected = next(numbers) if any(not old[i].isdigit() for i in entries) else None
        assert new[1:3] == old[1:3]
        for j, i in enumerate(entries):
            if old[i].isdigit():
                assert new[i] == old[i]
            else:
                assert expected is not None
                assert float(new[i]) == pytest.approx(expected[j], rel=1e-6)


def test_a_table_is_filled_by_means(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of `vae.impute`, given kind and size; fails when these are of other rows."""
    argv = ["impute", str(fitted), "--num-samples", "30", "--seed", "2"]
    assert main([*argv, "--out", "deeper/filled.csv", "--json"]) == 0
    rows = table()
    hidden = sum(not row[i].isdigit() for row in rows for i in (0, 3, 4))
    expected = {"out": "deeper/filled.csv", "filled": hidden, "rows": 60, "num_imputations": None}
    told = json.loads(capsys.readouterr().out)
    diagnostics = told.pop("diagnostics")
    assert told == expected
    assert diagnostics["num_filled"] == len(known(rows, fitted)[0])
    assert 1 <= diagnostics["ess_min"] <= diagnostics["ess_median"] <= 30
    x, given = known(rows, fitted)
    vae = pv.load(fitted)
    pyro.set_rng_seed(2)
    filled = vae.impute(x, ~x.isnan(), num_samples=30, **given)
    check_filled(rows, cells("deeper/filled.csv"), filled)
    assert not filled.isnan().any()

    # Another table, whose words are fewer and come in another order.
    other = [
        ["", "fox", "9", "3", "40"],
        ["2", "cat", "10", "NA", "nan"],
        ["1", "cat", "5", "2", "9"],
    ]
    Path("other.csv").write_text(text(other))
    assert main([*argv[:1], argv[1], "other.csv", *argv[2:], "--out", "f.csv"]) == 0
    said = capsys.readouterr().out
    assert "Filled 3 of 9 cells in 3 rows" in said
    assert "Effective draws a row" in said
    x, given = known(other, fitted)
    pyro.set_rng_seed(2)
    check_filled(other, cells("f.csv"), vae.impute(x, ~x.isnan(), num_samples=30, **given))


def test_draws_fill_several_tables(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts, not means of counts; the same in files and in one array."""
    argv = ["impute", str(fitted), "--num-samples", "30", "--num-imputations", "3"]
    assert main([*argv, "--out", "filled.csv", "--json"]) == 0
    outs = [f"filled-{i}.csv" for i in (1, 2, 3)]
    assert json.loads(capsys.readouterr().out)["out"] == outs
    assert main([*argv, "--out", "filled.npz"]) == 0
    x = np.load("filled.npz")["x"]
    assert x.shape == (3, 60, 3)
    for out, drawn in zip(outs, x, strict=True):
        numbers = [[float(row[i]) for i in (0, 3, 4)] for row in cells(out)]
        np.testing.assert_array_equal(drawn, numbers)
    assert (x == x.round()).all()
    assert (x.std(0) > 0).sum() > 20, "draws differ"


MARK = "\ufeff"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{MARK}{HEADER}\r\n1,cat,9,2,3\r\n", f"{MARK}{HEADER}\r\n1,cat,9,2,3\r\n"),
        (f"{HEADER}\n\n,cat,9,2,3\n\n", f"{HEADER}\n\n#,cat,9,2,3\n\n"),
        (f'{HEADER}\r\n"1", cat ,9.0,2,NA\r\n', f"{HEADER}\r\n1, cat ,9.0,2,#\r\n"),
        (
            '"a",kind,size,b,c\n"1",cat,9,2,3\n1,cat,+9,02,',
            '"a",kind,size,b,c\n"1",cat,9,2,3\n1,cat,+9,02,#',
        ),
        (f"{HEADER}\nNA,cat,9,nan,\n", f"{HEADER}\n#,cat,9,#,#\n"),
    ],
)
def test_all_else_is_as_it_was(before: str, after: str, fitted: Path) -> None:
    """Ends of lines, blank lines, spaces, how a number is written; # is what was filled in."""
    Path("t.csv").write_bytes(before.encode())
    assert main(["impute", str(fitted), "t.csv", "--num-samples", "5", "--out", "f.csv"]) == 0
    found = Path("f.csv").read_bytes().decode()
    pieces = after.split("#")
    position = 0
    for i, piece in enumerate(pieces):
        assert found[position:].startswith(piece), found
        position += len(piece)
        if i + 1 < len(pieces):
            number = found[position:].split(",")[0].split("\r")[0].split("\n")[0]
            assert float(number) > 0
            position += len(number)
    assert position == len(found)
    assert Path("t.csv").read_bytes().decode() == before


def test_models_that_are_fitted_anew_draw_their_share(
    fitted: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    """Fails when the fits are of the rows of the command, or all alike."""
    argv = ["impute", str(fitted), "--num-samples", "100", "--num-imputations", "4"]
    assert main([*argv, "--num-fits", "2", "--out", "fits.npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["diagnostics"]["num_fits"] == 2
    drawn = np.load("fits.npz")["x"]
    assert drawn.shape == (4, 60, 3)
    assert np.isfinite(drawn).all()
    assert main([*argv, "--out", "plain.npz"]) == 0
    plain = np.load("plain.npz")["x"]
    observed = plain.std(0) == 0
    assert np.array_equal(drawn[:, observed], plain[:, observed])
    assert (drawn.std(0)[~observed] > 0).mean() > 0.5
    assert not np.array_equal(drawn, plain)
    words = fails(*argv, "--num-fits", "5", "--out", "more.npz")
    assert "`--num-fits`: expected --num-imputations of 5 or more" in words


def test_arrays_are_filled() -> None:
    """Of any shape; what is observed stays, to the bit."""
    x = np.random.default_rng(0).normal(size=(40, 1, 3, 3)).astype(np.float32)
    np.save("x.npy", x)
    assert main(["fit", "x.npy", "--likelihood", "Normal", *SMALL, "--json", "--out", "run"]) == 0
    hidden = np.random.default_rng(1).uniform(size=x.shape) < 0.2
    np.save("holes.npy", np.where(hidden, np.nan, x))
    argv = ["impute", "run", "holes.npy", "--num-samples", "5"]
    assert main([*argv, "--out", "filled.npy"]) == 0
    filled = np.load("filled.npy")
    np.testing.assert_array_equal(filled[~hidden], x[~hidden])
    assert np.isfinite(filled).all()
    assert main([*argv, "--out", "filled.npz", "--num-imputations", "2"]) == 0
    assert np.load("filled.npz")["x"].shape == (2, 40, 1, 3, 3)


def test_all_tables_are_written_or_none(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, left = checkpoint.write_bytes, [1, 1]

    def full(path: Path, content: bytes) -> None:
        if not left:
            raise OSError("no space left")
        left.pop()
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    argv = ["impute", str(fitted), "--num-samples", "5", "--num-imputations", "3"]
    assert main([*argv, "--out", "filled.csv"]) == 2
    assert not left
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("RUN", "`--out`: expected a file that ends in .csv or .parquet or .xlsx, got None"),
        ("RUN --out f.npy", "ends in .csv or .parquet or .xlsx, got 'f.npy'"),
        ("RUN --out f.npz", "ends in .csv or .parquet or .xlsx, got 'f.npz'"),
        ("RUN --out taken.csv", "`--out`: expected a path that does not exist yet"),
        ("RUN --out taken.csv --num-imputations 0", "`--num-imputations`: expected a positive"),
        ("RUN --out many.csv --num-imputations 3", "not exist yet, got 'many-2.csv'"),
        ("RUN --out f.csv --num-samples 0", "`--num-samples`: expected a positive integer"),
        ("RUN --out f.csv --num-fits 2", "`--num-fits`: expected --num-imputations of 2 or more"),
        ("RUN --out f.csv --proposal prior", "--proposal"),
        ("RUN --out f.csv --seed -1", "`--seed`: expected"),
        ("RUN digits --out f.csv", "`DATA`: expected a file that ends in .csv or .tsv or .gz"),
        ("RUN nothing.csv --out f.csv", "`data`: expected an existing file"),
        ("RUN lacks.csv --out f.csv", "`DATA`: expected columns ['a', 'b', 'c'] as the run"),
        ("RUN words.csv --out f.csv", "`kind`: expected one of cat, dog, fox, got 'dgo' (did you"),
        ("RUN numbers.csv --out f.csv", "`kind`: expected one of cat, dog, fox, got 'numbers'"),
        ("RUN less.csv --out f.csv", "expected a column kind, which goes with x (`cond`)"),
        (
            "RUN sizes.csv --out f.csv",
            "`size_factor`: expected a value for each observation in size",
        ),
        ("RUN values.csv --out f.csv", "expected values in the support of Poisson"),
        ("nowhere --out f.csv", "expected an existing run folder"),
    ],
)
def test_a_mistake_is_one_line(argv: str, words: str, fitted: Path, fails: Fails) -> None:
    Path("taken.csv").write_text("not to be touched")
    Path("many-2.csv").write_text("not to be touched")
    Path("lacks.csv").write_text("b,kind,size,c\n1,cat,9,\n")
    Path("words.csv").write_text(f"{HEADER}\n1,dgo,9,2,\n")
    Path("numbers.csv").write_text(f"{HEADER}\n1,2,9,2,\n")
    Path("less.csv").write_text("a,size,b,c\n1,9,2,\n")
    Path("sizes.csv").write_text(f"{HEADER}\n1,cat,,2,\n")
    Path("values.csv").write_text(f"{HEADER}\n-1,cat,9,2,\n")
    assert words in fails("impute", *argv.replace("RUN", str(fitted)).split())


def test_a_row_that_nothing_explains_is_named_as_the_table_counts_it(
    fitted: Path, fails: Fails
) -> None:
    """Not as it is counted among the rows that lack something."""
    rows = table(12)
    rows[0] = ["1", "cat", "9.0", "2", "3"]  # lacks nothing
    rows[5] = ["", "fox", "9.0", "1e37", "3"]
    Path("t.csv").write_text(text(rows))
    line = fails("impute", str(fitted), "t.csv", "--out", "filled.csv")
    assert "first row 5, counted from 0" in line
    assert not Path("filled.csv").exists()
