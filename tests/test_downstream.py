"""Anomalies and probes whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from linear import LinearGaussian
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.evaluation import anomalies, probe
from pyro_vae.evaluation.downstream import _auroc


def test_the_area_and_its_error() -> None:
    """Two normal distributions a distance apart, for which the area is known.

    Fails when the error is 1.3 times too small, or inliers and outliers change places.
    """
    generator = np.random.default_rng(0)
    exact = 0.5 * (1 + math.erf(1.0 / math.sqrt(2) / math.sqrt(2)))  # Phi(1 / sqrt 2)
    found = [_auroc(generator.normal(0, 1, 60), generator.normal(1, 1, 90)) for _ in range(300)]
    errors = np.array([(area - exact) / error for area, error in found])
    assert abs(errors.mean()) < 4 / math.sqrt(300)
    assert 0.88 < errors.std() < 1.16  # three standard errors, and a little skewness


def test_ties_are_half_a_win() -> None:
    """Fails when a tie is a win."""
    area, error = _auroc(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert area == pytest.approx((0.5 + 0.5 + 0 + 1 + 1 + 0.5 + 1 + 1 + 0.5) / 9)
    # The shares of inliers that outliers beat are 1/3, 5/6, 5/6, and those the other way round.
    assert error == pytest.approx(math.sqrt(2 * np.var([1 / 3, 5 / 6, 5 / 6], ddof=1) / 3))
    assert _auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == (1.0, 0.0)


def test_data_of_the_same_distribution_are_not_separated() -> None:
    """Fails when the reference is what the outliers are compared with."""
    model = LinearGaussian(dim=6, latent=2, noise=1.0)
    draws = [model.vae.sample(n) for n in (300, 200, 500)]
    found = anomalies(model.vae, draws[0], draws[1], reference=draws[2], num_samples=5)
    for name, area in found.auroc.items():
        assert abs(area - 0.5) < 3 * found.standard_error[name]
    assert found.standard_error["log_marginal"] == pytest.approx(0.026, abs=0.004)
    np.testing.assert_allclose(found.inliers, model.log_prob(draws[0]), atol=1e-3)
    np.testing.assert_allclose(found.outliers, model.log_prob(draws[1]), atol=1e-3)
    assert found.entropy == pytest.approx(-float(model.log_prob(draws[2]).mean()), abs=1e-3)


def test_data_at_the_mode_are_dense_and_not_typical() -> None:
    """The case that typicality is for. Fails when the absolute value is left out."""
    model = LinearGaussian(dim=64, latent=2)
    outliers = 0.2 * model.vae.sample(200)
    found = anomalies(
        model.vae, model.vae.sample(200), outliers, reference=model.vae.sample(200), num_samples=2
    )
    assert found.auroc["log_marginal"] < 0.01
    assert found.auroc["typicality"] > 0.95
    far = anomalies(
        model.vae, model.vae.sample(50), 3 * outliers / 0.2, reference=outliers, num_samples=2
    )
    assert far.auroc["log_marginal"] > 0.99
    summary = found.summary()
    assert summary["log_marginal_outliers"] > summary["log_marginal_inliers"]
    assert f"{found.auroc['typicality']:.3f}" in repr(found)


class _Identity(nn.Module):
    """The latent means are the data."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros_like(x)], -1)


def _transparent() -> pv.VAE:
    decoder = nn.Linear(2, 2)
    return pv.VAE(
        pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((2,)), _Identity(), decoder
    )


def test_separable_latents_are_classified() -> None:
    """Fails when the labels are those of other data."""
    x = torch.randn(60, 2)
    labels = (x[:, 0] > 0).long()
    x[:, 0] += 4 * (2 * labels - 1)
    found = probe(_transparent(), x, labels)
    assert found.accuracy["linear"] == found.accuracy["neighbours"] == 1
    assert found.method == "5-fold cross-validated"
    held_out = probe(_transparent(), x[:40], labels[:40], test=x[40:], test_labels=labels[40:])
    assert held_out.accuracy["linear"] == held_out.accuracy["neighbours"] == 1
    assert held_out.num_data == 20


def test_a_ring_is_for_neighbours_and_not_for_a_line() -> None:
    """Fails when the two accuracies change places."""
    x = torch.randn(400, 2)
    labels = (x.norm(dim=1) > 1.18).long()  # half of them
    found = probe(_transparent(), x, labels, neighbours=5)
    assert found.accuracy["neighbours"] > 0.9
    assert found.accuracy["linear"] < 0.65


def test_random_labels_are_not_predicted() -> None:
    """Accuracy on held-out data alone. Fails when a classifier is asked what it was fitted to."""
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.randn(1000, 2), torch.randint(4, (1000,), generator=generator)
    found = probe(_transparent(), x, labels, neighbours=1)
    for name in ("linear", "neighbours"):
        assert abs(found.accuracy[name] - 0.25) < 4 * found.standard_error[name]
    assert found.standard_error["linear"] == pytest.approx(0.0137, abs=1e-3)
    assert found.accuracy["majority"] == pytest.approx(labels.bincount().max().item() / 1000)


def test_two_normal_classes_have_the_bayes_accuracy() -> None:
    """Fails when draws of z stand in the place of its mean."""
    labels = torch.arange(2000) % 2
    x = torch.randn(2000, 2) + 2.0 * labels[:, None]
    found = probe(_transparent(), x[:1000], labels[:1000], test=x[1000:], test_labels=labels[1000:])
    exact = 0.5 * (1 + math.erf(math.sqrt(2) / math.sqrt(2)))  # Phi(sqrt 2)
    assert abs(found.accuracy["linear"] - exact) < 3 * found.standard_error["linear"]


def test_one_hot_latents_and_images() -> None:
    vae = pv.VAE(
        pv.priors.Categorical(2, 3),
        pv.guides.GumbelSoftmax(2, 3),
        pv.likelihoods.Bernoulli((1, 2, 2)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Unflatten(1, (2, 3))),
        nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Unflatten(1, (1, 2, 2))),
    )
    x = torch.bernoulli(torch.full((80, 1, 2, 2), 0.5))
    state = torch.get_rng_state()
    found = probe(vae, x, x[:, 0, 0, 0].long().numpy(), neighbours=3)
    assert torch.equal(state, torch.get_rng_state())
    assert found.accuracy["linear"] > 0.9  # logits are linear in x
    assert found.summary()["num_data"] == 80
    assert f"{found.accuracy['linear']:.3f}" in repr(found)
    assert anomalies(vae, x, x, reference=x, num_samples=5).auroc["log_marginal"] == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": None}, "`labels`: expected 6 integers, one for each observation, got None"),
        ({"labels": [0, 1]}, "`labels`: expected 6 integers"),
        ({"labels": np.ones(6)}, "`labels`: expected 6 integers"),
        ({"labels": np.ones(6, int)}, "`labels`: expected at least two different ones"),
        ({"folds": 1}, "`folds`: expected 2 to 3, the number of data of the rarest label, got 1"),
        ({"folds": 4}, "`folds`: expected 2 to 3, the number of data of the rarest label, got 4"),
        ({"folds": 2.5}, "`folds`: expected a positive integer, got 2.5"),
        ({"neighbours": 0}, "`neighbours`: expected a positive integer, got 0"),
        ({"neighbours": 10}, "`neighbours`: expected at most 4, the data there are, got 10"),
        ({"test": torch.ones(2, 2)}, "`test_labels`: expected labels for `test`"),
        ({"test_labels": [0]}, "`test_labels`: expected labels for `test`"),
        ({"test": torch.ones(2, 3), "test_labels": [0, 1]}, "`test`: expected a tensor of shape"),
        ({"x": torch.ones(6, 3)}, "`x`: expected a tensor of shape"),
        ({"seed": -1}, "`seed`: expected an integer >= 0"),
        ({"vae": 3}, "`vae`: expected a VAE, or a Program, got 3"),
    ],
)
def test_wrong_probes(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {
        "vae": _transparent(),
        "x": torch.randn(6, 2),
        "labels": [0, 1, 0, 1, 0, 1],
        "folds": 3,
        "neighbours": 2,
    } | options
    with pytest.raises(ValueError, match=words):
        probe(**given)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inliers": torch.ones(1, 2)}, "`inliers`: expected at least two data"),
        ({"outliers": torch.ones(1, 2)}, "`outliers`: expected at least two data"),
        ({"outliers": torch.ones(3, 4)}, "`outliers`: expected a tensor of shape"),
        (
            {"reference": torch.full((3, 2), math.nan)},
            "`reference`: expected values in",
        ),
        ({"num_samples": 0}, "`num_samples`: expected a positive integer, got 0"),
        ({"seed": True}, "`seed`: expected an integer >= 0"),
        ({"vae": "x"}, "`vae`: expected a VAE, or a Program, got 'x'"),
    ],
)
def test_wrong_anomalies(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {
        "vae": _transparent(),
        "inliers": torch.randn(4, 2),
        "outliers": torch.randn(4, 2),
        "reference": torch.randn(4, 2),
    } | options
    with pytest.raises(ValueError, match=words):
        anomalies(**given)
