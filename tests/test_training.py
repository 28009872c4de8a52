"""The loop: what it learns, keeps, repeats, records and refuses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

import pyro_vae as pv
from pyro_vae import report
from pyro_vae.checkpoint import read_json
from pyro_vae.data import Dataset

fit = partial(pv.fit, device="cpu", compile=False)


def small_vae(features: int = 6) -> pv.VAE:
    pyro.set_rng_seed(0)
    return pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Bernoulli((features,)),
        pv.networks.MLP((8,)),
        pv.networks.MLP((8,)),
    )


def pairs(n: int, seed: int = 7) -> Tensor:
    """Six pixels that agree, but for one in ten flipped: log p(x) is -2.6 nats, -4.2 without z."""
    generator = torch.Generator().manual_seed(seed)
    on = torch.randint(2, (n, 1), generator=generator).expand(-1, 6).float()
    return (on - torch.bernoulli(torch.full((n, 6), 0.1), generator=generator)).abs()


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.long
def test_it_learns_in_place() -> None:
    vae, x = small_vae(), pairs(500)
    run = fit(vae, x, epochs=40, batch_size=50, lr=1e-2, seed=0)
    assert run.vae is vae
    assert bool(vae.initialized)
    assert vae.log_prob(pairs(500, seed=8), 100).mean() > -2.85
    assert run.history["elbo"][-1] > run.history["elbo"][0] + 0.5


def test_the_history_is_of_equal_length_and_adds_up() -> None:
    seen: list[Mapping[str, float]] = []
    run = fit(
        small_vae(), pairs(100), epochs=3, batch_size=32, validation=pairs(30), on_epoch=seen.append
    )
    assert {len(column) for column in run.history.values()} == {3}
    assert run.history["epoch"] == [1, 2, 3]
    assert [{k: column[i] for k, column in run.history.items()} for i in range(3)] == seen
    for prefix in ("", "validation_"):
        reconstruction = np.array(run.history[prefix + "reconstruction"])
        kl = np.array(run.history[prefix + "kl"])
        np.testing.assert_allclose(run.history[prefix + "elbo"], reconstruction - kl, rtol=1e-5)
        assert (kl >= 0).all()
    assert np.diff(run.history["seconds"]).min() > 0
    assert run.steps == 3 * 4  # the short last batch is a step
    assert run.engine == "eager"
    # The loss of an epoch is minus the bound an observation, averaged while it improved.
    assert run.history["loss"][-1] == pytest.approx(-run.history["elbo"][-1], abs=0.5)


def test_every_observation_is_seen_once_an_epoch() -> None:
    """Fails when the short last batch is dropped."""
    x = torch.eye(6).repeat(4, 1)[:23]  # with batches of 5, the last has 3
    vae, seen = small_vae(), []

    class Recording(pv.objectives.ELBO):
        def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
            seen.append(args[0].clone())
            return super().differentiable_loss(model, guide, *args, **kwargs)

    fit(vae, x, objective=Recording(), epochs=2, batch_size=5)
    assert [len(batch) for batch in seen] == [5, 5, 5, 5, 3] * 2
    first, second = torch.cat(seen[:5]), torch.cat(seen[5:])
    assert torch.equal(first.sum(0), x.sum(0))
    assert torch.equal(second.sum(0), x.sum(0))
    assert not torch.equal(first, second)


def test_a_seed_repeats_it() -> None:
    x, weights, losses = pairs(100), [], []
    for seed in (1, 1, 2):
        run = fit(small_vae(), x, epochs=2, batch_size=32, seed=seed)
        weights.append(copy.deepcopy(run.vae.state_dict()))
        losses.append(run.history["loss"])
    assert same(weights[0], weights[1])
    assert losses[0] == losses[1]
    assert not same(weights[0], weights[2])


def test_following_the_elbo_does_not_change_the_fit() -> None:
    """Fails when monitoring draws from the generator that training draws from."""
    x = pairs(100)
    plain = fit(small_vae(), x, epochs=3, batch_size=32, seed=1)
    followed = fit(small_vae(), x, epochs=3, batch_size=32, seed=1, validation=pairs(50))
    assert same(plain.last_weights, followed.last_weights)


def test_the_best_weights_are_kept_apart_from_the_last() -> None:
    """Training on other data than validation: the best epoch is an early one."""
    vae, held_out = small_vae(), pairs(200)
    run = fit(vae, 1 - torch.eye(6)[:1].expand(50, 6), epochs=12, batch_size=10, lr=3e-2,
              validation=held_out, seed=0)  # fmt: skip
    elbos = run.history["validation_elbo"]
    assert run.best_epoch == 1 + int(np.argmax(elbos))
    assert run.best_epoch < 12
    assert not same(vae.state_dict(), run.last_weights)
    reached = pv.objectives.ELBO(num_particles=50).terms(vae.model, vae.guide, held_out).elbo.mean()
    assert float(reached) == pytest.approx(max(elbos), abs=0.1)


def test_without_validation_the_last_weights_are_the_models() -> None:
    vae = small_vae()
    run = fit(vae, pairs(50), epochs=2)
    assert run.best_epoch is None
    assert same(vae.state_dict(), run.last_weights)


def test_patience_stops() -> None:
    run = fit(
        small_vae(), 1 - torch.eye(6)[:1].expand(50, 6), epochs=50, batch_size=10, lr=3e-2,
        validation=pairs(200), patience=3, seed=0,
    )  # fmt: skip
    assert run.best_epoch is not None
    assert len(run.history["epoch"]) == run.best_epoch + 3 < 50


def test_a_second_fit_goes_on() -> None:
    vae, x = small_vae(), pairs(200)
    first = fit(vae, x, epochs=20, batch_size=50, lr=1e-2, seed=0)
    second = fit(vae, x, epochs=2, batch_size=50, lr=1e-3, seed=1)
    assert second.history["elbo"][0] > first.history["elbo"][0] + 0.3


@pytest.mark.parametrize(
    "objective",
    [
        Trace_ELBO(),
        TraceMeanField_ELBO(),
        RenyiELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        pv.objectives.ELBO("sampled", beta=0.5, warmup=5),
        pv.objectives.ELBO(num_particles=4),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_any_objective(objective: Any) -> None:
    run = fit(small_vae(), pairs(200), objective=objective, epochs=15, batch_size=50, lr=1e-2)
    assert run.history["elbo"][-1] > run.history["elbo"][0] + 0.2
    if isinstance(objective, pv.objectives.Objective):
        assert float(objective.step) == run.steps


@pytest.mark.parametrize(
    "optim",
    [
        partial(torch.optim.AdamW, lr=1e-2),
        partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
        pyro.optim.ClippedAdam({"lr": 1e-2, "clip_norm": 5.0}),
    ],
    ids=["AdamW", "SGD", "ClippedAdam"],
)
def test_any_optimiser(optim: Any) -> None:
    run = fit(small_vae(), pairs(200), optim=optim, epochs=15, batch_size=50)
    assert run.history["elbo"][-1] > run.history["elbo"][0] + 0.1


def test_the_cosine_schedule_ends_still() -> None:
    """The last epoch moves the weights far less than with a constant rate."""

    def last_move(schedule: str) -> float:
        kept: list[Tensor] = []
        vae = small_vae()

        def keep(_: object) -> None:
            kept.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))

        fit(vae, pairs(200), epochs=20, batch_size=50, schedule=schedule, seed=0, on_epoch=keep)  # type: ignore[arg-type]
        return float((kept[-1] - kept[-2]).norm())

    assert last_move("cosine") < 0.1 * last_move("constant")


def test_the_schedule_keeps_groups_apart() -> None:
    """Fails when all groups get the rate of the first."""
    made: list[torch.optim.Optimizer] = []

    def optim(params: Any) -> torch.optim.Optimizer:
        first, *rest = params
        groups = [{"params": [first], "lr": 0.1}, {"params": rest, "lr": 0.01}]
        made.append(torch.optim.Adam(groups))
        return made[-1]

    fit(small_vae(), pairs(40), epochs=2, batch_size=20, schedule="cosine", optim=optim)
    assert [group["lr"] for group in made[0].param_groups] == pytest.approx([0.05, 0.005])


def test_the_loss_is_the_mean_of_steps_taken() -> None:
    """Each costs 2 nats, and the second step of three is left out, of 20, 20 and 5 observations.

    Fails when the sum is divided by the number of all data.
    """

    class Planted(pv.objectives.ELBO):
        def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
            loss = super().differentiable_loss(model, guide, *args, **kwargs)
            cost = math.nan if self.calls == 1 else 2.0
            self.calls += 1
            return 0.0 * loss + cost * len(args[0])

    objective = Planted()
    objective.calls = 0
    run = fit(
        small_vae(),
        pairs(45),
        objective=objective,
        epochs=1,
        batch_size=20,
        compile=False,
        on_nonfinite="skip",
    )
    assert run.history["loss"] == [2.0]
    assert run.skipped == 1
    objective.calls = 1  # the only step is the one to leave out: nothing would be learned
    options: dict[str, Any] = {"epochs": 1, "batch_size": 20, "on_nonfinite": "skip"}
    with pytest.raises(FloatingPointError, match="epoch 1: all of its steps would be left out"):
        fit(small_vae(), pairs(20), objective=objective, **options)


def test_stochastic_binarisation_is_drawn_at_each_step() -> None:
    grey = torch.full((40, 6), 0.5)
    data = pv.data.load(grey.numpy(), binarize="stochastic")
    seen = []

    class Recording(pv.objectives.ELBO):
        def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
            seen.append(args[0].clone())
            return super().differentiable_loss(model, guide, *args, **kwargs)

    fit(small_vae(), data, objective=Recording(), epochs=2, batch_size=1000)
    assert len(seen) == 2
    assert all(((x == 0) | (x == 1)).all() for x in seen)
    assert not torch.equal(seen[0], seen[1])


def test_a_dataset_brings_its_validation() -> None:
    data = pv.data.load("digits")
    assert isinstance(data, Dataset)
    vae = pv.VAE(
        pv.priors.Normal(4), pv.guides.Normal(4), pv.likelihoods.Bernoulli(data.event_shape)
    )
    run = fit(vae, data, epochs=1)
    assert "validation_elbo" in run.history
    assert run.steps == math.ceil(len(data.train) / 128)
    with pytest.raises(ValueError, match="`validation`: expected None with a dataset"):
        fit(vae, data, validation=0.1)


def test_a_fraction_is_set_apart() -> None:
    vae = small_vae()
    run = fit(vae, pairs(100), validation=0.2, epochs=1, batch_size=10)
    assert run.steps == 8
    assert run.best_epoch == 1


def test_what_is_written(tmp_path: Path) -> None:
    vae = small_vae()
    run = fit(vae, pairs(60), epochs=2, validation=0.5, out=tmp_path / "run", seed=0)
    assert run.out == tmp_path / "run"
    names = {path.name for path in run.out.iterdir()}
    weights = {"model.safetensors", "last.safetensors", "state.safetensors"}
    assert names == {"model.json", "history.json", "engine.json", "fit.json", *weights}
    assert read_json(run.out / "engine.json") == {"eager": run.steps}
    assert read_json(run.out / "history.json") == run.history
    assert same(pv.load(run.out).state_dict(), vae.state_dict())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("here")
    vae = small_vae()
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(ValueError, match="`out`: expected a path that does not exist yet"):
        fit(vae, pairs(60), epochs=1, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert same(vae.state_dict(), before)


def test_a_loss_that_is_not_finite_stops_it(tmp_path: Path) -> None:
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,)))
    with pytest.raises(FloatingPointError, match="^[^\n]*$"):
        fit(vae, torch.randn(50, 3), epochs=20, lr=1e20, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


SCHEDULED = pyro.optim.ExponentialLR(
    {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.5}
)


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (torch.zeros(10, 5), {}, r"`data`: expected a tensor of shape \(N, 6\)"),
        (torch.zeros(0, 6), {}, "`data`: expected at least one observation"),
        (torch.full((3, 6), math.nan), {}, "`data`: expected values in the support of Bernoulli"),
        (torch.full((3, 6), 0.5), {}, "`data`: .*support of Bernoulli.* 0.5 at"),
        ({"x": 0.0}, {}, "`data`: expected a tensor or an array"),
        (np.array([["a"] * 6]), {}, "`data`: expected a tensor or an array of real numbers"),
        (torch.zeros(4, 6), {"validation": torch.zeros(4, 5)}, "`validation`: expected a tensor"),
        (torch.zeros(4, 6), {"validation": 1.5}, "`validation`: .*fraction between 0 and 1"),
        (torch.zeros(4, 6), {"validation": 0.01}, "`validation`: expected a fraction that splits"),
        (torch.zeros(4, 6), {"epochs": 0}, "`epochs`: expected a positive integer, got 0"),
        (torch.zeros(4, 6), {"batch_size": 1.5}, "`batch_size`: expected a positive integer"),
        (torch.zeros(4, 6), {"lr": 0.0}, "`lr`: expected a positive number"),
        (torch.zeros(4, 6), {"lr": math.nan}, "`lr`: expected a positive number"),
        (torch.zeros(4, 6), {"schedule": "cosin"}, "`schedule`: .*did you mean 'cosine'"),
        (
            torch.zeros(4, 6),
            {"monitor": "recon"},
            "`monitor`: .*did you mean 'reconstruction'",
        ),
        (torch.zeros(4, 6), {"monitor": "kl"}, "`monitor`: .* the greatest is the best, got 'kl'"),
        (torch.zeros(4, 6), {"patience": 3}, "`patience`: expected validation data"),
        (torch.zeros(4, 6), {"optim": SCHEDULED}, "`optim`: .*without a schedule.*'ExponentialLR'"),
    ],
)
def test_bad_input_is_named(data: Any, options: dict[str, Any], says: str) -> None:
    vae = small_vae()
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(ValueError, match=says) as error:
        fit(vae, data, **options)
    assert "\n" not in str(error.value)
    assert same(vae.state_dict(), before)


LBFGS = torch.optim.LBFGS


def test_what_is_of_another_type_is_named(tmp_path: Path) -> None:
    """Each was torch's own error, or Python's. Fails when one of them is not looked at."""
    run = small_vae()
    fit(run, pairs(8), epochs=1)
    pv.save(run, tmp_path / "run")
    fitting: list[dict[str, Any]] = [
        {"vae": "VAE"},
        {"epochs": 1.5},
        {"batch_size": 10**30},
        {"lr": "x"},
        {"lr": True},
        {"seed": 1.5},
        {"seed": "0"},
        {"clip_norm": "x"},
        {"weight_decay": "x"},
        {"objective": "ELBO"},
        {"objective": pv.objectives.ELBO},
        {"optim": "Adam"},
        {"optim": LBFGS},
        {"optim": pyro.optim.PyroOptim(LBFGS, {"lr": 0.1})},
        {"optim": lambda params: 3},
        {"device": "nonsense"},
        {"device": 3.5},
        {"device": "meta"},
        {"out": "a\0b"},
        {"out": 3},
    ]
    wrong: list[tuple[Callable[..., object], dict[str, Any]]] = [
        (lambda **given: fit(**{"vae": small_vae(), "data": pairs(8)} | given), each)
        for each in fitting
    ]
    wrong += [
        (partial(pv.evaluate, run, pairs(8)), {"num_samples": "x"}),
        (pv.load, {"folder": 3}),
        (pv.load, {"folder": "a\0b"}),
        (partial(pv.load, tmp_path / "run"), {"device": "nonsense"}),
        (partial(pv.save, run), {"folder": 3}),
        (partial(pv.save, folder=tmp_path / "new"), {"vae": 3}),
    ]
    for call, given in wrong:
        (name,) = given
        with pytest.raises(ValueError, match=rf"^`{name}`: expected [^\n]*, got [^\n]*$"):
            call(**given)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_trains_on_the_gpu_by_default() -> None:
    vae = small_vae()
    run = pv.fit(vae, pairs(500), epochs=40, batch_size=50, lr=1e-2, seed=0, compile=False)
    assert {p.device.type for p in vae.parameters()} == {"cuda"}
    assert run.history["elbo"][-1] > run.history["elbo"][0] + 0.5
    assert vae.log_prob(pairs(500, seed=8), 100).mean() > -2.85


def _table(n: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 4, generator=generator)
    mask = torch.rand(n, 4, generator=generator) > 0.3
    cond = torch.nn.functional.one_hot(torch.arange(n) % 3, 3).float()
    return torch.where(mask, x, torch.nan), mask, cond


def _given_vae() -> pv.VAE:
    pyro.set_rng_seed(0)
    small = {"encoder": pv.networks.MLP((8,)), "decoder": pv.networks.MLP((8,))}
    likelihood = pv.likelihoods.Normal((4,))
    return pv.VAE(pv.priors.Conditional(2), pv.guides.Normal(2), likelihood, **small, cond_size=3)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
def test_conditions_and_masks_go_with_their_data() -> None:
    """Captured and eager fits agree; and fails when the rows of a mask are not those of x."""
    x, mask, cond = _table()
    ends = []
    for engine in (False, True):
        vae = _given_vae()
        run = pv.fit(
            vae,
            x,
            cond=cond,
            mask=mask,
            validation=0.25,
            epochs=3,
            batch_size=16,
            seed=0,
            compile=engine,
            lr=1e-2,
        )
        assert run.engine == ("inductor" if engine else "eager")
        assert all(math.isfinite(v) for line in run.history.values() for v in line)
        ends.append(run.history["validation_elbo"])
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)
    # What no one observed changes nothing: a mask of other rows would let it in.
    vae = _given_vae()
    other = torch.where(mask, x, 1e3)
    again = pv.fit(
        vae,
        other,
        cond=cond,
        mask=mask,
        validation=0.25,
        epochs=3,
        batch_size=16,
        seed=0,
        compile=False,
        lr=1e-2,
    )
    assert again.history["validation_elbo"] == ends[0]


def test_splits_that_come_apart_bring_their_own_conditions() -> None:
    x, mask, cond = _table()
    parts = {"train": slice(0, 40), "validation": slice(40, 60)}
    given = {
        "cond": {name: cond[rows] for name, rows in parts.items()},
        "mask": {name: mask[rows].numpy() for name, rows in parts.items()},
    }
    run = pv.fit(_given_vae(), x[:40], validation=x[40:], **given, epochs=1, seed=0)
    assert math.isfinite(run.history["validation_elbo"][0])
    for says, change in (
        (r"`cond`: expected a mapping with train and validation", {"cond": cond[:40]}),
        (r"`cond`: expected a mapping with validation", {"cond": {"train": cond[:40]}}),
        (r"`mask`: expected one row for each of 40", {"mask": given["mask"] | {"train": mask}}),
        (r"`cond`: expected a tensor of shape \(40, 3\), got None", {"cond": None}),
    ):
        with pytest.raises(ValueError, match=says):
            pv.fit(_given_vae(), x[:40], validation=x[40:], **(given | change), epochs=1)


def test_what_a_program_refuses_is_named_in_one_line() -> None:
    """Fails with the shapes of its trace, which Pyro adds."""
    vae = pv.VAE(
        pv.priors.Categorical(20, 10),
        pv.guides.GumbelSoftmax(20, 10, mode="enumerate"),
        pv.likelihoods.Bernoulli((6,)),
    )
    with pytest.raises(ValueError, match=r"`groups`: .* joint states, got '10\*\*20'$") as error:
        fit(vae, pairs(20), epochs=1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "other", [np.dtype(">f4"), np.dtype(np.longdouble), np.dtype("i1")], ids=str
)
def test_arrays_of_any_real_type_are_taken(other: np.dtype) -> None:
    """Those that may not be written to, too. Fails when torch is given them as they are."""
    x = (np.arange(60).reshape(20, 3) % 7).astype(other)
    x.flags.writeable = False
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,)))
    pv.fit(vae, x, epochs=1, device="cpu", compile=False)


@pytest.mark.parametrize(
    "x",
    [
        np.ma.masked_array(np.ones((20, 3)), mask=np.eye(20, 3, dtype=bool)),
        torch.ones(20, 3).to_sparse(),
        torch.ones(20, 3, device="meta"),
        torch.tensor(1.0),
    ],
    ids=["masked", "sparse", "meta", "number"],
)
def test_what_is_no_plain_array_is_named(x: Any) -> None:
    """Fails when the hidden values of a masked array are fitted, or torch finds out the others."""
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,)))
    for arguments in ({"data": x}, {"data": torch.ones(20, 3), "validation": x}):
        with pytest.raises(ValueError, match=f"`{list(arguments)[-1]}`: expected") as error:
            pv.fit(vae, **arguments, epochs=1, device="cpu", compile=False)
        assert "\n" not in str(error.value)


def test_a_bound_that_is_not_finite_is_written_and_read(tmp_path: Path) -> None:
    """An outlier among validation data has the density 0 in single precision, from the first
    epoch on. Fails when a fit of hours cannot be written for it."""
    outlier = torch.full((2, 3), 1e20)

    def fitted(**options: Any) -> pv.Run:
        vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,), 0.1))
        known = {"validation": outlier, "epochs": 2, "seed": 0, "compile": False, "device": "cpu"}
        return pv.fit(vae, torch.ones(20, 3), out=tmp_path / "run", **known, **options)

    assert not any(map(math.isfinite, fitted().history["validation_elbo"]))
    again = fitted(resume=True)
    assert all(map(math.isnan, again.history["validation_elbo"]))
    assert all(map(math.isfinite, again.history["elbo"]))
    report.pictures(again.vae, pv.data.load(torch.ones(20, 3)), again.history, tmp_path)
