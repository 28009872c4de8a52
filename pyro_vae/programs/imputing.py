"""What is missing, filled given what is observed: by its mean, or by draws."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, Unpack, cast, get_args

import torch
from torch import Tensor

from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae._untouched import evaluating
from pyro_vae.data.rows import ConditionsLike, Numbers, Rows, given_of
from pyro_vae.distributions import MAX_ENUMERATED
from pyro_vae.programs.accept import rows_of
from pyro_vae.programs.adaptive import adapts, effective, refined
from pyro_vae.programs.composition import Composition
from pyro_vae.programs.weigh import (
    chunk_sizes,
    draw_weighted,
    draws_at_once,
    observations_at_once,
)

if TYPE_CHECKING:
    from pyro_vae.programs.vae import VAE

__all__ = ["Imputing", "NumSamples", "Proposal", "UnexplainedRows", "Weighed", "filled", "weighed"]

log = logging.getLogger("pyro_vae")

Proposal: TypeAlias = Literal["auto", "guide", "defensive", "adaptive"]
NumSamples: TypeAlias = int | Literal["auto"]

_AUTO = (1000, 4000, 16_000)  # draws for each row, more for those that have too few effective ones
_ENOUGH = 100  # effective draws
_POOR = 0.2  # of the draws are effective: of fewer the guide is left
_FEWEST = 100  # draws, of fewer nobody can tell how many are effective
_FROM_PRIOR = 0.2  # share of a defensive mixture
_HELD = 2**22  # entries of z, or of x where each draw of z has an x of its own, that are held


@dataclass(frozen=True)
class Weighed:
    """Weighted draws for some rows, from which these are filled.

    Attributes:
        index: Which rows, shape ``(B,)``.
        rows: These rows.
        log_weights: Shape ``(S, B)``.
        z: Draws, shape ``(S, B, *space.event_shape)``; None with a missingness model.
        x: With a missingness model: completed rows, ``(S, B, *event_shape)``.
        is_sum: Whether these are not draws, but all there is.
    """

    index: Tensor
    rows: Rows
    log_weights: Tensor
    z: Tensor | None = None
    x: Tensor | None = None
    is_sum: bool = False

    def __getitem__(self, which: Tensor) -> Weighed:
        """Returns that of some of the rows."""
        z, x = (None if each is None else each[:, which] for each in (self.z, self.x))
        weights = self.log_weights[:, which]
        return Weighed(self.index[which], self.rows[which], weights, z, x, self.is_sum)


# Kept beside the models: what is saved of them, or compared, does not depend on what was warned of.
_warned: weakref.WeakSet[Imputing] = weakref.WeakSet()


class UnexplainedRows(ValueError):
    """Rows that lack entries, and that have no finite log p(x, z) at any draw of z.

    Args:
        index: Which rows, in ascending order.
    """

    def __init__(self, index: Tensor) -> None:
        self.index = index.cpu()
        what = (
            "rows that have a finite log p(x, z) at some draw of z (look for values far from all "
            "others, or draw more: `num_samples`)"
        )
        first = f"{len(index)} that do not, first row {int(index[0])}, counted from 0"
        super().__init__(str(expected("x", what, first)))

    def __reduce__(self) -> tuple[type[UnexplainedRows], tuple[Tensor]]:
        # Another process would make it of its message.
        return type(self), (self.index,)


class Imputing(Composition):
    """A model that fills what is missing."""

    saw_masks: bool | None = None
    """Whether it was fitted to rows that lack entries; None if nobody knows."""

    @torch.no_grad()
    def impute(
        self,
        x: Numbers,
        mask: Numbers,
        *,
        num_samples: NumSamples = "auto",
        num_imputations: int | None = None,
        proposal: Proposal = "auto",
        **given: Unpack[ConditionsLike],
    ) -> Tensor:
        r"""Fills the entries that are not observed, given those that are.

        A single imputation is the mean, by self-normalised importance weighting,

        .. math:: \mathrm{E}[x_m \mid x_o] \approx \sum_k \bar w_k \, \mathrm{E}[x_m \mid z_k],
            \quad \bar w_k \propto \frac{p(x_o \mid z_k) \, p(z_k)}{q(z_k \mid x_o)},
            \quad z_k \sim q(z \mid x_o)

        and multiple imputations are draws of p(x_m | x_o), by importance resampling of z. With a
        missingness model both are given the mask, too: x_m is drawn with each z, and the weight is
        multiplied by p(s | x_o, x_m).

        A guide that was fitted to complete rows knows nothing of missing entries: it is too sure
        of z. Where less than a fifth of its draws are effective, z is therefore drawn from a
        proposal that is adapted to the row. :func:`pyro_vae.evaluation.impute` returns how many
        draws are effective, too. All is given the fitted parameters, as if they were known; that
        function also knows how to include that they are not.

        References:
            MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets
            (Mattei and Frellsen, 2019), https://arxiv.org/abs/1812.02633
            Multiple Imputation for Nonresponse in Surveys (Rubin, 1987),
            https://doi.org/10.1002/9780470316696

        Args:
            x: Data, shape ``(N, *event_shape)``; what is not observed may be anything, NaN too.
            mask: Which entries are observed, boolean, of the same shape.
            num_samples: Draws of z for each observation, K; ``auto`` draws 1,000, then 4,000 and at
                most 16,000 for rows in which fewer than 100 (or ``num_imputations``) are effective.
            num_imputations: How many draws to return; None returns the mean.
            proposal: Where z is drawn: ``guide``; ``defensive``, a fifth from the prior;
                ``adaptive``, adapted to each row by the curvature of log p(x, z); or ``auto``: from
                the guide, and adapted where it is poor, of 100 draws or more; a discrete latent
                of no more states than draws is summed.
            **given: What else goes with them (:class:`~pyro_vae.data.Conditions`).

        Returns:
            ``x`` where it is observed, and what was imputed elsewhere: shape ``(N, *event_shape)``,
            or ``(num_imputations, N, *event_shape)``.

        Raises:
            ValueError: If an argument is wrong, entries of x are not independent given z, or a row
                that lacks entries has no finite log p(x, z) at any draw.

        Example:
            >>> import pyro_vae as pv
            >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((4,)))
            >>> x = torch.zeros(5, 4)
            >>> vae.impute(x, x == 0, num_imputations=3).shape
            torch.Size([3, 5, 4])
        """
        if num_imputations is not None:
            num_imputations = positive_integer("num_imputations", num_imputations)
        if mask is None:
            raise expected("mask", "which entries are observed", None)
        for name in given.keys() & {"num_fits", "refit", "fitted_to", "seed"}:
            what = "none here: `pv.evaluation.impute(vae, ...)` takes it"
            raise expected(name, what, cast("dict[str, object]", given)[name])
        vae = cast("VAE", self)  # which is all there is of this class
        rows = rows_of(vae, x, given_of({**given, "mask": mask}))
        values = rows.x.expand(num_imputations or 1, *rows.x.shape).clone()
        with evaluating(self):
            for part in weighed(vae, rows, num_samples, proposal, num_imputations or 0):
                values[:, part.index] = filled(vae, part, num_imputations)
        return values[0] if num_imputations is None else values

    def notice_masks(self, mask: Tensor | None) -> None:
        """Takes notice of the mask of training rows."""
        seen = mask is not None and not bool(torch.as_tensor(mask).all())
        self.saw_masks = bool(self.saw_masks) or seen

    def warn_of_masks(self) -> None:
        """Warns, once, if rows lack entries as no row did that the guide was fitted to."""
        if self.saw_masks is False and self not in _warned:
            log.warning(
                "impute: the guide was fitted to complete rows and never saw a mask: few of its "
                "draws may be effective; `fit(mask=...)` hides entries from it"
            )
            _warned.add(self)


def weighed(
    vae: VAE,
    rows: Rows,
    num_samples: NumSamples,
    proposal: Proposal,
    num_imputations: int = 0,
) -> Iterator[Weighed]:
    """Yields weighted draws for all rows, and better ones for some of them later.

    Args:
        vae: The model, in evaluation mode.
        rows: Rows that it accepted, with a mask.
        num_samples: As :meth:`Imputing.impute` takes it.
        proposal: Likewise.
        num_imputations: Effective draws that are enough, if more than 100.

    Raises:
        ValueError: If one of them is wrong, or a row that lacks entries has no finite log p(x, z)
            at any draw.
    """
    counts = _AUTO if num_samples == "auto" else (positive_integer("num_samples", num_samples),)
    later = _checked(vae, proposal)
    assert rows.mask is not None
    lacking = ~rows.mask.flatten(1).all(1)
    if lacking.any():
        vae.warn_of_masks()
    ess = torch.zeros(len(rows), dtype=torch.float64, device=rows.x.device)
    if proposal == "auto" and _is_summed(vae, rows, counts[0]):
        yield from _summed(vae, rows, ess)
    else:
        yield from _in_stages(vae, rows, counts, (proposal, later), num_imputations, ess)
    without = (lacking & (ess == 0)).nonzero().flatten()
    if len(without) > 0:
        raise UnexplainedRows(without)


def _in_stages(
    vae: VAE,
    rows: Rows,
    counts: tuple[int, ...],
    proposals: tuple[Proposal, Proposal],
    num_imputations: int,
    ess: Tensor,
) -> Iterator[Weighed]:
    """As :func:`weighed`, by draws, and notes in ``ess`` how many of them are effective."""
    proposal, later = proposals
    assert rows.mask is not None
    lacking = ~rows.mask.flatten(1).all(1)
    first: Proposal = "guide" if proposal == "auto" else proposal
    everything = torch.arange(len(rows), device=rows.x.device)
    yield from _stage(vae, rows, everything, first, counts[0], ess)
    if later != first and counts[0] >= _FEWEST:
        poor = everything[lacking & (ess < _POOR * counts[0])]
        yield from _stage(vae, rows, poor, later, counts[0], ess)
    for count in counts[1:]:
        few = everything[lacking & (ess < max(_ENOUGH, num_imputations))]
        yield from _stage(vae, rows, few, later, count, ess)


def _checked(vae: VAE, proposal: Proposal) -> Proposal:
    """Returns where z is drawn once the first draws were not enough.

    Raises:
        ValueError: If the model does not go with the proposal.
    """
    if proposal not in get_args(Proposal):
        raise unknown_name("proposal", proposal, get_args(Proposal))
    if vae.missingness is not None:
        if proposal not in ("auto", "guide"):
            raise expected("proposal", "`guide` with a model of `missingness`", proposal)
        return "guide"
    if proposal == "adaptive" and not adapts(vae):
        what = "`defensive`, or a latent of real numbers to which draws can be adapted"
        raise expected("proposal", what, proposal)
    if proposal == "auto":
        return "adaptive" if adapts(vae) else "defensive"
    return proposal


def _stage(
    vae: VAE, rows: Rows, index: Tensor, proposal: Proposal, count: int, ess: Tensor
) -> Iterator[Weighed]:
    """Yields draws for some rows where more of them are effective than before, and notes it."""
    for chosen in index.split(_rows_at_once(vae, rows, count)) if len(index) > 0 else ():
        part = _drawn(vae, chosen, rows[chosen], proposal, count)
        found = effective(part.log_weights)
        better = found > ess[chosen]
        ess[chosen] = torch.maximum(found, ess[chosen])
        if better.all():
            yield part
        elif better.any():
            yield part[better]


def _rows_at_once(vae: VAE, rows: Rows, count: int) -> int:
    size = observations_at_once(vae, rows.x)
    if vae.missingness is not None:
        return min(size, max(1, _HELD // (count * vae.event_shape.numel())))
    # What was always drawn at once stays so: the draws are the same.
    entries = count * vae.space.event_shape.numel()
    return size if count <= _AUTO[0] else min(size, max(1, _HELD // entries))


def _drawn(vae: VAE, index: Tensor, rows: Rows, proposal: Proposal, count: int) -> Weighed:
    if vae.missingness is not None:
        return _drawn_jointly(vae, index, rows, count)
    if proposal == "guide":
        draws = draw_weighted(vae, rows, count)
        return Weighed(index, rows, draws.log_weights, draws.z)
    if proposal == "adaptive":
        z, log_weights = refined(vae, rows, count)
        return Weighed(index, rows, log_weights, z)
    from_prior = max(1, round(_FROM_PRIOR * count))
    parts = [draw_weighted(vae, rows, from_prior, from_prior=True)]
    if count > from_prior:
        parts.append(draw_weighted(vae, rows, count - from_prior))
    share = torch.tensor(from_prior / count, dtype=rows.x.dtype, device=rows.x.device)
    weights = [
        each.log_likelihood
        + each.log_prior
        - torch.logaddexp(each.log_prior + share.log(), each.log_guide + (1 - share).log())
        for each in parts
    ]
    return Weighed(index, rows, torch.cat(weights), torch.cat([each.z for each in parts]))


def _drawn_jointly(vae: VAE, index: Tensor, rows: Rows, count: int) -> Weighed:
    """As :func:`_drawn`, where weights depend on what is drawn of x, too."""
    prior, guide = vae.prior(rows.given.get("cond")), vae.guide.encode(rows.x, rows.given)
    parts = []
    for size in chunk_sizes(count, draws_at_once(vae, rows.x)):
        z = guide.sample((size,))
        x, log_likelihood = vae.model.completed(z, rows)
        parts.append((x, log_likelihood + prior.log_prob(z) - guide.log_prob(z)))
    x, log_weights = (torch.cat(each) for each in zip(*parts, strict=True))
    return Weighed(index, rows, log_weights, x=x)


def _is_summed(vae: VAE, rows: Rows, most: int) -> bool:
    if vae.missingness is not None or not vae.space.support.is_discrete:
        return False
    return bool(vae.prior_at(rows[:1].given).num_states <= min(most, MAX_ENUMERATED))


def _summed(vae: VAE, rows: Rows, ess: Tensor) -> Iterator[Weighed]:
    """Yields all states of a small discrete latent, and log p(x, z) of each."""
    number = vae.prior_at(rows[:1].given).num_states
    size = _rows_at_once(vae, rows, number)
    for index in torch.arange(len(rows), device=rows.x.device).split(size):
        part = rows[index]
        prior = vae.prior_at(part.given)
        states = prior.enumerate_support(expand=False)
        states = states if prior.batch_shape else states[:, None]
        z = states.expand(-1, len(part), *prior.event_shape)
        chunks = z.split(draws_at_once(vae, part.x))
        log_joint = torch.cat([vae.log_likelihood(each, part) for each in chunks])
        found = Weighed(index, part, log_joint + prior.log_prob(z), z, is_sum=True)
        ess[index] = effective(found.log_weights)
        some = ess[index] > 0
        yield found if some.all() else found[some]


def filled(vae: VAE, part: Weighed, num_imputations: int | None) -> Tensor:
    """Returns rows filled: by their mean, or ``num_imputations`` times by draws."""
    weights, mask = part.log_weights.softmax(0), part.rows.mask
    assert mask is not None
    if num_imputations is not None:
        index = weights.T.multinomial(num_imputations, replacement=True).T
        each = torch.arange(len(part.rows), device=index.device)
        if part.x is not None:
            return part.x[index, each]
        assert part.z is not None
        others = part.rows.without("mask").given
        return torch.where(
            mask, part.rows.x, vae.model.decode(part.z[index, each], others).sample()
        )
    if part.x is not None:  # where it has an entry, values are that up to rounding
        values = torch.einsum("kb,kb...->b...", weights, part.x)
    else:
        assert part.z is not None
        values = _mean(vae, part.z, weights, part.rows.without("mask"))
    return torch.where(mask, part.rows.x, values)


def _mean(vae: VAE, z: Tensor, weights: Tensor, rows: Rows) -> Tensor:
    total = cosine = sine = weights.new_zeros(())
    size, angles = draws_at_once(vae, rows.x), vae.likelihood.are_angles.to(rows.x.device)
    for part, weight in zip(z.split(size), weights.split(size), strict=True):
        d = vae.model.decode(part, rows.given)
        total = total + torch.einsum("kb,kb...->b...", weight, d.mean)
        if angles.any():  # of unit vectors, whose mean is 1 - variance long: else -π and π make 0
            length = 1 - d.variance
            cosine = cosine + torch.einsum("kb,kb...->b...", weight, length * d.mean.cos())
            sine = sine + torch.einsum("kb,kb...->b...", weight, length * d.mean.sin())
    return torch.where(angles, torch.atan2(sine, cosine), total) if angles.any() else total
