"""What is no bound is labelled as none wherever it is printed; fits follow the bound itself."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from rich.console import Console
from torch import Tensor

import pyro_vae as pv
from pyro_vae._progress import Monitor
from pyro_vae.cli.report import _settings
from pyro_vae.evaluation import enumerate_log_prob
from pyro_vae.objectives import ELBO, IWAE, MMD, Enumerated, Renyi, TotalCorrelation


def vae(**options: Any) -> pv.VAE:
    discrete = "mode" in options
    return pv.VAE(
        pv.priors.Categorical(2, 3) if discrete else pv.priors.Normal(2),
        pv.guides.GumbelSoftmax(2, 3, **options) if discrete else pv.guides.Normal(2),
        pv.likelihoods.Bernoulli((4,)),
        pv.networks.MLP((8,)),
        pv.networks.MLP((8,)),
    )


def binary(n: int) -> Tensor:
    return torch.bernoulli(torch.full((n, 4), 0.4))


@pytest.mark.parametrize(
    ("objective", "bounds"),
    [
        (ELBO(), True),
        (ELBO(beta=4.0), True),
        (ELBO(free_bits=0.5), True),
        (ELBO(beta=0.5), False),
        (ELBO(warmup=10), False),
        (ELBO(capacity=5.0), False),
        (IWAE(5), True),
        (IWAE(5, "stl"), True),
        (Renyi(0.0), True),
        (Renyi(2.0), True),
        (Renyi(-0.5), False),
        (TotalCorrelation(6.0), False),
        (MMD(), False),
        (Enumerated(), True),
        (Enumerated("prior"), True),
    ],
)
def test_what_is_a_bound(objective: Any, bounds: bool) -> None:
    assert objective.is_bound is bounds
    assert objective.bounds(vae().guide) is bounds


@pytest.mark.parametrize("mode", ["concrete", "enumerate", "soft", "straight-through"])
def test_a_relaxed_latent_makes_it_none(mode: str) -> None:
    guide = vae(mode=mode).guide
    assert ELBO().bounds(guide) is (mode == "enumerate")
    assert Enumerated("guide").bounds(guide)


@pytest.mark.parametrize("bound", [True, False])
def test_the_progress_line_says_so(bound: bool) -> None:
    monitor = Monitor()
    on_epoch = monitor.fitting(3, 10, bound=bound)
    values = dict.fromkeys(("elbo", "reconstruction", "kl", "seconds"), 1.0)
    on_epoch({"epoch": 1, "loss": 12.345, **values})
    line = str(monitor._line).replace("\u00a0", " ")
    assert re.search(r"loss 12\.3[45](.*)$", line)[1] == ("" if bound else " (not a bound)")  # type: ignore[index]


@pytest.mark.parametrize("size", [25.0, 123.4, 999.99, 3210.9, 54321.0])
def test_the_progress_fits_80_columns(size: float) -> None:
    """Fails when the words are written out, or all numbers have two decimals."""
    monitor = Monitor()
    on_epoch = monitor.fitting(1000, 100, bound=False)
    line = {"epoch": 1000, "loss": size, "elbo": -size, "reconstruction": -size, "kl": 123.45}
    on_epoch(line | {"validation_elbo": -size, "seconds": 10.0})
    shown = io.StringIO()
    Console(file=shown, width=80).print(monitor)
    bar, figures = shown.getvalue().splitlines()
    assert "10,000 steps/s" in bar
    assert figures.replace("\u00a0", " ").endswith(" (not a bound)")


@pytest.mark.parametrize(("beta", "bound"), [(1.0, True), (0.5, False)])
def test_the_report_says_so(beta: float, bound: bool) -> None:
    config = {"objective": {"class": "ELBO", "beta": beta}}
    objective = str(_settings(config, {"eager": 3}, vae())["objective"])
    assert objective.startswith(f"objectives.ELBO(beta={beta})")
    assert ("not a bound" in objective) is not bound


def test_fit_tells_the_number_of_data() -> None:
    objective = TotalCorrelation()
    with pytest.raises(ValueError, match=r"^`num_data`: .*got None"):
        objective.loss(vae().model, vae().guide, binary(3))
    pv.fit(vae(), binary(37), objective=objective, epochs=1, batch_size=9, compile=False)
    assert objective.num_data == 37
    given = TotalCorrelation(num_data=1000)
    pv.fit(vae(), binary(37), objective=given, epochs=1, compile=False)
    assert given.num_data == 1000


@pytest.mark.parametrize("stock", [Trace_ELBO(), RenyiELBO(0.5, 2)], ids=lambda s: type(s).__name__)
def test_fit_takes_stock_objectives(stock: Any) -> None:
    run = pv.fit(vae(), binary(8), objective=stock, epochs=1, compile=False)
    assert len(run.history["loss"]) == 1


def test_what_is_followed_over_the_prior_needs_no_guide() -> None:
    model, x = vae(mode="soft"), binary(120)
    before = [p.clone() for p in model.guide.parameters()]
    run = pv.fit(model, x, objective=Enumerated("prior"), epochs=3, lr=0.1, compile=False, seed=0)
    exact = float(enumerate_log_prob(model, x).mean())
    assert run.history["elbo"][-1] == pytest.approx(exact, rel=1e-5)
    assert all(map(torch.equal, before, model.guide.parameters()))
