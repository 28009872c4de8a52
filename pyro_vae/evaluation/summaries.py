"""Extractive summaries: the sentences of a document that are most like it under a topic model."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pyro_vae._errors import expected, positive_integer

__all__ = ["representative"]

_SMOOTHED = 0.1  # words, shared as in the target, that a summary is given beside its own


def representative(
    sentences: np.ndarray | Tensor, target: np.ndarray | Tensor, count: int = 3
) -> list[int]:
    r"""Chooses sentences whose words together are distributed nearly as in a document.

    .. math:: \min_S \mathrm{KL}(p \,\|\, q_S), \quad
        q_S(w) = \frac{\sum_{s \in S} n_{sw} + \lambda p(w)}{\sum_{s \in S} n_s + \lambda}

    one sentence after another, as KLSum and TopicSum do; p is what a topic model takes for the
    distribution of the document's words. What a summary says already is not worth saying again: a
    sentence that was chosen is never chosen twice, and one that repeats its words brings p no
    nearer. The method stops early where no other sentence has a word of the vocabulary.

    References:
        Exploring Content Models for Multi-Document Summarization (Haghighi and Vanderwende, 2009),
        https://aclanthology.org/N09-1041

    Args:
        sentences: Counts of words in each sentence, shape ``(S, V)``.
        target: Probabilities of words in the document, shape ``(V,)``; they need not add up to one.
        count: The most sentences to choose.

    Returns:
        The places of the sentences, the most representative first: the divergence is in nats.

    Raises:
        ValueError: If shapes differ, there are no probabilities, or no sentence has a word.

    Example:
        >>> sentences = np.array([[3, 0, 0], [3, 0, 0], [0, 2, 1]])
        >>> representative(sentences, np.array([0.6, 0.3, 0.1]), 2)
        [0, 2]
    """
    n, p = np.asarray(sentences, dtype=np.float64), np.asarray(target, dtype=np.float64)
    count = positive_integer("count", count)
    if not ((n >= 0).all() and np.isfinite(n).all()):
        raise expected("sentences", "counts of words", n)
    if n.ndim != 2 or p.shape != n.shape[1:]:
        raise expected("target", f"shape (V,) for sentences of shape {n.shape}", p)
    if not ((p >= 0).all() and 0 < p.sum() < np.inf):
        raise expected("target", "probabilities of words", p)
    p = p / p.sum()
    left = [int(i) for i in np.flatnonzero(n @ (p > 0) > 0)]
    if not left:
        raise expected("sentences", "at least one with a word that the document has", n)
    held = p > 0  # what has no probability has no part in the divergence
    n, p = n[:, held], p[held]
    chosen: list[int] = []
    total = _SMOOTHED * p
    while left and len(chosen) < count:
        with_each = total + n[left]
        shares = with_each / with_each.sum(1, keepdims=True)
        best = left[int(np.argmax(np.log(shares) @ p))]
        total = total + n[best]
        chosen.append(best)
        left.remove(best)
    return chosen
