"""The error of a fit is told from that of its family, by refits to simulated data."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.criticism import Checks, check
from pyro_vae.criticism.refitted import fit_error
from pyro_vae.data.rows import Rows

TRAIN = 8


def _model() -> pv.VAE:
    """One latent, four columns about a bias; what is fitted is the bias alone."""
    decoder, encoder = nn.Linear(1, 4), nn.Linear(4, 2)
    decoder.weight.data.fill_(0.5)
    decoder.bias.data.zero_()
    likelihood = pv.likelihoods.Normal((4,), scale=1.0)
    return pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), likelihood, encoder, decoder).eval()


class _Refit:
    """The fit in closed form: the mean of the rows. Remembers what it was called with."""

    def __init__(self, vae: pv.VAE) -> None:
        self.vae = vae
        self.calls: list[tuple[Tensor, int]] = []

    def __call__(self, rows: Rows, seed: int) -> pv.VAE:
        self.calls.append((rows.x, seed))
        assert torch.is_grad_enabled()
        twin = copy.deepcopy(self.vae)
        twin.decoder.bias.data = rows.x.mean(0)
        return twin


def _fitted(x: Tensor) -> pv.VAE:
    return _Refit(_model())(Rows(x), 0)


def _fourth(x: Tensor) -> Tensor:
    """A moment that no error of the bias changes."""
    return (x - x.mean(-2, keepdim=True)).pow(4).mean((-2, -1))


def _checked(spoil: float, seed: int) -> tuple[Checks, _Refit]:
    """Of data that are wider than the model, whose scale is fixed, by the bias of a few."""
    torch.manual_seed(seed)
    x = _model().sample(TRAIN + 150)
    x *= 1 + spoil
    vae = _fitted(x[:TRAIN])
    refit = _Refit(vae)
    mean = [
        pv.criticism.Statistic("mean", lambda x: x.mean(-2)),
        pv.criticism.Statistic("fourth", _fourth),
    ]
    found = check(
        vae, x[TRAIN:], statistics=mean, refit=refit, refits=8, train=x[:TRAIN], seed=seed
    )
    return found, refit


def test_a_short_fit_is_told_from_a_wrong_family() -> None:
    """Both fail; of the second alone that is more than refits err."""
    found, refit = _checked(0.0, seed=1)
    failed = [row for row in found.rows if row.failed]
    assert "mean" in {row.statistic for row in failed}
    assert {row.cause for row in failed} == {"fit"}
    assert found.num_family == 0
    mean = next(row for row in failed if row.statistic == "mean")
    assert 0 < mean.refit_low < abs(mean.effect) < mean.refit_high
    assert [len(x) for x, _ in refit.calls] == [TRAIN] * 8
    assert len({seed for _, seed in refit.calls}) == 8
    assert "as refits err" in repr(found)

    found, _ = _checked(0.5, seed=1)
    causes = {row.statistic: row.cause for row in found.rows if row.failed}
    assert causes["fourth"] == "family"
    assert found.num_family > 0
    assert f"{found.num_family} of them beyond what refits err" in repr(found)
    summary = found.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["refits"], summary["num_family"]) == (8, found.num_family)


def test_without_refits_nothing_is_said_of_causes() -> None:
    torch.manual_seed(0)
    vae = _model()
    found = check(vae, vae.sample(60) + 1)
    assert found.num_failed > 0
    assert all(row.cause == "" and math.isnan(row.refit_p) for row in found.rows)
    assert found.summary()["num_family"] is None


@pytest.mark.parametrize("columns", [1, 30])
def test_p_values_of_one_more_refit_are_uniform(columns: int) -> None:
    """Of 3 refits, 4,000 times; fails without the error of the centre, or with ranks."""
    generator = np.random.default_rng(0)
    effects = generator.standard_normal((4000, 4))
    if columns > 1:
        effects = np.exp(0.3 * effects) * generator.choice([-1, 1], effects.shape)
    found = [fit_error(one[0], one[1:].tolist(), columns=columns) for one in effects]
    assert kstest([each.p_value for each in found], "uniform").pvalue > 0.01
    sizes = np.abs(effects[:, 0]) if columns > 1 else effects[:, 0]
    held = [each.low <= size <= each.high for each, size in zip(found, sizes, strict=True)]
    assert abs(np.mean(held) - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 4000)


def test_what_never_varies_has_no_error_of_fit() -> None:
    assert fit_error(0.0, [0.0] * 5, columns=1).p_value == 1.0
    assert fit_error(math.inf, [0.0] * 5, columns=3).p_value == 0.0
    assert fit_error(math.inf, [math.inf, math.inf, 1.0, 2.0, 3.0], columns=3).p_value < 1


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("`refit`: expected a function from rows and a seed .* got None", {"refits": 20}),
        ("`refit`: expected a function from rows and a seed", {"refit": "run"}),
        ("`refits`: expected at least 5", {"refit": _fitted, "refits": 2}),
        ("`refit`: expected a function that returns a fitted", {"refit": lambda rows, seed: rows}),
    ],
)
def test_wrong_refits_are_reported_in_one_line(message: str, options: dict[str, object]) -> None:
    vae = _model()
    with pytest.raises(ValueError, match=f"^{message}"):
        check(vae, vae.sample(30), statistics=[lambda x: x.mean((1, 2))], **options)  # type: ignore[arg-type]
