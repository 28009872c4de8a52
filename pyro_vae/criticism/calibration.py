"""Is the posterior calibrated? Latents whose truth is known, ranked among inferred ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Unpack, get_args

import numpy as np
import torch
import xarray
from torch import Tensor
from torch.distributions import constraints

from pyro_vae import guides
from pyro_vae._errors import expected, plural, positive_integer, unknown_name
from pyro_vae._untouched import undisturbed
from pyro_vae.criticism._replicates import cycled, draw_prior, prior_of, replicate
from pyro_vae.criticism._sentences import COLLAPSED, SENTENCES, UNEVEN
from pyro_vae.criticism.advice import alternatives
from pyro_vae.criticism.checks import holm
from pyro_vae.criticism.latent import collapsed_units
from pyro_vae.criticism.row import Row, rows_shown
from pyro_vae.criticism.uniformity import Bands, Coverage, bands, ecdf, how_uneven, uniformity
from pyro_vae.data.rows import Given, GivenLike, Rows
from pyro_vae.distributions import log_prob_of, same_support
from pyro_vae.evaluation._common import SIMULATED, check_arguments, check_ignorable
from pyro_vae.evaluation.posterior import Method, posterior_draws
from pyro_vae.programs import Amortized
from pyro_vae.programs.composition import Composition
from pyro_vae.programs.weigh import chunk_sizes, draws_at_once, encoded

__all__ = ["Calibration", "calibrate"]

Draws = Callable[..., Tensor]

_MAX_BINS = 100  # more points in an ECDF show no more
_NAMED = 3  # latents named in a sentence before it only counts them
_BETTER = {
    "importance": "draw them from a guide nearer to the posterior, or by NUTS",
    "nuts": "look at r_hat and divergences of posterior_draws",
}
_SHOWN = (0.5, 0.8, 0.9, 0.95)  # nominal coverage in the summary
_THINNING = 4  # successive draws of NUTS are too alike to be ranked among
_CHAINS_AT_ONCE = 10  # between two reports of progress


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """What :func:`calibrate` returns: ranks of the truth, N simulations by Q quantities.

    Attributes:
        names: Of the quantities, such as ``z[0]`` and ``log_likelihood``.
        ranks: How many draws are below the truth, ties broken at random, shape ``(N, Q)``:
            uniform on 0, ..., ``num_draws`` when the draws are from the posterior.
        pit: ``(ranks + u) / (num_draws + 1)``, u uniform, shape ``(N, Q)``.
        p_values: Of the uniformity of ``pit``, shape ``(Q,)``.
        adjusted: The same after Holm's correction, shape ``(Q,)``.
        point: Where the ECDF of ``pit`` is farthest from uniform, shape ``(Q,)``.
        num_draws: Draws of z for each simulation.
        draws: What drew them.
        level: Probability of any false alarm, at most.
        discrete: Whether the latents are discrete.
        richer: What to swap the guide for, or how else to come by better draws.
        collapsed: Latents whose q(z|x) is the prior, whatever is simulated.
    """

    names: tuple[str, ...]
    ranks: np.ndarray
    pit: np.ndarray
    p_values: np.ndarray
    adjusted: np.ndarray
    point: np.ndarray
    num_draws: int
    draws: str
    level: float
    discrete: bool
    richer: str
    collapsed: tuple[str, ...] = ()

    @property
    def failed(self) -> np.ndarray:
        """Which quantities reject the draws, shape ``(Q,)``."""
        return self.adjusted <= self.level

    @property
    def num_failed(self) -> int:
        """How many quantities reject the draws."""
        return int(self.failed.sum())

    @property
    def ecdf(self) -> np.ndarray:
        """ECDFs of ``pit`` at ``bands.points``, shape ``(Q, K - 1)``."""
        return ecdf(self.pit, self._num_bins)

    @property
    def bands(self) -> Bands:
        """Bands that one ECDF leaves with probability ``level`` at most, if its ranks are uniform.

        The verdict is stricter: it corrects for the number of ECDFs.
        """
        return bands(len(self.pit), self.level, self._num_bins)

    @property
    def coverage(self) -> Coverage:
        """Nominal against actual coverage of regions of the draws."""
        names, levels = [], []
        for density in [each for each in ("log_guide", "log_joint") if each in self.names][:1]:
            names, levels = ["highest density"], [1 - self.pit[:, self.names.index(density)]]
        for q, name in enumerate(self.names):
            if name.endswith("]") and not self.discrete:
                names.append(name)
                levels.append(np.abs(2 * self.pit[:, q] - 1))
        # A level of one, from a rank of zero, is in no bin.
        stacked = np.minimum(np.stack(levels, 1), np.nextafter(1, 0))
        around = self.bands
        actual = ecdf(stacked, self._num_bins)
        return Coverage(tuple(names), around.points, actual, around.low, around.high)

    @property
    def advice(self) -> tuple[str, ...]:
        """A sentence on each kind of failure: what is wrong, and, once, what to swap."""
        sentences = tuple(dict.fromkeys(self._advised().values()))
        cure = f"; {self.richer}"
        first = [sentence for sentence in sentences if sentence.endswith(cure)][:1]
        return tuple(s if s in first else s.removesuffix(cure) for s in sentences)

    def summary(self) -> dict[str, Any]:
        """Returns the verdict and what it rests on, ready for JSON."""
        coverage = self.coverage
        at = [round(level * self._num_bins) - 1 for level in _SHOWN]
        rows = zip(
            self.names, self.p_values, self.adjusted, self.failed, self.pit.mean(0), strict=True
        )
        return {
            "num_failed": self.num_failed,
            "num_quantities": len(self.names),
            "level": self.level,
            "num_simulations": len(self.ranks),
            "num_draws": self.num_draws,
            "draws": self.draws,
            "quantities": [
                {
                    "name": name,
                    "p_value": float(p),
                    "adjusted": float(adjusted),
                    "failed": bool(failed),
                    "mean_pit": float(mean),
                }
                for name, p, adjusted, failed, mean in rows
            ],
            "coverage": {
                "nominal": [float(coverage.nominal[k]) for k in at],
                "actual": {
                    name: [float(actual[k]) for k in at]
                    for name, actual in zip(coverage.names, coverage.actual, strict=True)
                },
                "low": [float(coverage.low[k]) for k in at],
                "high": [float(coverage.high[k]) for k in at],
            },
            "advice": list(self.advice),
            "rows": [row.summary() for row in self.rows()],
        }

    def rows(self) -> tuple[Row, ...]:
        """Returns one row a quantity, for the table of :func:`pyro_vae.criticism.check`.

        What is observed is the ECDF of the ranks where it is farthest out, beside its band there.
        The correction for their number is over these rows alone.
        """
        around = self.bands
        index = np.searchsorted(around.points, self.point - 1e-9)
        rows = zip(self.names, self.ecdf, index, self.p_values, self.adjusted, strict=True)
        advice = self._advised()
        return tuple(
            Row(
                statistic=f"rank of {name}",
                where=f"ECDF at {around.points[k]:.2g}",
                observed=float(curve[k]),
                low=float(around.low[k]),
                high=float(around.high[k]),
                p_value=float(p),
                conditioned_on=f"z and x ~ p, draws of {self.draws}",
                calibrated=True,
                adjusted=float(adjusted),
                failed=bool(adjusted <= self.level),
                advice=advice.get(name, ""),
            )
            for name, curve, k, p, adjusted in rows
        )

    def to_datatree(self) -> xarray.DataTree:
        """Returns ``pit`` in the group that ArviZ's ``plot_ecdf_pit`` reads, ``prior_sbc``.

        Dimension ``draw`` counts the simulations. Latents are one variable, ``z``.

        Example:
            >>> import pyro_vae as pv
            >>> likelihood = pv.likelihoods.Bernoulli((4,))
            >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood)
            >>> tree = calibrate(vae, num_simulations=50).to_datatree()
            >>> list(tree["prior_sbc"].data_vars)[:2]
            ['z', 'log_likelihood']
        """
        values: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        latents = [q for q, name in enumerate(self.names) if name.startswith("z[")]
        if latents:
            values["z"] = (("chain", "draw", "latent"), self.pit[None][..., latents])
        for q, name in enumerate(self.names):
            if q not in latents:
                values[name] = (("chain", "draw"), self.pit[None, :, q])
        labels = {"latent": [self.names[q][2:-1] for q in latents]} if latents else {}
        attrs = {"num_draws": self.num_draws, "draws": self.draws}
        return xarray.DataTree.from_dict({"prior_sbc": xarray.Dataset(values, labels, attrs)})

    def _advised(self) -> dict[str, str]:
        """The sentence for each quantity that fails; those that fail alike share one."""
        shapes = {self.names[q]: how_uneven(self.pit[:, q]) for q in np.flatnonzero(self.failed)}
        missed = shapes.get("log_likelihood") == "high" and shapes.get("log_guide") == "low"
        grouped: dict[tuple[str, str], list[str]] = {}
        for name, shape in shapes.items():
            kind = "z" if name.endswith("]") else name
            if name in self.collapsed:
                kind, shape = "collapsed", "uneven"
            if missed and kind in ("log_likelihood", "log_joint", "log_guide"):
                kind, shape = "missed", "uneven"
            grouped.setdefault((kind, shape), []).append(name)
        return {
            name: self._sentence(kind, shape, names)
            for (kind, shape), names in grouped.items()
            for name in names
        }

    def _sentence(self, kind: str, shape: str, names: list[str]) -> str:
        listed = ", ".join(names[:_NAMED])
        if len(names) > _NAMED:
            listed += f" and {len(names) - _NAMED} more"
        subject, learn = "the distribution of draws", self.richer
        if self.draws == "guide":
            subject, learn = "the guide", "give the encoder more capacity or training"
        other = f"ranks of {{names}} are {UNEVEN[shape]}: look at their ECDF"
        sentence = COLLAPSED if kind == "collapsed" else SENTENCES.get((kind, shape), other)
        return sentence.format(names=listed, subject=subject, learn=learn, richer=self.richer)

    @property
    def _num_bins(self) -> int:
        return min(_MAX_BINS, self.num_draws + 1)

    def __repr__(self) -> str:
        size = f"{plural(len(self.ranks), 'simulation')}, "
        size += f"{plural(self.num_draws, 'draw')} of {self.draws}"
        verdict = f"{self.num_failed} of {len(self.names)} quantities failed at {self.level:g}"
        return "\n".join([f"Calibration({size}): {verdict}", *(f"  {s}" for s in self.advice)])

    def _repr_html_(self) -> str:
        title, *advice = repr(self).splitlines()
        return rows_shown(title, self.rows(), advice)


@torch.no_grad()
def calibrate(
    vae: Amortized,
    *,
    num_simulations: int = 500,
    num_draws: int = 99,
    draws: Method | Draws = "guide",
    level: float = 0.05,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **given: Unpack[GivenLike],
) -> Calibration:
    r"""Asks whether the guide is the posterior of the model, on data whose z is known.

    .. math:: z \sim p(z), \quad x \sim p(x \mid z), \quad z_1, \dots, z_L \sim q(z \mid x)

    If q(z|x) is p(z|x), then z and its draws are exchangeable and the rank of f(x, z) among the
    f(x, z_l) is uniform for every f. Ranked are each latent (a one-hot variable by its class),
    log p(x|z), log p(z), their sum and log q(z|x). A guide that has collapsed, q(z|x) = p(z), has
    uniform ranks of z; that of log p(x|z) rejects it.

    No data are needed, and the answer is about those of the model alone: whether it reproduces
    yours is for the predictive checks. The model and the caller's random state stay as they were.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration
        (Talts et al., 2018), https://arxiv.org/abs/1804.06788
        Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test
        Quantities Shapes Sensitivity (Modrák et al., 2023), https://arxiv.org/abs/2211.02383
        A Crisis In Simulation-Based Inference? Beware, Your Posterior Approximations Can Be
        Unfaithful (Hermans et al., 2022), https://arxiv.org/abs/2110.06581

    Args:
        vae: The model.
        num_simulations: How many data are simulated, N.
        num_draws: Draws of z for each, L; of 100 possible ranks 99 are the least that show all.
        draws: ``guide``; ``importance`` or ``nuts``, which ask the same of the corrected draws of
            :func:`pyro_vae.evaluation.posterior_draws` (NUTS takes seconds a simulation: ask for
            few); or a function that draws L latents for data ``(B, *event_shape)`` in some other
            way, called with ``cond=`` and the like, as ``(L, B, *prior.event_shape)``.
        level: Probability of any false alarm, at most.
        seed: Of simulations and draws: the same seed gives the same ranks.
        progress: Called now and then with the fraction that is done.
        **given: What goes with x (:class:`~pyro_vae.data.Given`), over and over with simulated x.

    Returns:
        Ranks, their p-values, coverage, and advice.

    Raises:
        ValueError: If an option is not what it should be, a log-density is not a number, or NUTS
            is asked for on a latent that is discrete or bounded.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> calibration = calibrate(vae, num_simulations=50)
        >>> calibration.names
        ('z[0]', 'z[1]', 'log_likelihood', 'log_prior', 'log_joint', 'log_guide')
    """
    seed = check_arguments(vae, seed)
    check_ignorable(vae, SIMULATED)
    num_simulations = positive_integer("num_simulations", num_simulations)
    num_draws = positive_integer("num_draws", num_draws)
    if not isinstance(level, float) or not 0 < level < 1:
        raise expected("level", "a number between 0 and 1", level)
    if not callable(draws) and draws not in get_args(Method):
        raise unknown_name("draws", draws, [*get_args(Method), "a function (x, num_draws) -> z"])
    device = vae.device
    everything = vae.like(given)
    if vae.has_globals:
        what = "`program.fixed(1)[0]`, to ask of z, or `calibrate_globals`, of what rows share"
        raise expected("vae", what, vae)
    # As many data at a time as are encoded together when they are evaluated.
    at_once = min(1024, max(1, draws_at_once(vae, torch.empty(1, 0, device=device)) // 4))
    if draws == "nuts":
        at_once = min(at_once, _CHAINS_AT_ONCE)
    ranks: list[Tensor] = []
    varied = torch.zeros((), dtype=torch.bool)
    collapsed: np.ndarray = np.ones(1, dtype=bool)
    with undisturbed(vae, seed, device):
        for size in chunk_sizes(num_simulations, at_once):
            own = cycled(everything, size, sum(map(len, ranks)))
            ranked, differs, idle = _ranks(vae, size, own, num_draws, draws)
            ranks.append(ranked)
            varied, collapsed = varied | differs, collapsed & idle
            if progress is not None:
                progress(sum(map(len, ranks)) / num_simulations)
        # A quantity that is the same for every z, such as a uniform log p(z), tests nothing.
        names = _names(vae, draws)
        latents = [name for name in names if name.endswith("]")]
        if collapsed.size != len(latents):  # units of which some are none of the latents
            collapsed = np.zeros(len(latents), dtype=bool)
        return of_ranks(
            torch.cat(ranks)[:, varied],
            num_draws,
            names=tuple(n for n, each in zip(names, varied, strict=True) if each),
            collapsed=tuple(n for n, each in zip(latents, collapsed, strict=True) if each),
            draws=getattr(draws, "__name__", type(draws).__name__) if callable(draws) else draws,
            level=level,
            discrete=bool(vae.space.support.is_discrete),
            richer=_richer(vae, draws),
        )


def of_ranks(ranks: Tensor, num_draws: int, **described: Any) -> Calibration:
    """Returns what ranks of the truth among draws say of these; draws from torch's generator.

    Args:
        ranks: How many draws are below the truth, shape ``(N, Q)``.
        num_draws: Draws of each simulation.
        **described: What :class:`Calibration` has beside numbers.
    """
    uniform = torch.rand(ranks.shape, dtype=torch.float64)
    pit = ((ranks + uniform) / (num_draws + 1)).numpy()
    tested = uniformity(pit, min(_MAX_BINS, num_draws + 1))
    return Calibration(
        ranks=ranks.numpy(),
        pit=pit,
        p_values=tested.p_value,
        adjusted=np.asarray(holm(tested.p_value.tolist())),
        point=tested.point,
        num_draws=num_draws,
        **described,
    )


def _ranks(
    vae: Amortized, size: int, given: Given, num_draws: int, draws: Method | Draws
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Ranks the quantities of that many simulations, ``(size, Q)``.

    Marks which ever differ, and of the latents, the first of them, which have collapsed.
    """
    prior = prior_of(vae, given)
    truth = draw_prior(prior, 1, size)[0]
    rows = Rows(replicate(vae, truth, given), given)
    guide = encoded(vae, rows.x, given) if draws == "guide" else None
    true = _quantities(vae, prior, guide, truth[None], rows)[0]
    below = torch.zeros(true.shape, dtype=torch.int64)
    ties = torch.zeros(true.shape, dtype=torch.int64)
    for z in _drawn(vae, guide, rows, num_draws, draws):
        values = _quantities(vae, prior, guide, z, rows)
        # One z may be rounded differently in another batch, and it is a tie all the same.
        same = (z == truth).flatten(2).all(-1).cpu()
        values = torch.where(same[..., None], true, values)
        below += (values < true).sum(0)
        ties += (values == true).sum(0)
    placed = (torch.rand(true.shape, dtype=torch.float64) * (ties + 1)).floor().long()
    return below + placed, (ties < num_draws).any(0), _idle(vae, rows, draws)


def _idle(vae: Amortized, rows: Rows, draws: Method | Draws) -> np.ndarray:
    """Marks latents that have collapsed, in the order of their names; none of other draws."""
    if draws != "guide":
        return np.zeros(0, dtype=bool)
    found = collapsed_units(vae, rows)
    return np.isin(found["units"], found["collapsed"])


def _drawn(
    vae: Amortized, guide: Any, rows: Rows, num_draws: int, draws: Method | Draws
) -> Iterator[Tensor]:
    """Draws z for each observation, as many at a time as are decoded together."""
    x, given = rows.x, rows.given
    at_once = draws_at_once(vae, x)
    if draws != "guide":
        with torch.enable_grad():  # samplers may follow gradients
            if callable(draws):
                z = draws(x, num_draws, **given)
            else:
                z = _corrected(vae, rows, num_draws, draws)
        wanted = (num_draws, len(x), *vae.space.event_shape)
        if not isinstance(z, Tensor) or z.shape != wanted:
            raise expected("draws", f"a function that returns latents of shape {wanted}", z)
        yield from z.detach().to(x).split(at_once)
    else:
        for count in chunk_sizes(num_draws, at_once):
            yield guide.sample((count,))


def _corrected(vae: Amortized, rows: Rows, num_draws: int, method: Method) -> Tensor:
    # Drawn from the generator of the simulations, so that each batch has draws of its own.
    seed = int(torch.randint(2**31, ()))
    if method == "importance":
        return posterior_draws(vae, rows, method=method, num_draws=num_draws, seed=seed).z
    many = posterior_draws(
        vae, rows, method=method, num_draws=_THINNING * num_draws, num_chains=1, seed=seed
    )
    return many.z[_THINNING - 1 :: _THINNING]


def _richer(vae: Amortized, draws: Method | Draws) -> str:
    """Advises what to swap, one clause."""
    if callable(draws):
        return "look at how they are drawn"
    if draws != "guide":
        return _BETTER[draws]
    correct = "correct its draws by posterior_draws"
    family = type(vae.guide_family).__name__ if isinstance(vae, Composition) else ""
    wider = {"Normal": ["LowRankNormal", "FullNormal"], "LowRankNormal": ["FullNormal"]}
    if family not in wider:
        return f"give the encoder more capacity or training, or {correct}"
    named = alternatives(guides, dict.fromkeys(wider[family], "a richer family"))
    return f"swap guides.{family} for {named}, or {correct}"


def _quantities(vae: Amortized, prior: Any, guide: Any, z: Tensor, rows: Rows) -> Tensor:
    """Computes what is ranked, ``(S, B, Q)`` in float64 on the CPU, in the order of the names."""
    one_hot = same_support(vae.space.support, constraints.one_hot)
    latents = z.argmax(-1) if one_hot else z
    log_likelihood = log_prob_of(vae.decode(z, **rows.given), rows.x)
    log_prior = prior.log_prob(z)
    densities = [log_likelihood, log_prior, log_likelihood + log_prior]
    if guide is not None:
        densities.append(guide.log_prob(z))
    columns = [latents.reshape(*log_prior.shape, -1).to(rows.x), torch.stack(densities, -1)]
    values = torch.cat(columns, -1).cpu().double()
    if values.isnan().any():
        raise expected("vae", "log-densities of simulated data that are numbers", "NaN")
    return values


def _names(vae: Amortized, draws: Method | Draws) -> list[str]:
    shape = vae.space.event_shape
    ranked = shape[:-1] if same_support(vae.space.support, constraints.one_hot) else shape
    indices = [",".join(map(str, index)) for index in np.ndindex(*ranked)]
    densities = ["log_likelihood", "log_prior", "log_joint"]
    return [f"z[{i}]" for i in indices] + densities + (["log_guide"] if draws == "guide" else [])
