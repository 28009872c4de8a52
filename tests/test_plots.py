"""Plots return axes that hold the numbers, in the axes they are passed, outside of pyplot."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import matplotlib.pyplot
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae import report
from pyro_vae.evaluation import rate_distortion
from pyro_vae.plots import _panels as panels
from pyro_vae.plots._canvas import CLASSES
from pyro_vae.report import curves

HISTORY = {
    "epoch": [1.0, 2.0, 3.0],
    "elbo": [-30.0, -20.0, -18.0],
    "reconstruction": [-29.0, -17.0, -14.0],
    "kl": [1.0, 3.0, 4.0],
}


@pytest.fixture(autouse=True)
def _no_figure_stays_open() -> Any:
    yield
    assert matplotlib.pyplot.get_fignums() == []


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.rand(60, 1, 6, 5, generator=torch.Generator().manual_seed(0)).round()


@pytest.fixture(scope="module")
def vae() -> pv.VAE:
    torch.manual_seed(0)
    return pv.VAE(
        pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((1, 6, 5))
    ).eval()


def _own() -> Axes:
    return Figure().subplots()


def test_history_draws_its_numbers() -> None:
    figure = Figure()
    axes = pv.plots.history(HISTORY, figure=figure)
    assert figure.axes == axes
    for ax, key in zip(axes, ("elbo", "reconstruction", "kl"), strict=True):
        assert list(ax.lines[0].get_ydata()) == HISTORY[key]
    with pytest.raises(ValueError, match="`values`: expected the history of a run, with kl"):
        pv.plots.history({key: HISTORY[key] for key in HISTORY if key != "kl"})


def test_pyplot_shows_a_plot_where_it_is_interactive(tmp_path: Path) -> None:
    """Fails when a notebook shows the name of axes and no picture, or one that was written, too."""
    with matplotlib.pyplot.ion():
        drawn = pv.plots.history(HISTORY)[0].figure
        assert [matplotlib.pyplot.figure(i) for i in matplotlib.pyplot.get_fignums()] == [drawn]
        matplotlib.pyplot.close(drawn)
        curves(HISTORY, tmp_path / "history.png")
        assert matplotlib.pyplot.get_fignums() == []
    pv.plots.history(HISTORY)
    assert matplotlib.pyplot.get_fignums() == []


def test_latent_draws_the_means(vae: pv.VAE, x: torch.Tensor) -> None:
    ax = _own()
    assert pv.plots.latent(vae, x, ax=ax) is ax
    drawn = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_allclose(drawn, vae.encode(x).mean.detach(), rtol=1e-5)
    with pytest.raises(ValueError, match="`ax`: expected matplotlib Axes"):
        pv.plots.latent(vae, x, ax=Figure())  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2])
def test_few_data_have_a_place_in_many_latents(count: int) -> None:
    """One has no principal components, but its means; two lie on the first one."""
    ax, means = _own(), torch.tensor([[3.0, 5.0, 7.0, 1.0], [0.0, 1.0, 7.0, 1.0]])[:count]
    panels.scatter(ax, means, None)
    drawn = np.asarray(ax.collections[0].get_offsets())
    if count == 1:
        np.testing.assert_array_equal(drawn, [[3, 5]])
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("E[z0 | x]", "E[z1 | x]")
    else:
        np.testing.assert_allclose(abs(drawn), [[2.5, 0], [2.5, 0]], atol=1e-5)
        assert "first principal component (100%" in ax.get_xlabel()


def test_images_are_drawn_as_they_are(vae: pv.VAE, x: torch.Tensor) -> None:
    figure = Figure()
    data, _ = pv.plots.reconstructions(vae, x[:4], figure=figure)
    pixels = data.images[0].get_array()[:, :5, 0]
    np.testing.assert_array_equal(pixels, x[0, 0])
    assert data.figure is figure
    assert len(pv.plots.samples(vae, num_samples=9, figure=Figure())) == 1
    with pytest.raises(ValueError, match="`figure`: expected a matplotlib Figure"):
        pv.plots.samples(vae, figure=data)  # type: ignore[arg-type]


def test_paths_start_at_the_reconstruction(vae: pv.VAE, x: torch.Tensor) -> None:
    axes = pv.plots.interpolation(vae, x[:2], x[2:4], steps=3)
    assert len(axes) == 2
    made = vae.reconstruct(x[:4])
    low, high = 0.0, 1.0
    pixels = axes[0].images[0].get_array()[:, :5, 0]
    np.testing.assert_allclose(pixels, (made[0, 0] - low) / (high - low), atol=1e-5)
    assert len(pv.plots.traversal(vae, x[0], torch.tensor([1, 0]), steps=3)) == 2
    with pytest.raises(ValueError, match="`units`"):
        pv.plots.traversal(vae, x[0], torch.tensor([2]))


def test_khat_counts_observations(vae: pv.VAE, x: torch.Tensor) -> None:
    scores = pv.evaluate(vae, x, num_samples=100)
    ax = _own()
    assert pv.plots.khat(scores, ax=ax) is ax
    assert sum(bar.get_height() for bar in ax.patches) == np.isfinite(scores.k_hat).sum()
    with pytest.raises(ValueError, match="`scores`"):
        pv.plots.khat(None)  # type: ignore[arg-type]


def test_rate_distortion_draws_means(vae: pv.VAE, x: torch.Tensor) -> None:
    found = rate_distortion(vae, x)
    ax = pv.plots.rate_distortion([found, found], names=["a", "b"])
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_xdata(), float), [found.rate.mean()] * 2)
    np.testing.assert_allclose(
        np.asarray(ax.lines[0].get_ydata(), float), [found.distortion.mean()] * 2
    )
    with pytest.raises(ValueError, match="`names`: expected 1 names"):
        pv.plots.rate_distortion([found], names=["a", "b"])


@pytest.mark.long
def test_criticism_has_a_line_a_quantity(vae: pv.VAE, x: torch.Tensor) -> None:
    found = pv.criticism.check(vae, x)
    ax = _own()
    assert pv.plots.checks(found, ax=ax) is ax
    assert len(ax.texts) == sum(row.calibrated for row in found.rows)
    calibrated = pv.criticism.calibrate(vae)
    ax = pv.plots.sbc(calibrated)
    assert len(ax.lines) == len(calibrated.names)
    away = calibrated.ecdf[0] - calibrated.bands.points
    np.testing.assert_allclose(ax.lines[0].get_ydata()[1:-1], away)
    for wrong in (pv.plots.checks, pv.plots.sbc):
        with pytest.raises(ValueError, match="`found`: expected the result of"):
            wrong(None)  # type: ignore[operator]


def test_pairs_and_choice() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    vae = pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), pv.likelihoods.Normal((3,)))
    axes = pv.plots.pairs(vae, x, count=1, columns=["a", "b", "c"])
    assert len(axes[0].collections[0].get_offsets()) == 50
    assert len(pv.plots.samples(vae, num_samples=20)) == 3
    with pytest.raises(ValueError, match="`summary`"):
        pv.plots.choice({})


def test_the_worst_quantities_are_named_beside_no_line(vae: pv.VAE) -> None:
    """In the legend by their style. Fails where names lie on lines that are close to each other."""
    found = dataclasses.replace(
        pv.criticism.calibrate(vae, num_simulations=50), adjusted=np.linspace(0, 0.04, 6)
    )
    ax = pv.plots.sbc(found)
    assert not ax.texts
    _, *named = ax.get_legend_handles_labels()[1]
    assert named == list(found.names[:4])
    assert len({line.get_linestyle() for line in ax.lines[:4]}) == 4


def test_more_classes_than_colours_differ_in_shape() -> None:
    """All colours are Okabe and Ito's. Fails where two classes look alike."""
    labels = torch.arange(12).repeat(5)
    ax = _own()
    panels.scatter(ax, torch.randn(60, 2), labels)
    looks = [
        (tuple(each.get_facecolor()[0][:3]), each.get_paths()[0].vertices.shape)
        for each in ax.collections
    ]
    assert len(set(looks)) == 12
    assert {colour for colour, _ in looks} == {to_rgb(each) for each in CLASSES}
    assert all(one[1] != other[1] for one, other in itertools.pairwise(looks))


@pytest.mark.parametrize(("count", "shapes"), [(8, 1), (9, 3), (20, 3), (21, 1)])
def test_shapes_tell_classes_apart_where_colours_do_not(count: int, shapes: int) -> None:
    """Fails where eight classes have shapes, or two of twenty look alike."""
    ax = _own()
    panels.scatter(ax, torch.randn(2 * count, 2), torch.arange(count).repeat(2))
    looks = [
        (tuple(each.get_facecolor()[0]), each.get_paths()[0].vertices.shape)
        for each in ax.collections
    ]
    assert len(set(looks)) == count
    assert len({shape for _, shape in looks}) == shapes


def test_a_traversal_of_a_table_has_a_line_a_column() -> None:
    """In standard deviations of the data, by name: fails where entries of x are joined by lines."""
    frame = pd.DataFrame({"income": np.linspace(1, 900, 60), "mood": ["low", "mid", "high"] * 20})
    data = pv.data.load(frame, kinds="mood=category")
    columns = ["Normal", {"class": "Categorical", "levels": 3}]
    likelihood = pv.likelihoods.Mixed((2,), columns)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood)
    vae.initialize(data.train)
    units = torch.arange(2)
    axes = pv.plots.traversal(vae, data.train[0], units, steps=3, reference=data.train)
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names[0] == "income"
    assert all(name.startswith("mood = ") for name in names[1:])
    made = report.traversals(vae, data.train[0], units, steps=3)[0, :, 0]
    known = (made - data.train[:, 0].mean()) / data.train[:, 0].std(correction=0)
    drawn = np.asarray(axes[0].collections[0].get_offsets())[:, 0]
    np.testing.assert_allclose(drawn, known.clamp(-3, 3), rtol=1e-4, atol=1e-4)
    assert axes[0].get_xlabel() == "standard deviations of the data"
