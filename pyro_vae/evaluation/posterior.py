"""Draws of z given x: the guide's, corrected by importance weights, or by NUTS."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Unpack, get_args

import numpy as np
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae._errors import expected, plural, positive_integer, unknown_name
from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import GivenLike, Rows, RowsLike
from pyro_vae.evaluation._common import check_arguments, check_ignorable, check_unbounded, finite
from pyro_vae.evaluation.pareto import k_hat, k_hat_threshold, tail_length
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import rows_of
from pyro_vae.programs.weigh import observations_at_once

__all__ = ["PosteriorDraws", "posterior_draws"]

Method = Literal["guide", "importance", "nuts"]

_PROPOSALS_A_DRAW = 20  # at least, and
_FEWEST_PROPOSALS = 1000
_PROPOSED_AT_ONCE = 2**22  # entries of z held for the data that are resampled together
_WRONG_R_HAT = 1.01  # Vehtari et al. (2021)


@dataclass(frozen=True, eq=False, repr=False)
class PosteriorDraws:
    """Draws of z for each observation, and how far to trust them.

    Attributes:
        z: Shape ``(num_draws, N, *z)``; those of several chains one chain after the other.
        method: ``guide``, ``importance`` or ``nuts``; or a name of your own for draws of yours.
        k_hat: Of ``importance``: Pareto shapes of the weights, shape ``(N,)``; above
            ``min(1 - 1 / log10(num_proposals), 0.7)`` the guide has missed too much.
        ess: Of ``importance``: effective numbers of proposals. Of ``nuts``: bulk effective sample
            sizes, of the entry of z that has least. Shape ``(N,)``.
        r_hat: Of ``nuts``: rank-normalised split R-hat, of the entry of z that has most, shape
            ``(N,)``; above 1.01 the chains do not agree.
        divergences: Of ``nuts``: draws at which the integrator diverged, shape ``(N,)``.
        num_proposals: Of ``importance``: proposals for each observation.
        num_chains: Of ``nuts``: chains for each observation.
    """

    z: Tensor
    method: str
    k_hat: np.ndarray | None = None
    ess: np.ndarray | None = None
    r_hat: np.ndarray | None = None
    divergences: np.ndarray | None = None
    num_proposals: int | None = None
    num_chains: int | None = None

    def summary(self) -> dict[str, Any]:
        """Returns the diagnostics over the data, ready for JSON.

        What is not finite is None.
        """
        values: dict[str, float] = {}
        if self.ess is not None:
            values |= {"ess_median": np.median(self.ess), "ess_min": self.ess.min()}
        if self.k_hat is not None and self.num_proposals is not None:
            known = self.k_hat[~np.isnan(self.k_hat)]
            threshold = k_hat_threshold(self.num_proposals)
            values["k_hat_median"] = np.median(known) if len(known) else math.nan
            values["k_hat_above_threshold"] = (known > threshold).mean() if len(known) else math.nan
        if self.r_hat is not None and self.divergences is not None:
            values["r_hat_max"] = self.r_hat.max()
            values["r_hat_above_1.01"] = (self.r_hat > _WRONG_R_HAT).mean()
            values["divergences"] = int(self.divergences.sum())
        counts = {"num_proposals": self.num_proposals, "num_chains": self.num_chains}
        return finite(values) | {
            "method": self.method,
            "num_draws": self.z.shape[0],
            "num_data": self.z.shape[1],
            **{name: count for name, count in counts.items() if count is not None},
        }

    def __repr__(self) -> str:
        known = self.summary()
        shown = [
            f"{name} {value:.3g}"
            for name, value in known.items()
            if isinstance(value, int | float) and name not in ("num_draws", "num_data")
        ]
        draws, data = known["num_draws"], known["num_data"]
        sizes = f"{plural(draws, 'draw')} for each of {plural(data, 'observation')}"
        return f"PosteriorDraws({', '.join([self.method, sizes, *shown])})"


def posterior_draws(
    vae: Amortized,
    x: RowsLike,
    *,
    method: Method = "guide",
    num_draws: int = 1000,
    num_proposals: int | None = None,
    num_warmup: int = 300,
    num_chains: int = 4,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **given: Unpack[GivenLike],
) -> PosteriorDraws:
    r"""Draws z given x, of the guide or of the posterior that it stands for.

    ``guide`` draws :math:`z \sim q(z \mid x)` and knows nothing of p(z|x). ``importance`` draws
    from many proposals of the guide in proportion to :math:`p(x, z) / q(z \mid x)`, which is right
    in so far as the weights are light: see ``k_hat``. ``nuts`` runs Pyro's NUTS on z with the
    decoder fixed, for each observation by itself, since data that share a trajectory share its step
    size and length; started at draws of the guide. It takes seconds per observation, and needs no
    good guide.

    References:
        Using the SIR Algorithm to Simulate Posterior Distributions (Rubin, 1988),
        https://www.uv.es/bernardo/Valencia3.htm
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024),
        https://arxiv.org/abs/1507.02646
        The No-U-Turn Sampler (Hoffman and Gelman, 2014), https://arxiv.org/abs/1111.4246
        Rank-Normalization, Folding, and Localization: An Improved R-hat (Vehtari et al., 2021),
        https://arxiv.org/abs/1903.08008

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``.
        method: ``guide``, ``importance`` or ``nuts``.
        num_draws: Draws for each observation.
        num_proposals: Of ``importance``: proposals for each observation; 20 for each draw and at
            least 1,000 if not given. Draws are with replacement.
        num_warmup: Of ``nuts``: transitions of each chain to adapt on, which are dropped.
        num_chains: Of ``nuts``: chains for each observation, of ``num_draws / num_chains`` draws.
        seed: Of the draws: the same seed gives the same draws.
        progress: Called now and then with the fraction that is done.
        **given: What goes with the data (:class:`~pyro_vae.data.Given`): draws are given the
            condition, and what a mask leaves.

    Returns:
        Draws, with diagnostics for each observation.

    Raises:
        ValueError: If the data do not suit the model, an option is not what it should be, or NUTS
            is asked for on a latent that is discrete or bounded.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> draws = posterior_draws(vae, torch.ones(5, 4), method="importance", num_draws=100)
        >>> draws.z.shape, draws.k_hat.shape
        (torch.Size([100, 5, 2]), (5,))
    """
    seed = check_arguments(vae, seed)
    if method not in get_args(Method):
        raise unknown_name("method", method, get_args(Method))
    num_draws = positive_integer("num_draws", num_draws)
    num_warmup = positive_integer("num_warmup", num_warmup)
    num_chains = positive_integer("num_chains", num_chains)
    if num_proposals is None:
        num_proposals = max(_FEWEST_PROPOSALS, _PROPOSALS_A_DRAW * num_draws)
    num_proposals = positive_integer("num_proposals", num_proposals)
    rows = rows_of(vae, x, given)
    if method == "nuts":
        check_ignorable(vae, '`method="importance"`')
        check_unbounded(vae, instead='`method="importance"`')
        if num_draws % num_chains:
            what = f"a multiple of num_chains = {num_chains}"
            raise expected("num_draws", what, num_draws)
    with undisturbed(vae, seed, rows.x.device):
        if method == "guide":
            with torch.no_grad():
                batches = rows.batches(observations_at_once(vae, rows.x))
                z = torch.cat([_guide(vae, b).sample((num_draws,)) for b in batches], 1)
            return PosteriorDraws(z, method)
        if method == "importance":
            return _resampled(vae, rows, num_draws, num_proposals, progress)
        return _nuts(vae, rows, num_draws // num_chains, num_warmup, num_chains, progress)


def _guide(vae: Amortized, rows: Rows) -> Distribution:
    return vae.encode(rows.x, **rows.given)


@torch.no_grad()
def _resampled(
    vae: Amortized,
    rows: Rows,
    num_draws: int,
    num_proposals: int,
    progress: Callable[[float], None] | None,
) -> PosteriorDraws:
    entries = num_proposals * vae.space.event_shape.numel()
    size = min(max(1, _PROPOSED_AT_ONCE // entries), len(rows), observations_at_once(vae, rows.x))
    chosen_draws, shapes, sizes = [], [], []
    done = 0
    for batch in rows.batches(size):
        draws = vae.draw_weighted(batch, num_proposals)
        z, log_weights = draws.z, draws.log_weights.cpu().double()
        shares = log_weights.softmax(0)
        chosen = shares.T.multinomial(num_draws, replacement=True).T.to(z.device)
        chosen_draws.append(z[chosen, torch.arange(len(batch), device=z.device)])
        shapes.append(k_hat(log_weights.topk(tail_length(num_proposals) + 1, dim=0).values))
        sizes.append(1 / shares.square().sum(0))
        done += len(batch)
        if progress is not None:
            progress(done / len(rows))
    return PosteriorDraws(
        torch.cat(chosen_draws, 1),
        "importance",
        k_hat=torch.cat(shapes).numpy(),
        ess=torch.cat(sizes).numpy(),
        num_proposals=num_proposals,
    )


def _nuts(
    vae: Amortized,
    rows: Rows,
    num_draws: int,
    num_warmup: int,
    num_chains: int,
    progress: Callable[[float], None] | None,
) -> PosteriorDraws:
    with torch.no_grad():
        starts = _guide(vae, rows).sample((num_chains,))
    data = []
    divergences = np.zeros(len(rows), dtype=int)
    for i, row in enumerate(rows.batches(1)):

        def potential(params: dict[str, Tensor], row: Rows = row) -> Tensor:
            z = params["z"][None]
            return -vae.log_joint(z, row).squeeze(0)

        diverged = 0

        def count(kernel: Any, params: Any, stage: str, i: int) -> None:
            nonlocal diverged
            if stage == "Sample":  # those of the warm-up are not among these
                diverged = len(kernel.diagnostics()["divergences"])

        chains = []
        # One after the other: Pyro would run several in processes of their own.
        for chain in range(num_chains):
            mcmc = MCMC(
                NUTS(potential_fn=potential),
                num_samples=num_draws,
                warmup_steps=num_warmup,
                initial_params={"z": starts[chain, i]},
                hook_fn=count,
                disable_progbar=True,
            )
            mcmc.run()
            chains.append(mcmc.get_samples()["z"])
            divergences[i] += diverged
            if progress is not None:
                progress((i * num_chains + chain + 1) / (len(rows) * num_chains))
        data.append(torch.stack(chains))
    from arviz_stats.base.array import array_stats  # slow to import, and few need it

    z = torch.stack(data, 2)  # chain, draw, observation, event
    known = z.cpu().double().numpy()
    entries = tuple(range(1, known.ndim - 2))
    diagnostics = {"chain_axis": 0, "draw_axis": 1}
    return PosteriorDraws(
        z.flatten(0, 1),
        "nuts",
        ess=array_stats.ess(known, **diagnostics).min(entries),
        r_hat=array_stats.rhat(known, **diagnostics).max(entries),
        divergences=divergences,
        num_chains=num_chains,
    )
