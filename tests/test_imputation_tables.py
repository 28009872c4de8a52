"""What ``experiments/imputation_tables.py`` measures, and how others see a table of several kinds.

The script itself runs for a few steps in the slow suite.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.append(str(EXPERIMENTS))  # scripts, which import each other

from imputation_data import Table, errors  # noqa: E402

N = 40


def _table() -> Table:
    """Numbers from 0 to 10, three words, five ordered levels, and two values."""
    i = np.arange(N)
    frame = pd.DataFrame(
        {
            "size": np.where(i == 0, 0.0, np.where(i == 1, 10.0, 2.5 + 0.01 * i)),
            "job": np.array(["nurse", "baker", "smith"])[i % 3],
            "rating": 1 + i % 5,
            "member": i % 2 == 0,
        }
    )
    return Table.of("test", frame)


def test_the_error_of_each_kind_is_that_of_hi_vae() -> None:
    table = _table()
    assert table.kinds == ["positive", "category", "ordinal", "binary"]
    filled, hidden = table.x.copy(), np.zeros(table.x.shape, bool)
    hidden[10:14] = True
    filled[10:14, 0] += [3.0, -3.0, 3.0, -3.0]  # of a range of 10
    filled[10, 1] = (filled[10, 1] + 2) % 3  # one of four, however far apart the codes are
    filled[10:14, 2] += [2, 0, 0, -1]  # three steps in four entries, of five levels
    filled[10:12, 3] = 1 - filled[10:12, 3]
    filled[20:30] = 99.0  # which is not hidden, and not counted
    assert errors(table, filled, hidden) == pytest.approx([0.3, 0.25, 3 / 4 / 5, 0.5])


def test_a_column_of_which_nothing_is_hidden_has_no_error() -> None:
    table = _table()
    hidden = np.zeros(table.x.shape, bool)
    hidden[3, 1] = True
    found = errors(table, table.x, hidden)
    assert found[1] == 0
    assert np.isnan([found[0], *found[2:]]).all()


def test_masks_hide_their_share_of_what_is_observed_and_differ() -> None:
    """Of 2,000 entries 20 %: within four standard errors, which are 0.9 %."""
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(500, 4)), columns=list("abcd"))
    frame.iloc[:250, 0] = np.nan
    table = Table.of("test", frame)
    one, other = table.holes(0.2, 0), table.holes(0.2, 1)
    assert not one[np.isnan(table.x)].any()
    assert abs(one[~np.isnan(table.x)].mean() - 0.2) < 0.04
    assert (one != other).any()
    assert (one == table.holes(0.2, 0)).all()


def test_categories_are_one_hot_for_others_and_decoded_by_the_largest() -> None:
    from imputation_tables import Numbers

    table = _table()
    x = table.x.copy()
    x[5] = np.nan
    numbers = Numbers(table, x)
    assert numbers.x.shape == (N, 1 + 3 + 1 + 1)
    assert np.isnan(numbers.x[5]).all()
    assert np.nanmean(numbers.x[:, 0]) == pytest.approx(0)
    assert np.nanstd(numbers.x[:, 0]) == pytest.approx(1)
    filled = np.where(np.isnan(numbers.x), 0.0, numbers.x)
    filled[5, 1:4] = [0.2, 0.3, 0.5]
    filled[5, 4] = 100.0  # far above the highest level
    decoded = numbers.decoded(filled)
    assert decoded[5, 1] == 2
    assert decoded[5, 2] == 4
    assert decoded[5, 0] == pytest.approx(np.nanmean(x[:, 0]))
    known = np.delete(np.arange(N), 5)
    np.testing.assert_array_equal(decoded[known], table.x[known])


@pytest.mark.slow
def test_the_script_runs() -> None:
    command = [sys.executable, str(EXPERIMENTS / "imputation_tables.py"), "--smoke"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("| iris (150 × 5) |") == 2
