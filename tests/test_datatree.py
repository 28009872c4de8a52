"""Trees of draws: labelled, of the right distribution, never the observed data themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from pyro.infer import Predictive
from torch import nn

import pyro_vae as pv
from pyro_vae.criticism import to_datatree
from pyro_vae.evaluation import PosteriorDraws, posterior_draws

# A process of its own, since a peak of memory is one of a whole process.
_STREAM_MEMORY = 16 * 4 * 3 * 256 * 256  # the least there may be for such images
_STREAM = """
import resource
import sys
import torch
from torch import nn
import pyro_vae as pv


class Encoder(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :4]


class Decoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape, self.weight = shape, nn.Parameter(torch.randn(2, 1))

    def forward(self, z):
        return (z @ self.weight)[..., None, None].expand(-1, *self.shape).contiguous()


def model(*shape):
    likelihood = pv.likelihoods.Normal(shape)
    decoder = Decoder(likelihood.param_shape)
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, Encoder(), decoder)


def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


folder, memory = sys.argv[1:]
small = model(1, 4, 4)  # what is loaded and kept whatever the size
pv.to_datatree(small, small.sample(4), num_draws=4, out=folder + "/small.nc").close()
big = model(3, 256, 256)
x, before = big.sample(3), peak()
tree = pv.to_datatree(big, x, num_draws=20, out=folder + "/big.nc", max_memory=int(memory))
print(peak() - before, tree.nbytes)
"""


def _linear(factor: float = 1.0, dim: int = 3, latent: int = 2) -> pv.VAE:
    """A linear-Gaussian model whose guide is its posterior, the scale multiplied by a factor."""
    vae = pv.VAE(
        pv.priors.Normal(latent),
        pv.guides.Normal(latent),
        pv.likelihoods.Normal((dim,), scale=0.5),
        encoder=nn.Linear(dim, 2 * latent),
        decoder=nn.Linear(latent, dim, bias=False),
    )
    columns, _ = torch.linalg.qr(torch.randn(dim, latent))
    weight = columns * torch.linspace(0.5, 1.0, latent)
    variance = 1 / (1 + weight.square().sum(0) / 0.25)  # the columns are orthogonal
    with torch.no_grad():
        vae.decoder.weight.copy_(weight)
        vae.encoder.weight.zero_()[:latent] = variance[:, None] * weight.T / 0.25
        vae.encoder.bias.zero_()[latent:] = pv.distributions.inverse_positive(
            factor * variance.sqrt()
        )
    return vae


def _poisson_images() -> pv.VAE:
    return pv.VAE(
        pv.priors.Categorical(2, 3),
        pv.guides.GumbelSoftmax(2, 3),
        pv.likelihoods.Poisson((1, 4, 5)),
        pv.networks.MLP(hidden=(8,)),
        pv.networks.MLP(hidden=(8,)),
    )


def test_replicates_are_not_the_observed_data() -> None:
    """Pyro's own `Predictive` hands back what its model observes; fails when we do as it does."""
    vae = _linear()
    x = vae.sample(20)
    with torch.no_grad():
        echoed = Predictive(vae.model, guide=vae.guide, num_samples=5)(x)["x"]
    assert torch.equal(echoed, x.expand(5, -1, -1))
    for tree in (pv.posterior_predictive(vae, x, num_draws=5), to_datatree(vae, x, num_draws=5)):
        for group in ("posterior_predictive", "prior_predictive"):
            if group in tree.children:
                replicated = tree[group]["x"].values
                assert not (replicated == x.numpy()).any()
                assert len(np.unique(replicated)) == replicated.size


def test_replicates_have_the_distribution_of_the_model() -> None:
    """Moments of each group against closed forms, 5 standard errors.

    Fails when replicates are means of p(x|z), and when z of the prior is a tenth too narrow.
    """
    vae = _linear()
    x, draws = vae.sample(4), 20_000
    tree = to_datatree(vae, x, num_draws=draws)
    weight = vae.decoder.weight.detach().double().numpy()
    posterior = vae.encode(x)
    mean, scale = (t.detach().double().numpy() for t in (posterior.mean, posterior.stddev))
    noise = 0.25 * np.eye(3)
    distributions = {
        ("posterior", "z"): (mean, [np.diag(s**2) for s in scale]),
        ("posterior_predictive", "x"): (
            mean @ weight.T,
            [weight @ np.diag(s**2) @ weight.T + noise for s in scale],
        ),
        ("prior", "z"): (np.zeros((4, 2)), [np.eye(2)] * 4),
        ("prior_predictive", "x"): (np.zeros((4, 3)), [weight @ weight.T + noise] * 4),
    }
    for (group, name), (means, covariances) in distributions.items():
        values = tree[group][name].values[0].astype(float)
        for i in range(4):
            variance = np.diag(covariances[i])
            error = (values[:, i].mean(0) - means[i]) / np.sqrt(variance / draws)
            assert (abs(error) < 5).all(), group
            # Var of an entry of a sample covariance: (C_ij^2 + C_ii C_jj) / S.
            sd = np.sqrt((covariances[i] ** 2 + np.outer(variance, variance)) / draws)
            assert (abs(np.cov(values[:, i].T) - covariances[i]) < 5 * sd).all(), group


@pytest.mark.parametrize("make", [_linear, _poisson_images])
def test_densities_are_those_of_the_draws(make: Any) -> None:
    """The tree's own z, decoded anew. Fails when densities stand beside the wrong data."""
    vae = make()
    x = vae.sample(7)
    tree = to_datatree(vae, x, num_draws=11)
    z = torch.as_tensor(tree["posterior"]["z"].values[0], dtype=torch.float32)
    with torch.no_grad():
        log_likelihood = vae.decode(z).log_prob(x)
        log_p = log_likelihood + vae.prior().log_prob(z)
        log_q = vae.encode(x).log_prob(z)
    for group, name, expected in (
        ("log_likelihood", "x", log_likelihood),
        ("sample_stats", "log_p", log_p),
        ("sample_stats", "log_q", log_q),
    ):
        assert tree[group][name].dims == ("chain", "draw", "data")
        np.testing.assert_allclose(tree[group][name].values[0], expected, rtol=1e-5, atol=1e-4)


def test_labels_and_attributes() -> None:
    vae, labels = _poisson_images(), torch.arange(6) % 2
    x = vae.sample(6)
    tree = to_datatree(
        vae,
        x,
        num_draws=3,
        seed=5,
        constant_data={"label": labels, "place": ["a", "b"] * 3},
        objective="ELBO(beta=2)",
        base_measure={"data": "made up"},
        coords={"channel": ["grey"], "data": list("abcdef")},
    )
    assert tree["posterior"]["z"].dims == ("chain", "draw", "data", "group", "class")
    assert tree["observed_data"]["x"].dims == ("data", "channel", "row", "column")
    assert tree["posterior_predictive"]["x"].sel(channel="grey", data="c").shape == (1, 3, 4, 5)
    assert tree["constant_data"]["label"].values.tolist() == labels.tolist()
    assert tree["posterior"]["z"].dtype == np.int8  # one-hot
    assert tree["prior_predictive"]["x"].dtype == tree["observed_data"]["x"].dtype == np.int64
    np.testing.assert_array_equal(tree["observed_data"]["x"], x)
    assert (tree["posterior"]["z"].sum("class") == 1).all()
    assert json.loads(tree.attrs["model"])["likelihood"]["class"] == "likelihoods.Poisson"
    assert json.loads(tree.attrs["base_measure"])["data"] == "made up"
    assert (tree.attrs["objective"], tree.attrs["seed"]) == ("ELBO(beta=2)", 5)
    assert tree["posterior"].attrs["draws"] == "guide"
    named = to_datatree(
        vae, x, num_draws=3, dims={"x": ["band", "y", "x_"], "z": ["unit", "state"]}
    )
    assert named["posterior"]["z"].dims[-2:] == ("unit", "state")
    assert named["prior_predictive"]["x"].dims[-3:] == ("band", "y", "x_")


@pytest.mark.parametrize("make", [_linear, _poisson_images])
def test_same_seed_same_tree_in_memory_and_in_a_file(make: Any, tmp_path: Path) -> None:
    """Saved and read back, or streamed by blocks: the same. The model is not disturbed."""
    vae = make().train()
    x = vae.sample(9)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in vae.state_dict().items()}
    options: dict[str, Any] = {"num_draws": 8, "constant_data": {"label": np.arange(9)}}
    tree = to_datatree(vae, x, **options)
    assert torch.equal(before, torch.get_rng_state())
    assert vae.training
    assert all(torch.equal(state[k], v) for k, v in vae.state_dict().items())

    tree.to_netcdf(tmp_path / "saved.nc", engine="h5netcdf")
    with xarray.open_datatree(tmp_path / "saved.nc", engine="h5netcdf") as saved:
        xarray.testing.assert_identical(saved.load(), tree)
    streamed = to_datatree(vae, x, **options, out=tmp_path / "streamed.nc")
    xarray.testing.assert_identical(streamed.load(), tree)
    streamed.close()
    assert {path.name for path in tmp_path.iterdir()} == {"saved.nc", "streamed.nc"}
    xarray.testing.assert_identical(
        pv.posterior_predictive(vae, x, num_draws=8)["posterior_predictive"].to_dataset().x,
        tree["posterior_predictive"].to_dataset().x,
    )
    other = to_datatree(vae, x, **options, seed=1)
    assert not other["prior"]["z"].equals(tree["prior"]["z"])


def test_posterior_draws_of_another_making() -> None:
    """Replicates and densities follow the z given. Fails when the guide's are used all the same."""
    vae = _linear()
    x = vae.sample(5)
    z = 10.0 + torch.randn(8, 5, 2)
    tree = to_datatree(vae, x, posterior=PosteriorDraws(z, "nuts"))
    np.testing.assert_array_equal(tree["posterior"]["z"].values[0], z)
    assert tree["posterior"].attrs["draws"] == tree["log_likelihood"].attrs["draws"] == "nuts"
    with torch.no_grad():
        distribution = vae.decode(z)
    np.testing.assert_allclose(
        tree["log_likelihood"]["x"].values[0], distribution.log_prob(x), rtol=1e-5
    )
    away = tree["posterior_predictive"]["x"].values[0] - distribution.mean.numpy()
    assert abs(away.mean()) < 5 * 0.5 / away.size**0.5
    assert set(tree["sample_stats"].data_vars) == {"log_p"}
    with pytest.raises(ValueError, match=r"^`posterior`: expected z of shape \(3, 5, 2\)"):
        to_datatree(vae, x, num_draws=3, posterior=PosteriorDraws(z, "nuts"))


def test_chains_and_diagnostics_are_in_the_tree(tmp_path: Path) -> None:
    """Chains are a dimension, by blocks that straddle them too, and diagnostics have no draws."""
    vae = _linear()
    x, z = vae.sample(5), torch.randn(12, 5, 2)
    kinds = {"r_hat": np.arange(5.0), "ess": np.ones(5), "divergences": np.arange(5)}
    draws = PosteriorDraws(z, "nuts", num_chains=3, **kinds)
    tree = to_datatree(vae, x, posterior=draws)
    np.testing.assert_array_equal(tree["posterior"]["z"], z.unflatten(0, (3, 4)))
    assert dict(tree["log_likelihood"].sizes) == {"chain": 3, "draw": 4, "data": 5}
    for name, values in kinds.items():
        assert tree["sample_stats"][name].dims == ("data",)
        np.testing.assert_array_equal(tree["sample_stats"][name], values)
    path = tmp_path / "t.nc"
    streamed = to_datatree(vae, x, posterior=draws, out=path, max_memory=5 * 5 * 16 * 4 * 3)
    xarray.testing.assert_identical(streamed.load()["posterior"], tree["posterior"])
    assert set(streamed["sample_stats"].data_vars) == {"log_p", *kinds}
    streamed.close()


def test_draws_are_corrected_on_request() -> None:
    """The guide's keep log q; those by importance bring k-hat."""
    vae = _linear(factor=2.0)
    x = vae.sample(5)
    tree = to_datatree(vae, x, posterior="importance", num_draws=20, seed=3)
    drawn = posterior_draws(vae, x, method="importance", num_draws=20, seed=3)
    np.testing.assert_array_equal(tree["posterior"]["z"].values[0], drawn.z)
    np.testing.assert_array_equal(tree["sample_stats"]["k_hat"], drawn.k_hat)
    assert tree["posterior"].attrs["draws"] == "importance"
    assert set(tree["sample_stats"].data_vars) == {"log_p", "k_hat", "ess"}
    own = to_datatree(vae, x, posterior=posterior_draws(vae, x, num_draws=20))
    assert set(own["sample_stats"].data_vars) == {"log_p", "log_q"}
    with pytest.raises(ValueError, match="`posterior`: expected one of guide, importance, nuts"):
        to_datatree(vae, x, posterior="nut")  # type: ignore[arg-type]


def test_a_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    vae = _linear()

    def stop(done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_datatree(vae, vae.sample(3), num_draws=2, out=tmp_path / "t.nc", progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_draws": 0}, "`num_draws`: expected a positive integer, got 0"),
        ({"seed": -1}, "`seed`: expected an integer >= 0"),
        ({"groups": ["posterio"]}, "`groups`: .*did you mean 'posterior'"),
        ({"groups": "posterior"}, "`groups`: expected some of posterior,"),
        ({"dims": {"y": ["a"]}}, "`dims`: expected one of x, z, got 'y'"),
        ({"dims": {"x": ["a", "b"]}}, "`dims`: expected 1 names for x of shape"),
        ({"dims": {"x": ["draw"]}}, "`dims`: expected one dimension to a name in x, got 'draw'"),
        ({"dims": {"x": ["latent"]}}, "`dims`: expected one dimension to a name in z"),
        ({"coords": {"column": [1]}}, "`coords`: expected one of data, feature, latent"),
        ({"coords": {"feature": ["a"]}}, "`coords`: expected 3 labels along feature"),
        ({"constant_data": {"label": [1]}}, "`constant_data`: expected 5 numbers or strings"),
        (
            {"max_memory": 100},
            "`max_memory`: expected 1 MiB for these draws, or `out` of to_datatree",
        ),
        ({"max_memory": 100, "out": "a.nc"}, "`max_memory`: expected at least 192 bytes"),
        ({"out": "a.zip"}, "`out`: expected a new file NAME.nc in an existing folder"),
    ],
)
def test_wrong_options_are_reported_in_one_line(options: dict[str, Any], message: str) -> None:
    vae = _linear()
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        to_datatree(vae, torch.zeros(5, 3), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.long
def test_a_stream_stays_within_its_memory(tmp_path: Path) -> None:
    """Draws of 92 MiB with 12 MiB beside the data. Fails when draws are kept in memory."""
    command = [sys.executable, "-c", _STREAM, str(tmp_path), str(_STREAM_MEMORY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    used, size = map(float, done.stdout.split())
    assert used < _STREAM_MEMORY
    assert size > 7 * _STREAM_MEMORY
