"""What people have data in, and what each must give: what ``doors.py`` tries.

A case makes a file or an object and says what is read of it: the numbers of x, the names and kinds
of columns, the table that x decodes to, labels; or the option that a refusal must name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from PIL import Image

N, NAMES = 60, ["a", "b", "c"]
R = np.random.default_rng(0)
X = R.normal(size=(N, 3)).round(3)
X4 = R.normal(size=(N, 4)).round(3)
COUNTS = R.poisson(2.0, (N, 3))
FRAME = pd.DataFrame(X, columns=NAMES)
WORDS = [("red", "green", "blue")[i % 3] for i in range(N)]
SCALE = [("low", "middle", "high")[i % 3] for i in range(N)]
HOLES = FRAME.mask(R.random((N, 3)) < 0.1)
SEEN = np.arange(3 * N).reshape(N, 3) % 7 > 0
EPOCH = 1_700_000_000 + np.arange(N) * 97 % 5077
BYTES = R.integers(0, 256, (N, 8, 6), dtype=np.uint8)
COLOUR = R.integers(0, 256, (N, 8, 6, 3), dtype=np.uint8)
CLASSES = np.arange(N) % 2


@dataclass(frozen=True)
class Gives:
    """What must be read.

    Args:
        x: The numbers, NaN where one is missing; None to look at the table alone.
        names: Of the columns of x.
        kinds: Of some columns, in x or not.
        table: Columns that x decodes to.
        labels: Of the observations.
        says: What a warning must hold.
    """

    x: Any = None
    names: list[str] | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    table: pd.DataFrame | None = None
    labels: Any = None
    says: str = ""


@dataclass(frozen=True)
class Refused:
    """That nothing is read, and what the line names."""

    names: tuple[str, ...]


Options = dict[str, Any]
Case = tuple[Callable[[Path], Any], Options, Gives | Refused]


def refused(*names: str) -> Refused:
    """Returns that a refusal names all of these."""
    return Refused(names)


def text(content: str, name: str = "t.csv", encoding: str = "utf-8") -> Callable[[Path], Any]:
    """Returns what writes a file of text."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content.encode(encoding))
        return folder / name

    return make


def csv(frame: pd.DataFrame, name: str = "t.csv", **how: Any) -> Callable[[Path], Any]:
    """Returns what writes a table as pandas does, without its index."""

    def make(folder: Path) -> Path:
        frame.to_csv(folder / name, **{"index": False, **how})
        return folder / name

    return make


def npz(**arrays: Any) -> Callable[[Path], Any]:
    """Returns what writes arrays under their names."""

    def make(folder: Path) -> Path:
        np.savez(folder / "t.npz", **arrays)
        return folder / "t.npz"

    return make


def npy(array: Any, *, mapped: bool = False) -> Callable[[Path], Any]:
    """Returns what writes an array, or opens it as a memory map."""

    def make(folder: Path) -> Any:
        np.save(folder / "t.npy", array)
        return np.load(folder / "t.npy", mmap_mode="r") if mapped else folder / "t.npy"

    return make


def hdf5(**arrays: Any) -> Callable[[Path], Any]:
    """Returns what writes arrays to an HDF5 file."""

    def make(folder: Path) -> Path:
        with h5py.File(folder / "t.h5", "w") as file:
            for name, each in arrays.items():
                file[name] = each
        return folder / "t.h5"

    return make


def pictures(pixels: np.ndarray, *, classes: bool = True, odd: bool = False) -> Any:
    """Returns what writes a folder of images, in folders of two classes."""

    def make(folder: Path) -> Path:
        for i, each in enumerate(pixels):
            place = folder / "pets" / (("cat", "dog")[i % 2] if classes else ".")
            place.mkdir(parents=True, exist_ok=True)
            each = each[:4] if odd and i == 5 else each
            Image.fromarray(each).save(place / f"{i:03}.png")
        return folder / "pets"

    return make


def given(value: Any) -> Callable[[Path], Any]:
    """Returns what makes an object, with no file beside it."""
    return lambda folder: value() if callable(value) else value


def lines(*rows: str, times: int = 1) -> str:
    """Returns rows as a text, the rows after the first several times."""
    return "\n".join([rows[0], *rows[1:] * times]) + "\n"


def table(**columns: Any) -> pd.DataFrame:
    """Returns columns beside two of numbers."""
    return pd.DataFrame({"a": X[:, 0], "b": X[:, 1], **columns})


NUMBERS = Gives(X, NAMES)
ALL = {"missing": True}
NO_COUNTER = Gives(X, NAMES, {"Unnamed: 0": "id"}, says="counts the rows")
IN_CLASSES = [*range(0, N, 2), *range(1, N, 2)]

# --- Text: what stands in the first row -----------------------------------------------------------

HEADERS: dict[str, Case] = {
    "csv with names": (csv(FRAME), {}, NUMBERS),
    "csv without a header": (csv(FRAME, header=False), {}, Gives(X, [])),
    "csv, pandas' own header 0 1 2": (csv(pd.DataFrame(X)), {}, Gives(X, ["0", "1", "2"])),
    "csv with years as its header": (
        csv(pd.DataFrame(X4, columns=[1999, 2000, 2001, 2002])),
        {},
        Gives(X4, ["1999", "2000", "2001", "2002"]),
    ),
    "csv with years and pandas' index": (
        csv(pd.DataFrame(X4, columns=[1999, 2000, 2001, 2002]), index=True),
        {},
        Gives(X4, ["1999", "2000", "2001", "2002"], {"Unnamed: 0": "id"}),
    ),
    "csv with wavelengths as its header": (
        csv(pd.DataFrame(X, columns=["400", "450", "500"])),
        {},
        Gives(X, ["400", "450", "500"]),
    ),
    "csv, a column called inf": (
        csv(FRAME.set_axis(["gdp", "inf", "unemp"], axis=1)),
        {},
        Gives(X, ["gdp", "inf", "unemp"]),
    ),
    "csv, a header of a word and numbers": (
        csv(FRAME.set_axis(["sample", "400", "450"], axis=1)),
        {},
        Gives(X, ["sample", "400", "450"]),
    ),
    "csv, whole numbers that may be names": (
        text(lines("0,1,2", "3,1,0", "2,2,5", "1,0,4", times=9)),
        {},
        refused("--header"),
    ),
    "csv, the same with header=none": (
        text(lines("0,1,2", *["3,1,0", "2,2,5", "1,0,4"] * 9)),
        {"header": "none", "schema": "numbers"},
        Gives([[0, 1, 2], *[[3, 1, 0], [2, 2, 5], [1, 0, 4]] * 9]),
    ),
    "csv with pandas' nameless index": (csv(FRAME, index=True), {}, NO_COUNTER),
    "csv with two columns of one name": (
        csv(FRAME.set_axis(["a", "a", "c"], axis=1)),
        {},
        Gives(X, ["a", "a.1", "c"], says="two columns are called 'a'"),
    ),
    "csv with a title above its names": (
        text("made by hand,,\n" + FRAME.to_csv(index=False)),
        {"header": 1},
        NUMBERS,
    ),
    "csv with a title, and nobody says so": (
        text("# made by hand\n" + FRAME.to_csv(index=False)),
        {},
        refused("--header"),
    ),
    "csv with a row of units below its names": (
        text("a,b,c\ncm,kg,m\n" + FRAME.to_csv(index=False, header=False)),
        {},
        refused("--na-values", "row 2"),
    ),
}

# --- Text: what separates cells, how numbers are written ------------------------------------------

SIGNS: dict[str, Case] = {
    "tsv": (csv(FRAME, "t.tsv", sep="\t"), {}, NUMBERS),
    "semicolons, and nobody says so": (csv(FRAME, sep=";"), {}, refused("--sep ';'")),
    "semicolons with sep": (csv(FRAME, sep=";"), {"sep": ";"}, NUMBERS),
    "semicolons and decimal commas": (
        csv(FRAME, sep=";", decimal=","),
        {},
        refused("--sep ';'", "--decimal ,"),
    ),
    "semicolons and decimal commas, said so": (
        csv(FRAME, sep=";", decimal=","),
        {"sep": ";", "decimal": ","},
        NUMBERS,
    ),
    "tabs in a .csv file": (csv(FRAME, sep="\t"), {}, refused("--sep '\\t'")),
    "bars in a .csv file": (csv(FRAME, sep="|"), {}, refused("--sep '|'")),
    "blanks in a .csv file": (csv(FRAME, sep=" "), {}, refused("--sep ' '")),
    "blanks after commas": (
        text(FRAME.to_csv(index=False).replace(",", ", ")),
        {},
        NUMBERS,
    ),
    "quoted decimal commas": (
        text('a,b\n"1,5","2,5"\n"3,25","4,0"\n' + '"1,5","2,75"\n' * 20),
        {},
        refused("--decimal ,"),
    ),
    "marks of thousands": (
        text('a,b\n"1,500",2.5\n"12,250",3.5\n' + '"3,000",1.5\n' * 20),
        {},
        refused("--thousands ,"),
    ),
    "marks of thousands, said so": (
        text('a,b\n"1,500",2.5\n"12,250",3.5\n"3,000",1.5\n'),
        {"thousands": ",", "kinds": {"a": "real", "b": "real"}},
        Gives([[1500, 2.5], [12250, 3.5], [3000, 1.5]], ["a", "b"]),
    ),
    "percentages": (
        text("a,b\n" + "".join(f"{i}%,{i / 7:.3f}\n" for i in range(N))),
        {},
        Gives(np.c_[np.arange(N) / 100, (np.arange(N) / 7).round(3)], ["a", "b"], says="shares"),
    ),
    "amounts of money": (
        text("a,b\n" + "".join(f"${i}.50,{i / 7:.3f}\n" for i in range(N))),
        {},
        refused("--kind a="),
    ),
    "a comma at the end of each row": (
        text("".join(f"{line},\n" for line in FRAME.to_csv(index=False).splitlines())),
        {},
        Gives(X, NAMES, {"Unnamed: 3": "ignore"}),
    ),
    "numbers with exponents": (csv(FRAME, float_format="%.12e"), {}, NUMBERS),
}

# --- Text: missing entries ------------------------------------------------------------------------

MISSING: dict[str, Case] = {
    "empty cells, and nobody says so": (csv(HOLES), {}, refused("--missing")),
    "empty cells with missing": (csv(HOLES), ALL, Gives(HOLES.to_numpy(), NAMES)),
    "NaN in words with missing": (csv(HOLES, na_rep="nan"), ALL, Gives(HOLES.to_numpy(), NAMES)),
    "NULL among numbers": (
        csv(HOLES, na_rep="NULL"),
        ALL,
        Gives(HOLES.to_numpy(), NAMES, says="'NULL' for missing"),
    ),
    "N/A among numbers": (
        csv(HOLES, na_rep="N/A"),
        ALL,
        Gives(HOLES.to_numpy(), NAMES, says="'N/A' for missing"),
    ),
    "? among numbers": (
        csv(HOLES, na_rep="?"),
        ALL,
        Gives(HOLES.to_numpy(), NAMES, says="'?' for missing"),
    ),
    "a mark of their own among numbers": (csv(HOLES, na_rep="gone"), ALL, refused("--na-values")),
    "a mark of their own, said so": (
        csv(HOLES, na_rep="gone"),
        {**ALL, "na_values": "gone"},
        Gives(HOLES.to_numpy(), NAMES),
    ),
    "words of which some are missing": (
        csv(table(colour=[None if i == 4 else word for i, word in enumerate(WORDS)])),
        ALL,
        Gives(table=table(colour=[None if i == 4 else word for i, word in enumerate(WORDS)])),
    ),
    "a column never observed": (
        csv(FRAME.assign(d=np.nan)),
        {},
        Gives(X, NAMES, {"d": "ignore"}, says="never observed"),
    ),
    "a column that is constant": (
        csv(FRAME.assign(d=7)),
        {},
        Gives(X, NAMES, {"d": "ignore"}, says="constant"),
    ),
    "a row that is too short": (
        text(FRAME.to_csv(index=False) + "1.5,2.5\n"),
        {},
        refused("3 cells in row 62"),
    ),
    "a row that is too long": (
        text(FRAME.to_csv(index=False) + "1.5,2.5,3.5,4.5\n"),
        {},
        refused("3 cells in row 62"),
    ),
    "a short row far below": (
        text("a,b,c\n" + "1.5,2.5,3.5\n2.5,1.5,0.5\n" * 1500 + "1.5,2.5\n"),
        ALL,
        refused("3 cells in row 3002"),
    ),
    "a word far below": (
        text("a,b\n" + "1.5,2.5\n2.5,1.5\n" * 150_000 + "oops,1.5\n"),
        {},
        refused("--na-values", "row 300002"),
    ),
    "an empty file": (text(""), {}, refused("at least one observation")),
    "names alone": (text("a,b,c\n"), {}, refused("at least one observation")),
}

# --- Text: words, dates, codes --------------------------------------------------------------------

DATES = pd.date_range("2020-03-01", periods=N).strftime("%Y-%m-%d")
CODES = [f"{i * 37 % 1000:03}" for i in range(N)]
LONG = [str(90_071_992_547_409_930 + 7 * i) for i in range(N)]
COLUMNS: dict[str, Case] = {
    "words": (csv(table(w=WORDS)), {}, Gives(kinds={"w": "category"}, table=table(w=WORDS))),
    "words of a scale": (
        csv(table(w=SCALE)),
        {},
        Gives(np.c_[X[:, :2], np.arange(N) % 3], kinds={"w": "ordinal"}, table=table(w=SCALE)),
    ),
    "True and False": (
        csv(table(w=CLASSES > 0)),
        {},
        Gives(np.c_[X[:, :2], CLASSES], kinds={"w": "binary"}, table=table(w=CLASSES > 0)),
    ),
    "yes and no": (
        csv(table(w=np.where(CLASSES, "yes", "no"))),
        {},
        Gives(np.c_[X[:, :2], CLASSES], kinds={"w": "binary"}),
    ),
    "dates": (csv(table(w=DATES)), {}, Gives(kinds={"w": "time"}, table=table(w=DATES))),
    "dates of which days may be months": (
        csv(table(w=[f"{i % 12 + 1:02}/{i % 11 + 1:02}/2020" for i in range(N)])),
        {},
        refused("--schema", "format"),
    ),
    "seconds since 1970": (
        csv(table(t=EPOCH)),
        {},
        Gives(kinds={"t": "time"}, table=table(t=EPOCH)),
    ),
    "integers above 2**24": (
        csv(table(n=2**24 + 1 + 2 * np.arange(N) * 7)),
        {},
        Gives(table=table(n=2**24 + 1 + 2 * np.arange(N) * 7)),
    ),
    "1e9 and noise": (csv(table(n=1e9 + X[:, 2])), {}, Gives(table=table(n=1e9 + X[:, 2]))),
    "codes with zeros before them": (
        csv(table(w=CODES)),
        {"kinds": {"w": "category"}},
        Gives(kinds={"w": "category"}, table=table(w=CODES)),
    ),
    "identifiers of many digits": (csv(table(w=LONG)), {}, Gives(X[:, :2], kinds={"w": "id"})),
    "a nominal column of numbers": (
        csv(table(zip_code=np.arange(N) % 4 * 100 + 11)),
        {},
        Gives(kinds={"zip_code": "category"}, table=table(zip_code=np.arange(N) % 4 * 100 + 11)),
    ),
}
ROLES: dict[str, Case] = {
    "lists in cells": (
        given(lambda: table(w=[[1, 2]] * N)),
        {},
        refused("numbers, words or dates in w"),
    ),
    "rows that are there twice": (
        csv(pd.concat([FRAME[:30], FRAME[:30]])),
        {},
        Gives(np.r_[X[:30], X[:30]], NAMES),
    ),
    "a label by its name": (
        csv(table(species=WORDS)),
        {"label": "species"},
        Gives(X[:, :2], ["a", "b"], labels=[("blue", "green", "red").index(w) for w in WORDS]),
    ),
    "a condition and a size factor by name": (
        csv(table(batch=WORDS, depth=COUNTS[:, 0] + 1.0)),
        {"cond": "batch", "size_factor": "depth"},
        Gives(X[:, :2], ["a", "b"]),
    ),
    "a survey: words, dates, money, empty cells": (
        csv(table(job=WORDS, mood=SCALE, member=CLASSES > 0, since=DATES)),
        {},
        Gives(table=table(job=WORDS, mood=SCALE, member=CLASSES > 0, since=DATES)),
    ),
}

# --- Text: bytes ----------------------------------------------------------------------------------

ACCENTS = table(w=[("Zürich", "Genève")[i % 2] for i in range(N)])
QUOTED = table(w=[('two\nlines, and "more"', "one")[i % 2] for i in range(N)])


def _xlsx(frame: pd.DataFrame, **how: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        frame.to_excel(folder / "t.xlsx", **{"index": False, **how})
        return folder / "t.xlsx"

    return make


def _parquet(frame: pd.DataFrame) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        frame.to_parquet(folder / "t.parquet")
        return folder / "t.parquet"

    return make


FILES: dict[str, Case] = {
    "a byte order mark": (csv(FRAME, encoding="utf-8-sig"), {}, NUMBERS),
    "UTF-16, and nobody says so": (csv(FRAME, encoding="utf-16"), {}, refused("--encoding")),
    "UTF-16 with encoding": (csv(FRAME, encoding="utf-16"), {"encoding": "utf-16"}, NUMBERS),
    "Latin-1, and nobody says so": (csv(ACCENTS, encoding="latin-1"), {}, refused("--encoding")),
    "Latin-1 with encoding": (
        csv(ACCENTS, encoding="latin-1"),
        {"encoding": "latin-1"},
        Gives(table=ACCENTS),
    ),
    "UTF-8": (csv(ACCENTS), {}, Gives(table=ACCENTS)),
    "words with line breaks and quotes": (csv(QUOTED), {}, Gives(table=QUOTED)),
    "lines that end as on Windows": (csv(FRAME, lineterminator="\r\n"), {}, NUMBERS),
    "lines that end as on old machines": (csv(FRAME, lineterminator="\r"), {}, NUMBERS),
    "no end of the last line": (text(FRAME.to_csv(index=False).rstrip()), {}, NUMBERS),
    "empty lines": (text(FRAME.to_csv(index=False).replace("\n", "\n\n")), {}, NUMBERS),
    "csv.gz": (csv(FRAME, "t.csv.gz"), {}, NUMBERS),
    "tsv.gz": (csv(FRAME, "t.tsv.gz", sep="\t"), {}, NUMBERS),
    "csv.bz2": (csv(FRAME, "t.csv.bz2"), {}, NUMBERS),
    "csv.xz": (csv(FRAME, "t.csv.xz"), {}, NUMBERS),
    "csv.zip": (csv(FRAME, "t.csv.zip"), {}, refused("ends in .npy")),
    "a .gz that is none": (text("a,b\n1,2\n", "t.csv.gz"), {}, refused("a CSV file in gzip")),
    "parquet": (_parquet(FRAME), {}, NUMBERS),
    "parquet of words and categories": (
        _parquet(table(w=WORDS, k=pd.Categorical(WORDS))),
        {},
        Gives(table=table(w=WORDS, k=pd.Categorical(WORDS))),
    ),
    "xlsx": (_xlsx(FRAME), {}, NUMBERS),
    "xlsx without a header": (_xlsx(FRAME, header=False), {}, Gives(X)),
    "xlsx with its index": (_xlsx(FRAME, index=True), {}, NO_COUNTER),
    "xlsx of words": (_xlsx(table(w=WORDS)), {}, Gives(table=table(w=WORDS))),
    "a file of R": (text("x", "t.rds"), {}, refused("ends in .npy")),
    "no file": (given(Path("nowhere.csv")), {}, refused("an existing file")),
    "a name that is nearly known": (given("mnst"), {}, refused("mnist")),
}

# --- Arrays in files ------------------------------------------------------------------------------

ARRAYS: dict[str, Case] = {
    "npz of x": (npz(x=X), {}, Gives(X)),
    "npz of x and its mask": (npz(x=X, mask=SEEN), ALL, Gives(np.where(SEEN, X, np.nan))),
    "npz of x and its mask, nobody says so": (npz(x=X, mask=SEEN), {}, refused("--missing")),
    "npz of data and target": (npz(data=X, target=CLASSES), {}, Gives(X, labels=CLASSES)),
    "npz of x, y and what nobody reads": (npz(x=X, y=CLASSES, z=X), {}, refused("--key")),
    "npz of x and weights": (npz(x=X, weights=np.ones(N)), {}, refused("no weights")),
    "npz of arrays of other names": (npz(u=X, v=X4), {}, refused("--key")),
    "npz of arrays, one chosen": (npz(u=X, v=X4), {"key": "v"}, Gives(X4)),
    "npz of objects": (npz(x=X.astype(object)), {}, refused("no pickles")),
    "npy of float64": (npy(X), {}, Gives(X)),
    "npy of float16": (npy(X.astype(np.float16)), {}, Gives(X.astype(np.float16))),
    "npy of integers above 2**24": (npy(2**25 + COUNTS), {}, refused("2**24")),
    "npy of seconds, as float64": (npy(np.c_[EPOCH, EPOCH] * 1.0), {}, refused("float32")),
    "npy of records": (npy(FRAME.to_records(index=False)), {}, refused("real, integer or boolean")),
    "a memory map": (npy(X, mapped=True), {}, Gives(X)),
    "an .h5 file": (hdf5(x=X), {}, Gives(X)),
    "an .h5 file of several arrays": (hdf5(u=X, v=X4), {}, refused("--key")),
    "an .h5 file, an array in a group": (hdf5(**{"g/u": X, "g/v": X4}), {"key": "g/v"}, Gives(X4)),
    "bytes of images (N, H, W)": (npy(BYTES), {}, Gives(BYTES)),
    "bytes of images, no-channels": (npy(BYTES), {"layout": "no-channels"}, Gives(BYTES[:, None])),
    "bytes, channels last": (
        npy(COLOUR),
        {},
        Gives(np.moveaxis(COLOUR, -1, 1), says="channels last"),
    ),
    "bytes, channels first": (
        npy(np.moveaxis(COLOUR, -1, 1)),
        {},
        Gives(np.moveaxis(COLOUR, -1, 1)),
    ),
    "bytes, either first or last": (npy(COLOUR[:, :3]), {}, refused("--layout")),
    "bytes, rescaled": (npy(BYTES), {"rescale": True}, Gives(BYTES / 255)),
    "shares, rescaled": (npy(BYTES / 255), {"rescale": True}, refused("integer levels")),
    "a folder of images by class": (
        pictures(COLOUR),
        {},
        Gives(np.moveaxis(COLOUR, -1, 1)[IN_CLASSES], labels=CLASSES[IN_CLASSES]),
    ),
    "a folder of grey images": (pictures(BYTES, classes=False), {}, Gives(BYTES[:, None])),
    "a folder, rescaled": (
        pictures(COLOUR),
        {"rescale": True},
        Gives(np.moveaxis(COLOUR, -1, 1)[IN_CLASSES] / 255),
    ),
    "images of several sizes": (pictures(COLOUR, odd=True), {}, refused("--resize")),
    "images of several sizes, resized": (
        pictures(np.broadcast_to(COLOUR[:, :1, :1], COLOUR.shape), odd=True),
        {"resize": 4},
        Gives(np.broadcast_to(np.moveaxis(COLOUR[:, :1, :1], -1, 1), (N, 3, 4, 4))[IN_CLASSES]),
    ),
    "a folder of other files": (
        lambda folder: text("x", "notes.txt")(folder).parent,
        {},
        refused("images (.png, .jpg"),
    ),
}
