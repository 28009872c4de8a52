"""What is exchangeable with what decides how a classifier is split, and whether it is judged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.criticism import Row, check, checks
from pyro_vae.criticism._replicates import at_one_draw
from pyro_vae.criticism.two_sample import TwoSample, _inflation, _interval, classify
from pyro_vae.data.rows import Rows

_MEAN = [lambda x: x.mean((-2, -1))]


def _model(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal((w + z).expand(-1, 2), 1.0).to_event(1), obs=x)


def _guide(x: Tensor) -> None:
    """Of no training data the posterior of w is its prior."""
    pyro.sample("w", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))


@pytest.fixture(scope="module")
def shared() -> pv.Program:
    torch.manual_seed(0)
    program = pv.Program(_model, _guide)
    program.initialize(torch.randn(20, 2))
    return program


def _of_classifier(found: pv.criticism.Checks) -> Row:
    return next(row for row in found.rows if row.statistic == "classifier")


@pytest.mark.long
def test_rows_that_share_a_draw_are_not_judged_by_a_classifier(shared: pv.Program) -> None:
    """The model is true. Fails, with a verdict of the classifier's alone, where it is judged."""
    areas = []
    for seed in range(3):
        found = check(shared, shared.sample(40, seed=100 + seed), seed=seed, statistics=_MEAN)
        row = _of_classifier(found)
        assert not row.calibrated
        assert "rows share a draw" in row.note
        assert found.num_failed == 0, found
        assert found.headline.startswith("rows share a draw, so that a classifier is shown and not")
        assert f"AUC {found.classifier.auc:.2f}" in found.headline
        assert found.unjudged == {"classifier": row.note}
        assert "classifier: not in the verdict, rows share a draw" in found._repr_html_()
        areas.append(found.classifier.auc)
    assert max(areas) > 0.8
    one = shared.fixed(1, seed=1)[0]
    found = check(one, one.sample(40), statistics=_MEAN)
    assert _of_classifier(found).calibrated
    assert found.headline.startswith("a classifier ")
    assert found.unjudged == {}


def test_a_data_set_has_one_draw_of_what_its_rows_share(
    shared: pv.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of ten rows. Fails, with means that differ by 3, where each has its own draw."""
    seen: list[Tensor] = []
    monkeypatch.setattr(checks, "draws_at_once", lambda *_: 10)
    classify = checks.classify

    def shown(x: Tensor, made: Tensor, **options: Any) -> TwoSample:
        seen.append(made)
        return classify(x, made, **options)

    monkeypatch.setattr(checks, "classify", shown)
    check(shared, shared.sample(40, seed=1), statistics=_MEAN)
    (made,) = seen
    means = made.reshape(8, 10, 2).mean((1, 2))
    assert means.std() < 3 * math.sqrt((1 + 0.5) / 10)  # thrice that of ten rows
    torch.manual_seed(0)
    assert not at_one_draw(shared).has_globals


@pytest.mark.long
def test_a_refit_is_checked_on_the_draw_that_it_was_fitted_to(
    shared: pv.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails, by several of w, where what is held out has a draw of its own."""
    fitted: list[float] = []
    held_out: list[float] = []
    judged = checks._judged

    def spy(vae: Any, data: Rows, *rest: Any) -> Any:
        held_out.append(data.x.mean().item())
        return judged(vae, data, *rest)

    def refit(rows: Rows, _: int) -> pv.Program:
        fitted.append(rows.x.mean().item())
        return shared

    monkeypatch.setattr(checks, "_judged", spy)
    x = shared.sample(40, seed=5)
    check(shared, x, statistics=_MEAN, refit=refit, refits=5)
    away = np.array(fitted) - np.array(held_out[1:])
    assert np.abs(away).max() < 4 * math.sqrt(2 * 1.5 / 40)
    assert np.std(fitted) > 1  # and each refit has its own


_TRIES = 40


def _conditioned(shift: float, seed: int) -> TwoSample:
    """Data and two replicates of each, given three columns of which the first is their mean."""
    generator = torch.Generator().manual_seed(seed)
    given, index = torch.randn(100, 3, generator=generator), torch.arange(200) % 100
    x = given[:, :1] + torch.randn(100, 4, generator=generator) + shift
    made = given[index, :1] + torch.randn(200, 4, generator=generator)
    both = torch.cat([x, given], 1), torch.cat([made, given[index]], 1)
    return classify(*both, seed=seed, groups=index)


def test_replicates_of_a_row_are_in_its_half() -> None:
    """The mean area of 40 true models, within three errors; 0.42 where halves are independent."""
    found = [_conditioned(0.0, seed) for seed in range(_TRIES)]
    areas = np.array([each.auc for each in found])
    assert abs(areas.mean() - 0.5) < 3 * areas.std() / math.sqrt(_TRIES)
    for each in found:
        assert {*(each.replicate_index % 100)} == {*each.index}
    rejected = sum(each.p_value < 0.05 for each in found)
    assert rejected <= 0.05 * _TRIES + 3 * math.sqrt(0.05 * 0.95 * _TRIES)


@pytest.mark.long
def test_places_change_within_groups_alone() -> None:
    """Against the variance over permutations; of Mann and Whitney it would be far larger.

    The score is the condition and a little noise: the area hardly varies.
    """

    class _First:
        def fit(self, *_: Any, **__: Any) -> None: ...

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            share = 1 / (1 + np.exp(-x[:, 0]))
            return np.stack([1 - share, share], 1)

    generator = torch.Generator().manual_seed(0)
    index = torch.arange(120) % 40
    given = 3 * torch.randn(40, generator=generator)
    values = given + torch.randn(4, 40, generator=generator)  # (member, group)
    tries = []
    for _ in range(400):
        place = torch.rand(4, 40, generator=generator).argsort(0)
        mixed = values.gather(0, place)
        found = classify(
            mixed[0][:, None],
            mixed[1:].reshape(-1, 1),
            groups=index,
            classifier=_First(),
        )
        tries.append((found.auc, found.high, found.p_value))
    areas, highs, p_values = np.array(tries).T
    assert areas.mean() == pytest.approx(0.5, abs=3 * areas.std() / 20)
    # A standard deviation of 400 draws errs by 3.5 %.
    assert (highs[0] - 0.5) / 1.96 == pytest.approx(areas.std(), rel=0.11)
    assert np.mean(p_values < 0.05) == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 400))


def test_a_shift_is_found_beside_conditions() -> None:
    """By 0.3 standard deviations, by trees of 50 rows: 13 of 40, and 1 where halves are free."""
    found = [_conditioned(0.3, seed).p_value < 0.05 for seed in range(_TRIES)]
    assert sum(found) >= 7


def test_groups_are_as_large_as_each_other() -> None:
    x, made = torch.randn(8, 2), torch.randn(16, 2)
    for groups in (torch.zeros(16, dtype=torch.long), torch.arange(16) % 9):
        with pytest.raises(ValueError, match="`groups`: expected equally many replicates of each"):
            classify(x, made, groups=groups)


@pytest.mark.long
def test_rows_that_are_given_something_are_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor | None] = []
    classify = checks.classify

    def shown(*both: Tensor, **options: Any) -> TwoSample:
        seen.append(options["groups"])
        return classify(*both, **options)

    monkeypatch.setattr(checks, "classify", shown)
    parts = pv.priors.Normal(1), pv.guides.Normal(1), pv.likelihoods.Normal((2,))
    vae = pv.VAE(*parts, cond_size=1)
    cond = torch.randn(30, 1)
    check(vae, vae.sample(30, cond=cond), cond=cond, statistics=_MEAN)
    plain = pv.VAE(*parts)
    check(plain, plain.sample(30), statistics=_MEAN)
    assert seen[1] is None
    assert seen[0] is not None
    assert torch.equal(seen[0], torch.arange(60) % 30)


@pytest.mark.parametrize(("features", "tried"), [(2, False), (4, True)])
def test_fewer_features_are_said_to_fail_where_they_were_tried(features: int, tried: bool) -> None:
    """A quarter of two is none. Fails, of two, where it is said without a try."""
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Normal((features,), scale=1e-6),
        nn.Linear(features, 4),
        nn.Linear(2, features),
    )
    rows = check(vae, vae.sample(40), statistics=_MEAN).rows
    notes = {row.note for row in rows if row.conditioned_on == "z ~ p(z|half of x)"}
    (note,) = notes
    assert ("and for fewer features than half of x, too" in note) is tried
    assert "effective draws" in note
    assert "the other checks stand" in note


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("alike", [0.0, 1.0, 3.0])
def test_the_interval_of_the_area_covers_where_rows_come_in_groups(
    alike: float, shift: float
) -> None:
    """An observation and its four replicates share a condition, of standard deviation ``alike``.

    Of 500 repetitions 95 % to within three binomial errors; rows taken for independent cover 99 %
    at 1, and all at 3.
    """
    rng, size, covered = np.random.default_rng(5), 60, 0
    group = np.concatenate([np.arange(size), np.repeat(np.arange(size), 4)])
    own = norm.cdf(shift / math.sqrt(2))
    true = own / size + norm.cdf(shift / math.sqrt(2 + 2 * alike**2)) * (1 - 1 / size)
    for _ in range(500):
        cond = alike * rng.normal(size=size)
        data = cond + rng.normal(size=size) + shift
        drawn = np.repeat(cond, 4) + rng.normal(size=4 * size)
        auc = float((data[:, None] > drawn).mean())
        low, high = _interval(auc, size, 4 * size, _inflation(data, drawn, group))
        covered += low <= true <= high
    assert abs(covered / 500 - 0.95) <= 3 * math.sqrt(0.95 * 0.05 / 500)


def test_an_area_of_one_in_groups_has_an_interval() -> None:
    """There the classifier is never wrong, and no variance can be estimated."""
    x = torch.arange(40.0)[:, None]
    found = classify(
        x + 1000, x.repeat_interleave(2, 0), groups=torch.arange(40).repeat_interleave(2)
    )
    assert found.auc == 1
    assert 0.8 < found.auc_low < found.auc_high < 1
