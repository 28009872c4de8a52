"""Variational autoencoders: plain, semi-supervised, conditional, and as classes with methods."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import Tensor, nn
from torch.nn import functional

from programs.registry import Engine, Step, adam, program

PIXELS, HIDDEN, LATENT, BATCH, BATCHES = 24, 16, 3, 20, 4


def images(count: int = BATCHES) -> Tensor:
    """Binary images of a few prototypes, shape ``(count, BATCH, PIXELS)``."""
    prototypes = torch.rand(5, PIXELS)
    which = torch.randint(5, (count, BATCH))
    return torch.bernoulli(0.1 + 0.8 * (prototypes[which] > 0.5).to(prototypes.dtype))


def mlp(*sizes: int, between: Callable[[], nn.Module] = nn.Softplus) -> nn.Sequential:
    """Linear layers with a nonlinearity between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), between()]
    return nn.Sequential(*layers[:-1])


class Encoder(nn.Module):
    """Maps its inputs, side by side, to location and scale."""

    def __init__(self, inputs: int, outputs: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.loc, self.log_scale = nn.Linear(hidden, outputs), nn.Linear(hidden, outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = functional.softplus(self.hidden(torch.cat(inputs, -1)))
        return self.loc(hidden), torch.exp(self.log_scale(hidden))


class VAE(nn.Module):
    """The plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(PIXELS, LATENT), mlp(LATENT, HIDDEN, PIXELS)

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            loc = torch.zeros(x.shape[0], LATENT, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            probs = torch.sigmoid(self.decoder(z))
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x)
            return probs

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder(x)
            pyro.sample("latent", dist.Normal(loc, scale).to_event(1))


@program("VAE", "vae/vae.py")
def vae(engine: Engine) -> Step:
    """A step a batch."""
    x, net = images(), VAE()
    svi = engine(net.model, net.guide, adam(), Trace_ELBO())
    return lambda i: svi.step(x[i % BATCHES])


class Comparable(ABC):
    """What the implementations that are compared share; a model of its class counts its calls."""

    def __init__(self) -> None:
        self.encoder, self.decoder = Encoder(PIXELS, LATENT), mlp(LATENT, HIDDEN, PIXELS)
        self.mode, self.x = "train", images()
        self.report: dict[str, list[float]] = {"train": [], "test": []}

    def log(self, what: str, loss: float) -> None:
        """Keeps a loss."""
        self.report[what].append(loss)

    @abstractmethod
    def on_batch(self, x: Tensor) -> float:
        """Takes a step, or evaluates the loss."""

    def run_epoch(self, number: int) -> float:
        """Goes over one batch to train, and now and then over one to evaluate."""
        self.mode = "train"
        loss = self.on_batch(self.x[number % (BATCHES - 1)])
        self.log(self.mode, loss)
        if number % 10 == 9:
            self.mode = "test"
            self.log(self.mode, self.on_batch(self.x[-1]))
        return loss


class WithPyro(Comparable):
    """Model, guide and engine as methods and attributes of one object."""

    def __init__(self, engine: Engine, loss: Any) -> None:
        super().__init__()
        self.svi = engine(self.model, self.guide, adam(), loss)

    def model(self, x: Tensor) -> None:
        decoder = pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            loc = x.new_zeros(x.shape[0], LATENT)
            z = pyro.sample("latent", dist.Normal(loc, x.new_ones(loc.shape)).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        encoder = pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", dist.Normal(*encoder(x)).to_event(1))

    def on_batch(self, x: Tensor) -> float:
        return self.svi.step(x) if self.mode == "train" else self.svi.evaluate_loss(x)


@program("VAE as a class, analytic KL", "vae/vae_comparison.py")
def comparison_analytic(engine: Engine) -> Step:
    """Also evaluates between steps."""
    return WithPyro(engine, TraceMeanField_ELBO()).run_epoch


@program("VAE as a class, Monte Carlo KL", "vae/vae_comparison.py")
def comparison_monte_carlo(engine: Engine) -> Step:
    """Also evaluates between steps."""
    return WithPyro(engine, Trace_ELBO()).run_epoch


class SemiSupervised(nn.Module):
    """M2: a class y and a style z; y is observed of some images."""

    classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.classifier = mlp(PIXELS, HIDDEN, self.classes)
        self.encoder = Encoder(PIXELS + self.classes, LATENT)
        self.decoder = mlp(LATENT + self.classes, HIDDEN, PIXELS)
        self.weight = 46.0  # of the auxiliary loss

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("ss_vae", self)
        with pyro.plate("data", x.shape[0]):
            zeros = x.new_zeros(x.shape[0], LATENT)
            z = pyro.sample("z", dist.Normal(zeros, x.new_ones(zeros.shape)).to_event(1))
            uniform = x.new_full((x.shape[0], self.classes), 1.0 / self.classes)
            y = pyro.sample("y", dist.OneHotCategorical(uniform), obs=y)
            logits = self.decoder(torch.cat([z, y.to(z.dtype)], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", x.shape[0]):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x)))
            x = x.expand(y.shape[:-1] + x.shape[-1:])
            pyro.sample("z", dist.Normal(*self.encoder(x, y)).to_event(1))

    def model_classify(self, x: Tensor, y: Tensor | None = None) -> None:
        """Scores the classifier on the images that have a class."""
        pyro.module("ss_vae", self)
        with pyro.plate("data", x.shape[0]):
            if y is not None:
                logits = self.classifier(x)
                with poutine.scale(scale=self.weight):
                    pyro.sample("y_aux", dist.OneHotCategorical(logits=logits), obs=y)

    def guide_classify(self, x: Tensor, y: Tensor | None = None) -> None:
        """Has nothing to draw."""


def _labels(count: int, classes: int) -> Tensor:
    which = torch.randint(classes, (count, BATCH))
    return functional.one_hot(which, classes).to(torch.get_default_dtype())


@program("semi-supervised VAE, summed over classes, two losses", "vae/ss_vae_M2.py")
def ss_vae(engine: Engine) -> Step:
    """Every third batch has labels; both losses take a step on each batch."""
    x, net = images(), SemiSupervised()
    y = _labels(BATCHES, net.classes)
    optim = adam(3e-3)
    guide = config_enumerate(net.guide, "parallel", expand=True)
    basic = engine(net.model, guide, optim, TraceEnum_ELBO(max_plate_nesting=1))
    auxiliary = engine(net.model_classify, net.guide_classify, optim, Trace_ELBO())

    def step(i: int) -> tuple[float, ...]:
        at = i % BATCHES
        args = (x[at], y[at]) if i % 3 == 0 else (x[at],)
        return basic.step(*args), auxiliary.step(*args)

    return step


class Completion(nn.Module):
    """Conditional: the other half of an image from the half that is given.

    Args:
        indexed: Whether what is not given is taken out by a Boolean index, as in Pyro's example;
            otherwise it is masked.
    """

    def __init__(self, indexed: bool) -> None:
        super().__init__()
        self.indexed = indexed
        self.baseline = mlp(PIXELS, HIDDEN, PIXELS, between=nn.ReLU)
        self.prior, self.recognition = Encoder(2 * PIXELS, LATENT), Encoder(2 * PIXELS, LATENT)
        self.generation = mlp(LATENT, HIDDEN, PIXELS, between=nn.ReLU)

    def model(self, x: Tensor, y: Tensor) -> Tensor:
        pyro.module("completion", self)
        with pyro.plate("data", len(x)):
            with torch.no_grad():
                guess = torch.sigmoid(self.baseline(x))
            z = pyro.sample("z", dist.Normal(*self.prior(x, guess)).to_event(1))
            probs = torch.sigmoid(self.generation(z))
            hidden = x == -1
            if self.indexed:
                seen, found = probs[hidden].view(len(x), -1), y[hidden].view(len(x), -1)
                fn = dist.Bernoulli(seen, validate_args=False).to_event(1)
                pyro.sample("y", fn, obs=found)
            else:
                pyro.sample("y", dist.Bernoulli(probs).mask(hidden).to_event(1), obs=y)
            return probs

    def guide(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*self.recognition(x, y)).to_event(1))


def _completion(indexed: bool, engine: Engine) -> Step:
    y, net = images(), Completion(indexed)
    x = y.clone()
    x[..., PIXELS // 2 :] = -1
    svi = engine(net.model, net.guide, adam(), Trace_ELBO())
    return lambda i: svi.step(x[i % BATCHES], y[i % BATCHES])


program("conditional VAE, masked", "cvae")(partial(_completion, False))
program("conditional VAE, Boolean index", "cvae")(partial(_completion, True))


class Cells(nn.Module):
    """scANVI: counts of genes given a cell's state and depth; states given its type, if known."""

    genes, kinds, size = 15, 3, 2

    def __init__(self) -> None:
        super().__init__()
        self.library, self.to_state = Encoder(self.genes, 1), Encoder(self.genes, self.size)
        self.classifier = mlp(self.size, 8, self.kinds, between=nn.ReLU)
        self.to_first = Encoder(self.size + self.kinds, self.size)
        self.to_second = Encoder(self.size + self.kinds, self.size)
        self.decoder = mlp(self.size, 8, 2 * self.genes, between=nn.ReLU)
        self.norm = nn.BatchNorm1d(self.genes)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("cells", self)
        theta = pyro.param(
            "inverse_dispersion", 10.0 * x.new_ones(self.genes), constraints.positive
        )
        with pyro.plate("cells_plate", len(x)), poutine.scale(scale=1.0 / len(x)):
            first = pyro.sample("z1", dist.Normal(x.new_zeros(self.size), 1.0).to_event(1))
            logits = x.new_zeros(self.kinds)
            y = pyro.sample("y", dist.OneHotCategorical(logits=logits), obs=y)
            loc, scale = self.to_second(*_broadcast(first, y))
            second = pyro.sample("z2", dist.Normal(loc, scale).to_event(1))
            depth = pyro.sample("depth", dist.LogNormal(3.0 * x.new_ones(1), 0.5).to_event(1))
            gate, mu = self.decoder(second).split(self.genes, -1)
            logits = (depth * mu.softmax(-1) + 1e-6).log() - (theta + 1e-6).log()
            fn = dist.ZeroInflatedNegativeBinomial(
                gate_logits=gate, total_count=theta, logits=logits, validate_args=False
            )
            pyro.sample("x", fn.to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("cells", self)
        with pyro.plate("cells_plate", len(x)), poutine.scale(scale=1.0 / len(x)):
            log_x = self.norm(torch.log1p(x))
            second = pyro.sample("z2", dist.Normal(*self.to_state(log_x)).to_event(1))
            pyro.sample("depth", dist.LogNormal(*self.library(log_x)).to_event(1))
            kinds = dist.OneHotCategorical(logits=self.classifier(second))
            if y is None:
                y = pyro.sample("y", kinds)
            else:
                pyro.factor("classification", kinds.log_prob(y), has_rsample=False)
            loc, scale = self.to_first(*_broadcast(second, y))
            pyro.sample("z1", dist.Normal(loc, scale).to_event(1))


def _broadcast(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
    return z.expand(*shape, z.shape[-1]), y.expand(*shape, y.shape[-1])


@program("scANVI, types summed over", "scanvi")
def scanvi(engine: Engine) -> Step:
    """Half of the batches are labelled."""
    x, net = torch.poisson(4.0 * torch.rand(BATCHES, BATCH, Cells.genes)), Cells()
    y = _labels(BATCHES, Cells.kinds)
    guide = config_enumerate(net.guide, "parallel", expand=True)
    svi = engine(net.model, guide, adam(3e-3), TraceEnum_ELBO(max_plate_nesting=1))

    def step(i: int) -> float:
        at = i % BATCHES
        return svi.step(x[at], y[at]) if i % 2 else svi.step(x[at])

    return step


@program("treatment effects, CEVAE", "contrib.cevae")
def cevae(engine: Engine) -> Step:
    """The library's own model, guide and loss."""
    from pyro.contrib.cevae import Guide, Model, TraceCausalEffect_ELBO

    x = torch.randn(60, 4)
    t = torch.bernoulli((x[:, 0]).sigmoid())
    y = torch.bernoulli((x[:, 1] + t).sigmoid())
    config = {
        "feature_dim": 4, "latent_dim": 3, "hidden_dim": 8, "num_layers": 2, "num_samples": 5,
        "outcome_dist": "bernoulli",
    }  # fmt: skip
    model, guide = Model(config), Guide(config)
    svi = engine(model, guide, adam(1e-3), TraceCausalEffect_ELBO())

    def step(i: int) -> float:
        rows = torch.arange(20) + 20 * (i % 3)
        return svi.step(x[rows], t[rows], y[rows], size=60)

    return step
