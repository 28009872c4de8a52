"""A run fits copies of its program to other rows, and leaves everything as it was."""

from __future__ import annotations

import copy
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import guides, likelihoods, networks, objectives, priors
from pyro_vae.checkpoint import load
from pyro_vae.data.rows import Rows


def linear(d: int = 3, **options: Any) -> pv.VAE:
    network = {"encoder": networks.MLP(()), "decoder": networks.MLP(())}
    normal = likelihoods.Normal((d,), scale="shared")
    return pv.VAE(priors.Normal(1), guides.Normal(1), normal, **network, seed=0, **options)


def correlated(size: int, d: int = 3, at: float = 0.0, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(size, 1, generator=rng)
    return at + z + 0.5 * torch.randn(size, d, generator=rng)


OPTIONS: dict[str, Any] = {"epochs": 20, "batch_size": 50, "lr": 2e-2, "seed": 0}


@pytest.fixture(scope="module")
def run() -> pv.Run:
    return pv.fit(linear(), correlated(200), compile=False, **OPTIONS)


@pytest.mark.long
def test_a_copy_follows_the_rows_and_the_first_stays(run: pv.Run) -> None:
    before = copy.deepcopy(run.vae.state_dict())
    objective = copy.deepcopy(run.objective)
    moved = run.refit(Rows(correlated(200, at=1.0)), 1, epochs=60)
    # The means of 2,000 draws have a standard error of 0.025, that of 200 rows is 0.08.
    assert torch.allclose(moved.sample(2000, seed=0).mean(0), torch.ones(3), atol=0.35)
    assert torch.allclose(run.vae.sample(2000, seed=0).mean(0), torch.zeros(3), atol=0.35)
    assert all(torch.equal(before[name], each) for name, each in run.vae.state_dict().items())
    assert isinstance(run.objective, objectives.ELBO)
    assert isinstance(objective, objectives.ELBO)
    assert torch.equal(run.objective.step, objective.step)
    assert not moved.training
    mine = {id(p) for p in run.vae.parameters()}
    assert mine.isdisjoint(id(p) for p in moved.parameters())


def test_the_seed_decides_and_nothing_else_is_touched(
    run: pv.Run, caplog: pytest.LogCaptureFixture
) -> None:
    store = pyro.get_param_store()
    names, held = list(store.keys()), dict(store.items())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    few = Rows(correlated(7))  # of which a fit says something
    caplog.set_level(logging.INFO, "pyro_vae.training")  # a fit's epochs, as a reader asks for
    with caplog.at_level(logging.INFO, "pyro_vae"):
        first, second, other = (run.refit(few, seed, epochs=2) for seed in (1, 1, 2))
    assert caplog.records == []
    assert logging.getLogger("pyro_vae").level == logging.NOTSET
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()
    assert list(store.keys()) == names
    assert all(store[name] is value for name, value in held.items())
    a, b, c = (torch.cat([p.flatten() for p in v.parameters()]) for v in (first, second, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_few_rows_take_as_many_epochs_as_the_run(run: pv.Run) -> None:
    rows = Rows(correlated(50))
    a, b, c = (
        torch.cat([p.flatten() for p in run.refit(rows, 1, epochs=n).parameters()])
        for n in (None, 20, 5)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.long
def test_what_goes_with_the_rows_goes_with_the_refit() -> None:
    x = correlated(120)
    mask = torch.rand(120, 3, generator=torch.Generator().manual_seed(0)) > 0.3
    cond = (torch.arange(120) % 2)[:, None].float()
    vae = linear(cond_size=1)
    run = pv.fit(vae, x.where(mask, torch.nan), mask=mask, cond=cond, compile=False, **OPTIONS)
    rows = Rows(x.where(mask, torch.nan) + 3 * cond, {"cond": cond, "mask": mask})
    moved = run.refit(rows, 0, epochs=60)
    means = [moved.sample(2000, seed=0, cond=torch.full((2000, 1), c)).mean() for c in (0.0, 1.0)]
    assert means[1] - means[0] > 1.5  # it was 0 before, and is 3 in the rows
    with pytest.raises(ValueError, match="`cond`"):
        run.refit(Rows(x), 0)


@pytest.mark.long
def test_a_run_that_is_read_refits_to_the_same_weights(tmp_path: Path) -> None:
    out = tmp_path / "run"
    objective = objectives.IWAE(4)
    made = pv.fit(
        linear(), correlated(200), objective=objective, validation=0.2, out=out, compile=False,
        schedule="cosine", **OPTIONS,
    )  # fmt: skip
    again = pv.Run.read(load(out), out)
    assert again.recipe is None
    assert again.objective is None
    rows = Rows(correlated(150, at=1.0))
    first, second = made.refit(rows, 3), again.refit(rows, 3)
    assert all(
        torch.equal(first.state_dict()[name], each) for name, each in second.state_dict().items()
    )
    # Rows are held out again: with all of them it is another fit.
    unvalidated = pv.fit(linear(), correlated(200), compile=False, **OPTIONS)
    assert made.best_epoch is not None
    assert unvalidated.best_epoch is None


def test_few_rows_are_refitted_by_a_run_that_ended_at_its_best() -> None:
    """Fails when weights are asked for that validation chooses, where too few rows validate."""
    vae = pv.VAE(priors.Normal(1), guides.Normal(1), likelihoods.Normal((3,)))
    known = {"validation": 0.2, "restore": "best", "monitor": "validation_elbo"}
    run = pv.fit(vae, correlated(80), epochs=2, seed=0, compile=False, device="cpu", **known)
    assert run.refit(Rows(correlated(8)), 1) is not vae


def test_what_no_file_has_is_named(tmp_path: Path) -> None:
    def adam(params: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, lr=1e-2)

    out = tmp_path / "run"
    run = pv.fit(linear(), correlated(60), optim=adam, out=out, epochs=2, compile=False)
    assert isinstance(run.refit(Rows(correlated(60)), 0), pv.VAE)
    with pytest.raises(ValueError, match="`optim`: expected one that a file has"):
        pv.Run.read(load(out), out).refit(Rows(correlated(60)), 0)
    with pytest.raises(ValueError, match=r"`rows`: expected `pyro_vae.data.Rows`"):
        run.refit(correlated(60), 0)  # type: ignore[arg-type]


def model(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc + z[:, None], 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(len(x)), scale))


def test_a_program_of_parameters_is_refitted_apart() -> None:
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    optim = pyro.optim.Adam({"lr": 0.05})
    run = pv.fit(pv.Program(model, guide), x, epochs=40, batch_size=50, optim=optim, seed=0)
    before = copy.deepcopy(run.vae.state_dict())
    remembered = len(optim.optim_objs)
    moved = run.refit(Rows(x + 2), 0, epochs=40)
    assert all(torch.equal(before[name], each) for name, each in run.vae.state_dict().items())
    assert len(optim.optim_objs) == remembered
    shift = moved.sample(4000, seed=0).mean() - run.vae.sample(4000, seed=0).mean()
    assert shift == pytest.approx(2, abs=0.2)
    # Both are used afterwards, side by side.
    assert pv.evaluate(moved, x + 2, num_samples=50).log_marginal.mean() > -6
    assert pv.evaluate(run.vae, x, num_samples=50).log_marginal.mean() > -6


def test_a_program_that_reaches_networks_is_refused_in_a_line() -> None:
    network = nn.Linear(2, 1)

    def reaching(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(network(x).squeeze(-1), 1.0))

    run = pv.fit(pv.Program(model, reaching), torch.zeros(20, 2), epochs=1, seed=0)
    with pytest.raises(ValueError, match="`program`: expected a VAE, or a Program of modules"):
        run.refit(Rows(torch.zeros(20, 2)), 0)
