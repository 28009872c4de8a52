"""The ELBO against Pyro's own, against sums over all states, and against quadrature."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.enum import config_enumerate
from pyro.optim import Adam
from torch import Tensor, nn
from torch.distributions import register_kl
from torch.nn.functional import logsigmoid

import pyro_vae as pv
from pyro_vae.objectives import ELBO, MMD, Enumerated, relaxed

STOCK = {"sampled": Trace_ELBO, "analytic": TraceMeanField_ELBO}
EXACTLY = {"rtol": 1e-10, "atol": 1e-10}


def normal_vae(scale: float | str = "predicted") -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Normal((3,), scale=scale),  # type: ignore[arg-type]
        pv.networks.MLP((5,), activation="tanh"),
        pv.networks.MLP((5,), activation="tanh"),
    ).double()


def discrete_vae(groups: int = 2, classes: int = 3, **options: Any) -> pv.VAE:
    return pv.VAE(
        pv.priors.Categorical(groups, classes),
        pv.guides.GumbelSoftmax(groups, classes, **options),
        pv.likelihoods.Bernoulli((4,)),
        pv.networks.MLP((5,), activation="tanh"),
        pv.networks.MLP((5,), activation="tanh"),
    ).double()


def loss_and_gradients(
    objective: Any, model: Any, guide: Any, *args: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss under a fixed seed, and the gradient of every parameter that it reaches."""
    pyro.set_rng_seed(1)
    with poutine.trace(param_only=True) as params:
        loss = objective.differentiable_loss(model, guide, *args)
    named = {n: site["value"].unconstrained() for n, site in params.trace.nodes.items()}
    gradients = torch.autograd.grad(loss, list(named.values()))
    return loss, dict(zip(named, gradients, strict=True))


def assert_same(ours: Any, stock: Any, model: Any, guide: Any, *args: Tensor) -> None:
    loss, gradients = loss_and_gradients(ours, model, guide, *args)
    stock_loss, stock_gradients = loss_and_gradients(stock, model, guide, *args)
    torch.testing.assert_close(loss, stock_loss, **EXACTLY)
    assert gradients.keys() == stock_gradients.keys()
    assert gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, stock_gradients[name], **EXACTLY)


# Against the stock objectives, in double precision under one seed.


@pytest.mark.parametrize("kl", STOCK)
@pytest.mark.parametrize("scale", [0.7, "shared", "per-dimension", "predicted"])
def test_equals_stock(kl: str, scale: float | str) -> None:
    """Fails when the KL is doubled."""
    vae, x = normal_vae(scale), torch.randn(6, 3).double()
    assert_same(ELBO(kl), STOCK[kl](), vae.model, vae.guide, x)


@pytest.mark.parametrize("kl", STOCK)
@pytest.mark.parametrize("vectorised", [False, True])
def test_equals_stock_with_particles(kl: str, vectorised: bool) -> None:
    """Fails when the analytic KL is not divided by the number of particles."""
    vae, x = normal_vae(), torch.randn(6, 3).double()
    options = {"num_particles": 3, "vectorize_particles": vectorised, "max_plate_nesting": 1}
    ours, stock = ELBO(kl, **options), STOCK[kl](**options)
    assert_same(ours, stock, vae.model, vae.guide, x)


@pytest.mark.parametrize("kl", STOCK)
def test_equals_stock_scaled_and_masked(kl: str) -> None:
    """Fails when the analytic KL ignores the scale or the mask of its site."""
    vae, x = normal_vae(), torch.randn(6, 3).double()
    mask = torch.tensor([True, False, True, True, False, True])

    def handled(program: Callable[..., Any]) -> Callable[..., Any]:
        return poutine.scale(poutine.mask(program, mask=mask), scale=0.1)

    assert_same(ELBO(kl), STOCK[kl](), handled(vae.model), handled(vae.guide), x)


def hierarchical_model(x: Tensor) -> None:
    """A global and a local latent variable, and a plate that draws its own subsample."""
    scale = pyro.param("scale", torch.tensor(0.8).double(), constraint=dist.constraints.positive)
    w = pyro.sample("w", dist.Normal(torch.zeros(3).double(), 2.0).to_event(1))
    with pyro.plate("data", len(x), subsample_size=4) as rows:
        z = pyro.sample("z", dist.StudentT(torch.tensor(4.0).double(), 0.0, 1.0))
        loc = w * z.unsqueeze(-1)
        pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x[rows])


def hierarchical_guide(x: Tensor) -> None:
    loc = pyro.param("loc", torch.tensor([0.3, -0.2, 1.0]).double())
    slope = pyro.param("slope", torch.tensor([0.5, 0.1, -0.4]).double())
    w = pyro.sample("w", dist.Normal(loc, 0.1).to_event(1))
    with pyro.plate("data", len(x), subsample_size=4) as rows:
        pyro.sample("z", dist.Normal(x[rows] @ slope + 0.1 * w.sum(-1), 0.5))


@pytest.mark.parametrize("kl", STOCK)
@pytest.mark.parametrize("num_particles", [1, 3])
def test_equals_stock_on_a_users_own_program(kl: str, num_particles: int) -> None:
    """Two latent sites, one pair without a closed-form KL, a subsampled plate.

    Fails when the scale of a subsampled plate is ignored.
    """
    x = torch.randn(10, 3).double()
    options = {"num_particles": num_particles, "max_plate_nesting": 1}
    stock = STOCK[kl](vectorize_particles=num_particles > 1, **options)
    assert_same(ELBO(kl, **options), stock, hierarchical_model, hierarchical_guide, x)


@pytest.mark.parametrize("kl", STOCK)
def test_equals_stock_with_an_autoguide(kl: str) -> None:
    x = torch.randn(10, 3).double()

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(3).double(), 2.0).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()).double(), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    guide = AutoNormal(model)
    guide(x)
    assert_same(ELBO(kl), STOCK[kl](), model, guide, x)


def test_equals_stock_with_an_auxiliary_site() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(0.7).double())
        with pyro.plate("data", len(x)):
            noise = pyro.sample("noise", dist.Normal(x, scale), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(noise / 2, scale))

    assert_same(ELBO("sampled"), Trace_ELBO(), model, guide, torch.randn(5).double())


# Terms, weights, schedules.


@pytest.mark.parametrize("kl", STOCK)
@pytest.mark.parametrize("num_particles", [1, 4])
def test_terms_sum_to_the_loss(kl: str, num_particles: int) -> None:
    vae, x = normal_vae(), torch.randn(6, 3).double()
    objective = ELBO(kl, num_particles=num_particles)
    pyro.set_rng_seed(1)
    loss = objective.differentiable_loss(vae.model, vae.guide, x)
    pyro.set_rng_seed(1)
    terms = objective.terms(vae.model, vae.guide, x)
    assert terms.reconstruction.shape == terms.kl.shape == terms.elbo.shape == (6,)
    torch.testing.assert_close(-terms.elbo.sum(), loss.detach(), **EXACTLY)
    assert terms.kl_estimator == {"z": kl}
    if kl == "analytic":
        q = vae.encode(x).base_dist
        by_hand = (q.variance + q.mean.square() - 1 - q.variance.log()).sum(-1) / 2
        torch.testing.assert_close(terms.kl, by_hand.detach(), **EXACTLY)


def test_terms_say_which_estimator_ran() -> None:
    class HeavyTailed(pv.priors.Normal):
        def forward(self, cond: Tensor | None = None) -> Any:
            return dist.StudentT(4.0 * torch.ones(2), self.loc, self.scale).to_event(1)

    vae = pv.VAE(HeavyTailed(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
    terms = ELBO("analytic").terms(vae.model, vae.guide, torch.ones(3, 4))
    assert terms.kl_estimator == {"z": "sampled"}


def test_terms_need_the_plate() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(ValueError, match=r"plate named `data`, got '[xz]'"):
        ELBO().terms(model, guide, torch.zeros(3))


def test_beta_weighs_the_kl() -> None:
    vae, x = normal_vae(), torch.randn(6, 3).double()
    terms = None
    for beta in (0.0, 0.5, 4.0):
        objective = ELBO(beta=beta)
        pyro.set_rng_seed(1)
        loss = objective.differentiable_loss(vae.model, vae.guide, x).detach()
        pyro.set_rng_seed(1)
        terms = objective.terms(vae.model, vae.guide, x)  # the bound itself, whatever beta
        weighted = (beta * terms.kl - terms.reconstruction).sum()
        torch.testing.assert_close(loss, weighted, **EXACTLY)
    assert ELBO().is_bound
    assert not ELBO(beta=0.5).is_bound
    assert not ELBO(warmup=10).is_bound


def test_warmup_follows_the_optimiser_steps() -> None:
    """Fails when an evaluation counts as a step, or the first weight is zero."""
    vae, x = normal_vae(), torch.randn(6, 3).double()
    objective = ELBO(beta=2.0, warmup=4)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), objective)
    weights = []
    for _ in range(6):
        weights.append(float(objective.weight()))
        svi.evaluate_loss(x)
        objective.loss(vae.model, vae.guide, x)
        objective.differentiable_loss(vae.model, vae.guide, x)
        svi.step(x)
    assert weights == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert float(objective.step) == 6


def test_an_evaluation_leaves_the_model_alone() -> None:
    vae, x = normal_vae(), torch.randn(6, 3).double()
    before = copy.deepcopy(vae.state_dict())
    value = ELBO().loss(vae.model, vae.guide, x)
    assert isinstance(value, float)
    assert all(p.grad is None for p in vae.parameters())
    assert all(torch.equal(before[k], v) for k, v in vae.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl": "analytical"}, r"`kl`: .*did you mean 'analytic'\?"),
        ({"beta": -1.0}, "`beta`: expected a number >= 0, got -1"),
        ({"beta": math.nan}, "`beta`: expected a number >= 0, got nan"),
        ({"warmup": -1}, "`warmup`: "),
        ({"num_particles": 0}, "`num_particles`: expected a positive integer, got 0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ELBO(**options)


def test_a_guide_that_cannot_be_reparameterised_is_named() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.0))))

    with pytest.raises(ValueError, match=r"site z.*reparameterised or relaxed.*Bernoulli"):
        ELBO().differentiable_loss(model, guide, torch.zeros(3))


@pytest.mark.parametrize(
    "stock",
    [
        Trace_ELBO(),
        TraceMeanField_ELBO(),
        RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_stock_objectives_train_it(stock: Any) -> None:
    vae, x = normal_vae("shared"), torch.randn(32, 3).double()
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), stock)
    first = svi.evaluate_loss(x)
    for _ in range(50):
        svi.step(x)
    assert svi.evaluate_loss(x) < first - 5


# Discrete latents: against sums over all joint states, by loops over them.


def brute_force(vae: pv.VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the ELBO and log p(x) of each observation, from networks and textbook formulas."""
    groups, classes = vae.prior.event_shape
    log_pi = vae.encoder(vae.guide.standardize(x)).log_softmax(-1)
    terms, joints = [], []
    for state in itertools.product(range(classes), repeat=groups):
        z = torch.zeros(1, groups, classes).double()
        for group, klass in enumerate(state):
            z[0, group, klass] = 1.0
        logits = vae.decoder(z)
        log_joint = (x * logsigmoid(logits) + (1 - x) * logsigmoid(-logits)).sum(-1)
        log_joint = log_joint - groups * math.log(classes)
        log_q = sum((log_pi[:, g, k] for g, k in enumerate(state)), torch.zeros(()))
        terms.append(log_q.exp() * (log_q - log_joint))
        joints.append(log_joint)
    return torch.stack(terms).sum(0), torch.stack(joints).logsumexp(0)


def gradients_of(loss: Tensor, module: nn.Module) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])


def binary(n: int) -> Tensor:
    return torch.bernoulli(torch.full((n, 4), 0.4)).double()


@pytest.mark.parametrize("kl", STOCK)
@pytest.mark.parametrize("num_particles", [1, 2])
def test_enumeration_equals_brute_force(kl: str, num_particles: int) -> None:
    """Fails when the states are weighted by p(z) in place of q(z|x)."""
    vae, x = discrete_vae(mode="enumerate"), binary(7)
    objective = ELBO(kl, num_particles=num_particles)  # type: ignore[arg-type]
    loss = objective.differentiable_loss(vae.model, vae.guide, x)
    exact = brute_force(vae, x)[0].sum()
    torch.testing.assert_close(loss, exact, **EXACTLY)
    torch.testing.assert_close(gradients_of(loss, vae), gradients_of(exact, vae), **EXACTLY)


@pytest.mark.parametrize(
    "objective",
    [ELBO(), ELBO("sampled"), ELBO("sampled", num_particles=2), Enumerated(), Enumerated("prior")],
    ids=lambda o: f"{type(o).__name__}-{getattr(o, 'over', getattr(o, 'kl', ''))}",
)
def test_a_scale_is_of_the_enumerated_bound(objective: Any) -> None:
    """Fails when q(z|x), or p(x, z), is taken to the power of the scale before states are summed.

    What a mask hides counts for nothing; fails when each of its states counts as one.
    """
    vae, x = discrete_vae(mode="enumerate"), binary(7)
    seen = torch.arange(7) < 4
    whole = objective.differentiable_loss(vae.model, vae.guide, x)
    part = objective.differentiable_loss(vae.model, vae.guide, x[seen])
    with poutine.scale(scale=0.3):
        scaled = objective.differentiable_loss(vae.model, vae.guide, x)
        terms = objective.terms(vae.model, vae.guide, x)
    with poutine.mask(mask=seen):
        masked = objective.differentiable_loss(vae.model, vae.guide, x)
    torch.testing.assert_close(scaled, 0.3 * whole, **EXACTLY)
    torch.testing.assert_close(
        gradients_of(scaled, vae.model), 0.3 * gradients_of(whole, vae.model)
    )
    torch.testing.assert_close(masked, part, **EXACTLY)
    if isinstance(objective, Enumerated):
        torch.testing.assert_close(-terms.elbo.sum(), scaled.detach(), **EXACTLY)


def test_scales_that_differ_are_refused_where_states_are_summed() -> None:
    vae, x = discrete_vae(), binary(3)

    def half(x: Tensor) -> Any:
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", vae.prior())
            pyro.sample("x", vae.model.decode(z), obs=x)

    with pytest.raises(ValueError, match=r"`model`: expected the same scale at every site"):
        Enumerated("prior").loss(half, vae.guide, x)


class _Closed(dist.Normal):
    """A distribution whose divergence from its own kind is registered as a plain number."""


@register_kl(_Closed, _Closed)
def _quarter(p: _Closed, q: _Closed) -> float:
    return 0.25


def _closed_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", _Closed(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _closed_guide(x: Tensor) -> None:
    loc = pyro.param("loc", torch.tensor(0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("z", _Closed(loc, 1.0))


def test_a_closed_form_may_be_a_plain_number() -> None:
    terms = ELBO().terms(_closed_model, _closed_guide, torch.zeros(3))
    assert terms.kl.tolist() == [0.25] * 3
    assert terms.kl_estimator == {"z": "analytic"}


def test_an_error_beside_the_closed_form_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when what scales the divergence is inside the `try`: then it is sampled instead."""
    said = iter([NotImplementedError("not this scale")])

    def once(value: Tensor, scale: Any, mask: Any) -> Tensor:
        for error in said:
            raise error
        return value

    monkeypatch.setattr("pyro_vae.objectives.objective.scale_and_mask", once)
    with pytest.raises(NotImplementedError, match="not this scale"):
        ELBO().terms(normal_vae().model, normal_vae().guide, torch.zeros(3, 3).double())


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_distance_does_not_teach_a_prior_whose_draws_have_no_gradient(beta: float) -> None:
    """Fails when the distance is taken to draws without a gradient for the prior's parameters."""
    small = {"encoder": pv.networks.MLP((5,)), "decoder": pv.networks.MLP((5,))}
    x = torch.randn(6, 3)

    def loss(prior: Any) -> Tensor:
        vae = pv.VAE(prior, pv.guides.Normal(2), pv.likelihoods.Normal((3,)), **small)
        return MMD(beta=beta).differentiable_loss(vae.model, vae.guide, x)

    with pytest.raises(ValueError, match=r"^`model`: expected a prior that is not learned"):
        loss(pv.priors.Mixture(2, components=3))
    assert loss(pv.priors.Mixture(2).requires_grad_(False)).isfinite()
    assert loss(pv.priors.Normal(2)).isfinite()


def test_stock_enumeration_agrees() -> None:
    vae, x = discrete_vae(), binary(7)
    guide = config_enumerate(vae.guide, expand=True)
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(vae.model, guide, x)
    exact = brute_force(vae, x)[0].sum()
    torch.testing.assert_close(loss, exact, **EXACTLY)
    torch.testing.assert_close(gradients_of(loss, vae), gradients_of(exact, vae), **EXACTLY)


def draws(vae: pv.VAE, x: Tensor, chunks: int = 60, size: int = 500) -> tuple[Tensor, Tensor]:
    """Losses and gradients of one observation, each the mean over a chunk of independent draws."""
    losses, gradients = [], []
    for _ in range(chunks):
        many = x.expand(size, -1)
        loss = ELBO().differentiable_loss(vae.model, vae.guide, many) / size
        losses.append(loss.detach())
        gradients.append(gradients_of(loss, vae))
    return torch.stack(losses), torch.stack(gradients)


def in_standard_errors(estimates: Tensor, truth: Tensor) -> Tensor:
    """How many standard errors the mean of independent estimates is from the truth."""
    error = estimates.std(0) / math.sqrt(len(estimates))
    return ((estimates.mean(0) - truth).abs() / error.clamp_min(1e-12)).max()


def test_straight_through_has_the_exact_value_and_a_biased_gradient() -> None:
    """The decoder sees true draws, so its gradient is exact in the mean; the encoder's is not.

    Fails when the decoder is given the relaxed draw.
    """
    vae, x = discrete_vae(mode="straight-through", temperature=1.0), binary(1)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(3)  # sharp enough for value and bias to show
    exact = brute_force(vae, x)[0].sum()
    truth = gradients_of(exact, vae)
    losses, gradients = draws(vae, x)
    assert in_standard_errors(losses, exact.detach()) < 4
    decoder = sum(p.numel() for p in vae.model.parameters())
    assert in_standard_errors(gradients[:, :decoder], truth[:decoder]) < 5
    encoder, exact_encoder = gradients[:, decoder:].mean(0), truth[decoder:]
    assert torch.cosine_similarity(encoder, exact_encoder, dim=0) > 0.8


def test_the_relaxed_losses_are_the_integrals_they_claim() -> None:
    """One variable of two classes, where integrals over the simplex are over one real number.

    Fails when the temperatures of guide and prior differ, or when the decoder is given the
    logarithm of the draw.
    """
    x, temperature = binary(1), 0.6
    t = torch.linspace(-60, 60, 40_001).double()
    log_z = torch.stack([logsigmoid(t), logsigmoid(-t)], -1)

    def log_concrete(logits: Tensor) -> Tensor:
        shifted = logits - temperature * log_z
        return math.log(temperature) + shifted.sum(-1) - 2 * shifted.logsumexp(-1)

    vae = discrete_vae(1, 2, mode="concrete", temperature=temperature)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(3)
    log_likelihood = vae.decode(log_z.exp().unsqueeze(1)).log_prob(x)
    logits = vae.encoder(x)[0, 0]
    log_q, log_p = log_concrete(logits), log_concrete(torch.zeros(2))

    def integral(values: Tensor) -> Tensor:
        return torch.trapezoid(values, t)

    torch.testing.assert_close(integral(log_q.exp()), torch.tensor(1.0).double())
    elbo = integral(log_q.exp() * (log_likelihood + log_p - log_q))
    log_marginal = integral((log_likelihood + log_p).exp()).log()
    losses, gradients = draws(vae, x)
    assert in_standard_errors(losses, -elbo.detach()) < 4
    assert in_standard_errors(gradients, gradients_of(-elbo, vae)) < 5  # unbiased, for this bound
    assert losses.mean() > -log_marginal

    soft = copy.deepcopy(vae)
    soft.guide_family.mode = "soft"
    pi = logits.softmax(-1)
    kl = (pi * (pi.log() + math.log(2))).sum()
    losses, _ = draws(soft, x)
    expectation = integral(log_q.exp() * vae.decode(log_z.exp().unsqueeze(1)).log_prob(x))
    assert in_standard_errors(losses, (kl - expectation).detach()) < 4


@pytest.mark.parametrize("mode", ["soft", "straight-through"])
def test_draws_without_a_density_need_the_analytic_kl(mode: str) -> None:
    vae = discrete_vae(mode=mode)
    with pytest.raises(ValueError, match=f"`kl`: expected `analytic`.*{mode}"):
        ELBO("sampled").differentiable_loss(vae.model, vae.guide, binary(3))


@pytest.mark.parametrize("mode", ["concrete", "enumerate", "soft", "straight-through"])
@pytest.mark.parametrize("training", [True, False])
def test_outside_the_objective_all_is_categorical(mode: str, training: bool) -> None:
    vae, x = discrete_vae(mode=mode).train(training), binary(20)
    for _ in range(2):
        for trace in (
            poutine.trace(vae.guide).get_trace(x),
            poutine.trace(vae.model).get_trace(size=20),
        ):
            z = trace.nodes["z"]["value"]
            assert z.shape == (20, 2, 3)
            assert ((z == 0) | (z == 1)).all()
            assert (z.sum(-1) == 1).all()
        terms = ELBO().terms(vae.model, vae.guide, x)
        assert terms.kl_estimator == {"z": "analytic"}
        ELBO().differentiable_loss(vae.model, vae.guide, x)  # leaves nothing behind


@pytest.mark.parametrize("mode", ["concrete", "soft", "straight-through"])
def test_what_the_decoder_sees_in_each_mode(mode: str) -> None:
    vae, x, seen = discrete_vae(mode=mode), binary(50), []
    vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ELBO().differentiable_loss(vae.model, vae.guide, x)
    (z,) = seen
    torch.testing.assert_close(z.sum(-1), torch.ones(50, 2).double())
    one_hot = ((z == 0) | (z == 1)).all()
    assert one_hot == (mode == "straight-through")
    assert (z >= 0).all()
    assert z.requires_grad


def test_the_handler_relaxes_and_then_stops() -> None:
    vae, x = discrete_vae(), binary(5)
    with relaxed("soft", torch.tensor(0.5)):
        z = vae.guide(x)
        assert ((z > 0) & (z < 1)).all()
    z = vae.guide(x)
    assert ((z == 0) | (z == 1)).all()


def test_the_temperature_follows_the_optimiser_steps() -> None:
    """Fails when the temperature ignores the step: the losses of all steps are then equal."""
    guide = pv.guides.GumbelSoftmax(2, 3, temperature=2.0, min_temperature=0.5, anneal_rate=0.4)
    steps = torch.tensor([0.0, 1.0, 3.0, 100.0])
    wanted = [2.0, 2 * math.exp(-0.4), 2 * math.exp(-1.2), 0.5]
    (found,) = [site.relaxation for site in guide.space.values() if site.relaxation]
    torch.testing.assert_close(found.temperature_at(steps), torch.tensor(wanted))

    annealed = discrete_vae(mode="soft", temperature=2.0, min_temperature=0.5, anneal_rate=0.4)
    objective, x = ELBO(), binary(7)
    for step in range(4):
        fixed = copy.deepcopy(annealed)
        fixed.guide_family.temperature = 2 * math.exp(-0.4 * step)
        fixed.guide_family.anneal_rate = 0.0
        pyro.set_rng_seed(1)
        loss = objective.loss(annealed.model, annealed.guide, x)
        pyro.set_rng_seed(1)
        assert loss == pytest.approx(ELBO().loss(fixed.model, fixed.guide, x), rel=1e-6)
        objective.advance()


def test_stock_svi_trains_a_discrete_guide_by_its_score() -> None:
    vae, x = discrete_vae(), binary(20)
    before = copy.deepcopy(vae.state_dict())
    SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    moved = [n for n, p in vae.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) == len(list(vae.parameters()))
