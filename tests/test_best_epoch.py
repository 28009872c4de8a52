"""Which epoch a fit keeps: that of the greatest bound, of the objective where it has one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.engine.by_rows import Again
from pyro_vae.objectives import ELBO, IWAE, MMD, Enumerated, Renyi, TotalCorrelation
from pyro_vae.training.loop import Loop
from pyro_vae.training.monitor import bound, chosen_by


def model() -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Bernoulli((6,)),
        pv.networks.MLP([16]),
        pv.networks.MLP([16]),
        seed=0,
    )


def pairs(n: int, seed: int) -> Tensor:
    halves = (torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) < 0.5).float()
    return torch.cat([halves, halves], 1)


def fitted(objective: ELBO | IWAE | Renyi, **options: object) -> pv.Run:
    options = {"epochs": 30, "lr": 0.03, "batch_size": 16, "seed": 1, "compile": False} | options
    return pv.fit(model(), pairs(64, 1), objective=objective, validation=pairs(200, 2), **options)


@pytest.mark.long
@pytest.mark.parametrize("objective", [IWAE(20), Renyi(0.5, 20)])
def test_a_bound_of_several_draws_chooses_its_own_best_epoch(objective: IWAE | Renyi) -> None:
    """The ELBO, which it does not raise, is greatest at another epoch."""
    run = fitted(objective)
    bounds, elbos = (np.array(run.history[f"validation_{name}"]) for name in ("bound", "elbo"))
    assert len(bounds) == 30
    assert run.best_epoch == 1 + bounds.argmax() != 1 + elbos.argmax()
    assert (bounds > elbos).all()


def test_the_bound_is_that_of_the_objective() -> None:
    """Against log-weights of the evaluation, of 400 draws, grouped by 20."""
    vae, x = fitted(IWAE(20)).vae, pairs(200, 2)
    found = pv.evaluate(vae, x, num_samples=20, seed=3).log_marginal
    many = np.stack([pv.evaluate(vae, x, num_samples=20, seed=s).log_marginal for s in range(20)])
    means = many.mean(1)
    assert found.mean() == pytest.approx(means.mean(), abs=6 * means.std(ddof=1))
    rows = pv.data.rows.Rows(x)
    ours = bound(vae, IWAE(20), rows, Again())
    # Six standard errors of one draw of the bound, and so also of the difference, nearly.
    assert ours == pytest.approx(means.mean(), abs=6 * means.std(ddof=1))
    assert bound(vae, IWAE(20), rows, Again()) == ours, "the same draws at each epoch"


@pytest.mark.long
def test_patience_waits_for_the_bound() -> None:
    by_bound = fitted(IWAE(20), patience=4, epochs=60)
    bounds = np.array(by_bound.history["validation_bound"])
    assert len(bounds) == by_bound.best_epoch + 4 < 60
    assert by_bound.best_epoch == 1 + bounds.argmax()


@pytest.mark.parametrize(
    "objective",
    [ELBO(), ELBO(beta=4.0), ELBO(num_particles=5), IWAE(1), Renyi(-0.5, 20), MMD(),
     TotalCorrelation()],
)  # fmt: skip
def test_what_is_no_bound_of_several_draws_leaves_it_to_the_elbo(objective: ELBO) -> None:
    assert chosen_by(model(), objective) == "validation_elbo"


def test_soft_draws_bound_another_model() -> None:
    vae = pv.VAE(
        pv.priors.Categorical(2, 3),
        pv.guides.GumbelSoftmax(2, 3, mode="concrete"),
        pv.likelihoods.Bernoulli((6,)),
    )
    assert chosen_by(vae, IWAE(5)) == "validation_elbo"
    assert chosen_by(vae, Enumerated()) == "validation_elbo"


def test_a_run_of_before_goes_on_by_the_elbo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its best ELBO so far is not compared with a bound, and its history stays of one length."""

    class Stopped(Exception):
        pass

    def stop(line: dict[str, float]) -> None:
        if line["epoch"] == 6:
            raise Stopped

    options = {"out": tmp_path / "run", "checkpoint_every": 10, "epochs": 12}
    with monkeypatch.context() as before:
        before.setattr("pyro_vae.training.scoring.chosen_by", lambda *_: "validation_elbo")
        with pytest.raises(Stopped):
            fitted(IWAE(20), on_epoch=stop, **options)
    run = fitted(IWAE(20), resume=True, **options)
    assert "validation_bound" not in run.history
    assert run.best_epoch == 1 + np.argmax(run.history["validation_elbo"])
    written = json.loads((tmp_path / "run" / "history.json").read_text())
    assert {len(values) for values in written.values() if isinstance(values, list)} == {12}


def test_a_resumed_run_keeps_the_epoch_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(IWAE(20), epochs=12)
    begin = Loop.begin_pass

    def stops(self: Loop) -> None:
        if self.state.epoch == 7 and not (tmp_path / "seen").exists():
            (tmp_path / "seen").touch()
            raise KeyboardInterrupt
        begin(self)

    monkeypatch.setattr(Loop, "begin_pass", stops)
    options = {"out": tmp_path / "run", "checkpoint_every": 3, "epochs": 12}
    with pytest.raises(KeyboardInterrupt):
        fitted(IWAE(20), **options)
    run = fitted(IWAE(20), resume=True, **options)
    assert run.best_epoch == whole.best_epoch
    assert run.history["validation_bound"] == whole.history["validation_bound"]
    state = run.vae.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in whole.vae.state_dict().items())
