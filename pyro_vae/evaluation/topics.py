"""How good topics are: perplexity by document completion, coherence and diversity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected, positive_integer
from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import RowsLike
from pyro_vae.evaluation._common import check_arguments
from pyro_vae.programs import VAE
from pyro_vae.programs.accept import rows_of

__all__ = ["Completion", "coherence", "complete", "completion", "diversity", "top_words"]

_AT_ONCE = 2**24  # numbers of probabilities that are held at once
_NEAR = 1e-3  # how far from one shares may add up to


@dataclass(frozen=True, eq=False, repr=False)
class Completion:
    r"""How probable held-out words of documents are, given other words of the same documents.

    Attributes:
        log_prob: The sum of the log-probabilities of the held-out words of each document, in
            nats, shape ``(N,)``.
        words: How many these are, shape ``(N,)``.
    """

    log_prob: np.ndarray
    words: np.ndarray

    @property
    def nats(self) -> float:
        """Minus the mean log-probability of a word."""
        return -float(self.log_prob.sum() / self.words.sum())

    @property
    def nats_standard_error(self) -> float:
        """Its standard error over documents, as that of a ratio of means; NaN of one document."""
        size = len(self.words)
        if size < 2:
            return math.nan
        left = -self.log_prob - self.nats * self.words
        return math.sqrt(size / (size - 1) * float((left**2).sum())) / float(self.words.sum())

    @property
    def perplexity(self) -> float:
        """The number of words among which a uniform guess would be as good."""
        with np.errstate(over="ignore"):  # beyond any double precision number
            return float(np.exp(self.nats))

    @property
    def standard_error(self) -> float:
        """That of the perplexity over documents."""
        return self.perplexity * self.nats_standard_error

    def summary(self) -> dict[str, Any]:
        """Returns what the documents are like on the whole, ready for JSON."""
        error = self.standard_error
        return {
            "num_data": len(self.words),
            "words": int(self.words.sum()),
            "nats": self.nats,
            "perplexity": self.perplexity,
            "perplexity_standard_error": None if math.isnan(error) else error,
        }

    def __repr__(self) -> str:
        return (
            f"Completion({len(self.words):,} documents, {int(self.words.sum()):,} words)\n"
            f"  perplexity   {self.perplexity:.1f} ± {self.standard_error:.1f}"
        )


def completion(probs: np.ndarray | Tensor, x: np.ndarray | Tensor) -> Completion:
    r"""Scores held-out words by the probabilities that any topic model has for them.

    .. math:: \exp\Big(-\frac{\sum_n \sum_w x_{nw} \log p_{nw}}{\sum_n \sum_w x_{nw}}\Big)

    References:
        Evaluation Methods for Topic Models (Wallach et al., 2009),
        https://doi.org/10.1145/1553374.1553515

    Args:
        probs: Of words, given the other words of each document, shape ``(N, V)``.
        x: Counts of held-out words, shape ``(N, V)``.

    Returns:
        The log-probability of the held-out words of each document, in nats, and their number.

    Raises:
        ValueError: If shapes differ, probabilities do not add up to one, there is a count that is
            none, or no word at all.

    Example:
        >>> import numpy as np
        >>> completion(np.full((2, 4), 0.25), np.eye(2, 4)).perplexity
        4.0
    """
    p, counts = _numbers(probs), _numbers(x)
    if p.ndim != 2 or p.shape != counts.shape:
        raise expected("probs", f"shape (N, V) as that of x, {counts.shape}", p)
    if not ((p >= 0).all() and (abs(p.sum(1) - 1) < _NEAR).all()):
        raise expected("probs", "probabilities, which add up to one in each row", p)
    _check_counts("x", counts)
    with np.errstate(divide="ignore"):  # a word that cannot be has no finite perplexity
        logs = np.log(p)
    each = np.where(counts > 0, counts * np.where(counts > 0, logs, 0.0), 0.0)
    return Completion(each.sum(1), counts.sum(1))


@torch.no_grad()
def complete(
    vae: VAE, seen: RowsLike, x: RowsLike, *, num_samples: int = 100, seed: int = 0
) -> Completion:
    r"""Scores words of documents given others of the same documents (document completion).

    .. math:: p_{nw} = \mathbb{E}_{q(z \mid x^{\mathrm{seen}}_n)}\,
        \frac{\mathbb{E}[x_w \mid z]}{\sum_v \mathbb{E}[x_v \mid z]}

    For a multinomial likelihood the fraction is the probability of the next word.

    References:
        Evaluation Methods for Topic Models (Wallach et al., 2009),
        https://doi.org/10.1145/1553374.1553515

    Args:
        vae: A model of counts.
        seen: What the guide sees: one half of each document, say, shape ``(N, *event_shape)``.
        x: The words to be scored: the other half, of the same shape.
        num_samples: Draws of z for each document.
        seed: Of the draws: the same seed gives the same scores.

    Returns:
        The log-probability of the held-out words of each document, in nats, and their number.

    Raises:
        ValueError: If the model is none of counts, data do not suit it, or an option is not what it
            should be.

    Example:
        >>> import pyro_vae as pv, torch
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Multinomial((6,)))
        >>> complete(vae, torch.ones(3, 6), torch.ones(3, 6)).words
        array([6., 6., 6.])
    """
    seed = check_arguments(vae, seed)
    num_samples = positive_integer("num_samples", num_samples)
    if not isinstance(vae, VAE) or not bool(vae.likelihood.are_counts.all()):
        raise expected("vae", "a VAE of counts, such as one with a Multinomial likelihood", vae)
    rows, held_out = rows_of(vae, seen, {}, "seen"), rows_of(vae, x, {})
    if len(rows) != len(held_out):
        raise expected("x", f"{len(rows)} observations, as many as in `seen`", held_out.x)
    size = max(1, _AT_ONCE // (num_samples * vae.event_shape.numel()))
    found = []
    with undisturbed(vae, seed, vae.device):
        for batch in rows.batches(size):
            z = vae.guide.encode(batch.x, batch.given).sample((num_samples,))
            mean = vae.model.decode(z, batch.without("mask").given).mean.flatten(2).double()
            found.append((mean / mean.sum(-1, keepdim=True)).mean(0).cpu())
    return completion(torch.cat(found), held_out.x.flatten(1).cpu())


def top_words(topics: np.ndarray | Tensor, count: int = 10) -> np.ndarray:
    """Returns the places of the most probable words of each topic, shape ``(K, count)``.

    Args:
        topics: Of words in topics, probabilities or their logarithms, shape ``(K, V)``.
        count: Words of each topic, the most probable first.

    Raises:
        ValueError: If there are fewer words, or none are asked for.

    Example:
        >>> top_words(np.array([[0.2, 0.5, 0.3]]), 2)
        array([[1, 2]])
    """
    p = _numbers(topics)
    if p.ndim != 2:
        raise expected("topics", "shape (K, V), topics by words", p)
    if positive_integer("count", count) > p.shape[1]:
        raise expected("count", f"at most {p.shape[1]}, the number of words", count)
    return np.argsort(-p, axis=1, kind="stable")[:, :count]


def coherence(words: np.ndarray, reference: np.ndarray | Tensor) -> np.ndarray:
    r"""Returns how much the words of each topic occur together: mean NPMI of pairs, ``(K,)``.

    .. math:: \mathrm{NPMI}(i, j) = \frac{\log \frac{p_{ij}}{p_i p_j}}{-\log p_{ij}}

    where :math:`p_{ij}` is the share of the documents of a reference corpus that have both words,
    a document being the window. Words that are in no document together have -1, and those that are
    in every one 1.

    References:
        Machine Reading Tea Leaves: Automatically Evaluating Topic Coherence and Topic Model Quality
        (Lau, Newman and Baldwin, 2014), https://aclanthology.org/E14-1056

    Args:
        words: Places of the words of each topic, shape ``(K, T)``, as of :func:`top_words`.
        reference: Counts of words in the documents of the corpus, shape ``(N, V)``.

    Raises:
        ValueError: If a topic has fewer than two words, or one that the corpus has no column of.

    Example:
        >>> coherence(np.array([[0, 1]]), np.array([[1, 1], [1, 1], [0, 0], [0, 0]]))
        array([1.])
    """
    corpus = reference.cpu().numpy() if isinstance(reference, Tensor) else np.asarray(reference)
    if corpus.ndim != 2 or len(corpus) == 0:
        raise expected("reference", "counts of shape (N, V), documents by words", corpus)
    places = _places(words, corpus.shape[1])
    if places.shape[1] < 2:
        raise expected("words", "at least two words of each topic", places)
    # A column for each word that is in a topic, and no others: their products are of that size.
    used, columns = np.unique(places, return_inverse=True)
    there = (corpus[:, used] > 0).astype(np.float64)
    both = there.T @ there / len(corpus)
    alone = np.diagonal(both)
    i, j = np.triu_indices(places.shape[1], 1)
    columns = columns.reshape(places.shape)
    a, b = columns[:, i], columns[:, j]
    joint = both[a, b]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(joint / (alone[a] * alone[b])) / -np.log(joint)
    found = np.where(joint == 0, -1.0, np.where(joint == 1, 1.0, found))
    return cast(np.ndarray, found.mean(1))


def diversity(words: np.ndarray) -> float:
    """Returns the share of different words among the words of all topics.

    References:
        Topic Modeling in Embedding Spaces (Dieng et al., 2020), https://arxiv.org/abs/1907.04907,
        of the 25 most probable words of each topic

    Args:
        words: Places of the words of each topic, shape ``(K, T)``, as of :func:`top_words`.

    Raises:
        ValueError: If they are no places.

    Example:
        >>> diversity(np.array([[0, 1], [1, 2]]))
        0.75
    """
    places = _places(words)
    return len(np.unique(places)) / places.size


def _places(words: np.ndarray, size: int | None = None) -> np.ndarray:
    """Returns the places of words, shape ``(K, T)``.

    Raises:
        ValueError: If they are none, or none of so many words.
    """
    places = np.asarray(words)
    if places.ndim != 2 or places.size == 0 or places.dtype.kind not in "iu":
        raise expected("words", "places of words, shape (K, T)", places)
    if places.min() < 0 or (size is not None and places.max() >= size):
        what = "places from 0 on" if size is None else f"places of the {size} words of `reference`"
        raise expected("words", what, int(places.max() if places.min() >= 0 else places.min()))
    return places


def _numbers(values: np.ndarray | Tensor) -> np.ndarray:
    """Returns numbers in double precision, from any device."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _check_counts(argument: str, counts: np.ndarray) -> None:
    if not (counts >= 0).all() or not 0 < counts.sum() < math.inf:
        raise expected(argument, "counts of words, at least one of them", counts)
