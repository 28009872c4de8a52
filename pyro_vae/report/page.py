"""One page about a fitted model: what it is, how it was fitted, and how good it is."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from pyro.distributions.constraints import sphere
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import positive_integer
from pyro_vae.criticism import Calibration, Checks, Row, calibrate, check
from pyro_vae.data import Dataset
from pyro_vae.evaluation import Scores, evaluate
from pyro_vae.evaluation._common import check_arguments, undisturbed, variance_by_site
from pyro_vae.part import Part
from pyro_vae.report import _panels as panels
from pyro_vae.report._canvas import are_images, as_png, as_svg, chart, limits, tiles
from pyro_vae.report._html import Html, join, table, tag
from pyro_vae.report.criticism import coverage, intervals, ranks, roc
from pyro_vae.report.pictures import PANELS, SCATTERED, held_out, latent_means
from pyro_vae.report.walks import interpolations, traversals
from pyro_vae.vae import VAE

__all__ = ["page"]

_SCORED = 1000  # data whose scores are looked at one by one
_ACTIVE = 0.01  # as `evaluate` counts active units
_UNITS = 12  # latent units that are walked along
_PAIRS = 6
_CORRELATED = 60  # entries whose correlations can be told apart in a picture
_REACH = 3.0
_CHECKED = 20  # data: `check` asks for as many


def page(
    vae: VAE,
    data: Dataset,
    *,
    history: Mapping[str, Sequence[float]] | None = None,
    summary: Mapping[str, Any] | None = None,
    settings: Mapping[str, object] | None = None,
    name: str | None = None,
    num_samples: int = 1000,
    num_draws: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> str:
    """Returns an HTML page about a fitted model that needs nothing beside itself.

    Pictures are part of it, and it fetches nothing. Whatever comes from outside, names above all,
    is escaped. The model and the caller's random state stay as they were.

    Args:
        vae: The fitted model.
        data: What it was fitted to; the last split that is not empty is what it is judged by.
        history: That of the run.
        summary: That of its scores on all of that split; reckoned on at most 1,000 data if not
            given, as what is shown datum by datum always is.
        settings: What else to tell of the fit, by name: the objective, epochs, seed, engine.
        name: Of the run; that of the data if not given.
        num_samples: Importance samples for each datum.
        num_draws: Replicated data sets of the checks; as many as they need if not given.
        seed: Of all draws.
        progress: Called now and then with the fraction that is done.

    Returns:
        The page.

    Raises:
        ValueError: If the data do not suit the model, or an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> data = pv.data.load(torch.rand(50, 3))
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,)))
        >>> page(vae, data, num_samples=20).startswith("<!doctype html>")
        True
    """
    check_arguments(vae, seed)
    positive_integer("num_samples", num_samples)
    story = _Story(
        vae,
        data,
        history,
        summary,
        settings or {},
        name or data.name,
        num_samples,
        num_draws,
        seed,
        progress,
    )
    with undisturbed(vae, seed, vae.initialized.device), torch.no_grad():
        return _document(story)


@dataclass
class _Story:
    """What the sections of a page tell about, each thing reckoned once."""

    vae: VAE
    data: Dataset
    history: Mapping[str, Sequence[float]] | None
    given: Mapping[str, Any] | None
    settings: Mapping[str, object]
    name: str
    num_samples: int
    num_draws: int | None
    seed: int
    progress: Callable[[float], None] | None
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def split(self) -> str:
        return held_out(self.data)

    @cached_property
    def x(self) -> Tensor:
        """The held-out data as the model takes them."""
        return self.vae.check(self.data.split(held_out(self.data)), "data")

    @cached_property
    def labels(self) -> Tensor | None:
        labels = self.data.labels[held_out(self.data)]
        return None if labels is None else labels.cpu()

    @cached_property
    def images(self) -> bool:
        return are_images(self.vae.event_shape)

    @cached_property
    def black_white(self) -> tuple[float, float]:
        return limits(self.vae, self.x)

    @cached_property
    def scores(self) -> Scores:
        """Of the first held-out data."""
        x = self.data.split(held_out(self.data))
        x = x if len(x) <= _SCORED else x[:_SCORED]
        part = self.data.base_measure(held_out(self.data))
        described = {k: v for k, v in part.items() if k not in ("dim", "fingerprint")}
        return evaluate(
            self.vae, x, num_samples=self.num_samples, seed=self.seed, base_measure=described,
            progress=lambda done: self.tell(0.35 * done),
        )  # fmt: skip

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        return self.scores.summary() if self.given is None else self.given

    @property
    def summarised(self) -> int:
        """How many data the summary is about."""
        return len(self.scores.log_marginal) if self.given is None else len(self.x)

    @cached_property
    def checks(self) -> Checks | str:
        """What the checks found, or why there are none."""
        x = self.data.split(held_out(self.data))
        if len(x) < _CHECKED:
            return f"There are {len(x)} held-out data; checks need {_CHECKED}."
        return check(
            self.vae, x, num_draws=self.num_draws, seed=self.seed,
            progress=lambda done: self.tell(0.35 + 0.35 * done),
        )  # fmt: skip

    @cached_property
    def calibration(self) -> Calibration:
        return calibrate(
            self.vae, seed=self.seed, progress=lambda done: self.tell(0.7 + 0.1 * done)
        )

    @cached_property
    def means(self) -> Tensor:
        """E[z|x] of held-out data."""
        return latent_means(self.vae, self.x[:SCATTERED])

    @cached_property
    def variances(self) -> Tensor:
        """Over data, of the posterior mean of each latent unit."""
        sites = variance_by_site(self.means.double(), self.vae.prior).values()
        return torch.cat([each.flatten() for each in sites])

    def tell(self, done: float) -> None:
        if self.progress is not None:
            self.progress(done)

    def tiles(self, x: Tensor, columns: int, alt: str) -> Html:
        return tag("img", class_="tiles", src=as_png(tiles(x, columns, self.black_white)), alt=alt)


def _document(story: _Story) -> str:
    sections: list[tuple[str, str, Callable[[_Story], Html | None]]] = [
        ("fitted", "What was fitted", _fitted),
        ("curves", "How it was fitted", _curves),
        ("scores", "Held-out scores", _scores),
        ("samples", "What it makes up", _samples),
        ("reconstructions", "Reconstructions", _reconstructions),
        ("latent", "Latent space", _latent),
        ("walks", "Walks through latent space", _walks),
        ("checks", "Does it reproduce the data?", _checks),
        ("classifier", "Can a classifier tell?", _classifier),
        ("calibration", "Is its posterior right?", _calibration),
        ("timings", "Timings", _timings),
    ]
    told: list[tuple[str, str, Html]] = []
    for i, (anchor, title, make) in enumerate(sections):
        began = time.perf_counter()
        body = make(story)
        story.seconds[title] = time.perf_counter() - began
        story.tell(0.8 + 0.2 * (i + 1) / len(sections))
        if body is not None:
            told.append((anchor, title, body))
    links = [tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title, _ in told]
    parts = [tag("section", tag("h2", title), body, id=anchor) for anchor, title, body in told]
    style = files("pyro_vae.report").joinpath("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # A page without an icon of its own asks the server for one.
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{story.name} · pyro-vae"),
        tag("style", Html(style)),
    )
    body = tag(
        "body", _header(story), tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", *parts),
    )  # fmt: skip
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _header(story: _Story) -> Html:
    summary = story.summary
    lead = (
        f"Fitted to {len(story.data.train):,} training data of {story.data.name}; judged by "
        f"{len(story.x):,} {story.split} data, which {_seen(story)}."
    )
    figures = [
        ("log p(x), nats a datum", _number(summary["log_marginal"]),
         f"± {_number(summary['standard_error'])} over data"),
        ("ELBO, nats a datum", _number(summary["elbo"]),
         f"{_number(_difference(summary))} below log p(x)"),
        ("active latent units", f"{summary['active_units']} of {len(story.variances)}",
         "variance of E[z | x] over data > 0.01"),
        ("checks failed", *_failures(story)),
        ("k-hat too high", _percent(summary["k_hat_above_threshold"]),
         f"of data; median {_number(summary['k_hat_median'])}"),
    ]  # fmt: skip
    if "bits_per_dim" in summary:
        figures.insert(1, ("bits per dimension", _number(summary["bits_per_dim"], 3), ""))
    strip = [
        tag("div", tag("dt", what), tag("dd", value, tag("small", note)))
        for what, value, note in figures
    ]
    return tag(
        "header", tag("h1", story.name), tag("p", lead, class_="lead"),
        tag("dl", *strip, class_="figures"),
    )  # fmt: skip


def _failures(story: _Story) -> tuple[str, str]:
    if isinstance(story.checks, str):
        return "–", "too few data"
    total = sum(row.calibrated for row in story.checks.rows)
    return f"{story.checks.num_failed} of {total}", "predictive, against held-out data"


def _seen(story: _Story) -> str:
    return {
        "test": "it never saw",
        "validation": "chose its best epoch",
        "train": "are the same, since there are no others",
    }[story.split]


def _fitted(story: _Story) -> Html:
    vae, data = story.vae, story.data
    parts = {
        "prior p(z)": vae.prior,
        "guide q(z | x)": vae.posterior,
        "likelihood p(x | z)": vae.likelihood,
        "encoder": vae.encoder,
        "decoder": vae.decoder,
    }
    parameters = sum(p.numel() for p in vae.parameters())
    sizes = ", ".join(f"{len(getattr(data, s)):,} {s}" for s in ("train", "validation", "test"))
    measure = data.base_measure(held_out(data))
    treated = ", ".join(
        f"{key}: {measure[key]}"
        for key in ("binarize", "dequantize", "transform")
        if measure[key] not in (None, "none")
    )
    rows = [
        *((what, tag("code", _call(part))) for what, part in parts.items()),
        ("parameters", f"{parameters:,}"),
        *((what, tag("code", value)) for what, value in story.settings.items()),
        ("data", f"{data.name}: {sizes}; one datum has shape {tuple(data.event_shape)}"),
        ("base measure", f"{vae.likelihood.base_measure}{f'; {treated}' if treated else ''}"),
        ("fingerprint", tag("code", f"{measure['fingerprint'][:16]} ({story.split} data)")),
        ("page made with", _versions()),
    ]
    return tag("table", tag("tbody", *(_row(*row) for row in rows)), class_="facts")


def _row(*cells: object) -> Html:
    return tag("tr", *(tag("td", cell) for cell in cells))


def _call(part: object) -> str:
    """A part as one would write it."""
    if not isinstance(part, Part):
        return type(part).__name__
    spec = part.spec()
    arguments = ", ".join(f"{name}={value}" for name, value in spec["args"].items())
    return f"{spec['class']}({arguments})"


def _versions() -> str:
    shown = {"pyro-vae": "pyro-vae", "pyro-ppl": "Pyro", "torch": "PyTorch", "numpy": "NumPy"}
    told = [f"{title} {version(package)}" for package, title in shown.items()]
    return ", ".join([*told, f"Python {platform.python_version()}"])


def _curves(story: _Story) -> Html | None:
    history = story.history
    if not history:
        return None
    charts = []
    for key, title in panels.CURVES.items():
        with chart() as (figure, axes):
            panels.curve(axes, history, key)
            charts.append(_image(as_svg(figure), f"{title} over the epochs"))
    gap = ""
    if "validation_elbo" in history:
        best = panels.best_of(history["validation_elbo"])
        ahead = history["elbo"][best] - history["validation_elbo"][best]
        gap = (
            f" The model kept is that of epoch {history['epoch'][best]:g} of "
            f"{history['epoch'][-1]:g}; there the ELBO of training data was {_number(ahead)} nats "
            "above that of validation data."
        )
    return _figure(
        tag("div", *charts, class_="panels"),
        "The ELBO is its reconstruction less its KL. Where the blue line turns down while the grey "
        "one goes on rising, the model learns its training data by heart: more dropout, weight "
        "decay or data help. A line still rising at its end wants more epochs. A KL near zero "
        f"means that z is not used.{gap}",
    )


def _samples(story: _Story) -> Html:
    vae, x = story.vae, story.x
    if story.images:
        count = min(64, len(x))
        z = vae.prior().sample((count,))
        law = vae.decode(z)
        shown = {
            "Held-out data": x[:count],
            "E[x | z], z ~ p(z)": law.mean,
            "x ~ p(x | z)": law.sample(),
        }
        grids = [
            tag("div", tag("h4", what), story.tiles(images, 8, what))
            for what, images in shown.items()
        ]
        return _figure(
            tag("div", *grids, class_="panels"),
            "Do the draws show every kind of datum, as often as the data do? Blends of two kinds "
            "come from places that the prior reaches and no datum does. The mean is smooth; a draw "
            "of x adds the noise that the likelihood believes in, and is what compares with data.",
        )
    drawn = vae.sample(max(1000, min(len(x), 4000))).cpu().flatten(1).numpy()
    seen = x.cpu().flatten(1).numpy()
    dim = seen.shape[1]
    charts = []
    for i in range(min(dim, PANELS)):
        with chart(2.4, 1.6) as (figure, axes):
            panels.marginal(axes, drawn[:, i], seen[:, i], f"x[{i}]")
            charts.append(_image(as_svg(figure), f"Marginal of x[{i}]"))
    some = f"The first {PANELS} of {dim} entries" if dim > PANELS else "Each entry"
    told = [
        _figure(
            tag("div", *charts, class_="panels small"),
            f"{some} of x: grey, the held-out data; blue, {len(drawn):,} draws of the model. "
            "Where the blue line leaves the grey shape, the model puts too much or too little "
            "there; look at the tails and at zero first.",
        )
    ]
    if 2 <= dim <= _CORRELATED:
        told.append(_correlations(seen, drawn))
    return join(*told)


def _correlations(seen: np.ndarray, drawn: np.ndarray) -> Html:
    charts = []
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant entry has no correlation
        both = {"Held-out data": np.corrcoef(seen.T), "Draws of the model": np.corrcoef(drawn.T)}
    both["Model less data"] = both["Draws of the model"] - both["Held-out data"]
    for title, matrix in both.items():
        with chart(3.4, 2.8) as (figure, axes):
            panels.correlation(axes, matrix, title)
            charts.append(_image(as_svg(figure), f"Correlations: {title}"))
    return _figure(
        tag("div", *charts, class_="panels"),
        "Correlations between entries. What is left on the right, beyond noise, is dependence that "
        "the model misses: z has too few dimensions, or the likelihood, independent given z, "
        "cannot carry it.",
    )


def _reconstructions(story: _Story) -> Html:
    x = story.x[: 30 if story.images else 6]
    rebuilt = story.vae.reconstruct(x)
    if not story.images:
        return _figure(
            tag("div", *_lines(x, rebuilt), class_="panels"),
            "Dots, held-out data; line, E[x | z] at z = E[z | x]. Structure that the line passes "
            "by is left to the noise of the likelihood.",
        )
    return _figure(
        tag("div", *_rows_of_pairs(story, x, rebuilt), class_="panels"),
        "Upper rows, held-out data; lower rows, E[x | z] at z = E[z | x]. Detail that is lost is "
        "either not in z or not in what the decoder can draw.",
    )


def _rows_of_pairs(story: _Story, x: Tensor, rebuilt: Tensor) -> list[Html]:
    columns = min(10, len(x))
    return [
        tag(
            "div",
            story.tiles(
                torch.cat([x[start : start + columns], rebuilt[start : start + columns]]),
                columns,
                "Data above their reconstructions",
            ),
        )
        for start in range(0, len(x) - columns + 1, columns)
    ]


def _lines(x: Tensor, rebuilt: Tensor, titles: Sequence[str] | None = None) -> list[Html]:
    charts = []
    for i in range(len(x)):
        with chart(3.6, 2.0) as (figure, axes):
            panels.line(axes, x[i], rebuilt[i])
            axes.set_title("" if titles is None else titles[i])
            charts.append(_image(as_svg(figure), "A datum and its reconstruction"))
    return charts


def _scores(story: _Story) -> Html:
    summary, scores = story.summary, story.scores
    measure = summary["base_measure"]
    known = np.isfinite(scores.k_hat)
    rows = [
        (f"log p(x), {summary['num_samples']:,} importance samples",
         _number(summary["log_marginal"]), _number(summary["standard_error"]),
         _number(summary["mcse"], 3)),
        *((title, _number(summary[key]), "", "") for key, title in (
            ("elbo", "ELBO"), ("reconstruction", "reconstruction E[log p(x | z)]"),
            ("kl", "KL(q(z | x) || p(z))"))),
    ]  # fmt: skip
    told = [
        table(("nats a datum", "mean", "± over data", "± Monte Carlo"), rows),
        tag(
            "p",
            f"Means over {story.summarised:,} {measure['split']} data of {measure['data']}. The "
            "error over data says how far other data of the same kind might lie; the Monte Carlo "
            "error, how far another seed. Only scores of the same data and base measure compare.",
        ),
    ]
    if known.any():
        share, threshold = summary["k_hat_above_threshold"], scores.k_hat_threshold
        if share is not None and share > 0:
            told.append(
                tag(
                    "p",
                    f"k-hat is above {threshold:.2f} for {_percent(share)} of the data. There the "
                    "guide is too narrow or in the wrong place: log p(x) is likely to be too low, "
                    "and its Monte Carlo error too small to be trusted. A richer guide or more "
                    "samples help.",
                    class_="note warning" if share > 0.1 else "note",
                )
            )
    charts = []
    with chart() as (figure, axes):
        panels.log_marginals(axes, scores.log_marginal)
        charts.append(_image(as_svg(figure), "Histogram of log p(x) over data"))
    if known.any():
        with chart() as (figure, axes):
            panels.k_hats(axes, scores.k_hat, scores.k_hat_threshold)
            charts.append(_image(as_svg(figure), "Histogram of k-hat"))
    gap = scores.log_marginal - scores.elbo
    with chart() as (figure, axes):
        panels.gaps(axes, scores.log_marginal, gap, scores.k_hat > scores.k_hat_threshold)
        charts.append(_image(as_svg(figure), "Gap of the guide against log p(x)"))
    size = len(scores.log_marginal)
    some = f"The first {size:,} of {len(story.x):,}" if size < len(story.x) else f"All {size:,}"
    told.append(
        _figure(
            tag("div", *charts, class_="panels"),
            f"{some} {story.split} data, one by one. A long tail on the left of log p(x) holds "
            "data unlike those that the model was fitted to; they are shown below. The gap is what "
            "the guide loses, log p(x) less ELBO: high dots are data whose posterior it misses, "
            "red ones those whose k-hat is too high.",
        )
    )
    return join(*told, _extremes(story))


def _extremes(story: _Story) -> Html:
    """The data that the model finds least and most likely."""
    log_marginal = story.scores.log_marginal
    order = np.argsort(log_marginal)
    count = min(10 if story.images else 3, len(order) // 2)
    if count == 0:
        return Html("")
    told = []
    for title, chosen in (("Least likely", order[:count]), ("Most likely", order[::-1][:count])):
        x = story.x[torch.as_tensor(chosen.copy())]
        rebuilt = story.vae.reconstruct(x)
        first, last = (_number(log_marginal[i], 1) for i in (chosen[0], chosen[-1]))
        if story.images:
            shown = _rows_of_pairs(story, x, rebuilt)
            told.append(tag("div", tag("h4", f"{title}: log p(x) {first} to {last}"), *shown))
        else:
            titles = [f"{title}: {_number(log_marginal[i], 1)}" for i in chosen]
            told.extend(_lines(x, rebuilt, titles))
    return _figure(
        tag("div", *told, class_="panels wide" if story.images else "panels"),
        "The data that the model finds least and most likely, with their reconstructions. Among "
        "the least likely look for mistakes in the data before you blame the model.",
    )


def _latent(story: _Story) -> Html:
    means = story.means
    labels = None if story.labels is None else story.labels[: len(means)]
    size = f"{len(means):,} {story.split} data"
    if story.vae.prior.support is constraints.one_hot:
        rows = means.shape[1] if means.shape[1] > 1 or labels is None else len(labels.unique())
        width = min(9.0, max(3.6, 0.3 * means.shape[2] + 2))
        with chart(width, min(8.0, max(2.0, 0.26 * rows + 0.9))) as (figure, axes):
            panels.usage(axes, means, labels)
            picture = _image(as_svg(figure), "How often each latent class is used")
        return _figure(
            picture,
            f"How often {size} use each class of each latent variable. Columns that stay white are "
            "classes never used; a row that is all one colour tells nothing about x.",
        )
    with chart(4.7, 4.4) as (figure, axes):
        panels.scatter(axes, means, labels, beside=False)
        latent = _image(as_svg(figure), "Map of latent means")
    with chart() as (figure, axes):
        panels.spread(axes, story.variances, _ACTIVE)
        variance = _image(as_svg(figure), "Variance of the posterior mean of each latent unit")
    coloured = " Colours are labels, which the model never saw." if labels is not None else ""
    plane = " in the plane of their first two principal components" if means.shape[1] > 2 else ""
    idle = int((story.variances <= _ACTIVE).sum())
    collapsed = (
        f" {idle} of {len(story.variances)} units have collapsed."
        if idle
        else " Here none has collapsed."
    )
    return tag(
        "div",
        _figure(
            latent,
            f"E[z | x] of {size}{plane}.{coloured} Groups that keep apart are what z has learned; "
            "gaps between them are where samples turn into blends.",
        ),
        _figure(
            variance,
            "A unit below the dashed line has the same posterior for all data: it has collapsed "
            f"onto the prior, and the decoder ignores it.{collapsed}",
        ),
        class_="panels wide",
    )


def _walks(story: _Story) -> Html:
    vae, x = story.vae, story.x
    one_hot = vae.prior.support is constraints.one_hot
    kinds = (constraints.real_vector, constraints.one_hot, constraints.boolean, sphere)
    if vae.prior.support not in kinds:
        return _caption("Walks are drawn where z is one vector or one-hot: not here.")
    discrete = vae.prior.support.is_discrete
    order = story.variances.argsort(descending=True)
    units = order[story.variances[order] > _ACTIVE][:_UNITS]
    told = []
    if len(units):
        # The datum in the middle: as typical as any.
        middle = story.scores.log_marginal.argsort()[len(story.scores.log_marginal) // 2]
        walked = traversals(vae, x[middle], units, reach=_REACH)
        span = _REACH * np.linspace(-1, 1, walked.shape[1])
        titles = [f"z{unit}" for unit in units.tolist()]
        told += [
            tag("h3", "One latent unit at a time"),
            _paths(story, walked, titles, list(span), "tab10" if discrete else "coolwarm"),
        ]
        some = "Each latent unit"
        if len(units) < len(order):
            some = f"Each of the {len(units)} units that vary most over data"
        if one_hot:
            what = "takes each of its classes in turn"
        elif discrete:
            what = "is 0 and then 1"
        elif vae.prior.support is sphere:
            what = "moves along the sphere from one of its poles to the other"
            what += "" if story.images else ", from blue to red"
        else:
            what = f"moves from −{_REACH:g} to {_REACH:g} standard deviations of the prior"
            what += "" if story.images else ", from blue to red"
        told.append(
            _caption(
                f"{some} {what}, the others staying where the datum "
                "of median log p(x) has them. A row without change is a unit that does nothing "
                "here; a row that changes one thing only has found a factor of the data."
            )
        )
    pairs = _pairs(story)
    if len(pairs):
        first, second = x[pairs[:, 0]], x[pairs[:, 1]]
        path = interpolations(vae, first, second)
        if story.images:
            path = torch.cat([first[:, None], path, second[:, None]], 1)
        titles = [""] * len(pairs)
        if story.labels is not None:
            titles = [f"{a}→{b}" for a, b in story.labels[pairs].tolist()]
        told += [
            tag("h3", "From one datum to another"),
            _paths(story, path, titles, list(range(path.shape[1])), "viridis"),
            _caption(
                ("The outermost are held-out data themselves, " if story.images else "E[x | z], ")
                + ("between them " if story.images else "from dark to bright, ")
                + ("E[x | z] " if story.images else "")
                + (
                    "while z changes one latent variable after another."
                    if discrete
                    else "while z moves along an arc of the sphere."
                    if vae.prior.support is sphere
                    else "while z moves along a straight line."
                )
                + " Every step should look like a datum; a blur half way is a hole in latent space."
            ),
        ]
    return join(*told)


def _paths(
    story: _Story, means: Tensor, titles: Sequence[str], positions: list[float], cmap: str
) -> Html:
    """Each path a strip of images, or a panel of lines."""
    if story.images:
        strips = [
            tag("div", tag("span", title), story.tiles(row, len(row), title), class_="strip")
            for title, row in zip(titles, means, strict=True)
        ]
        return tag("div", *strips, class_="panels wide")
    charts = []
    for title, row in zip(titles, means, strict=True):
        with chart(3.6, 2.0) as (figure, axes):
            panels.family(axes, row, positions, cmap)
            axes.set_title(title)
            charts.append(_image(as_svg(figure), f"E[x | z] along {title}"))
    return tag("div", *charts, class_="panels")


def _pairs(story: _Story) -> Tensor:
    """Indices of pairs of held-out data, of different labels where there are labels."""
    count = len(story.x)
    pairs: list[tuple[int, int]] = []
    after = 0
    while len(pairs) < _PAIRS and after + 1 < count:
        second = after + 1
        if story.labels is not None:
            others = (story.labels[second:] != story.labels[after]).nonzero()
            if len(others) == 0:
                break
            second += int(others[0])
        pairs.append((after, second))
        after = second + 1
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


def _checks(story: _Story) -> Html:
    found = story.checks
    if isinstance(found, str):
        return tag("p", found, class_="note")
    judged = [row for row in found.rows if row.calibrated]
    shown = [row for row in found.rows if not row.calibrated]
    failed = [row for row in judged if row.failed]
    verdict = (
        f"{len(failed)} of {len(judged)} checks fail, at a chance of {found.level:.0%} that a true "
        f"model fails any. Each compares {found.num_data:,} {story.split} data with "
        f"{found.num_draws:,} data sets that the model simulates."
    )
    told = [tag("p", verdict, class_="note warning" if failed else "note")]
    if failed:
        points = [tag("li", tag("b", _place(row)), f": {row.advice}") for row in failed]
        told.append(tag("ul", *points))
    with chart(4.8, 0.38 * len(judged) + 0.5) as (figure, axes):
        intervals(axes, judged)
        picture = _image(as_svg(figure), "Observed statistics among replicated ones")
    told.append(
        _figure(
            picture,
            "Where the data lie among what the model simulates: grey, the middle 95 % of simulated "
            "data sets; a dot, the data observed; an arrow, far outside. Red ones convict the "
            "model. Of a statistic of many entries the one farthest out is shown, which lies "
            "outside the grey more often than one in twenty; the p-values in the table allow for "
            "that.",
        )
    )
    told.append(_table_of_checks(judged))
    if shown:
        told.append(
            tag(
                "details",
                tag("summary", f"{len(shown)} checks that are shown and not judged"),
                tag(
                    "p",
                    "Their z were drawn given the data that they are compared with, so that even a "
                    "true model's p-values gather around one half. What is odd here is odd; what "
                    "looks well proves nothing.",
                ),
                _table_of_checks(shown),
            )
        )
    for what, why in found.skipped.items():
        told.append(tag("p", f"Not checked, {what}: {why}", class_="note"))
    return join(*told)


def _table_of_checks(rows: Sequence[Row]) -> Html:
    cells = []
    for row in rows:
        verdict: object = "–" if math.isnan(row.adjusted) else "passes"
        cells.append(
            (
                _place(row),
                row.conditioned_on,
                _short(row.observed),
                f"{_short(row.low)} to {_short(row.high)}",
                _p_value(row.p_value),
                _p_value(row.adjusted),
                tag("span", "fails", class_="bad") if row.failed else verdict,
            )
        )
    head = ("statistic", "replicates", "observed", "simulated, 95 %", "p", "p, Holm", "verdict")
    return table(head, cells, text=2)


def _place(row: Row) -> str:
    return f"{row.statistic}, {row.where}" if row.where else row.statistic


def _classifier(story: _Story) -> Html | None:
    if isinstance(story.checks, str):
        return None
    found = story.checks.classifier
    with chart(3.6, 3.2) as (figure, axes):
        roc(axes, found)
        curve = _image(as_svg(figure), "ROC of the classifier")
    count = 10 if story.images else 3
    x = story.x[torch.as_tensor(found.index[:count].copy()).to(story.x.device)]
    rebuilt = story.vae.reconstruct(x)
    told = [
        _figure(
            curve,
            "A classifier learned to tell draws of x from data, and was tested on others: the area "
            f"under its curve is {found.auc:.3f}, by chance {found.low:.3f} to {found.high:.3f}. "
            "On the diagonal draws and data look alike; the higher the curve, the surer it is.",
        )
    ]
    caption = (
        "The data that it finds least like draws of the model, with their reconstructions: what "
        "they have in common is what the model lacks."
    )
    if story.images:
        telling = tag("div", *_rows_of_pairs(story, x, rebuilt))
    else:
        telling = tag("div", *_lines(x, rebuilt))
    return tag("div", *told, _figure(telling, caption), class_="panels wide")


def _calibration(story: _Story) -> Html:
    found = story.calibration
    failed = found.num_failed
    told = [
        tag(
            "p",
            f"{failed} of {len(found.names)} quantities fail. {len(found.ranks):,} times z and x "
            f"were drawn from the model, and z was ranked among {found.num_draws} draws of the "
            "guide given x. Were the guide the posterior, every rank would be as likely as any "
            "other. No data are needed: this is about inference, not about the model.",
            class_="note warning" if failed else "note",
        )
    ]
    if failed:
        told.append(tag("ul", *(tag("li", sentence) for sentence in found.advice)))
    charts = []
    for draw, alt in ((ranks, "ECDFs of ranks with bands"), (coverage, "Coverage curves")):
        with chart(4.4, 3.1) as (figure, axes):
            draw(axes, found)
            charts.append(_image(as_svg(figure), alt))
    told.append(
        _figure(
            tag("div", *charts, class_="panels wide"),
            "Left, a line that leaves the grey band convicts the guide: an S shape is a guide of "
            "the wrong width, a hump one that is off to a side. Right, below the diagonal regions "
            "of the guide hold the truth less often than they state: it is too narrow.",
        )
    )
    rows = [
        (
            tag("code", name),
            _p_value(float(p)),
            _p_value(float(adjusted)),
            tag("span", "fails", class_="bad") if fails else "passes",
        )
        for name, p, adjusted, fails in zip(
            found.names, found.p_values, found.adjusted, found.failed, strict=True
        )
    ]
    listed = table(("quantity ranked", "p", "p, Holm", "verdict"), rows)
    return join(*told, tag("details", tag("summary", "Every quantity"), listed))


def _timings(story: _Story) -> Html:
    rows = [(f"this page: {title.lower()}", f"{s:.1f} s") for title, s in story.seconds.items()]
    if story.history and "seconds" in story.history:
        seconds, epochs = story.history["seconds"][-1], len(story.history["epoch"])
        rows = [("fit", f"{seconds:,.1f} s"), ("an epoch", f"{seconds / epochs:,.3f} s"), *rows]
    return table(("what", "time"), rows)


def _image(address: str, alt: str) -> Html:
    return tag("img", src=address, alt=alt)


def _figure(content: Html, caption: str) -> Html:
    return tag("figure", content, tag("figcaption", caption))


def _caption(text: str) -> Html:
    return tag("figure", tag("figcaption", text))


def _difference(summary: Mapping[str, Any]) -> float | None:
    above, below = summary["log_marginal"], summary["elbo"]
    return None if above is None or below is None else above - below


def _number(value: float | None, digits: int = 2) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}".replace("-", "−")


def _p_value(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
