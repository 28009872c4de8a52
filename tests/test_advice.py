"""Advice names what the package has and the model has not, for every failure of every part."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from cases import CONDITIONAL, GUIDES, LIKELIHOODS, PRIORS, Case, cases_of

import pyro_vae as pv
from pyro_vae import likelihoods, priors
from pyro_vae.criticism import default_statistics
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism.advice import advise
from pyro_vae.criticism.latent import latent_statistics
from pyro_vae.criticism.relations import relations
from pyro_vae.criticism.row import Row
from pyro_vae.criticism.split import halve, residual_statistics
from pyro_vae.criticism.verdict import judged
from pyro_vae.data.entries import Entry
from pyro_vae.data.rows import Rows

_SIZE = 3  # entries of x, so that there are triples


def _vae(likelihood: Case | None = None, prior: Case | None = None) -> pv.VAE:
    """One with a part that is asked about, and the simplest others."""
    p_z = priors.Normal(2) if prior is None else prior()
    q_z = next(case() for case in GUIDES if case().space == p_z.space)
    if likelihood is None:
        p_x: pv.likelihoods.Likelihood = pv.likelihoods.Normal((_SIZE,))
    elif likelihood.part is pv.likelihoods.Mixed:
        p_x = pv.likelihoods.Mixed((_SIZE,), ["Normal", "Poisson", "StudentT"])
    else:
        p_x = likelihood(event_shape=(_SIZE,))
    sizes = {"cond_size": 2} if prior is not None and prior.part is priors.Conditional else {}
    if p_x.covariates:
        pytest.skip("a size factor changes no advice")
    return pv.VAE(p_z, q_z, p_x, pv.networks.MLP(()), pv.networks.MLP(()), **sizes)


def _all_statistics(vae: pv.VAE, x: torch.Tensor, given: dict[str, torch.Tensor]) -> set[str]:
    rows = vae.accepts(Rows(x, given))
    entries = entries_of(vae, None)
    names = {each.name for each in default_statistics(vae, size=50, **given)}
    names |= {each.name for each in latent_statistics(vae, size=500, **given)}
    names |= {each.name for each in relations(vae, rows, torch.arange(len(rows)), entries)}
    halves = halve(vae, entries, rows.given)
    if not isinstance(halves, str):
        names |= {each.name for each in residual_statistics(halves)}
    return names | {"classifier"}


def _sentences(vae: pv.VAE, names: set[str]) -> Iterator[tuple[str, str, Entry | None]]:
    one = entries_of(vae, ["a", "b", "c"])[0]
    for name in sorted(names):
        for higher in (True, False):
            for about in (None, one):
                yield name, advise(vae, name, higher, [] if about is None else [about]), about


@pytest.mark.parametrize(
    ("likelihood", "prior"),
    [
        *((each, None) for each in LIKELIHOODS),
        *((None, each) for each in (*PRIORS, *CONDITIONAL)),
    ],
    ids=str,
)
def test_advice_on_every_failure_names_what_could_help(
    likelihood: Case | None, prior: Case | None
) -> None:
    """Fails where a sentence is missing, or names a class in use, unknown, or of other data."""
    torch.manual_seed(0)
    vae = _vae(likelihood, prior)
    given = {} if vae.cond_size is None else {"cond": torch.randn(30, 2)}
    x = vae.sample(30, **given)
    for name, sentence, about in _sentences(vae, _all_statistics(vae, x, given)):
        assert sentence, name
        assert "None" not in sentence
        own = vae.likelihood if about is None else vae.likelihood.entry((0,))
        used = [own, vae.prior, *getattr(vae.prior, "parts", ())]
        for role, part in re.findall(r"(likelihoods|priors)\.(\w+)", sentence):
            package = {"likelihoods": likelihoods, "priors": priors}[role]
            assert part in package.__all__, sentence
            assert not any(isinstance(each, getattr(package, part)) for each in used), sentence
            if role == "likelihoods" and "positive" not in sentence:
                other = cases_of(getattr(likelihoods, part))[0](event_shape=(_SIZE,))
                column = x if about is None else x[:, :1]
                assert other.support.check(column).all(), f"{sentence}: not for these data"


@pytest.mark.parametrize("part", [likelihoods.Poisson, likelihoods.StudentT])
def test_a_subclass_is_not_told_to_be_its_own_kind(part: type[likelihoods.Likelihood]) -> None:
    """A class of the user's, of whose name nothing is known; fails where names are compared."""
    own = type("Own", (part,), {})((_SIZE,))
    vae = pv.VAE(priors.Normal(2), pv.guides.Normal(2), own)
    for statistic in ("dispersion", "zeros", "tails", "spread", "extremes", "marginals"):
        for higher in (True, False):
            assert f"likelihoods.{part.__name__} " not in advise(vae, statistic, higher) + " "


@pytest.mark.parametrize(
    ("likelihood", "statistic", "higher", "expected"),
    [
        (likelihoods.Poisson((2,)), "dispersion", True, "likelihoods.NegativeBinomial"),
        (likelihoods.ZeroInflatedPoisson((2,)), "zeros", True, "ZeroInflatedNegativeBinomial"),
        (likelihoods.NegativeBinomial((2,), "shared"), "dispersion", True, "='per-dimension' or"),
        (likelihoods.NegativeBinomial((2,), "predicted"), "dispersion", True, "more latent"),
        (likelihoods.ZeroInflatedPoisson((2,)), "zeros", False, "likelihoods.Poisson"),
        (likelihoods.Normal((2,), "per-dimension"), "spread", True, "(scale='predicted')"),
        (likelihoods.LogNormal((2,), "shared"), "spread", True, "scale='per-dimension' or"),
        (likelihoods.Gamma((2,), "per-dimension"), "spread", True, "dispersion='predicted'"),
        (likelihoods.StudentT((2,)), "tails", True, "fewer degrees of freedom"),
        (likelihoods.Laplace((2,)), "tails", False, "likelihoods.Normal"),
        (likelihoods.BetaBinomial((2,)), "zeros", True, "likelihoods.Categorical"),
        (likelihoods.Normal((2,)), "zeros", True, "no density has any"),
    ],
    ids=str,
)
def test_advice_is_of_the_option_or_class_that_is_left(
    likelihood: likelihoods.Likelihood, statistic: str, higher: bool, expected: str
) -> None:
    vae = pv.VAE(priors.Normal(2), pv.guides.Normal(2), likelihood)
    assert expected in advise(vae, statistic, higher)


def test_a_failing_mixture_is_not_told_to_be_one() -> None:
    for prior, words in (
        (priors.Mixture(2, 5), "priors.VampPrior, priors.Flow or more components"),
        (priors.VampPrior(2), "priors.Mixture, priors.Flow or more pseudo-inputs"),
        (priors.Flow(2), "priors.Mixture, priors.VampPrior or more transforms"),
    ):
        vae = pv.VAE(prior, pv.guides.Normal(2), likelihoods.Normal((2,)))
        assert advise(vae, "latent holes", True).endswith(words)


def test_advice_on_a_correlation_is_about_its_strength_whatever_its_sign() -> None:
    """Columns that are opposite vary together more than independent draws, not less."""
    vae = pv.VAE(priors.Normal(2), pv.guides.Normal(2), likelihoods.Normal((2,)))
    for observed, words in ((-0.99, "more than z makes them"), (0.99, "more than z makes them")):
        row = Row("correlation", "", observed, -0.1, 0.12, 0.001, "z ~ p(z)", calibrated=True)
        (found,) = judged(vae, [row], (), 0.05)
        assert words in found.advice
    row = Row("correlation", "", -0.1, -0.9, -0.8, 0.001, "z ~ p(z)", calibrated=True)
    assert "the model makes" in judged(vae, [row], (), 0.05)[0].advice
