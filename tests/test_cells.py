"""The measures of ``experiments/cells.py``, against what is known exactly or by another hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vae as pv

sys.path.append(str(Path(__file__).parents[1] / "experiments"))  # scripts, which import each other

import cells
import cells_data


def _linear(scale_of_guide: float) -> tuple[cells.Posterior, torch.Tensor]:
    """The model z ~ N(0, 1), x ~ N(z, 1): its posterior is N(x / 2, 1 / 2), and x ~ N(0, 2)."""
    x = torch.linspace(-2, 2, 5)
    guide = torch.distributions.Normal(x / 2, scale_of_guide)
    posterior = cells.Posterior(
        x / 2,
        lambda count: guide.sample((count,)),
        lambda z: torch.distributions.Normal(z, 1.0).log_prob(x),
        torch.distributions.Normal(0.0, 1.0).log_prob,
        guide.log_prob,
    )
    return posterior, torch.distributions.Normal(0.0, 2**0.5).log_prob(x).double()


def test_the_exact_posterior_gives_log_p_from_any_number_of_draws() -> None:
    """Fails when a density is left out of the weights, or the number of draws."""
    posterior, exact = _linear(0.5**0.5)
    for draws in (1, 7):
        found, elbo = cells.log_marginal(posterior, draws, at_once=3)
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=0)
        torch.testing.assert_close(elbo, exact, atol=1e-5, rtol=0)


def test_another_guide_gives_log_p_too_and_a_bound_below() -> None:
    """Within 4 standard errors of 40,000 weights, of relative variance 0.155 each."""
    posterior, exact = _linear(1.0)
    torch.manual_seed(0)
    found, elbo = cells.log_marginal(posterior, 40_000, at_once=20_000)
    assert (found - exact).abs().max() < 4 * (0.155 / 40_000) ** 0.5
    # KL(N(m, 1) || N(m, 1/2)) = (2 - 1 - log 2) / 2; a log-weight has a variance of a half.
    gap = (1 - np.log(2)) / 2
    assert (exact - elbo - gap).abs().max() < 4 * (0.5 / 40_000) ** 0.5


def test_batches_are_mixed_as_much_as_neighbours_are() -> None:
    """Two equal batches: apart 1, alike nearly 2, which a share of 30 falls short of by 1/30."""
    random = np.random.default_rng(0)
    batch = np.repeat([0, 1], 400)
    z = random.normal(size=(800, 2))
    assert cells.mixing(z + 100 * batch[:, None], batch) == 1
    # E[1 / (p^2 + (1 - p)^2)] for p = B / 30, B binomial: 1.9390; sd of a cell 0.08, few
    # neighbourhoods of 800 cells being disjoint.
    assert cells.mixing(z, batch) == pytest.approx(1.9390, abs=4 * 0.08 / (800 / 31) ** 0.5)


@pytest.fixture(scope="module")
def simulated() -> cells_data.Cells:
    return cells_data.simulate(cells=1000, genes=150)


def test_simulated_cells_are_of_types_in_two_batches(simulated: cells_data.Cells) -> None:
    """Fails when splits overlap, or a batch says which type a cell is of."""
    rows = np.concatenate(list(simulated.rows.values()))
    assert sorted(rows) == list(range(1000))
    assert simulated.size[simulated.rows["train"]].mean() == pytest.approx(1.0, abs=1e-5)
    for batch in (0, 1):
        assert len(np.unique(simulated.types[simulated.batch == batch])) == 12
    variance, mean = simulated.counts.var(0), simulated.counts.mean(0)
    assert np.median(variance / mean) > 1.2  # more dispersed than Poisson variables
    again = cells_data.simulate(cells=1000, genes=150)
    np.testing.assert_array_equal(again.counts, simulated.counts)


@pytest.mark.long
def test_cells_are_fitted_scored_and_checked_by_size_and_batch(
    simulated: cells_data.Cells,
) -> None:
    """Scores of two estimators, within 4 standard errors. Fails when one ignores the batch."""
    ours, rows = cells.Ours(simulated), simulated.rows["test"][:40]
    vae, _ = ours.fit("equal", 0, epochs=8)
    torch.manual_seed(3)
    found, _ = cells.log_marginal(ours.posterior(vae, rows), 400)
    given = ours.given(rows)
    scores = pv.evaluate(vae, ours.x[rows], num_samples=400, seed=4, **given)
    error = (2 * np.square(scores.mcse).mean() / len(rows)) ** 0.5
    assert abs(found.numpy() - scores.log_marginal).mean() < 1.0
    assert found.mean() == pytest.approx(scores.log_marginal.mean(), abs=4 * error)
    other = given | {"cond": given["cond"].flip(1)}
    wrong = pv.evaluate(vae, ours.x[rows], num_samples=400, **other)
    assert abs(wrong.log_marginal.mean() - scores.log_marginal.mean()) > 8 * error
    checks = pv.criticism.check(vae, ours.x[rows], **given)
    assert {row.statistic for row in checks.rows} >= {"dispersion", "zeros", "totals"}
