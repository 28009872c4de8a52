"""Text that a spreadsheet would compute: as it was read, and quoted where that is asked for."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pyro_vae.data.formulas import quoted, quoted_frame
from pyro_vae.data.readers.csv_files import fill_csv

_FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "=", "-"]
_PLAIN = [
    "",
    "a",
    "a=b",
    "-1",
    "+1.5",
    "-1,234.5",
    "-.5",
    "-1e-5",
    "-inf",
    "-12%",
]


@pytest.mark.parametrize("cell", _FORMULAS)
def test_what_is_computed_is_quoted(cell: str) -> None:
    assert quoted(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", [*_PLAIN, -1, 2.5, None])
def test_numbers_and_words_are_not(cell: object) -> None:
    assert quoted(cell) == cell


def test_a_frame_is_quoted_in_its_texts_and_names() -> None:
    frame = pd.DataFrame({"=a": ["=1", "b"], "n": [-1, 2], "c": pd.Categorical(["-x", "y"])})
    made = quoted_frame(frame)
    assert made.to_csv(index=False) == "'=a,n,c\n'=1,-1,'-x\nb,2,y\n"


def test_a_text_that_is_filled_is_quoted_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,=b\r\n-1,=1+1\r\n,x\r\n")
    assert fill_csv(path, {1: {0: "@w"}}) == b"a,=b\r\n-1,=1+1\r\n@w,x\r\n"
    safe = fill_csv(path, {1: {0: "@w"}}, safe=True)
    assert safe == b"a,'=b\r\n-1,'=1+1\r\n'@w,x\r\n"
