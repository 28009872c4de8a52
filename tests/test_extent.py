"""What one pass over a column finds, against NumPy's own passes; and large tables, held once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.data import fields
from pyro_vae.data.cells import Cells
from pyro_vae.data.extent import distinct_of, extent_of, spread_above
from pyro_vae.data.frames import from_frame
from pyro_vae.data.raw import holds
from pyro_vae.data.readers import Reading
from pyro_vae.data.readers.csv_files import read_csv

N = 100_000  # numbers: several pieces
R = np.random.default_rng(0)


def _with(values: np.ndarray, *pairs: tuple[int, float]) -> np.ndarray:
    values = values.copy()
    for at, value in pairs:
        values[at] = value
    return values


WHOLE = R.integers(-5, 90, N).astype(float)
COLUMNS: dict[str, np.ndarray] = {
    "normal": R.normal(size=N),
    "whole": WHOLE,
    "one fraction, late": _with(WHOLE, (99_000, 0.5)),
    "missing": _with(R.normal(size=N), (3, math.nan), (70_000, math.nan)),
    "missing among whole ones": _with(WHOLE, (70_000, math.nan)),
    "a piece missing": np.where(np.arange(N) < 40_000, np.nan, WHOLE),
    "all missing": np.full(N, np.nan),
    "infinite": _with(WHOLE, (50_000, -math.inf)),
    "integers": R.integers(-(2**62), 2**62, N),
    "bytes": R.integers(0, 256, N, dtype=np.uint64),
    "every third of another": np.repeat(WHOLE, 3)[::3],
    "none": np.zeros(0),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_one_pass_finds_what_numpy_finds(name: str) -> None:
    """Fails where a piece is passed over, or a missing number is taken for an end."""
    values, found = COLUMNS[name], extent_of(COLUMNS[name])
    seen = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    assert found.complete == (len(seen) == len(values))
    assert found.observed == (len(seen) > 0)
    if len(seen) == 0:
        return
    assert (found.low, found.high) == (seen.min(), seen.max())
    assert (found.at_low, found.at_high) == (
        int((values == seen.min()).argmax()),
        int((values == seen.max()).argmax()),
    )
    parts = (values != np.round(values)) & ~np.isnan(values)
    assert found.at_part == (int(parts.argmax()) if parts.any() else -1)
    assert found.finite == bool(np.isfinite(seen).all())
    np.testing.assert_equal(distinct_of(seen), np.unique(seen, return_counts=True))


@pytest.mark.parametrize("name", ["normal", "whole", "bytes"])
def test_a_spread_is_above_its_bound(name: str) -> None:
    """The bound is reached where all but the ends are in the middle; it is above none."""
    found = extent_of(COLUMNS[name])
    assert spread_above(found, 0.0)
    assert not spread_above(found, float(COLUMNS[name].astype(float).std()))
    ends = extent_of(np.array([-1.0, *[0.0] * 98, 1.0]))
    true = math.sqrt(2 / 100)
    assert spread_above(ends, 0.999 * true)
    assert not spread_above(ends, true)


def test_a_sample_has_the_ends_and_the_first_fraction() -> None:
    """In their order; fails where a rare value that decides on a kind is not looked at."""
    values = np.zeros(N) + (np.arange(N) % 3 == 1)
    values[[50_001, 70_003, 80_007]] = [0.5, -7.0, 9.0]
    some = fields._some(Cells("numbers", values, "float64"))
    assert len(some) == N // 5 + 3
    rare = some[(some != 0) & (some != 1)]
    assert rare.tolist() == [0.5, -7.0, 9.0]


@pytest.mark.parametrize(
    ("support", "value"),
    [
        (constraints.boolean, 2.0),
        (constraints.nonnegative_integer, 0.5),
        (constraints.unit_interval, 2.0),
    ],
)
def test_a_support_is_that_of_the_last_piece_too(
    support: constraints.Constraint, value: float
) -> None:
    x = torch.ones(2**12, 70)
    x[-1, -2] = math.nan
    assert holds(support, x)
    x[-1, -1] = value
    assert not holds(support, x)


def test_a_frame_is_emptied_where_nobody_needs_it(tmp_path: Path) -> None:
    """Fails when a file is held twice; that of a caller is left alone."""
    path = tmp_path / "t.csv"
    pd.DataFrame(R.normal(size=(30, 20)), columns=[f"c{i}" for i in range(20)]).to_csv(
        path, index=False
    )
    table = read_csv(path, Reading())
    frame = table.frame
    kept = from_frame(table).splits["train"]
    assert table.frame is frame
    assert torch.equal(from_frame(table, keep=False).splits["train"], kept)
    assert table.frame.shape == (30, 0)
    own = pd.DataFrame(R.normal(size=(30, 3)), columns=list("abc"))
    from_frame(own, keep=False)
    assert own.shape == (30, 3)


@pytest.mark.parametrize(
    ("text", "options", "names"),
    [
        ("\n\na,b\n1.5,2\n2.5,3\n", {}, ["a", "b"]),
        ("note,\n\na,b\n1.5,2\n2.5,3\n", {"header": 1}, ["a", "b"]),
        ('"two\nlines",b\n1.5,2\n2.5,3\n', {"header": 0}, ["two\nlines", "b"]),
        ('x,y\n"two\nlines",b\n1.5,2\n2.5,3\n', {"header": 1}, ["two\nlines", "b"]),
        ("1.5,2\n2.5,3\n", {"header": "none"}, ["column 1", "column 2"]),
    ],
)
def test_rows_below_the_names_are_observations(
    text: str, options: dict[str, Any], names: list[str], tmp_path: Path
) -> None:
    """Fails when a row is lost, or names are read as one, whatever stands above them."""
    (tmp_path / "t.csv").write_text(text)
    kinds = dict.fromkeys(names, "real")
    data = pv.data.load(tmp_path / "t.csv", validation=0, test=0, kinds=kinds, **options)
    assert list(data.names) in (names, [])
    assert data.train.tolist() == [[1.5, 2.0], [2.5, 3.0]]
