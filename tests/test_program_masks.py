"""Programs with a data plate that is not the last, masked latents, and a model with parameters."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

import pyro_vae as pv
from pyro_vae.criticism import calibrate, check

STEPS = 3
X = torch.randn(40, STEPS, 2, generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(STEPS) < torch.tensor([1, 2, 3, 3]).repeat(10)[:, None])[..., None].expand(
    X.shape
)


def _model(x: Tensor, mask: Tensor) -> None:
    """A random walk under masks, two noisy copies of each step."""
    mask, states = mask[..., 0], []
    z = torch.zeros(len(x), 1)
    with pyro.plate("data", len(x), dim=-2):
        for t in range(STEPS):
            with poutine.mask(mask=mask[:, t, None]):
                z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
            states.append(z)
        with pyro.plate("time", STEPS, dim=-1), poutine.mask(mask=mask):
            seen = torch.cat(states, 1)[..., None].expand(x.shape)
            pyro.sample("x", dist.Normal(seen, 1.0).to_event(1), obs=x)


def _guide(x: Tensor, mask: Tensor) -> None:
    """The posterior of each step but for the others, and far off beyond the end."""
    mask = mask[..., 0]
    shift = pyro.param("shift", torch.tensor(0.0))
    with pyro.plate("data", len(x), dim=-2):
        for t in range(STEPS):
            loc = x[:, t].sum(-1, keepdim=True) / 3 + torch.where(mask[:, t, None], shift, 50.0)
            with poutine.mask(mask=mask[:, t, None]):
                pyro.sample(f"z{t}", dist.Normal(loc, 1.0))


@pytest.fixture(scope="module")
def walk() -> pv.Program:
    program = pv.Program(_model, _guide)
    program.initialize(X, mask=MASK)
    return program


def test_the_elbo_of_each_row_adds_up_where_the_data_plate_is_not_the_last(
    walk: pv.Program,
) -> None:
    """With one draw for both, terms by row have the sum that stock Pyro has."""
    torch.manual_seed(1)
    terms = pv.objectives.ELBO(kl="sampled").terms(walk.model, walk.guide, X, mask=MASK)
    torch.manual_seed(1)
    stock = -Trace_ELBO().loss(walk.model, walk.guide, X, mask=MASK)
    assert terms.elbo.shape == (40,)
    assert terms.elbo.sum().item() == pytest.approx(stock, rel=1e-5)


def test_the_history_is_of_an_observation(walk: pv.Program) -> None:
    program = pv.Program(_model, _guide)
    run = pv.fit(program, X, mask=MASK, epochs=1, lr=1e-9, seed=0, device="cpu", compile=False)
    scores = pv.evaluate(program, X, mask=MASK, num_samples=200)
    assert run.history["elbo"][0] == pytest.approx(scores.elbo.mean(), abs=1.0)


def test_latents_beyond_the_end_are_not_ranked(walk: pv.Program) -> None:
    """What the guide draws there is no posterior, and 50 away from what the model draws."""
    z = walk.infer(pv.data.Rows(X, {"mask": MASK})).sample((5,))
    assert bool((z[:, ~MASK[..., 0]] == 0).all())
    assert bool((z[:, MASK[..., 0]] != 0).all())
    ended = torch.zeros_like(MASK)
    ended[:, 0] = True
    found = calibrate(walk, num_simulations=100, mask=ended)
    assert found.names[:2] == ("z[0]", "log_likelihood")


def test_where_no_mask_is_given_all_is_observed(walk: pv.Program) -> None:
    everything = torch.ones_like(MASK)
    with_mask, without = (
        pv.evaluate(walk, X, num_samples=20, **given) for given in ({"mask": everything}, {})
    )
    assert (with_mask.log_marginal == without.log_marginal).all()
    assert walk.sample(3, seed=0).shape == (3, STEPS, 2)


def test_a_mask_of_another_shape_is_refused(walk: pv.Program) -> None:
    """It would hide nothing of the replicates, and all checks of them would fail."""
    words = r"`mask`: expected a mask of the shape of `x`, \(40, 3, 2\), by `expand` if need be"
    with pytest.raises(ValueError, match=words):
        check(walk, X, mask=MASK[..., 0])


@pytest.mark.long
def test_an_automatic_guide_takes_a_model_with_parameters() -> None:
    """Its first run of the model is behind a block; parameters are the model's all the same."""

    def model(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(3.0), constraint=dist.constraints.positive)
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 3.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((w + z).expand(len(x), 4), scale).to_event(1), obs=x)

    shared: Any = AutoMultivariateNormal(poutine.block(model, expose=["w"]))

    def guide(x: Tensor) -> None:
        w = shared(x)["w"]
        with pyro.plate("data", len(x)):
            z = 0.94 * (x.mean(-1, keepdim=True) - w)
            pyro.sample("z", dist.Normal(z, 0.24).to_event(1))

    program = pv.Program(model, guide)
    torch.manual_seed(0)
    data = 2.0 + torch.randn(100, 1) + 0.5 * torch.randn(100, 4)
    options: dict[str, Any] = {"lr": 0.1, "schedule": "cosine", "seed": 0, "device": "cpu"}
    pv.fit(program, data, epochs=150, compile=False, **options)
    kept = [name for name, _ in program.named_parameters() if name.endswith("scale")]
    assert kept == ["own.own.scale"]
    assert program.state_dict()["own.own.scale"].exp().item() == pytest.approx(0.5, abs=0.05)
    draws = torch.stack([one.drawn["w"] for one in program.fixed(50)])
    assert draws.mean().item() == pytest.approx(data.mean().item(), abs=0.1)
    assert program.drawn == {}


def _masked(x: Tensor, mask: Tensor | None = None) -> None:
    seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(3 + z.expand(-1, 3), 1.0).mask(seen).to_event(1), obs=x)


def _masked_guide(x: Tensor, mask: Tensor | None = None) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))


def test_hidden_entries_are_seen_neither_in_data_nor_in_replicates() -> None:
    """Fails when statistics see what a mask hides, so that a true model is found wrong."""
    torch.manual_seed(0)
    x = 3 + torch.randn(60, 1) + torch.randn(60, 3)
    mask = torch.rand(60, 3) < 0.6
    mean = pv.criticism.Statistic("mean", lambda drawn: drawn.mean((-2, -1)))
    shown = x.where(mask, torch.tensor(float("nan")))
    for each in (x, shown):
        found = check(pv.Program(_masked, _masked_guide), each, mask=mask, statistics=[mean])
        assert [row.statistic for row in found.rows if row.failed] == []
