r"""Which likelihood suits data: by their support, and by their dispersion where several do.

Of the families whose support holds all values of a column, each is fitted to the column by itself,
and the one with the smallest Bayesian information criterion is chosen,

.. math:: \mathrm{BIC} = k \log N - 2 \sum_n \log p(x_n \mid \hat\theta), \quad k \text{ parameters}

Given z, data may be less dispersed than without it, and the families that allow for more contain
the others, but for their tails.

References:
    Estimating the Dimension of a Model (Schwarz, 1978), https://doi.org/10.1214/aos/1176344136
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

import pyro_vae.likelihoods as package
from pyro_vae._errors import expected, plural
from pyro_vae.distributions import AngleSupport, CompositionSupport
from pyro_vae.likelihoods.likelihood import Likelihood, thinned

__all__ = ["Suggestion", "suggest"]

_FAMILIES: dict[str, tuple[str, ...]] = {
    "binary": ("Bernoulli",),
    "counts": (
        "Poisson",
        "NegativeBinomial",
        "ZeroInflatedPoisson",
        "ZeroInflatedNegativeBinomial",
    ),
    "unit": ("Beta",),
    "positive": ("Gamma", "LogNormal"),
}
_REAL = ("Normal", "StudentT", "Laplace")
_SPLITS = ("train", "validation", "test")
_FEW = 20  # observations, of fewer the support alone counts
_ORDINAL = 21  # levels at most, each of which has a threshold
_LEVELS = 256  # of an image at most
_SMALL = 0.1  # as far as numbers must come from 0 to be shares
_LESS = 0.8  # of the variance of Poisson variables, below which whole numbers are no counts
_FAR = 5.0  # standard deviations from zero, where a normal variable is positive
_SIDES = 3.0  # from which on, on both sides, angles come close to the cut
_WIDE = 20  # columns from which on a table is of counts, if a quarter of them are
_SHOWN = 100  # observations at most that are outside a support, of those that tell what fits
_LISTED = 6  # columns that a line names


@dataclass(frozen=True)
class Suggestion:
    """A likelihood, and why.

    Attributes:
        likelihood: ``class`` and options, as :class:`~pyro_vae.likelihoods.Mixed` takes a column
            and a file of options a likelihood.
        why: What about the data calls for it.
        name: Of the column; empty for all.
        columns: What suits each column by itself, of a table.

    Example:
        >>> suggestion = suggest(torch.tensor([[0.5, 3.0], [7.0, 0.0], [2.0, 1.0]]))
        >>> print(suggestion)
        Mixed (x[0] Gamma, x[1] Poisson)
        >>> suggestion.build((2,)).param_shape
        torch.Size([2])
    """

    likelihood: Mapping[str, Any]
    why: str
    name: str = ""
    columns: tuple[Suggestion, ...] = ()

    def build(self, event_shape: Sequence[int]) -> Likelihood:
        """Returns the likelihood of data of that shape."""
        options = {name: value for name, value in self.likelihood.items() if name != "class"}
        built: Likelihood = getattr(package, self.likelihood["class"])(event_shape, **options)
        return built

    def __str__(self) -> str:
        return f"{f'{self.name} ' if self.name else ''}{self.likelihood['class']} ({self.why})"


@torch.no_grad()
def suggest(data: Any) -> Suggestion:
    """Returns the likelihood that suits data, and for a table that of each column.

    Supports are those of all splits of a data set, dispersions those of its training data. Missing
    values are passed over. Where the data set is a table with a schema, its kinds of columns count.

    Args:
        data: An array or a tensor of shape ``(N, *event_shape)``, NaN where a value is missing; or
            a data set of :func:`pyro_vae.data.load`.

    Raises:
        ValueError: If it is neither, has no observation, or a value is infinite.

    Example:
        >>> clicks = torch.arange(200.0).pow(2).div(1000).ceil()
        >>> print(suggest(clicks[:, None]))
        NegativeBinomial (counts, variance 10 times the mean)
        >>> print(suggest(clicks[:, None] - 1))
        Normal (real numbers from -1 to 39, kurtosis 2.2)
    """
    if getattr(data, "binarize", "none") != "none":
        return Suggestion({"class": "Bernoulli"}, "made binary")
    if (vocabulary := getattr(data, "vocabulary", None)) is not None:
        levels = {"levels": vocabulary.levels, "network": "gru", "end": vocabulary.end}
        return Suggestion({"class": "Autoregressive"} | levels, f"lines of {vocabulary.unit}")
    train, every, names = _taken(data)
    x, every, image = train.flatten(1), every.flatten(1), train.ndim > 2
    fields = _fields(data, x.shape[1])
    if fields:
        return _of_fields(fields, x, every)
    kinds = [_kind(every)] * x.shape[1] if image else _kinds(every)
    tops = torch.where(every.isnan(), 0.0, every).amax(0)
    best = _ranked(_filled(x), kinds, tops.amax().expand_as(tops) if image else tops, image)
    each = _each(best, x, kinds, tops, names)
    if image:
        return _of_all(best, x, kinds[0], tops)
    if set(kinds) != {"binary"} and CompositionSupport().check(every).all():
        return Suggestion({"class": "Dirichlet"}, "rows that add up to 1", columns=each)
    if len(set(kinds)) == 1:
        found = _of_all(best, x, kinds[0], tops)
        return Suggestion(found.likelihood, found.why, columns=each)
    return Suggestion({"class": "Mixed", "columns": _listed(each)}, _brief(each), columns=each)


def what_fits(likelihood: Likelihood, x: Tensor, bad: Tensor) -> str:
    """Returns in a few words what suits data that are not in the support of a likelihood.

    Args:
        likelihood: Which refuses them.
        x: Data, shape ``(N, *event_shape)``, NaN where a value is missing.
        bad: Which entries are refused, of the same shape.
    """
    _, *index = bad.nonzero()[0].tolist()
    entry = likelihood.entry(index)
    if x.isinf().any() or (x.isnan() & bad).any():
        return ""
    rows = torch.cat([x[bad.flatten(1).any(1)][:_SHOWN], thinned(x)])
    mixed = entry is not likelihood
    found = suggest(rows[:, index[0], None]).columns[0] if mixed else suggest(rows)
    name = found.likelihood["class"]
    if name == type(entry).__name__:
        levels = found.likelihood.get("levels")
        fits = "" if levels is None else f"levels={levels} would fit"
    else:
        fits = f"{name} would fit: {found.why}"
    return "; ".join(each for each in (entry.remedy, fits) if each)


def _taken(data: Any) -> tuple[Tensor, Tensor, Sequence[str]]:
    """Training data, those of all splits, and names of columns."""
    splits: list[Any] = [getattr(data, split, None) for split in _SPLITS]
    names = [str(name) for name in getattr(data, "names", getattr(data, "columns", ()))]
    if not all(isinstance(split, Tensor) for split in splits):
        if isinstance(data, str) or not (isinstance(data, Tensor) or hasattr(data, "__array__")):
            what = "an array, a tensor or a data set, as `pv.data.load` returns one"
            raise expected("data", what, data)
        splits = [torch.as_tensor(np.asarray(data)) if not isinstance(data, Tensor) else data]
    train, *others = [split.detach().cpu().double() for split in splits]
    if train.ndim < 2 or 0 in train.shape:
        raise expected("data", "at least one observation with at least one entry", train)
    every = torch.cat([train, *others])
    if every.isinf().any():
        raise expected("data", "finite numbers", f"{int(every.isinf().sum())} that are not")
    size = train[0].numel()
    return train, every, names if len(names) == size else [f"x[{i}]" for i in range(size)]


def _fields(data: Any, size: int) -> tuple[Any, ...]:
    """What the schema of a data set knows of each column; nothing if it has none."""
    fields = getattr(getattr(data, "schema", None), "x", ())
    return tuple(fields) if len(fields) == size else ()


def _of_fields(fields: Sequence[Any], x: Tensor, every: Tensor) -> Suggestion:
    """What suits the columns of a table, by the kinds that its schema says they are of."""
    known = {i: spec for i, each in enumerate(fields) if (spec := _by_kind(each)) is not None}
    rest = [i for i in range(len(fields)) if i not in known]
    found = {i: Suggestion(spec, _why_kind(fields[i]), fields[i].name) for i, spec in known.items()}
    if rest:
        kinds = [_support(fields[i], every[:, i]) for i in rest]
        tops = torch.where(every.isnan(), 0.0, every).amax(0)[rest]
        counted = torch.full_like(tops, float(_ORDINAL))  # never for levels
        ranked = _ranked(_filled(x[:, rest]), kinds, counted, False)
        names = [fields[i].name for i in rest]
        of_rest = _each(ranked, x[:, rest], kinds, tops, names)
        found |= dict(zip(rest, of_rest, strict=True))
        if not known and len(set(kinds)) == 1:
            alike = _of_all(ranked, x, kinds[0], tops)
            return Suggestion(alike.likelihood, alike.why, columns=of_rest)
        if not known and set(kinds) != {"binary"} and CompositionSupport().check(every).all():
            return Suggestion({"class": "Dirichlet"}, "rows that add up to 1", columns=of_rest)
    each = tuple(found[i] for i in range(len(fields)))
    if all(one.likelihood == each[0].likelihood for one in each) and not rest:
        return Suggestion(each[0].likelihood, _brief(each), columns=each)
    return Suggestion({"class": "Mixed", "columns": _listed(each)}, _brief(each), columns=each)


def _by_kind(field: Any) -> dict[str, Any] | None:
    """The likelihood that a kind of column has, whatever its values."""
    if field.kind == "angle":
        return {"class": "VonMises"}
    if field.kind not in ("category", "ordinal") or not field.levels:
        return None
    words = all(isinstance(level, str) for level in field.levels)
    levels = list(field.levels) if words else len(field.levels)
    return {"class": "Categorical" if field.kind == "category" else "Ordinal", "levels": levels}


def _why_kind(field: Any) -> str:
    return (
        "angles" if field.kind == "angle" else f"{field.kind}, {plural(len(field.levels), 'level')}"
    )


def _support(field: Any, values: Tensor) -> str:
    """The kind of families that a kind of column can have, by its values."""
    low = float(values[~values.isnan()].min()) if not values.isnan().all() else 0.0
    known = {"binary": "binary", "count": "counts", "proportion": "unit"}
    return known.get(field.kind, "positive" if field.kind == "positive" and low > 0 else "real")


def _kind(values: Tensor) -> str:
    """The narrowest support of values, of any shape, that families are known for."""
    x = values[~values.isnan()]
    supports = {
        "binary": constraints.boolean,
        "counts": constraints.nonnegative_integer,
        "unit": constraints.unit_interval,
        "positive": constraints.positive,
    }
    if x.numel() == 0:
        return "real"
    if float(x.max()) <= _SMALL:
        del supports["unit"]  # amounts in a large unit rather than shares
    kind = next((name for name, each in supports.items() if each.check(x).all()), "real")
    whole = kind == "counts" and values.ndim == 1 and float(x.max()) >= _ORDINAL
    # Whatever z does, counts vary at least as much as Poisson variables.
    return "real" if whole and float(x.var(correction=0)) < _LESS * float(x.mean()) else kind


def _kinds(every: Tensor) -> list[str]:
    kinds = [_kind(column) for column in every.unbind(1)]
    # In a wide table of counts, some were never 2 by chance.
    counted = set(kinds) == {"binary", "counts"} and 4 * kinds.count("counts") >= len(kinds)
    return ["counts"] * len(kinds) if len(kinds) > _WIDE and counted else kinds


def _filled(x: Tensor) -> Tensor:
    """Observed values of each column, repeated where others are missing; zeros if there is none."""
    if not x.isnan().any():
        return thinned(x)
    columns = []
    for column in thinned(x).unbind(1):
        seen = column[~column.isnan()]
        seen = seen if len(seen) else torch.zeros(1).to(column)
        columns.append(seen[torch.arange(len(column)) % len(seen)])
    return torch.stack(columns, 1)


_Ranked = list[tuple[dict[str, Any], Tensor]]


def _ranked(x: Tensor, kinds: Sequence[str], tops: Tensor, image: bool) -> _Ranked:
    """Candidates, each with its criterion for each column: infinite where it is none."""
    found: _Ranked = []
    still = (x == x[:1]).all(0) | (len(x) < _FEW)
    for kind in dict.fromkeys(kinds):
        of_kind = torch.tensor([each == kind for each in kinds])
        for spec, which in _candidates(x, kind, tops, image):
            chosen = of_kind & which
            criterion = torch.full((x.shape[1],), math.inf, dtype=x.dtype)
            if chosen.any():
                criterion[chosen] = _criterion(spec, x[:, chosen], tops[chosen])
            # A few values, or one, say nothing about their dispersion: the first is the simplest.
            criterion[chosen & still] = float(len(found))
            found.append((spec, criterion))
    return found


def _candidates(
    x: Tensor, kind: str, tops: Tensor, image: bool
) -> list[tuple[dict[str, Any], Tensor]]:
    """Families for a kind of values, and the columns that each is for."""
    all_columns = torch.ones(x.shape[1], dtype=torch.bool)
    few, scale = tops < _ORDINAL, {} if image else {"scale": "per-dimension"}
    if kind == "counts" and image and tops.max() < _LEVELS:
        top = int(tops.max())
        # Bytes, of which some level may not be there yet.
        levels = _LEVELS if top >= _LEVELS // 2 else top + 1
        return [({"class": "DiscretizedLogistic", "levels": levels}, all_columns)]
    families = [({"class": name}, all_columns) for name in _FAMILIES.get(kind, ())]
    if kind == "counts":
        families.append(({"class": "Ordinal"}, few))
    if kind == "unit" and image:
        families.append(({"class": "ContinuousBernoulli"}, all_columns))
    real = _REAL[:1] if kind == "positive" else _REAL
    far = x.mean(0) > _FAR * x.std(0, correction=0) if kind == "positive" else all_columns
    if kind in ("positive", "real"):
        families += [({"class": name} | scale, far) for name in real]
    if kind == "real":
        circle = AngleSupport().check(x).all(0) & (x.amin(0) < -_SIDES) & (x.amax(0) > _SIDES)
        families.append(({"class": "VonMises"}, circle))
    return families


def _criterion(spec: Mapping[str, Any], x: Tensor, tops: Tensor) -> Tensor:
    """The Bayesian information criterion of each column, of one family fitted to it by itself."""
    ordinal = spec["class"] == "Ordinal"
    options = {"levels": int(tops.max()) + 1} if ordinal else {}
    loc, scale = torch.zeros_like(x[0]), torch.ones_like(x[0])
    if spec["class"] in (*_REAL, *_FAMILIES["positive"]):
        # In units of their own, in which scales have no floor; the density is one in those of x.
        spread = x.std(0, correction=0)
        scale = torch.where(spread > 0, spread, scale)
        loc = x.mean(0) if spec["class"] in _REAL else loc
    x = (x - loc) / scale
    likelihood = Suggestion(dict(spec) | options, "").build(x.shape[1:]).double()
    distribution: Any = likelihood(likelihood.init_params(x))
    parameters = likelihood.param_shape.numel() + sum(p.numel() for p in likelihood.parameters())
    count = tops if ordinal else parameters / x.shape[1]
    log_prob: Tensor = distribution.base_dist.log_prob(x).sum(0) - len(x) * scale.log()
    return count * math.log(len(x)) - 2 * log_prob


def _each(
    ranked: _Ranked, x: Tensor, kinds: Sequence[str], tops: Tensor, names: Sequence[str]
) -> tuple[Suggestion, ...]:
    """What suits each column by itself."""
    chosen = torch.stack([criterion for _, criterion in ranked]).argmin(0).tolist()
    each = zip(chosen, x.unbind(1), kinds, tops.tolist(), names, strict=True)
    return tuple(
        _suggestion(ranked[best][0], column, kind, top, name)
        for best, column, kind, top, name in each
    )


def _of_all(ranked: _Ranked, x: Tensor, kind: str, tops: Tensor) -> Suggestion:
    """What suits all columns together, of the families that can be of each."""
    best = min(ranked, key=lambda each: float(each[1].sum()))
    return _suggestion(best[0], x, kind, float(tops.max()))


def _suggestion(
    spec: Mapping[str, Any], values: Tensor, kind: str, top: float, name: str = ""
) -> Suggestion:
    likelihood = dict(spec) | ({"levels": int(top) + 1} if spec["class"] == "Ordinal" else {})
    return Suggestion(likelihood, _why(likelihood, values, kind), name)


def _why(likelihood: Mapping[str, Any], values: Tensor, kind: str) -> str:
    """What about the values calls for a likelihood, in a few words."""
    name, x = likelihood["class"], values[~values.isnan()]
    if x.numel() == 0:
        return "nothing observed"
    if "levels" in likelihood:
        return f"levels 0 to {likelihood['levels'] - 1}"
    if kind == "counts":
        excess = values.nanmean(0), (values - values.nanmean(0)).square().nanmean(0)
        ratio = float(excess[1].sum() / excess[0].sum().clamp_min(1e-12))
        zeros = f", {float((x == 0).double().mean()):.0%} zeros" if "Zero" in name else ""
        return f"counts, variance {ratio:.2g} times the mean{zeros}"
    if name == "VonMises":
        return "from -π to π, close to both: if they are angles"
    span = f"from {float(x.min()):.3g} to {float(x.max()):.3g}"
    words = {"binary": "0 and 1 alone", "unit": "numbers from 0 to 1", "positive": "positive, "}
    if kind == "real":
        centred = values - values.nanmean(0)
        fourth = centred.pow(4).nanmean(0) / centred.square().nanmean(0).square().clamp_min(1e-300)
        return f"real numbers {span}, kurtosis {float(fourth.nanmean()):.2g}"
    return words[kind] + (span if kind == "positive" else "")


def _listed(each: Sequence[Suggestion]) -> list[Any]:
    """Columns as a table's likelihood takes them, those alike together."""
    listed: list[Any] = []
    for likelihood, run in groupby(each, key=lambda one: one.likelihood):
        size = len(list(run))
        own = dict(likelihood) | ({"event_shape": [size]} if size > 1 else {})
        listed.append(own["class"] if own.keys() == {"class"} else own)
    return listed


def _brief(each: Sequence[Suggestion]) -> str:
    shown = [f"{one.name} {one.likelihood['class']}" for one in each[:_LISTED]]
    more = len(each) - _LISTED
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
