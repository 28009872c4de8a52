"""What is averaged, scored, frozen, started from and accumulated, against what it should be."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small
from stopping import X, build, fit, same
from torch import Tensor
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import pyro_vae as pv
from pyro_vae.engine import CompiledSVI
from pyro_vae.training import Recipe

HELD_OUT = X[:6]


def weights_of(vae: pv.VAE) -> Tensor:
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def test_swa_is_the_mean_of_the_late_epochs() -> None:
    """As torch's AveragedModel has it, which copies the model. Fails when it begins earlier."""
    vae = build()
    reference, ends = AveragedModel(vae), []

    def keep(line: Any) -> None:
        ends.append(weights_of(vae))
        if line["epoch"] > 6:
            reference.update_parameters(vae)

    run = fit(vae, X, epochs=8, average="swa", on_epoch=keep)
    assert run.restored == "average"
    assert torch.allclose(weights_of(vae), weights_of(reference.module), atol=1e-7)
    assert torch.allclose(weights_of(vae), (ends[6] + ends[7]) / 2, atol=1e-7)
    assert same(run.averaged_weights, vae.state_dict())
    assert not same(run.last_weights, vae.state_dict())


def test_ema_forgets_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, with the memory that grows. Fails when the decay is constant."""
    vae = build()
    steps: list[Tensor] = []
    count = CompiledSVI._count

    def counting(self: CompiledSVI, *args: Any) -> None:
        count(self, *args)
        steps.append(weights_of(vae))

    monkeypatch.setattr(CompiledSVI, "_count", counting)
    fit(vae, X, average="ema")
    mean = [steps[0].clone()]
    for t, now in enumerate(steps[1:], 1):
        get_ema_multi_avg_fn(min(0.999, (1 + t) / (10 + t)))(mean, [now], t)
    assert len(steps) == 16
    assert torch.allclose(weights_of(vae), mean[0], atol=1e-7)
    assert float((steps[-1] - mean[0]).abs().max()) > 1e-4


def test_averaged_weights_are_scored_and_written(tmp_path: Path) -> None:
    """Each of the three sets of weights is in the folder once, and its score in the history."""
    known: dict[str, Any] = {"average": "ema", "validation": HELD_OUT, "lr": 0.1, "epochs": 6}
    run = fit(build(), X, **known, out=tmp_path / "run")
    scores = run.history["averaged_validation_elbo"]
    assert run.averaged_epoch == 1 + max(range(6), key=scores.__getitem__)
    names = {path.name for path in (tmp_path / "run").glob("*.safetensors")}
    assert names == {f"{name}.safetensors" for name in ("model", "last", "best", "state")}
    assert same(run.vae.state_dict(), run.averaged_weights)
    assert f"averaged, as at the end of epoch {run.averaged_epoch}" in str(run)
    for restore, weights in (("best", run.best_weights), ("last", run.last_weights)):
        other = fit(build(), X, **known, restore=restore)
        assert same(other.vae.state_dict(), weights)
        assert same(other.averaged_weights, run.averaged_weights)
    best = run.history["validation_elbo"]
    assert run.best_epoch == 1 + max(range(6), key=best.__getitem__)


def test_a_run_of_averages_says_what_was_not_scored(tmp_path: Path) -> None:
    """The history has scores of the weights before averaging, which are not those of the run."""
    run = fit(build(), X, average="swa", validation=HELD_OUT, epochs=4, out=tmp_path / "run")
    assert "\n  training    not scored of averaged weights\n" in str(run)
    assert "training: not scored of averaged weights" in run._repr_html_()
    again = pv.Run.load(tmp_path / "run")
    assert run.weights in str(again)
    assert again.settings == run.settings, "sequences are of one type, before and after"
    plain = fit(build(), X, epochs=1)
    assert "not scored" not in str(plain)
    assert str(plain).startswith("Run(1 epoch, ")


def test_averaging_changes_nothing_else() -> None:
    """Fails when scoring averaged weights leaves them, or moves the generators."""
    options: dict[str, Any] = {"validation": HELD_OUT, "restore": "last"}
    plain, averaged = (fit(build(), X, **options, average=kind) for kind in (None, "ema"))
    assert same(plain.vae.state_dict(), averaged.vae.state_dict())
    assert plain.history["validation_elbo"] == averaged.history["validation_elbo"]


@pytest.mark.long
def test_averages_help_where_a_rate_is_too_high() -> None:
    """The mean over the epochs is in the middle of where a rate of 0.1 keeps the weights.

    Fails when what is scored are not the averages.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(2, (400, 1), generator=generator).expand(-1, 6).float()
    x = (x - torch.bernoulli(torch.full((400, 6), 0.1), generator=generator)).abs()
    run = fit(build(), x, average="swa", validation=x[:100], lr=0.1, epochs=20, batch_size=20)
    gain = run.history["averaged_validation_elbo"][-1] - run.history["validation_elbo"][-1]
    assert gain > 0.02


def test_the_best_epoch_is_that_of_the_score_asked_for() -> None:
    """Fails when the bound on validation data is looked at all the same."""
    options: dict[str, Any] = {"validation": HELD_OUT, "lr": 0.05, "epochs": 6}
    bound = fit(build(), X, **options).best_epoch
    # Any epoch but the bound's: which that is depends on the processor, by its rounding.
    best = 2 if bound != 2 else 3
    epochs = iter(range(1, 7))

    def closeness(vae: Any) -> Tensor:
        return -torch.tensor(float(abs(next(epochs) - best)))

    run = fit(build(), X, monitor=closeness, **options)
    assert run.history["score"] == [-abs(epoch - best) for epoch in range(1, 7)]
    assert run.best_epoch == best != bound
    assert "the best by closeness" in str(run)
    with pytest.raises(ValueError, match=r"^`monitor`: expected a function from the model"):
        fit(build(), X, monitor=lambda vae: "good")


def test_it_says_when_it_stopped_and_why(caplog: pytest.LogCaptureFixture) -> None:
    """Without validation data, by the ELBO of training data that a rate of 3 makes worse."""
    with caplog.at_level(logging.INFO, "pyro_vae"):
        run = fit(build(), X, monitor="elbo", patience=4, monitor_every=2, epochs=400, lr=3.0)
    assert run.best_epoch is not None
    epochs = run.best_epoch + 4
    assert len(run.history["epoch"]) == epochs < 400
    assert run.best_epoch % 2 == 0
    assert [math.isnan(value) for value in run.history["elbo"]] == [True, False] * (epochs // 2)
    says = f"stopped after epoch {epochs} of 400: elbo was greatest, "
    assert run.stopped.startswith(says)
    assert run.stopped.endswith(f", at epoch {run.best_epoch}, 4 before")
    assert run.stopped in caplog.text
    assert run.stopped.removeprefix("stopped ") in str(run)


def _enumerated(seed: int = 0) -> pv.VAE:
    """A model whose latent is summed over: nothing is drawn."""
    torch.manual_seed(seed)
    guide = pv.guides.GumbelSoftmax(2, 3, mode="enumerate")
    return small(pv.priors.Categorical(2, 3), guide)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_four_batches_of_32_are_one_of_128(captured: bool) -> None:
    """In float64; the eager one with a last update of 100 rows: batches of 32, 32, 32 and 4.

    Fails when one of the four is left out, or the gradient is their mean.
    """
    generator = torch.Generator().manual_seed(1)
    rows, clip = (256, 0.05) if captured else (228, None)
    x = torch.rand(rows, 4, generator=generator, dtype=torch.float64).bernoulli(generator=generator)
    ends = []
    for size, times in ((32, 4), (128, 1)):
        sgd = partial(torch.optim.SGD, lr=1e-3)
        run = pv.fit(
            vae := _enumerated(), x, objective=pv.objectives.Enumerated(), optim=sgd, epochs=2,
            batch_size=size, accumulate=times, seed=0, compile=captured, device="cpu",
            clip_norm=clip,
        )  # fmt: skip
        assert run.steps == 4
        assert run.engine == ("inductor" if captured else "eager")
        ends.append((weights_of(vae), run.history["loss"]))
    before = weights_of(_enumerated())
    assert float((ends[0][0] - ends[1][0]).abs().max()) < 1e-6
    assert ends[0][1] == pytest.approx(ends[1][1], abs=1e-6)
    assert float((ends[0][0] - before).abs().max()) > 1e-3


def test_a_step_of_several_batches_counts_once() -> None:
    """Fails when a warm-up goes on with each batch."""
    objective = pv.objectives.ELBO(warmup=100)
    fit(build(), X, objective=objective, batch_size=4, accumulate=2)
    assert float(objective.step) == 16


def test_only_what_is_trainable_moves() -> None:
    """Fails when weight decay, or a scale that is fitted in closed form, moves what is frozen."""
    torch.manual_seed(0)
    likelihood = pv.likelihoods.Normal((6,))
    encoder = pv.networks.MLP((8,), dropout=0.5)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, encoder=encoder)
    vae.initialize(X)
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    modes: dict[str, set[bool]] = {"encoder": set(), "decoder": set()}
    for name, seen in modes.items():
        module = vae.decoder if name == "decoder" else vae.guide.encoder
        module.register_forward_pre_hook(lambda module, _, seen=seen: seen.add(module.training))

    fit(vae, X, trainable="decoder", weight_decay=0.5, lr=1e-2)
    moved = {n for n, p in vae.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {name for name in before if "decoder" in name}
    assert modes == {"encoder": {False}, "decoder": {False, True}}
    assert all(p.requires_grad for p in vae.parameters())


def test_parts_have_their_own_rates() -> None:
    """The first update of Adam is its rate. Fails when a longer name does not come first."""
    vae = build()
    vae.initialize(X)
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    rates = {"encoder": 1e-2, "encoder.layers.0": 1e-5}
    fit(vae, X, lr=rates, epochs=1, batch_size=30)
    largest = {n: float((p.detach() - before[n]).abs().max()) for n, p in vae.named_parameters()}
    assert largest["guide.encoder.layers.0.weight"] == pytest.approx(1e-5, rel=0.1)
    assert largest["guide.encoder.layers.3.weight"] == pytest.approx(1e-2, rel=0.1)
    assert largest["model.decoder.layers.0.weight"] == pytest.approx(1e-3, rel=0.1)


def test_a_warm_start_is_where_another_fit_ended(tmp_path: Path) -> None:
    """By a folder, a run, a model or its state, and with a rate of next to nothing."""
    run = fit(build(), X, lr=1e-2, out=tmp_path / "first")
    end = weights_of(run.vae)
    for init in (tmp_path / "first", run, run.vae, run.vae.state_dict()):
        vae = build(5)
        fit(vae, X, init=init, lr=1e-12, epochs=1)
        assert torch.allclose(weights_of(vae), end, atol=1e-6)
    # Of some parts: the others start as they would have.
    decoder = {n: t for n, t in run.vae.state_dict().items() if n.startswith("model.decoder")}
    vae, other = build(5), build(5)
    fit(vae, X, init=decoder, lr=1e-12, epochs=1)
    assert torch.allclose(vae.decoder.layers[0].weight, run.vae.decoder.layers[0].weight, atol=1e-6)
    assert torch.equal(vae.guide.encoder.layers[0].bias, other.guide.encoder.layers[0].bias)


@pytest.mark.parametrize(
    ("schedule", "factory"),
    [
        ("StepLR(step_size=2, gamma=0.5)", partial(lr_scheduler.StepLR, step_size=2, gamma=0.5)),
        ("OneCycleLR(max_lr=0.02, total_steps=6)",
         partial(lr_scheduler.OneCycleLR, max_lr=0.02, total_steps=6)),
        ("LinearLR", lr_scheduler.LinearLR),
        ("CosineAnnealingLR(T_max=6, eta_min=1e-4)",
         partial(lr_scheduler.CosineAnnealingLR, T_max=6, eta_min=1e-4)),
    ],
)  # fmt: skip
def test_rates_are_those_of_torch(schedule: str, factory: Any) -> None:
    """Epoch by epoch, in the optimiser that takes the steps."""
    made: list[torch.optim.Optimizer] = []

    def optim(params: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(params, lr=0.01, momentum=0.9))
        return made[-1]

    found: list[float] = []

    def look(_: object) -> None:
        found.append(made[0].param_groups[0]["lr"])

    fit(build(), X, lr=0.01, optim=optim, schedule=schedule, epochs=6, on_epoch=look)
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01, momentum=0.9)
    scheduler = factory(reference)
    for rate in found:
        assert rate == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12)
        reference.step()
        scheduler.step()
    assert len(set(found)) > 1


BAD: list[tuple[dict[str, Any], str]] = [
    ({"average": "emma"}, r"`average`: expected one of ema, swa, got 'emma' \(did you mean 'ema'"),
    ({"average": "swa", "patience": 3, "validation": HELD_OUT}, "`average`: expected ema or None"),
    ({"restore": "average"}, "`average`: expected ema or swa with `restore` average, got None"),
    ({"restore": "best"}, "`restore`: expected validation data, or a `monitor`"),
    ({"restore": "beste"}, "`restore`: .*did you mean 'best'"),
    ({"monitor": "validation_elbo"}, "`monitor`: expected validation data to go with it"),
    ({"monitor": "validation_elb"}, "`monitor`: .*did you mean 'validation_elbo'"),
    ({"monitor": "validation_bound", "validation": HELD_OUT}, "`monitor`: .*bound of several"),
    ({"monitor_every": 0}, "`monitor_every`: expected a positive integer"),
    ({"accumulate": 1.5}, "`accumulate`: expected a positive integer"),
    ({"precision": "bfloat"}, "`precision`: .*did you mean 'bfloat16'"),
    ({"trainable": "decodr"}, "`trainable`: .*did you mean 'decoder'"),
    ({"trainable": []}, "`trainable`: expected names of parts"),
    ({"lr": {"encodr": 0.1}}, "`lr`: .*did you mean 'encoder'"),
    ({"lr": {"encoder": -1}}, "`lr`: expected a positive number below 1e30 for encoder, got -1"),
    ({"schedule": "StepLR(30)"}, "`schedule`: expected arguments by name, as in"),
    ({"schedule": "StepLR(step_size=f())"}, "`schedule`: expected arguments that are numbers"),
    ({"schedule": "StepLR"}, "`schedule`: .*missing 1 required.*'step_size'"),
    ({"schedule": "OneCycleLR(max_lr=1, total_steps=2)"},
     "`schedule`: .*one that goes through 4 epochs, got .*, which fails: "),
    ({"schedule": "os.system('ls')"}, "`schedule`: expected a name"),
    ({"schedule": lambda optimizer: 3}, "`schedule`: expected a function that returns a scheduler"),
    ({"init": "nowhere"}, "`init`: expected the folder of a finished run, got 'nowhere'"),
    ({"init": {"decoder": X}}, "`init`: expected weights of this model, got 'decoder'"),
    ({"init": 3}, "`init`: expected a run folder, a run, a model, or tensors by name, got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), BAD, ids=[" ".join(each) for each, _ in BAD])
def test_bad_options_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{says}") as error:
        fit(build(), X, **options)
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_named() -> None:
    other = pv.VAE(pv.priors.Normal(3), pv.guides.Normal(3), pv.likelihoods.Bernoulli((6,)))
    with pytest.raises(ValueError, match=r"^`init`: expected [^\n]* of shape [^\n]*, got \("):
        fit(build(), X, init=other)


def test_defaults_are_recorded_by_nobody() -> None:
    """A checkpoint of before there were these options is known again."""
    assert set(Recipe().recorded()) == {
        "epochs", "batch_size", "lr", "schedule", "weight_decay", "optim", "seed", "compile",
        "patience", "clip_norm", "on_nonfinite",
    }  # fmt: skip
    assert Recipe(accumulate=2, lr={"encoder": 1e-3}).recorded()["accumulate"] == 2
