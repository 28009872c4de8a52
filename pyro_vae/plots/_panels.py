"""One panel each: they draw on axes that a PNG file and the page both bring along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.plots._canvas import BAD, CLASSES, HELD_OUT, TRAIN

__all__ = [
    "CURVES",
    "best_epoch",
    "class_name",
    "correlation",
    "curve",
    "family",
    "gaps",
    "k_hats",
    "line",
    "log_marginals",
    "scatter",
    "spread",
    "usage",
]

CURVES = {
    "elbo": "ELBO",
    "reconstruction": "Reconstruction  E[log p(x | z)]",
    "kl": "KL(q(z | x) || p(z))",
}
_LEGEND = 20  # classes that colours and shapes can distinguish
_SHAPES = ("o", "^", "s")
_STYLES = ((".", "-"), ("x", "--"), ("+", ":"), ("^", "-."))  # of data and line, a channel each


def curve(axes: Axes, history: Mapping[str, Sequence[float]], key: str) -> None:
    """One quantity over the epochs, on training and validation data."""
    epochs = history["epoch"]
    shown = {"train": (history[key], TRAIN)}
    if f"validation_{key}" in history:
        shown["validation"] = (history[f"validation_{key}"], HELD_OUT)
    for label, (values, colour) in shown.items():
        # Of epochs that were not scored there is nothing to show.
        kept = [i for i, value in enumerate(values) if not math.isnan(value)]
        at, values = [epochs[i] for i in kept], [values[i] for i in kept]
        axes.plot(at, values, color=colour, label=label, marker="" if epochs[1:] else "o")
    _leave_out_the_start(axes, [values for values, _ in shown.values()])
    axes.set_title(CURVES[key])
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if key == "elbo":
        axes.set_ylabel("nats per observation")
        if "validation" in shown:
            best = best_epoch(history)
            label = f"best: epoch {epochs[best]:g}"
            axes.axvline(epochs[best], color=HELD_OUT, linestyle=":", label=label)
        axes.legend(framealpha=0.9, edgecolor="none")


def best_epoch(history: Mapping[str, Sequence[float]]) -> int:
    """Where the bound that chooses the epoch is largest; it need not be finite."""
    values = np.asarray(history.get("validation_bound", history["validation_elbo"]))
    return int(np.argmax(np.nan_to_num(values, nan=-np.inf, neginf=-np.inf)))


def _leave_out_the_start(axes: Axes, lines: Sequence[Sequence[float]]) -> None:
    """Sets the limits by all but the first twentieth, whose fall would flatten all that follows."""
    values = np.concatenate([np.asarray(line)[len(line) // 20 :] for line in lines])
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return
    low, high = values.min(), values.max()
    margin = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)


def line(axes: Axes, x: Tensor, reconstructed: Tensor) -> None:
    """The entries of one observation as dots, its reconstruction as a line.

    That of a few numbers at each place, such as the channels of a series, is a line for each.
    """
    channels = _channels(x)
    for number, (data, mean) in enumerate(zip(channels, _channels(reconstructed), strict=True)):
        marker, style = _STYLES[number]
        label = f", {number}" if len(channels) > 1 else ""
        axes.plot(data, marker, color=TRAIN, ms=7 if marker == "." else 5, label=f"data{label}")
        axes.plot(mean, style, color=HELD_OUT, lw=1.3, label=f"reconstruction{label}")
    _entries(axes)
    if len(channels) > 1:
        axes.set_xlabel(f"place along axis 0, {len(channels)} entries of x at each")


def _channels(x: Tensor) -> list[Tensor]:
    """Returns what is drawn as a line each: all entries, or those of each of a few channels."""
    if x.ndim == 2 and 1 < x.shape[1] <= len(_STYLES) < x.shape[0]:
        return list(x.cpu().T)
    return [x.flatten().cpu()]


def family(axes: Axes, means: Tensor, positions: Sequence[float], cmap: str) -> None:
    """Lines of x, one for each position along a path, distinguished by colour."""
    low, high = min(positions), max(positions)
    for position, mean in zip(positions, means, strict=True):
        shade = (position - low) / (high - low) if high > low else 0.5
        colour = colormaps[cmap](0.04 + 0.92 * shade)
        axes.plot(
            mean.flatten().cpu(), color=colour, lw=1.3, marker="." if mean.numel() == 1 else ""
        )
    _entries(axes)


def _entries(axes: Axes) -> None:
    axes.set_xlabel("entry of x")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def scatter(
    axes: Axes,
    means: Tensor,
    labels: Tensor | None,
    classes: Sequence[str] = (),
    *,
    beside: bool = True,
) -> None:
    """Latent means in the plane of their first two principal components, if they have more.

    One observation alone has no components: it shows the first two of its means. The legend stands
    beside, or below; in it labels have the names of their classes.
    """
    names = [f"E[z{i} | x]" for i in range(means.shape[1])]
    points = means[:, :2]
    if means.shape[1] > 2 and len(means) > 1:
        centred = means - means.mean(0)
        _, spreads, directions = torch.linalg.svd(centred, full_matrices=False)
        points = centred @ directions[:2].T
        shares = spreads[:2].square() / spreads.square().sum().clamp_min(1e-12)
        ordinals = ("first", "second")
        names = [
            f"{o} principal component ({s:.0%} of variance)"
            for o, s in zip(ordinals, shares, strict=True)
        ]
    if means.shape[1] == 1:
        points, names = torch.cat([means, means.new_zeros(len(means), 1)], 1), [names[0], ""]
        points[:, 1] = torch.linspace(0, 1, len(means))  # spread out, to see how many there are
        axes.set_yticks([])
    size = min(60, max(5, 6000 / len(means)))
    if labels is not None and len(CLASSES) < len(labels.unique()) <= _LEGEND:
        size *= 1.5  # a shape needs room to be seen
    for label, chosen, colour, marker in _classes(labels, len(means), classes):
        across, up = points[chosen].T
        axes.scatter(
            across, up, s=size, alpha=0.75, lw=0, color=colour, marker=marker, label=label,
            rasterized=True,
        )  # fmt: skip
    if labels is not None and len(labels.unique()) <= _LEGEND:
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "title": "label"}
        columns = 4 if classes else 10  # words are longer than numbers
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": columns}
        axes.legend(
            frameon=False,
            markerscale=7 / math.sqrt(size),
            **(place if beside else below | {"handletextpad": 0.0, "columnspacing": 0.6}),
        )
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.spines[["top", "right"]].set_visible(False)


def class_name(label: int, classes: Sequence[str]) -> str:
    """What a label is called: -1 stands for one that is missing."""
    if label < 0:
        return "none"
    return classes[label] if label < len(classes) else str(label)


def _classes(
    labels: Tensor | None, size: int, names: Sequence[str]
) -> list[tuple[str, Tensor, object, str]]:
    """For each label its name, the data that have it, a colour and a marker.

    Of more labels than colours all have shapes, too: a colour is there again with another shape,
    and neighbours differ in both.
    """
    if labels is None:
        return [("", torch.ones(size, dtype=torch.bool), HELD_OUT, "o")]
    found = labels.unique().tolist()
    shapes = _SHAPES if len(found) > len(CLASSES) else _SHAPES[:1]
    looks: list[tuple[object, str]] = [
        (CLASSES[i % len(CLASSES)], shapes[i % len(shapes)]) for i in range(len(found))
    ]
    if len(found) > _LEGEND:
        palette = colormaps["viridis"].resampled(len(found))
        looks = [(palette(i), "o") for i in range(len(found))]
    return [(class_name(label, names), labels == label, *looks[i]) for i, label in enumerate(found)]


def usage(axes: Axes, q: Tensor, labels: Tensor | None, classes: Sequence[str] = ()) -> None:
    """Heat map of the mean of q(z|x), of shape ``(N, groups, classes)``.

    A row is a group; if there is one group only, a label.
    """
    rows, what, groups = q.mean(0), "group", q.shape[1]
    ticks = [str(group) for group in range(groups)]
    if groups == 1 and labels is not None:
        found, what = labels.unique().tolist(), "label"
        ticks = [class_name(label, classes) for label in found]
        rows = torch.stack([q[labels == label, 0].mean(0) for label in found])
    vmax = max(rows.max().item(), 2 / q.shape[2])  # even use is half way up the scale
    image = axes.imshow(rows.numpy(), cmap="Blues", vmin=0, vmax=vmax, aspect="auto")
    axes.figure.colorbar(image, ax=axes, label="mean of q(z | x)")
    axes.set(xlabel="class", ylabel=what)
    if len(rows) <= 30:
        axes.set_yticks(range(len(rows)), ticks)
    if q.shape[2] <= 30:
        axes.set_xticks(range(q.shape[2]))


def spread(axes: Axes, variances: Tensor, threshold: float) -> None:
    """Variance of the posterior mean of each latent unit, largest first."""
    ordered, order = variances.sort(descending=True)
    across = range(len(ordered))
    colours = [HELD_OUT if value > threshold else TRAIN for value in ordered.tolist()]
    axes.bar(across, ordered.tolist(), color=colours, width=0.75)
    axes.axhline(threshold, color=BAD, lw=1, ls="--")
    axes.set(title="Variance over data of E[z | x]", xlabel="latent unit, largest first", ylim=0)
    if len(ordered) <= 20:
        axes.set_xticks(across, [str(unit) for unit in order.tolist()])


def k_hats(axes: Axes, k_hat: np.ndarray, threshold: float) -> None:
    """Histogram of k-hat, what lies above the threshold in another colour."""
    known = k_hat[np.isfinite(k_hat)]
    low, high = min(known.min(), threshold - 0.1), max(known.max(), threshold + 0.1)
    # The threshold is an edge, so that no bar is on both sides of it.
    step = (high - low) / 24
    below = threshold - step * np.arange(math.ceil((threshold - low) / step), 0, -1)
    edges = np.concatenate([below, np.arange(threshold, high + step, step)])
    heights, _ = np.histogram(known, edges)
    for side, colour in ((edges[:-1] < threshold - step / 2, HELD_OUT), (None, BAD)):
        chosen = ~(edges[:-1] < threshold - step / 2) if side is None else side
        axes.bar(edges[:-1][chosen], heights[chosen], step * 0.92, align="edge", color=colour)
    axes.axvline(threshold, color=BAD, lw=1, ls="--")
    axes.set(title="k-hat of the importance weights", ylabel="observations")
    axes.set(xlabel=f"k-hat (dashed: threshold {threshold:.2f})", ylim=0)


def gaps(axes: Axes, log_marginal: np.ndarray, gap: np.ndarray, untrusted: np.ndarray) -> None:
    """What the guide loses on each observation, against log p(x)."""
    size = min(20, max(4, 4000 / len(gap)))
    for chosen, colour in ((~untrusted, HELD_OUT), (untrusted, BAD)):
        axes.scatter(
            log_marginal[chosen],
            gap[chosen],
            s=size,
            alpha=0.6,
            lw=0,
            color=colour,
            rasterized=True,
        )
    axes.set(title="Gap of the guide, log p(x) − ELBO", xlabel="log p(x), nats", ylabel="nats")


def log_marginals(axes: Axes, log_marginal: np.ndarray) -> None:
    """Histogram of log p(x) over data, with their mean."""
    heights, edges = np.histogram(log_marginal, min(40, 5 + len(log_marginal) // 8))
    axes.stairs(heights, edges, fill=True, color=TRAIN)
    mean = log_marginal.mean()
    axes.axvline(mean, color=HELD_OUT, lw=1.3)
    label = f"nats (line: mean {mean:.2f})".replace("-", "−")
    axes.set(title="log p(x) of held-out data", xlabel=label, ylabel="observations", ylim=0)


def correlation(axes: Axes, matrix: np.ndarray, title: str, names: Sequence[str] = ()) -> None:
    """Heat map of correlations, or of their differences, of columns that have names or none."""
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.figure.colorbar(image, ax=axes, shrink=0.9)
    axes.set_title(title)
    if names:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        return
    axes.set(xlabel="entry of x", ylabel="entry of x")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
