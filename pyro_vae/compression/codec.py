"""A block of rows onto a stack of bits by a model, and back: BB-ANS and Bit-Swap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae._untouched import seeded
from pyro_vae.compression.latents import Entries, Grid, entries_of
from pyro_vae.compression.numbers import pop_numbers, push_numbers, rows_at_once
from pyro_vae.compression.order import Step, X, steps
from pyro_vae.compression.same import digest
from pyro_vae.compression.stack import Stack
from pyro_vae.distributions import Joint, site_of
from pyro_vae.programs import VAE

__all__ = ["Codec", "sizes_of_blocks"]

_BLOCK = 32  # rows for which the networks run at once, always as many
_GROWTH = 8  # a block is so much smaller than what is coded already: it takes few bits of its own
_PRIOR_DRAWS = 4096  # of which the grid of a latent is made whose distribution is not known yet
_WIDER = 1.5  # than those draws, whose tails may be longer than a normal distribution's


class Codec:
    """Codes blocks of rows by a model.

    Args:
        vae: The model, in evaluation mode.
    """

    def __init__(self, vae: VAE) -> None:
        self._vae = vae
        self._prior = vae.prior(None)
        self._names = list(vae.space)
        features = self._unread()
        family = vae.guide_family(features)
        order = family.order if isinstance(family, Joint) else self._names
        self._steps = steps(vae.space, vae.guide_family, order)
        self._grids = self._marginal_grids()
        self._rows = rows_at_once(vae.likelihood)
        entries = vae.space.event_shape.numel()
        # Each of four digits of a bin is taken with at most 24 bits, which is more than ever is.
        self.initial_words = 3 * _BLOCK * entries + 64
        self._seen: dict[str, bytes] = {}
        self._size = 0
        self._z: dict[str, Tensor] = {}
        self._bins: dict[str, np.ndarray] = {}
        self._made: dict[str, Grid] = {}
        self._x: np.ndarray | None = None
        self._family: Any = None
        self._check_repeatable()

    def encode(self, stack: Stack, x: np.ndarray) -> None:
        """Puts rows onto a stack.

        Args:
            stack: Where to.
            x: Whole numbers, shape ``(n, D)``, at most a block of rows.
        """
        self._begin(len(x), x)
        for step in self._steps:
            if step.kind == "take":
                self._bins[step.name] = self._grid(step).pop(stack, self._by_guide(step.name))
                self._place(step)
            elif step.name == X:
                self._put_x(stack, x)
            else:
                self._put(stack, step)

    def decode(self, stack: Stack, size: int) -> np.ndarray:
        """Takes rows from a stack, shape ``(size, D)``: the inverse of :meth:`encode`."""
        self._begin(size, None)
        for step in reversed(self._steps):
            if step.kind == "take":
                bins = self._bins[step.name]
                self._grid(step).push(stack, bins, self._by_guide(step.name))
            elif step.name == X:
                self._x = self._taken_x(stack)
                self._family = None
            else:
                grid = self._grid(step)
                by = None if step.alike else self._by_prior(step.name)
                self._bins[step.name] = grid.pop_alike(stack) if by is None else grid.pop(stack, by)
                self._place(step)
        assert self._x is not None
        return self._x

    def digest(self) -> str:
        """Returns a digest of the parameters of the last block, of x and of the guide."""
        return digest(b"".join(self._seen[name] for name in sorted(self._seen)))

    def _check_repeatable(self) -> None:
        """Refuses networks that draw noise of their own: no file of theirs could be read.

        Raises:
            ValueError: If one gives other numbers for the same rows.
        """
        x, space = self._zeros(self._vae.event_shape), self._vae.space
        z = space.join({name: self._zeros(site.shape) for name, site in space.items()})
        networks = {
            "encoder": lambda: self._vae.guide.features(x),
            "decoder": lambda: self._vae.model.params(z),
        }
        for name, outputs in networks.items():
            if not torch.equal(_finite(name, outputs()), outputs()):
                raise expected("vae", f"its {name} to give the same for the same rows", "others")

    def _begin(self, size: int, x: np.ndarray | None) -> None:
        self._size, self._x, self._family = size, x, None
        self._z, self._bins, self._seen, self._made = {}, {}, {}, {}

    def _put(self, stack: Stack, step: Step) -> None:
        grid, bins = self._grid(step), self._bins[step.name]
        if step.alike:
            grid.push_alike(stack, bins)
        else:
            grid.push(stack, bins, self._by_prior(step.name))

    def _put_x(self, stack: Stack, x: np.ndarray) -> None:
        params = self._params()
        for start in reversed(range(0, self._size, self._rows)):
            some = slice(start, min(start + self._rows, self._size))
            push_numbers(stack, x[some], self._vae.likelihood, params[some])

    def _taken_x(self, stack: Stack) -> np.ndarray:
        params = self._params()
        parts = [
            pop_numbers(stack, self._vae.likelihood, params[start : start + self._rows])
            for start in range(0, self._size, self._rows)
        ]
        return np.concatenate(parts)

    def _params(self) -> Tensor:
        """Returns what the decoder makes of the latents that it receives, of the rows there are."""
        space = self._vae.space
        unknown = {
            name: self._zeros(site.shape) for name, site in space.items() if name not in self._z
        }
        params = _finite("decoder", self._vae.model.params(space.join(self._z | unknown)))
        self._note("x", params)
        return params[: self._size]

    def _by_guide(self, name: str) -> Entries:
        """Returns q of a site, given those before it and x."""
        if self._family is None:
            features = self._unread() if self._x is None else self._features(self._x)
            self._family = self._vae.guide_family(features)
        found = site_of(self._family, name, self._z)
        by = entries_of(found, _BLOCK, "guide", self._vae.guide_family)
        self._note(name, by.loc, by.scale)
        return by.first(self._size)

    def _features(self, x: np.ndarray) -> Tensor:
        rows = torch.from_numpy(x).to(self._vae.model.filler)
        block = _padded(rows).reshape(-1, *self._vae.event_shape)
        return _finite("encoder", self._vae.guide.features(block))

    def _by_prior(self, name: str) -> Entries:
        """Returns p of a site, given those above it."""
        found = site_of(self._prior, name, self._z)
        by = entries_of(found, _BLOCK, "prior", self._vae.prior)
        return by.first(self._size)

    def _grid(self, step: Step) -> Grid:
        if (known := self._made.get(step.name)) is not None:
            return known
        if step.alike:
            by = self._by_prior(step.name)
            found = Grid(by.family, by.loc, by.scale)
        else:
            every = (np.tile(each, (self._size, 1)) for each in self._grids[step.name])
            found = Grid("normal", *every)
        self._made[step.name] = found
        return found

    def _marginal_grids(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Grids of sites that the guide draws before what is above them is known."""
        names = [step.name for step in self._steps if step.kind == "take" and not step.alike]
        if not names:
            return {}
        try:
            with seeded(0):
                draws = self._vae.space.split(self._prior.sample((_PRIOR_DRAWS,)))
        except ValueError:  # of a distribution, several lines long
            raise expected("vae", "its prior to have finite parameters", "others") from None
        found = {name: draws[name].double().numpy() for name in names}
        return {name: (z.mean(0), _WIDER * z.std(0)) for name, z in found.items()}

    def _place(self, step: Step) -> None:
        """Takes the medians of bins for the latents."""
        points = torch.from_numpy(self._grid(step).points(self._bins[step.name]))
        self._z[step.name] = _padded(points.to(self._vae.model.filler))

    def _unread(self) -> Tensor:
        return self._zeros(self._vae.guide_family.param_shape)

    def _zeros(self, shape: torch.Size) -> Tensor:
        return self._vae.model.filler.new_zeros(_BLOCK, *shape)

    def _note(self, name: str, *values: Tensor | np.ndarray) -> None:
        """Keeps what was computed for the rows there are, of which there is a digest."""
        each = (np.ascontiguousarray(value[: self._size]) for value in values)
        self._seen[name] = hashlib.sha256(b"".join(value.tobytes() for value in each)).digest()


def _finite(network: str, outputs: Tensor) -> Tensor:
    """Returns what a network gave.

    Raises:
        ValueError: If no distribution has such parameters.
    """
    if not outputs.isfinite().all():
        raise expected("vae", f"its {network} to give finite numbers for these rows", "others")
    return outputs


def _padded(rows: Tensor) -> Tensor:
    """Returns a whole block, at whose end the last row is repeated."""
    return torch.cat([rows, rows[-1:].expand(_BLOCK - len(rows), *rows.shape[1:])])


def sizes_of_blocks(rows: int, backwards: bool = False) -> Iterator[int]:
    """Yields how many rows there are in each block, in the order in which they are coded.

    The latents of the first are taken from random bits: it has one row. Others grow with what they
    find on the stack. There is no list of them, which a file that was made up would make long.

    Args:
        rows: How many there are in all.
        backwards: Whether the last block comes first, as in decoding.

    Example:
        >>> list(sizes_of_blocks(12)), sum(sizes_of_blocks(1000)), max(sizes_of_blocks(1000))
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 1000, 32)
    """
    first: list[int] = []
    done = 0
    while done < min(rows, _GROWTH * _BLOCK):
        first.append(min(max(1, done // _GROWTH), rows - done))
        done += first[-1]
    whole, rest = divmod(rows - done, _BLOCK)
    last = [rest] if rest else []
    if backwards:
        return chain(last, repeat(_BLOCK, whole), reversed(first))
    return chain(first, repeat(_BLOCK, whole), last)
