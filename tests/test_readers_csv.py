"""Tables as text: what separates cells, who names columns, what is missing, what is ragged."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import Dataset
from pyro_vae.data.schema import Schema

X = np.random.default_rng(0).normal(size=(60, 4))
FLOATS = "".join(f"{i % 7}.5,{i}.25,{i % 3}.1\n" for i in range(60))


def load(path: Path, **options: Any) -> Dataset:
    return pv.data.load(path, validation=0, test=0, **options)


def kind(data: Dataset, name: str) -> str:
    assert data.schema is not None
    return data.schema[name].kind


@pytest.mark.parametrize(
    ("names", "index"),
    [(range(4), False), ([1999, 2000, 2001, 2002], False), (range(4), True)],
)
def test_numbers_can_be_names(names: Any, index: bool, tmp_path: Path) -> None:
    """Of pandas, years, with pandas' index before them; fails when they are an observation."""
    pd.DataFrame(X, columns=names).to_csv(tmp_path / "t.csv", index=index)
    data = load(tmp_path / "t.csv")
    assert data.names == [str(name) for name in names]
    np.testing.assert_allclose(data.train.numpy(), X, rtol=1e-6)


@pytest.mark.parametrize("head", ["gdp,inf,unemp", "sample,400,450", "400.5,401.5,402.5"])
def test_a_name_may_look_like_a_number(head: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(head + "\n" + FLOATS.replace("5.25", "0.25"))
    assert load(path).names == head.split(",")
    assert load(path, cond=head.split(",")[0]).names == head.split(",")[1:]


def test_the_first_row_may_be_an_observation(tmp_path: Path) -> None:
    """Of numbers like those below, with a word that is there again."""
    (tmp_path / "t.csv").write_text(FLOATS)
    data = load(tmp_path / "t.csv")
    assert (len(data.train), list(data.names)) == (60, [])
    (tmp_path / "w.csv").write_text("".join(f"{i % 7}.5,{'ab'[i % 2]}\n" for i in range(60)))
    assert load(tmp_path / "w.csv").train[:2].tolist() == [[0.5, 0], [1.5, 1]]


@pytest.mark.parametrize(
    "rows", ["0,1,2\n3,1,0\n2,2,5\n1,0,4\n" * 5, "a,b\n" + "b,a\nb,c\nc,d\nd,a\n" * 5 + "x,b\n"]
)
def test_what_is_not_clear_is_asked_for(rows: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(rows)
    with pytest.raises(ValueError, match=r"`data`: expected a first row that is clearly.*--header"):
        load(path)
    named = load(path, header=0)
    assert named.names == rows.partition("\n")[0].split(",")
    assert len(load(path, header="none").train) == len(named.train) + 1


def test_a_column_that_counts_rows_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pd.DataFrame(X, columns=list("abcd")).to_csv(tmp_path / "t.csv")
    data = load(tmp_path / "t.csv")
    assert data.names == list("abcd")
    assert kind(data, "Unnamed: 0") == "id"
    assert "x is without Unnamed: 0 (id: counts the rows" in caplog.text
    assert load(tmp_path / "t.csv", kinds={"Unnamed: 0": "count"}).event_shape == (5,)


@pytest.mark.parametrize(
    ("text", "message", "options"),
    [
        ("a;b\n1,5;2,25\n3,5;4,5\n", r"`sep` .* and `decimal`", {"sep": ";", "decimal": ","}),
        ("a;b\n1.5;2.25\n3.5;4.5\n", r"`sep` \(--sep ';'\)", {"sep": ";"}),
        ("a\tb\n1.5\t2.25\n3.5\t4.5\n", r"`sep` \(--sep '\\t'\)", {"sep": "\\t"}),
        ("1.5 2.25\n3.5 4.5\n", r"`sep` \(--sep ' '\)", {"sep": " "}),
        ('a,b\n"1,5","2,25"\n"3,5","4,5"\n', r"`decimal` \(--decimal ,\)", {"decimal": ","}),
        ('a,b\n"1,500,000",2.5\n"3,500,000",4.5\n', r"\(--thousands ,\)", {"thousands": ","}),
        ("a,b\n$1.5,2\n$3,4\n", r"without units and signs, or `kinds`", {}),
    ],
)  # fmt: skip
def test_what_separates_is_named(
    text: str, message: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """And read as that option says."""
    path, lines = tmp_path / "t.csv", text.splitlines(keepends=True)
    start = 0 if text[0].isdigit() else 1
    path.write_text("".join(lines[:start] + lines[start:] * 10))
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)
    if options:
        scale = 1e6 if "thousands" in options else 1.0
        data = load(path, schema="numbers", **options)
        assert (data.train[:2, 0] / scale).tolist() == [1.5, 3.5]


@pytest.mark.parametrize("word", ["?", "NULL", "N/A", "-", "None"])
def test_words_that_spell_missing_are_taken_for_it(
    word: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"a,b\n1.5,{word}\n" + "".join(f"{i}.5,{i * i % 7}.25\n" for i in range(30)))
    data = load(path, missing=True)
    assert int(data.train.isnan().sum()) == 1
    assert f"b: took {word!r} for missing in 1 cell; `na_values` (--na-values)" in caplog.text
    caplog.clear()
    assert int(load(path, missing=True, na_values=[word]).train.isnan().sum()) == 1
    assert "took" not in caplog.text
    with pytest.raises(ValueError, match=r"row 2, column 2 \(b\), got '.*'; `missing`"):
        load(path)


def test_a_word_among_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{i}.5,{i * 7 % 30}.25\n" for i in range(30)) + "1.5,four\n")
    with pytest.raises(
        ValueError, match=r"a number in row 32, column 2 \(b\), got 'four'; `na_val"
    ):
        load(path)
    assert int(load(path, missing=True, na_values="four").train.isnan().sum()) == 1


def test_percentages_are_shares(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{i}%,{i}.5\n" for i in range(30)))
    data = load(path)
    assert torch.allclose(data.train[:, 0], torch.arange(30) / 100)
    assert "percentages are shares of 1" in caplog.text


def test_codes_with_zeros_before_them_are_words(tmp_path: Path) -> None:
    """Fails when 01234 becomes 1234."""
    path = tmp_path / "t.csv"
    path.write_text("zip,b\n" + "".join(f"{i % 4 * 1111:05d},{i}.5\n" for i in range(40)))
    data = load(path)
    assert data.schema is not None
    assert data.schema["zip"].levels == ("00000", "01111", "02222", "03333")
    assert data.schema.decode(data.train)["zip"].tolist()[1] == "01111"


def test_days_and_months_are_told_apart_or_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("d,b\n" + "".join(f"{i % 12 + 1}/{i % 28 + 1}/2020,{i}.5\n" for i in range(40)))
    data = load(path)
    assert data.schema is not None
    assert data.schema.decode(data.train)["d"].dt.day.tolist()[:3] == [1, 2, 3]
    path.write_text("d,b\n" + "".join(f"{i % 12 + 1}/{i % 9 + 1}/2020,{i}.5\n" for i in range(40)))
    with pytest.raises(ValueError, match="whether days or months come first") as asked:
        load(path)
    # The line that it shows is a whole schema.
    (tmp_path / "s.yaml").write_text(str(asked.value).partition("so by the line ")[2])
    known = load(path, schema=tmp_path / "s.yaml")
    assert known.schema is not None
    assert known.schema.decode(known.train)["d"].dt.day.tolist()[:3] == [1, 2, 3]


def test_years_of_two_digits_are_of_a_hundred_years_that_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The C library has 1969 to 2068, so that who was born in 1963 is not born yet."""
    path = tmp_path / "t.csv"
    years = ("63", "29", "30", "00", "99")
    path.write_text("d,b\n" + "".join(f"{i + 13}/2/{years[i % 5]},{i}.5\n" for i in range(15)))
    data = load(path)
    assert data.schema is not None
    found = data.schema.decode(data.train)["d"].dt
    assert found.year.tolist()[:5] == [1963, 2029, 1930, 2000, 1999]
    assert found.day.tolist()[:5] == [13, 14, 15, 16, 17]
    assert "took years of two digits for years from 1930 to 2029" in caplog.text


def test_two_columns_of_one_name_keep_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,b\n" + FLOATS)
    assert load(path).names == ["a", "b", "b.1"]
    assert "two columns are called 'b'" in caplog.text


def test_what_is_constant_or_never_observed_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,c,d\n" + "".join(f"{i * 7 % 60}.5,3,,{i}.5\n" for i in range(60)))
    assert load(path).names == ["a", "d"], "no --missing is needed for what x is without"
    assert "b (ignore: constant, always 3), c (ignore: never observed)" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1.5,2.5"] * 2000 + ["1.5"], "2 cells in row 2002, got 1"),
        (["1.5,2.5"] * 2000 + ["1.5,2.5,3.5"], "2 cells in row 2002, got 3"),
        (["1.5,2.5"] * 3 + ["1.5"], "2 cells in row 5, got 1"),
    ],
)
def test_ragged_rows_are_refused(rows: list[str], message: str, tmp_path: Path) -> None:
    """Wherever they are: pandas fills those that end too early."""
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *rows]) + "\n")
    with pytest.raises(ValueError, match=f"`data`: expected {message}"):
        load(tmp_path / "t.csv", missing=True)


def test_other_encodings_and_compressed_files(tmp_path: Path) -> None:
    text = "größe,b\n" + "".join(f"{i}.5,{i * i}.5\n" for i in range(30))
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a CSV file in UTF-8.*`encoding` \(--encoding latin-1\)"):
        load(tmp_path / "t.csv")
    reference = load(tmp_path / "t.csv", encoding="latin-1")
    assert reference.names == ["größe", "b"]
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "t.tsv").write_text(text.replace(",", "\t"))
    for name in ("t.csv.gz", "t.tsv"):
        assert torch.equal(load(tmp_path / name).train, reference.train)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode())[:60])
    with pytest.raises(ValueError, match="a CSV file in gzip"):
        load(tmp_path / "t.csv.gz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sep": ";;"}, "`sep`: expected one character"),
        ({"decimal": ",", "thousands": ","}, "`thousands`: expected another character"),
        ({"header": -1}, "`header`: expected infer, none, or the number of a row"),
        ({"header": 99}, "`header`: expected a row of the file"),
        ({"encoding": "latin-99"}, "`encoding`: expected one that Python knows"),
        ({"compression": "rar"}, "`compression`: expected one of"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n" + FLOATS)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "t.csv", **options)
    with pytest.raises(ValueError, match="`sep`: expected nothing, as the data are no table"):
        pv.data.load(X, sep=";")


def test_parquet_keeps_dtypes(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"a": X[:, 0], "job": list("xyz") * 20, "n": np.arange(60) % 7})
    frame.to_parquet(tmp_path / "t.parquet")
    data = load(tmp_path / "t.parquet")
    assert torch.equal(data.train, load(frame).train)  # type: ignore[arg-type]
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="`data`: expected a Parquet file"):
        load(tmp_path / "bad.parquet")


def test_excel_sheets_are_read(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"a": X[:, 0], "job": list("xyz") * 20, "n": np.arange(60) % 7})
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    data = load(tmp_path / "t.xlsx")
    assert data.names == ["a", "job", "n"]
    assert torch.allclose(data.train, load(frame).train)  # type: ignore[arg-type]
    (tmp_path / "bad.xlsx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="`data`: expected an Excel file"):
        load(tmp_path / "bad.xlsx")


# --- Lines that are very long ---------------------------------------------------------------------


def test_a_first_line_may_be_longer_than_what_is_looked_at(tmp_path: Path) -> None:
    """Fails when the first 2**20 characters are taken for a whole line, and others for ragged."""
    names = [f"{'a long name of a measurement ' * 30}{i}" for i in range(1300)]
    values = np.random.default_rng(0).normal(size=(20, len(names))).round(3)
    path = tmp_path / "t.csv"
    pd.DataFrame(values, columns=names).to_csv(path, index=False)
    assert path.read_text().index("\n") > 2**20
    data = load(path)
    assert data.names == names
    np.testing.assert_array_equal(data.train.numpy(), values.astype(np.float32))


@pytest.mark.long
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (",".join(["1.5"] * 2**18) + ",2\n", "at most 262,144 columns of text, got 262145"),
        (
            "a,b\n" + "1,2\n" * 10**6 + "1," * 2**23 + "1\n",
            "lines of at most 16,777,216 characters",
        ),
        ("a,b\n1," + "2" * 2**18 + "\n", "field larger than field limit"),
        ('a,b\n1,"' + "2\n" * 2**18, "field larger than field limit"),
    ],
)
def test_a_line_that_is_no_row_is_one_line(content: str, says: str, tmp_path: Path) -> None:
    """Fails, with a traceback or after a minute, when as many cells are read as there are."""
    (tmp_path / "t.csv").write_text(content)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(content.encode(), 1))
    for name in ("t.csv", "t.csv.gz"):
        with pytest.raises(ValueError, match=f"`data`: expected .*{says}") as error:
            load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_columns_cost_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when each sixteen columns go through all of them, as 10^5 columns would show."""
    asked: list[int] = []
    own = Schema.x.fget
    assert own is not None

    def counted(self: Schema) -> Any:
        asked.append(len(self.columns))
        return own(self)

    monkeypatch.setattr(Schema, "x", property(counted))
    pd.DataFrame(np.random.default_rng(0).normal(size=(12, 320))).add_prefix("v").to_csv(
        tmp_path / "t.csv", index=False
    )
    assert load(tmp_path / "t.csv").train.shape == (12, 320)
    assert len(asked) < 10


def test_a_size_factor_that_float32_loses_is_refused(tmp_path: Path) -> None:
    """Fails when 1e-300 is positive, and 0 in the model: of its logarithm no rate is left."""
    rows = "".join(f"{i % 4},{i % 3},{'1' if i else '1e-300'}\n" for i in range(60))
    (tmp_path / "t.csv").write_text("a,b,s\n" + rows)
    with pytest.raises(ValueError, match="`size_factor`: .* float32 holds, got 1e-300"):
        load(tmp_path / "t.csv", size_factor="s")
