"""Topic models: latent Dirichlet allocation with its words summed over, and its autoencoder."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import (
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.optim import ClippedAdam
from torch import Tensor, nn

from programs.autoencoders import mlp
from programs.registry import Engine, Step, adam, program

TOPICS, WORDS, DOCUMENTS, LENGTH = 3, 12, 16, 10


def documents() -> Tensor:
    """The words of each, shape ``(LENGTH, DOCUMENTS)``."""
    topics = dist.Dirichlet(torch.full((TOPICS, WORDS), 0.2)).sample()
    weights = dist.Dirichlet(torch.full((DOCUMENTS, TOPICS), 0.5)).sample()
    return dist.Categorical(weights @ topics).sample((LENGTH,))


def lda(words: Tensor | None, rows: Tensor) -> None:
    """Words have topics, documents weights of those."""
    with pyro.plate("topics", TOPICS):
        weight = pyro.sample("topic_weight", dist.Gamma(1.0 / TOPICS, 1.0))
        topics = pyro.sample("topic_words", dist.Dirichlet(torch.ones(WORDS) / WORDS))
    with pyro.plate("documents", DOCUMENTS, subsample=rows):
        weights = pyro.sample("doc_topics", dist.Dirichlet(weight + 1e-3))
        with pyro.plate("words", LENGTH):
            which = pyro.sample(
                "word_topics", dist.Categorical(weights), infer={"enumerate": "parallel"}
            )
            pyro.sample("doc_words", dist.Categorical(topics[which]), obs=words)


class Predictor(nn.Module):
    """The amortised guide: a network from the counts of words to the weights of topics."""

    def __init__(self, count_by: str) -> None:
        super().__init__()
        self.count_by = count_by
        self.net = nn.Sequential(mlp(WORDS, 10, TOPICS, between=nn.Sigmoid), nn.Softmax(dim=-1))

    def guide(self, words: Tensor, rows: Tensor) -> None:
        pyro.module("predictor", self.net)
        shape = pyro.param("weight_shape", lambda: torch.ones(TOPICS), constraints.positive)
        with pyro.plate("topics", TOPICS):
            pyro.sample("topic_weight", dist.Gamma(shape, 1.0))
            post = pyro.param(
                "topic_words_post", lambda: torch.ones(TOPICS, WORDS), constraints.greater_than(0.5)
            )
            pyro.sample("topic_words", dist.Dirichlet(post))
        with pyro.plate("documents", DOCUMENTS, subsample=rows):
            ones = words.new_ones((), dtype=shape.dtype).expand(words.shape)
            counts = torch.zeros(WORDS, words.shape[1]).scatter_add(0, words, ones)
            probs = self.net(counts.transpose(0, 1))
            pyro.sample("doc_topics", dist.Delta(probs, event_dim=1))


def _lda(loss: Any, engine: Engine) -> Step:
    words, predictor = documents(), Predictor("words")
    svi = engine(lda, predictor.guide, ClippedAdam({"lr": 0.01}), loss(max_plate_nesting=2))

    def step(i: int) -> float:
        rows = torch.arange(8) + 8 * (i % 2)
        return svi.step(words[:, rows], rows)

    return step


program("LDA, topics of words summed over", "lda.py")(partial(_lda, TraceEnum_ELBO))


def lda_marginal(words: Tensor) -> None:
    """The topics of words summed out by hand."""
    topics = pyro.sample("topics", dist.Dirichlet(torch.ones(TOPICS, WORDS)).to_event(1))
    with pyro.plate("documents", DOCUMENTS):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(TOPICS)))
        probs = weights @ topics
        with pyro.plate("words", LENGTH):
            pyro.sample("doc_words", dist.Categorical(probs), obs=words)


def lda_dirichlet(words: Tensor) -> None:
    """Independent Dirichlet distributions of topics and of their weights."""
    ones = torch.ones(TOPICS, WORDS)
    topics = pyro.param("topics_post", ones, constraint=constraints.positive)
    ones = torch.ones(DOCUMENTS, TOPICS)
    weights = pyro.param("weights_post", ones, constraint=constraints.positive)
    pyro.sample("topics", dist.Dirichlet(topics).to_event(1))
    with pyro.plate("documents", DOCUMENTS):
        pyro.sample("weights", dist.Dirichlet(weights))


@program("LDA by hand, Dirichlet guide", "lda.py")
def lda_by_hand(engine: Engine) -> Step:
    """Both Dirichlet distributions are drawn by implicit gradients."""
    words = documents()
    svi = engine(lda_marginal, lda_dirichlet, adam(), Trace_ELBO())
    return lambda i: svi.step(words)


class ProdLDA(nn.Module):
    """Logistic-normal weights, and words by a product of experts; batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.hidden = nn.Sequential(nn.Linear(WORDS, 10), nn.Softplus(), nn.Linear(10, 10))
        # Before a batch norm, a bias has no gradient but rounding, which Adam makes into steps.
        self.loc, self.log_scale = (nn.Linear(10, TOPICS, bias=False) for _ in range(2))
        self.loc_norm = nn.BatchNorm1d(TOPICS, affine=False)
        self.scale_norm = nn.BatchNorm1d(TOPICS, affine=False)
        self.beta = nn.Linear(TOPICS, WORDS, bias=False)
        self.beta_norm = nn.BatchNorm1d(WORDS, affine=False)

    def model(self, counts: Tensor) -> None:
        pyro.module("decoder", self)
        with pyro.plate("documents", len(counts)):
            loc = counts.new_zeros(len(counts), TOPICS)
            theta = pyro.sample("logtheta", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            theta = self.drop(nn.functional.softmax(theta, -1))
            probs = nn.functional.softmax(self.beta_norm(self.beta(theta)), -1)
            total = int(counts.shape[-1]) * 10
            pyro.sample("obs", dist.Multinomial(total, probs, validate_args=False), obs=counts)

    def guide(self, counts: Tensor) -> None:
        with pyro.plate("documents", len(counts)):
            hidden = self.drop(nn.functional.softplus(self.hidden(counts)))
            loc = self.loc_norm(self.loc(hidden))
            scale = (0.5 * self.scale_norm(self.log_scale(hidden))).exp()
            pyro.sample("logtheta", dist.Normal(loc, scale).to_event(1))


def _prodlda(loss: Any, engine: Engine) -> Step:
    words = documents()
    counts = nn.functional.one_hot(words, WORDS).sum(0).double()
    net = ProdLDA()
    svi = engine(net.model, net.guide, adam(), loss())

    def step(i: int) -> float:
        return svi.step(counts[torch.randperm(DOCUMENTS)[:8]])

    return step


program("ProdLDA", "prodlda")(partial(_prodlda, TraceMeanField_ELBO))
program("ProdLDA, Monte Carlo KL", "prodlda")(partial(_prodlda, Trace_ELBO))


def _mixture(x: Tensor) -> None:
    """Three clusters with a common scale."""
    # Of a smaller concentration the density has no maximum, and a MAP estimate ends in NaN.
    weights = pyro.sample("weights", dist.Dirichlet(2.0 * torch.ones(TOPICS)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", TOPICS):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        which = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[which], scale), obs=x)


def _hidden(model: Any) -> Any:
    return poutine.block(model, hide=["assignment"])


def _clusters(count: int = 40) -> Tensor:
    return torch.randn(count) + torch.tensor([-4.0, 0.0, 4.0])[torch.randint(3, (count,))]


def _gmm(guide: Any, engine: Engine) -> Step:
    x = _clusters()
    model = config_enumerate(_mixture)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    svi = engine(model, guide(_hidden(_mixture)), adam(0.1), loss)
    return lambda i: svi.step(x)


def _normal(model: Any) -> Any:
    from pyro.infer.autoguide import AutoNormal

    return AutoNormal(model)


def _delta(model: Any) -> Any:
    from pyro.infer.autoguide import AutoDelta

    return AutoDelta(model)


program("Gaussian mixture, MAP", "gmm (tutorial)")(partial(_gmm, _delta))
program("Gaussian mixture, normal guide", "gmm (tutorial)")(partial(_gmm, _normal))


@program("Gaussian mixture, guide enumerated", "gmm (tutorial)")
def gmm_guide(engine: Engine) -> Step:
    """The guide has assignment probabilities of its own, enumerated there."""
    x = _clusters()

    @config_enumerate
    def guide(x: Tensor) -> None:
        concentration = pyro.param("c", torch.ones(TOPICS), constraint=constraints.positive)
        pyro.sample("weights", dist.Dirichlet(concentration))
        pyro.sample("scale", dist.Delta(pyro.param("s", torch.tensor(1.0), constraints.positive)))
        with pyro.plate("components", TOPICS):
            pyro.sample("locs", dist.Delta(pyro.param("l", torch.linspace(-3.0, 3.0, TOPICS))))
        with pyro.plate("data", len(x)):
            probs = torch.ones(len(x), TOPICS) / TOPICS
            probs = pyro.param("probs", probs, constraint=constraints.simplex)
            pyro.sample("assignment", dist.Categorical(probs))

    svi = engine(_mixture, guide, adam(), TraceEnum_ELBO(max_plate_nesting=1))
    return lambda i: svi.step(x)


@program("Dirichlet process mixture", "dirichlet_process_mixture (tutorial)")
def dirichlet_process(engine: Engine) -> Step:
    """Stick breaking with a mini-batch of the data drawn by the plate."""
    x, sticks = _clusters(), 5

    def mix(beta: Tensor) -> Tensor:
        rest = (1 - beta).cumprod(-1)
        return nn.functional.pad(beta, (0, 1), value=1) * nn.functional.pad(rest, (1, 0), value=1)

    def model(x: Tensor) -> None:
        with pyro.plate("sticks", sticks - 1):
            beta = pyro.sample("beta", dist.Beta(1.0, 1.1))
        with pyro.plate("components", sticks):
            locs = pyro.sample("locs", dist.Normal(0.0, 5.0))
        with pyro.plate("data", len(x)):
            which = pyro.sample("z", dist.Categorical(mix(beta)), infer={"enumerate": "parallel"})
            pyro.sample("obs", dist.Normal(locs[which], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        kappa = pyro.param("kappa", torch.ones(sticks - 1), constraint=constraints.positive)
        loc = pyro.param("loc", lambda: 5.0 * torch.randn(sticks))
        with pyro.plate("sticks", sticks - 1):
            pyro.sample("beta", dist.Beta(torch.ones(sticks - 1), kappa))
        with pyro.plate("components", sticks):
            pyro.sample("locs", dist.Normal(loc, 1.0))

    svi = engine(model, guide, adam(), TraceEnum_ELBO(max_plate_nesting=1))
    return lambda i: svi.step(x)


@program("LDA by hand, TraceGraph_ELBO", "inference.TraceGraph_ELBO")
def graph(engine: Engine) -> Step:
    """Everything is reparameterised: the graph only keeps the order."""
    words = documents()
    svi = engine(lda_marginal, lda_dirichlet, adam(), TraceGraph_ELBO())
    return lambda i: svi.step(words)
