"""Tables of events as rows by columns: as pandas has them, and for new data as the run knows it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv

EVENTS = pd.DataFrame(
    {
        "user": ["b", "a", "b", "c", "a", "c", "c", "b"],
        "item": [30, 4, 30, 4, 100, 100, 30, 4],
        "stars": [1.5, 2.0, 0.5, 4.0, 3.0, 1.0, 2.5, 5.0],
    }
)


def _all(data: pv.data.Dataset) -> pd.DataFrame:
    """All rows of a data set with the names that they have, in the order of these."""
    splits: tuple[Any, ...] = ("train", "validation", "test")
    x = torch.cat([data.split(each) for each in splits]).numpy()
    index = np.concatenate([data.index[each] for each in splits])
    return pd.DataFrame(x, index=index, columns=list(data.names)).sort_index()


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_cross_table_of_pandas(seed: int) -> None:
    """Counts of events, and sums of amounts. Fails when pairs that come twice are there once."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"who": rng.integers(0, 30, 200), "what": rng.integers(0, 20, 200), "n": rng.random(200)}
    )
    counted = pd.crosstab(frame.who, frame.what)
    found = _all(pv.data.load(frame, pivot="who,what"))
    assert [int(name) for name in found.columns] == list(counted.columns)
    assert np.array_equal(found.loc[counted.index].to_numpy(), counted.to_numpy())
    summed = pd.crosstab(frame.who, frame.what, frame.n, aggfunc="sum").fillna(0)
    found = _all(pv.data.load(frame, pivot=["who", "what", "n"]))
    assert np.allclose(found.loc[summed.index].to_numpy(), summed.to_numpy(), rtol=1e-6)


def test_a_file_has_its_ids_as_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EVENTS.to_csv(tmp_path / "clicks.csv", index=False)
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        data = pv.data.load(tmp_path / "clicks.csv", pivot=("user", "item"))
    assert list(data.names) == ["4", "30", "100"]  # sorted as numbers
    assert _all(data).loc["b"].tolist() == [1, 2, 0]
    assert "1 event of a user and a item that another one is of, too: they are counted" in (
        caplog.text
    )
    data = pv.data.load(tmp_path / "clicks.csv", pivot="user,item,stars")
    assert _all(data).loc["b"].tolist() == [5, 2, 0]


def test_new_people_are_read_as_those_of_before(caplog: pytest.LogCaptureFixture) -> None:
    """In the columns of these, whatever the order; what is not known is left out and counted."""
    like = pv.data.load(EVENTS, pivot="user,item")
    new = pd.DataFrame(
        {
            "more": range(5),
            "item": [100.0, 7.0, 4.0, 8.0, 7.0],  # whole numbers, if not written as such
            "user": ["y", "y", "x", "z", "x"],
        }
    )
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        found = pv.data.load(new, like=like)
    assert list(found.names) == list(like.names)
    assert found.index["test"].tolist() == ["x", "y", "z"]
    assert found.test.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert "left out 3 events, of 2 values in item that the run does not know: 7, 8" in caplog.text


def test_an_id_is_the_same_however_it_is_written() -> None:
    """A whole number beside 1.5, and 1 beside "1". Fails when text is by the type of a column."""
    like = pv.data.load(EVENTS.assign(item=[1.5, 2.0] * 4), pivot="user,item")
    assert list(like.names) == ["1.5", "2"]
    found = pv.data.load(pd.DataFrame({"user": ["x"], "item": [2]}), like=like)
    assert found.test.tolist() == [[0, 1]]
    mixed = EVENTS.assign(user=[1, "1", 2, 2, 3, 3, 1.0, 4], item=[7, "7"] * 4)
    table = _all(pv.data.load(mixed, pivot="user,item"))
    assert list(table.index) == ["1", "2", "3", "4"]
    assert table["7"].tolist() == [3, 2, 2, 1]
    whole = pv.data.load(EVENTS.assign(user=[1.0, 2, 3, 4] * 2), pivot="user,item")
    assert _all(whole).index.tolist() == [1, 2, 3, 4]
    assert whole.index["train"].dtype == np.int64


@pytest.mark.parametrize(
    ("frame", "options", "words"),
    [
        (EVENTS, {"pivot": "user"}, "`pivot`: expected columns of rows, of columns and"),
        (EVENTS, {"pivot": "user,user"}, "`pivot`: expected columns of rows, of columns and"),
        (EVENTS, {"pivot": "user,items"}, "`pivot`: expected one of"),
        (EVENTS, {"pivot": "user,item", "cond": "stars"}, "`cond`: expected nothing with `pivot`"),
        (EVENTS, {"pivot": "user,item", "missing": True}, "`missing`: expected nothing with"),
        (EVENTS, {"pivot": "user,item", "split": "column user"}, "expected nothing with `pivot`"),
        (EVENTS, {"pivot": "stars,item,user"}, "`data`: expected a finite number in row 0"),
        (EVENTS.assign(item=[1, None] * 4), {"pivot": "user,item"}, "`data`: expected an id in ro"),
        (EVENTS, {"pivot": 3}, "`pivot`: expected columns of rows, of columns and"),
        (EVENTS.assign(item=[1, np.inf] * 4), {"pivot": "user,item"}, "`data`: expected an id in"),
        (
            EVENTS.assign(item=pd.array([1, np.inf, None, 2] * 2, "Float64")),
            {"pivot": "user,item"},
            "`data`: expected an id in",
        ),
        (EVENTS.assign(item=[[1], [2]] * 4), {"pivot": "user,item"}, "expected numbers or texts"),
        (
            EVENTS.assign(stars=pd.Timestamp("2020-01-01")),
            {"pivot": "user,item,stars"},
            "`data`: expected numbers in stars",
        ),
        (EVENTS.iloc[:0], {"pivot": "user,item"}, "`data`: expected at least one event"),
        (np.ones((4, 3)), {"pivot": "user,item"}, "`pivot`: expected nothing, as the data are no"),
        ("digits", {"pivot": "user,item"}, "`pivot`: expected nothing, as the data are no table"),
        (EVENTS.assign(stars=2**23), {"pivot": "user,item,stars"}, "`data`: expected sums below"),
    ],
)
def test_a_mistake_is_one_line(frame: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        pv.data.load(frame, **options)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_id_of_a_file_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("user,item\n1,5\n2,\n3,5\n4,\n")
    with pytest.raises(ValueError, match=r"an id in row 3.*, of 2 such events, got ''"):
        pv.data.load(tmp_path / "clicks.csv", pivot="user,item")


def test_new_people_who_share_nothing_are_refused() -> None:
    like = pv.data.load(EVENTS, pivot="user,item")
    new = pd.DataFrame({"user": ["x"], "item": [5]})
    with pytest.raises(ValueError, match="at least one event of an item that the run knows"):
        pv.data.load(new, like=like)
