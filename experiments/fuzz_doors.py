"""What is read equals what pandas or NumPy reads: tables and arrays made up by Hypothesis.

    python experiments/fuzz_doors.py           # 12,000 inputs: about 5 minutes on one core
    python experiments/fuzz_doors.py --smoke   # 200, no figure

Tables are written by pandas, with separators, decimal points, quotes, encodings and compression of
all kinds, and read by :func:`pyro_vae.data.load`; so are data frames as they are, arrays of every
dtype and memory layout, and files of them. Numbers must be those that ``read_csv``, ``np.load`` or
``np.asarray`` gives, rounded to float32; words must be the words. What is refused is one line.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import hypothesis.extra.numpy as arrays
import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyro_vae as pv

COUNT = 12_000  # a tenth of which pandas cannot write or read back
WHOLE = {"validation": 0, "test": 0}
finite = st.floats(-(2.0**99), 2.0**99, width=32)
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs", "Cc"]), max_size=8)
WORDS = ["red", "Ünïcode", "a,b", 'say "so"', "a;b", " blank ", "1.5kg", "two words", "=1+1", "'"]
COLUMNS = {
    "real": finite,
    "small": st.floats(0, 1, width=32),
    "whole": st.integers(-(10**6), 10**6),
    "count": st.integers(0, 9),
    "large": st.integers(-(2**53), 2**53),
    "lacking": st.one_of(st.none(), finite),
    "words": st.sampled_from(WORDS),
    "some words": st.one_of(st.none(), st.sampled_from(WORDS[:4])),
    "truth": st.booleans(),
}
name = st.one_of(st.sampled_from("abcdefgh"), text.filter(lambda s: s.strip() == s and s != ""))


@st.composite
def frame(draw: Any) -> pd.DataFrame:
    """A table, each of whose columns holds at least two different values."""
    size = draw(st.integers(3, 25))
    names = draw(st.lists(name, min_size=1, max_size=5, unique=True))
    columns = {}
    for each in names:
        kind = draw(st.sampled_from(list(COLUMNS)))
        columns[each] = draw(st.lists(COLUMNS[kind], min_size=size, max_size=size))
    return pd.DataFrame(columns)


@st.composite
def table(draw: Any) -> tuple[str, Any, dict[str, Any]]:
    """A frame, or a text of one, and how it is to be read."""
    made = draw(frame())
    if draw(st.integers(0, 4)) == 0:
        return "data frames", made, {}
    suffix = draw(st.sampled_from([".csv", ".csv", ".tsv", ".csv.gz", ".csv.bz2", ".csv.xz"]))
    sep = "\t" if suffix == ".tsv" else draw(st.sampled_from([",", ",", ";", "|", "\t"]))
    decimal = draw(st.sampled_from([".", ".", ","])) if sep != "," else "."
    how = {"sep": sep, "decimal": decimal, "encoding": draw(st.sampled_from(["utf-8", "utf-16"]))}
    end = draw(st.sampled_from(["\n", "\r\n"]))
    quoting = draw(st.sampled_from([0, 0, 1]))
    written = how | {"lineterminator": end, "quoting": quoting, "index": False}
    return "tables of text", (made, suffix, written), how


numbers = st.one_of(
    arrays.floating_dtypes(), arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(),
    arrays.boolean_dtypes(),
)  # fmt: skip
others = st.one_of(
    arrays.complex_number_dtypes(), arrays.datetime64_dtypes(),
    arrays.unicode_string_dtypes(max_len=2),
)  # fmt: skip
LAYOUTS: dict[str, Callable[[np.ndarray], Any]] = {
    "as it is": lambda x: x,
    "Fortran": np.asfortranarray,
    "reversed": lambda x: x[::-1] if x.ndim else x,
    "strided": lambda x: np.repeat(x, 2, 0)[::2] if x.ndim else x,
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "a list": lambda x: x.tolist(),
}
SIDES = "min_dims", "max_dims", "min_side", "max_side"


@st.composite
def array(draw: Any) -> tuple[str, Any, dict[str, Any]]:
    """An array, or a file of one."""
    odd = draw(st.integers(0, 4)) == 0
    kind = draw(others if odd and draw(st.booleans()) else numbers)
    bounded = {"min_value": -1e4, "max_value": 1e4} if kind.kind == "f" and not odd else {}
    sides = (0, 4, 0, 6) if odd else (2, 4, 1, 6)
    shape = draw(arrays.array_shapes(**dict(zip(SIDES, sides, strict=True))))
    made = draw(arrays.arrays(kind, shape, elements=arrays.from_dtype(kind, **bounded)))
    where = draw(st.sampled_from(["memory", ".npy", ".npz", "torch"]))
    layout = draw(st.sampled_from(list(LAYOUTS)))
    return "arrays", (made, layout, where), {}


def read_array(made: np.ndarray, layout: str, where: str, folder: Path) -> tuple[Any, np.ndarray]:
    """What is loaded, and what it holds by NumPy."""
    x = LAYOUTS[layout](made)
    if where == "torch" and made.dtype.kind in "fiub" and made.dtype.isnative:
        try:
            return torch.as_tensor(np.array(x)), np.asarray(x)
        except TypeError:  # of a dtype that torch lacks
            return x, np.asarray(x)
    if where in (".npy", ".npz"):
        path = folder / f"x{where}"
        (np.save if where == ".npy" else np.savez)(path, np.asarray(x))
        found = np.load(path)
        return path, found if where == ".npy" else found["arr_0"]
    return x, np.asarray(x)


def numbers_apart(found: np.ndarray, true: np.ndarray, offset: float = 0) -> str:
    """What is wrong with numbers, or nothing; less an offset, they are rounded to float32."""
    with np.errstate(all="ignore"):
        true = true.astype(np.float64)
        true = ((true - offset).astype(np.float32) + offset).astype(np.float32)
    if found.shape != true.shape:
        return f"shape {found.shape}, not {true.shape}"
    equal = (found == true) | (np.isnan(found) & np.isnan(true))
    return "" if equal.all() else f"{found[~equal][0]} for {true[~equal][0]}"


def columns_apart(data: pv.data.Dataset, true: pd.DataFrame) -> str:
    """What is wrong with a table, by what pandas reads, or nothing."""
    if data.schema is None:
        return numbers_apart(data.train.numpy(), true.to_numpy())
    found = data.schema.decode(data.train)
    for each in found.columns:
        if each not in true.columns:
            return f"no column {each!r} among {list(true.columns)}"
        own, other = found[each], true[each]
        if pd.api.types.is_bool_dtype(other) or pd.api.types.is_numeric_dtype(other):
            if wrong := numbers_apart(
                as_numbers(own), other.to_numpy(dtype=np.float64), data.schema[each].offset
            ):
                return f"{each!r}: {wrong}"
            continue
        for one, two in itertools.zip_longest(own, other):
            if not (pd.isna(one) and pd.isna(two)) and str(one).strip() != str(two).strip():
                return f"{each!r}: {one!r} for {two!r}"
    return ""


def as_numbers(column: pd.Series) -> np.ndarray:
    """Numbers, of words that are numbers or truths, too."""
    truths = {"True": 1.0, "False": 0.0, True: 1.0, False: 0.0}
    values = [np.nan if pd.isna(each) else truths.get(each, each) for each in column]
    return np.array(values, np.float64).astype(np.float32)


def judged(kind: str, made: Any, how: dict[str, Any], folder: Path) -> str:
    """What came of one input."""
    options: dict[str, Any] = dict(WHOLE)
    try:
        if kind == "arrays":
            given_, true = read_array(*made, folder)
        elif kind == "data frames":
            given_, true, options = made, made, options | {"missing": True}
        else:
            content, suffix, written = made
            given_ = folder / f"t{suffix}"
            content.to_csv(given_, **written)
            true = pd.read_csv(given_, **how)
            options |= how | {"missing": True, "header": 0}
    except (ValueError, UnicodeError, pd.errors.ParserError, OverflowError):
        return "no input"  # what pandas or NumPy cannot write or read back
    try:
        data = pv.data.load(given_, **options)
    except ValueError as error:
        return "refused" if "\n" not in str(error) else f"not one line: {error}"
    except Exception:
        return traceback.format_exc()[-1500:]
    if kind == "arrays":
        if len(true.shape) < 2:
            return "right" if data.train.numel() == true.size else "misread: shape"
        if true.ndim == 4 and data.train.shape != true.shape:
            true = np.moveaxis(true, -1, 1)  # images whose channels came last are read as such
        wrong = numbers_apart(data.train.numpy(), true)
    else:
        wrong = columns_apart(data, true)
    return f"misread: {wrong}" if wrong else "right"


def run(count: int, keep: bool) -> list[dict[str, str]]:
    """Reads so many inputs; counts what came of them, and prints what is wrong."""
    logging.getLogger("pyro_vae").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    counts: dict[str, Counter[str]] = {}

    def one(case: tuple[str, Any, dict[str, Any]]) -> None:
        kind, made, how = case
        with tempfile.TemporaryDirectory() as folder:
            came = judged(kind, made, how, Path(folder))
        known = ("right", "refused", "no input")
        counts.setdefault(kind, Counter())[came if came in known else "wrong"] += 1
        if came not in known:
            print(f"{kind}: {came}\n{made}\n{how}\n", flush=True)

    quiet = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    for strategy in (table(), array()):
        settings(max_examples=count // 2, derandomize=True, **quiet)(given(strategy)(one))()
    rows = [
        {
            "what": f"{sum(found.values()) - found['no input']:,} made up {kind}",
            "came_of_it": f"{found['right']:,} read as pandas or NumPy reads them, "
            f"{found['refused']:,} refused in one line, {found['wrong']} anything else",
        }
        for kind, found in counts.items()
    ]
    if keep:
        common.write("fuzz_doors", {"rows": rows})
    return rows


if __name__ == "__main__":
    parser = common.Parser(__doc__)
    smoke = parser.options().smoke
    print(run(200 if smoke else COUNT, keep=not smoke))
