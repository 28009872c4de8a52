"""Checks reject what a model does not reproduce, and nothing else."""

from __future__ import annotations

import json
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.criticism import Checks, Statistic, _ranks, check, default_statistics
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism._measures import standardized
from pyro_vae.criticism.checks import compare, holm
from pyro_vae.criticism.latent import collapsed_units
from pyro_vae.criticism.split import Inference, _log_likelihood, halve
from pyro_vae.criticism.two_sample import classify
from pyro_vae.data.rows import Rows
from pyro_vae.distributions import by_entry

_FAMILIES = {
    "Bernoulli": pv.likelihoods.Bernoulli,
    "Normal": pv.likelihoods.Normal,
    "Poisson": pv.likelihoods.Poisson,
}


def _linear(family: str, event_shape: tuple[int, ...] = (6,), latent: int = 2) -> pv.VAE:
    likelihood = _FAMILIES[family](event_shape)
    size = math.prod(event_shape)
    decoder = nn.Sequential(nn.Linear(latent, size), nn.Unflatten(1, event_shape))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, 2 * latent))
    return pv.VAE(
        pv.priors.Normal(latent), pv.guides.Normal(latent), likelihood, encoder, decoder
    ).eval()


def _failed(checks: Checks) -> set[str]:
    return {row.statistic for row in checks.rows if row.failed}


def test_a_rank_is_uniform_when_all_are_alike() -> None:
    """Fails when ties are counted all on one side."""
    for values in (torch.randn(300, 100, 3), torch.randint(0, 3, (300, 100, 1)).double()):
        p_values = [compare(one[0], one[1:]) for one in values]
        # p is one of 1/100, ..., 1: spread over the cells of that grid, it is uniform on [0, 1].
        spread = np.array(p_values) - np.random.default_rng(0).random(300) / 100
        assert kstest(spread, "uniform").pvalue > 0.01


def test_a_rank_sees_one_bad_column_and_many_slightly_bad_ones() -> None:
    """Each by one of the two scores; the second fails without the mean rank."""
    one, many = torch.zeros(200), torch.full((200,), 1.5)
    one[7] = 6.0
    replicated = torch.randn(500, 200)
    # The best rank of either score may go to one other.
    assert compare(one, replicated) <= 2 / 501
    assert compare(many, replicated) <= 2 / 501
    assert compare(replicated[0], replicated[1:]) > 0.01


def test_a_few_columns_at_a_time_rank_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the most deviant column of a block is lost: of all, it lies in the last but one.

    Whole numbers tie, which is broken at random.
    """
    pool = torch.randint(9, (200, 50), generator=torch.Generator().manual_seed(0)).double()
    pool[0, 44] = 30
    pool[0, :20] = pool[1:, :20].mean(0)

    def p_values() -> list[float]:
        torch.manual_seed(1)
        return [compare(pool[i], torch.cat([pool[:i], pool[i + 1 :]])) for i in range(10)]

    whole = p_values()
    assert whole[0] <= 0.02
    monkeypatch.setattr(_ranks, "_AT_ONCE", 3 * len(pool))
    assert p_values() == pytest.approx(whole, abs=1e-12)


def test_holm_is_the_closed_bonferroni_test() -> None:
    """Against its definition: reject the smallest while p_(k) <= level / (m - k)."""
    p_values = [0.3, 0.011, 0.012, 0.04, 0.0001]
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for k, i in enumerate(np.argsort(p_values)):
            if p_values[i] > level / (len(p_values) - k):
                break
            rejected.add(int(i))
        assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejected


@pytest.mark.parametrize(
    ("family", "event_shape"), [("Bernoulli", (2, 3, 4)), ("Normal", (6,)), ("Poisson", (6,))]
)
def test_a_true_model_passes(family: str, event_shape: tuple[int, ...]) -> None:
    vae = _linear(family, event_shape)
    torch.manual_seed(1)  # one data set in twenty is rejected by chance, whatever the likelihood
    checks = check(vae, vae.sample(100))
    assert checks.num_failed == 0, checks
    summary = checks.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert checks.num_draws >= 40 * summary["num_checks"]


@pytest.mark.slow
def test_a_verdict_at_five_per_cent_has_that_many_false_alarms() -> None:
    """Forty true models: at most 6 alarms (of more, the chance is 0.3 %), and uniform p-values."""
    alarms, p_values = 0, dict[str, list[float]]()
    for seed in range(40):
        torch.manual_seed(seed)
        vae = _linear("Poisson")
        vae.decoder[0].weight.data.normal_()
        checks = check(vae, vae.sample(100), seed=seed)
        alarms += checks.num_failed > 0
        for row in checks.rows:
            if row.calibrated:
                p_values.setdefault(row.statistic, []).append(row.p_value)
    assert alarms <= 6
    uniform = {name: float(kstest(each, "uniform").pvalue) for name, each in p_values.items()}
    assert min(holm(list(uniform.values()))) > 0.01, uniform


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "statistic", "advice", "spoil"),
    [
        ("Poisson", "dispersion", "variance exceeds", lambda x: x * 2),
        ("Poisson", "zeros", "ZeroInflatedPoisson", lambda x: x * (torch.rand_like(x) < 0.8)),
        ("Normal", "tails", "Student-t", lambda x: x * (1 + 4 * (torch.rand_like(x) < 0.05))),
        ("Normal", "mean", "above the model", lambda x: x + torch.tensor([0, 0, 0.5, 0, 0, 0])),
        ("Normal", "neighbours", "autoregressive", lambda x: x + x.roll(1, -1)),
        ("Bernoulli", "correlation", "more latent", lambda x: x[:, :1].expand_as(x).clone()),
    ],
)
def test_a_spoiled_data_set_is_rejected_with_advice(
    family: str, statistic: str, advice: str, spoil: object
) -> None:
    vae = _linear(family)
    checks = check(vae, spoil(vae.sample(300)))  # type: ignore[operator]
    found = [row for row in checks.rows if row.failed and row.statistic == statistic]
    assert len(found) == 1, checks
    assert advice in found[0].advice or "StudentT" in found[0].advice
    assert not found[0].low <= found[0].observed <= found[0].high
    if statistic == "mean":
        assert found[0].where == "x[2]"


def test_replicates_that_have_seen_the_data_are_not_in_the_verdict() -> None:
    vae = _linear("Normal")
    rows = check(vae, vae.sample(100) + 3).rows
    seen = [row for row in rows if row.conditioned_on == "z ~ q(z|x)"]
    assert seen
    assert not any(row.calibrated or row.failed for row in seen)
    assert min(row.p_value for row in seen) < 0.01  # and yet they show it


@pytest.mark.long
def test_latent_checks_do_not_reject_for_a_poor_guide() -> None:
    """Fails when the aggregated posterior is compared with the prior instead of with replicates."""
    vae = _linear("Normal")
    vae.encoder[1].bias.data.fill_(2.0)  # far from any posterior
    assert check(vae, vae.sample(300)).num_failed == 0


def test_collapsed_units_are_named() -> None:
    vae = _linear("Normal", latent=3)
    weight, bias = vae.encoder[1].weight.data, vae.encoder[1].bias.data
    weight.zero_()[:2, :2] = torch.eye(2)
    bias.zero_()[3:] = math.log(math.expm1(1 - 1e-4))  # scale 1
    latent = check(vae, vae.sample(100)).latent
    assert latent["collapsed"] == ["z[2]"]
    assert latent["kl"][2] < 1e-6 < 0.1 < latent["kl"][0]


def test_a_one_hot_site_of_several_is_one_unit() -> None:
    """Fails when the classes are units: none of 200, each rare, has a variance above 0.01."""
    classes = 200
    encoder = nn.Linear(classes, 2 + classes)
    encoder.weight.data.zero_()[2:] = 20 * torch.eye(classes)  # the largest entry of x is the class
    encoder.bias.data.zero_()[1] = math.log(math.expm1(1 - 1e-4))  # scale 1
    vae = pv.VAE(
        pv.priors.Product([pv.priors.Normal(1), pv.priors.Categorical(1, classes)]),
        pv.guides.Product([pv.guides.Normal(1), pv.guides.GumbelSoftmax(1, classes)]),
        pv.likelihoods.Normal((classes,)),
        encoder,
    )
    latent = collapsed_units(vae, Rows(torch.eye(classes)))
    assert latent["units"] == ["z1[0]", "z2[0]"]
    assert latent["collapsed"] == ["z1[0]"]
    assert latent["kl"] == pytest.approx([0.0, math.log(classes)], abs=1e-3)


@pytest.mark.long
def test_a_categorical_latent_is_checked_by_the_use_of_its_classes() -> None:
    vae = pv.VAE(
        pv.priors.Categorical(2, 3),
        pv.guides.GumbelSoftmax(2, 3),
        pv.likelihoods.Normal((6,), scale=0.1),
        nn.Sequential(nn.Linear(6, 6), nn.Unflatten(1, (2, 3))),
        nn.Sequential(nn.Flatten(), nn.Linear(6, 6)),
    )
    vae.encoder[0].weight.data.copy_(10 * torch.eye(6))
    vae.encoder[0].bias.data.fill_(-5.0)
    vae.decoder[1].weight.data.copy_(torch.eye(6))
    vae.decoder[1].bias.data.zero_()
    x = vae.sample(300)
    assert check(vae, x).num_failed == 0
    assert "latent classes" in _failed(check(vae, x[x[:, 0] > 0.5]))


def test_user_functions_are_statistics() -> None:
    def midrange(x: Tensor) -> Tensor:
        return (x.amax((1, 2)) + x.amin((1, 2))) / 2

    vae = _linear("Normal")
    both = [midrange, Statistic("one", lambda x: x[:, 0, :2])]
    rows = check(vae, vae.sample(50), statistics=both).rows
    assert {r.statistic for r in rows} >= {"midrange", "one"}
    assert next(r.where for r in rows if r.statistic == "one") in ("[0]", "[1]")


@pytest.mark.long
def test_a_classifier_finds_what_is_unlike_the_rest() -> None:
    """Fails when scores of the training half are tested, or the indices are not of ``x``."""
    noise = [classify(torch.randn(60, 5), torch.randn(120, 5), seed=i).p_value for i in range(60)]
    assert kstest(noise, "uniform").pvalue > 0.01
    x = torch.randn(400, 5)
    x[torch.arange(0, 400, 4), 2] += 6
    found = classify(x, torch.randn(800, 5))
    assert found.p_value < 1e-4
    assert set(found.index[:30] % 4) == {0}
    area = np.trapezoid(found.true_positive_rate, found.false_positive_rate)
    assert area == pytest.approx(found.auc)


@pytest.mark.parametrize("size", [8, 20, 26])
def test_a_classifier_sees_in_few_data_what_is_far_from_replicates(size: int) -> None:
    """A hundred standard deviations. Fails, at an area of one half, with leaves of 20 rows."""
    torch.manual_seed(0)
    found = classify(torch.randn(size, 3) + 100, torch.randn(2 * size, 3))
    assert found.auc == 1.0
    assert found.p_value < 0.01


@pytest.mark.long
def test_a_classifier_of_few_data_has_its_level() -> None:
    """300 tries of 20 data like their replicates: 5 % reject, within three binomial errors."""
    tries, rejected = 300, 0
    for seed in range(tries):
        torch.manual_seed(seed)
        found = classify(torch.randn(20, 3), torch.randn(40, 3), seed=seed)
        rejected += found.p_value < 0.05
    assert rejected / tries < 0.05 + 3 * math.sqrt(0.05 * 0.95 / tries)


def test_the_most_telling_examples_are_indices_of_the_data() -> None:
    vae = _linear("Normal")
    x = vae.sample(200)
    x[::5] += 20
    checks = check(vae, x, statistics=[lambda x: x.mean((1, 2))])
    assert set(checks.classifier.index[:15] % 5) == {0}


def _exact_half(vae: pv.VAE, x: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of z given some features, of a linear-Gaussian model."""
    weight, bias = vae.decoder[0].weight[given], vae.decoder[0].bias[given]
    scale = vae.decode(torch.zeros(1, 2)).base_dist.stddev[0, 0]
    covariance = torch.linalg.inv(torch.eye(2) + weight.T @ weight / scale**2)
    return (x[:, given] - bias) @ weight @ covariance / scale**2, covariance


def test_what_rounding_leaves_of_a_constant_is_no_spread() -> None:
    """Fails when a constant is scaled by it, or what varies little about its mean is a constant."""
    constants = torch.tensor([0.1, -3.3e7, 0.0]).expand(999, 3)
    varied = 5 + 1e-4 * torch.randn(999, 1, generator=torch.Generator().manual_seed(0))
    found = standardized(torch.cat([constants, varied], 1))
    assert (found[:, :3] == 0).all()
    assert abs(float(found[:, 3].square().mean()) - 1) < 1e-3


@torch.no_grad()
def test_half_of_the_features_give_the_exact_posterior() -> None:
    """Within four standard errors; fails when all features are given, or the prior is left out."""
    vae = _linear("Normal")
    vae.decoder[0].weight.data.normal_()
    x = vae.sample(50)
    halves = halve(vae, entries_of(vae, list("abcdef")), {})
    assert [each.name for each in halves.tested] == ["d", "e", "f"]
    z, note = Inference(vae, Rows(x), halves).draws(900)
    assert note == ""
    mean, covariance = _exact_half(vae, x, halves.given)
    error = (z.mean(0) - mean) / covariance.diagonal().sqrt()
    assert error.abs().max() < 4 * math.sqrt(1 / 1000 + 1 / 300)  # draws, of effective proposals
    centered = z - mean
    found = torch.einsum("snd,sne->de", centered, centered) / centered[..., 0].numel()
    torch.testing.assert_close(found, covariance, rtol=0.05, atol=0.02)


@torch.no_grad()
def test_the_first_rows_show_where_half_of_the_features_are_hopeless() -> None:
    """They say what all rows say. Fails when every model or none is hopeless, or all are seen."""
    vae = _linear("Normal", latent=12)
    halves = halve(vae, entries_of(vae, list("abcdef")), {})
    for factor, hopeless in (
        (0.1, False),
        (1000.0, True),
    ):  # weak, and far too sharp, evidence of z
        vae.decoder[0].weight.normal_().mul_(factor)
        rows = Rows(vae.sample(60))
        inference = Inference(vae, rows, halves)
        assert inference.until_hopeless() == hopeless
        assert inference._seen == (40 if hopeless else 60)
        z, note = inference.draws(10)
        assert z.shape == (110, 40 if hopeless else 60, 12)
        assert ("of the first 40 data" in note) == hopeless


@torch.no_grad()
def test_binary_halves_are_weighed_as_their_distribution_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However far out a logit is. Fails when the tested half is weighed, too."""
    vae = _linear("Bernoulli", latent=2)
    vae.decoder[0].weight.normal_().mul_(60)  # logits of some hundred
    rows, halves = Rows(vae.sample(40)), halve(vae, entries_of(vae, None), {})
    z = vae.prior().sample((30, 40))
    entries = vae.decode(z).base_dist
    exact = dist.Bernoulli(logits=entries.logits.double()).log_prob(rows.x.double())
    monkeypatch.setattr("pyro_vae.criticism.split.draws_at_once", lambda *_: 1)  # many chunks
    found = _log_likelihood(vae, rows, halves, z)
    assert exact.min() < -100
    torch.testing.assert_close(found.double(), exact[..., :3].sum(-1), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("given", ["nothing", "a condition", "a mask"])
def test_a_decoder_makes_the_logits_of_the_given_half_alone(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its distribution has them. Fails when they are of others, or dropout is on."""
    vae = pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Bernoulli((1, 2, 3)),
        decoder=pv.networks.MLP((5, 4), dropout=0.5, norm="batch"),
        cond_size=2 if given == "a condition" else None,
    )
    for parameter in vae.parameters():
        parameter.normal_()
    more = {
        "nothing": {},
        "a condition": {"cond": torch.eye(2).repeat(20, 1)},
        "a mask": {"mask": torch.rand(40, 1, 2, 3) < 0.5},
    }[given]
    rows = Rows((torch.rand(40, 1, 2, 3) < 0.5).float(), more)
    halves = halve(vae, entries_of(vae, None), rows.given)
    z = vae.prior().sample((30, 40))
    entries = by_entry(vae.decode(z, **more), 3)
    exact = (entries.log_prob(rows.x) * halves.given).flatten(2).sum(-1)
    monkeypatch.setattr("pyro_vae.criticism.split.draws_at_once", lambda *_: 1)  # many chunks
    counted = list[int]()
    first = pv.networks.MLP.first_outputs

    def counting(self: pv.networks.MLP, count: int, *inputs: torch.Tensor) -> torch.Tensor:
        counted.append(count)
        return first(self, count, *inputs)

    monkeypatch.setattr(pv.networks.MLP, "first_outputs", counting)
    found = _log_likelihood(vae.train(), rows, halves, z)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
    assert counted == ([3] * 7 if given == "nothing" else [])  # of eight chunks


def test_log_p_of_binary_x_is_that_of_its_distribution() -> None:
    """However far out a logit is, and with its gradient. Fails when one dimension is not summed."""
    vae = _linear("Bernoulli", (1, 2, 3))
    with torch.no_grad():
        vae.decoder[0].weight.normal_().mul_(60)
        rows, z = Rows(vae.sample(40)), vae.prior().sample((30, 40))
        found = vae.log_likelihood(z, rows)
        logits = vae.decode(z).base_dist.logits.double()
    exact = dist.Bernoulli(logits=logits).log_prob(rows.x.double()).flatten(2).sum(-1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(vae.log_likelihood(z, rows).sum(), z)
    assert gradient.abs().max() > 1


def test_half_of_the_features_give_a_discrete_latent_exactly() -> None:
    vae = pv.VAE(
        pv.priors.Categorical(1, 3), pv.guides.GumbelSoftmax(1, 3), pv.likelihoods.Poisson((4,))
    )
    x = vae.sample(30)
    z, note = Inference(vae, Rows(x), halve(vae, entries_of(vae, list("abcd")), {})).draws(20_000)
    assert note == ""
    with torch.no_grad():
        entries = vae.decode(torch.eye(3)[:, None, None]).base_dist.log_prob(x)
    exact = entries[..., :2].sum(-1).softmax(0).T
    assert (z.mean(0)[:, 0] - exact).abs().max() < 5 * math.sqrt(0.25 / 20_000)


@pytest.mark.long
def test_a_likelihood_that_does_not_factorise_is_not_halved() -> None:
    class _Joint(pv.likelihoods.Likelihood):
        support = torch.distributions.constraints.real
        measure = "lebesgue"

        def forward(self, params: Tensor) -> object:
            eye = torch.eye(params.shape[-1])
            return torch.distributions.MultivariateNormal(params, eye)

        def init_params(self, x_train: Tensor) -> Tensor:
            return x_train.mean(0)

    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), _Joint((6,)))
    checks = check(vae, vae.sample(60))
    assert checks.skipped == {
        "z ~ p(z|half of x)": "_Joint does not factorise over the entries of x"
    }
    assert checks.num_failed == 0


def test_of_thousands_of_latents_no_covariance_is_made() -> None:
    """Fails when 2000 latents are inferred from half of x, which took all memory there was."""
    vae = pv.VAE(pv.priors.Normal(2000), pv.guides.Normal(2000), pv.likelihoods.Normal((6,)))
    found = halve(vae, entries_of(vae, None), {})
    assert found == "2,000 latents are too many to be inferred from half of x"


@pytest.mark.long
def test_few_effective_draws_are_not_trusted() -> None:
    """Twenty latent dimensions and no noise to speak of: no proposal finds that."""
    vae = pv.VAE(
        pv.priors.Normal(20),
        pv.guides.Normal(20),
        pv.likelihoods.Normal((40,), scale=1e-3),
        nn.Linear(40, 40),
        nn.Linear(20, 40),
    )
    rows = check(vae, vae.sample(40)).rows
    halved = [row for row in rows if row.conditioned_on == "z ~ p(z|half of x)"]
    assert halved
    assert all("effective draws" in row.note and not row.calibrated for row in halved)
    assert all("the other checks stand" in row.note for row in halved)
    assert not any(row.failed for row in halved)


@pytest.mark.long
def test_fewer_features_are_given_where_half_pin_z_down() -> None:
    """Sixteen features of small noise do, and four leave z open; fails without a second split."""
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.priors.Normal(8),
        pv.guides.Normal(8),
        pv.likelihoods.Normal((32,), scale=0.02),
        nn.Linear(32, 16),
        nn.Linear(8, 32),
    )
    vae.decoder.weight.data.zero_()[8:] = torch.randn(24, 8)
    rows = check(vae, vae.sample(40)).rows
    (on,) = {row.conditioned_on for row in rows if row.statistic.startswith("residual")}
    assert on in ("z ~ p(z|a quarter of x)", "z ~ p(z|an eighth of x)")
    assert all(row.calibrated for row in rows if row.conditioned_on == on)


def test_the_model_and_the_random_state_stay_as_they_were() -> None:
    vae = _linear("Poisson").train()
    x = vae.sample(50)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state = torch.get_rng_state()
    first = check(vae, x, seed=3).summary()
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.training
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert check(vae, x, seed=3).summary() == first
    assert check(vae, x, seed=4).summary() != first


def test_progress_rises_to_one() -> None:
    done: list[float] = []
    vae = _linear("Bernoulli")
    check(vae, vae.sample(500), progress=done.append)
    assert done == sorted(done)
    assert done[-1] == 1.0


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("`level`: expected a number between 0 and 1, got 5", {"level": 5}),
        ("`num_draws`: expected at least .* since \\d+ tests at 0.05", {"num_draws": 100}),
        ("`num_draws`: expected a positive integer, got 0", {"num_draws": 0}),
        ("`x`: expected at least 20 observations, got 19", {"x": torch.ones(19, 6)}),
        ("`x`: expected values in the support", {"x": torch.full((30, 6), 0.5)}),
        ("`statistics`: expected a list of statistics", {"statistics": "mean"}),
        ("`statistics: bad`: expected values of shape", {"statistics": [Statistic("bad", len)]}),
        (
            "`statistics: nan`: expected finite values",
            {"statistics": [Statistic("nan", lambda x: x[:, 0] * math.nan)]},
        ),
        ("`vae`: expected a VAE", {"vae": nn.Linear(4, 4)}),
    ],
)
def test_wrong_input_is_reported_in_one_line(message: str, arguments: dict[str, object]) -> None:
    given = {"vae": _linear("Bernoulli"), "x": torch.ones(40, 6)} | arguments
    with pytest.raises(ValueError, match=f"^{message}") as error:
        check(**given)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_dispersion_and_its_neighbours_against_numpy() -> None:
    vae = _linear("Poisson", (2, 3))
    statistics = {each.name: each for each in default_statistics(vae)}
    x = torch.poisson(torch.full((4, 80, 2, 3), 1.5))
    flat = x.reshape(4, 80, 6).numpy()
    expected = flat.var(1, ddof=1) / flat.mean(1)
    np.testing.assert_allclose(statistics["dispersion"](x), expected, rtol=1e-4)
    np.testing.assert_allclose(statistics["zeros"](x), (flat == 0).mean(1), rtol=1e-5)
    matrix = np.corrcoef(flat[2], rowvar=False)
    pairs = np.triu_indices(6, 1)
    np.testing.assert_allclose(statistics["correlation"](x)[2], matrix[pairs], atol=1e-5)
    neighbours = [matrix[[0, 1, 2], [3, 4, 5]].mean(), matrix[[0, 1, 3, 4], [1, 2, 4, 5]].mean()]
    np.testing.assert_allclose(statistics["neighbours"](x)[2], neighbours, atol=1e-5)
