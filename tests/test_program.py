"""Any Pyro pair is fitted and judged as a VAE is, and with a VAE's own numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import LinearGaussian
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import report
from pyro_vae.criticism import calibrate, check, pit
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism.advice import advise
from pyro_vae.data.axes import Axes, keep_axes
from pyro_vae.evaluation import ais, enumerate_log_prob, gaps, outliers
from pyro_vae.evaluation.global_latents import evaluate_globals
from pyro_vae.programs.protocol import is_amortized
from pyro_vae.report import page


@pytest.fixture(scope="module")
def linear() -> LinearGaussian:
    return LinearGaussian(dim=6, latent=2, columns="correlated", factor=1.2, dtype=torch.float64)


@pytest.fixture(scope="module")
def x(linear: LinearGaussian) -> Tensor:
    torch.manual_seed(0)
    return linear.marginal.sample((30,))


def _linear_program(scale: float = 0.8) -> pv.Program:
    """z ~ N(0, 1), x = (z, 2 z) + noise, written with plain functions: p(x) is normal."""
    slope = torch.tensor([1.0, 2.0])

    def model(x: Tensor) -> None:
        with pyro.plate("items", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * slope, 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        weight = pyro.param("weight", torch.tensor([0.1, 0.3]))
        spread = pyro.param("spread", torch.tensor(scale), constraint=dist.constraints.positive)
        with pyro.plate("items", len(x)):
            pyro.sample("z", dist.Normal(x @ weight, spread))

    return pv.Program(model, guide, plate="items")


class _Mixed:
    """A class, a number that depends on it, and two observed sites."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.net, self.decoder = nn.Linear(3, 3), nn.Linear(1, 3)

    def model(self, x: Tensor, y: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.4, 0.6])))
            z = pyro.sample("z", dist.Normal(k.float() * 2 - 1, 1.0))
            pyro.sample("x", dist.Normal(self.decoder(z[..., None]), 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Poisson((0.3 * z).exp()), obs=y)

    def guide(self, x: Tensor, y: Tensor) -> None:
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            a, loc, raw = self.net(x).unbind(-1)
            k = pyro.sample("k", dist.Categorical(logits=torch.stack([a, -a], -1)))
            pyro.sample("z", dist.Normal(loc + 0.3 * k, nn.functional.softplus(raw) + 0.3))


@pytest.fixture(scope="module")
def mixed() -> tuple[pv.Program, Tensor]:
    pair = _Mixed()
    program = pv.Program(pair.model, pair.guide, observed=("x", "y"))
    generator = torch.Generator().manual_seed(2)
    sites = {
        "x": torch.randn(60, 3, generator=generator),
        "y": torch.poisson(torch.ones(60), generator),
    }
    data = program.joined(sites)
    program.initialize(data)
    return program, data


def test_both_are_programs(linear: LinearGaussian) -> None:
    assert is_amortized(linear.vae)
    assert is_amortized(_linear_program())
    assert not is_amortized(linear.vae.model)


@pytest.mark.parametrize("proposal", ["guide", "defensive"])
def test_a_wrapped_vae_has_its_numbers(linear: LinearGaussian, x: Tensor, proposal: Any) -> None:
    program = pv.Program(linear.vae.model, linear.vae.guide)
    theirs = pv.evaluate(linear.vae, x, num_samples=300, proposal=proposal)
    ours = pv.evaluate(program, x, num_samples=300, proposal=proposal)
    for name in ("log_marginal", "mcse", "reconstruction", "kl", "k_hat", "ess"):
        assert np.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-6), name
    assert ours.active_units == theirs.active_units
    assert ours.kl_estimator == theirs.kl_estimator
    pv.compare({"a": ours, "b": theirs})


def test_annealing_has_its_numbers(linear: LinearGaussian, x: Tensor) -> None:
    program = pv.Program(linear.vae.model, linear.vae.guide)
    options: dict[str, Any] = {"num_chains": 4, "num_temperatures": 8}
    theirs, ours = (ais(each, x[:5], **options) for each in (linear.vae, program))
    assert np.allclose(ours.log_marginal, theirs.log_marginal, atol=1e-6)


def test_checks_of_a_wrapped_vae_are_its_checks(linear: LinearGaussian, x: Tensor) -> None:
    program = pv.Program(linear.vae.model, linear.vae.guide)
    theirs, ours = (pit(each, x) for each in (linear.vae, program))
    assert np.array_equal(ours.values, theirs.values)
    theirs_too, ours_too = (pit(each, x, condition_on="rest") for each in (linear.vae, program))
    assert np.allclose(ours_too.ess, theirs_too.ess, rtol=1e-6)
    ranks = [calibrate(each, num_simulations=40).ranks for each in (linear.vae, program)]
    assert np.array_equal(ranks[0], ranks[1])
    rows = [check(each, x).rows for each in (linear.vae, program)]
    assert [row.statistic for row in rows[0]] == [row.statistic for row in rows[1]]
    assert np.allclose([r.observed for r in rows[0]], [r.observed for r in rows[1]], atol=1e-6)


@pytest.mark.long
def test_the_fit_of_plain_functions_is_right() -> None:
    """log p(x) is known, and the guide comes near the posterior, which is normal."""
    program = _linear_program()
    exact = torch.distributions.MultivariateNormal(
        torch.zeros(2), torch.tensor([[1.25, 2.0], [2.0, 4.25]])
    )
    torch.manual_seed(3)
    data = exact.sample((400,))
    run = pv.fit(program, data[:300], epochs=60, lr=0.03, seed=0, device="cpu", compile=False)
    assert run.vae is program
    assert dict(program.named_parameters())["own.own.spread"].exp().item() == pytest.approx(
        21**-0.5, abs=0.03
    )
    scores = pv.evaluate(program, data[300:], num_samples=2000)
    error = np.sqrt((scores.mcse**2).sum()) / 100
    truth = exact.log_prob(data[300:]).mean().item()
    assert abs(scores.log_marginal.mean() - truth) < 3 * error + 1e-6
    assert check(program, data[300:]).num_failed == 0


def test_parameters_are_read_by_the_names_they_were_given() -> None:
    """As constrained; fails when unconstrained values are shown, or those of another pair."""
    one, other = _linear_program(), _linear_program(0.5)
    assert one.params == {}
    for program in (one, other):
        program.guide(torch.zeros(4, 2))
    assert one.params["weight"].tolist() == pytest.approx([0.1, 0.3])
    assert one.params["spread"].item() == pytest.approx(0.8)
    assert other.params["spread"].item() == pytest.approx(0.5)
    assert not one.params["spread"].requires_grad


def test_discrete_and_dependent_latents_of_two_observed_sites(
    mixed: tuple[pv.Program, Tensor],
) -> None:
    """p(x, y) is a sum over k of an integral over z, here by a fine grid."""
    program, data = mixed
    assert list(program.space) == ["k", "z"]
    assert program.base_measure == "mixed"
    scores = pv.evaluate(program, data[:8], num_samples=4000)
    grid = torch.linspace(-9.0, 9.0, 2001).double()
    mu = nn.functional.linear(grid[:, None].float(), *program.own.networks["decoder"].parameters())
    likelihood = dist.Normal(mu[:, None], 1.0).to_event(1).log_prob(data[:8, :3])
    likelihood = likelihood + dist.Poisson((0.3 * grid[:, None]).exp()).log_prob(data[:8, 3])
    prior = torch.stack(
        [p * dist.Normal(2 * k - 1.0, 1.0).log_prob(grid).exp() for k, p in ((0, 0.4), (1, 0.6))]
    ).sum(0)
    exact = ((likelihood.exp() * prior[:, None]).sum(0) * (grid[1] - grid[0])).log()
    off = (scores.log_marginal - exact.detach().numpy()) / scores.mcse
    assert np.abs(off).max() < 3.5
    assert "at each of 2 states of discrete sites, summed" in scores.estimator
    drawn = pv.evaluate(program, data[:8], num_samples=4000, proposal="guide")
    off = (drawn.log_marginal - exact.detach().numpy()) / drawn.mcse
    assert np.abs(off).max() < 3.5
    # Of the two sources of error one is gone; both estimate the bound of the same guide.
    assert np.median(scores.mcse / drawn.mcse) < 0.7
    assert np.allclose(scores.elbo, drawn.elbo, atol=0.25)


def test_every_judgement_takes_it(mixed: tuple[pv.Program, Tensor]) -> None:
    program, data = mixed
    assert pit(program, data).values.shape == (60, 4)
    assert calibrate(program, num_simulations=30).names[:2] == ("z[0]", "z[1]")
    assert check(program, data).num_data == 60
    tree = pv.to_datatree(program, data[:5], num_draws=3)
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 3, "data": 5, "latent": 2}
    predicted = pv.prior_predictive(program, size=4, num_draws=2)
    assert predicted["prior_predictive"]["x"].shape == (1, 2, 4, 4)
    assert program.simulate(7).x.shape == (7, 4)
    assert program.replicate(program.accepts(pv.data.Rows(data[:3])), 2).shape == (2, 3, 4)


def test_latents_without_gradients_are_named(mixed: tuple[pv.Program, Tensor]) -> None:
    with pytest.raises(ValueError, match="`vae`: expected a latent on all real vectors"):
        ais(*mixed)


def test_two_pairs_of_equal_names_share_nothing() -> None:
    first, second = _linear_program(), _linear_program(0.3)
    data = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    for program in (first, second):
        program.initialize(data)
    kept = second.state_dict()["own.own.spread"].clone()
    pv.fit(first, data, epochs=2, seed=0, device="cpu")
    assert torch.equal(second.state_dict()["own.own.spread"], kept)
    assert not torch.equal(first.state_dict()["own.own.spread"], kept)


def _guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.mean(-1), 1.0))


def _given(z: Tensor, x: Tensor) -> None:
    pyro.sample("x", dist.Normal(z[..., None], 1.0).expand([len(x), 2]).to_event(1), obs=x)


def _sorted(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        _given(z - z.mean(), x)


def _subsampled(x: Tensor) -> None:
    with pyro.plate("data", len(x), subsample_size=len(x) - 1) as index:
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        _given(z, x[index])


def _ragged(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        _given(z, x)
        for i in range(len(x)):
            pyro.sample(f"w{i}", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True}, obs=z)


def _factored(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.factor("penalty", -z)
        _given(z, x)


def _with_length(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0).expand([7]).to_event(1))
        _given(z[..., 0], x)


def _outside(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", len(x)):
        _given(z.expand(len(x)), x)


def _outside_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))


def _mixing_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x - x.mean(0)).sum(-1), 1.0))


def _counted(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        for i in range(int(x[0, 0] < x.mean())):
            z = pyro.sample(f"w{i}", dist.Normal(z, 1.0))
        _given(z, x)


def _counted_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.mean(-1), 1.0))
        for i in range(int(x[0, 0] < x.mean())):
            pyro.sample(f"w{i}", dist.Normal(x[:, 0], 1.0))


def _reading(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x[:, 0], 1.0))
        _given(z, x)


def _plain(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        _given(pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0)), x)


@pytest.mark.parametrize(
    ("model", "guide", "words"),
    [
        (_sorted, _guide, r"`model`: expected rows that are independent: .* of row 0"),
        (_plain, _mixing_guide, r"`guide`: expected rows that are independent: .* of row 0"),
        (_subsampled, _guide, r"`model`: expected the plate of 'z' without `subsample`"),
        (_factored, _guide, r"`model`: .*a factor, 'penalty'"),
        (_ragged, _guide, r"`model`: expected `observed` to name every observed site.*'w0'"),
        (_counted, _counted_guide, r"`model`: expected the same sites whatever the data are.*'w0'"),
        (_reading, _guide, r"`model`: expected a distribution of 'z' that does not read x"),
        (_outside, _outside_guide, r"`model`: expected a latent site in the plate 'data'"),
        (_plain, lambda x: None, r"`guide`: .*none of 'z'"),
    ],
)
def test_what_cannot_be_judged_by_row_is_named(model: Any, guide: Any, words: str) -> None:
    program = pv.Program(model, guide)
    data = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=words) as caught:
        pv.evaluate(program, data, num_samples=5)
    assert "\n" not in str(caught.value)


def test_batch_normalisation_is_refused_in_a_fit() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def guide(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x)[:, 0], 1.0))

    program = pv.Program(_plain, guide)
    data = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    pv.evaluate(program, data, num_samples=5)  # its statistics stay as they are
    with pytest.raises(ValueError, match="`net`: expected no batch normalisation .*'1'"):
        pv.fit(program, data, epochs=1, device="cpu")


def test_a_program_without_data_says_so() -> None:
    with pytest.raises(ValueError, match="`program`: expected a program that has seen data"):
        calibrate(_linear_program(), num_simulations=5)


def test_data_are_checked(mixed: tuple[pv.Program, Tensor]) -> None:
    program, data = mixed
    with pytest.raises(ValueError, match=r"`x`: expected a tensor of shape \(N, 4\)"):
        pv.evaluate(program, data[:, :3])
    with pytest.raises(ValueError, match="`cond`: expected None, as neither program takes it"):
        pv.evaluate(program, data, cond=torch.zeros(60, 2))
    unseen = data.clone()
    unseen[0, 0] = torch.nan
    with pytest.raises(ValueError, match="`x`: expected finite numbers, got '1 that are not'"):
        pv.evaluate(program, unseen)


def test_a_run_is_saved_and_loaded(tmp_path: Path) -> None:
    program, data = _linear_program(), torch.randn(40, 2)
    out = tmp_path / "run"
    run = pv.fit(program, data, epochs=2, seed=0, device="cpu", out=out)
    again = pv.load(out, program=_linear_program(0.1))
    scores = [pv.evaluate(each, data, num_samples=20) for each in (program, again)]
    assert np.array_equal(scores[0].log_marginal, scores[1].log_marginal)
    assert calibrate(again, num_simulations=5).names[0] == "z[0]"
    with pytest.raises(ValueError, match=r"`program`: expected the pair, as no file has its code"):
        pv.load(out)
    finished = pv.fit(_linear_program(), data, epochs=2, seed=0, device="cpu", out=out, resume=True)
    assert finished.history == run.history


def test_a_saved_pair_of_two_sites_is_loaded(
    mixed: tuple[pv.Program, Tensor], tmp_path: Path
) -> None:
    program, data = mixed
    pv.save(program, tmp_path / "saved")
    pair = _Mixed()
    nn.init.zeros_(pair.net.weight)
    again = pv.load(
        tmp_path / "saved", program=pv.Program(pair.model, pair.guide, observed=("x", "y"))
    )
    scores = [pv.evaluate(each, data, num_samples=20) for each in (program, again)]
    assert np.array_equal(scores[0].log_marginal, scores[1].log_marginal)


def test_an_interrupted_fit_goes_on_to_the_same_parameters(tmp_path: Path) -> None:
    data = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"epochs": 4, "batch_size": 10, "seed": 0, "device": "cpu"}
    whole = pv.fit(_linear_program(), data, **options)

    def stop(line: Any) -> None:
        if line["epoch"] == 2:
            raise RuntimeError

    out = tmp_path / "run"
    with pytest.raises(RuntimeError):
        pv.fit(_linear_program(), data, **options, out=out, checkpoint_every=3, on_epoch=stop)
    resumed = pv.fit(_linear_program(), data, **options, out=out, checkpoint_every=3, resume=True)
    for name, tensor in whole.vae.state_dict().items():
        assert torch.equal(tensor, resumed.vae.state_dict()[name]), name


class _Shared:
    """Random intercept w of all, z of each: x_i = w + z_i + noise, in four equal entries."""

    def model(self, x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 3.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((w + z).expand(len(x), 4), 1.0).to_event(1), obs=x)

    def __init__(self) -> None:
        self.globals = pyro.infer.autoguide.AutoNormal(
            pyro.poutine.block(self.model, expose=["w"]), init_scale=0.25
        )

    def guide(self, x: Tensor) -> None:
        w = self.globals(x)["w"]
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = 0.8 * (x.mean(-1, keepdim=True) - w)
            pyro.sample("z", dist.Normal(z, scale).to_event(1))


@pytest.mark.long
def test_global_latents_are_fitted_once_and_averaged_over() -> None:
    """The posterior of w is normal and known, and so is p(x_new | data)."""
    pair = _Shared()
    program = pv.Program(pair.model, pair.guide)
    torch.manual_seed(0)
    data = 2.0 + torch.randn(50, 1) + torch.randn(50, 4)
    options: dict[str, Any] = {"batch_size": 10, "lr": 0.03, "schedule": "cosine", "seed": 0}
    pv.fit(program, data[:40], epochs=120, device="cpu", **options)
    # Sufficient are the means of each row, with variance 1 + 1/4 about w.
    precision = 1 / 9 + 40 / 1.25
    mean = data[:40].mean().item() * 40 / 1.25 / precision
    drawn = torch.stack([each._globals["w"] for each in program.fixed(400)])
    assert drawn.mean().item() == pytest.approx(mean, abs=0.06)
    assert drawn.std().item() == pytest.approx(precision**-0.5, rel=0.25)  # of a batch: 0.35
    with pytest.raises(ValueError, match=r"each of `program.fixed\(S\)`, got 'one with w'"):
        ais(program, data[40:])
    found = evaluate_globals(program, data[40:], num_globals=50, num_samples=400)
    scores = pv.evaluate(program, data[40:], num_globals=50, num_samples=400)
    assert np.array_equal(scores.log_marginal, found.log_marginal)
    assert np.array_equal(scores.mcse, found.mcse)
    assert scores.k_hat.max() == max(each.k_hat.max() for each in found.by_draw)
    assert "averaged over 50 draws of the global latents" in scores.estimator
    covariance = torch.eye(4) + 1 + drawn.var()
    exact = torch.distributions.MultivariateNormal(drawn.mean().expand(4), covariance)
    off = (found.log_marginal - exact.log_prob(data[40:]).numpy()) / found.mcse
    assert np.abs(off).max() < 3.5
    assert pit(program.fixed(1)[0], data[40:]).values.shape == (10, 4)


def test_gaps_of_a_plain_guide_are_those_of_the_vae(linear: LinearGaussian, x: Tensor) -> None:
    program = pv.Program(linear.vae.model, linear.vae.guide)
    found = gaps(program, x[:4], num_steps=200, num_samples=500)
    exact = linear.gap - linear.best_gap
    assert np.abs(found.amortisation - exact).max() < 0.05
    assert np.abs(found.approximation - linear.best_gap).max() < 0.05


def test_gaps_of_a_guide_of_dependent_sites_are_refused(
    mixed: tuple[pv.Program, Tensor],
) -> None:
    with pytest.raises(ValueError, match="`vae`: expected a guide whose sites depend on x alone"):
        gaps(*mixed)


def test_sequences_under_masks_are_judged() -> None:
    """Steps beyond the length of a sequence have no density, and nothing is drawn of them."""

    def model(x: Tensor, mask: Tensor) -> None:
        z = torch.zeros(len(x))
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                with pyro.poutine.mask(mask=mask[:, t]):
                    z = pyro.sample(f"z{t}", dist.Normal(0.8 * z, 1.0))
            states = torch.stack([z], -1)
            with pyro.poutine.mask(mask=mask[:, -1]):
                pyro.sample("x", dist.Normal(states.expand(x.shape), 1.0).to_event(1), obs=x)

    def guide(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                with pyro.poutine.mask(mask=mask[:, t]):
                    pyro.sample(f"z{t}", dist.Normal(0.5 * x[:, t], 1.0))

    program = pv.Program(model, guide)
    data = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(3) < torch.tensor([1, 2, 3, 3, 3, 3])[:, None]
    scores = pv.evaluate(program, data, mask=mask, num_samples=300)
    assert list(program.space) == ["z0", "z1", "z2"]
    assert scores.log_marginal[0] == pytest.approx(0.0, abs=4 * scores.mcse[0] + 1e-6)
    longest = dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1 + 0.8**2 + 0.8**4)
    off = (scores.log_marginal[2:] - longest.log_prob(data[2:]).numpy()) / scores.mcse[2:]
    assert np.abs(off).max() < 4


@pytest.mark.long
def test_the_page_is_made_of_it(mixed: tuple[pv.Program, Tensor]) -> None:
    program, data = mixed
    text = page(program, pv.data.load(data), num_samples=20)
    assert "_Mixed.model" in text
    assert 'id="samples"' in text
    assert 'id="traversals"' not in text  # there is no decoder to move z through


def test_a_model_that_predicts_each_entry_from_the_last_is_scored_and_not_simulated() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            before = torch.stack([torch.zeros(len(x)), x[:, 0]], -1)
            pyro.sample("x", dist.Normal(z[..., None] + before, 1.0).to_event(1), obs=x)

    program = pv.Program(model, _guide)
    data = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    scores = pv.evaluate(program, data, num_samples=2000)
    steps = torch.stack([data[:, 0], data[:, 1] - data[:, 0]], -1)
    exact = dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 1).log_prob(steps)
    assert np.abs((scores.log_marginal - exact.numpy()) / scores.mcse).max() < 4
    with pytest.raises(ValueError, match="a distribution of 'x' that does not read x, to simulate"):
        check(program, data.repeat(3, 1))


@pytest.mark.long
def test_small_discrete_latents_of_a_program_are_summed() -> None:
    """As those of the VAE are, of the same pair; draws come within their errors of that."""
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.priors.Categorical(2, 3), pv.guides.GumbelSoftmax(2, 3), pv.likelihoods.Bernoulli((4,))
    )
    x = vae.sample(20, seed=1)
    vae.initialize(x)
    program = pv.Program(vae.model, vae.guide)
    theirs, summed = (pv.evaluate(each, x, num_samples=3000) for each in (vae, program))
    assert summed.is_exact
    assert summed.num_samples == 9
    for name in ("log_marginal", "reconstruction", "kl"):
        assert np.allclose(getattr(summed, name), getattr(theirs, name), atol=1e-5), name
    assert np.allclose(enumerate_log_prob(program, x), theirs.log_marginal, atol=1e-5)
    drawn = pv.evaluate(program, x, num_samples=3000, proposal="guide")
    assert drawn.estimator == "importance weighting, draws of the guide"
    assert (np.abs(drawn.log_marginal - summed.log_marginal) < 4 * drawn.mcse).all()
    with pytest.raises(ValueError, match="`vae`: expected a guide whose sites depend on x alone"):
        gaps(program, x[:2], num_steps=2)


@pytest.mark.long
def test_columns_of_a_program_are_called_by_their_names(tmp_path: Path) -> None:
    program = _linear_program()
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0)) + 3
    keep_axes(x, Axes(names=("height", "weight")))
    assert pit(program, x).summary()["worst"]["entry"] in ("height", "weight")
    failed = [row for row in check(program, x).rows if row.failed]
    means = [row for row in failed if row.statistic == "mean"]
    assert means
    assert means[0].entries[0] in ("height", "weight")
    above = "lies above the model here: fit longer, or a richer decoder"
    assert means[0].advice == f"{means[0].entries[0]} {above}"
    spread = advise(program, "spread", True, entries_of(program, x)[:1])
    assert spread[:45] == "height varies more than the likelihood does: "
    for name, drawn in (
        ("samples", report.samples(program, tmp_path / "samples.png", reference=x)),
        ("lines", report.reconstructions(program, x, tmp_path / "lines.png")),
        ("pairs", report.pairs(program, x, tmp_path / "pairs.png")),
    ):
        assert drawn.name == f"{name}.png"
        assert drawn.stat().st_size > 0
    columns = {name: column.numpy() for name, column in zip(("height", "weight"), x.T, strict=True)}
    text = page(program, pv.data.load(pd.DataFrame(columns)), num_samples=20)
    assert "2 columns: height" in text


def test_outliers_are_those_of_the_vae(linear: LinearGaussian, x: Tensor) -> None:
    program = pv.Program(linear.vae.model, linear.vae.guide)
    theirs, ours = (
        outliers(each, x[:10], reference=x[10:], num_samples=50) for each in (linear.vae, program)
    )
    assert np.array_equal(ours.p_value, theirs.p_value)
    assert np.allclose(ours.log_marginal, theirs.log_marginal, atol=1e-6)
