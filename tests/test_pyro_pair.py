"""Any Pyro pair as a tree: draws of the guide, densities and replicates of the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import Tensor
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.criticism import from_pyro_svi, to_datatree


def _regression(x: Tensor, y: Tensor) -> Tensor:
    weight = pyro.sample("weight", dist.Normal(0.0, 2.0).expand([x.shape[1]]).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("person", len(x)):
        mean = pyro.deterministic("mean", x @ weight, event_dim=0)
        return pyro.sample("y", dist.Normal(mean, scale), obs=y)


def _regression_data(size: int = 50) -> tuple[Tensor, Tensor]:
    x = torch.randn(size, 3)
    return x, x @ torch.tensor([1.0, -2.0, 0.5]) + 0.3 * torch.randn(size)


@pytest.mark.long
def test_regression_with_an_autoguide() -> None:
    """Draws have the guide's mean and scale, 5 standard errors; groups, plates and labels.

    Fails when draws come from the prior, and when replicates are taken from the observed trace.
    """
    x, y = _regression_data()
    guide = AutoNormal(_regression)
    svi = SVI(_regression, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(150):
        svi.step(x, y)
    state = torch.get_rng_state()
    tree = from_pyro_svi(
        _regression,
        guide,
        (x,),
        {"y": y},
        num_draws=200,
        constant_data={"x": x},
        dims={"weight": ["covariate"], "x": ["person", "covariate"]},
        coords={"covariate": ["a", "b", "c"]},
    )
    assert torch.equal(state, torch.get_rng_state())
    loc, scale = guide.locs.weight.detach().numpy(), guide.scales.weight.detach().numpy()
    draws = tree["posterior"]["weight"].sel(chain=0).values
    assert (abs(draws.mean(0) - loc) < 5 * scale / 200**0.5).all()
    assert (abs(draws.std(0) / scale - 1) < 5 / 400**0.5).all()
    assert tree["posterior"]["weight"].dims == ("chain", "draw", "covariate")
    assert set(tree["posterior"].data_vars) == {"weight", "scale", "mean"}
    for group, name in (("posterior", "mean"), ("log_likelihood", "y"), ("prior_predictive", "y")):
        assert tree[group][name].dims == ("chain", "draw", "person")
    assert tree["constant_data"]["x"].sel(covariate="c").shape == (50,)
    np.testing.assert_array_equal(tree["observed_data"]["y"], y)

    replicated = tree["posterior_predictive"]["y"].values
    assert not (replicated == y.numpy()).any()
    assert (replicated[:, 1:] != replicated[:, :-1]).mean() > 0.99
    mean = tree["posterior"]["mean"].values
    noise = tree["posterior"]["scale"].values[..., None]
    standard = ((replicated - mean) / noise).ravel()
    assert abs(standard.mean()) < 5 / standard.size**0.5
    assert abs(standard.std() - 1) < 5 / (2 * standard.size) ** 0.5
    distribution = torch.distributions.Normal(torch.as_tensor(mean), torch.as_tensor(noise))
    np.testing.assert_allclose(
        tree["log_likelihood"]["y"], distribution.log_prob(y), rtol=1e-4, atol=1e-4
    )

    stats = tree["sample_stats"]
    assert stats["log_p"].dims == stats["log_q"].dims == ("chain", "draw")
    weights = torch.as_tensor(tree["posterior"]["weight"].values)
    scales = torch.as_tensor(tree["posterior"]["scale"].values)
    log_p = (
        torch.distributions.Normal(0.0, 2.0).log_prob(weights).sum(-1)
        + torch.distributions.LogNormal(0.0, 0.5).log_prob(scales)
        + torch.as_tensor(tree["log_likelihood"]["y"].values).sum(-1)
    )
    log_q = torch.distributions.Normal(
        guide.locs.weight.detach(), guide.scales.weight.detach()
    ).log_prob(weights).sum(-1) + torch.distributions.LogNormal(
        guide.locs.scale.detach(), guide.scales.scale.detach()
    ).log_prob(scales)
    np.testing.assert_allclose(stats["log_p"], log_p, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(stats["log_q"], log_q, rtol=1e-4, atol=1e-3)


def test_a_vae_is_what_to_datatree_makes_of_it() -> None:
    """The pair of a VAE, known here as programs alone: the same densities at the same z."""
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((1, 3, 2)))
    x = vae.sample(6)
    tree = from_pyro_svi(
        vae.model,
        vae.guide,
        (x,),
        num_draws=100,
        dims={"x": ["channel", "row", "column"], "z": ["latent"]},
    )
    ours = to_datatree(vae, x, num_draws=100)
    assert set(tree.children) == set(ours.children)
    for group in tree.children:
        assert dict(tree[group].sizes) == dict(ours[group].sizes)
        for name in tree[group].data_vars:
            assert tree[group][name].dims == ours[group][name].dims
            assert tree[group][name].dtype == ours[group][name].dtype
    z = torch.as_tensor(tree["posterior"]["z"].values[0])
    with torch.no_grad():
        log_p = vae.decode(z).log_prob(x) + vae.prior().log_prob(z)
        log_q = vae.encode(x).log_prob(z)
    np.testing.assert_allclose(tree["sample_stats"]["log_p"].values[0], log_p, rtol=1e-5)
    np.testing.assert_allclose(tree["sample_stats"]["log_q"].values[0], log_q, rtol=1e-4, atol=1e-4)
    means = [t["posterior_predictive"]["x"].mean(("chain", "draw")) for t in (tree, ours)]
    assert (abs(means[0] - means[1]) < 5 * (0.5 / 100) ** 0.5).all()


def test_two_observed_sites_and_a_guide_by_hand() -> None:
    """Counts and numbers share a latent in one of two plates; the other plate is on its left."""

    def model(counts: Tensor, y: Tensor) -> None:
        groups, people = y.shape
        with pyro.plate("person", people, dim=-1):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("counts", dist.Poisson(rate), obs=counts)
            with pyro.plate("group", groups, dim=-2):
                pyro.sample("y", dist.Normal(rate, 1.0), obs=y)
            pyro.factor("tilt", -0.1 * rate)

    def guide(counts: Tensor, y: Tensor) -> None:
        shape = pyro.param("shape", torch.tensor(4.0), constraint=constraints.positive)
        with pyro.plate("person", y.shape[1], dim=-1):
            pyro.sample("rate", dist.Gamma(shape, 2.0))

    counts, y = torch.poisson(torch.full((5,), 2.0)), torch.randn(3, 5)
    tree = from_pyro_svi(model, guide, (counts, y), num_draws=200, coords={"group": list("abc")})
    rate = tree["posterior"]["rate"]
    assert abs(rate.mean() - 2.0) < 5 / 1000**0.5  # Gamma(4, 2) has mean 2 and variance 1
    assert abs(tree["prior"]["rate"].mean() - 2.0) < 5 * (2 / 1000) ** 0.5
    assert tree["posterior_predictive"]["counts"].dtype == np.int64
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "group", "person")
    assert tree["log_likelihood"]["y"].sel(group="b").shape == (1, 200, 5)
    assert set(tree["posterior_predictive"].data_vars) == {"counts", "y"}
    assert set(tree["posterior"].data_vars) == set(tree["prior"].data_vars) == {"rate"}
    assert (tree["observed_data"]["counts"].values == counts.numpy()).all()
    # All sites are in plate `person`, so its elements are weighted each on its own.
    assert tree["sample_stats"]["log_p"].dims == ("chain", "draw", "person")
    r = torch.as_tensor(rate.values)
    log_p = (
        torch.distributions.Gamma(2.0, 1.0).log_prob(r).numpy()
        + tree["log_likelihood"]["counts"].values
        + tree["log_likelihood"]["y"].values.sum(-2)
        - 0.1 * rate.values
    )
    np.testing.assert_allclose(tree["sample_stats"]["log_p"], log_p, rtol=1e-4, atol=1e-4)
    log_q = torch.distributions.Gamma(4.0, 2.0).log_prob(r)
    np.testing.assert_allclose(tree["sample_stats"]["log_q"], log_q, rtol=1e-4, atol=1e-4)


def test_what_a_mask_hides_has_no_likelihood() -> None:
    """Fails when the density is taken before the mask: a placeholder then has a density."""
    y, mask = torch.tensor([0.0, 1.0, 50.0]), torch.tensor([True, True, False])

    def model() -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("person", 3), pyro.poutine.mask(mask=mask), pyro.poutine.scale(scale=2.0):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    def guide() -> None:
        pyro.sample("mean", dist.Normal(0.5, 0.1))

    tree = from_pyro_svi(model, guide, num_draws=4)
    mean = torch.as_tensor(tree["posterior"]["mean"].values)
    expected = torch.distributions.Normal(mean[..., None], 1.0).log_prob(y) * mask
    np.testing.assert_allclose(tree["log_likelihood"]["y"], expected, rtol=1e-5)


def test_a_point_has_no_density() -> None:
    x, y = _regression_data(5)
    tree = from_pyro_svi(_regression, AutoDelta(_regression), (x, y), num_draws=2)
    assert "sample_stats" not in tree.children
    assert tree["posterior"]["weight"].dims == ("chain", "draw", "weight_dim_0")


def _incomplete(x: Tensor, y: Tensor) -> None:
    pyro.sample("scale", dist.LogNormal(0.0, 0.5))


def _subsampled(x: Tensor, y: Tensor) -> None:
    with pyro.plate("person", len(y), subsample_size=2) as chosen:
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y[chosen])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_draws": 0}, "`num_draws`: expected a positive integer, got 0"),
        ({"seed": 0.5}, "`seed`: expected an integer >= 0"),
        ({"model": 3}, "`model`: expected a Pyro program, got 3"),
        ({"guide": None}, "`guide`: expected a Pyro program, got None"),
        ({"guide": _incomplete}, "`guide`: expected every latent site .* \"none of 'weight'\""),
        (
            {"model": _subsampled},
            "`args`: expected all data at once in plate 'person', got '2 of 5'",
        ),
        ({"groups": ["prio"]}, "`groups`: .*did you mean 'prior'"),
        ({"dims": {"w": ["a"]}}, "`dims`: expected one of mean, scale, weight, y, got 'w'"),
        ({"dims": {"weight": ["a", "b"]}}, "`dims`: expected 1 names for weight, whose event"),
        ({"dims": {"weight": ["person"]}}, "`model`: expected a dimension person that is 3 long"),
        ({"coords": {"a": [1]}}, "`coords`: expected one of "),
        ({"coords": {"person": [1]}}, "`coords`: expected 5 labels along person"),
        ({"constant_data": {"x": {}}}, "`constant_data`: expected numbers or strings for x"),
    ],
)
def test_wrong_options_are_reported_in_one_line(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"model": _regression, "guide": AutoDelta(_regression), "num_draws": 1}
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        from_pyro_svi(args=_regression_data(5), **given | options)
    assert "\n" not in str(caught.value)
