"""Test statistics: what is asked of a data set, simulated or observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import positive_integer
from pyro_vae.criticism import _measures as measures
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism._measures import Statistic
from pyro_vae.criticism._of_sequences import end_of, of_sequences
from pyro_vae.criticism._of_tables import of_table
from pyro_vae.criticism._replicates import cycled, simulate
from pyro_vae.criticism.relations import interactions
from pyro_vae.data.entries import Entry
from pyro_vae.data.rows import GivenLike
from pyro_vae.distributions import AngleSupport
from pyro_vae.programs import Amortized

__all__ = ["Statistic", "default_statistics"]


@torch.no_grad()
def default_statistics(
    vae: Amortized,
    *,
    size: int = 2000,
    entries: Sequence[Entry] | None = None,
    **given: Unpack[GivenLike],
) -> tuple[Statistic, ...]:
    """Chooses statistics by the support of the likelihood, and by what a table knows of columns.

    Binary data: means, correlations, neighbours, totals, distances. Counts also: dispersion,
    zeros, marginals and extremes. Real data also: spread, skewness and tails in place of
    dispersion; of positive data these, correlations and distances are those of logarithms, and
    there are no zeros. Angles: their mean direction and how they spread about it, marginals, and
    correlations and distances on the circle. Thresholds are quantiles of the model's own draws, so
    that they do not depend on the data that are judged.

    Levels that have no order are seen by their shares, those of a table and those of a categorical
    likelihood, but for the unnamed levels of images, which are grey values. Columns of a table are
    in no order, so that there are no neighbours; totals are those of counts; and distances are
    those of standardised columns. Of sequences that end, such as lines of text, these are asked:
    lengths, and how often each has the commonest symbols, and pairs that follow one another. Mean
    products of three entries are asked of all other data.

    Args:
        vae: The model.
        size: Draws that the thresholds come from.
        entries: What the entries of x are called; by their places if not given.
        **given: What goes with the data that are judged (:class:`~pyro_vae.data.Given`): draws are
            given the same.

    Returns:
        The statistics, each of the entries or columns that it suits; those of which there is
        nothing to ask, such as correlations of a single entry, are left out.

    Raises:
        ValueError: If ``size`` is not a positive integer.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((4,)))
        >>> [statistic.name for statistic in default_statistics(vae)][:4]
        ['mean', 'dispersion', 'zeros', 'marginals']
    """
    support, event_shape = vae.x_support, vae.event_shape
    size, everything = positive_integer("size", size), vae.like(given)
    reference = simulate(vae, 1, size, cycled(everything, size))[0].flatten(1)
    known = tuple(entries_of(vae, None) if entries is None else entries)
    if (end := end_of(vae)) is not None:
        return of_sequences(reference, end, known, event_shape)
    triples = interactions(vae, reference, known)
    if isinstance(support, AngleSupport):
        return (*_of_angles(reference, event_shape, known), *triples)
    if not any(each.field is not None or each.shares for each in known):
        return (*_of_arrays(support, reference, event_shape, known), *triples)
    of_columns = (*of_table(support, reference, known), *triples)
    return tuple(
        replace(each, function=measures.flat(each.function, event_shape)) for each in of_columns
    )


def _of_arrays(
    support: constraints.Constraint,
    reference: Tensor,
    event_shape: torch.Size,
    entries: Sequence[Entry],
) -> tuple[Statistic, ...]:
    """Statistics of vectors and images, of whose entries no table knows anything."""
    names = tuple(each.name for each in entries)
    own: dict[str, Any] = {"of": tuple((each,) for each in entries)}
    seen = measures.of_logs if support is constraints.positive else measures.as_they_are
    chosen = [Statistic("mean", measures.flat(measures.mean, event_shape), names, **own)]
    if support is not constraints.boolean:
        if support is constraints.nonnegative_integer:
            chosen.append(
                Statistic(
                    "dispersion", measures.flat(measures.dispersion, event_shape), names, **own
                )
            )
        else:
            chosen.append(
                Statistic("spread", seen(measures.flat(measures.spread, event_shape)), names, **own)
            )
            chosen.append(
                Statistic(
                    "skewness", seen(measures.flat(measures.skewness, event_shape)), names, **own
                )
            )
            chosen.append(Statistic("tails", seen(measures.flat(measures.kurtosis, event_shape))))
        if support is not constraints.positive:
            chosen.append(
                Statistic("zeros", measures.flat(measures.zeros, event_shape), names, **own)
            )
        chosen.append(measures.marginals(reference, event_shape, entries))
        chosen.append(measures.extremes(reference, event_shape))
    if len(names) > 1:
        correlations = measures.correlations(event_shape, names, entries)
        chosen.append(replace(correlations, function=seen(correlations.function)))
        if max(event_shape[-2:]) > 1:
            chosen.append(
                replace(each := measures.neighbours(event_shape), function=seen(each.function))
            )
        chosen.append(measures.totals(reference, event_shape))
    distances = seen(measures.flat(measures.distances, event_shape))
    chosen.append(measures.nearest(distances))
    return tuple(chosen)


def _of_angles(
    reference: Tensor, event_shape: torch.Size, entries: Sequence[Entry]
) -> tuple[Statistic, ...]:
    """Statistics that do not depend on where the circle is cut open, but for the marginals."""
    names = tuple(each.name for each in entries)
    of = tuple((each,) for each in entries)
    ends = tuple(f"{function} {name}" for function in ("cos", "sin") for name in names)

    def vectors(x: Tensor) -> Tensor:
        return torch.cat([x.cos(), x.sin()], -1)

    def spread(x: Tensor) -> Tensor:
        return 1 - torch.hypot(x.cos().mean(-2), x.sin().mean(-2))

    def turned(x: Tensor) -> Tensor:
        """Sines of the angles from their mean direction."""
        x = x.flatten(x.ndim - len(event_shape))
        middle = torch.atan2(x.sin().mean(-2, keepdim=True), x.cos().mean(-2, keepdim=True))
        return (x - middle).sin().reshape(*x.shape[:-1], *event_shape)

    chosen = [
        Statistic("mean", measures.flat(lambda x: vectors(x).mean(-2), event_shape), ends, of * 2),
        Statistic("spread", measures.flat(spread, event_shape), names, of),
        measures.marginals(reference, event_shape, entries),
    ]
    if len(names) > 1:
        correlations = measures.correlations(event_shape, names, entries)
        chosen.append(replace(correlations, function=lambda x: correlations.function(turned(x))))
    distances = measures.flat(lambda x: measures.distances(vectors(x)), event_shape)
    return (*chosen, measures.nearest(distances))
