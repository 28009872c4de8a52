"""Data that are missing not at random: how the mask depends on x is part of the model."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import pytest
import torch
from cases import MISSINGNESS, Case
from linear import LinearGaussian
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from small import small
from torch import Tensor

import pyro_vae as pv
from pyro_vae import guides, likelihoods, priors, testing
from pyro_vae.cli import main
from pyro_vae.data import Rows
from pyro_vae.engine import CompiledSVI
from pyro_vae.missingness import SelfMasking
from pyro_vae.objectives import ELBO, IWAE

DIM, SIZE = 3, 6


def _model(**options: Any) -> pv.VAE:
    """A linear-Gaussian model of one latent; the larger an entry, the less is it observed."""
    linear = LinearGaussian(DIM, 1, bias=0.5, factor=1.5, dtype=torch.float64)
    plain, missingness = linear.vae, SelfMasking((DIM,))
    with torch.no_grad():
        missingness.weight.copy_(torch.tensor([-2.0, 0.7, -0.5]))
        missingness.bias.copy_(torch.tensor([0.3, 0.0, 1.0]))
    parts = plain.prior, plain.guide_family, plain.likelihood, plain.encoder, plain.decoder
    return pv.VAE(*parts, missingness=missingness, **options).double()


def _data(vae: pv.VAE, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Simulated data, NaN where their own mask hides them; one observation lacks everything."""
    trace = poutine.trace(vae.model).get_trace(size=size)
    x, mask = trace.nodes["x"]["value"], trace.nodes["mask"]["value"] > 0
    mask[0] = False
    return torch.where(mask, x, torch.nan).detach(), mask


class Grid(NamedTuple):
    """Points for integrals over z, and over a normal variable."""

    z: Tensor
    width: float
    nodes: Tensor
    weights: Tensor


def _grid() -> Grid:
    z = torch.linspace(-9, 9, 1201).double()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    known = torch.from_numpy(nodes), torch.from_numpy(weights / math.sqrt(2 * math.pi))
    return Grid(z, float(z[1] - z[0]), *known)


def _terms(vae: pv.VAE, x: Tensor, mask: Tensor, *, bound: bool) -> Tensor:
    """log p(x_o, s|z) on the grid, shape ``(Z, N)``; with ``bound`` its expectation over x_m."""
    grid, missingness = _grid(), vae.missingness
    assert isinstance(missingness, SelfMasking)
    loc = vae.decoder(grid.z[:, None])  # (Z, D)
    scale = float(vae.likelihood.scale)  # type: ignore[arg-type]
    seen = torch.where(mask, x, 0.0)
    density = torch.distributions.Normal(loc[:, None], scale).log_prob(seen)
    shown = (missingness.weight * seen + missingness.bias).sigmoid().log()
    every = loc[..., None] + scale * grid.nodes  # (Z, D, Q)
    hidden = torch.nn.functional.logsigmoid(
        -(missingness.weight[:, None] * every + missingness.bias[:, None])
    )
    inside = hidden if bound else hidden.exp()
    lost = (inside * grid.weights).sum(-1)[:, None]
    return torch.where(mask, density + shown, lost if bound else lost.log()).sum(-1)


def _log_marginal(vae: pv.VAE, x: Tensor, mask: Tensor) -> Tensor:
    """log p(x_o, s) by quadrature, shape ``(N,)``."""
    grid = _grid()
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid.z)[:, None]
    joint = _terms(vae, x, mask, bound=False) + log_prior
    return joint.logsumexp(0) + math.log(grid.width)


def _elbo(vae: pv.VAE, x: Tensor, mask: Tensor) -> Tensor:
    """The ELBO by quadrature, shape ``(N,)``."""
    grid, inputs = _grid(), torch.where(mask, x, 0.0)
    q = vae.guide_family(vae.encoder(inputs)).base_dist
    log_q = q.log_prob(grid.z[:, None, None]).squeeze(-1)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid.z)[:, None]
    inside = _terms(vae, x, mask, bound=True) + log_prior - log_q
    return (log_q.exp() * inside).sum(0) * grid.width


def test_scores_are_of_what_is_observed_and_of_the_mask() -> None:
    """Within 4 standard errors of the quadrature; fails when x_m is not drawn with each z."""
    vae = _model()
    x, mask = _data(vae, 30)
    scores = pv.evaluate(vae, x, mask=mask, num_samples=20_000, proposal="defensive")
    exact = _log_marginal(vae, x, mask).detach()
    errors = (torch.from_numpy(scores.log_marginal) - exact) / torch.from_numpy(scores.mcse)
    assert errors.abs().max() < 4
    assert (vae.log_prob(x, 20_000, mask=mask) - exact).abs().max() < 0.1
    assert scores.mcse.max() < 0.02


def test_complete_data_have_a_mask_too() -> None:
    """That everything is observed is an observation: no mask is a mask of ones."""
    vae = _model()
    x = torch.randn(5, DIM).double()
    everything = torch.ones_like(x, dtype=torch.bool)
    scores = [pv.evaluate(vae, x, mask=m, num_samples=500) for m in (everything, None)]
    assert (scores[0].log_marginal == scores[1].log_marginal).all()
    exact = _log_marginal(vae, x, everything).detach().numpy()
    assert abs((scores[0].log_marginal - exact) / scores[0].mcse).max() < 4
    losses = []
    for mask in (everything, None):
        torch.manual_seed(0)
        losses.append(IWAE(3).loss(vae.model, vae.guide, x, mask=mask))
    assert losses[0] == pytest.approx(losses[1])


def _gradients(vae: pv.VAE, loss: Tensor) -> Tensor:
    parts = torch.autograd.grad(loss, list(vae.parameters()))
    return torch.cat([part.flatten() for part in parts])


def _assert_mean(found: Tensor, exact: Tensor) -> None:
    """Checks that the mean of rows is what it should be, within 4.5 standard errors."""
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - exact).abs() < 4.5 * error + 1e-9).all()
    assert (error < 0.1 * exact.abs().max()).all()


def test_the_gradient_of_the_bound_is_unbiased() -> None:
    """Of every parameter, against quadrature; fails when x_m passes no gradient to the decoder."""
    vae = _model()
    x, mask = _data(vae)
    exact = _gradients(vae, -_elbo(vae, x, mask).sum())
    for kl in ("analytic", "sampled"):
        objective = ELBO(kl, num_particles=50)
        found = [
            _gradients(vae, objective.differentiable_loss(vae.model, vae.guide, x, mask=mask))
            for _ in range(100)
        ]
        _assert_mean(torch.stack(found), exact)


@pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
def test_the_gradient_of_many_draws_is_that_of_the_marginal(gradient: Any) -> None:
    """Of the model's parameters, against quadrature; fails when a density is counted twice."""
    vae = _model()
    x, mask = _data(vae)
    own = [*vae.model.parameters()]

    def gradients(loss: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, own)])

    exact = gradients(-_log_marginal(vae, x, mask).sum())
    objective = IWAE(3000, gradient)
    found = [
        gradients(objective.differentiable_loss(vae.model, vae.guide, x, mask=mask))
        for _ in range(40)
    ]
    _assert_mean(torch.stack(found), exact)


def test_few_draws_have_the_same_gradient_in_expectation() -> None:
    """Of all parameters, doubly reparameterised or not, within 4.5 errors of the difference."""
    vae = _model()
    x, mask = _data(vae)
    means, errors = [], []
    for gradient in ("standard", "dreg"):
        objective = IWAE(3, gradient)  # type: ignore[arg-type]
        many, known = x.repeat(200, 1), mask.repeat(200, 1)
        found = torch.stack(
            [
                _gradients(
                    vae, objective.differentiable_loss(vae.model, vae.guide, many, mask=known)
                )
                for _ in range(60)
            ]
        )
        means.append(found.mean(0))
        errors.append(found.var(0) / len(found))
    assert ((means[0] - means[1]).abs() < 4.5 * (errors[0] + errors[1]).sqrt()).all()


@pytest.mark.parametrize("mode", ["concrete", "straight-through", "enumerate"])
def test_discrete_latents_have_the_same_sites(mode: Any) -> None:
    """A sum over states is the mean over draws of them, within 4.5 standard errors."""
    vae = small(
        priors.Categorical(1, 3),
        guides.GumbelSoftmax(1, 3, mode=mode),
        likelihoods.Normal((DIM,)),
        missingness="self-masking",
    )
    x = torch.randn(5, DIM).double()
    mask = torch.rand(x.shape) > 0.4
    vae.initialize(x, mask=mask)
    with torch.no_grad():
        vae.missingness.weight.fill_(1.0)  # type: ignore[union-attr, operator]
    objective = ELBO(num_particles=1 if mode != "concrete" else 2)
    loss = objective.differentiable_loss(vae.model, vae.guide, x, mask=mask)
    assert _gradients(vae, loss).isfinite().all()
    if mode == "enumerate":
        many = x.repeat(2000, 1), mask.repeat(2000, 1)
        summed = -ELBO().loss(vae.model, vae.guide, many[0], mask=many[1]) / 2000
        drawn = ELBO().terms(vae.model, vae.guide, many[0], mask=many[1]).elbo.reshape(-1, 5)
        error = drawn.sum(1).std() / 2000**0.5
        assert abs(summed - drawn.sum(1).mean()) < 4.5 * 1.5 * error


@pytest.mark.parametrize("particles", [1, 4])
def test_stock_pyro_agrees(particles: int) -> None:
    """Of the same draws the same loss and gradient, with the sites as stock Pyro sees them."""
    vae = _model()
    x, mask = _data(vae)
    found = []
    for objective in (
        Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1),
        ELBO("sampled", num_particles=particles, vectorize_particles=True),
    ):
        torch.manual_seed(3)
        loss = objective.differentiable_loss(vae.model, vae.guide, x, mask=mask)
        found.append((loss, _gradients(vae, loss)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.long
@pytest.mark.parametrize(
    "objective", [lambda: ELBO("sampled"), lambda: IWAE(4, "dreg")], ids=["ELBO", "IWAE"]
)
def test_steps_of_stock_svi_and_of_a_graph_are_the_same(objective: Any, interpreted: None) -> None:
    """Fails when a graph freezes the draws of what is missing, or the mask."""
    x, mask = _data(_model(), 20)

    def run(engine: Any, **options: Any) -> tuple[list[float], list[Tensor], Any]:
        torch.manual_seed(0)
        pyro.clear_param_store()
        vae = _model()
        svi = engine(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), objective(), **options)
        losses = [svi.step(x.roll(i, 0), mask=mask.roll(i, 0)) for i in range(12)]
        return losses, [p.detach() for p in vae.parameters()], svi

    stock, eager, captured = (
        run(SVI),
        run(CompiledSVI, compile=False),
        run(CompiledSVI, compile=True),
    )
    assert captured[2].engine_steps["inductor"] >= 11
    for each in (eager, captured):
        torch.testing.assert_close(each[:2], stock[:2], atol=1e-9, rtol=1e-9)
    assert (stock[1][-1] - list(_model().parameters())[-1]).abs().min() > 0.01


LIKELIHOODS = [
    likelihoods.Normal((DIM,)),
    likelihoods.Laplace((DIM,), scale="predicted"),
    likelihoods.StudentT((DIM,)),
    likelihoods.LogNormal((DIM,)),
    likelihoods.Gamma((DIM,)),
    likelihoods.Beta((DIM,)),
    likelihoods.ContinuousBernoulli((DIM,)),
    likelihoods.Mixed((DIM,), ["Normal", "Gamma", "Beta"]),
]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda each: type(each).__name__)
def test_every_likelihood_whose_draws_pass_gradients_is_taken(likelihood: Any) -> None:
    """Fitted, scored, filled; what is under the mask does not matter."""
    likelihood = copy.deepcopy(likelihood)
    params = torch.randn(1, *likelihood.param_shape).expand(40, -1)
    x = likelihood(params).sample()
    mask = torch.rand(x.shape) > 0.4
    vae = small(priors.Normal(2), guides.Normal(2), likelihood, missingness="self-masking")
    vae = vae.float()
    options = {"epochs": 2, "compile": False, "device": "cpu", "seed": 1}
    pv.fit(vae, torch.where(mask, x, torch.nan), mask=mask, objective=IWAE(3), **options)  # type: ignore[arg-type]
    assert isinstance(vae.missingness, SelfMasking)
    assert vae.missingness.weight.abs().min() > 0
    found = []
    for hidden in (torch.where(mask, x, torch.nan), torch.where(mask, x, x.roll(1, 0))):
        torch.manual_seed(0)
        filled = vae.impute(hidden, mask, num_samples=20)
        draws = vae.impute(hidden, mask, num_samples=20, num_imputations=2)
        score = pv.evaluate(vae, hidden, mask=mask, num_samples=20).log_marginal
        found.append((filled, draws, torch.from_numpy(score)))
    for one, other in zip(*found, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)
    assert torch.equal(found[0][0][mask], x[mask])
    assert torch.equal(found[0][1][:, mask], x[mask].expand(2, -1))
    assert likelihood.support.check(found[0][1]).all()


def test_imputations_are_given_the_mask() -> None:
    """Means within 4 standard errors of quadrature; fails when the weights leave p(s|x) out."""
    vae = _model()
    x, mask = _data(vae, 4)
    grid, missingness = _grid(), vae.missingness
    assert isinstance(missingness, SelfMasking)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid.z)[:, None]
    with torch.no_grad():
        posterior = (_terms(vae, x, mask, bound=False) + log_prior).softmax(0)  # (Z, N)
        every = vae.decoder(grid.z[:, None])[..., None] + 0.7 * grid.nodes
        logits = missingness.weight[:, None] * every + missingness.bias[:, None]
        shares = grid.weights * (-logits).sigmoid()
        shares = shares / shares.sum(-1, keepdim=True)
        mean = torch.einsum("zn,zd->nd", posterior, (shares * every).sum(-1))
        square = torch.einsum("zn,zd->nd", posterior, (shares * every**2).sum(-1))
    many = 4000
    error = ((square - mean**2) / many).sqrt()
    filled = vae.impute(x, mask, num_samples=20_000)
    draws = vae.impute(x, mask, num_samples=40_000, num_imputations=many)
    for found in (filled, draws.mean(0)):
        assert ((found - mean) / error)[~mask].abs().max() < 4
    spread = (draws.var(0) / (square - mean**2))[~mask]
    assert ((spread - 1).abs() < 0.15).all()


@pytest.mark.long
def test_it_recovers_what_leaving_it_out_does_not() -> None:
    """The means of two columns whose large values are hidden, and of nothing else.

    Their standard error, of what is missing given the rest, is 0.02. Without the missingness they
    are more than 10 of these off, with it at most a quarter of that.
    """
    torch.manual_seed(0)
    x = torch.randn(500, 1) + 0.5 * torch.randn(500, 4)
    mask = torch.rand(x.shape) < torch.sigmoid(-3 * x)
    mask[:, 2:] = True
    errors = {}
    for missingness in (None, "self-masking"):
        vae = pv.VAE(
            priors.Normal(1),
            guides.Normal(1),
            likelihoods.Normal((4,)),
            pv.networks.MLP((16,)),
            pv.networks.MLP(()),
            show_mask=True,
            missingness=missingness,
            seed=1,
        )
        pv.fit(
            vae,
            torch.where(mask, x, torch.nan),
            mask=mask,
            objective=IWAE(10),
            epochs=60,
            batch_size=100,
            lr=1e-2,
            seed=1,
            device="cpu",
            compile=False,
        )
        errors[missingness] = (vae.impute(x, mask).mean(0) - x.mean(0))[:2].abs()
    assert (errors[None] > 10 * 0.02).all()
    assert (errors["self-masking"] < errors[None] / 4).all()
    assert (vae.missingness.weight[:2] < -1).all()  # type: ignore[union-attr]


def test_the_closed_form_of_a_scale_is_left_alone() -> None:
    """Of entries that are a selection of all, it is too small."""
    torch.manual_seed(0)
    x = torch.randn(100, DIM)
    mask = torch.rand(x.shape) > 0.3
    for missingness, kept in (("self-masking", True), (None, False)):
        vae = small(priors.Normal(1), guides.Normal(1), likelihoods.Normal((DIM,)),
                    missingness=missingness).float()  # fmt: skip
        vae.initialize(x, mask=mask)
        before = vae.likelihood.raw_scale.detach().clone()  # type: ignore[union-attr]
        pv.fit(vae, x, mask=mask, epochs=1, batch_size=50, lr=1e-9, compile=False, device="cpu")
        moved = (vae.likelihood.raw_scale - before).abs().max()  # type: ignore[operator]
        assert bool(moved < 1e-6) == kept


def test_a_run_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, DIM)
    mask = torch.rand(x.shape) > 0.3
    vae = small(priors.Normal(1), guides.Normal(1), likelihoods.Normal((DIM,)),
                show_mask=True, missingness="self-masking").float()  # fmt: skip
    options: dict[str, Any] = {"epochs": 2, "compile": False, "device": "cpu"}
    pv.fit(vae, x, mask=mask, objective=IWAE(3), out=tmp_path / "run", **options)
    again = pv.load(tmp_path / "run")
    assert isinstance(again.missingness, SelfMasking)
    assert vae.missingness is not None
    assert torch.equal(again.missingness.weight, vae.missingness.weight)  # type: ignore[arg-type]
    scores = [pv.evaluate(each, x, mask=mask, num_samples=20) for each in (vae, again)]
    assert (scores[0].log_marginal == scores[1].log_marginal).all()
    assert "missingness" in vae._repr_html_()
    # Without one there is no word of it, as in the files of before.
    plain = small(priors.Normal(1), guides.Normal(1))
    pv.save(plain, tmp_path / "plain")
    assert "missingness" not in (tmp_path / "plain" / "model.json").read_text()
    assert not any("missingness" in name for name in plain.state_dict())


def test_simulated_data_have_masks_of_their_own() -> None:
    """The share that is observed is that of the model, within 4 standard errors."""
    vae, size = _model(), 20_000
    trace = poutine.trace(vae.model).get_trace(size=size)
    x, mask = trace.nodes["x"]["value"], trace.nodes["mask"]["value"]
    assert vae.missingness is not None
    known = vae.missingness(x).mean
    assert "x_missing" not in trace.nodes
    assert x.isfinite().all()
    assert (
        (mask - known).mean(0).abs() < 4 * (known * (1 - known)).mean(0).sqrt() / size**0.5
    ).all()
    assert vae.sample(5).shape == (5, DIM)


def test_what_it_cannot_be_used_for_is_reported_in_one_line() -> None:
    vae = _model()
    x, mask = _data(vae, 30)
    normal = likelihoods.Normal((DIM,))

    def build(missingness: Any, likelihood: Any = normal) -> pv.VAE:
        return small(priors.Normal(1), guides.Normal(1), likelihood, missingness=missingness)

    def refining() -> pv.VAE:
        guide = guides.SemiAmortized(1)
        return small(priors.Normal(1), guide, normal, missingness="self-masking")

    given: dict[str, Any] = {"mask": mask}
    evaluation, criticism = pv.evaluation, pv.criticism
    for message, call in (
        (
            r"`missingness`: expected one of self-masking, got 'self-mask'",
            lambda: build("self-mask"),
        ),
        (r"`missingness`: expected None, self-masking, or a Missingness", lambda: build(3)),
        (r"`missingness`: .* of shape \(3,\), .* got \(2,\)", lambda: build(SelfMasking((2,)))),
        (
            r"`missingness`: expected None, or a likelihood of independent .* got 'Poisson'",
            lambda: build("self-masking", likelihoods.Poisson((DIM,))),
        ),
        (
            r"`missingness`: .*got 'Mixed'",
            lambda: build("self-masking", likelihoods.Mixed((2,), ["Normal", "Poisson"])),
        ),
        (
            r"`missingness`: .*got 'Dirichlet'",
            lambda: build("self-masking", likelihoods.Dirichlet((DIM,))),
        ),
        (r"`event_shape`: expected one or more", lambda: SelfMasking(())),
        (r"`mask`: expected which entries are observed", lambda: pv.fit(vae, x, device="cpu")),
        (r"`mask`: expected None without `x`", lambda: vae.model(mask=mask)),
        (r"without `missingness`; with one, evaluate", lambda: evaluation.ais(vae, x, **given)),
        (r"without `missingness`", lambda: evaluation.bdmc(vae, 3)),
        (r"without `missingness`", lambda: evaluation.gaps(vae, x, **given)),
        (r"without `missingness`", lambda: evaluation.enumerate_log_prob(vae, x, **given)),
        (
            r"without `missingness`; with one, `method=\"importance\"`",
            lambda: evaluation.posterior_draws(vae, x, method="nuts", **given),
        ),
        (
            r"`guide`: expected one that does not refine itself.* got 'SemiAmortized'",
            lambda: refining().log_prob(x.float(), 2, mask=mask),
        ),
        (r"simulates the site `mask`", lambda: criticism.check(vae, x, **given)),
        (r"simulates the site `mask`", lambda: criticism.calibrate(vae)),
        (r"simulates the site `mask`", lambda: criticism.pit(vae, x, **given)),
        (r"without `missingness`", lambda: pv.to_datatree(vae, x, **given)),
        (
            r"without `missingness`",
            lambda: vae.log_joint(torch.zeros(30, 1).double(), vae.accepts(Rows(x, given))),
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    assert evaluation.posterior_draws(
        vae, x, method="importance", num_draws=5, num_proposals=50, **given
    ).z.shape == (5, 30, 1)


def test_scores_of_masks_are_not_compared_with_scores_of_data() -> None:
    vae, plain = _model(), LinearGaussian(DIM, 1, bias=0.5, dtype=torch.float64).vae
    x, mask = _data(vae)
    scores = {
        n: pv.evaluate(v, x, mask=mask, num_samples=50) for n, v in (("a", vae), ("b", plain))
    }
    with pytest.raises(ValueError, match="expected one base measure .* counting for the mask"):
        pv.compare(scores)


@pytest.mark.parametrize("case", MISSINGNESS, ids=str)
def test_contract(case: Case) -> None:
    testing.check_missingness(case())
    testing.check_missingness(case(event_shape=(1, 2, 1)))


class _Backwards(SelfMasking):
    def start(self, mask: Tensor) -> None:
        super().start(~mask)


class _WholeBatch(SelfMasking):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x - x.mean(0) if x.ndim > 1 else x)


class _Unused(SelfMasking):
    def forward(self, x: Tensor) -> Any:
        return super().forward(torch.zeros_like(x) + 0.0 * self.weight)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (_Backwards, "does not fit"),
        (_WholeBatch, "rest of its batch"),
        (_Unused, "is zero|no grad"),
    ],
)
def test_a_broken_part_is_noticed(part: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        testing.check_missingness(part((2,)))


@pytest.mark.long
def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: Any
) -> None:
    """Fitted, scored again, filled, reported on; checks refuse it in one line."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    x = (torch.randn(60, 1) + 0.3 * torch.randn(60, 3)).numpy()
    cells = [
        ",".join("" if v > 1 and j < 1 else f"{v:.3f}" for j, v in enumerate(row)) for row in x
    ]
    Path("t.csv").write_text("\n".join(["a,b,c", *cells]) + "\n")
    fit = ["fit", "t.csv", "--likelihood", "Normal", "--epochs", "2", "--latent-dim", "1"]
    fit += ["--num-samples", "20", "--compile", "false", "--device", "cpu", "--json"]
    fit += ["--encoder.hidden", "[8]", "--decoder.hidden", "[8]", "--objective", "IWAE"]
    missing = ["--missing", "--show-mask", "--missingness", "self-masking"]
    assert main([*fit, *missing, "--out", "run"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["base_measure"]["measure"] == "lebesgue, and counting for the mask"
    assert isinstance(pv.load("run").missingness, SelfMasking)
    assert "missingness: self-masking" in Path("run/config.yaml").read_text()
    assert main(["evaluate", "run", "--num-samples", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == scores
    assert main(["impute", "run", "--out", "filled.csv", "--num-samples", "50"]) == 0
    filled = Path("filled.csv").read_text()
    assert ",," not in filled
    assert "\n," not in filled
    assert main(["report", "run", "--num-samples", "20"]) == 0
    page = Path("run/report.html").read_text()
    for words in ("would need masks of its own", "and of which entries those are", "SelfMasking"):
        assert words in page
    assert "without `missingness`" in fails("check", "run")
    fit[1] = "filled.csv"
    assert "`--missingness`: expected --missing" in fails(*fit, "--missingness", "self-masking")
    assert "`mask`: expected which entries" in fails(*fit, *missing)
    assert "self-masking" in fails(*fit, "--missing", "--missingness", "self")
