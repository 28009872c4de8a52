"""Tables of the command line at 80 columns and in pipes: nothing is cut off, no line is longer."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pyro_vae.cli.tables import comparison_tables, failures_table, scores_table, selection_table

LONG = "runs/a-long-name-of-a-run-folder-without-any-blank-in-it/seed-17"
MEASURE = {"data": "a_table_with_a_long_name_of_its_own.csv", "split": "validation",
           "binarize": "threshold", "transform": None}  # fmt: skip
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
        chosen=made[1], best=made[0],
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
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    for number in whole:
        assert number in text
