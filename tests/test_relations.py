"""Rows that follow one another, means given z and conditions, and triples of entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.criticism import Statistic, check
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism._replicates import repeated, simulate
from pyro_vae.criticism.checks import compare, values
from pyro_vae.criticism.relations import Seen, interactions, relations
from pyro_vae.data.rows import Rows, given_of

_NUM_DRAWS = 99


def _linear(likelihood: pv.likelihoods.Likelihood, **sizes: Any) -> pv.VAE:
    networks = pv.networks.MLP(()), pv.networks.MLP(())
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, *networks, **sizes).eval()
    for parameter in vae.decoder.parameters():
        parameter.data.normal_()
    return vae


@torch.no_grad()
def _p_values(vae: pv.VAE, x: Tensor, **given: Tensor) -> dict[str, tuple[float, str]]:
    """The p-value of each statistic and the column that deviates most, as `check` has them."""
    rows = vae.accepts(Rows(x, given_of(given)))
    entries, places = entries_of(vae, None), torch.arange(len(rows))
    drawn = simulate(vae, _NUM_DRAWS, len(rows), rows.given)
    of_x = interactions(vae, drawn[:5].flatten(0, 1).flatten(1), entries)
    of_both = relations(vae, rows, places, entries)
    guide = vae.encode(drawn.flatten(0, 1), **repeated(rows.given, _NUM_DRAWS))
    z = guide.sample().unflatten(0, (_NUM_DRAWS, len(rows)))

    def of(x: Tensor, z: Tensor) -> list[Tensor]:
        return [*values(of_x, x), *values(of_both, torch.cat([x.flatten(2), z.flatten(2)], -1))]

    observed = of(rows.x[None], vae.encode(rows.x, **rows.given).sample()[None])
    found: dict[str, tuple[float, str]] = {}
    for each, one, many in zip((*of_x, *of_both), observed, of(drawn, z), strict=True):
        away = ((one[0] - many.mean(0)) / many.std(0)).abs().nan_to_num()
        found[each.name] = compare(one[0], many), each.column(int(away.argmax()), many.shape[1])
    return found


@pytest.mark.parametrize(
    ("likelihood", "conditioned"),
    [
        (pv.likelihoods.Normal((6,)), False),
        (pv.likelihoods.Bernoulli((2, 2)), True),
        (pv.likelihoods.Categorical((3,), levels=3), True),
    ],
    ids=str,
)
def test_p_values_are_uniform_under_a_true_model(
    likelihood: pv.likelihoods.Likelihood, conditioned: bool
) -> None:
    """Of 50 data sets, by Kolmogorov-Smirnov at 0.1 %; also where conditions come in an order.

    Fails, for those, where replicates are given conditions in another order than the data.
    """
    found = dict[str, list[float]]()
    condition = {"cond": torch.linspace(-2, 2, 40)[:, None]} if conditioned else {}
    for seed in range(50):
        torch.manual_seed(seed)
        vae = _linear(likelihood, **{"cond_size": 1} if conditioned else {})
        for name, (p_value, _) in _p_values(vae, vae.sample(40, **condition), **condition).items():
            found.setdefault(name, []).append(p_value)
    assert set(found) == {"interactions", "row order", "conditional means"}
    for name, p_values in found.items():
        spread = np.array(p_values) - np.random.default_rng(0).random(50) / (_NUM_DRAWS + 1)
        assert kstest(spread, "uniform").pvalue > 0.001, name


def _latents(size: int, of_last: float) -> Tensor:
    z = torch.randn(size, 2)
    for i in range(1, size):
        z[i] = of_last * z[i - 1] + (1 - of_last**2) ** 0.5 * z[i]
    return z


def test_rows_that_depend_on_the_last_one_are_found_and_named() -> None:
    """And only as long as they are in their order, which `check` shuffles."""
    torch.manual_seed(0)
    vae = _linear(pv.likelihoods.Normal((6,)))
    with torch.no_grad():
        x = vae.decode(_latents(200, 0.6)).sample()
    few = [Statistic("mean", lambda x: x.mean(1))]
    (row,) = [each for each in check(vae, x, statistics=few).rows if each.failed]
    assert row.statistic == "row order"
    assert "rows that follow one another" in row.title
    assert row.advice.startswith("rows depend on their neighbours")
    assert "blocks" in row.advice
    shuffled = x[torch.randperm(200)]
    assert check(vae, shuffled, statistics=few).num_failed == 0


def test_a_slow_change_along_the_rows_is_found() -> None:
    """A drift by two standard deviations of the noise; fails without the cosines."""
    torch.manual_seed(0)
    vae = _linear(pv.likelihoods.Normal((6,), scale=1.0))
    for parameter in vae.decoder.parameters():
        parameter.data.zero_()
    drift = torch.linspace(-1, 1, 150)[:, None] * torch.tensor([0, 0, 1.0, 0, 0, 0])
    p_value, where = _p_values(vae, vae.sample(150) + drift)["row order"]
    assert p_value <= 2 / (_NUM_DRAWS + 1)
    assert where == "x[2], its slow change along the rows"


def test_a_mean_that_bends_with_z_is_found() -> None:
    """A wrong link, to second order: x has z squared in it. Fails without the squares."""
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)
    family = pv.likelihoods.Normal((6,), scale=0.5)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), family, encoder, decoder).eval()
    decoder.weight.data.normal_()
    decoder.bias.data.zero_()
    encoder.weight.data[:2] = torch.linalg.pinv(decoder.weight.data)  # about the posterior's mean
    encoder.bias.data[:2] = 0.0
    z = torch.randn(300, 2)
    with torch.no_grad():
        x = vae.decode(z).sample()
    x[:, 4] += 0.6 * (z[:, 0].square() - 1)
    p_value, where = _p_values(vae, x)["conditional means"]
    assert p_value <= 2 / (_NUM_DRAWS + 1)
    assert where.startswith("x[4] given z[")


def test_a_mean_that_bends_with_a_condition_is_found() -> None:
    torch.manual_seed(0)
    vae = _linear(pv.likelihoods.Normal((6,), scale=0.5), cond_size=2)
    cond = torch.randn(300, 2)
    x = vae.sample(300, cond=cond)
    assert _p_values(vae, x, cond=cond)["conditional means"][0] > 0.05
    x[:, 3] += cond[:, 1].square()
    p_value, where = _p_values(vae, x, cond=cond)["conditional means"]
    assert p_value <= 2 / (_NUM_DRAWS + 1)
    assert where == "x[3] given cond[1] squared"


def test_an_interaction_of_three_is_found_where_pairs_are_as_they_should_be() -> None:
    """The third entry is the parity of two others: no two of them are dependent."""
    torch.manual_seed(0)
    vae = _linear(pv.likelihoods.Bernoulli((5,)))
    for parameter in vae.decoder.parameters():
        parameter.data.zero_()
    x = torch.randint(2, (200, 5)).float()
    assert _p_values(vae, x)["interactions"][0] > 0.05
    x[:, 3] = (x[:, 0] + x[:, 1]) % 2
    p_value, where = _p_values(vae, x)["interactions"]
    assert p_value <= 2 / (_NUM_DRAWS + 1)
    assert where == "x[0], x[1], x[3]"
    checks = check(vae, x)
    assert any("in threes" in row.advice for row in checks.rows)
    assert not any(row.failed for row in checks.rows if row.statistic == "correlation")


def test_relations_against_numpy() -> None:
    """Each of the values, of one data set."""
    torch.manual_seed(0)
    vae = _linear(pv.likelihoods.Normal((4,)), cond_size=1)
    x, z, cond = torch.randn(1, 50, 4), torch.randn(1, 50, 2), torch.randn(50, 1)
    order = torch.randperm(50)
    entries = entries_of(vae, None)
    rows = Rows(x[0], {"cond": cond})
    of_rows, of_means = (
        each(torch.cat([x, z], -1))[0] for each in relations(vae, rows, order, entries)
    )
    s = torch.cat([x, z], -1)[0].double().numpy()
    s = (s - s.mean(0)) / s.std(0)
    in_order = s[np.argsort(order.numpy())]
    np.testing.assert_allclose(of_rows[:6], (in_order[1:] * in_order[:-1]).mean(0), atol=1e-5)
    grid = np.pi * (np.arange(50) + 0.5) / 50
    slow = sum((2 / 50) * (np.cos(k * grid) @ in_order) ** 2 / 50 for k in range(1, 9))
    np.testing.assert_allclose(of_rows[6:], slow, atol=1e-5)
    c = cond[:, 0].double().numpy()
    functions = [s[:, 4] ** 2, s[:, 4] * s[:, 5], s[:, 5] ** 2, c, ((c - c.mean()) / c.std()) ** 2]
    expected = [((f - f.mean()) / f.std()) @ s[:, d] / 50 for f in functions for d in range(4)]
    np.testing.assert_allclose(of_means, expected, atol=1e-5)
    (triples,) = interactions(vae, x[0], entries)
    near = s.clip(-3, 3)
    expected = [
        (near[:, i] * near[:, j] * near[:, k]).mean()
        for i, j, k in [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)]
    ]
    np.testing.assert_allclose(triples(x)[0], expected, atol=1e-5)


def test_of_many_entries_those_that_vary_are_looked_at() -> None:
    """Evenly; fails where the dark margin of an image takes the place of what is in it."""
    vae = _linear(pv.likelihoods.Bernoulli((40, 40)))
    drawn = torch.zeros(100, 1600)
    drawn[:, 800:] = torch.randint(2, (100, 800)).float()
    seen = Seen(vae, drawn, entries_of(vae, None), 16)
    assert [each.index for (each,) in seen.of] == [*range(800, 1600, 50)]


def test_positive_numbers_are_seen_by_logarithms_and_angles_by_their_directions() -> None:
    x = torch.rand(1, 9, 3) + 0.1
    vae = _linear(pv.likelihoods.Mixed((3,), ["LogNormal", "VonMises", "Normal"]))
    seen = Seen(vae, x[0], entries_of(vae, None), 16)
    assert seen.names == ("x[0]", "x[2]", "cos x[1]", "sin x[1]")
    one = x[0]
    expected = torch.stack([one[:, 0].log(), one[:, 2], one[:, 1].cos(), one[:, 1].sin()], 1)
    torch.testing.assert_close(seen(x)[0], expected)


def test_a_network_of_many_latents_and_entries_stays_small() -> None:
    """Fails where products of all pairs of 100 latents are tried against 64 entries."""
    vae = pv.VAE(pv.priors.Normal(100), pv.guides.Normal(100), pv.likelihoods.Normal((80,)))
    rows = vae.accepts(Rows(torch.randn(25, 80)))
    vae.initialize(rows.x)
    _, means = relations(vae, rows, torch.arange(25), entries_of(vae, None))
    assert means(torch.randn(2, 25, 180)).shape == (2, 64 * 64)
    assert isinstance(vae.decoder, nn.Module)
