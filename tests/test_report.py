"""Pictures: what they show can be read off their pixels, for every kind of data and latent."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import matplotlib.pyplot
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import report

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
    path = report.latent(vae, data.test, tmp_path / "a.png", labels=data.labels["test"])
    blue = matplotlib.image.imread(path)
    assert ((blue[..., 2] - blue[..., 0]) > 0.2).mean() > 0.1  # even use is half way up the scale


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
