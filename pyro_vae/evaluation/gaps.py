"""Why the bound is below log p(x): what the guide's family costs, and what its encoder costs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_vae._errors import expected, is_number, plural, positive_integer
from pyro_vae._html import shown
from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import GivenLike, Rows, RowsLike
from pyro_vae.distributions import MAX_ENUMERATED
from pyro_vae.evaluation._common import check_arguments, check_ignorable, measured, states_of
from pyro_vae.evaluation.pareto import k_hat, tail_length
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import as_tensor
from pyro_vae.programs.weigh import draws_at_once

__all__ = ["Gaps", "gaps"]

_HELD = 2**21  # log weights of a batch that are held until they are summed
_NEGLIGIBLE = 0.01  # nats: a smaller gain must be seen by two standard errors to be one
_DECAY = 1e-3  # of the learning rate, over one round
_BETAS = (0.9, 0.95)  # a longer memory of the first, steep steps slows all that follow
_MEASURED = ("log_marginal", "elbo", "elbo_optimal", "approximation", "amortisation", "residual")

_WORDS = {
    "log_marginal": "log p(x)",
    "approximation": "approximation: log p(x) - L[q*]",
    "elbo_optimal": "L[q*], the guide optimised for each observation",
    "amortisation": "amortisation: L[q*] - L[q]",
    "elbo": "L[q], the guide of the encoder: the ELBO",
    "residual": "residual: gained by the last half of the steps",
}


@dataclass(frozen=True, eq=False, repr=False)
class Gaps:
    """The gap between log p(x) and the bound in two parts, per observation, in nats.

    ``approximation + amortisation`` is ``log_marginal - elbo``. Each of the six arrays of shape
    ``(N,)`` has its Monte Carlo standard errors beside it, under its name in ``mcse``.

    Attributes:
        log_marginal: log p(x): as it was given, summed over all z, or importance-weighted with
            draws of q*, and then too low in expectation.
        elbo: L[q], the bound with the guide as the encoder has it.
        elbo_optimal: L[q*], with the guide's parameters optimised for each observation.
        approximation: ``log_marginal - elbo_optimal``: what no member of the family can mend.
        amortisation: ``elbo_optimal - elbo``: what one encoder for all data loses.
        residual: What the second half of the optimisation still gained over the first. Where it is
            not small beside ``amortisation``, more steps would have gained more.
        mcse: Monte Carlo standard errors; zero where nothing is sampled.
        k_hat: Pareto shapes of the importance weights of q*, shape ``(N,)``; NaN without weights.
        features: The parameters of q*, shape ``(N, *guide.param_shape)``:
            ``vae.guide_family(features)`` is q*.
        num_steps: Optimiser steps for each observation.
        num_samples: Fresh draws of z for each observation, from which the bounds are measured.
        estimator: How log p(x) was had.
        base_measure: What the log-densities are densities of, as in
            :class:`~pyro_vae.evaluation.Scores`.
    """

    log_marginal: np.ndarray
    elbo: np.ndarray
    elbo_optimal: np.ndarray
    approximation: np.ndarray
    amortisation: np.ndarray
    residual: np.ndarray
    mcse: dict[str, np.ndarray]
    k_hat: np.ndarray
    features: Tensor
    num_steps: int
    num_samples: int
    estimator: str
    base_measure: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Returns the means over the data and their errors, ready for JSON.

        ``X_mcse`` is the Monte Carlo error of the mean of ``X`` on these data, ``X_standard_error``
        its error as an estimate for data to come. What is not finite is None.
        """
        values: dict[str, float] = {}
        for name in _MEASURED:
            each, errors = getattr(self, name), self.mcse[name]
            values[name] = each.mean()
            values[f"{name}_mcse"] = math.sqrt((errors**2).sum()) / len(each)
            values[f"{name}_standard_error"] = (
                each.std(ddof=1) / math.sqrt(len(each)) if len(each) > 1 else math.nan
            )
        known = self.k_hat[~np.isnan(self.k_hat)]
        values["k_hat_median"] = np.median(known) if len(known) else math.nan
        return {name: float(v) if np.isfinite(v) else None for name, v in values.items()} | {
            "num_steps": self.num_steps,
            "num_samples": self.num_samples,
            "estimator": self.estimator,
            "base_measure": dict(self.base_measure),
        }

    def __repr__(self) -> str:
        known = self.summary()
        told = {name: f"{known[name]:.4g} ± {known[f'{name}_mcse']:.2g}" for name in _MEASURED}
        return (
            f"Gaps({plural(len(self.elbo), 'observation')}, nats per observation, ± Monte Carlo)\n"
            f"  log p(x)       {told['log_marginal']} ({self.estimator})\n"
            f"  approximation  {told['approximation']}\n"
            f"  L[q*]          {told['elbo_optimal']}\n"
            f"  amortisation   {told['amortisation']}\n"
            f"  L[q]           {told['elbo']}\n"
            f"  residual       {told['residual']}: gained by the last half of the steps"
        )

    def _repr_html_(self) -> str:
        known = self.summary()
        rows = [
            (what, f"{known[name]:.4g}", f"{known[f'{name}_mcse']:.2g}")
            for name, what in _WORDS.items()
        ]
        notes = [
            "nats per observation; ± is one standard error",
            f"log p(x) by {self.estimator}; {plural(self.num_steps, 'step')} for each q*",
        ]
        title = f"Gaps: {plural(len(self.elbo), 'observation')}"
        return shown(title, ("", "mean", "± Monte Carlo"), rows, notes=notes)


def gaps(
    vae: Amortized,
    x: RowsLike,
    *,
    num_steps: int = 600,
    num_particles: int = 8,
    lr: float = 0.1,
    num_samples: int = 1000,
    log_marginal: ArrayLike | None = None,
    mcse: ArrayLike | None = None,
    seed: int = 0,
    base_measure: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
    **given: Unpack[GivenLike],
) -> Gaps:
    r"""Splits the gap between log p(x) and the bound: the guide's family, and its encoder.

    .. math:: \log p(x) - L[q] = \underbrace{\log p(x) - L[q^*]}_{\text{approximation}}
        + \underbrace{L[q^*] - L[q]}_{\text{amortisation}}, \quad
        L[q] = \mathbb{E}_q[\log p(x, z) - \log q(z)]

    q* is the best member of the guide's family for each observation by itself. It is found by Adam
    on the guide's parameters (what the encoder returns), from where the encoder put them, in two
    rounds of a decaying rate; ``residual`` is what the second gained. The gradients are those of
    the path alone, which vanish with all their noise where the family holds the posterior. Then
    L[q*] and L[q] are measured with fresh draws, the same random numbers for both, so that their
    difference has a small error. Where other fresh draws see no gain, of at least two standard
    errors or a hundredth of a nat, the encoder's q is q*: so much may be missed, and q* is never
    worse than q. What the noise of the optimiser costs, about 1e-3 nats as it stands, falls with
    ``num_steps * num_particles``.

    A one-hot latent is summed over all its joint states: then nothing is sampled, and log p(x) is
    exact. With more than 65,536 states it is refused. The model never moves, nor do its gradients.

    References:
        Inference Suboptimality in Variational Autoencoders (Cremer et al., 2018),
        https://arxiv.org/abs/1801.03558
        Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference
        (Roeder et al., 2017), https://arxiv.org/abs/1703.09194

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``.
        num_steps: Optimiser steps, both rounds together.
        num_particles: Draws of z for each observation and step.
        lr: Learning rate at the start of a round.
        num_samples: Draws of z for each observation that measure the bounds.
        log_marginal: log p(x) where it is known better than by importance weighting with q*, for
            example by annealed importance sampling, shape ``(N,)``, in nats.
        mcse: Monte Carlo standard errors of ``log_marginal``, shape ``(N,)``; zero if not given.
        seed: Of all draws: the same seed gives the same gaps.
        base_measure: As in :func:`~pyro_vae.evaluation.evaluate`.
        progress: Called now and then with the fraction that is done.
        **given: Goes with x (:class:`~pyro_vae.data.Given`): gaps of p(x|c), of what a mask leaves.

    Returns:
        Both gaps per observation, each with its error, and what they are made of.

    Raises:
        ValueError: If the data do not suit the model, an option is not what it should be, the
            guide cannot be optimised, or the optimisation leaves the finite numbers.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> found = gaps(vae, torch.ones(5, 4), num_steps=20, num_samples=50)
        >>> found.approximation.shape, found.mcse["amortisation"].shape
        ((5,), (5,))
    """
    seed = check_arguments(vae, seed)
    check_ignorable(vae)
    num_steps, num_particles, num_samples = _checked(num_steps, num_particles, num_samples, lr)
    data, described = measured(vae, x, given, base_measure)
    known = _known(log_marginal, mcse, len(data))

    kind = _Enumerated if vae.space.support.is_discrete else _Sampled
    columns, features, done = [], [], 0
    with undisturbed(vae, seed, data.x.device), torch.enable_grad():
        for batch in data.batches(kind.batch_size(vae, data[:1], num_particles, num_samples)):
            bound = kind(vae, batch, num_particles, num_samples)
            rounds = [bound.start]
            for steps in (num_steps - num_steps // 2, num_steps // 2):
                rounds.append(_ascend(bound, rounds[-1], steps, lr))
            rows = slice(done, done + len(batch))
            best, column = bound.measure(rounds, None if known is None else known[:, rows])
            columns.append(column)
            features.append(best)
            done += len(batch)
            if progress is not None:
                progress(done / len(data))
    joined = {name: torch.cat([c[name] for c in columns]).numpy() for name in columns[0]}
    return Gaps(
        **{name: joined[name] for name in (*_MEASURED, "k_hat")},
        mcse={name: joined[f"{name}_mcse"] for name in _MEASURED},
        features=torch.cat(features),
        num_steps=num_steps,
        num_samples=num_samples,
        estimator=kind.estimator if known is None else "given",
        base_measure=described,
    )


def _checked(num_steps: int, num_particles: int, num_samples: int, lr: float) -> list[int]:
    given = {"num_steps": num_steps, "num_particles": num_particles, "num_samples": num_samples}
    options = {name: positive_integer(name, value) for name, value in given.items()}
    for name in ("num_steps", "num_samples"):
        if options[name] < 2:
            raise expected(name, "at least 2", options[name])
    if not is_number(lr) or not 0 < lr < math.inf:
        raise expected("lr", "a positive number", lr)
    return list(options.values())


def _known(log_marginal: ArrayLike | None, mcse: ArrayLike | None, size: int) -> Tensor | None:
    """Returns log p(x) and its errors as two rows, if they were given."""
    if log_marginal is None:
        if mcse is not None:
            raise expected("mcse", "None where no `log_marginal` is given", mcse)
        return None
    rows = []
    for name, values in (("log_marginal", log_marginal), ("mcse", mcse)):
        row = torch.zeros(size) if values is None else as_tensor(values)
        sound = isinstance(row, Tensor) and row.shape == (size,) and not row.is_complex()
        if not sound or not row.isfinite().all():
            raise expected(name, f"{size} finite numbers, one for each observation", values)
        rows.append(row.detach().cpu().double())
    return torch.stack(rows)


class _Bound(ABC):
    """L[q] of one batch of data, as a function of the parameters of q."""

    estimator: ClassVar[str]

    def __init__(self, vae: Amortized, rows: Rows, num_particles: int, num_samples: int) -> None:
        self.vae, self.rows = vae, rows
        self.num_particles, self.num_samples = num_particles, num_samples
        self.prior = vae.prior_at(rows.given)
        with torch.no_grad():
            self.start = vae.features(rows)
        if self.start.numel() == 0:
            what = "a guide whose sites depend on x alone, by parameters of each observation"
            raise expected("vae", what, "another")

    def log_likelihood(self, z: Tensor) -> Tensor:
        """Returns log p(x|z), shape ``(S, B)``."""
        return self.vae.decode(z, **self.rows.given).log_prob(self.rows.x)

    @staticmethod
    @abstractmethod
    def batch_size(vae: Amortized, one: Rows, num_particles: int, num_samples: int) -> int:
        """Returns how many data fit into memory together."""

    @abstractmethod
    def objective(self, features: Tensor) -> Tensor:
        """Returns a value for each observation whose gradient is that of the bound, on average."""

    @abstractmethod
    def measure(
        self, rounds: list[Tensor], given: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns q* and all columns, from the parameters at the start and after each round."""


class _Sampled(_Bound):
    """By reparameterised draws of z."""

    estimator = "importance weighting, draws of q*"

    def __init__(self, vae: Amortized, rows: Rows, num_particles: int, num_samples: int) -> None:
        super().__init__(vae, rows, num_particles, num_samples)
        if not vae.guide_at(self.start, rows).has_rsample:
            what = "a guide with reparameterised draws, or one of one-hot latents"
            raise expected("vae", what, type(vae.guide_at(self.start, rows)).__name__)

    @staticmethod
    def batch_size(vae: Amortized, one: Rows, num_particles: int, num_samples: int) -> int:
        return max(1, min(draws_at_once(vae, one.x) // num_particles, _HELD // num_samples))

    def objective(self, features: Tensor) -> Tensor:
        z = self.vae.guide_at(features, self.rows).rsample((self.num_particles,))
        log_joint = self.log_likelihood(z) + self.prior.log_prob(z)
        return (log_joint - self.vae.guide_at(features.detach(), self.rows).log_prob(z)).mean(0)

    def measure(
        self, rounds: list[Tensor], given: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        start, _, last = rounds
        # The choice must not see the draws that measure it, or it would flatter itself.
        before, after = self._log_weights([start, last], self.num_samples)
        gain, error = _mean_and_error(after - before)
        improved = gain > (2 * error).clamp_max(_NEGLIGIBLE)
        wide = improved.reshape(-1, *(1,) * (start.ndim - 1)).to(start.device)
        best = torch.where(wide, last, start)

        at_start, at_first, at_last = self._log_weights(rounds, self.num_samples)
        at_best = torch.where(improved, at_last, at_start)
        total = at_best.logsumexp(0)
        weights = (at_best - total).exp() * len(at_best)  # of mean one
        tail = at_best.topk(min(len(at_best), tail_length(len(at_best)) + 1), dim=0).values
        columns = {"k_hat": k_hat(tail)}
        terms = {
            "log_marginal": weights - 1 + total - math.log(len(at_best)),
            "elbo": at_start,
            "elbo_optimal": at_best,
            # The same draws: what moves both moves the gap little.
            "approximation": weights - 1 + total - math.log(len(at_best)) - at_best,
            "amortisation": at_best - at_start,
            "residual": at_last - at_first,
        }
        for name, each in terms.items():
            columns[name], columns[f"{name}_mcse"] = _mean_and_error(each)
        # Where q is kept the gap is not known to be nothing, but to be within this error of it.
        columns["amortisation_mcse"] = _mean_and_error(at_last - at_start)[1]
        if given is not None:
            columns["log_marginal"], columns["log_marginal_mcse"] = given
            columns["approximation"] = given[0] - columns["elbo_optimal"]
            columns["approximation_mcse"] = torch.hypot(given[1], columns["elbo_optimal_mcse"])
        return best, columns

    @torch.no_grad()
    def _log_weights(self, candidates: list[Tensor], num_samples: int) -> list[Tensor]:
        """Returns log p(x, z) - log q(z) of draws of each q, each of shape ``(num_samples, B)``."""
        found: list[list[Tensor]] = [[] for _ in candidates]
        left = num_samples
        while left > 0:
            count = min(left, draws_at_once(self.vae, self.rows.x))
            seed = int(torch.randint(2**62, ()))
            for features, chunks in zip(candidates, found, strict=True):
                q = self.vae.guide_at(features, self.rows)
                with undisturbed(self.vae, seed, self.rows.x.device):
                    z = q.rsample((count,))
                log_joint = self.log_likelihood(z) + self.prior.log_prob(z)
                chunks.append((log_joint - q.log_prob(z)).cpu().double())
            left -= count
        return [torch.cat(chunks) for chunks in found]


class _Enumerated(_Bound):
    """By sums over all joint states of z."""

    estimator = "enumeration"

    def __init__(self, vae: Amortized, rows: Rows, num_particles: int, num_samples: int) -> None:
        super().__init__(vae, rows, num_particles, num_samples)
        self.states = states_of(self.prior, rows)
        with torch.no_grad():
            chunks = self.states.split(draws_at_once(vae, rows.x))
            log_likelihood = torch.cat([self.log_likelihood(z) for z in chunks])
            self.log_joint = log_likelihood + self.prior.log_prob(self.states)

    @staticmethod
    def batch_size(vae: Amortized, one: Rows, num_particles: int, num_samples: int) -> int:
        return max(1, draws_at_once(vae, one.x) // _number_of_states(vae, one))

    def objective(self, features: Tensor) -> Tensor:
        log_q = self.vae.guide_at(features, self.rows).log_prob(self.states)
        return (log_q.exp() * (self.log_joint - log_q)).sum(0)

    @torch.no_grad()
    def measure(
        self, rounds: list[Tensor], given: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        start, _, last = rounds
        at_start, at_first, at_last = (self.objective(each).cpu().double() for each in rounds)
        improved = at_last > at_start
        wide = improved.reshape(-1, *(1,) * (start.ndim - 1)).to(start.device)
        zeros = torch.zeros_like(at_start)
        log_marginal, error = given if given is not None else (self._log_marginal(), zeros)
        elbo_optimal = torch.maximum(at_last, at_start)
        columns = {
            "log_marginal": log_marginal,
            "elbo": at_start,
            "elbo_optimal": elbo_optimal,
            "approximation": log_marginal - elbo_optimal,
            "amortisation": elbo_optimal - at_start,
            "residual": at_last - at_first,
        }
        errors = dict.fromkeys(columns, zeros) | {"log_marginal": error, "approximation": error}
        columns |= {f"{name}_mcse": each for name, each in errors.items()}
        return torch.where(wide, last, start), columns | {"k_hat": zeros + math.nan}

    def _log_marginal(self) -> Tensor:
        return self.log_joint.cpu().double().logsumexp(0)


def _mean_and_error(draws: Tensor) -> tuple[Tensor, Tensor]:
    return draws.mean(0), draws.std(0) / math.sqrt(len(draws))


def _number_of_states(vae: Amortized, one: Rows) -> int:
    count: int = vae.prior_at(one.given).num_states
    if count > MAX_ENUMERATED:
        what = f"a latent of at most {MAX_ENUMERATED:,} joint states, to sum over"
        raise expected("vae", what, f"about 10**{len(str(count)) - 1}")
    return count


def _ascend(bound: _Bound, start: Tensor, num_steps: int, lr: float) -> Tensor:
    """Maximises the bound of each observation by itself: Adam works on each number by itself too.

    Raises:
        ValueError: If what it finds is not finite.
    """
    features = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([features], lr=lr, betas=_BETAS)
    for step in range(num_steps):
        optimiser.param_groups[0]["lr"] = lr * _DECAY ** (step / num_steps)
        # Of the features alone: no gradient reaches the model.
        (features.grad,) = torch.autograd.grad(-bound.objective(features).sum(), features)
        optimiser.step()
    if not features.isfinite().all():
        raise expected("lr", "a rate at which the bound stays finite", lr)
    return features.detach()
