"""Learned scales of likelihoods, kept at their optimum while a model is fitted."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceTailAdaptive_ELBO
from torch import Tensor

from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import Rows
from pyro_vae.distributions import masked
from pyro_vae.objectives import Objective
from pyro_vae.objectives.importance import Importance
from pyro_vae.programs import VAE
from pyro_vae.programs.accept import covariates_of
from pyro_vae.programs.streamed import StreamedRows

__all__ = ["Scales", "Unscaled"]

log = logging.getLogger("pyro_vae")
_SEED = 20200623  # the same draws each time: what changes is the model
_FIRST = 4  # steps: at this and each doubling of it
_LEAST = 20  # held-out rows: of so few, a scale is known to 16%
_PRIOR = 10.0  # rows
_RESIDUALS = 2000  # rows and draws, about: of 2,000, a scale is known to 2%
_ENTRIES = 2**22  # of residuals, at most
_ERRORS = 3.0  # standard errors that a gain worth a warning is greater than


class Scales:
    r"""Puts learned scales where they belong, in closed form, as the residuals shrink.

    By gradient a scale moves about the learning rate a step, and stays behind the residuals for the
    thousands of steps that a factor of ten takes. Its optimum, given decoder and guide, is known,

    .. math:: \hat\sigma = \operatorname{argmax}_\sigma \sum_i \mathrm{E}_{q(z|x_i)}
        \log p(x_i \mid z, \sigma)

    and it is put there after 4, 8, 16, ... steps and at the end of each epoch; in between it
    follows its gradient. Objectives made of importance weights have theirs in the expectation. With
    a missingness model there is no such form, and scales follow their gradients alone.

    The residuals are those of held-out rows, as a temperature is calibrated, where there are at
    least 20: those of the rows that decoder and guide were fitted to are too small, and the smaller
    the scale, the smaller the fit makes them. Without, they are those of training rows, as long as
    these leave residual degrees of freedom: more entries than the decoder has weights. Where they
    leave none, the residuals may go to 0 whatever the noise is. Then a prior worth ten rows, whose
    residuals are those of a decoder that ignores z, holds the scale up.

    References:
        Simple and Effective VAE Training with Calibrated Decoders (Rybkin et al., 2021),
        https://arxiv.org/abs/2006.13202
        On Calibration of Modern Neural Networks (Guo et al., 2017),
        https://arxiv.org/abs/1706.04599, for the held-out rows

    Args:
        vae: The model.
        objective: What is minimised. Of one that is neither ours nor an ELBO of Pyro's nobody knows
            where its optimum is: its scales are left alone.
        rows: Training rows that the model accepted.
        held_out: Validation rows that it accepted, if any.
        num_train: How many training rows there are, if ``rows`` are not all.
    """

    def __init__(
        self,
        vae: VAE,
        objective: PyroELBO,
        rows: Rows,
        held_out: Rows | StreamedRows | None = None,
        num_train: int | None = None,
    ) -> None:
        self.vae, self.objective = vae, objective
        known = Objective | Trace_ELBO | TraceEnum_ELBO | TraceGraph_ELBO
        # The optimum of the tail-adaptive one is another.
        self.are_kept = isinstance(objective, known) and not isinstance(
            objective, TraceTailAdaptive_ELBO
        )
        self.are_held_out = held_out is not None and len(held_out) >= _LEAST
        self.is_determined = True
        if held_out is not None and self.are_held_out:
            self.use(held_out)
        else:
            self.use(rows)
            num_train = len(rows) if num_train is None else num_train
            entries = num_train * vae.event_shape.numel()
            weights = sum(p.numel() for p in vae.decoder.parameters())
            self._prior = _PRIOR / num_train
            self.is_determined = entries > weights
            if self.are_kept and self.are_known and not self.is_determined:
                log.info(
                    "%d rows, of %d entries in all, leave no residual degrees of freedom to a "
                    "decoder of %d weights: a prior worth %g rows holds learned scales up; with "
                    "`validation`, held-out rows set them and the best epoch is kept",
                    num_train, entries, weights, _PRIOR,
                )  # fmt: skip
        self._next = _FIRST

    def use(self, rows: Rows | StreamedRows) -> None:
        """Takes the rows of which the residuals are."""
        entries = self.vae.event_shape.numel()
        weighted = isinstance(self.objective, Importance)
        least = max(2, self.objective.num_samples) if weighted else 1
        size = max(1, min(len(rows), _RESIDUALS, _ENTRIES // (entries * least)))
        self.rows = rows[:size].without("labels")
        self.num_samples = least
        if not weighted:
            self.num_samples = max(1, min(_RESIDUALS, _ENTRIES // entries) // size)

    def after(self, steps: int) -> None:
        """Takes notice of how many steps were taken, and fits the scales if it is time."""
        if steps >= self._next:
            self.resume(steps)
            self.fit()

    def resume(self, steps: int) -> None:
        """Takes notice of how many steps were taken before."""
        while steps >= self._next:
            self._next *= 2

    @property
    def are_known(self) -> bool:
        """Whether there is a closed form.

        Where the mask depends on values there is none: the residuals of what is observed are a
        selection of all, and what is missing has a share in the optimum.
        """
        return self.vae.likelihood.fits_scale and self.vae.missingness is None

    def fit(self) -> None:
        """Puts the scales at their optimum, if they are kept there."""
        if self.are_kept and self.are_known:
            self._with_draws(_SEED, self._fit)

    def warn(self) -> None:
        """Warns if the scales at their optimum would gain more than chance does."""
        if not (self.are_known and self.is_determined) or len(self.rows) < 2:
            return
        before = self._with_draws(_SEED + 1, self._log_probs)
        kept = {name: p.detach().clone() for name, p in self.vae.likelihood.named_parameters()}
        self._with_draws(_SEED, self._fit)
        gain = self._with_draws(_SEED + 1, self._log_probs) - before
        with torch.no_grad():
            for name, parameter in self.vae.likelihood.named_parameters():
                parameter.copy_(kept[name])
        error = float(gain.std() / len(gain) ** 0.5)
        if float(gain.mean()) > _ERRORS * error:
            log.warning(
                "the learned scale of the likelihood is not at its optimum, which would gain "
                "%.2g nats an observation (standard error %.1g): fit for more epochs, or call "
                "`likelihood.fit_scale`", gain.mean(), error,
            )  # fmt: skip

    @torch.no_grad()
    def _with_draws(self, seed: int, use: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Calls with what the decoder makes of draws of z, and with their weights, ``(S, N)``."""
        vae, rows = self.vae, self.rows
        with undisturbed(vae, seed, vae.device):
            if isinstance(self.objective, Importance):
                drawn = vae.draw_weighted(rows, self.num_samples)
                power = 1 - getattr(self.objective, "alpha", 0.0)
                z, weights = drawn.z, (power * drawn.log_weights).softmax(0)
            else:
                z = vae.guide.encode(rows.x, rows.given).sample((self.num_samples,))
                weights = z.new_full((self.num_samples, len(rows)), 1 / self.num_samples)
            return use(vae.model.params(z, rows.given), weights)

    def _fit(self, params: Tensor, weights: Tensor) -> Tensor:
        if not self.is_determined:
            without_z = params.mean((0, 1), keepdim=True).expand(1, *params.shape[1:])
            params = torch.cat([params, without_z])
            weights = torch.cat([weights, torch.full_like(weights[:1], self._prior)])
        self.vae.likelihood.fit_scale(self.rows.x, params, self.rows.mask, weights)
        return weights

    def _log_probs(self, params: Tensor, weights: Tensor) -> Tensor:
        """What each observation is worth, shape ``(N,)``, nats."""
        likelihood, rows = self.vae.likelihood, self.rows
        d = likelihood(params, **covariates_of(likelihood, rows.given))
        if rows.mask is not None:
            d = masked(d, rows.mask)
        log_probs: Tensor = d.log_prob(rows.x)
        return (weights * log_probs).sum(0)


class Unscaled:
    """In place of :class:`Scales`, for programs whose scales, if any, follow their gradients."""

    are_kept = are_held_out = False
    is_determined = True

    def use(self, rows: Rows) -> None:
        """Takes the rows of which residuals would be."""

    def after(self, steps: int) -> None:
        """Takes notice of how many steps were taken."""

    def resume(self, steps: int) -> None:
        """Takes notice of how many steps were taken before."""

    def fit(self) -> None:
        """Leaves everything as it is."""

    def warn(self) -> None:
        """Has nothing to warn of."""
