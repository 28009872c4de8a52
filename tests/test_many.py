"""Fits over several seeds at once are the fits of these seeds, each by itself."""

from __future__ import annotations

import copy
import logging
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

import pyro_vae as pv
from pyro_vae import guides, likelihoods, networks, objectives, priors
from pyro_vae._jobs import Parcel
from pyro_vae.engine import many

_BITS = (torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) < 0.4).double()
_REALS = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).double()
_SEEDS = (3, 1)
_OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 16, "lr": 1e-2, "device": "cpu"}


def _vae(seed: int, likelihood: Any = None, prior: Any = None, **network: Any) -> pv.VAE:
    both = networks.MLP((6,), **network), networks.MLP((6,))
    likelihood = likelihoods.Bernoulli((4,)) if likelihood is None else likelihood
    prior = priors.Normal(2) if prior is None else prior
    return pv.VAE(prior, guides.Normal(2), likelihood, *both, seed=seed).double()


def _dropout(seed: int) -> pv.VAE:
    return _vae(seed, dropout=0.2)


def _normalised(seed: int) -> pv.VAE:
    return _vae(seed, norm="batch")


def _scaled(seed: int) -> tuple[pv.VAE, dict[str, Any]]:
    """With learned scales, which a fit moves in closed form, too, and options of its own."""
    return _vae(seed, likelihoods.Normal((4,), scale="shared")), {"lr": 1e-3 * (1 + seed)}


def _vamp(seed: int) -> pv.VAE:
    return _vae(seed, prior=priors.VampPrior(2, 3))


def _apart(
    build: Callable[[int], Any], data: Any, seeds: Any = _SEEDS, **options: Any
) -> list[pv.Run]:
    runs = []
    for seed in seeds:
        built = build(seed)
        vae, own = built if isinstance(built, tuple) else (built, {})
        objective = copy.deepcopy(options.get("objective"))  # which counts its steps
        runs.append(pv.fit(vae, data, seed=seed, **options | own | {"objective": objective}))
    return runs


def _same(one: pv.Run, other: pv.Run, within: float) -> None:
    """Both ran alike up to rounding, and drew the very same random numbers."""
    assert one.history.keys() == other.history.keys()
    for name in one.history.keys() - {"seconds"}:
        assert one.history[name] == pytest.approx(other.history[name], abs=within, nan_ok=True)
    kept = ("last_weights", "best_weights", "averaged_weights")
    pairs = [(getattr(one, weights), getattr(other, weights)) for weights in kept]
    for mine, theirs in [*pairs, (one.vae.state_dict(), other.vae.state_dict())]:
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], atol=within, rtol=within)
    assert (one.best_epoch, one.steps) == (other.best_epoch, other.steps)
    assert (one.restored, bool(one.stopped)) == (other.restored, bool(other.stopped))
    assert one.state is not None
    assert other.state is not None
    assert torch.equal(one.state["random"]["torch"], other.state["random"]["torch"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("build", "data", "options"),
    [
        (_dropout, _BITS, {"validation": 0.2, "schedule": "cosine", "weight_decay": 0.1}),
        (_normalised, _BITS[:32], {"clip_norm": 0.1, "average": "ema", "validation": _BITS[:9]}),
        (_scaled, _REALS, {"validation": 0.4, "accumulate": 3, "batch_size": 5}),
        (_vamp, _BITS[:32], {"objective": objectives.ELBO(num_particles=2, warmup=5)}),
    ],
    ids=["dropout", "batch norm", "scales", "vamp"],
)
def test_each_fit_is_that_of_its_seed(
    build: Any, data: Tensor, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails where two fits share what they draw, a scale, a schedule or their validation rows."""
    single = _apart(build, data, **_OPTIONS | options)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        runs = pv.fit_many(build, data, _SEEDS, **_OPTIONS | options)
    assert not any("joblib" in line for line in caplog.messages)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])
    for one, other in zip(single, runs, strict=True):
        _same(one, other, 1e-9)


def _parts(of: str) -> dict[str, Any]:
    """Parts that several models are made with, each time new."""
    if of == "encoder":
        return {"encoder": torch.nn.Linear(4, 4)}
    if of == "network":  # whose layers are those of the last model that it was given to
        return {"encoder": networks.MLP((6,))}
    if of == "likelihood":
        return {"likelihood": likelihoods.Normal((4,))}
    if of == "pseudo-inputs":  # which a fit sets before its first step
        return {"prior": priors.VampPrior(2, 5, inputs="data")}
    running = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))
    return {"encoder": running.requires_grad_(False)}


@pytest.mark.parametrize(
    ("of", "named"),
    [
        ("encoder", "encoder.bias"),
        ("network", "encoder.layers.0.bias"),
        ("likelihood", "likelihood.raw_scale"),
        ("pseudo-inputs", "prior.pseudo"),
        ("statistics", "encoder.0.num_batches_tracked"),
    ],
)
def test_models_that_share_what_a_fit_moves_are_refused(of: str, named: str) -> None:
    """Or the runs of all seeds but one hold what another seed has left there."""
    parts = _parts(of)

    def build(seed: int) -> pv.VAE:
        default = {"prior": priors.Normal(2), "likelihood": likelihoods.Bernoulli((4,))}
        return pv.VAE(guide=guides.Normal(2), **{**default, **parts}, seed=seed).double()

    options = _OPTIONS | {"validation": 0.3}
    with pytest.raises(ValueError, match=f"^`build`: .*'models that share {named}, which"):
        pv.fit_many(build, _BITS, _SEEDS, **options)
    if of == "encoder":
        frozen = pv.fit_many(build, _BITS, _SEEDS, **options, trainable="decoder")
        assert frozen[0].vae.guide.encoder is frozen[1].vae.guide.encoder
    if of == "statistics":
        assert int(parts["encoder"][0].num_batches_tracked) == 0, "as it was"


def test_each_fit_has_the_whole_warm_up() -> None:
    """Of one objective that ``build`` gives to all: fails where the second goes on in it."""
    objective = objectives.ELBO(warmup=20)

    def build(seed: int) -> tuple[pv.VAE, dict[str, Any]]:
        return _vae(seed), {"objective": objective}

    single = [pv.fit(_vae(s), _BITS, seed=s, **_OPTIONS, objective=objectives.ELBO(warmup=20))
              for s in _SEEDS]  # fmt: skip
    for one, other in zip(single, pv.fit_many(build, _BITS, _SEEDS, **_OPTIONS), strict=True):
        _same(one, other, 1e-9)
    assert objective.step == 0


class _Peak:
    """A score that is greatest at one epoch, whatever rounding does."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.calls = epoch, 0

    def __call__(self, vae: pv.VAE) -> float:
        self.calls += 1
        return -abs(self.calls - self.epoch)


def test_each_stops_at_its_own_epoch() -> None:
    """Fails where one that has ended is moved by the steps of those that go on."""

    def build(seed: int) -> tuple[pv.VAE, dict[str, Any]]:
        return _vae(seed), {"monitor": _Peak(seed)}

    options = _OPTIONS | {"epochs": 12, "patience": 2}
    runs = pv.fit_many(build, _BITS[:32], (3, 1, 6), **options)
    single = _apart(build, _BITS[:32], (3, 1, 6), **options)
    assert [len(run.history["epoch"]) for run in runs] == [5, 3, 8]
    assert [run.best_epoch for run in runs] == [3, 1, 6]
    for one, other in zip(single, runs, strict=True):
        _same(one, other, 1e-9)


def test_a_run_is_one_of_fit(tmp_path: Path) -> None:
    """It is written, scored and pickled as any, and holds no memory of the others."""
    seeds = np.array(_SEEDS)
    runs = pv.fit_many(_vae, _BITS[:32], seeds, out=tmp_path / "runs", **_OPTIONS)
    read = pv.Run.load(tmp_path / "runs" / "seed-1")
    assert read.history == runs[1].history
    assert read.settings["seed"] == 1
    scores = pv.evaluate(runs[1].vae, _BITS, num_samples=20, seed=0)
    assert np.isfinite(scores.log_marginal).all()
    again = runs[0].resume(epochs=4)
    assert again.history["epoch"] == [1, 2, 3, 4]
    sent = pickle.loads(pickle.dumps(Parcel(runs[1]))).content
    assert torch.equal(sent.vae.encode(_BITS).mean, runs[1].vae.encode(_BITS).mean)
    for parameter in runs[1].vae.parameters():
        assert parameter.untyped_storage().nbytes() == 8 * parameter.numel()


def _wider(seed: int) -> pv.VAE:
    both = networks.MLP((6 + seed,)), networks.MLP((6,))
    return pv.VAE(
        priors.Normal(2), guides.Normal(2), likelihoods.Bernoulli((4,)), *both, seed=seed
    ).double()


@pytest.mark.parametrize(
    ("build", "options", "reason"),
    [
        (_vae, {"on_epoch": lambda line: None}, "`on_epoch` is of one fit"),
        (_vae, {"optim": lambda p: torch.optim.RMSprop(p)}, "update of the optimiser is no part"),
        (_wider, {}, "different operations"),
        (lambda seed: (_vae(seed), {"batch_size": 10 + seed}), {}, "batches differ in size"),
    ],
)
def test_what_cannot_run_so_goes_to_joblib(
    build: Any, options: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    single = _apart(build, _BITS, **_OPTIONS | options)
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        runs = pv.fit_many(build, _BITS, _SEEDS, **_OPTIONS | options)
    (said,) = (line for line in caplog.messages if "joblib" in line)
    assert reason in said
    for one, other in zip(single, runs, strict=True):
        _same(one, other, 0.0)


def test_a_loss_that_is_not_finite_is_an_error_of_its_fit(tmp_path: Path) -> None:
    """Although another fit is over by then, which is fitted anew, and written."""

    def build(seed: int) -> tuple[pv.VAE, dict[str, Any]]:
        def schedule(optimizer: Any) -> Any:
            return LambdaLR(optimizer, lambda epoch: 1e25 if seed == 1 and epoch == 1 else 1.0)

        return _vae(seed).float(), {"epochs": 1 if seed == 3 else 3, "schedule": schedule}

    bits = _BITS.float()
    with pytest.raises(FloatingPointError, match="epoch 2: ") as single:
        pv.fit(build(1)[0], bits, seed=1, **_OPTIONS | build(1)[1])
    with pytest.raises(FloatingPointError) as together:
        pv.fit_many(build, bits, _SEEDS, out=tmp_path / "runs", **_OPTIONS)
    assert str(together.value).startswith(str(single.value))
    assert pv.Run.load(tmp_path / "runs" / "seed-3").history["epoch"] == [1]


def test_a_step_that_is_wrong_is_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Noise that two fits share is seen by the first check, and no such run is returned."""
    drawn: list[Any] = []
    filled = many.ManySVI._inputs

    def shared(*args: Any) -> Any:
        inputs = filled(*args)
        drawn.append(inputs[2:])
        return [*inputs[:2], *drawn[0]]

    monkeypatch.setattr(many.ManySVI, "_inputs", shared)
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        runs = pv.fit_many(_vae, _BITS[:32], _SEEDS, **_OPTIONS)
    assert any("differs from the same step" in line for line in caplog.messages)
    for one, other in zip(_apart(_vae, _BITS[:32], **_OPTIONS), runs, strict=True):
        _same(one, other, 0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": []}, "`seeds`: expected a sequence of seeds that differ"),
        ({"seeds": [1, 1]}, "`seeds`: expected a sequence of seeds that differ"),
        ({"seeds": [1], "seed": 2}, "`seed`: expected none"),
        ({"seeds": [1], "epoch": 2}, "did you mean 'epochs'"),
        ({"seeds": [1, 2], "build": None}, "`build`: expected a function from a seed to a VAE"),
        ({"seeds": [1, 2], "build": lambda seed: (_vae(seed), 3)}, "a mapping of options of `fit`"),
        ({"seeds": [1], "build": lambda seed: (_vae(seed), {}, 1)}, "a function that returns a"),
        ({"seeds": [1], "build": lambda seed: (_vae(seed), {"out": "x"})}, "`out`: expected that"),
        ({"seeds": [1, 2], "callbacks": np.ones(2)}, "`callbacks`: expected a list of objects"),
    ],
)
def test_arguments_that_are_wrong_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pv.fit_many(given.pop("build", _vae), _BITS, **given)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0)])
def test_large_products_of_several_fits_are_those_of_each(dims: tuple[int | None, ...]) -> None:
    a, b = torch.randn(3, 4, 5), torch.randn(3, 5, 6)
    x, y = (each if dim == 0 else each[0] for each, dim in zip((a, b), dims, strict=True))
    found = torch.func.vmap(torch.ops.pyro_vae.onednn_mm, in_dims=dims)(x, y)
    torch.testing.assert_close(found, x @ y)
