"""A decoder of topics: proportions of topics in, log-probabilities of words out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae._untouched import evaluating
from pyro_vae.networks.network import Network
from pyro_vae.networks.norm import Norm, check_norm, norm_of_features

__all__ = ["TopicDecoder"]

Form = Literal["product", "mixture"]
_NOISE = 0.1  # standard deviation of logits over topics, before any training


class TopicDecoder(Network):
    r"""Creates a decoder whose parameters are a matrix of topics by words.

    .. math:: \theta = \mathrm{softmax}(z), \quad
        \text{product: } \log \pi = b + \theta^\top B + \text{const}, \quad
        \text{mixture: } \pi = \theta^\top \, \mathrm{softmax}(B)

    A mixture is that of latent Dirichlet allocation: each word is of one topic. A product is that
    of ProdLDA: topics multiply a background :math:`b`, and may make words less probable, too. With
    embeddings, :math:`B = A R^\top` of topics A and words R in one space, as in the embedded topic
    model. Any likelihood that takes logits of shares may follow, ``Multinomial`` above all.

    References:
        Autoencoding Variational Inference for Topic Models (Srivastava and Sutton, 2017),
        https://arxiv.org/abs/1703.01488
        Topic Modeling in Embedding Spaces (Dieng et al., 2020), https://arxiv.org/abs/1907.04907

    Args:
        form: ``product`` of topics, or ``mixture`` of them.
        embedding_dim: Entries of the embeddings of topics and words; None has a free matrix.
        dropout: Share of the topics that each training step leaves out of an observation.
        norm: What normalises the logits of words, of a product: ``batch``, over the rows of a
            batch; ``layer``, over the words of each row; None, nothing.

    Raises:
        ValueError: If the form or the normalisation is unknown, a mixture is to be normalised, the
            size of the embeddings is not positive, or the dropout is not in [0, 1).

    Example:
        >>> net = TopicDecoder("mixture")
        >>> net.build((3,), (20,))
        >>> net(torch.zeros(5, 3)).shape, net.topics().shape
        (torch.Size([5, 20]), torch.Size([3, 20]))
    """

    roles = ("decoder",)
    bias: nn.Parameter | None

    def __init__(
        self,
        form: Form = "product",
        embedding_dim: int | None = None,
        dropout: float = 0.0,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise unknown_name("form", form, get_args(Form))
        if not 0 <= dropout < 1:
            raise expected("dropout", "a number from 0 to less than 1", dropout)
        if check_norm(norm) is not None and form == "mixture":
            raise expected("norm", "None with a mixture, whose topics are normalised", norm)
        self.form = form
        self.embedding_dim = embedding_dim
        if embedding_dim is not None:
            positive_integer("embedding_dim", embedding_dim)
        self.dropout = dropout
        self.norm = norm
        self.out_shape = torch.Size()

    def build(self, in_shape: Sequence[int], out_shape: Sequence[int], cond_size: int = 0) -> None:
        topics, words = math.prod(in_shape), math.prod(out_shape)
        size = self.embedding_dim
        # Logits start alike in all topics but for noise, the same with embeddings as without.
        scale = _NOISE if size is None else math.sqrt(_NOISE) * size**-0.25
        first = words if size is None else size
        self.weight = nn.Parameter(torch.randn(topics, first) * scale)
        self.words = None if size is None else nn.Parameter(torch.randn(words, size) * scale)
        self.normalise = nn.Sequential(*norm_of_features(self.norm, words))
        own = None if self.norm else nn.Parameter(torch.zeros(words))
        self.register_parameter("bias", own)
        self.of_cond = nn.Linear(cond_size, words, bias=False) if cond_size else None
        self.left_out = nn.Dropout(self.dropout)
        self.out_shape = torch.Size(out_shape)

    @torch.no_grad()
    def start_at(self, output: Tensor) -> None:
        self._background.copy_(output.flatten())
        for layer in self.normalise:
            assert isinstance(layer.weight, Tensor)
            layer.weight.fill_(_NOISE)

    def proportions(self, z: Tensor) -> Tensor:
        """Returns the shares of topics of latents ``z``, both of shape ``(*, topics)``."""
        return z.softmax(-1)

    @torch.no_grad()
    def topics(self) -> Tensor:
        """Returns the log-probabilities of words in each topic, ``(topics, words)``, no gradient.

        Of a product they are those of an observation that has this topic alone.
        """
        alone = torch.eye(len(self.weight), dtype=self.weight.dtype, device=self.weight.device)
        with evaluating(self):  # a topic is not what other topics of a batch make of it
            return self._logits(alone).log_softmax(-1)

    def forward(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Returns the logits of words, ``(B, *out_shape)``.

        Args:
            z: Latents, shape ``(B, *in_shape)``.
            cond: What they are conditioned on, shape ``(B, cond_size)``, if it was built for that;
                it adds to the logits.
        """
        logits = self._logits(self.left_out(self.proportions(z.flatten(1))))
        if self.of_cond is not None:
            logits = logits + self.of_cond(cond)
        return logits.reshape(-1, *self.out_shape)

    def _logits(self, shares: Tensor) -> Tensor:
        """Returns the logits of words from the shares of topics, ``(B, topics)``."""
        matrix = self.weight if self.words is None else self.weight @ self.words.T
        background = self._background
        if self.form == "mixture":
            words = (matrix + background).softmax(-1)
            # Of an observation whose topics are all left out each word is as probable.
            shares_of_words = (shares @ words).clamp_min(torch.finfo(words.dtype).tiny)
            return shares_of_words.log() + background.logsumexp(-1)
        logits = self.normalise(shares @ matrix)
        return logits if self.norm else logits + background

    @property
    def _background(self) -> Tensor:
        """What logits of words have in common in all topics: a normalisation has its own."""
        own = self.normalise[0].bias if self.norm else self.bias
        assert isinstance(own, Tensor)
        return own
