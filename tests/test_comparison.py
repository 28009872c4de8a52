"""Paired differences of log p(x) against SciPy, a closed form, and their coverage."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation import Comparison, compare
from pyro_vae.evaluation.scores import Scores

_MEASURE = {
    "data": "digits",
    "split": "test",
    "fingerprint": "a" * 64,
    "binarize": "threshold",
    "dequantize": "none",
    "transform": "x / 16",
    "measure": "counting",
    "dim": 64,
}


def _scores(
    log_marginal: np.ndarray,
    mcse: float = 0.1,
    k_hat: float = 0.2,
    num_samples: int = 1000,
    tenth: float = 0.0,
    **measure: Any,
) -> Scores:
    same = np.ones_like(log_marginal)
    return Scores(
        log_marginal=log_marginal,
        mcse=mcse * same,
        reconstruction=log_marginal,
        kl=same,
        k_hat=k_hat * same,
        ess=same,
        log_marginal_tenth=log_marginal - tenth,
        active_units=2,
        num_samples=num_samples,
        estimator="importance weighting",
        kl_estimator="analytic",
        base_measure=_MEASURE | measure,
    )


def _three() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shared = rng.normal(-80, 15, size=200)
    shifts = {"middle": -1.0, "best": 0.0, "worst": -3.0}
    return {name: shared + rng.normal(shift, 1, 200) for name, shift in shifts.items()}


def test_differences_are_those_of_a_paired_test() -> None:
    """Fails when errors are unpaired, or with N in place of N - 1."""
    columns = _three()
    comparison = compare({name: _scores(each) for name, each in columns.items()})
    assert [run.name for run in comparison.runs] == ["best", "middle", "worst"]
    assert [run.rank for run in comparison.runs] == [1, 2, 3]
    best = comparison.runs[0]
    assert (best.difference, best.difference_standard_error, best.difference_mcse) == (0, 0, 0)
    for run in comparison.runs[1:]:
        paired = stats.ttest_rel(columns[run.name], columns["best"])
        assert run.difference == pytest.approx(
            (columns[run.name] - columns["best"]).mean(), rel=1e-12
        )
        assert run.difference_standard_error is not None
        ratio = run.difference / run.difference_standard_error
        assert ratio == pytest.approx(paired.statistic, rel=1e-10)
        # Two independent Monte Carlo errors of 0.1 per observation, averaged over 200 data.
        assert run.difference_mcse == pytest.approx(math.sqrt(2 * 0.1**2 / 200), rel=1e-12)
        # Unpaired, the error would be that of two means that vary by 15 from observation to
        # observation.
        assert run.difference_standard_error < 0.15
        assert run.standard_error == pytest.approx(stats.sem(columns[run.name]), rel=1e-10)


def test_errors_cover_the_truth() -> None:
    """95 % intervals for a true difference of 0.3 hold it in 95 % of 1,000 repetitions.

    Fails, at a coverage of 100 %, when errors are unpaired.
    """
    rng, covered, truth, repetitions = np.random.default_rng(1), 0, 0.3, 1000
    critical = stats.t.ppf(0.975, 59)
    for _ in range(repetitions):
        shared = rng.normal(-80, 15, size=60)
        scores = {
            "a": _scores(shared + rng.normal(0, 0.7, 60)),
            "b": _scores(shared + truth + rng.normal(0, 0.7, 60)),
        }
        best, other = compare(scores).runs
        assert other.difference_standard_error is not None
        difference = -other.difference if best.name == "b" else other.difference
        covered += abs(difference - truth) < critical * other.difference_standard_error
    tolerance = 3 * math.sqrt(0.95 * 0.05 / repetitions)
    assert abs(covered / repetitions - 0.95) < tolerance


def _flat(scale: float) -> pv.VAE:
    """x does not depend on z: p(x) is a product of normal densities."""
    decoder = nn.Linear(2, 3)
    nn.init.zeros_(decoder.weight)
    nn.init.zeros_(decoder.bias)
    return pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Normal((3,), scale=scale),
        decoder=decoder,
    )


def test_models_are_ranked_by_the_truth() -> None:
    """Fails when the difference is of the ELBO, which the guide's KL lowers."""
    x = torch.randn(300, 3)
    models = {f"{scale}": _flat(scale) for scale in (2.0, 1.0, 0.8)}
    comparison = compare({name: pv.evaluate(vae, x) for name, vae in models.items()})
    assert comparison.runs[0].name == "1.0"
    exact = {
        name: torch.distributions.Normal(0, float(name)).log_prob(x.double()).sum(1).numpy()
        for name in models
    }
    for run in comparison.runs[1:]:
        difference = exact[run.name] - exact["1.0"]
        assert run.difference_mcse is not None
        assert abs(run.difference - difference.mean()) < 3 * run.difference_mcse + 1e-4
        assert run.difference_standard_error == pytest.approx(stats.sem(difference), rel=0.05)


def test_the_spread_over_seeds_stands_beside_the_error_over_data() -> None:
    """Two models with two and three fits, and one with one; by hand.

    Fails when the error over seeds is that of a single fit.
    """
    shared = np.random.default_rng(2).normal(-80, 15, size=100)
    noise = {name: np.random.default_rng(i).normal(size=100) for i, name in enumerate("ab")}
    shifts = {"a0": 0.0, "a1": 1.0, "b0": -2.0, "b1": -1.0, "b2": -3.0, "c": -9.0}
    columns = {name: shared + shift + noise.get(name[0], 0) for name, shift in shifts.items()}
    groups = {name: f"model {name[0]}" for name in columns if name != "c"}
    comparison = compare({n: _scores(each) for n, each in columns.items()}, groups=groups)
    assert len(comparison.runs) == 6
    a, b, c = comparison.models
    assert [model.runs for model in (a, b, c)] == [("a0", "a1"), ("b0", "b1", "b2"), ("c",)]
    assert (a.name, b.name, c.name) == ("model a", "model b", "c")
    assert a.spread == pytest.approx(math.sqrt(0.5))
    assert b.spread == pytest.approx(1.0)
    assert b.difference_spread == pytest.approx(math.sqrt(0.5 / 2 + 1.0 / 3))
    assert (a.difference_spread, c.spread, c.difference_spread) == (0, None, None)
    means = {k: np.mean([columns[run] for run in m.runs], 0) for k, m in (("a", a), ("b", b))}
    assert b.difference == pytest.approx(np.mean(means["b"] - means["a"]))
    assert b.difference_standard_error == pytest.approx(stats.sem(means["b"] - means["a"]))
    # Means over two and three fits have Monte Carlo variances a half and a third of one fit's.
    variance = 0.1**2 * (1 / 2 + 1 / 3) / 100
    assert b.difference_mcse == pytest.approx(math.sqrt(variance))
    alone = {name: _scores(columns[name]) for name in ("a0", "b0")}
    assert compare(alone, groups={"a0": "model a"}).models == (), "no model has two fits"


def test_the_summary_is_plain_json() -> None:
    columns = _three()
    scores = {name: _scores(each) for name, each in columns.items()}
    scores["worst"] = _scores(columns["worst"], mcse=math.nan, k_hat=math.nan)
    scores["middle"] = _scores(columns["middle"], k_hat=math.inf)
    summary = compare(scores, groups=dict.fromkeys(("best", "worst"), "model")).summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert set(summary) == {"runs", "models", "size", "notes", "base_measure"}
    assert summary["size"] == 200
    assert summary["base_measure"] == _MEASURE
    rows: dict[str, Mapping[str, Any]] = {row["name"]: row for row in summary["runs"]}
    assert rows["worst"]["difference_mcse"] is None
    assert rows["worst"]["k_hat_above_threshold"] == 1.0, "its effective numbers are 1"
    assert rows["middle"]["k_hat_above_threshold"] == 1.0
    assert rows["best"]["k_hat_median"] == pytest.approx(0.2)


def test_k_hat_quantiles() -> None:
    scores = {name: _scores(np.zeros(100)) for name in "ab"}
    scores["a"].k_hat[:] = np.linspace(0.01, 1.0, 100)
    run = next(run for run in compare(scores).runs if run.name == "a")
    assert run.k_hat_median == pytest.approx(0.505)
    assert run.k_hat_90 == pytest.approx(0.9, abs=0.011)
    assert run.k_hat_above_threshold == pytest.approx(1 - 0.66, abs=0.01)


def test_notes_say_what_not_to_believe() -> None:
    columns = _three()
    scores = {name: _scores(each) for name, each in columns.items()}
    assert compare(scores).notes == []
    heavy = compare(scores | {"best": _scores(columns["best"], k_hat=0.9)}).notes
    assert len(heavy) == 1
    assert "best: k-hat is too high on 100% of the data" in heavy[0]
    (note,) = compare(scores | {"best": _scores(columns["best"], num_samples=500)}).notes
    assert "fewer draws" in note


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": "mnist"}, "data digits and 'b' with data mnist"),
        ({"split": "validation"}, "split test and 'b' with split validation"),
        ({"fingerprint": "b" * 64}, f"fingerprint {'a' * 12} and 'b' with fingerprint {'b' * 12}"),
        ({"binarize": "none"}, "binarize threshold and 'b' with binarize none"),
        ({"dequantize": "uniform"}, "dequantize none and 'b' with dequantize uniform"),
        ({"transform": "logit"}, "transform x / 16 and 'b' with transform logit"),
        ({"measure": "lebesgue"}, "measure counting and 'b' with measure lebesgue"),
        ({"dim": 8}, "dim 64 and 'b' with dim 8"),
        (
            {"binarize": "none", "measure": "lebesgue"},
            "binarize threshold, measure counting and 'b' with binarize none, measure lebesgue",
        ),
    ],
)
def test_what_has_another_base_measure_is_refused(changed: dict[str, Any], words: str) -> None:
    """Fails for each entry that is left out of what is looked at."""
    column = np.zeros(10)
    scores = {"first": _scores(column), "a": _scores(column), "b": _scores(column, **changed)}
    with pytest.raises(ValueError, match="`scores`: expected one base measure") as refused:
        compare(scores)
    assert words in str(refused.value)
    assert "'first' with" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_real_scores_of_other_data_are_refused() -> None:
    """A count and a density of the same numbers have no difference."""
    x = torch.poisson(torch.full((20, 3), 2.0))
    counts = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((3,)))
    scores = {"counts": pv.evaluate(counts, x, num_samples=20)}
    scores["reals"] = pv.evaluate(_flat(1.0), x, num_samples=20)
    with pytest.raises(ValueError, match="'counts' with measure counting and 'reals' with measure"):
        compare(scores)
    scores["reals"] = pv.evaluate(counts, x[:-1], num_samples=20)
    with pytest.raises(ValueError, match="'counts' with fingerprint"):
        compare(scores)


@pytest.mark.parametrize(
    ("scores", "groups", "words"),
    [
        ({"a": _scores(np.zeros(3))}, {}, "`scores`: expected at least two to compare, got ['a']"),
        ({"a": _scores(np.zeros(3)), "b": 2}, {}, "`scores['b']`: expected Scores, got 2"),
        (
            {name: _scores(np.zeros(3)) for name in ("one", "two")},
            {"twoo": "model"},
            "did you mean 'two'?",
        ),
        (
            {"a": _scores(np.zeros(3)), "b": _scores(np.array([0.0, -np.inf, 1.0]))},
            {},
            "`scores['b']`: expected a finite log p(x) of every observation, "
            "got '1 of 3 that are not'",
        ),
    ],
)
def test_a_mistake_is_one_line(scores: Any, groups: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match="expected") as mistake:
        compare(scores, groups=groups)
    assert words in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_a_single_observation_has_no_error() -> None:
    comparison = compare({"a": _scores(np.array([0.0])), "b": _scores(np.array([1.0]))})
    assert [run.difference for run in comparison.runs] == [0.0, -1.0]
    assert [run.difference_standard_error for run in comparison.runs] == [None, None]
    assert isinstance(comparison, Comparison)
    assert "1. a  log p(x) 0.00, difference -1.00 ± - over data" in repr(comparison)
