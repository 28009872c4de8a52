r"""What each user may want next: entries ranked by what they are expected to be, and how well.

A user's ranking is that of :math:`\mathbb{E}[x_d \mid z]` at :math:`z = \mathbb{E}[z \mid x]`, of
the entries that the user has not seen. With :math:`\omega(r)` at place r of it, and I the entries
that were held out of x,

.. math::
    \mathrm{Recall@}K = \frac{\sum_{r \le K} 1[\omega(r) \in I]}{\min(K, |I|)}, \quad
    \mathrm{NDCG@}K = \sum_{r \le K} \frac{1[\omega(r) \in I]}{\log_2(r + 1)} \Big/
        \sum_{r \le \min(K, |I|)} \frac{1}{\log_2(r + 1)}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_vae._errors import expected, plural, positive_integer
from pyro_vae.data.rows import RowsLike
from pyro_vae.programs import VAE
from pyro_vae.programs.accept import rows_of
from pyro_vae.programs.weigh import observations_at_once

__all__ = ["Ranking", "Recommendations", "ranking", "recommend", "recommendation_scores"]

_TOP = 20
_RECALL, _NDCG = (20, 50), (100,)


@dataclass(frozen=True, eq=False, repr=False)
class Recommendations:
    """What is recommended to each user, the best first.

    Attributes:
        items: Places of entries of x, shape ``(N, K)``; -1 where a user has seen all others.
        scores: What these entries are expected to be, shape ``(N, K)``; NaN where there are none.
    """

    items: np.ndarray
    scores: np.ndarray

    def __repr__(self) -> str:
        size, top = self.items.shape
        return f"Recommendations({plural(size, 'user')}, {plural(top, 'item')} each)"


@dataclass(frozen=True, eq=False, repr=False)
class Ranking:
    """How well held-out entries were ranked.

    Attributes:
        recall: Of each user, by K, shape ``(N,)`` each.
        ndcg: Likewise.
        held_out: How many entries of each user were held out, shape ``(N,)``; where there are none,
            recall and NDCG are NaN, and their means are of the other users.
    """

    recall: dict[int, np.ndarray]
    ndcg: dict[int, np.ndarray]
    held_out: np.ndarray

    def summary(self) -> dict[str, float]:
        """Returns means over users, and their standard errors, ready for JSON."""
        judged = self.held_out > 0
        found: dict[str, float] = {"num_users": int(judged.sum())}
        for name, by_length in (("recall", self.recall), ("ndcg", self.ndcg)):
            for length, each in by_length.items():
                values = each[judged]
                error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
                found[f"{name}@{length}"] = float(values.mean())
                found[f"{name}@{length}_standard_error"] = float(error)
        return found

    def __repr__(self) -> str:
        known = self.summary()
        lines = [f"Ranking({plural(int(known['num_users']), 'user')})"]
        for name, by_length in (("recall", self.recall), ("ndcg", self.ndcg)):
            for length in by_length:
                key = f"{name}@{length}"
                error = known[f"{key}_standard_error"]
                lines.append(f"  {key:<12} {known[key]:.4f} ± {error:.4f}")
        return "\n".join(lines)


@torch.no_grad()
def recommendation_scores(vae: VAE, x: RowsLike) -> np.ndarray:
    """Returns what each entry is expected to be, given the others.

    Users need not have been there in training. What a user has seen, which are entries other than
    0, or all that are observed where there is a mask, is -inf.

    References:
        Variational Autoencoders for Collaborative Filtering (Liang et al., 2018),
        https://arxiv.org/abs/1802.05814

    Args:
        vae: The model.
        x: A row for each user, shape ``(N, *event_shape)``; :class:`~pyro_vae.data.Rows` where the
            model needs to know more of them.

    Returns:
        E[x|z] at z = E[z|x], shape ``(N, number of entries)``.

    Raises:
        ValueError: If the model is no VAE, or the data do not suit it.
    """
    if not isinstance(vae, VAE):
        raise expected("vae", "a VAE, whose likelihood has a mean", vae)
    rows = rows_of(vae, x, {})
    found: list[Tensor] = []
    for batch in rows.batches(observations_at_once(vae, rows.x)):
        mean = vae.reconstruct(batch).flatten(1)
        seen = (batch.x != 0) if batch.mask is None else batch.mask
        found.append(mean.masked_fill(seen.flatten(1), -torch.inf).cpu())
    return torch.cat(found).numpy()


def recommend(vae: VAE, x: RowsLike, *, top: int = _TOP) -> Recommendations:
    """Recommends to each user what they have not seen, see :func:`recommendation_scores`.

    References:
        Variational Autoencoders for Collaborative Filtering (Liang et al., 2018),
        https://arxiv.org/abs/1802.05814

    Args:
        vae: The model.
        x: A row for each user, shape ``(N, *event_shape)``; :class:`~pyro_vae.data.Rows` where the
            model needs to know more of them.
        top: How many entries, at most.

    Returns:
        Places of entries, and their scores.

    Raises:
        ValueError: If the data do not suit the model, or ``top`` is no positive integer.

    Example:
        >>> import pyro_vae as pv, torch
        >>> likelihood = pv.likelihoods.Multinomial((5,))
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, seed=0)
        >>> found = recommend(vae, torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]]), top=3)
        >>> sorted(found.items[0].tolist())
        [1, 3, 4]
    """
    top = positive_integer("top", top)
    scores = recommendation_scores(vae, x)
    items = _ranked(scores, top)
    best = np.take_along_axis(scores, items, 1)
    gone = np.isneginf(best)
    return Recommendations(np.where(gone, -1, items), np.where(gone, np.nan, best))


def ranking(
    scores: ArrayLike,
    held_out: ArrayLike,
    *,
    recall: Sequence[int] = _RECALL,
    ndcg: Sequence[int] = _NDCG,
) -> Ranking:
    """Measures how high held-out entries stand, see the formulas of this module.

    References:
        Variational Autoencoders for Collaborative Filtering (Liang et al., 2018),
        https://arxiv.org/abs/1802.05814, section 4.2

    Args:
        scores: Of all entries, shape ``(N, D)``; -inf is never recommended. Of equal ones the first
            stands first.
        held_out: What was taken out of x, which is relevant where it is not 0, shape ``(N, D)``.
        recall: The lengths K of lists whose recall is wanted.
        ndcg: Likewise, for normalised discounted cumulative gain.

    Returns:
        Recall and NDCG of each user.

    Raises:
        ValueError: If shapes differ, a score is NaN, or a length is no positive integer.

    Example:
        >>> import numpy as np
        >>> found = ranking(np.array([[0.4, 0.3, 0.2, 0.1]]), np.array([[0, 1, 0, 1]]), recall=[2])
        >>> found.recall[2]
        array([0.5])
    """
    values, relevant = np.asarray(scores, dtype=np.float64), np.asarray(held_out) != 0
    if values.ndim != 2:
        raise expected("scores", "an array of shape (N, D)", values)
    if relevant.shape != values.shape:
        raise expected("held_out", f"an array of shape {values.shape}", relevant)
    if np.isnan(values).any():
        raise expected("scores", "numbers, or -inf for what is not recommended", "NaN")
    lengths = {"recall": [*recall], "ndcg": [*ndcg]}
    for name, each in lengths.items():
        for length in each:
            positive_integer(name, length)
    order = _ranked(values, max([1, *recall, *ndcg]))
    hits = np.take_along_axis(relevant, order, 1)
    hits &= ~np.isneginf(np.take_along_axis(values, order, 1))
    count = relevant.sum(1)
    gains = 1 / np.log2(np.arange(2, max(order.shape[1], 1) + 2))
    best = np.concatenate([[0.0], gains.cumsum()])  # of so many relevant entries at the top
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            length: np.where(count > 0, hits[:, :length].sum(1) / np.minimum(length, count), np.nan)
            for length in lengths["recall"]
        }
        gained = {
            length: np.where(
                count > 0,
                (hits[:, :length] * gains[:length]).sum(1) / best[np.minimum(length, count)],
                np.nan,
            )
            for length in lengths["ndcg"]
        }
    return Ranking(found, gained, count)


def _ranked(scores: np.ndarray, top: int) -> np.ndarray:
    """Returns the places of the highest scores, the first of equal ones first."""
    return np.argsort(-scores, 1, kind="stable")[:, :top]
