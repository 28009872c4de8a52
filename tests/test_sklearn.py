"""The estimators as scikit-learn's users expect them, and against what is known in closed form."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pyro_vae as pv
from pyro_vae.sklearn import VAEDensity, VAEImputer, VAETransformer

DIM, LATENT = 6, 2
_FEW: dict[str, Any] = {"latent_dim": LATENT, "hidden": (8,), "epochs": 2, "random_state": 0}
_LINEAR: dict[str, Any] = {
    "latent_dim": LATENT,
    "hidden": (),
    "epochs": 40,
    "learning_rate": 2e-2,
    "patience": None,
    "random_state": 0,
}
_UNITS = 10.0 ** np.linspace(-3, 3, DIM)


def _known() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a table of two factors, whose columns have units of their own."""
    rng = np.random.default_rng(0)
    W, noise = rng.normal(size=(DIM, LATENT)), rng.uniform(0.3, 1.0, DIM)
    covariance = W @ W.T + np.diag(noise**2)
    return rng.normal(size=DIM) * _UNITS, covariance * np.outer(_UNITS, _UNITS)


def _table(size: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).multivariate_normal(*_known(), size=size)


def _holes(X: np.ndarray, seed: int = 3, share: float = 0.3) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(X.shape) < share, np.nan, X)


def _fitted(name: str, **options: Any) -> Any:
    """One of the estimators, fitted in a moment to a table, of which the imputer sees a part."""
    few = _FEW | ({} if name == "transformer" else {"num_samples": 10}) | options
    if name == "density":
        return VAEDensity(**few).fit(_table(60))
    return (VAETransformer if name == "transformer" else VAEImputer)(**few).fit(
        _holes(_table(60)) if name == "imputer" else _table(60)
    )


def _of(estimator: Any, X: Any) -> np.ndarray:
    return estimator.score_samples(X) if hasattr(estimator, "score") else estimator.transform(X)


def _rows(name: str, size: int = 30) -> np.ndarray:
    X = _table(size, seed=2)
    return _holes(X) if name == "imputer" else X


EACH = pytest.mark.parametrize("name", ["density", "transformer", "imputer"])


# Closed forms


def test_the_density_is_that_of_factor_analysis() -> None:
    """Linear networks and a scale for each column are that model, fitted to 9 rows of 10.

    The mean over 300 held-out rows is within 0.02 nats and 4 standard errors of the difference.
    """
    train, test = _table(1000), _table(300, seed=2)
    spread = train.std(0)
    exact = FactorAnalysis(LATENT).fit(train / spread).score_samples(test / spread)
    exact -= np.log(spread).sum()
    found = VAEDensity(**_LINEAR, num_samples=50).fit(train).score_samples(test)
    difference = found - exact
    assert abs(difference.mean()) < 0.02 + 4 * difference.std() / len(test) ** 0.5


def test_the_density_in_a_pipeline_is_that_of_probabilistic_pca() -> None:
    """The same with one scale for all columns, which is its model where they are standardised."""
    train, test = _table(1000), _table(300, seed=2)
    exact = make_pipeline(StandardScaler(), PCA(LATENT)).fit(train)
    shared = {"class": "Normal", "scale": "shared"}
    density = VAEDensity(**_LINEAR, likelihood=shared, num_samples=50)
    model = make_pipeline(StandardScaler(), density).fit(train)
    difference = model.score_samples(test) - exact.score_samples(test)
    assert abs(difference.mean()) < 0.02 + 4 * difference.std() / len(test) ** 0.5
    assert model.score(test[:50]) == model.score_samples(test[:50]).mean()


def test_imputations_are_conditional_means() -> None:
    """Within 0.02 of the mean that the true parameters give, in squares of standard deviations.

    The column's own mean is off by 0.8, and the squared error of either to the truth is 0.4.
    """
    train, test = _table(1000), _table(200, seed=2)
    holes = _holes(test)
    mean, covariance = _known()
    exact = holes.copy()
    for row in exact:
        lost = np.isnan(row)
        gain = covariance[lost][:, ~lost] @ np.linalg.inv(covariance[~lost][:, ~lost])
        row[lost] = mean[lost] + gain @ (row[~lost] - mean[~lost])
    filled = VAEImputer(**_LINEAR, num_samples=100).fit(_holes(train, seed=4)).transform(holes)
    off = np.square((filled - exact) / np.sqrt(covariance.diagonal()))[np.isnan(holes)]
    assert off.mean() < 0.02
    assert np.array_equal(filled[~np.isnan(holes)], holes[~np.isnan(holes)])


def test_reconstructions_are_as_good_as_those_of_pca() -> None:
    """Squared errors of standardised columns, at most 5 % more; latent dimensions are the same."""
    X = StandardScaler().fit_transform(_table(1000))
    pca = PCA(LATENT).fit(X)
    least = np.square(pca.inverse_transform(pca.transform(X)) - X).mean()
    shared = {"class": "Normal", "scale": 0.1}  # so sure of z that it is no shrunken estimate
    transformer = VAETransformer(**_LINEAR, likelihood=shared)
    z = transformer.fit_transform(X)
    assert np.square(transformer.inverse_transform(z) - X).mean() < 1.05 * least
    # One is a linear map of the other.
    left = np.linalg.lstsq(pca.transform(X), z - z.mean(0))[1] / np.square(z - z.mean(0)).sum(0)
    assert left.max() < 0.02


# What a row depends on


@EACH
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_row_does_not_depend_on_those_beside_it(name: str, dtype: type) -> None:
    """Bit for bit where z is drawn; else, in products of matrices, to the last digits or so."""
    X = _rows(name).astype(dtype)
    few = {"num_samples": 10} if name != "transformer" else {}
    kinds: dict[str, Any] = {"density": VAEDensity, "imputer": VAEImputer}
    estimator = kinds.get(name, VAETransformer)(**_FEW | few).fit(X)
    together = _of(estimator, X)
    order = np.random.default_rng(0).permutation(len(X))
    others = [_of(estimator, X[order])[np.argsort(order)]]
    others += [np.concatenate([_of(estimator, row) for row in np.split(X, len(X))])]
    others += [_of(estimator, np.concatenate([X, X]))[len(X) :]]
    for other in others:
        if name == "transformer":
            np.testing.assert_allclose(other, together, rtol=0, atol=20 * np.finfo(dtype).eps)
        else:
            assert np.array_equal(other, together)


def test_rows_have_errors_of_their_own() -> None:
    """Of 50 nearly equal rows, estimates by one draw each differ: one seed for all fails."""
    density = VAEDensity(**_FEW | {"num_samples": 1}).fit(_table(60))
    rows = _table(1) + 1e-9 * _UNITS * np.arange(50)[:, None]
    assert density.score_samples(rows).std() > 0.1
    assert density.score_samples(np.repeat(rows[:1], 5, 0)).std() == 0
    zeros = np.zeros((1, DIM))
    assert np.array_equal(density.score_samples(zeros), density.score_samples(-zeros))


@EACH
def test_random_state_makes_all_repeatable(name: str) -> None:
    """And whoever seeds NumPy, Python and torch keeps their generators as they were."""
    X, states = _rows(name), (torch.get_rng_state(), np.random.get_state()[1].copy())
    one, again = _fitted(name), _fitted(name)
    assert np.array_equal(_of(one, X), _of(again, X))
    assert np.array_equal(_of(one, X), _of(one, X))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert not np.array_equal(_of(one, X), _of(_fitted(name, random_state=1), X))
    state = np.random.RandomState(0)
    first, second = (_fitted(name, random_state=state) for _ in range(2))
    assert not np.array_equal(_of(first, X), _of(second, X))
    assert np.array_equal(
        _of(first, X), _of(_fitted(name, random_state=np.random.RandomState(0)), X)
    )


def test_samples_are_repeatable_and_of_the_model() -> None:
    """Their means are within 5 standard errors of the data's: fails when z alone is drawn."""
    density = VAEDensity(**_LINEAR).fit(_table(1000))
    draws = density.sample(2000, random_state=0)
    assert np.array_equal(draws, density.sample(2000, random_state=0))
    assert not np.array_equal(draws, density.sample(2000, random_state=1))
    mean, covariance = _known()
    error = np.sqrt(covariance.diagonal() * (1 / 1000 + 1 / 2000))
    assert (np.abs(draws.mean(0) - mean) / error).max() < 5
    np.testing.assert_allclose(draws.std(0), np.sqrt(covariance.diagonal()), rtol=0.15)


# Pipelines, searches, copies, files


def test_a_grid_search_finds_the_number_of_factors() -> None:
    """One is too few for two factors: fails when the score is a loss."""
    X = _table(300)
    options = _LINEAR | {"epochs": 15, "num_samples": 50}
    grid = {"vaedensity__latent_dim": [1, 2]}
    model = make_pipeline(StandardScaler(), VAEDensity(**options))
    search = GridSearchCV(model, grid, cv=2).fit(X)
    assert search.best_params_ == {"vaedensity__latent_dim": 2}
    assert search.best_estimator_[-1].vae_.prior.event_shape == (2,)


@EACH
def test_a_copy_does_as_the_original(name: str, tmp_path: Path) -> None:
    estimator, X = _fitted(name), _rows(name)
    path = tmp_path / "estimator.joblib"
    joblib.dump(estimator, path)
    for copy in (pickle.loads(pickle.dumps(estimator)), joblib.load(path)):
        assert np.array_equal(_of(copy, X), _of(estimator, X))
    fresh = clone(estimator)
    with pytest.raises(NotFittedError):
        _of(fresh, X)
    assert fresh.get_params() == estimator.get_params()


def test_parts_that_are_given_stay_as_they_are() -> None:
    """Fails when a fit trains the very prior that it was given, which a search would go on with."""
    prior = pv.priors.Mixture(LATENT, components=3)
    objective = pv.objectives.TotalCorrelation()
    before = [each.clone() for each in prior.parameters()]
    density = VAEDensity(**_FEW, prior=prior, objective=objective, num_samples=5)
    density.fit(_table(50))
    clone(density).fit(_table(50))
    assert density.prior is prior
    assert objective.num_data is None
    for old, new in zip(before, prior.parameters(), strict=True):
        assert torch.equal(old, new)
    fitted = density.vae_.prior
    assert type(fitted) is pv.priors.Mixture
    assert any(
        not torch.equal(o, n.float()) for o, n in zip(before, fitted.parameters(), strict=True)
    )


def test_parts_go_by_name() -> None:
    options = {"prior": {"class": "Mixture", "components": 3}, "guide": "FullNormal"}
    vae = VAEDensity(**_FEW, **options, likelihood="StudentT").fit(_table(50)).vae_
    parts = (vae.prior, vae.guide_family, vae.likelihood)
    assert [type(each).__name__ for each in parts] == ["Mixture", "FullNormal", "StudentT"]
    discrete = {
        "prior": {"class": "Categorical", "groups": 2, "classes": 3},
        "guide": {"class": "GumbelSoftmax", "groups": 2, "classes": 3},
    }
    transformer = VAETransformer(**_FEW, **discrete)
    z = transformer.fit_transform(_table(50))
    assert z.shape == (50, 6)
    np.testing.assert_allclose(z[:, :3].sum(1), 1.0)
    assert transformer.inverse_transform(z).shape == (50, DIM)


# Data


@EACH
def test_data_frames_go_in_and_come_out(name: str) -> None:
    columns = [f"column {i}" for i in range(DIM)]
    X = pd.DataFrame(_rows(name), columns=columns, index=range(100, 130))
    estimator = clone(_fitted(name)).fit(X)
    assert list(estimator.feature_names_in_) == columns
    assert estimator.n_features_in_ == DIM
    with pytest.raises(ValueError, match="feature names should match"):
        _of(estimator, X.rename(columns={"column 0": "another"}))
    if name == "density":
        assert estimator.score_samples(X).shape == (30,)
        return
    out = estimator.set_output(transform="pandas").transform(X)
    assert isinstance(out, pd.DataFrame)
    assert list(out.index) == list(X.index)
    wanted = columns if name == "imputer" else ["vaetransformer0", "vaetransformer1"]
    assert list(out.columns) == list(estimator.get_feature_names_out()) == wanted
    assert not out.isna().any(axis=None)
    if name == "transformer":
        assert estimator.inverse_transform(out).shape == X.shape


@EACH
def test_polars_go_in_and_come_out(name: str) -> None:
    pl = pytest.importorskip("polars")
    X = _rows(name)
    frame = pl.DataFrame({f"column {i}": X[:, i] for i in range(DIM)})
    estimator, scaler = clone(_fitted(name)).fit(frame), StandardScaler().fit(frame)
    # Which scikit-learn 1.6 does not see in a frame of polars 2.
    names = getattr(scaler, "feature_names_in_", None)
    assert np.array_equal(getattr(estimator, "feature_names_in_", None), names)
    if name != "density":
        out = estimator.set_output(transform="polars").transform(frame)
        assert isinstance(out, pl.DataFrame)
        assert out.columns == list(estimator.get_feature_names_out())


@EACH
def test_what_is_not_taken_is_refused(name: str) -> None:
    estimator, X = clone(_fitted(name)), _rows(name)
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        estimator.fit(csr_matrix(_table(20)))
    with pytest.raises(TypeError, match="sample_weight"):
        estimator.fit(X, sample_weight=np.ones(len(X)))
    with pytest.raises(ValueError, match="a minimum of 2 is required"):
        estimator.fit(X[:1])
    with pytest.raises(ValueError, match="infinity"):
        estimator.fit(np.where(np.eye(30, DIM) == 1, np.inf, _table(30)))
    if name != "imputer":
        with pytest.raises(ValueError, match="NaN"):
            estimator.fit(_holes(X))
    with pytest.raises(ValueError, match="features"):
        _of(_fitted(name), X[:, 1:])


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("latent_dim", 0, "`latent_dim`: expected a positive integer, got 0"),
        ("hidden", 64, "`hidden`: expected a sequence of widths"),
        ("hidden", (0,), "`hidden`: expected positive widths"),
        ("likelihood", "Norml", "`likelihood`: .*did you mean 'Normal'"),
        ("likelihood", {"class": "Normal", "scle": 1}, "`likelihood`: expected options of Normal"),
        ("prior", "Nrmal", "`prior`: .*did you mean 'Normal'"),
        ("prior", "Prior", "`prior`: .*expected one of"),
        ("guide", 3, "`guide`: expected a Guide, got 3"),
        ("guide", "Hyperspherical", "`guide`: expected a distribution on the same space"),
        ("objective", "ELB", "`objective`: .*did you mean 'ELBO'"),
        ("objective", 3, "`objective`: expected an objective"),
        ("epochs", 0, "`epochs`: expected a positive integer"),
        ("batch_size", 0.5, "`batch_size`: expected a positive integer"),
        ("learning_rate", -1, "`learning_rate`: expected a positive number"),
        ("learning_rate", np.inf, "`learning_rate`: expected a positive number"),
        ("validation_fraction", 1.0, "`validation_fraction`: expected a number from 0 to less"),
        ("patience", 0, "`patience`: expected a positive integer"),
        ("num_samples", 0, "`num_samples`: expected a positive integer"),
        ("compile", "always", "`compile`: expected one of True"),
        ("device", "gpu", "`device`: expected one of this machine"),
    ],
)
def test_a_wrong_argument_is_one_clear_line(option: str, value: Any, said: str) -> None:
    X = _table(20)
    with pytest.raises(ValueError, match=f"^{said}") as error:
        VAEDensity(**_FEW | {option: value}).fit(X).score_samples(X)
    assert "\n" not in str(error.value)


def test_latents_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="`X`: expected latent variables of 2 columns"):
        _fitted("transformer").inverse_transform(np.ones((3, 5)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_precision_is_that_of_the_data(dtype: type) -> None:
    """A column of dates in seconds needs float64: neighbouring days are one number in float32."""
    X = _table(60).astype(dtype)
    transformer = VAETransformer(**_FEW).fit(X)
    z = transformer.transform(X)
    assert z.dtype == transformer.inverse_transform(z).dtype == dtype
    assert next(transformer.vae_.parameters()).dtype == getattr(torch, np.dtype(dtype).name)
    density = VAEDensity(**_FEW, num_samples=5).fit(X)
    assert density.sample(2).dtype == dtype
    assert density.score_samples(X).dtype == np.float64


# What is missing


def test_columns_that_nobody_observed() -> None:
    """Left out with a warning, or kept and filled by 0, as SimpleImputer does."""
    X = _holes(_table(40))
    X[:, 2] = np.nan
    options = _FEW | {"num_samples": 5}
    with pytest.warns(UserWarning, match="without any observed value are left out: x2;"):
        imputer = VAEImputer(**options).fit(X)
    filled = imputer.transform(X)
    assert filled.shape == (40, DIM - 1)
    assert list(imputer.get_feature_names_out()) == ["x0", "x1", "x3", "x4", "x5"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = VAEImputer(**options, keep_empty_features=True).fit(X)
    X[0, 2] = 7.0
    whole = kept.transform(X)
    assert np.array_equal(np.delete(whole, 2, 1), filled)
    assert whole[:, 2].tolist() == [7.0] + [0.0] * 39
    assert list(kept.get_feature_names_out()) == [f"x{i}" for i in range(DIM)]
    with pytest.raises(ValueError, match="`X`: expected at least one entry that is observed"):
        VAEImputer(**options).fit(np.full((5, 2), np.nan))


def test_what_is_imputed_is_a_value_of_its_column() -> None:
    """Counts, levels and classes: fails when the mean is filled in. A row may lack everything."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 1))
    counts, flags = rng.poisson(np.exp(1 + 0.3 * z)), (z + rng.normal(size=(300, 1)) > 0)
    classes = np.where(z > 0.5, 0, np.where(z < -0.5, 2, 1))
    X = np.concatenate([z + 0.1 * rng.normal(size=(300, 1)), counts, flags, classes], 1)
    columns = ["Normal", "Poisson", "Bernoulli", {"class": "Categorical", "levels": 3}]
    likelihood = {"class": "Mixed", "columns": columns}
    holes = _holes(X)
    holes[0] = np.nan
    options = _LINEAR | {"latent_dim": 1, "hidden": (16,), "num_samples": 20}
    imputer = VAEImputer(**options, likelihood=likelihood).fit(holes)
    filled, lost = imputer.transform(holes), np.isnan(holes)
    assert np.isfinite(filled).all()
    assert np.array_equal(filled[:, 1:], filled[:, 1:].round())
    assert filled[:, 1:].min() >= 0
    assert set(filled[:, 2]) == {0, 1}
    assert set(filled[:, 3]) == {0, 1, 2}
    assert (filled[lost[:, 0], 0] % 1 != 0).all()
    # The most frequent class is right for 0.38 of the rows.
    right = filled[lost[:, 3], 3] == X[lost[:, 3], 3]
    assert right.mean() > 0.6
    few = rng.permutation(300)[:30]
    assert np.array_equal(imputer.transform(holes[few]), filled[few])


def test_auto_takes_what_suits_the_columns() -> None:
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.gamma(2.0, size=(60, 1)), rng.poisson(4.0, size=(60, 1))], 1)
    vae = VAEDensity(**_FEW, likelihood="auto").fit(X).vae_
    assert vae.likelihood.spec() == pv.likelihoods.suggest(X).build((2,)).spec()
    assert type(vae.likelihood) is pv.likelihoods.Mixed


# Fitting


def test_validation_rows_choose_the_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are held out, rounded up, and patience stops: fails when either goes nowhere."""
    X = np.random.default_rng(0).normal(size=(30, DIM))
    options = _FEW | {"hidden": (64,), "learning_rate": 0.05, "epochs": 200, "patience": 3}
    stopped = VAEDensity(**options, verbose=True).fit(X)
    assert stopped.n_iter_ == len(stopped.history_["validation_elbo"]) < 100
    said = capsys.readouterr().out.splitlines()
    assert len(said) == stopped.n_iter_
    assert said[0].startswith("[VAEDensity] epoch 1 of 200: loss ")
    options |= {"epochs": 8, "patience": 3}
    alone = VAEDensity(**options, validation_fraction=0).fit(X)
    assert alone.n_iter_ == 8
    assert "validation_elbo" not in alone.history_
    assert VAEDensity(**options).fit(X[:2]).n_iter_ > 0
    assert capsys.readouterr().out == ""


def test_objectives_are_minimised() -> None:
    """The imputer's own is MIWAE's; one that is chosen is taken."""
    X = _table(60)
    bound = VAEImputer(**_FEW).fit(X).history_["loss"]
    assert bound == VAEImputer(**_FEW, objective=pv.objectives.IWAE(20)).fit(X).history_["loss"]
    mapping = {"class": "IWAE", "num_samples": 20}
    alone = _FEW | {"validation_fraction": 0}
    assert bound == VAETransformer(**alone, objective=mapping).fit(X).history_["loss"]
    loss = VAEImputer(**_FEW, objective="ELBO").fit(X).history_["loss"]
    assert loss == VAEDensity(**alone).fit(X).history_["loss"] != bound
    with pytest.warns(UserWarning, match=r"`validation_fraction`: .* which IWAE does not maximise"):
        VAEDensity(**_FEW, objective="IWAE").fit(X)
