"""Cross-validation: who is fitted to what, and errors against closed forms and their coverage."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import selection as module
from pyro_vae.evaluation.comparison import fold_error
from pyro_vae.selection import Candidate, Selection, combinations, select


def _flat(scale: float = 1.0) -> pv.VAE:
    """x does not depend on z: p(x) is a product of normal densities."""
    decoder = nn.Linear(1, 3)
    nn.init.zeros_(decoder.weight)
    nn.init.zeros_(decoder.bias)
    prior, guide = pv.priors.Normal(1), pv.guides.Normal(1)
    return pv.VAE(prior, guide, pv.likelihoods.Normal((3,), scale=scale), decoder=decoder)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `fit` is asked to do, which it then does not do."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        module, "fit", lambda vae, data, **options: asked.append({"data": data, **options})
    )
    return asked


def test_scores_are_those_of_the_closed_form(fitted: list[dict[str, Any]]) -> None:
    """In the caller's order, whatever the folds. Fails when rows are put back in fold order."""
    x = torch.randn(41, 3)
    chosen = select(_flat, x, {"scale": [2.0, 1.0, 0.5]}, seeds=2, num_samples=1000, folds=4)
    assert len(fitted) == 3 * 4 * 2
    assert chosen.log_marginal.shape == (3, 2, 41)
    for i, scale in enumerate((2.0, 1.0, 0.5)):
        exact = torch.distributions.Normal(0.0, scale).log_prob(x.double()).sum(1).numpy()
        np.testing.assert_allclose(chosen.log_marginal[i].mean(0), exact, atol=0.15)
        candidate = chosen.candidates[i]
        assert candidate.arguments == {"scale": scale}
        assert candidate.log_marginal == pytest.approx(chosen.log_marginal[i].mean())
        assert candidate.seed_means == pytest.approx(chosen.log_marginal[i].mean(1))
        assert candidate.spread == pytest.approx(np.std(candidate.seed_means, ddof=1))
        difference = (chosen.log_marginal[i] - chosen.log_marginal[1]).mean(0)
        assert candidate.difference == pytest.approx(difference.mean(), abs=1e-9)
        if i != 1:
            paired = stats.ttest_1samp(difference, 0.0).statistic
            assert candidate.difference_standard_error is not None
            assert candidate.difference / candidate.difference_standard_error == pytest.approx(
                paired
            )
    assert chosen.best.arguments == {"scale": 1.0}
    assert [each.rank for each in chosen.candidates] == [2, 1, 3] or chosen.candidates[2].rank == 2


def test_no_fit_sees_its_fold(fitted: list[dict[str, Any]]) -> None:
    """Each observation is held out once, and stands in every other fit, to fit to or to stop by.

    Fails when the fold is not left out, and when the data set apart are lost.
    """
    x = torch.arange(50.0)[:, None].expand(50, 3).contiguous()
    chosen = select(_flat, x, {"scale": [1.0, 2.0]}, folds=5, validation=0.2, epochs=7)
    assert sorted(np.bincount(chosen.fold)) == [10] * 5
    assert (np.diff(chosen.fold) < 0).any(), "data are shuffled"
    for i, asked in enumerate(fitted):
        assert (asked["epochs"], asked["compile"], asked["seed"]) == (7, False, 0)
        train, inner = set(asked["data"][:, 0].tolist()), set(asked["validation"][:, 0].tolist())
        assert (len(train), len(inner)) == (32, 8)
        assert train | inner == set(np.flatnonzero(chosen.fold != i % 5).tolist())
    folds = select(_flat, x, {"scale": [1.0, 2.0]}, folds=5, seed=1).fold
    assert (folds != chosen.fold).any()
    select(_flat, x, {"scale": [1.0, 2.0]}, folds=2, validation=0.0)
    assert "validation" not in fitted[-1]


def test_stochastic_data_are_scored_on_one_draw(fitted: list[dict[str, Any]]) -> None:
    """Fits draw for themselves; test data are never there. Fails when a fit gets drawn data."""
    grey = torch.rand(60, 3)
    data = pv.data.load(grey, binarize="stochastic", validation=0.2, test=0.25)

    def build(dim: int) -> tuple[pv.VAE, dict[str, Any]]:
        parts = pv.priors.Normal(dim), pv.guides.Normal(dim), pv.likelihoods.Bernoulli((3,))
        return pv.VAE(*parts, decoder=pv.networks.MLP(hidden=(2,))), {"lr": 0.1 * dim}

    chosen = select(build, data, {"dim": [1, 2]}, folds=3, lr=5.0)
    assert len(chosen.fold) == len(data.train) + len(data.validation) < 60
    assert [asked["lr"] for asked in fitted] == [0.1] * 3 + [0.2] * 3, "the setting's own wins"
    for asked in fitted:
        train: Tensor = asked["data"].train
        assert asked["data"].binarize == "stochastic"
        assert ((train > 0) & (train < 1)).any(), "grey values, to draw from"
        assert set(asked["data"].validation.unique().tolist()) <= {0.0, 1.0}
        assert len(asked["data"].test) == 0
    assert chosen.base_measure["binarize"] == "stochastic"
    assert chosen.base_measure["split"] == "train and validation, held out in turn"
    assert chosen.base_measure["measure"] == "counting"


def test_the_error_over_folds_is_that_of_their_means() -> None:
    values = np.random.default_rng(0).normal(size=60)
    fold = np.tile(np.arange(5), 12)
    means = [values[fold == k].mean() for k in range(5)]
    assert fold_error(values, fold) == pytest.approx(stats.sem(means))


def test_the_error_over_folds_covers_what_fits_add() -> None:
    """Data of a fold share an error: intervals over folds hold the truth, those over data do not.

    Fails when data are taken for independent.
    """
    rng, repetitions, held, naive = np.random.default_rng(3), 600, 0, 0
    fold = np.repeat(np.arange(5), 40)
    for _ in range(repetitions):
        values = rng.normal(size=200) + rng.normal(0, 0.3, size=5)[fold]
        held += abs(values.mean()) < stats.t.ppf(0.975, 4) * fold_error(values, fold)
        naive += abs(values.mean()) < stats.t.ppf(0.975, 199) * stats.sem(values)
    assert abs(held / repetitions - 0.95) < 3 * math.sqrt(0.95 * 0.05 / repetitions)
    assert naive / repetitions < 0.8


def _candidate(dim: int, rank: int, difference: float, error: float, size: int) -> Candidate:
    return Candidate(
        arguments={"dim": dim},
        rank=rank,
        log_marginal=-80 + difference,
        standard_error=1.0,
        mcse=None,
        difference=difference,
        difference_standard_error=error / 2,
        difference_fold_error=error,
        seed_means=(-80 + difference,),
        spread=None,
        num_parameters=size,
        k_hat_above_threshold=None,
    )


def _selection(*candidates: Candidate) -> Selection:
    return Selection(
        candidates=candidates,
        log_marginal=np.zeros((len(candidates), 1, 4)),
        fold=np.array([0, 0, 1, 1]),
        num_samples=10,
        seconds=1.0,
        base_measure={"data": "digits"},
    )


def test_the_smallest_model_within_one_error_is_chosen() -> None:
    """Fails when the smallest of all is taken, or the error over data where that is smaller."""
    far, near, best, large = (
        _candidate(2, 4, -3.0, 1.0, 100),
        _candidate(4, 2, -0.8, 1.0, 200),
        _candidate(8, 1, 0.0, 0.0, 300),
        _candidate(16, 3, -0.9, 1.0, 400),
    )
    assert _selection(far, near, best, large).chosen is near
    assert _selection(far, near, best, large).best is best
    assert _selection(far, dataclasses.replace(near, difference=-1.1), best).chosen is best
    same = dataclasses.replace(large, num_parameters=300)
    assert _selection(same, best).chosen is best, "of equal sizes the better one"


def test_the_summary_is_plain_json() -> None:
    chosen = _selection(_candidate(8, 1, 0.0, 0.0, 300), _candidate(2, 2, -3.0, 1.0, 100))
    summary = chosen.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["folds"], summary["seeds"], summary["size"]) == (2, 1, 4)
    assert summary["best"] == summary["chosen"] == {"dim": 8}
    assert "2. dim 2  log p(x) -83.00, difference -3.00 ± 1" in repr(chosen)


def test_fits_are_real_and_reproducible() -> None:
    """Ten epochs explain data that spread along one axis better than one epoch does.

    Fails when models are not fitted, or a setting's own options do not reach its fits.
    """
    torch.manual_seed(5)
    x = 4.0 * torch.randn(48, 1) * torch.tensor([1.0, -1.0, 1.0]) + 0.5 * torch.randn(48, 3)

    def build(epochs: int) -> tuple[pv.VAE, dict[str, Any]]:
        networks = pv.networks.MLP(hidden=(16,)), nn.Linear(1, 3)
        likelihood = pv.likelihoods.Normal((3,), scale=1.0)
        vae = pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), likelihood, *networks)
        return vae, {"epochs": epochs}

    options: dict[str, Any] = {"folds": 2, "batch_size": 12, "lr": 0.05}
    calls: list[tuple[int, int, str]] = []
    grid = {"epochs": [1, 10]}
    chosen = select(build, x, grid, on_fit=lambda *progress: calls.append(progress), **options)
    worse, better = chosen.candidates
    assert better.rank == 1
    assert worse.difference < -3 * worse.difference_fold_error
    assert calls[:2] == [(0, 4, "epochs 1: fold 1, seed 0"), (1, 4, "epochs 1: fold 2, seed 0")]
    assert calls[-1] == (4, 4, "")
    again = select(build, x, [{"epochs": 1}, {"epochs": 2}], **options)
    np.testing.assert_array_equal(again.log_marginal[0], chosen.log_marginal[0])


def _by_likelihood(likelihood: str) -> pv.VAE:
    likelihoods: dict[str, Any] = {
        "Poisson": pv.likelihoods.Poisson,
        "Normal": pv.likelihoods.Normal,
    }
    return pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), likelihoods[likelihood]((3,)))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"grid": {"scale": [1.0]}}, "`grid`: expected at least two settings to choose from"),
        ({"grid": {}}, "`grid`: expected at least one argument and its values"),
        ({"grid": {"scale": 1.0}}, "`grid['scale']`: expected a list of values, got 1.0"),
        ({"grid": {"scale": "12"}}, "`grid['scale']`: expected a list of values, got '12'"),
        ({"grid": {"scale": [1.0, -1.0]}}, "got -1.0"),
        ({"folds": 1}, "`folds`: expected an integer from 2 to 12, got 1"),
        ({"folds": 13}, "`folds`: expected an integer from 2 to 12, got 13"),
        ({"seeds": 0}, "`seeds`: expected a positive integer, got 0"),
        ({"num_samples": 0}, "`num_samples`: expected a positive integer, got 0"),
        ({"validation": 1.0}, "`validation`: expected a fraction in [0, 1), got 1.0"),
        ({"data": 3}, "`data`: expected a Dataset, a tensor or an array, got 3"),
        ({"build": lambda scale: scale}, "`build`: expected a function that returns a VAE, got"),
        (
            {"build": _by_likelihood, "grid": {"likelihood": ["Poisson", "Normal"]}},
            "`grid`: expected one base measure for all, got 'likelihood Poisson' with measure "
            "counting",
        ),
    ],
)
def test_a_mistake_is_one_line(
    changed: dict[str, Any], words: str, fitted: list[dict[str, Any]]
) -> None:
    """Whatever the grid holds is reported before anything is fitted."""
    given = {"build": _flat, "data": torch.ones(12, 3), "grid": {"scale": [1.0, 2.0]}} | changed
    with pytest.raises(ValueError, match="expected") as mistake:
        select(given.pop("build"), given.pop("data"), given.pop("grid"), **given)
    assert words in str(mistake.value)
    assert "\n" not in str(mistake.value)
    assert fitted == []


def test_combinations_are_all_of_them() -> None:
    grid = {"a": [1, 2], "b": ["x", "y", "z"]}
    assert [tuple(each.values()) for each in combinations(grid)] == [
        (a, b) for a in (1, 2) for b in "xyz"
    ]


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_setting_that_diverges_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails when one that is not finite takes the others with it, or is among the candidates."""
    x = torch.randn(20, 3)
    tried: list[float] = []

    def build(lr: float) -> tuple[pv.VAE, dict[str, Any]]:
        likelihood = pv.likelihoods.Normal((3,))
        return pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), likelihood), {"lr": lr}

    def fit(vae: pv.VAE, data: Tensor, **options: Any) -> pv.Run:
        tried.append(options["lr"])
        return pv.fit(vae, data, **options)

    monkeypatch.setattr(module, "fit", fit)
    known: dict[str, Any] = {"folds": 2, "num_samples": 10, "epochs": 5, "validation": 0}
    chosen = select(build, x, {"lr": [1e-3, 1e20, 2e-3]}, device="cpu", **known)
    assert [each.arguments["lr"] for each in chosen.candidates] == [1e-3, 2e-3]
    assert sorted(each.rank for each in chosen.candidates) == [1, 2]
    assert chosen.log_marginal.shape == (2, 1, 20)
    assert np.isfinite(chosen.log_marginal).all()
    assert tried == [1e-3, 1e-3, 1e20, 2e-3, 2e-3], "one fold is enough"
    (failed,) = chosen.failed
    assert failed.label == "lr 1e+20"
    assert failed.reason.startswith("fold 1, epoch ")
    summary = json.loads(json.dumps(chosen.summary(), allow_nan=False))
    assert summary["failed"] == [{"arguments": {"lr": 1e20}, "reason": failed.reason}]
    assert f"failed: lr 1e+20: {failed.reason}" in repr(chosen)
    message = (
        "^every setting failed: lr 1e\\+20: fold 1, epoch .*; lr 1e\\+25: fold 1, epoch [^\n]*$"
    )
    with pytest.raises(FloatingPointError, match=message):
        select(build, x, {"lr": [1e20, 1e25]}, device="cpu", **known)


def test_scores_that_are_not_finite_are_a_failure(
    fitted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outlier of density 0 under one setting. Fails when that is ranked."""

    def evaluate(vae: pv.VAE, x: Tensor, **options: Any) -> pv.Scores:
        scores = pv.evaluate(vae, x, **options)
        if vae.likelihood.spec()["args"]["scale"] == 1.0:
            scores.log_marginal[0] = -math.inf
        return scores

    monkeypatch.setattr(module, "evaluate", evaluate)
    x = torch.randn(20, 3)
    chosen = select(_flat, x, {"scale": [1.0, 2.0]}, folds=2, num_samples=10)
    assert [each.arguments for each in chosen.candidates] == [{"scale": 2.0}]
    assert chosen.failed[0].reason == "fold 1, held-out log p(x) is not finite"
    assert len(fitted) == 3


def test_an_option_that_is_wrong_is_found_before_anything_is_fitted(
    fitted: list[dict[str, Any]],
) -> None:
    """Fails when the second setting is looked at after the fits of the first."""

    def build(lr: float) -> tuple[pv.VAE, dict[str, Any]]:
        return _flat(), {"lr": lr}

    with pytest.raises(ValueError, match="`lr`: expected a positive number below 1e30, got -1.0"):
        select(build, torch.randn(8, 3), {"lr": [0.1, -1.0]}, folds=2)
    assert fitted == []


def test_each_fit_has_the_whole_warm_up(fitted: list[dict[str, Any]]) -> None:
    """Of one objective that ``build`` gives to all, which scales with a scale of the model."""
    objective = pv.objectives.ELBO(warmup=5)
    made: list[pv.VAE] = []

    def build(scale: float) -> tuple[pv.VAE, dict[str, Any]]:
        made.append(_flat(scale))
        objective.of_model = made[-1].decoder  # type: ignore[attr-defined]
        return made[-1], {"objective": objective}

    select(build, torch.randn(8, 3), {"scale": [1.0, 2.0]}, folds=2, num_samples=10)
    assert len({id(each["objective"]) for each in fitted} | {id(objective)}) == 5
    assert [each["objective"].of_model for each in fitted] == [vae.decoder for vae in made[2:]]
