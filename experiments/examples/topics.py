"""Topics of bags of words: mixtures of topics by a logistic-normal, as in ProdLDA and the ETM.

Autoencoding Variational Inference for Topic Models (Srivastava and Sutton, 2017),
https://arxiv.org/abs/1703.01488; Topic Modeling in Embedding Spaces (Dieng et al., 2020),
https://arxiv.org/abs/1907.04907
"""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyro_vae as pv
from examples.registry import Case, example, mlp, positive
from pyro_vae.data import Rows


class Topics:
    """Words of a document are from its mixture of topics, which all documents share.

    Args:
        topics: How many, K.
        words: In the vocabulary, V.
        length: Words of a document.
    """

    def __init__(self, topics: int, words: int, length: int) -> None:
        self.topics, self.words, self.length = topics, words, length
        self.encoder = mlp(words, topics + topics**2)
        self.shared = AutoNormal(poutine.block(self.model, expose=["topics"]), init_scale=0.05)

    def model(self, x: Tensor) -> None:
        """Counts of words, ``(N, V)``."""
        with pyro.plate("all_topics", self.topics):
            topics = pyro.sample("topics", dist.Dirichlet(torch.full((self.words,), 0.5)))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.topics), 1.5).to_event(1))
            words = z.softmax(-1) @ topics
            pyro.sample("x", dist.Multinomial(self.length, words), obs=x)

    def guide(self, x: Tensor) -> None:
        """A network reads the shares of words; entries of z depend on each other."""
        pyro.module("encoder", self.encoder)
        self.shared(x)
        with pyro.plate("data", len(x)):
            numbers = self.encoder(x / self.length * self.words)
            loc, raw = numbers.split([self.topics, self.topics**2], -1)
            raw = raw.unflatten(-1, (self.topics, self.topics))
            tril = raw.tril(-1) + torch.diag_embed(positive(raw.diagonal(dim1=-2, dim2=-1)))
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=tril))


def documents(count: int, topics: Tensor, length: int) -> Rows:
    """Documents about topics of shape ``(K, V)``."""
    weights = (1.5 * torch.randn(count, len(topics))).softmax(-1)
    return Rows(dist.Multinomial(length, weights @ topics).sample())


@torch.no_grad()
def by_quadrature(program: pv.Program, rows: Rows) -> Tensor:
    """Log p(x) of each document at a draw of three topics, by 40 Gauss-Hermite nodes a latent."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z = 1.5 * torch.cartesian_prod(*[torch.as_tensor(nodes)] * 3)
    log_weight = torch.cartesian_prod(*[torch.as_tensor(weights)] * 3).log().sum(-1)
    log_words = (z.softmax(-1) @ program.drawn["topics"].double()).log()
    x = rows.x.double()
    many = torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)
    joint = x @ log_words.T + log_weight - 1.5 * math.log(2 * math.pi)
    return many + joint.logsumexp(-1)


def make(topics: int = 3, words: int = 12, length: int = 40) -> Case:
    """Returns the example."""
    truth = dist.Dirichlet(torch.full((topics, words), 0.3)).sample()
    pair = Topics(topics, words, length)
    train, held_out = documents(500, truth, length), documents(200, truth, length)
    options = {"epochs": 200, "batch_size": 100, "lr": 2e-2, "schedule": "cosine"}
    return Case(pv.Program(pair.model, pair.guide), train, held_out, options, by_quadrature)


def special() -> Case:
    """Returns the case of 3 topics and 4 words."""
    return make(words=4, length=10)


example("topics", "topics on bags of words, topics latent", "quadrature over topics", make, special)
