"""Draws of z: how many at a time, from which distribution, and whether compiled."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec

from pyro_vae._errors import expected, out_of_memory, positive_integer, unknown_name
from pyro_vae.data.rows import Rows
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.graph import Graph, values_stay_tensors
from pyro_vae.evaluation._memory import peak_bytes
from pyro_vae.evaluation.pareto import tail_length
from pyro_vae.programs import Amortized
from pyro_vae.programs.composition import Composition
from pyro_vae.programs.streamed import StreamedRows
from pyro_vae.programs.weigh import (
    WeightedDraws,
    chunk_sizes,
    draw_weighted,
    draws_at_once,
    observations_at_once,
    proposed,
)

__all__ = ["BLOCK", "Draws", "Proposal", "decoder_operations", "worth_compiling"]

log = logging.getLogger("pyro_vae")

Proposal = Literal["auto", "guide", "defensive"]
PROPOSALS = ("auto", "guide", "defensive")
BLOCK = 512  # draws gathered before they are summed: few small operations, and few megabytes
_FROM_PRIOR = 0.2  # share of a defensive mixture; Hesterberg (1995) has 0.1 to 0.5
# Multiplications and additions in the decoder for which a compiler's tens of seconds pay.
_WORTH = {"cpu": 1e13}
_WORTH_ELSEWHERE = 1e16
_FEWER_PASSES = 16  # as many draws again at once where a graph reads and writes each but once


@dataclass(frozen=True)
class _Chunk:
    """Some draws for each of some data; as many of them as there are share one graph."""

    size: int
    count: int
    from_prior: bool


def decoder_operations(vae: Amortized) -> int:
    """Returns the multiplications and additions of decoding one z, 0 where it is not known."""
    # Of a program of the user's nobody knows what a graph would bake in.
    weights = vae.decoder.parameters() if isinstance(vae, Composition) else ()
    return 2 * sum(parameter.numel() for parameter in weights)


def worth_compiling(operations: int, device: torch.device) -> bool:
    """Returns whether so many operations of a decoder are worth a compiler's tens of seconds."""
    return operations >= _WORTH.get(device.type, _WORTH_ELSEWHERE)


class Draws:
    """Creates the plan of drawing ``num_samples`` z for each observation.

    A defensive mixture has a fixed number of draws from each of its components (stratification),
    which has less variance than drawing the component too, and the same mean.

    References:
        Weighted Average Importance Sampling and Defensive Mixture Distributions (Hesterberg, 1995),
        https://doi.org/10.1080/00401706.1995.10484303
        Safe and Effective Importance Sampling (Owen and Zhou, 2000),
        https://doi.org/10.1080/01621459.2000.10473909

    Args:
        vae: The model, in evaluation mode.
        rows: N observations that the model accepted.
        num_samples: Draws for each observation, S.
        proposal: Where they come from.
        max_memory: Bytes that the draws and their sums may take at once; None for few.

    Raises:
        ValueError: If an argument is not what it should be, or the memory is too little.
    """

    def __init__(
        self,
        vae: Amortized,
        rows: Rows | StreamedRows,
        num_samples: int,
        proposal: Proposal,
        max_memory: int | None,
    ) -> None:
        if proposal not in PROPOSALS:
            raise unknown_name("proposal", proposal, PROPOSALS)
        self.vae = vae
        share = _FROM_PRIOR if proposal == "defensive" else 0.0
        from_prior = round(share * num_samples)
        self.strata = {False: num_samples - from_prior, True: from_prior}
        batch = min(len(rows), observations_at_once(vae, rows[:1].x))
        at_once = draws_at_once(vae, rows[:batch].x)
        self._flops, self._device = decoder_operations(vae), vae.device
        if worth_compiling(len(rows) * num_samples * self._flops, vae.device):
            at_once *= _FEWER_PASSES
        if max_memory is not None:
            batch, at_once = self._within(max_memory, rows, batch, at_once, num_samples)
        self.batch = batch  # observations at a time
        self.sizes = chunk_sizes(len(rows), batch)
        self.counts = {
            from_prior: _counts(total, at_once) for from_prior, total in self.strata.items()
        }
        self._least = num_samples  # at a time: fewer, once memory has not sufficed
        self._graphs: dict[_Chunk, Graph | None] = dict.fromkeys(self._worth_compiling())

    def of(self, rows: Rows, features: Tensor) -> Iterator[tuple[bool, Tensor]]:
        """Yields whether draws are from the prior, and their terms, float64, ``(3, S, B)``.

        The terms are ``log p(x|z)``, ``log p(z)`` and ``log q(z|x)``, gathered into blocks on the
        CPU: some accelerators have no float64.
        """
        for from_prior, counts in self.counts.items():
            held: list[Tensor] = []
            size = 0
            for i, count in enumerate(counts):
                held.append(self._terms(rows, features, _Chunk(len(rows), count, from_prior)))
                size += count
                if size >= BLOCK or i == len(counts) - 1:
                    block = torch.cat(held, 1)
                    held, size = [], 0
                    yield from_prior, block.cpu().double()

    def pass_over(self, rows: Rows, features: Tensor) -> None:
        """Draws what :meth:`of` draws for some rows, and does nothing with it."""
        for from_prior, counts in self.counts.items():
            for count in counts:
                proposed(self.vae, rows, count, features, from_prior)

    def log_proposal(self, log_prior: Tensor, log_guide: Tensor) -> Tensor:
        """Returns the log-density that draws have, whichever component they are from."""
        total = sum(self.strata.values())
        if not self.strata[True]:
            return log_guide
        return torch.logaddexp(
            log_guide + math.log(self.strata[False] / total),
            log_prior + math.log(self.strata[True] / total),
        )

    def _terms(self, rows: Rows, features: Tensor, chunk: _Chunk) -> Tensor:
        """Draws a chunk; where memory does not suffice or did not before, in smaller ones."""
        if chunk.count <= self._least:
            before = torch.get_rng_state()
            try:
                return self._drawn(rows, features, chunk)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            if chunk.count == 1:
                what = (
                    f"out of memory for one z of each of {len(rows)} observations: fewer at a time"
                )
                raise MemoryError(what)
            torch.set_rng_state(before)
            self._least = chunk.count // 2
            what = "out of memory: z drawn %d at a time for each of %d observations"
            log.warning(what, self._least, len(rows))
        parts = [replace(chunk, count=count) for count in _counts(chunk.count, self._least)]
        return torch.cat([self._terms(rows, features, part) for part in parts], 1)

    def _drawn(self, rows: Rows, features: Tensor, chunk: _Chunk) -> Tensor:
        if chunk in self._graphs:
            leaves, structure = rows.flatten()
            inputs = [features, *leaves]
            if self._graphs[chunk] is None:
                self._capture(inputs, structure, chunk)
            if (graph := self._graphs.get(chunk)) is not None:
                return graph(*inputs)[0]
        return self._eagerly(rows, features, chunk)

    def _eagerly(self, rows: Rows, features: Tensor, chunk: _Chunk) -> Tensor:
        draws = draw_weighted(
            self.vae, rows, chunk.count, features=features, from_prior=chunk.from_prior
        )
        return torch.stack([draws.log_likelihood, draws.log_prior, draws.log_guide])

    def _capture(self, inputs: list[Tensor], structure: TreeSpec, chunk: _Chunk) -> None:
        def terms(features: Tensor, *leaves: Tensor) -> list[Tensor]:
            with values_stay_tensors():
                return [self._eagerly(Rows.unflatten(leaves, structure), features, chunk)]

        try:
            self._graphs[chunk] = Graph(terms, Dependencies(self.vae).tensors, inputs)
        except NotCapturable as reason:
            log.warning("evaluate runs eagerly: %s", reason)
            self._graphs.clear()

    def _worth_compiling(self) -> list[_Chunk]:
        """The chunks of which there are so many that compiling them pays."""
        sizes = Counter(self.sizes)
        times = {
            _Chunk(size, count, from_prior): batches * number
            for from_prior, counts in self.counts.items()
            for count, number in Counter(counts).items()
            for size, batches in sizes.items()
        }
        return [
            chunk
            for chunk, number in times.items()
            if worth_compiling(number * chunk.size * chunk.count * self._flops, self._device)
        ]

    def _within(
        self, max_memory: int, rows: Rows | StreamedRows, batch: int, at_once: int, num_samples: int
    ) -> tuple[int, int]:
        """Returns how many data and draws fit into the memory, no more than is asked for."""
        max_memory = positive_integer("max_memory", max_memory)
        fixed, each, row = self._costs(rows[:1])
        block = min(BLOCK, num_samples)
        # Terms, weights and their tail in float64, with the copies that sums and sorting make.
        sums = 64 * (tail_length(num_samples) + 1) + 120 * block
        each, row = max(each, sums), row + 120
        least = fixed + each + row
        if max_memory < least:
            raise expected("max_memory", f"at least {least:,} bytes for this", max_memory)
        # Half of it for the sums of a batch, the rest for its draws.
        batch = max(1, min(batch, (max_memory - fixed) // 2 // max(each, row)))
        return batch, min(at_once, (max_memory - fixed - batch * each) // (batch * row))

    def _costs(self, one: Rows) -> tuple[int, int, int]:
        """Bytes of drawing in any case, those to encode an observation, and those for each z."""

        def encode() -> Tensor:
            return self.vae.features(one)

        features = encode()

        def weigh(count: int) -> WeightedDraws:
            return draw_weighted(self.vae, one, count, features=features)

        once, thrice = (peak_bytes(partial(weigh, n)) for n in (1, 3))
        # A kernel may need for itself as much again as its results take.
        return 2 * once, 2 * peak_bytes(encode), thrice - once


def _counts(total: int, at_once: int) -> list[int]:
    """Splits draws into chunks of one size where there is one, so that one graph serves all."""
    if total == 0:
        return []
    size = min(at_once, total)
    size = next((n for n in range(size, size // 2, -1) if total % n == 0), size)
    return [min(size, total - done) for done in range(0, total, size)]
