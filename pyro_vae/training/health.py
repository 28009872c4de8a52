"""Warnings while a model is fitted: a latent without information, a decoder at its limits."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence

import torch

from pyro_vae.data.rows import Rows
from pyro_vae.programs import Amortized

__all__ = ["Health"]

log = logging.getLogger("pyro_vae")
_COLLAPSED = 0.01  # nats of KL an observation
_CERTAIN = 1e-6  # variance of p(x|z), relative to that of the data
_SHARE = 0.5  # of the features, which are to be so certain
_EXPLODED = 100.0  # nats of KL an observation, and this many times that of the epochs before
_TIMES = 10.0
_LOOKED_AT = 200


class Health:
    """Looks at a model at the end of each epoch, and warns of each thing once.

    References:
        Generating Sentences from a Continuous Space (Bowman et al., 2016),
        https://arxiv.org/abs/1511.06349, for the collapse

    Args:
        vae: The model.
        rows: Observations to look at it with, which it accepted.
    """

    def __init__(self, vae: Amortized, rows: Rows) -> None:
        self.vae, self.rows = vae, rows[:_LOOKED_AT]
        self._kl: list[float] = []
        self._said: set[str] = set()

    def recall(self, kl: Sequence[float]) -> None:
        """Takes in the KL of epochs that another process has looked at."""
        self._kl = list(kl)

    def look(self, line: Mapping[str, float]) -> None:
        """Takes in a line of the history."""
        epoch, kl = int(line["epoch"]), line["kl"]
        if epoch > 1 and kl < _COLLAPSED:
            self._say(
                "collapse",
                f"epoch {epoch}: posterior collapse: KL {kl:.2g} nats, z says nothing about x; a "
                "warm-up of the KL or a weaker decoder may help",
            )
        if len(self._kl) > 1 and kl > _EXPLODED and kl > _TIMES * statistics.median(self._kl):
            self._say(
                "explosion",
                f"epoch {epoch}: the KL explodes: {kl:.3g} nats; a lower lr or clip_norm may help",
            )
        self._kl.append(kl)
        share = self._certain()
        if share > _SHARE:
            self._say(
                "saturation",
                f"epoch {epoch}: the decoder is saturated: p(x|z) leaves next to no variance in "
                f"{share:.0%} of the features; a lower lr, or a likelihood with a scale, may help",
            )

    @torch.no_grad()
    def _certain(self) -> float:
        """The share of features that vary in the data, and not at all given z."""
        if self.vae.has_globals:
            return 0.0  # p(x|z) is that of a draw of what observations share
        varies = self.rows.x.var(0, correction=0)
        try:
            z = self.vae.encode(self.rows.x, **self.rows.given).mean
            given_z = self.vae.decode(z, **self.rows.without("mask").given).variance.mean(0)
        except NotImplementedError:  # a distribution without a closed variance
            return 0.0
        if given_z.shape != varies.shape:
            return 0.0
        moving = varies > 0
        certain = (given_z < _CERTAIN * varies) & moving
        return float(certain.sum() / moving.sum().clamp_min(1))

    def _say(self, what: str, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("%s", message)
