"""The order in which x and its latents are taken from the stack and put onto it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pyro_vae.distributions import Space
from pyro_vae.guides import Guide, Hierarchy

__all__ = ["Step", "X", "steps"]

X = "x"  # sites are called z, or z and a number


@dataclass(frozen=True)
class Step:
    """One thing that is done in coding a block, and undone in decoding it.

    Attributes:
        kind: ``take`` from the stack by q(z|x), or ``put`` onto it by the model.
        name: Of a site, or ``x``.
        alike: Of a site, whether its grid is of p(z) given what was taken before it: then all bins
            are alike under the prior.
    """

    kind: Literal["take", "put"]
    name: str
    alike: bool = False


def steps(prior: Space, guide: Guide, order: Sequence[str]) -> list[Step]:
    """Returns the steps of coding a block; decoding undoes them, the last one first.

    Each is put onto the stack as soon as nothing that is still to be taken depends on it: with a
    guide from the bottom up that is Bit-Swap, whose stack needs the bits of one layer to begin
    with; else everything is taken first, which is BB-ANS.

    References:
        Practical Lossless Compression with Latent Variables using Bits Back Coding
        (Townsend, Bird and Barber, 2019), https://arxiv.org/abs/1901.04866
        Bit-Swap: Recursive Bits-Back Coding for Lossless Compression with Hierarchical Latent
        Variables (Kingma, Abbeel and Ho, 2019), https://arxiv.org/abs/1905.06845

    Args:
        prior: The sites of p(z).
        guide: The part that q(z|x) is of.
        order: The names of sites in the order in which the guide draws them.

    Example:
        >>> from pyro_vae import guides, priors
        >>> up = guides.Hierarchy([4, 8], direction="bottom-up")
        >>> [(s.kind, s.name) for s in steps(priors.Hierarchy([4, 8]).space, up, ["z1", "z2"])]
        [('take', 'z1'), ('put', 'x'), ('take', 'z2'), ('put', 'z1'), ('put', 'z2')]
    """
    reads = {name: _read(guide, name) for name in order}
    above = {X: prior.decoded} | {name: site.parents or () for name, site in prior.items()}
    found: list[Step] = []
    taken: list[str] = []
    waiting = [X, *reversed(list(prior))]
    alike = {}
    for position, name in enumerate(order):
        alike[name] = set(above[name]) <= set(taken)
        found.append(Step("take", name, alike[name]))
        taken.append(name)
        later = [reads[other] for other in order[position + 1 :]]
        for each in _free(waiting, taken, above, later):
            found.append(Step("put", each, alike.get(each, False)))
            waiting.remove(each)
    return found


def _read(guide: Guide, name: str) -> set[str]:
    """Returns what the distribution of a site depends on: x, unless it comes through another."""
    parents = set(guide.space[name].parents or ())
    up = isinstance(guide, Hierarchy) and guide.direction == "bottom-up"
    return parents if up and parents else parents | {X}


def _free(
    waiting: Sequence[str],
    taken: Sequence[str],
    above: Mapping[str, Sequence[str]],
    reads: Sequence[set[str]],
) -> Iterator[str]:
    """Yields what can be put onto the stack, each after what the model makes of it."""
    left = list(waiting)
    for name in tuple(waiting):
        known = name == X or name in taken
        needed = any(name in each for each in reads)
        below = any(name in above[other] for other in left)
        if known and not needed and not below and set(above[name]) <= set(taken):
            left.remove(name)
            yield name
