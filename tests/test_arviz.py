"""ArviZ's own functions on our trees, as they are: numbers against ours, and its plots drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import arviz_plots
import arviz_stats
import matplotlib
import numpy as np
import pytest
import torch
import xarray
from arviz_stats.base import array_stats
from matplotlib import pyplot
from torch import Tensor

import pyro_vae as pv
from pyro_vae.criticism import tree_for
from pyro_vae.evaluation.pareto import k_hat, tail_length

matplotlib.use("Agg")  # before a figure is made: no window opens
_DRAWS = 60

# ArviZ says of some data that another plot may suit them better, and of a k-hat above its
# threshold that it is above it. Both are so on purpose here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*look(s)? (binary|discrete):UserWarning"),
    pytest.mark.filterwarnings("ignore:Detected at least one discrete variable:UserWarning"),
    pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto:UserWarning"),
]


@pytest.fixture(scope="module")
def trees() -> dict[str, xarray.DataTree]:
    """A Poisson model of vectors and a Bernoulli model of images, neither fitted."""
    torch.manual_seed(0)
    made = {}
    for likelihood in (pv.likelihoods.Poisson((4,)), pv.likelihoods.Bernoulli((1, 4, 5))):
        vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood)
        for parameter in vae.decoder.parameters():
            parameter.data.mul_(2)
        made[type(likelihood).__name__] = pv.to_datatree(vae, vae.sample(30), num_draws=_DRAWS)
    return made


def _stats(tree: xarray.DataTree) -> dict[str, xarray.DataArray]:
    return {name: tree["sample_stats"][name] for name in ("log_p", "log_q")}


@pytest.mark.parametrize("kind", ["Poisson", "Bernoulli"])
def test_k_hat_is_ours_on_the_same_weights(trees: dict[str, xarray.DataTree], kind: str) -> None:
    """Those of p(x, z) / q(z|x), and of leaving an observation out, one set of weights for each."""
    tree = trees[kind]
    log_p, log_q = _stats(tree).values()
    loo = arviz_stats.loo_approximate_posterior(tree, **_stats(tree), pointwise=True)
    left_out = log_p - log_q - tree["log_likelihood"]["x"]
    _, of_arviz = array_stats.psislw(-(log_p - log_q).values[0].T)
    for log_weights, theirs in ((log_p - log_q, of_arviz), (left_out, loo.pareto_k.values)):
        log_weights = torch.as_tensor(log_weights.values[0])
        ours = k_hat(log_weights.topk(tail_length(_DRAWS) + 1, dim=0).values)
        assert ours.isfinite().all()
        np.testing.assert_allclose(theirs, ours, rtol=1e-6)
    assert loo.elpd_i.dims == ("data",)


def test_summary(trees: dict[str, xarray.DataTree]) -> None:
    tree = trees["Poisson"]
    table = arviz_stats.summary(tree, round_to="none")
    means = tree["posterior"]["z"].values.mean((0, 1))
    np.testing.assert_allclose(table["mean"].astype(float).values.reshape(30, 2), means, atol=1e-6)


def _khat(tree: xarray.DataTree) -> Any:
    loo = arviz_stats.loo_approximate_posterior(tree, **_stats(tree), pointwise=True)
    return arviz_plots.plot_khat(loo, backend="matplotlib")


_PLOTS: dict[str, Callable[[xarray.DataTree], Any]] = {
    "ppc_dist": arviz_plots.plot_ppc_dist,
    "ppc_dist, prior": lambda tree: arviz_plots.plot_ppc_dist(tree, group="prior_predictive"),
    "ppc_tstat": lambda tree: arviz_plots.plot_ppc_tstat(tree, t_stat="mean"),
    "khat": _khat,
    "pair": lambda tree: arviz_plots.plot_pair(tree, coords={"data": 3}),
    "ppc_pit": lambda tree: arviz_plots.plot_ppc_pit(tree_for(tree, statistic=_total)),
    "ppc_rootogram": lambda tree: arviz_plots.plot_ppc_rootogram(tree_for(tree, statistic=_total)),
}


def _total(x: Tensor) -> Tensor:
    return x.flatten(2).sum(-1)


@pytest.mark.parametrize("plot", _PLOTS)
def test_plot(trees: dict[str, xarray.DataTree], plot: str) -> None:
    """Each shows something: lines, points or faces within the axes."""
    figure = _PLOTS[plot](trees["Poisson"]).viz["figure"].item()
    figure.canvas.draw()
    drawn = [a for a in figure.axes if a.lines or a.collections or a.patches]
    pyplot.close(figure)
    assert len(drawn) >= (3 if plot == "pair" else 1)


def test_tree_for_takes_the_entry_and_the_statistic(trees: dict[str, xarray.DataTree]) -> None:
    tree = trees["Bernoulli"]
    pixel = tree_for(tree, feature=(0, 2, 4))
    total = tree_for(tree, statistic=_total)
    for group in ("posterior_predictive", "prior_predictive", "observed_data"):
        values = tree[group]["x"].values
        np.testing.assert_array_equal(pixel[group]["x"], values[..., 0, 2, 4])
        np.testing.assert_array_equal(total[group]["x"], values.sum((-1, -2, -3)))
        assert pixel[group]["x"].dtype == total[group]["x"].dtype == np.int64
        assert total[group]["x"].dims[-1] == "data"
    assert (
        tree_for(tree, statistic=lambda x: x.flatten(2).mean(-1))["observed_data"].x.dtype == float
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`feature`: expected either a feature or a `statistic`, got 'neither'"),
        ({"feature": 0, "statistic": _total}, "`feature`: .* got 'both'"),
        ({"feature": 4}, "`feature`: expected an index from 0 to 3 along feature, got 4"),
        ({"feature": (0, 0)}, "`feature`: expected an index from 0 to 3 along feature, got "),
        ({"statistic": "mean"}, "`statistic`: expected a function .* got 'mean'"),
        ({"statistic": lambda x: x.sum()}, r"`statistic`: expected a result of shape \(60, 30\)"),
        ({"feature": 0, "name": "y"}, "`name`: expected one of x, got 'y'"),
        ({"feature": 0, "tree": 3}, "`tree`: expected a tree with a group among .* got 3"),
    ],
)
def test_wrong_options_are_reported_in_one_line(
    trees: dict[str, xarray.DataTree], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        tree_for(**{"tree": trees["Poisson"]} | options)
    assert "\n" not in str(caught.value)
