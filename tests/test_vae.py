"""The model and guide under stock Pyro, under torch, with users' own networks and with bad data."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.ops.stats import effective_sample_size
from pyro.optim import Adam
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.data import Rows
from pyro_vae.programs.view import ModelView


def small_vae(**networks: nn.Module) -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Bernoulli((6,)),
        **({"encoder": pv.networks.MLP((8,)), "decoder": pv.networks.MLP((8,))} | networks),
    )


def linear_vae(dim: int = 2, features: int = 4, scale: float | str = 0.5) -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(dim),
        pv.guides.Normal(dim),
        pv.likelihoods.Normal((features,), scale=scale),  # type: ignore[arg-type]
        pv.networks.MLP(()),
        pv.networks.MLP(()),
    )


def binary(n: int, features: int = 6) -> Tensor:
    return torch.bernoulli(torch.full((n, features), 0.3))


def moved(vae: pv.VAE, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in vae.named_parameters() if not torch.equal(p, before[name])}


# Under stock Pyro.


def test_stock_svi_moves_encoder_and_decoder() -> None:
    """Also of a second VAE in the process, and of a deep copy, while the first stays.

    Fails when the modules are registered under one name, or not registered.
    """
    x, first = binary(10), small_vae()
    everything = {name for name, _ in first.named_parameters()}
    assert {name.split(".")[0] for name in everything} == {"model", "guide"}

    def step(vae: pv.VAE) -> None:
        before = copy.deepcopy(vae.state_dict())
        SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
        assert moved(vae, before) == everything

    step(first)
    rest = copy.deepcopy(first.state_dict())
    second, twin = small_vae(), copy.deepcopy(first)
    assert moved(twin, rest) == set()
    step(second)
    step(twin)
    step(copy.deepcopy(twin))
    step(pickle.loads(pickle.dumps(twin)))
    assert moved(first, rest) == set()
    step(first)


def test_a_frozen_decoder_stays_and_says_nothing() -> None:
    vae, x = small_vae(), binary(10)
    vae.decoder.requires_grad_(False)
    before = copy.deepcopy(vae.state_dict())
    SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert moved(vae, before) == {f"guide.{name}" for name, _ in vae.guide.named_parameters()}


def test_stock_svi_learns() -> None:
    vae, x = small_vae(), binary(64)[:, :1].expand(-1, 6).contiguous()
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(300):
        loss = svi.step(x) / len(x)
    # All six pixels agree: one bit, H(0.3) = 0.61 nats, where independent ones cost six.
    assert loss < 2.0


def test_prior_predictive() -> None:
    """Fails when z is drawn with a standard deviation of 1.1."""
    vae = linear_vae()
    with torch.no_grad():
        vae.decoder.layers[0].weight.mul_(3)
    draws = Predictive(vae.model, num_samples=2000)(size=5)
    assert draws["z"].shape == (2000, 5, 2)
    assert draws["x"].shape == (2000, 5, 4)
    weight, bias = vae.decoder.layers[0].weight.detach(), vae.decoder.layers[0].bias.detach()
    x = draws["x"].reshape(-1, 4)
    covariance = weight @ weight.T + 0.25 * torch.eye(4)
    error = (covariance.diag() / len(x)).sqrt()
    assert ((x.mean(0) - bias) / error).abs().max() < 4
    spread = (covariance.square() + covariance.diag().outer(covariance.diag())) / len(x)
    assert ((x.T.cov() - covariance) / spread.sqrt()).abs().max() < 4


def test_posterior_predictive_needs_the_data_taken_back() -> None:
    """Replicates come from the unconditioned model; the conditioned one echoes its data.

    Fails when x is drawn with a standard deviation that is 1.1 times too large.
    """
    vae, x = linear_vae(), torch.randn(3, 4)
    echo = Predictive(vae.model, guide=vae.guide, num_samples=7)(x)["x"]
    assert torch.equal(echo, x.expand(7, 3, 4))
    model = poutine.uncondition(vae.model)
    draws = Predictive(model, guide=vae.guide, num_samples=4000, parallel=True)(x)["x"]
    assert draws.shape == (4000, 3, 4)
    weight, q = vae.decoder.layers[0].weight, vae.encode(x)
    variance = (q.variance @ weight.T.square() + 0.25).detach()
    error = (variance / len(draws)).sqrt()
    assert ((draws.mean(0) - vae.decode(q.mean).mean) / error).abs().max() < 4
    assert (draws.var(0) / variance - 1).abs().max() < 5 * math.sqrt(2 / len(draws))


@pytest.mark.long
def test_nuts_over_z_with_the_decoder_fixed() -> None:
    """Against the exact posterior of a linear-Gaussian model.

    Fails when the likelihood's scale is halved (means off by 10 standard errors).
    """
    vae, x = linear_vae().double().requires_grad_(False), torch.randn(3, 4).double()
    vae.decoder.layers[0].weight.mul_(2)
    weight, bias = vae.decoder.layers[0].weight, vae.decoder.layers[0].bias
    precision = torch.eye(2) + weight.T @ weight / 0.25
    mean = (x - bias) @ weight / 0.25 @ precision.inverse()

    mcmc = MCMC(NUTS(vae.model), num_samples=400, warmup_steps=150, disable_progbar=True)
    mcmc.run(x)
    draws = mcmc.get_samples()["z"]
    assert draws.shape == (400, 3, 2)
    size = effective_sample_size(draws.unsqueeze(0))
    error = (precision.inverse().diag() / size.clamp_max(400)).sqrt()
    assert ((draws.mean(0) - mean) / error).abs().max() < 4


@pytest.mark.parametrize("objective", [Trace_ELBO(), pv.objectives.ELBO()])
def test_a_torch_optimiser_trains_it(objective: Any) -> None:
    vae, x = small_vae(), binary(32)
    loss = objective(vae.model, vae.guide)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in vae.parameters()}
    optimiser = torch.optim.Adam(loss.parameters(), lr=1e-2)
    before = copy.deepcopy(vae.state_dict())
    values = []
    for _ in range(60):
        optimiser.zero_grad()
        values.append(loss(x))
        values[-1].backward()
        optimiser.step()
    assert moved(vae, before) == {name for name, _ in vae.named_parameters()}
    assert sum(values[-10:]) < sum(values[:10])


def test_sites_and_plate() -> None:
    vae, x = small_vae(), binary(5)
    trace = poutine.trace(vae.model).get_trace(x)
    assert set(trace.stochastic_nodes) == {"z", "data"}
    assert trace.observation_nodes == ["x"]
    (frame,) = trace.nodes["x"]["cond_indep_stack"]
    assert (frame.name, frame.dim, frame.size) == ("data", -1, 5)
    conditioned = poutine.condition(vae.model, data={"z": torch.zeros(5, 2)})
    torch.testing.assert_close(
        poutine.trace(conditioned).get_trace(x).log_prob_sum(),
        vae.decode(torch.zeros(5, 2)).log_prob(x).sum() - 5 * math.log(2 * math.pi),
    )


# Networks.


class Recorder(nn.Module):
    """A user's network, of no base class of ours, that keeps what it saw."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear = nn.Linear(before, after)
        self.seen: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen = inputs
        return self.linear(inputs)


def test_users_networks_are_taken_as_they_are() -> None:
    encoder, decoder = Recorder(6, 4), Recorder(2, 6)
    vae, x = small_vae(encoder=encoder, decoder=decoder), binary(20)
    before = copy.deepcopy(vae.state_dict())
    vae.initialize(x)
    assert moved(vae, before) == set()
    assert vae.encoder is encoder
    assert vae.decoder is decoder
    SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), pv.objectives.ELBO()).step(x)
    assert torch.equal(encoder.seen, x)
    assert moved(vae, before) == {name for name, _ in vae.named_parameters()}


def test_networks_see_one_batch_dimension() -> None:
    encoder, decoder = Recorder(6, 4), Recorder(2, 6)
    vae, x = small_vae(encoder=encoder, decoder=decoder), binary(20)
    pv.objectives.ELBO(num_particles=3).loss(vae.model, vae.guide, x)
    assert decoder.seen.shape == (60, 2)
    assert vae.decode(torch.zeros(3, 4, 5, 2)).batch_shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("networks", "says"),
    [
        ({"encoder": nn.Linear(6, 2)}, r"`encoder`: expected outputs of shape \(4,\).*\(2,\)"),
        ({"decoder": nn.Linear(2, 7)}, r"`decoder`: expected outputs of shape \(6,\).*\(7,\)"),
        (
            {"encoder": nn.Sequential(nn.Linear(6, 4), nn.Unflatten(1, (2, 2)))},
            r"`encoder`: expected outputs of shape \(4,\).*\(2, 2\)",
        ),
    ],
    ids=["encoder", "decoder", "unflattened"],
)
def test_a_network_of_the_wrong_shape_is_named(networks: dict[str, nn.Module], says: str) -> None:
    vae = small_vae(**networks)
    with pytest.raises(ValueError, match=says):
        Trace_ELBO().loss(vae.model, vae.guide, binary(5))


@pytest.mark.parametrize("shape", [(2, 2), (1, 5, 6)], ids=str)
@pytest.mark.parametrize(
    "distribution", ["Bernoulli", "Poisson", "predicted", "shared", "per-dimension"]
)
def test_an_untrained_decoder_is_at_the_marginal(shape: tuple[int, ...], distribution: str) -> None:
    """Fails when the last bias starts at zero."""
    mean = torch.linspace(0.2, 0.8, math.prod(shape)).reshape(shape)
    likelihood: pv.likelihoods.Likelihood
    if distribution == "Bernoulli":
        x, likelihood = torch.bernoulli(mean.expand(500, *shape)), pv.likelihoods.Bernoulli(shape)
    elif distribution == "Poisson":
        x, likelihood = torch.poisson(50 * mean.expand(500, *shape)), pv.likelihoods.Poisson(shape)
    else:
        x = 100 + 7 * torch.randn(500, *shape)
        likelihood = pv.likelihoods.Normal(shape, scale=distribution)  # type: ignore[arg-type]
    networks = {}
    if len(shape) == 3:
        networks = {"encoder": pv.networks.ConvEncoder(), "decoder": pv.networks.ConvDecoder()}
    vae = pv.VAE(pv.priors.Normal(3), pv.guides.Normal(3), likelihood, **networks)
    vae.initialize(x)
    with torch.no_grad():
        p = vae.decode(torch.randn(200, 3))
        # Within a tenth of a standard deviation of the data, whatever z.
        assert ((p.mean - x.mean(0)).abs() / x.std(0)).max() < 0.1
        assert (p.stddev / x.std(0) - 1).abs().max() < 0.15
        seen = ModelView(vae).encoder_input(x, {})
    assert seen.mean().abs() < 0.01
    assert abs(seen.square().mean() - 1) < 0.01


def test_initialize_leaves_a_fitted_model_alone() -> None:
    vae, x = small_vae(), binary(50)
    vae.initialize(x)
    state = copy.deepcopy(vae.state_dict())
    vae.initialize(1 - x)
    assert all(torch.equal(state[k], v) for k, v in vae.state_dict().items())
    again = small_vae()
    again.load_state_dict(state)
    again.initialize(1 - x)
    assert all(torch.equal(state[k], v) for k, v in again.state_dict().items())


# What a fitted model is asked.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_precision(dtype: torch.dtype) -> None:
    vae, x = small_vae().to(dtype), binary(5)
    assert vae.sample(3).shape == (3, 6)
    assert vae.reconstruct(x).shape == (5, 6)
    assert vae.log_prob(x, num_samples=10).shape == (5,)
    for value in (vae.sample(3), vae.reconstruct(x), vae.log_prob(x, 10), vae.model(x)):
        assert value.dtype == dtype
        assert not value.requires_grad
    assert vae.model(size=4).shape == (4, 6)
    assert vae.model().shape == (1, 6)
    assert vae.guide(x).shape == (5, 2)
    assert vae.encode(x).batch_shape == (5,)
    torch.testing.assert_close(vae.reconstruct(x), vae.decode(vae.encode(x).mean).mean.detach())
    vae.sample(3).add_(1)  # a plain tensor, no inference-mode one


def test_precision_can_change_after_training() -> None:
    vae, x = small_vae(), binary(5)
    SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    vae.double()
    SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert {p.dtype for p in vae.parameters()} == {torch.float64}


def test_half_precision_networks_meet_densities_in_single() -> None:
    vae, x = small_vae(), binary(5)
    with torch.autocast("cpu", torch.bfloat16):
        assert vae.encode(x).mean.dtype == torch.float32
        assert vae.log_prob(x, 5).dtype == torch.float32


def test_draws_have_the_moments_of_the_model() -> None:
    """Fails when z is drawn with a standard deviation of 1.5."""
    vae = small_vae()
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(3)
        x = vae.sample(20_000)
        z = torch.randn(200_000, 2)
        mean = vae.decode(z).mean.mean(0)
    error = (mean * (1 - mean) / len(x)).sqrt()
    assert ((x.mean(0) - mean) / error).abs().max() < 4


@pytest.mark.parametrize("how", [copy.deepcopy, lambda vae: pickle.loads(pickle.dumps(vae))])
def test_copies_agree_and_are_apart(how: Any) -> None:
    vae, x = small_vae(), binary(5)
    vae.initialize(x)
    pyro.set_rng_seed(1)
    value = vae.log_prob(x, 10)
    twin = how(vae)
    pyro.set_rng_seed(1)
    assert torch.equal(twin.log_prob(x, 10), value)
    assert not {p.data_ptr() for p in vae.parameters()} & {p.data_ptr() for p in twin.parameters()}
    assert twin.model.prior is twin.prior


# Bad input.


def poisson_vae() -> pv.VAE:
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((3,)))


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(4, 2), r"`x`: expected a tensor of shape \(N, 3\).*\(4, 2\)"),
        (torch.zeros(3), r"`x`: expected a tensor of shape \(N, 3\).*\(3,\)"),
        (torch.tensor(1.0), r"`x`: expected a tensor of shape \(N, 3\)"),
        ([[0.0, 1.0], [2.0]], r"`x`: expected a tensor of shape \(N, 3\)"),
        (torch.zeros(4, 3, dtype=torch.complex64), r"`x`: expected real numbers.*complex64"),
        (torch.zeros(0, 3), "`x`: expected at least one observation"),
        (
            torch.tensor([[0.0, math.nan, 2.0]]),
            r"`x`: .*support of Poisson.* nan at index \[0, 1\]",
        ),
        (torch.tensor([[0.0, 1.0, math.inf]]), r"support of Poisson.* inf at index \[0, 2\]"),
        (torch.tensor([[0.0, 1.0, -1.0]]), r"support of Poisson.* -1 at index \[0, 2\], 1 bad"),
        (torch.tensor([[0.5, 1.5, 1.0]]), r"support of Poisson.* 0.5 at .*2 bad in all"),
    ],
)
def test_bad_data_are_named(x: Any, says: str) -> None:
    vae = poisson_vae()
    with pytest.raises(ValueError, match=says) as error:
        vae.log_prob(x)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="`data`: "):
        vae.accepts(Rows(x), "data")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float64])
def test_real_data_of_any_dtype_are_taken(dtype: torch.dtype) -> None:
    x = torch.tensor([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    assert poisson_vae().log_prob(x, 5).dtype == torch.float32


def test_programs_name_what_is_missing() -> None:
    vae = poisson_vae()
    with pytest.raises(ValueError, match="`x`: expected data, since the guide is"):
        vae.guide()
    with pytest.raises(ValueError, match=r"`x`: expected a tensor of shape \(N, 3\)"):
        vae.model(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"`x`: expected a tensor of shape \(N, 3\)"):
        vae.encode(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="`n`: expected a positive integer, got 0"):
        vae.sample(0)
    with pytest.raises(ValueError, match="`num_samples`: expected a positive integer, got 0"):
        vae.log_prob(torch.zeros(2, 3), num_samples=0)


def test_pyro_validation_is_left_on() -> None:
    """Somebody's import of a library that switches it off would go unnoticed otherwise."""
    with pytest.raises(ValueError, match="scale"):
        dist.Normal(0.0, -1.0)


def test_one_network_is_not_taken_for_both_sides() -> None:
    """Else the decoder is built over the encoder, and fitting fails in a matrix product."""
    shared = pv.networks.MLP((4,))
    with pytest.raises(ValueError, match="expected a network of its own"):
        pv.VAE(
            pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,)), shared, shared
        )


@pytest.mark.parametrize(
    ("place", "network"),
    [
        ("decoder", pv.networks.SequenceEncoder(3)),
        ("decoder", pv.networks.ConvEncoder()),
        ("encoder", pv.networks.TopicDecoder()),
    ],
)
def test_a_network_of_the_other_side_is_refused(place: str, network: pv.networks.Network) -> None:
    """Fails when an encoder of levels takes z for levels, and drawing is an IndexError."""
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((1, 4, 4))
    with pytest.raises(ValueError, match=f"`{place}`: expected a network that can be one: "):
        pv.VAE(*parts, **{place: network})
