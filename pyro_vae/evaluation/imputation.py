"""Imputations with what they rest on: effective draws, k-hat, and parameters fitted anew."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Unpack, cast

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import check_seed, expected, positive_integer
from pyro_vae._jobs import each
from pyro_vae._untouched import seeded
from pyro_vae.data.rows import ConditionsLike, Numbers, Rows, given_of
from pyro_vae.data.source import Stream
from pyro_vae.engine.by_rows import by_rows, check_alike, in_blocks, mixed
from pyro_vae.engine.processes import all_processes, apart
from pyro_vae.evaluation._common import finite
from pyro_vae.evaluation.pareto import k_hat, tail_length
from pyro_vae.programs import VAE, Amortized, Refit
from pyro_vae.programs.accept import rows_of
from pyro_vae.programs.adaptive import effective
from pyro_vae.programs.imputing import (
    NumSamples,
    Proposal,
    UnexplainedRows,
    Weighed,
    filled,
    weighed,
)
from pyro_vae.programs.streamed import StreamedRows, streamed

__all__ = ["Imputation", "impute"]

_FEW = 100  # effective draws: of fewer, intervals are not to be trusted
_HIGH = 0.7  # k-hat
_SOME = 0.05  # of the rows may be poor
_MOST = 16_000  # draws that `auto` makes at most
_AT_ONCE = 1024  # rows that are filled together, with random numbers of their own


@dataclass(frozen=True, eq=False, repr=False)
class Imputation:
    """Completed rows, and how far to trust them.

    Diagnostics are NaN of rows that lack nothing, and where a discrete latent is summed. With
    several fits they are of the worst of them.

    Attributes:
        x: Observed entries as they are, and imputed ones: shape ``(N, *event_shape)``, or
            ``(num_imputations, N, *event_shape)``.
        ess: Effective draws of z, shape ``(N,)``.
        k_hat: Pareto shapes of the weights, shape ``(N,)``: above 0.7 too few draws carry all the
            weight; NaN where it cannot be told, and then ``ess`` decides.
        num_samples: Draws of z for each row, shape ``(N,)``; states, where these are summed.
        num_fits: Parameters that were fitted anew; None if imputations are given the fitted ones.
    """

    x: Tensor
    ess: np.ndarray
    k_hat: np.ndarray
    num_samples: np.ndarray
    num_fits: int | None = None

    def summary(self) -> dict[str, Any]:
        """Returns the diagnostics over the rows that were filled by draws, ready for JSON.

        What is not known is None.
        """
        known = ~np.isnan(self.ess)
        ess, shapes, counts = self.ess[known], self.k_hat[known], self.num_samples[known]
        few = ess < np.minimum(_FEW, counts / 2)
        values = dict.fromkeys(
            ("ess_median", "ess_min", "k_hat_above_0.7", "few_effective"), math.nan
        )
        if known.any():
            values |= {
                "ess_median": float(np.median(ess)),
                "ess_min": float(ess.min()),
                # Where weights are worst no shape can be fitted to them.
                "k_hat_above_0.7": float(((shapes > _HIGH) | (np.isnan(shapes) & few)).mean()),
                "few_effective": float(few.mean()),
            }
        return finite(values) | {"num_filled": int(known.sum()), "num_fits": self.num_fits}

    @property
    def advice(self) -> str:
        """What helps where few draws are effective; empty if there is nothing to say."""
        found = self.summary()
        share = max(found["k_hat_above_0.7"] or 0.0, found["few_effective"] or 0.0)
        if share <= _SOME:
            return ""
        most = int(self.num_samples.max())
        more = (
            [] if most >= _MOST else ["`num_samples='auto'`, which draws more where it is needed"]
        )
        return ", or ".join([*more, "a fit with masks, if it had none (`fit(mask=...)` by `IWAE`)"])

    def __repr__(self) -> str:
        found = self.summary()
        shown = [f"{name} {v:.3g}" for name, v in found.items() if isinstance(v, float)]
        return f"Imputation({', '.join([f'x {tuple(self.x.shape)}', *shown])})"


def impute(
    vae: Amortized,
    x: Numbers | Stream,
    mask: Numbers | None = None,
    *,
    num_samples: NumSamples = "auto",
    num_imputations: int | None = None,
    proposal: Proposal = "auto",
    num_fits: int | None = None,
    refit: Refit | None = None,
    fitted_to: Rows | None = None,
    seed: int | None = 0,
    **given: Unpack[ConditionsLike],
) -> Imputation:
    r"""Fills the entries that are not observed, and reports how many draws that rests on.

    As :meth:`pyro_vae.VAE.impute`, draws are of :math:`p(x_m \mid x_o, \hat\theta)`, as if the
    fitted parameters were known. With ``num_fits`` they are not: each of so many times, rows are
    resampled with replacement, the model is fitted to them anew, and a share of the imputations is
    drawn from it. Imputations then vary as much as the parameters are unknown, which makes multiple
    imputation proper in Rubin's sense, as far as the bootstrap does. The fits are shared by the
    processes that joblib is configured to have (``joblib.parallel_config``), with the same result.
    Without them, processes that ``torchrun`` has started share the rows, 1,024 at a time, and all
    of them have all rows; not so without a seed.

    References:
        Multiple Imputation for Nonresponse in Surveys (Rubin, 1987),
        https://doi.org/10.1002/9780470316696, chapter 4
        Missing Data, Imputation, and the Bootstrap (Efron, 1994),
        https://doi.org/10.1080/01621459.1994.10476768
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024),
        https://arxiv.org/abs/1507.02646

    Args:
        vae: The model, a :class:`pyro_vae.VAE`.
        x: Data, shape ``(N, *event_shape)``; what is not observed may be anything, NaN too. Of a
            :class:`~pyro_vae.data.Stream`, or an array that is mapped to a file and larger than a
            quarter of free memory, some rows are read and filled at a time.
        mask: Which entries are observed, boolean, of the same shape; a stream may bring one.
        num_samples: Draws of z for each observation; ``auto`` draws 1,000, then 4,000 and at most
            16,000 for rows in which fewer than 100 (or ``num_imputations``) are effective.
        num_imputations: How many draws to return; None returns the mean.
        proposal: Where z is drawn, as :meth:`pyro_vae.VAE.impute` has it.
        num_fits: Parameters to fit anew, no more than there are imputations.
        refit: From rows and a seed to a fitted model: :meth:`pyro_vae.Run.refit`, or one of yours.
        fitted_to: The rows that the model was fitted to, which are resampled; those to be imputed,
            with their mask, if not given.
        seed: Of all draws; None draws from torch's generators as they are.
        **given: What else goes with the data (:class:`~pyro_vae.data.Conditions`).

    Returns:
        Completed rows, with the diagnostics of each.

    Raises:
        ValueError: If an argument is wrong, entries of x are not independent given z, or a row that
            lacks entries has no finite log p(x, z) at any draw.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((4,)))
        >>> found = impute(vae, torch.zeros(5, 4), torch.eye(5)[:, :4] < 1, num_imputations=3)
        >>> found.x.shape, found.ess.shape, found.summary()["num_filled"]
        (torch.Size([3, 5, 4]), (5,), 4)
    """
    count = all_processes().count
    # What has no seed is drawn by each process from its own generators: the others have no part.
    with by_rows() if seed is not None else apart():
        if not isinstance(vae, VAE):
            raise expected("vae", "a VAE", vae)
        if mask is None and not (isinstance(x, Stream) and x.first.mask is not None):
            raise expected("mask", "which entries are observed", None)
        seed = None if seed is None else check_seed("seed", seed)
        if num_imputations is not None:
            num_imputations = positive_integer("num_imputations", num_imputations)
        beside = given_of({**given, "mask": mask})
        if num_fits is None:
            for name, value in (("refit", refit), ("fitted_to", fitted_to)):
                if value is not None:
                    raise expected(name, "None without `num_fits`", value)
        elif count > 1:
            raise expected(
                "num_fits", f"None in {count} processes: one shares fits by joblib", num_fits
            )
        elsewhere = streamed(vae, x, beside)
        rows = rows_of(vae, cast(Numbers, x), beside) if elsewhere is None else elsewhere
        if num_fits is None:
            asked: dict[str, Any] = {"seed": seed, "num_samples": num_samples, "x": len(rows)}
            asked |= {"num_imputations": num_imputations, "proposal": proposal}
            tensors = {"x": rows.x, **rows.tensors()} if isinstance(rows, Rows) else {}
            check_alike(vae, asked, tensors)
            return _imputed(vae, rows, num_samples, num_imputations, proposal, seed)
    if not isinstance(rows, Rows):
        raise expected("num_fits", "None with data of which some are read at a time", num_fits)
    tasks = _tasks(num_fits, num_imputations, seed)
    if refit is None or not callable(refit):
        raise expected(
            "refit", "from rows and a seed to a fitted model, such as `run.refit`", refit
        )
    resampled = rows if fitted_to is None else fitted_to
    if not isinstance(resampled, Rows):
        raise expected("fitted_to", "`pyro_vae.data.Rows`", resampled)
    found = dict(each(_Fits(refit, rows, resampled, num_samples, proposal), tasks, "refit"))
    return _together([found[fit] for fit in sorted(found)])


def _tasks(num_fits: int, num_imputations: int | None, seed: int | None) -> list[tuple[int, int]]:
    """Returns how many imputations each fit draws, and its seed."""
    num_fits = positive_integer("num_fits", num_fits)
    if num_imputations is None or num_fits > num_imputations:
        what = f"at least num_fits = {num_fits}: each fit draws a share of them"
        raise expected("num_imputations", what, num_imputations)
    counts = [len(part) for part in np.array_split(np.arange(num_imputations), num_fits)]
    first = int(torch.initial_seed() % 2**31) if seed is None else seed
    return [(count, mixed(first, fit)) for fit, count in enumerate(counts)]


@dataclass(frozen=True)
class _Fits:
    """Fits a model anew to resampled rows, and draws imputations from it."""

    refit: Refit
    rows: Rows
    resampled: Rows
    num_samples: NumSamples
    proposal: Proposal

    def __call__(self, task: tuple[int, int]) -> Imputation:
        """Returns so many imputations, by a seed."""
        count, seed = task
        rng, size = torch.Generator().manual_seed(seed), len(self.resampled)
        index = torch.randint(size, (size,), generator=rng)
        with seeded(seed):  # a model that it builds is drawn, too
            other = self.refit(self.resampled[index.to(self.resampled.x.device)], seed)
        if not isinstance(other, VAE):
            raise expected("refit", "a function that returns a VAE", other)
        rows = self.rows if other.device == self.rows.x.device else self.rows.to(other.device)
        return _imputed(other, rows, self.num_samples, count, self.proposal, seed)


def _imputed(
    vae: VAE,
    rows: Rows | StreamedRows,
    num_samples: NumSamples,
    num_imputations: int | None,
    proposal: Proposal,
    seed: int | None,
) -> Imputation:
    """Fills rows block by block, without a seed all in memory at once."""
    none = torch.empty(0, dtype=torch.long)

    def fill(block: Rows, place: int) -> tuple[Tensor, np.ndarray, Tensor]:
        try:
            return *_filled(vae, block, num_samples, num_imputations, proposal), none
        except UnexplainedRows as error:
            return block.x, np.empty((3, 0)), error.index + place

    size = len(rows) if seed is None and isinstance(rows, Rows) else _AT_ONCE
    found, diagnostics, unexplained = zip(*in_blocks(vae, rows, size, seed, fill), strict=True)
    if len(index := torch.cat(unexplained)) > 0:
        raise UnexplainedRows(index)
    x = found[0] if len(found) == 1 else torch.cat(found, 0 if num_imputations is None else 1)
    ess, shapes, counts = np.concatenate(diagnostics, 1)
    return Imputation(x.to(vae.device), ess, shapes, counts.astype(int))


def _filled(
    vae: VAE,
    rows: Rows,
    num_samples: NumSamples,
    num_imputations: int | None,
    proposal: Proposal,
) -> tuple[Tensor, np.ndarray]:
    """Returns rows that are filled, and effective draws, k-hat and draws, shape ``(3, N)``."""
    assert rows.mask is not None
    lacking = ~rows.mask.flatten(1).all(1).cpu().numpy()
    values = rows.x.expand(num_imputations or 1, *rows.x.shape).clone()
    diagnostics = np.full((3, len(rows)), np.nan)
    diagnostics[2] = 0  # of a complete row that no draw has a finite weight for
    for part in weighed(vae, rows, num_samples, proposal, num_imputations or 0):
        values[:, part.index] = filled(vae, part, num_imputations)
        diagnostics[:, part.index.cpu().numpy()] = _of_weights(part)
    diagnostics[:2, ~lacking] = np.nan
    return values[0] if num_imputations is None else values, diagnostics


def _of_weights(part: Weighed) -> np.ndarray:
    """Returns effective draws, k-hat and draws of each row, shape ``(3, B)``."""
    count, size = part.log_weights.shape
    if part.is_sum:
        return np.stack([np.full(size, np.nan), np.full(size, np.nan), np.full(size, count)])
    log_weights = part.log_weights.cpu().double()
    largest = log_weights.topk(min(tail_length(count) + 1, count), dim=0).values
    columns = (effective(log_weights), k_hat(largest), torch.full((size,), count))
    return np.stack([np.asarray(each, dtype=float) for each in columns])


def _together(found: list[Imputation]) -> Imputation:
    """Returns the imputations of several fits as one."""

    def worst(name: str, take: Any) -> np.ndarray:
        columns = np.stack([getattr(each, name) for each in found])
        known = ~np.isnan(columns)
        filler = math.inf if take is np.min else -math.inf
        return np.where(known.any(0), take(np.where(known, columns, filler), 0), np.nan)

    return replace(
        found[0],
        x=torch.cat([each.x.to(found[0].x) for each in found]),
        ess=worst("ess", np.min),
        k_hat=worst("k_hat", np.max),
        num_samples=np.max([each.num_samples for each in found], 0),
        num_fits=len(found),
    )
