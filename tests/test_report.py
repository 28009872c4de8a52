"""Pictures: what they show can be read off their pixels, for every kind of data and latent."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import report
from pyro_vae.plots import criticism

_HISTORY = {
    "epoch": [1.0, 2.0, 3.0],
    "elbo": [-30.0, -20.0, -18.0],
    "reconstruction": [-29.0, -17.0, -14.0],
    "kl": [1.0, 3.0, 4.0],
}


class Constant(nn.Module):
    """A decoder that gives the same parameters for every z."""

    def __init__(self, params: Tensor) -> None:
        super().__init__()
        self.params = params

    def forward(self, z: Tensor) -> Tensor:
        return self.params.expand(len(z), *self.params.shape)


def _vae(
    likelihood: pv.likelihoods.Likelihood, dim: int = 2, decoder: nn.Module | None = None
) -> pv.VAE:
    return pv.VAE(pv.priors.Normal(dim), pv.guides.Normal(dim), likelihood, decoder=decoder)


def _data(kind: str) -> pv.data.Dataset:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(60, 1, 6, 5, generator=generator)
    values = {
        "binary images": (uniform > 0.5).float(),
        "grey images": uniform,
        "colour images": uniform.expand(-1, 3, -1, -1).contiguous(),
        "vectors": uniform.flatten(1)[:, :7],
        "long vectors": uniform.flatten(1)[:, :30],
        "one number": uniform.flatten(1)[:, :1],
        "counts": (20 * uniform).floor().flatten(1)[:, :5],
        "constant": torch.ones(60, 3),
    }[kind]
    return pv.data.load(values, labels=torch.arange(60) % 3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "likelihood", "dim"),
    [
        ("binary images", pv.likelihoods.Bernoulli, 5),
        ("grey images", pv.likelihoods.Normal, 2),
        ("colour images", pv.likelihoods.Normal, 1),
        ("vectors", pv.likelihoods.Normal, 2),
        ("long vectors", pv.likelihoods.Normal, 3),
        ("one number", pv.likelihoods.Normal, 1),
        ("counts", pv.likelihoods.Poisson, 2),
        ("constant", pv.likelihoods.Normal, 3),
    ],
)
def test_every_kind_of_data_has_four_pictures(
    kind: str, likelihood: type[pv.likelihoods.Likelihood], dim: int, tmp_path: Path
) -> None:
    data = _data(kind)
    vae = _vae(likelihood(data.event_shape), dim)  # type: ignore[call-arg]
    paths = report.pictures(vae, data, _HISTORY, tmp_path)
    names = ["samples.png", "reconstructions.png", "latent.png", "curves.png"]
    assert [path.name for path in paths] == names
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for path in paths:
        pixels = matplotlib.image.imread(path)
        assert min(pixels.shape[:2]) > 100
        assert pixels[..., :3].std() > 0.02, f"{path.name} is blank"
    assert matplotlib.pyplot.get_fignums() == []  # no figure is left in anybody's way


def _dark(path: Path) -> float:
    """The share of pixels that are nearly black."""
    return float((matplotlib.image.imread(path)[..., :3].max(-1) < 0.1).mean())


@pytest.mark.parametrize(("logit", "low", "high"), [(-9.0, 0.6, 1.0), (9.0, 0.0, 0.1)])
def test_samples_show_the_mean(logit: float, low: float, high: float, tmp_path: Path) -> None:
    """Fails when black and white are exchanged, or when each picture is scaled by itself."""
    decoder = Constant(torch.full((1, 8, 8), logit))
    vae = _vae(pv.likelihoods.Bernoulli((1, 8, 8)), decoder=decoder)
    assert low <= _dark(report.samples(vae, tmp_path / "a.png")) <= high


def test_the_grey_scale_is_that_of_the_data(tmp_path: Path) -> None:
    vae = _vae(pv.likelihoods.Normal((1, 8, 8)), decoder=Constant(torch.zeros(1, 8, 8)))
    for low, high, dark in ((0.0, 1.0, True), (-1.0, 0.0, False)):
        reference = torch.tensor([low, high]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
        path = report.samples(vae, tmp_path / f"{dark}.png", reference=reference)
        assert (_dark(path) > 0.5) == dark


def test_reconstructions_stand_below_their_data(tmp_path: Path) -> None:
    """Dark data above bright reconstructions: fails when the rows are exchanged."""
    vae = _vae(pv.likelihoods.Bernoulli((1, 8, 8)), decoder=Constant(torch.full((1, 8, 8), 9.0)))
    path = report.reconstructions(vae, torch.zeros(10, 1, 8, 8), tmp_path / "a.png")
    dark = matplotlib.image.imread(path)[..., :3].max(-1) < 0.1
    rows = np.flatnonzero(dark.mean(1) > 0.5)
    assert len(rows) > 0.2 * len(dark)
    assert rows.max() < 0.6 * len(dark)


@pytest.mark.parametrize(("groups", "classes"), [(1, 4), (3, 2), (40, 35)])
def test_one_hot_latents_are_shown_by_their_use(groups: int, classes: int, tmp_path: Path) -> None:
    data = _data("vectors")
    vae = pv.VAE(
        pv.priors.Categorical(groups, classes),
        pv.guides.GumbelSoftmax(groups, classes),
        pv.likelihoods.Normal(data.event_shape),
    )
    path = report.latent(vae, data.test, tmp_path / "a.png", color_by=data.labels["test"])
    blue = matplotlib.image.imread(path)
    assert ((blue[..., 2] - blue[..., 0]) > 0.2).mean() > 0.1  # even use is half way up the scale


def test_binary_latents_are_scattered_by_their_means(tmp_path: Path) -> None:
    """Fails when latents other than real and one-hot ones are refused."""
    data = _data("vectors")
    vae = pv.VAE(
        pv.priors.Bernoulli(3),
        pv.guides.RelaxedBernoulli(3),
        pv.likelihoods.Normal(data.event_shape),
    )
    path = report.latent(vae, data.test, tmp_path / "a.png")
    assert matplotlib.image.imread(path)[..., :3].std() > 0.01


def test_the_latent_picture_draws_nothing_at_random(tmp_path: Path) -> None:
    data = _data("vectors")
    vae = _vae(pv.likelihoods.Normal(data.event_shape))
    state = torch.get_rng_state()
    first, second = (report.latent(vae, data.test, tmp_path / f"{i}.png") for i in range(2))
    assert first.read_bytes() == second.read_bytes()
    assert torch.equal(torch.get_rng_state(), state)


def test_curves_have_validation_and_leave_out_the_start(tmp_path: Path) -> None:
    epochs = list(range(1, 101))
    fall = [-1e6, *[-20.0 - 10 / epoch for epoch in epochs[1:]]]
    alone = dict.fromkeys(("elbo", "reconstruction", "kl"), fall) | {"epoch": epochs}
    both = alone | {f"validation_{key}": fall for key in ("elbo", "reconstruction", "kl")}
    plain = matplotlib.image.imread(report.curves(alone, tmp_path / "a.png"))
    blue = matplotlib.image.imread(report.curves(both, tmp_path / "b.png"))

    def share(pixels: np.ndarray) -> float:
        return float(((pixels[..., 2] - pixels[..., 0]) > 0.3).mean())

    assert share(plain) == 0
    assert share(blue) > 0.002
    # Were the first epoch within the limits, all lines would lie flat at the top of their panel.
    height = np.flatnonzero(((blue[..., 2] - blue[..., 0]) > 0.3)[:, 600:].any(1))
    assert np.ptp(height) > 0.5 * len(blue)


def test_pictures_use_the_last_split_that_there_is() -> None:
    x = torch.rand(40, 3)
    shares = {"test": (0.2, 0.2), "validation": (0.2, 0.0), "train": (0.0, 0.0)}
    for split, (validation, test) in shares.items():
        assert report.held_out(pv.data.load(x, validation=validation, test=test)) == split


def test_nothing_is_written_where_nothing_can_be_drawn(tmp_path: Path) -> None:
    vae = _vae(pv.likelihoods.Bernoulli((4,)))
    with pytest.raises(ValueError, match="expected a positive integer"):
        report.samples(vae, tmp_path / "a.png", num_samples=0)
    with pytest.raises(ValueError, match="support of Bernoulli"):
        report.reconstructions(vae, torch.full((2, 4), 0.5), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def _rows(*places: float) -> tuple[pv.criticism.Row, ...]:
    return tuple(
        pv.criticism.Row(
            statistic=f"statistic {i}",
            where="",
            observed=place,
            low=-1.0,
            high=1.0,
            p_value=0.01,
            conditioned_on="z ~ p(z)",
            calibrated=True,
            adjusted=0.02,
            failed=abs(place) > 1,
        )
        for i, place in enumerate(places)
    )


@pytest.mark.parametrize(
    ("observed", "low", "high", "place"),
    [(0.5, 0.0, 1.0, 0.0), (1.0, 0.0, 1.0, 1.0), (-9.0, 0.0, 1.0, -3.0), (2.0, 2.0, 2.0, 0.0),
     (2.5, 2.0, 2.0, 3.0), (float("nan"), 0.0, 1.0, 0.0)],
)  # fmt: skip
def test_a_statistic_is_placed_by_its_interval(
    observed: float, low: float, high: float, place: float
) -> None:
    row = dataclasses.replace(_rows(0.0)[0], observed=observed, low=low, high=high)
    assert criticism._placed(row) == place


def _red(path: Path) -> float:
    pixels = matplotlib.image.imread(path)
    return float(((pixels[..., 0] - pixels[..., 2]) > 0.3).mean())


@pytest.mark.long
def test_what_fails_is_red(tmp_path: Path) -> None:
    """Fails when failed checks are drawn like others."""
    vae = _vae(pv.likelihoods.Bernoulli((4,)))
    found = pv.criticism.check(vae, torch.ones(30, 4))
    good, bad = (dataclasses.replace(found, rows=_rows(*p)) for p in ((0.5, -0.9), (0.5, -1.9)))
    assert _red(report.checks(good, tmp_path / "good.png")) == 0
    assert _red(report.checks(bad, tmp_path / "bad.png")) > 1e-3
    runs = {"a": (vae, torch.ones(30, 4)), "b": (vae, torch.zeros(30, 4))}
    beside = report.side_by_side(runs, tmp_path / "a.png", found={"a": good, "b": good})
    assert _red(beside) == 0
    beside = report.side_by_side(runs, tmp_path / "b.png", found={"a": good, "b": bad})
    assert _red(beside) > 1e-4


def test_a_guide_that_is_wrong_leaves_the_band(tmp_path: Path) -> None:
    """An encoder that knows nothing, and one that is sure of what is wrong."""
    vae = _vae(pv.likelihoods.Normal((3,)), decoder=Constant(torch.zeros(3)))
    exact = pv.VAE(
        vae.prior, vae.guide_family, vae.likelihood, encoder=Constant(_prior_features()),
        decoder=vae.decoder,
    )  # fmt: skip
    assert _red(report.calibration(pv.criticism.calibrate(exact), tmp_path / "exact.png")) == 0
    wrong = pv.VAE(
        vae.prior, vae.guide_family, vae.likelihood, encoder=Constant(_prior_features() + 1.0),
        decoder=vae.decoder,
    )  # fmt: skip
    assert _red(report.calibration(pv.criticism.calibrate(wrong), tmp_path / "wrong.png")) > 1e-3


def _prior_features() -> Tensor:
    """Those that make a Normal guide in two dimensions the prior."""
    raw = torch.log(torch.expm1(torch.tensor(1.0 - 1e-4)))
    return torch.cat([torch.zeros(2), raw.expand(2)])


@pytest.mark.long
def test_runs_side_by_side_are_images_or_dots(tmp_path: Path) -> None:
    for kind, likelihood in (
        ("binary images", pv.likelihoods.Bernoulli),
        ("vectors", pv.likelihoods.Normal),
        ("one number", pv.likelihoods.Normal),
    ):
        data = _data(kind)
        vae = _vae(likelihood(data.event_shape))  # type: ignore[call-arg]
        runs = {"first": (vae, data.test), "second": (vae, data.test)}
        one = report.side_by_side({"first": runs["first"]}, tmp_path / "one.png")
        two = report.side_by_side(runs, tmp_path / "two.png")
        heights = [matplotlib.image.imread(path).shape[0] for path in (one, two)]
        assert heights[1] > 1.6 * heights[0]
        assert matplotlib.image.imread(two)[..., :3].std() > 0.02
    with pytest.raises(ValueError, match="`runs`: expected at least one run"):
        report.side_by_side({}, tmp_path / "none.png")
