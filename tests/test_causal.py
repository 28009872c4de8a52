"""Networks of sequences: initial weights, probabilities, ends."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.likelihoods import Autoregressive

LEVELS, LENGTH, HIDDEN = 3, 4, 4
NETWORKS = ("convolutions", "gru", "transformer")


def some(network: str, end: int | None) -> Autoregressive:
    """A likelihood whose logits are far from uniform."""
    torch.manual_seed(0)
    likelihood = Autoregressive((LENGTH,), LEVELS, HIDDEN, network=network, end=end)
    with torch.no_grad():
        likelihood.network.last.weight.mul_(40)
        likelihood.network.bias.normal_()
    return likelihood.eval()


def strings() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(LEVELS), repeat=LENGTH)), dtype=torch.float32)


def test_the_weights_of_convolutions_are_drawn_in_the_order_of_earlier_versions() -> None:
    torch.manual_seed(1)
    network = Autoregressive((5,), levels=3, hidden=2).network
    torch.manual_seed(1)
    start = torch.randn(2)
    embedding = nn.Embedding(3, 2)
    layers = [nn.Linear(6, 2) for _ in range(3)]
    last = nn.Linear(2, 3, bias=False)
    assert torch.equal(network.start, start)
    assert torch.equal(network.embedding.weight, embedding.weight)
    for ours, before in zip(network.layers, layers, strict=True):
        assert torch.equal(ours.weight, before.weight)
        assert torch.equal(ours.bias, before.bias)
    assert torch.allclose(network.last.weight, 0.05 * last.weight)


@pytest.mark.parametrize("network", NETWORKS)
def test_probabilities_of_all_strings_sum_to_one(network: str) -> None:
    x = strings()
    d = some(network, None)(torch.randn(1, HIDDEN).expand(len(x), -1))
    assert d.log_prob(x).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_what_follows_the_end_costs_nothing(network: str) -> None:
    x = strings()
    d = some(network, 0)(torch.randn(1, HIDDEN).expand(len(x), -1))
    after = ((x == 0).cumsum(1) - (x == 0).long()) > 0
    log_prob, padded = d.log_prob(x), d.log_prob(x.masked_fill(after, 0))
    assert torch.allclose(log_prob, padded, atol=1e-5)
    ended_by_ends = ~(after & (x != 0)).any(1)
    assert log_prob[ended_by_ends].exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_frequencies_of_draws_are_the_probabilities(network: str) -> None:
    """Each string within 4.5 standard errors, of 81 strings and 20,000 draws."""
    x, count = strings(), 20_000
    likelihood, context = some(network, 0), torch.randn(1, HIDDEN)
    p = likelihood(context.expand(len(x), -1)).log_prob(x).exp()
    draws = likelihood(context.expand(count, -1)).sample()
    assert not ((draws[:, :-1] == 0) & (draws[:, 1:] != 0)).any()
    found = (draws[:, None] == x).all(-1).float().mean(0)
    there = ~((x[:, :-1] == 0) & (x[:, 1:] != 0)).any(1)
    errors = (p * (1 - p) / count).sqrt()
    # Strings of fewer than 5 expected draws have no normal frequency.
    told = there & (p * count >= 5)
    assert told.sum() > 8
    assert ((found - p)[told].abs() < 4.5 * errors[told]).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_levels_are_hidden_while_a_model_is_trained_alone(network: str) -> None:
    """From those after them, never from themselves. Fails when evaluation hides some, too."""
    likelihood, context = some(network, 0), torch.randn(1, HIDDEN)
    x = strings()
    p = likelihood(context.expand(len(x), -1)).log_prob(x)
    likelihood.network.dropout = 0.5
    assert torch.equal(likelihood(context.expand(len(x), -1)).log_prob(x), p)
    likelihood.train()
    hidden = likelihood(context.expand(len(x), -1)).log_prob(x)
    assert not torch.allclose(hidden, p)
    logits = likelihood.network(x.long(), context.expand(len(x), -1))
    likelihood.eval()
    seen = likelihood.network(x.long(), context.expand(len(x), -1))
    torch.testing.assert_close(logits[:, 0], seen[:, 0])
    assert not torch.allclose(logits[:, 1], seen[:, 1])


def test_scores_of_a_model_in_training_hide_nothing() -> None:
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        Autoregressive((LENGTH,), LEVELS, HIDDEN, network="gru", end=0, word_dropout=0.5),
        pv.networks.SequenceEncoder(LEVELS, HIDDEN, end=0),
    ).train()
    with torch.no_grad():
        vae.likelihood.network.last.weight.mul_(40)
    found = pv.evaluate(vae, strings(), num_samples=20, seed=0).log_marginal
    vae.likelihood.network.dropout = 0.0
    assert (pv.evaluate(vae, strings(), num_samples=20, seed=0).log_marginal == found).all()
