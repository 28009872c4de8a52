"""Tables of the command line at 80 columns and in pipes: nothing is cut off, no line is longer."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pyro_vae.cli.tables import (
    checks_table,
    comparison_tables,
    failures_table,
    scores_table,
    selection_table,
)
from pyro_vae.criticism import Row

LONG = "runs/a-long-name-of-a-run-folder-without-any-blank-in-it/seed-17"
MEASURE = {"data": "a_table_with_a_long_name_of_its_own.csv", "split": "validation",
           "binarize": "none", "transform": None}  # fmt: skip
NUMBERS = {
    "log_marginal": -12345.678,
    "standard_error": 123.456,
    "mcse": 12.345,
    "difference": -12345.678,
    "difference_standard_error": 123.456,
    "difference_low": -12500.123,
    "difference_high": -12100.123,
    "difference_fold_error": 99.123,
    "difference_spread": 99.123,
    "k_hat_above_threshold": 0.123,
    "spread": 55.123,
}


def _comparison() -> Any:
    runs = [SimpleNamespace(name=f"{LONG}{i}", rank=i, **NUMBERS) for i in (1, 2)]
    models = [SimpleNamespace(runs=runs, **vars(run)) for run in runs]
    return SimpleNamespace(runs=runs, models=models, size=123456, base_measure=MEASURE)


def _selection() -> Any:
    label = "--likelihood.scale per-dimension --encoder.hidden [512,512,512]"
    numbers = {"num_parameters": 1234567, **NUMBERS}
    made = [SimpleNamespace(label=label, rank=i, **numbers) for i in (1, 2)]
    array: Any = SimpleNamespace(shape=(2, 2))
    folds: Any = type("Folds", (list,), {"max": lambda self: 4})([0] * 9)
    return SimpleNamespace(
        log_marginal=array, base_measure=MEASURE, fold=folds, candidates=made, failed=[],
        trials=None, chosen=made[1], best=made[0],
    )  # fmt: skip


def _scores() -> dict[str, Any]:
    return {
        "base_measure": MEASURE, "num_samples": 100000, "estimator": "importance",
        "elbo": -12345.6, "reconstruction": -12345.6, "kl": 1234.5, "bits_per_dim": 12.3456,
        "active_units": 16, "k_hat_median": 0.12, **NUMBERS,
        "ais": {"num_chains": 1000, **NUMBERS},
    }  # fmt: skip


def _failures() -> dict[str, Any]:
    rows = [SimpleNamespace(title=f"share of a_column_of_this_table_{i}", failed=True,
                            calibrated=True) for i in range(3)]  # fmt: skip
    return {LONG: SimpleNamespace(rows=rows, num_failed=3)}


def _row(name: str, effect: float, *, failed: bool = False, calibrated: bool = True) -> Row:
    return Row(
        name, "", -12345.678, -12500.12, -12100.12, 0.00123, "z ~ p(z)", calibrated,
        failed=failed, effect=effect, effect_low=effect - 1, effect_high=effect + 1,
    )  # fmt: skip


def _checks() -> tuple[Any, Any]:
    """What was checked of a model, two of which failed, and of its guide, which passed."""
    rows = [_row("large_one_of_a_long_name_that_no_column_holds", 2.5, failed=True),
            _row("passed", -1.5), _row("tiny", 0.1, failed=True),
            _row("of_the_guide", 9.9, calibrated=False)]  # fmt: skip
    headline = "a classifier tells draws from data: AUC 0.81 [0.75, 0.86]"
    checks = SimpleNamespace(
        rows=rows, level=0.05, num_draws=760, num_data=123456, latent={"collapsed": []}, refits=0,
        base_measure=MEASURE, headline=headline, num_failed=2, unjudged={}, skipped={},
    )  # fmt: skip
    ranks = (_row("rank", math.nan),)
    return checks, SimpleNamespace(rows=lambda: ranks, num_failed=0, level=0.05, advice=())


@pytest.mark.parametrize("everything", [False, True])
def test_checks_begin_with_the_verdict_and_show_what_failed(everything: bool) -> None:
    """Fails when a reader has to scroll for the verdict, or through rows that passed."""
    console = Console(file=io.StringIO(), width=80, highlight=False)
    console.print(checks_table(*_checks(), everything=everything))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].startswith("✗ model: 2 of 3 checks failed at 0.05")
    assert lines[1].startswith("✓ guide: 0 of 1 checks failed")
    assert lines[2] == "A classifier tells draws from data: AUC 0.81 [0.75, 0.86]."
    assert max(map(len, lines)) <= 80
    cells = [line for line in lines if " 0.001 " in line]
    effects = [re.findall(r"[+-]\d\.\d\d ", line) for line in cells]
    failed = [["+2.50 "], ["+0.10 "]]
    rest = [failed[0], ["-1.50 "], failed[1], ["+9.90 "], []]
    assert effects == (rest if everything else failed)
    hidden = "not shown: 2 passed, 1 not judged; --all shows them"
    assert (hidden in lines) == (not everything)
    assert not any("(of " in line for line in lines)
    assert any(line.startswith("✗ tiny (negligible, +0.10") for line in lines)


def test_a_check_of_many_entries_says_whose_p_it_shows() -> None:
    """That of the most extreme of them, over all."""
    checks, ranks = _checks()
    checks.rows = [replace(row, columns=1234) for row in checks.rows[:1]]
    console = Console(file=io.StringIO(), width=80, highlight=False)
    console.print(checks_table(checks, ranks, everything=True))
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "(of 1,234)" in text
    assert "of N: the one farthest out of N entries, and p is that of the most extreme" in text


@pytest.mark.parametrize(
    ("tables", "whole"),
    [
        (lambda: [scores_table(_scores(), 123456)], ["-12345.68", "123.46", "12.345"]),
        (lambda: list(comparison_tables(_comparison())), ["-12345.68", "-12500.12", "123.46"]),
        (lambda: [selection_table(_selection())], ["1,234,567", "-12345.68", "99.12", "55.12"]),
        (lambda: [failures_table(_failures())], ["3 of 3"]),
    ],
    ids=["scores", "comparison", "selection", "failures"],
)
def test_a_table_is_whole_at_eighty_columns(tables: Any, whole: list[str]) -> None:
    """Fails when a number or a name loses its end: names go on below, numbers stay in one line."""
    shown = io.StringIO()  # no terminal, as in a pipe
    console = Console(file=shown, width=80, highlight=False)
    for table in tables():
        console.print(table)
    text = shown.getvalue()
    assert "…" not in text
    assert "binarize" not in text, "of a table"
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    for number in whole:
        assert number in text
