"""What a table holds comes back as it was, or a person is told what it became."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import Schema, decoding
from pyro_vae.data.inference import kind_of_numbers
from pyro_vae.data.schema import Field
from pyro_vae.data.vocabulary import in_order

N = 60
R = np.random.default_rng(1)
DAYS = pd.date_range("2015-01-01", periods=N).strftime("%Y-%m-%d").tolist()


def _both(column: Any, tmp_path: Path, name: str = "a") -> list[tuple[pd.Series, Any]]:
    """A column beside another one, from a frame and from a CSV file: decoded, and its field."""
    frame = pd.DataFrame({name: column, "beside": R.normal(size=len(column))})
    frame.to_csv(path := tmp_path / "t.csv", index=False)
    found = []
    for source in (frame, path):
        data = pv.data.load(source, validation=0, test=0, missing=True)
        assert data.schema is not None
        found.append((data.schema.decode(data.train)[name], data.schema[name]))
    return found


@pytest.mark.parametrize("values", [DAYS, ["red", "green", "blue"] * (N // 3)])
def test_a_warning_says_which_cells_were_taken_for_missing(
    values: list[str], tmp_path: Path
) -> None:
    """Fails when signs among dates, or cells of blanks, become missing in silence."""
    column = list(values)
    column[3], column[7], column[9] = ".", "?", " "
    for decoded, field in _both(column, tmp_path):
        assert decoded.isna().sum() == 3
        assert field.warning.startswith("took '.', '?', ' ' for missing in 3 cells; `na_values`")


def test_words_that_differ_by_a_blank_are_one_and_others_keep_theirs(tmp_path: Path) -> None:
    column = ["Yes", "No"] * (N // 2)
    column[1] = "No "
    for decoded, field in _both(column, tmp_path):
        assert decoded.tolist() == ["Yes", "No"] * (N // 2)
        assert field.warning == "took 'No ' for 'No', without its blanks"
    column = ["John Fox ", "Ann Lee", "Bo Ek"] * (N // 3)
    for decoded, field in _both(column, tmp_path):
        assert decoded.tolist() == column
        assert field.warning == ""
    for decoded, _ in _both([f" {word}" for word in column], tmp_path):
        assert decoded[1] == "Ann Lee", "blanks after each separator"


def test_times_have_the_unit_that_float32_keeps(tmp_path: Path) -> None:
    """Fails when seconds over eight years come back 10 s off."""
    start = pd.Timestamp("2009-12-23 17:38:18", tz="UTC")
    times = start + pd.to_timedelta(np.sort(R.integers(0, 8 * 365 * 86_400, N)), "s")
    for decoded, field in _both(times.strftime("%Y-%m-%dT%H:%M:%SZ"), tmp_path):
        assert field.unit == "min"
        assert field.warning.startswith("times are rounded to the minute")
        assert decoded.tolist() == times.round("min").tolist()
    times = start + pd.to_timedelta(np.sort(R.integers(0, 60 * 86_400, N)), "s")
    for decoded, field in _both(times.strftime("%Y-%m-%dT%H:%M:%SZ"), tmp_path):
        assert (field.unit, field.warning) == ("s", "")
        assert decoded.tolist() == times.tolist()


def test_dates_before_nanoseconds_are_dates() -> None:
    """Those of the years 1678 to 2261 alone fit into int64 in nanoseconds."""
    frame = pd.DataFrame({"start": [f"{1100 + 3 * i}-03-01" for i in range(N)]})
    schema = Schema.infer(frame)
    assert schema["start"].kind == "time"
    decoded = schema.decode(schema.encode(frame))["start"]
    assert decoded.dt.strftime("%Y-%m-%d").tolist() == frame["start"].tolist()
    drawn = schema.decode(schema.encode(frame) * 1e9)["start"]
    assert int(drawn.dt.year.max()) == 9999, "no wrap of int64"


def test_months_after_years_are_dates(tmp_path: Path) -> None:
    months = pd.period_range("1960-01", periods=N, freq="M")
    for decoded, field in _both(months.strftime("%Y %b"), tmp_path):
        assert (field.kind, field.format) == ("time", "%Y %b")
        assert decoded.tolist() == months.to_timestamp().tolist()


def test_large_whole_numbers_are_reported_as_rounded(tmp_path: Path) -> None:
    for decoded, field in _both(R.integers(2**24, 2**27, N), tmp_path):
        assert "16,777,216 on are rounded" in field.warning
        assert decoded.dtype == "int64"
    for _, field in _both(R.integers(1000, 2**24, N), tmp_path):
        assert field.warning == ""


def test_a_frame_keeps_its_floats_and_a_file_its_whole_numbers(tmp_path: Path) -> None:
    column = np.where(np.arange(N) % 7 == 3, np.nan, R.integers(100, 300, N))
    (framed, _), (written, _) = _both(column, tmp_path, "weight")
    pd.testing.assert_series_equal(framed, pd.Series(column, name="weight"))
    assert written.dtype == "Int64"


@pytest.mark.parametrize("decimals", [0, 2, 5])
def test_numbers_have_the_decimals_of_the_data(decimals: int, tmp_path: Path) -> None:
    """Fails when 16860.91 comes back as 16860.912109375."""
    column = (10.0 ** (4 - decimals) * np.exp(R.normal(size=N))).round(decimals)
    for decoded, field in _both(column, tmp_path, "price"):
        assert field.decimals == decimals
        assert decoded.tolist() == column.tolist()
        assert decoded.dtype == "float64"
    schema = Schema.infer(pd.DataFrame({"price": column}))
    drawn = schema.encode(pd.DataFrame({"price": column})) * 1.2345678
    texts = schema.decode(drawn)["price"].map(repr)
    assert texts.str.partition(".")[2].str.len().max() <= max(decimals, 1)
    means = schema.decode(drawn, means=True)["price"]
    np.testing.assert_allclose(means, drawn[:, 0].double(), rtol=0, atol=0)
    for decoded, field in _both(R.normal(size=N), tmp_path):
        assert field.decimals == -1
        assert decoded.map(repr).str.len().max() > 10


def test_angles_have_the_dtype_and_the_circle_of_the_data(tmp_path: Path) -> None:
    """Fails when 360 comes back as 0, or 12 as 11.99999862638313."""
    degrees = np.r_[360, 10 * R.integers(1, 36, N - 1)]
    for decoded, field in _both(degrees, tmp_path, "wind_dir"):
        assert field.kind == "angle"
        assert decoded.dtype == "int64"
        assert decoded.tolist() == degrees.tolist()
    both = np.r_[0, degrees[1:], 360]
    for decoded, field in _both(both.astype(float), tmp_path, "wind_dir"):
        assert decoded.tolist() == (both % 360.0).tolist()
        assert field.warning == "360 and 0 are one direction, which is decoded as 0"


@pytest.mark.parametrize(
    ("dtype", "draw", "wider"),
    [
        ("int8", 130.0, "int64"),
        ("uint8", 2.0**63, "uint64"),
        ("int64", 2.0**63, "float64"),
        ("uint32", -1.0, "uint32"),
        ("float16", 1e5, "float64"),
    ],
)
def test_a_draw_that_a_type_does_not_hold_is_no_other_number(
    dtype: str, draw: float, wider: str
) -> None:
    """Fails when 130 of a column of int8 is -126: draws may be larger than data."""
    frame = pd.DataFrame({"a": R.integers(0, 99, N), "beside": R.normal(size=N)})
    schema = pv.data.load(frame.astype({"a": dtype}), kinds={"a": "real"}, test=0).schema
    assert schema is not None
    assert schema.decode(torch.tensor([[3.0, 0.0], [4.0, 0.0]]))["a"].dtype == dtype
    decoded = schema.decode(torch.tensor([[3.0, 0.0], [draw, 0.0]]))["a"]
    assert decoded.tolist() == [3, max(draw, 0) if dtype == "uint32" else draw]
    assert decoded.dtype == wider


def test_whole_numbers_beyond_64_bits_come_back(tmp_path: Path) -> None:
    """Fails when a column of a file is decoded as -2**63, since all it holds is whole."""
    column = [None, *(2.0**70 * R.integers(1, 9, N - 1))]
    for decoded, _ in _both(column, tmp_path):
        assert decoded.isna().sum() == 1
        assert decoded[1:].tolist() == column[1:]


@pytest.mark.parametrize("value", [np.inf, 1e50])
def test_an_infinite_value_is_named_with_its_column(value: float, tmp_path: Path) -> None:
    found = re.escape(f"column 1 (a), got {value!r}; `drop` (--drop a) leaves the column out")
    with pytest.raises(ValueError, match=rf"finite float32 value in row \d+, {found}"):
        _both(np.r_[value, R.normal(size=N - 1)], tmp_path)


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        (["3+", "1", "0", "2"], ["0", "1", "2", "3+"]),
        (["1", "<1", "5+", "do not watch"], ["do not watch", "<1", "1", "5+"]),
        (["1945-", "1935-", "1955-"], ["1935-", "1945-", "1955-"]),
        (["25+", "24-"], ["24-", "25+"]),
        (["24h", "48h"], None),
        (["low", "high"], None),
        (["10mg", "5mg", "20mg"], ["5mg", "10mg", "20mg"]),
        ([str(i) for i in range(10)] + ["136A"], None),
        (["1.5.2", "2+", "3"], None),
        (["1-2", "3", "often"], None),
    ],
)
def test_bands_of_numbers_are_in_order(words: list[str], ordered: list[str] | None) -> None:
    assert in_order(words) == ordered


@pytest.mark.parametrize("rows", [2, 3, 6, N])
def test_the_index_that_pandas_writes_is_no_part_of_x(rows: int, tmp_path: Path) -> None:
    """However few rows there are; and alone it is no table."""
    frame = pd.DataFrame({"a": R.normal(size=rows), "b": R.normal(size=rows)})
    frame.to_csv(path := tmp_path / "t.csv")
    data = pv.data.load(path, validation=0, test=0)
    assert data.names == ["a", "b"]
    pd.DataFrame({"name": [f"n{i}" for i in range(20)]}).to_csv(path)
    with pytest.raises(ValueError, match="columns that are left for x"):
        pv.data.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "rownames,country,1999,2000\n1,A,745,2666\n2,B,37737,80488\n3,C,212258,213766\n",
        "rownames,1970,1971,1973\n" + "".join(f"c{i},{i % 4},{i},{i + 1}\n" for i in range(20)),
    ],
)
def test_a_header_of_words_and_years_is_one(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        data = pv.data.load(path, validation=0, test=0)
    assert data.schema is not None
    assert [field.name for field in data.schema] == text.splitlines()[0].split(",")
    assert "took the first row" in caplog.text
    rows = "".join(f"x{i},{1990 + i},{1991 + i}\n" for i in range(9))
    path.write_text(rows)
    assert len(pv.data.load(path, header="none", validation=0, test=0).train) == 9


COUNTED = R.poisson(3, N)
KINDS: list[tuple[str, Any, str]] = [
    ("time", 1960 + np.arange(N) / 4, "time"),
    ("date", 19_900_000 + R.integers(100, 1231, N), "time"),
    ("day", np.resize(np.arange(1, 32), N), "ordinal"),
    ("day", 7 * R.integers(0, 30, N), "time"),
    ("wave", R.integers(1, 5, N), "ordinal"),
    ("test", R.integers(29, 78, N), "real"),
    ("chem", R.poisson(22, N), "positive"),
    ("fatalities", R.integers(1, 400, N), "count"),
    ("Freq", R.integers(2, 66, N), "count"),
    ("plot", R.integers(1, 9, N), "category"),
    ("subject", R.integers(1, 9, N), "category"),
    ("distid", 1000 + R.integers(0, 400, 10 * N), "id"),
    ("lwage", np.exp(0.5 * R.normal(size=N)), "real"),
    ("lquux", np.exp(R.normal(size=N)), "positive"),
    ("log.dose", np.exp(R.normal(size=N)), "real"),
    ("MPG.city", R.integers(15, 46, N), "positive"),
    ("pcInd81", R.random(N), "proportion"),
    ("educ", R.integers(6, 19, N), "positive"),
    ("educ", R.integers(1, 6, N), "ordinal"),
    ("paid", R.integers(100, 900, N), "positive"),
    ("year_2008", R.integers(10_000, 10**8, N), "positive"),
    ("wk42", R.integers(2, 60, N), "count"),
    ("season_porch", 7 * R.integers(0, 30, N) + 2, "count"),
    ("phosphate", 50 * R.poisson(3, N), "positive"),
    ("years_abroad", COUNTED, "count"),
    ("stateFedMales", R.integers(80_000, 90_000, N), "count"),
    ("quuxes", R.integers(200, 900, N), "count"),
    ("quuxes", 100 * R.integers(200, 900, N), "positive"),
    ("gas", R.integers(200, 900, N), "positive"),
    ("sfparks", R.integers(1, 7, N), "count"),
    ("series", R.integers(1, 7, N), "ordinal"),
    ("heights", R.integers(150, 200, N), "positive"),
    ("agesq", COUNTED**2, "positive"),
    ("numvisits", R.integers(20, 90, N), "count"),
    ("laborshare", 0.3 + 0.3 * R.random(N), "proportion"),
    ("testscore", R.integers(10, 29, N), "real"),
]


@pytest.mark.parametrize(("name", "values", "kind"), KINDS)
def test_kinds_by_names_and_values(name: str, values: np.ndarray, kind: str) -> None:
    found = kind_of_numbers(name, values)
    assert found.kind == kind, found.reason
    assert found.reason


def test_times_of_an_hour_that_comes_twice_are_known() -> None:
    """In either of the two hours. Fails when what pandas calls ambiguous is missing."""
    utc = pd.date_range("2024-10-26 22:30", periods=6, freq="h", tz="UTC")
    local = pd.Series(utc.tz_convert("Europe/Berlin"))
    days = np.asarray(utc.as_unit("ns").asi8) / 86_400e9
    field = Field("at", "time", unit="min", zone="Europe/Berlin")
    decoded = decoding._column(field, np.append(days, np.nan), False)
    assert decoded[:6].tolist() == local.tolist()
    assert decoded.isna().tolist() == [False] * 6 + [True]


def test_unsigned_numbers_have_no_negative_draws_beside_huge_ones() -> None:
    """Fails when floats, which hold the huge one, keep the negative one."""
    drawn = decoding._as_dtype(np.array([1e30, -5.0, np.nan, 2.4]), "uint8")
    np.testing.assert_array_equal(drawn, [1e30, 0.0, np.nan, 2.0])


def test_a_logarithm_of_another_column_is_real() -> None:
    values = np.exp(0.5 * R.normal(size=N))
    assert kind_of_numbers("lquux", values, others=["quux", "lquux"]).kind == "real"


@pytest.mark.parametrize(
    ("name", "low", "high", "kind"),
    [("hue", 0.48, 1.71, "positive"), ("phase", 0.0, 6.2, "angle"), ("theta", -3.1, 3.1, "angle")],
)
def test_a_name_of_directions_needs_values_of_all_of_them(
    name: str, low: float, high: float, kind: str
) -> None:
    """The hue of a wine is a ratio. Fails when less than half a turn is taken for directions."""
    values = np.random.default_rng(0).uniform(low, high, 200)
    frame = pd.DataFrame({name: values, "length": values + 4})
    assert Schema.infer(frame)[name].kind == kind
