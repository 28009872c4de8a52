"""Results do not depend on the units that data come in."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from linear import LinearGaussian
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer import EnergyDistance
from torch import Tensor, nn
from torch.distributions import AffineTransform, TransformedDistribution

import pyro_vae as pv
from pyro_vae import likelihoods
from pyro_vae.checkpoint import write_tensors
from pyro_vae.data import Rows
from pyro_vae.distributions import InUnits, positive, units_of
from pyro_vae.likelihoods.location_scale import LocationScale
from pyro_vae.testing import check_likelihood
from pyro_vae.training.scales import Scales

SIZE, FEATURES = 160, 4


class Cauchy(LocationScale):
    """A user's likelihood, of one learned scale and no closed form."""

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape, "shared")

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistributionMixin:
        return dist.Cauchy(loc, scale)

    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc = x.median(0).values
        return loc, (x - loc).abs().median(0).values


SCALES = ["shared", "per-dimension", "predicted", 0.3]
fit = partial(pv.fit, epochs=5, batch_size=32, lr=1e-2, seed=0, compile=False, device="cpu")


def table(seed: int = 0, size: int = SIZE) -> Tensor:
    """Correlated columns of mean 0 and variance 1, float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, FEATURES, generator=generator)
    x = torch.randn(size, 2, generator=generator) @ weight
    x = x + 0.3 * torch.randn(size, FEATURES, generator=generator)
    return ((x - x.mean(0)) / x.std(0)).double()


def model(likelihood: likelihoods.Likelihood, **options: Any) -> pv.VAE:
    networks = {"encoder": pv.networks.MLP((8,)), "decoder": pv.networks.MLP((8,))}
    parts = pv.priors.Normal(2), pv.guides.Normal(2), likelihood
    torch.manual_seed(1)
    return pv.VAE(*parts, **networks | options).double()


def scored(vae: pv.VAE, x: Tensor, **given: Any) -> Tensor:
    torch.manual_seed(3)
    return vae.log_prob(x, num_samples=20, **given)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("family", ["Normal", "Laplace", "StudentT"])
def test_a_fit_does_not_depend_on_the_units(family: str, scale: Any) -> None:
    """Fails where a floor, a start, a step or a draw is in the units of the data."""
    x = table()

    def fitted(a: float, b: float) -> tuple[pv.VAE, Tensor]:
        number = scale if isinstance(scale, str) else a * scale
        vae = model(getattr(likelihoods, family)((FEATURES,), scale=number))
        fit(vae, a * x + b)
        return vae, scored(vae, a * x + b) + FEATURES * math.log(a)

    first, log_prob = fitted(1.0, 0.0)
    for power in (30, -40):
        other, same = fitted(2.0**power, 0.0)
        for p, q in zip(first.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
        torch.testing.assert_close(same, log_prob, rtol=0, atol=1e-12)
    for a, b in ((1e12, 1e15), (1e-12, -1e-9), (7.0, 3.0)):
        torch.testing.assert_close(fitted(a, b)[1], log_prob, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["LogNormal", "Gamma"])
def test_a_fit_of_positive_data_does_not_depend_on_their_units(family: str) -> None:
    x = table().exp()

    def fitted(a: float) -> tuple[pv.VAE, Tensor]:
        vae = model(getattr(likelihoods, family)((FEATURES,)))
        fit(vae, a * x)
        return vae, scored(vae, a * x) + FEATURES * math.log(a)

    first, log_prob = fitted(1.0)
    for power in (30, -40):
        other, same = fitted(2.0**power)
        for p, q in zip(first.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
        torch.testing.assert_close(same, log_prob, rtol=0, atol=1e-12)
    for a in (1e12, 1e-12, 7.0):
        torch.testing.assert_close(fitted(a)[1], log_prob, rtol=0, atol=1e-6)


def test_each_column_may_have_units_of_its_own() -> None:
    """In single precision, with entries that are missing, beside counts."""
    x = table()
    counts = torch.poisson(x[:, :1].exp())
    mask = torch.rand(SIZE, FEATURES + 1) > 0.2
    mask[:, 0] = True

    def fitted(a: Tensor, b: Tensor) -> Tensor:
        columns = [likelihoods.Normal((FEATURES,)), "Poisson"]
        vae = model(likelihoods.Mixed((FEATURES + 1,), columns)).float()
        data = torch.cat([a * x + b, counts], 1).float()
        fit(vae, data, mask=mask)
        # What a mask hides of a column is worth nothing, its units included.
        return scored(vae, data, mask=mask) + (mask[:, :FEATURES] * a.log()).sum(1)

    ones = torch.ones(FEATURES).double()
    plain = fitted(ones, 0 * ones)
    a, b = torch.tensor([1e4, 1e-3, 1e-12, 1e12]).double(), torch.tensor([9.0, 1e-2, 0.0, 1e12])
    torch.testing.assert_close(fitted(a, a * b / a), plain, rtol=0, atol=2e-3)


def test_images_keep_their_quiet_pixels() -> None:
    """Pixels share a unit: one that hardly varies is not blown up."""
    x = torch.randn(200, 1, 2, 3) * torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1e-3]).view(2, 3) + 5
    loc, scale = units_of(x)
    torch.testing.assert_close(loc, x.mean(0))
    assert scale.unique().numel() == 1
    torch.testing.assert_close(scale[0, 0, 0], x.std(0, correction=0).square().mean().sqrt())
    assert likelihoods.Normal((1, 2, 3)).scale == "shared"
    assert likelihoods.Normal((6,)).scale == "per-dimension"


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (1e-30, torch.float32),
        (1e30, torch.float32),
        (1e-200, torch.float64),
        (1e200, torch.float64),
    ],
)
def test_units_neither_overflow_nor_vanish(size: float, dtype: torch.dtype) -> None:
    """The squares of these data have no place in their precision, nor 1 where one is missing."""
    x = size * table().to(dtype)
    scale = units_of(x)[1]
    torch.testing.assert_close(scale / size, x.div(size).std(0, correction=0), rtol=1e-5, atol=0)
    vae = model(likelihoods.Normal((FEATURES,))).to(dtype)
    mask = torch.rand(SIZE, FEATURES) > 0.2
    fit(vae, x, mask=mask)
    assert bool(scored(vae, x, mask=mask).isfinite().all())
    spread = (vae.sample(500, seed=0) / size).std(0)
    torch.testing.assert_close(spread, torch.ones(4, dtype=dtype), rtol=0.5, atol=0)


def test_a_column_that_never_varies_is_of_its_own_size() -> None:
    x = torch.stack([torch.full((9,), 0.1), torch.zeros(9), torch.arange(9.0)], 1)
    loc, scale = units_of(x)
    torch.testing.assert_close(loc, torch.tensor([0.1, 0.0, 4.0]))
    assert scale.tolist()[:2] == [pytest.approx(0.1), 1.0]


def test_units_are_saved_with_the_model(tmp_path: Path) -> None:
    x = 1e5 * table() + 1e7
    vae = model(likelihoods.Laplace((FEATURES,)), standardize=True)
    fit(vae, x)
    loaded = pv.load(pv.save(vae, tmp_path / "run"))
    assert torch.equal(scored(loaded, x), scored(vae, x))
    assert torch.equal(loaded.likelihood.unit_loc, vae.likelihood.unit_loc)


def _without_units(vae: pv.VAE) -> dict[str, Tensor]:
    return {name: t for name, t in vae.state_dict().items() if ".unit_" not in name}


def test_weights_without_units_leave_those_there_are() -> None:
    """Fails where a model that is given some of its weights forgets its units."""
    x = 1e5 * table() + 1e7
    vae = model(likelihoods.Normal((FEATURES,)))
    fit(vae, x)
    before = scored(vae, x)
    vae.load_state_dict(_without_units(vae), strict=False)
    assert torch.equal(scored(vae, x), before)
    assert "model.likelihood.unit_loc" in vae.state_dict()


def test_an_unfitted_model_of_before_takes_units_and_keeps_them(tmp_path: Path) -> None:
    """One that was fitted has those of the data, and no file of it has others."""
    x = 1e5 * table() + 1e7
    for fitted in (False, True):
        vae = model(likelihoods.Normal((FEATURES,)), standardize=not fitted)
        if fitted:
            fit(vae, x)
        folder = pv.save(vae, tmp_path / f"old-{fitted}")
        written = json.loads((folder / "model.json").read_text())
        digest = write_tensors(folder / "model.safetensors", _without_units(vae))
        (folder / "model.json").write_text(json.dumps(written | {"sha256": digest}))
        old = pv.load(folder)
        assert torch.equal(scored(old, x), scored(vae, x))
        if not fitted:
            fit(old, x)
        again = pv.load(pv.save(old, tmp_path / f"new-{fitted}"))
        assert torch.equal(scored(again, x), scored(old, x))
        assert ("model.likelihood.unit_loc" in again.state_dict()) is not fitted
        again.load_state_dict(model(likelihoods.Normal((FEATURES,))).state_dict())


@pytest.mark.parametrize("family", ["StudentT", "Laplace"])
def test_an_outlier_is_no_unit(family: str) -> None:
    """The others lose no more than its own share, where they lost 20 nats each."""
    x = table()
    wild = x.clone()
    wild[0] = 1e7

    def of_the_others(data: Tensor) -> float:
        vae = model(getattr(likelihoods, family)((FEATURES,)))
        fit(vae, data, epochs=30)
        return scored(vae, data[1:]).mean().item()

    # A Laplace scale is a mean of residuals, to which the outlier adds 1e7 / 160.
    least = 3.0 if family == "StudentT" else FEATURES * (math.log(1e7 / SIZE) + 3)
    assert of_the_others(wild) > of_the_others(x) - least


def test_a_subclass_needs_no_scale_and_no_closed_form(tmp_path: Path) -> None:
    own = model(Cauchy((FEATURES,)))
    fit(own, 1e6 * table())
    loaded = pv.load(pv.save(own, tmp_path / "run"), classes={"Cauchy": Cauchy})
    assert torch.equal(loaded.likelihood.unit_scale, own.likelihood.unit_scale)
    assert not own.likelihood.fits_scale
    with pytest.raises(ValueError, match="expected one whose spread has a closed form"):
        own.likelihood.fit_scale(torch.zeros(1, FEATURES), torch.zeros(1, FEATURES))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_density_of_half_precision_has_more_digits(dtype: torch.dtype) -> None:
    x = (table() * 3 + 7).to(dtype)
    likelihood = likelihoods.Normal((FEATURES,), scale=0.05)
    likelihood.take_units(x.float())
    params = torch.zeros(SIZE, FEATURES)
    # The same numbers, each of which half precision holds.
    likelihood = likelihood.to(dtype)
    exact = copy.deepcopy(likelihood).double()(params.double()).log_prob(x.double())
    torch.testing.assert_close(likelihood(params).log_prob(x).double(), exact, rtol=1e-4, atol=1e-3)


def test_the_units_of_the_data_can_be_kept(tmp_path: Path) -> None:
    """By an option that is saved, and for a decoder that is not ours."""
    x = 3 * table() + 7
    vae = model(likelihoods.Normal((FEATURES,)), standardize=False)
    fit(vae, x)
    vae = pv.load(pv.save(vae, tmp_path / "run"))
    own = model(likelihoods.Normal((FEATURES,)), decoder=nn.Linear(2, FEATURES))
    fit(own, x)
    for each in (vae, own):
        assert not each.likelihood.unit_loc.any()
        assert bool((each.likelihood.unit_scale == 1).all())
    z = torch.zeros(1, 2).double()
    torch.testing.assert_close(vae.decode(z).mean, vae.decoder(z))
    torch.testing.assert_close(own.decode(z).mean, own.decoder(z))
    assert vae.standardize is False
    assert vae.guide.standardize.scale.unique().tolist() == [1.0]
    assert own.guide.standardize.shift.mean() > 6


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_checks_do_not_depend_on_the_units(size: float) -> None:
    """Nor on what stands where nothing was observed."""
    x = table()
    mask = torch.rand(SIZE, FEATURES) > 0.2
    mask[:, 0] = True

    def p_values(a: float) -> Any:
        vae = model(likelihoods.Normal((FEATURES,)))
        fit(vae, a * x, mask=mask)
        checks = pv.criticism.check(vae, a * x, mask=mask, seed=0)
        return [row.p_value for row in checks.rows]

    assert p_values(size) == pytest.approx(p_values(1.0))


def test_in_units_is_an_affine_transform() -> None:
    """Beside torch's, which has no moments."""
    base = dist.Normal(torch.tensor([0.3, -0.2]), torch.tensor([0.5, 2.0]))
    loc, scale = torch.tensor([10.0, -4.0]), torch.tensor([3.0, 0.1])
    d = InUnits(base, loc, scale)
    reference = TransformedDistribution(base, AffineTransform(loc, scale))
    x = reference.sample((200,))
    torch.testing.assert_close(d.log_prob(x), reference.log_prob(x))
    torch.testing.assert_close(d.cdf(x), reference.cdf(x))
    torch.testing.assert_close(d.icdf(d.cdf(x)), x, rtol=1e-3, atol=1e-3)
    direct = dist.Normal(loc + scale * base.loc, scale * base.scale)
    for name in ("loc", "scale", "mean", "mode", "variance", "stddev"):
        torch.testing.assert_close(getattr(d, name), getattr(direct, name))
    torch.testing.assert_close(d.entropy(), direct.entropy())
    assert d.support is direct.support
    assert not hasattr(InUnits(dist.LogNormal(loc, scale), 0 * loc, scale), "loc")
    wide = d.expand((5, 2)).mask(torch.tensor([True, False])).to_event(1)
    torch.testing.assert_close(wide.log_prob(x[:5]), d.log_prob(x[:5])[:, 0])
    drawn = d.expand((20_000, 2)).rsample()
    error = direct.stddev / 20_000**0.5
    assert bool(((drawn.mean(0) - direct.mean).abs() < 4 * error).all())


@pytest.mark.parametrize("spread", ["shared", "per-dimension"])
@pytest.mark.parametrize("family", ["Normal", "Laplace", "StudentT", "LogNormal", "Gamma"])
def test_a_fitted_scale_has_no_gradient(family: str, spread: Any) -> None:
    """Of masked entries and weighted draws, in units that are not those of the data."""
    name = "dispersion" if family == "Gamma" else "scale"
    likelihood = getattr(likelihoods, family)((3,), **{name: spread}).double()
    x = 50 + 20 * torch.randn(40, 3).double() * torch.tensor([1.0, 2.0, 5.0]).double()
    if family in ("LogNormal", "Gamma"):
        x = (x / 50).exp()
    likelihood.take_units(x)
    params, weights = torch.randn(6, 40, 3).double(), torch.rand(6, 40).double().softmax(0)
    mask = torch.rand(40, 3) > 0.3
    likelihood.fit_scale(x, params, mask, weights)
    (raw,) = likelihood.parameters()

    def loss() -> Tensor:
        entries = likelihood(params).base_dist.log_prob(x)
        return -(weights[..., None] * mask * entries).sum()

    (slope,) = torch.autograd.grad(loss(), [raw])
    with torch.no_grad():
        raw.add_(0.1)
    (away,) = torch.autograd.grad(loss(), [raw])
    assert bool((slope.abs() < 1e-6 * away.abs()).all())


def test_a_scale_that_nothing_was_observed_of_stays() -> None:
    likelihood = likelihoods.Normal((2,), scale="per-dimension")
    before = likelihood.raw_scale.detach().clone()
    mask = torch.tensor([True, False]).expand(5, 2)
    likelihood.fit_scale(torch.full((5, 2), 3.0), torch.zeros(5, 2), mask)
    assert likelihood.raw_scale[1] == before[1]
    assert positive(likelihood.raw_scale[0]).item() == pytest.approx(3.0)


@pytest.mark.parametrize("when", ["after", "fit"])
def test_fit_leaves_a_scale_at_its_optimum(
    when: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some steps, or between epochs alone: by gradients, 32 steps of 1e-3 leave it at 1."""
    x = table(size=640)
    vae = model(likelihoods.Normal((FEATURES,), scale="shared"), decoder=pv.networks.MLP(()))
    truth = LinearGaussian(dim=FEATURES, latent=2, noise=0.3)
    with torch.no_grad():
        vae.initialize(x)
        vae.encoder.start_at(torch.zeros(4))
        vae.decoder.layers[-1].weight.copy_(truth.weight)
    fitted = Scales.fit
    if when == "after":  # not at the end of an epoch, which is the 32nd step
        monkeypatch.setattr(Scales, "fit", lambda self: None)
        monkeypatch.setattr(Scales, "after", lambda self, steps: steps == 32 and fitted(self))
    else:
        monkeypatch.setattr(Scales, "after", lambda self, steps: None)
    with caplog.at_level(logging.WARNING):
        fit(vae, x, lr=1e-3, epochs=2, batch_size=40)
    before = positive(vae.likelihood.raw_scale).item()
    fitted(Scales(vae, pv.objectives.ELBO(), Rows(x)))
    assert before == pytest.approx(positive(vae.likelihood.raw_scale).item(), rel=0.03)
    assert abs(before - 1) > 0.1
    assert caplog.text == ""


def test_a_scale_that_is_not_at_its_optimum_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows where an objective of another kind wants it: it is left to the gradients."""
    x, vae = table(), model(likelihoods.Normal((FEATURES,)))
    vae.initialize(x)
    with torch.no_grad():
        vae.likelihood.raw_scale.fill_(3.0)
    scales = Scales(vae, EnergyDistance(), Rows(x))
    scales.fit()
    scales.warn()
    assert bool((vae.likelihood.raw_scale == 3.0).all())
    (record,) = caplog.records
    assert "the learned scale of the likelihood is not at its optimum" in record.getMessage()
    caplog.clear()
    Scales(vae, pv.objectives.ELBO(), Rows(x)).fit()
    scales.warn()
    assert caplog.text == ""


@pytest.mark.parametrize(("size", "expected"), [(20, 2.0), (19, 1.0)])
def test_a_scale_is_that_of_held_out_residuals(size: int, expected: float) -> None:
    """Fails when training residuals set it, or so few held-out ones that they say nothing."""
    vae = model(likelihoods.Normal((FEATURES,)))
    vae.initialize(table())
    with torch.no_grad():
        vae.decoder.start_at(torch.zeros(FEATURES))
        vae.decoder.layers[-1].weight.zero_()
    ones = torch.ones(FEATURES).double().expand(SIZE, -1) * vae.likelihood.unit_scale
    train, held_out = ones + vae.likelihood.unit_loc, 2 * ones + vae.likelihood.unit_loc
    Scales(vae, pv.objectives.ELBO(), Rows(train), Rows(held_out[:size])).fit()
    spread = positive(vae.likelihood.raw_scale)
    torch.testing.assert_close(spread, torch.full_like(spread, expected))


@pytest.mark.parametrize("few", [True, False])
def test_a_prior_holds_scales_up_where_no_degrees_of_freedom_are_left(few: bool) -> None:
    """A decoder of more weights than there are entries may leave no residuals, whatever the noise.

    Fails where the prior is left out, is worth another number of rows, or acts where it should not.
    """
    vae = model(likelihoods.Normal((FEATURES,)))
    vae.initialize(table())
    weights = sum(p.numel() for p in vae.decoder.parameters())
    rows, enough = Rows(table()[:10]), weights // FEATURES + 1
    count = enough - 1 if few else enough
    params = vae.likelihood.to_units(rows.x)[None]  # there are no residuals
    scales = Scales(vae, pv.objectives.ELBO(), rows, num_train=count)
    scales._fit(params, torch.ones(1, 10, dtype=params.dtype))
    alone = params[0].var(0, correction=0)  # of a decoder that ignores z
    spread = positive(vae.likelihood.raw_scale)
    if few:
        torch.testing.assert_close(spread, (alone * 10 / (count + 10)).sqrt(), atol=0, rtol=1e-4)
    else:
        assert spread.max() < 1e-3
    scales.warn()  # not that they are far from the optimum of training residuals
    if few:
        held_out = Scales(vae, pv.objectives.ELBO(), rows, Rows(table()[10:30]), num_train=count)
        assert held_out.is_determined


def test_importance_weights_are_in_the_expectation() -> None:
    r"""With many draws the optimum is that of log p(x), whatever the guide.

    It is the expected square of the residuals under the exact posterior, which is known.
    """
    truth = LinearGaussian(dim=6, latent=2, factor=1.6, dtype=torch.float64)
    likelihood = likelihoods.Normal((6,), scale="shared").double()
    vae, x = truth.vae, truth.marginal.sample((300,))
    vae.model.likelihood = likelihood
    with torch.no_grad():
        likelihood.raw_scale.copy_(torch.tensor(0.7).double().expm1().log())
    posterior = truth.posterior(x)
    residuals = x - truth.offset - posterior.mean @ truth.weight.T
    spread = torch.einsum("ij,jk,ik->i", truth.weight, posterior.covariance_matrix[0], truth.weight)
    exact = (residuals.square() + spread).mean().sqrt().item()

    def fitted(objective: Any) -> float:
        with torch.no_grad():
            likelihood.raw_scale.copy_(torch.tensor(0.7 - 1e-4).double().expm1().log())
        Scales(vae, objective, Rows(x)).fit()
        return positive(likelihood.raw_scale).item()

    assert fitted(pv.objectives.IWAE(2000)) == pytest.approx(exact, rel=0.01)
    assert fitted(pv.objectives.ELBO()) > 1.05 * exact


def test_likelihoods_in_units_keep_their_contract() -> None:
    likelihood = likelihoods.Normal((2,), scale="predicted")
    likelihood.take_units(torch.tensor([[1e3, 1e-3], [3e3, -1e-3], [4e3, 2e-3]]))
    check_likelihood(likelihood)
