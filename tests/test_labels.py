"""Labels of some data: the semi-supervised objective against sums and quadrature by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae import guides, likelihoods, networks, objectives, priors
from pyro_vae.cli import main
from pyro_vae.data.dataset import fingerprint

X = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]).double()
SOME = torch.tensor([2, -1, 0, -1, 1])
NONE = torch.full((5,), -1)
MODES = ("enumerate", "straight-through", "soft")


def m2(mode: Any = "enumerate", *, independent: bool = False, seed: int = 3) -> pv.VAE:
    """A model of one real latent and one of three classes, small enough to be summed by hand."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = pv.VAE(
            priors.Product([priors.Normal(1), priors.Categorical(1, 3)]),
            guides.Product(
                [guides.Normal(1), guides.GumbelSoftmax(1, 3, mode=mode)], independent=independent
            ),
            likelihoods.Bernoulli((2,)),
            nn.Linear(2, 5),
            nn.Linear(4, 2),
        ).double()
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.copy_(torch.randn_like(parameter))
    return vae


def states(mode: Any = "enumerate") -> pv.VAE:
    """A model of three classes and nothing else."""
    torch.manual_seed(4)
    parts = priors.Categorical(1, 3), guides.GumbelSoftmax(1, 3, mode=mode)
    encoder = nn.Sequential(nn.Linear(2, 3), nn.Unflatten(1, (1, 3)))
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    return pv.VAE(*parts, likelihoods.Bernoulli((2,)), encoder, decoder).double()


def loss(vae: pv.VAE, labels: Tensor | None, seed: int = 0, **options: Any) -> Tensor:
    torch.manual_seed(seed)
    objective = objectives.ELBO(**options)
    given = {} if labels is None else {"labels": labels}
    return objective.differentiable_loss(vae.model, vae.guide, X, **given)


def bounds(vae: pv.VAE) -> tuple[Tensor, Tensor]:
    """L(x, y) for each y, and log q(y|x), both ``(B, 3)``; the mean over z by quadrature."""
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(40))
    weights = weights / weights.sum()
    features = vae.encoder(X)
    log_q = features[:, 2:].log_softmax(-1)
    each = []
    for y in torch.eye(3).double():
        shifted = features[:, :2] + vae.guide_family.shifts["z1"](y)
        q = guides.Normal(1)(shifted)
        z = q.mean + q.stddev * nodes  # (B, 40)
        inputs = torch.cat([z.unsqueeze(-1), y.expand(*z.shape, 3)], -1)
        p = torch.distributions.Bernoulli(logits=vae.decoder(inputs))
        mean = (p.log_prob(X.unsqueeze(1)).sum(-1) * weights).sum(-1)
        each.append(mean - kl_divergence(q, priors.Normal(1)().expand((5,))) - np.log(3))
    return torch.stack(each, 1), log_q


def by_hand(vae: pv.VAE, labels: Tensor, weight: float = 0.0) -> Tensor:
    """Equations 6 to 9 of Kingma et al. (2014), with a weight of each label."""
    joint, log_q = bounds(vae)
    total = torch.zeros(()).double()
    for i, y in enumerate(labels.tolist()):
        if y >= 0:
            total = total + joint[i, y] + weight * log_q[i, y]
        else:
            total = total + (log_q[i].exp() * (joint[i] - log_q[i])).sum()
    return -total


@pytest.mark.long
@pytest.mark.parametrize("mode", ["enumerate", "straight-through"])
def test_the_loss_is_that_of_the_paper(mode: Any) -> None:
    """Within 4 standard errors.

    Fails when a label is taken for the next class, its term is not scaled, log p(y) is left out,
    or what has no label counts as labelled.
    """
    vae = m2(mode)
    with torch.no_grad():
        draws = torch.stack(
            [loss(vae, SOME, seed, num_particles=50, label_weight=0.7) for seed in range(200)]
        )
        error = draws.std() / len(draws) ** 0.5
        assert error < 0.03
        assert (draws.mean() - by_hand(vae, SOME, 0.7)).abs() < 4 * error


def test_the_gradient_is_that_of_the_paper() -> None:
    """Within 5 standard errors; fails when gradients do not reach the guide through the sum."""
    vae = m2()
    parameters = list(vae.parameters())
    exact = torch.autograd.grad(by_hand(vae, SOME, 0.7), parameters)
    draws = [
        torch.autograd.grad(loss(vae, SOME, seed, num_particles=50, label_weight=0.7), parameters)
        for seed in range(100)
    ]
    for found, wanted in zip(zip(*draws, strict=True), exact, strict=True):
        each = torch.stack(found)
        error = each.std(0) / len(each) ** 0.5
        assert ((each.mean(0) - wanted).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("mode", MODES)
def test_where_nothing_is_known_nothing_changes(mode: Any) -> None:
    """Fails when -1 is taken for a class."""
    vae = m2(mode)
    with_labels, without = loss(vae, NONE), loss(vae, None)
    exactly: dict[str, float] = {"rtol": 1e-12, "atol": 1e-13}  # but for the last bits
    torch.testing.assert_close(with_labels, without, **exactly)
    parameters = list(vae.parameters())
    for one, other in zip(
        torch.autograd.grad(with_labels, parameters),
        torch.autograd.grad(without, parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **exactly)


@pytest.mark.parametrize("mode", MODES)
def test_a_discrete_model_is_summed_exactly(mode: Any) -> None:
    """All known: log p(x|y) + log p(y), whatever the relaxation; no gradient for the guide."""
    vae, y = states(mode), torch.tensor([2, 0, 0, 1, 1])
    inputs = torch.eye(3).double()[y]
    p = torch.distributions.Bernoulli(logits=vae.decoder(inputs))
    exact = (p.log_prob(X).sum(-1) - np.log(3)).sum()
    found = -loss(vae, y)
    torch.testing.assert_close(found, exact)
    grads = torch.autograd.grad(found, list(vae.guide.parameters()), allow_unused=True)
    assert all(g is None or bool((g == 0).all()) for g in grads)
    stock = Trace_ELBO().loss(vae.model, vae.guide, X, labels=y)
    assert stock == pytest.approx(-exact.item())
    terms = objectives.ELBO().terms(vae.model, vae.guide, X, labels=y)
    torch.testing.assert_close(terms.elbo.sum(), exact)
    torch.testing.assert_close(terms.kl, torch.full((5,), np.log(3)).double())
    enumerated = objectives.Enumerated().loss(vae.model, vae.guide, X, labels=y)
    assert enumerated == pytest.approx(-exact.item())


def test_all_labels_known_it_is_the_model_given_the_class() -> None:
    """ELBO of p(x|y) plus log p(y), with the class as a condition; within 4 standard errors."""

    class Given(nn.Module):
        def __init__(self, inner: nn.Module, forward: Any) -> None:
            super().__init__()
            self.inner, self.by = inner, forward

        def forward(self, inputs: Tensor, c: Tensor) -> Any:
            return self.by(inputs, c)

    vae, y = m2("straight-through"), torch.tensor([2, 0, 0, 1, 1])
    shift = vae.guide_family.shifts["z1"]
    encoder = Given(vae.encoder, lambda x, c: vae.encoder(x)[:, :2] + shift(c))
    decoder = Given(vae.decoder, lambda z, c: vae.decoder(torch.cat([z, c], -1)))
    parts = priors.Normal(1), guides.Normal(1), likelihoods.Bernoulli((2,))
    given = pv.VAE(*parts, encoder, decoder, 3).double()
    cond, elbo = torch.eye(3).double()[y], objectives.ELBO(num_particles=50)
    with torch.no_grad():
        joint = torch.stack([loss(vae, y, seed, num_particles=50) for seed in range(100)])
        torch.manual_seed(0)
        conditional = torch.stack(
            [elbo.differentiable_loss(given.model, given.guide, X, cond=cond) for _ in range(100)]
        )
    difference = joint - conditional - 5 * np.log(3)
    assert difference.mean().abs() < 4 * difference.std() / 10


@pytest.mark.parametrize("options", [{}, {"num_particles": 3}, {"num_particles": 3, "loop": True}])
def test_the_weight_of_labels_adds_their_log_probability(options: dict[str, Any]) -> None:
    """Fails when the term counts once a particle, or moves the decoder."""
    if options.pop("loop", False):
        options["vectorize_particles"] = False
    vae = m2()
    known = SOME >= 0
    log_q = vae.encoder(X)[:, 2:].log_softmax(-1)[known, SOME[known]].sum()
    plain, weighed = (loss(vae, SOME, label_weight=w, **options) for w in (0.0, 0.3))
    torch.testing.assert_close(plain - weighed, 0.3 * log_q)
    with poutine.scale(scale=2.0):
        torch.testing.assert_close(loss(vae, SOME, label_weight=0.3, **options), 2 * weighed)
    decoder = list(vae.decoder.parameters())
    for one, other in zip(
        torch.autograd.grad(plain, decoder), torch.autograd.grad(weighed, decoder), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert objectives.ELBO().bounds(vae.guide)
    assert not objectives.ELBO(label_weight=0.3).bounds(vae.guide)


def test_the_other_latents_can_depend_on_the_class() -> None:
    """Fails when the joint distribution of the guide draws them before the class."""
    vae, alone = m2(), m2(independent=True)
    y = torch.eye(3).double()
    features = vae.guide.features(X)
    by_class = [vae.guide_family(features).site("z1", {"z2": k.expand(5, 1, 3)}) for k in y]
    assert (by_class[0].mean - by_class[1].mean).abs().min() > 1e-3
    q = vae.encode(X)
    z = q.sample((7,))
    chosen = torch.stack([distribution.log_prob(z[..., :1]) for distribution in by_class], -1)
    log_q = vae.encoder(X)[:, 2:].log_softmax(-1)
    exact = ((chosen + log_q) * z[..., 1:]).sum(-1)
    torch.testing.assert_close(q.log_prob(z), exact)
    with pytest.raises(NotImplementedError):
        kl_divergence(q, vae.prior())
    assert not list(alone.guide_family.parameters())
    assert torch.isfinite(kl_divergence(alone.encode(X), alone.prior())).all()
    torch.testing.assert_close(vae.classify(X), log_q.exp())


def test_a_dependent_guide_is_saved(tmp_path: Path) -> None:
    vae = pv.VAE(
        priors.Product([priors.Normal(2), priors.Categorical(1, 3)]),
        guides.Product([guides.Normal(2), guides.GumbelSoftmax(1, 3)], independent=False),
        likelihoods.Bernoulli((2,)),
        networks.MLP((4,)),
        networks.MLP((4,)),
    )
    with torch.no_grad():
        vae.guide_family.shifts["z1"].weight.normal_()
    pv.save(vae, tmp_path / "run")
    twin, z = pv.load(tmp_path / "run"), vae.encode(X).sample()
    torch.testing.assert_close(twin.encode(X).log_prob(z), vae.encode(X).log_prob(z))


def _data(n: int = 300) -> tuple[Tensor, Tensor]:
    """Three classes that differ in which third of twelve bits is mostly on."""
    y = torch.randint(3, (n,))
    on = torch.eye(3).repeat_interleave(4, 1)[y]
    return torch.bernoulli(0.05 + 0.9 * on), y


def _fitted(x: Tensor, mode: Any = "enumerate", **options: Any) -> pv.Run:
    torch.manual_seed(0)
    vae = pv.VAE(
        priors.Product([priors.Normal(2), priors.Categorical(1, 3)]),
        guides.Product(
            [guides.Normal(2), guides.GumbelSoftmax(1, 3, mode=mode)], independent=False
        ),
        likelihoods.Bernoulli((12,)),
        networks.MLP((16,)),
        networks.MLP((16,)),
    )
    options = {"objective": objectives.ELBO(label_weight=1.0), "compile": False} | options
    return pv.fit(vae, x, seed=0, batch_size=32, lr=1e-2, **options)


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "options"), [("enumerate", {"validation": 0.2}), ("straight-through", {})]
)
def test_nine_labels_tell_the_classes_apart(mode: Any, options: dict[str, Any]) -> None:
    """Fails when labels do not follow their data into the batches or the training part."""
    torch.manual_seed(1)
    x, y = _data()
    labels = torch.full_like(y, -1)
    for k in range(3):
        rows = (y == k).nonzero().flatten()[:3]
        labels[rows] = k
    run = _fitted(x, mode, labels=labels, epochs=15, **options)
    fresh, truth = _data()
    assert (run.vae.classify(fresh).argmax(-1) == truth).float().mean() > 0.95


def test_fit_tells_how_many_are_labelled() -> None:
    """Fails when N / M is upside down, or -1 is counted."""
    torch.manual_seed(1)
    x, y = _data(40)
    labels = torch.where(torch.arange(40) < 10, y, -1)
    objective = objectives.ELBO(label_weight=0.1)
    for given in (labels, {"train": labels}):
        _fitted(x, objective=objective, labels=given, epochs=1)
        assert objective.data_per_label == 4.0
    _fitted(x, objective=objective, labels=labels, validation=x, epochs=1)
    with pytest.raises(ValueError, match=r"`label_weight`: expected 0 without labels, got 0.1"):
        _fitted(x, objective=objective, epochs=1)


@pytest.mark.long
def test_a_captured_step_knows_the_labels() -> None:
    """Fails when the graph keeps the labels of its first batch."""
    torch.manual_seed(1)
    x, y = _data(64)
    labels = torch.where(torch.arange(64) % 3 == 0, y, -1)
    runs = [_fitted(x, labels=labels, epochs=3, compile=c) for c in (False, True)]
    for one, other in zip(*(run.vae.parameters() for run in runs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert runs[1].engine == "inductor"


def test_other_labels_are_another_run(tmp_path: Path) -> None:
    torch.manual_seed(1)
    x, y = _data(40)
    _fitted(x, labels=y, epochs=1, out=tmp_path / "run")
    _fitted(x, labels=y, epochs=1, out=tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match=r"`resume`: .*train labels"):
        _fitted(x, labels=y.roll(1), epochs=1, out=tmp_path / "run", resume=True)


def test_wrong_labels_are_named_in_one_line() -> None:
    torch.manual_seed(1)
    x, y = _data(8)
    plain = pv.VAE(priors.Normal(2), guides.Normal(2), likelihoods.Bernoulli((12,)))
    groups = pv.VAE(
        priors.Categorical(2, 3), guides.GumbelSoftmax(2, 3), likelihoods.Bernoulli((12,))
    )
    concrete, summed = m2("concrete"), states()
    over = objectives.Enumerated("prior")
    for says, call in (
        (r"`labels`: expected a guide with one site", lambda: pv.fit(plain, x, labels=y, epochs=1)),
        (r"`labels`: expected a guide with one site", lambda: groups.classify(x)),
        (r"`labels`: expected 8 integers", lambda: _fitted(x, labels=y.float(), epochs=1)),
        (r"`labels`: expected one row for each", lambda: _fitted(x, labels=y[:3], epochs=1)),
        (
            r"`labels`: expected classes from 0 to 2, or -1, got 5",
            lambda: _fitted(x, labels=y * 0 + 5),
        ),
        (r"`labels`: expected a mapping with train", lambda: _fitted(x, labels={"test": y})),
        (r"`labels`: expected a relaxation with discrete", lambda: loss(concrete, SOME)),
        (
            r"`labels`: expected none with IWAE",
            lambda: objectives.IWAE(2).loss(summed.model, summed.guide, X, labels=SOME),
        ),
        (
            r"`over`: expected `guide`",
            lambda: over.loss(summed.model, summed.guide, X, labels=SOME),
        ),
        (r"`label_weight`: expected a number >= 0", lambda: objectives.ELBO(label_weight=-1.0)),
        (
            r"`parts`: expected discrete and continuous ones",
            lambda: guides.Product([guides.Normal(1), guides.Normal(1)], independent=False),
        ),
    ):
        with pytest.raises(ValueError, match=says) as error:
            call()
        assert "\n" not in str(error.value)


def test_labels_are_kept_by_class() -> None:
    """Fails when a label goes with another observation, or the seed does not choose."""
    data = pv.data.load("digits")
    truth = data.labels["train"]
    assert truth is not None
    kept = data.some_labels(25, seed=1)
    known = kept >= 0
    assert torch.equal(kept[known], truth[known])
    assert kept[known].bincount().tolist() == [3] * 5 + [2] * 5
    assert torch.equal(kept, data.some_labels(25, seed=1))
    assert not torch.equal(kept, data.some_labels(25, seed=2))
    for count, says in ((5, "class 5, got 0"), (5000, "class 0, got 500")):
        with pytest.raises(ValueError, match=rf"^`count`: expected 1 to \d+ labels of {says}"):
            data.some_labels(count)
    with pytest.raises(ValueError, match=r"^`data`: expected labels"):
        pv.data.load(torch.rand(20, 3)).some_labels(2)


def test_accuracy_is_a_share_of_the_data() -> None:
    """Fails when the error is that of the mean squared, or the class the least probable."""
    vae = states()
    best = vae.classify(X).argmax(-1)
    wrong = best.clone()
    wrong[0] = (wrong[0] + 1) % 3
    assert pv.evaluation.accuracy(vae, X, best) == (1.0, 0.0)
    assert pv.evaluation.accuracy(vae, X, wrong) == pytest.approx((0.8, (0.16 / 5) ** 0.5))


@pytest.mark.long
def test_the_command_line_fits_with_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when labels do not reach the fit, or their number is not replayed."""
    parts = "{class: Normal, dim: 2}, {class: %s, groups: 1, classes: 10}"
    argv = ["fit", "digits", "--labelled", "50", "--prior", "Product", "--epochs", "2"]
    argv += ["--prior.parts", f"[{parts % 'Categorical'}]", "--objective.label-weight", "1"]
    argv += ["--guide.parts", f"[{parts % 'GumbelSoftmax'}]", "--guide.independent", "false"]
    argv += ["--num-samples", "5", "--compile", "false", "--out", str(tmp_path / "run"), "--json"]
    assert main(argv) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    p = scores["accuracy"]
    assert scores["accuracy_standard_error"] == pytest.approx((p * (1 - p) / 360) ** 0.5)
    assert "labelled: 50" in (tmp_path / "run" / "config.yaml").read_text()
    settings = json.loads((tmp_path / "run" / "fit.json").read_text())["settings"]
    labels = pv.data.load("digits").some_labels(50, seed=0)
    assert settings["data"]["train labels"] == fingerprint(labels)


@pytest.mark.parametrize("options", [{"free_bits": 1e-9}, {"capacity": 0.0}], ids=str)
def test_an_idle_penalty_leaves_the_bound_of_a_latent_given_the_class(
    options: dict[str, float],
) -> None:
    """Fails when a divergence given a class is counted once for each class, whatever q(y|x)."""
    vae = m2()
    torch.testing.assert_close(loss(vae, SOME, **options), loss(vae, SOME))


def test_a_penalty_of_a_latent_given_the_class_counts_each_observation_once() -> None:
    """Free bits of 2 dimensions, and a capacity, of 5 data; fails when 3 classes are 15 data."""
    vae = m2()
    reconstruction = loss(vae, None, beta=0.0)
    found = [loss(vae, None, **options) for options in ({"free_bits": 1e3}, {"capacity": 1e3})]
    torch.testing.assert_close(found[0], reconstruction + 2 * 5e3)
    divergence = loss(vae, None) - reconstruction
    torch.testing.assert_close(found[1], reconstruction + 5e3 - divergence)
