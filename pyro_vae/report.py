"""Pictures of a fitted model: what it draws, rebuilds and encodes, and how it was fitted."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import expected, positive_integer
from pyro_vae.checkpoint import write_bytes
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import SPLITS, Split
from pyro_vae.vae import VAE

__all__ = ["curves", "held_out", "latent", "pictures", "reconstructions", "samples"]

_PANELS = 16  # entries of a vector that are shown one by one
_SCATTERED = 5000  # more dots hide each other
_LEGEND = 20  # classes that colours can tell apart
_TRAIN, _HELD_OUT = "#9aa0a6", "#1a5fb4"


def pictures(
    vae: VAE, data: Dataset, history: Mapping[str, Sequence[float]], folder: str | Path
) -> list[Path]:
    """Draws all pictures of a run: samples, reconstructions, latents and curves.

    Args:
        vae: The fitted model.
        data: What it was fitted to.
        history: That of the run.
        folder: Where to write ``samples.png``, ``reconstructions.png``, ``latent.png`` and
            ``curves.png``; must exist.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    split = held_out(data)
    x, labels = data.split(split), data.labels[split]
    count = 64 if _are_images(vae.event_shape) else 1000
    return [
        samples(vae, folder / "samples.png", num_samples=count, reference=x),
        reconstructions(vae, x, folder / "reconstructions.png", name=f"{split} data"),
        latent(vae, x, folder / "latent.png", labels=labels, name=f"{split} data"),
        curves(history, folder / "curves.png"),
    ]


def held_out(data: Dataset) -> Split:
    """Returns the split to judge by: test, or else validation, or else all there is."""
    filled: list[Split] = [split for split in SPLITS if len(data.split(split)) > 0]
    return filled[-1]


@torch.no_grad()
def samples(
    vae: VAE, path: str | Path, *, num_samples: int = 64, reference: Tensor | None = None
) -> Path:
    """Draws what the model makes up.

    Of images the means E[x|z] are shown, since independent noise in each pixel hides the shape;
    of vectors the marginals of x itself.

    Args:
        vae: The model.
        path: The PNG to write.
        num_samples: Number of draws.
        reference: Data ``(N, *event_shape)``, which set the grey scale of images and stand beside
            the marginals of vectors.

    Returns:
        The path.
    """
    positive_integer("num_samples", num_samples)
    if not _are_images(vae.event_shape):
        return _marginals(vae.sample(num_samples), reference, path)
    means = vae.decode(vae.prior().sample((num_samples,))).mean
    columns = math.ceil(math.sqrt(num_samples))
    rows = math.ceil(num_samples / columns)
    figure = Figure(figsize=(0.7 * columns, 0.7 * rows + 0.5), layout="constrained")
    axes = figure.subplots()
    tiles = _tiles(means, columns, _limits(vae, means if reference is None else reference))
    _show(axes, tiles)
    axes.set_title("Drawn from the prior: E[x | z], z ~ p(z)", fontsize=11)
    return _write(figure, path)


@torch.no_grad()
def reconstructions(vae: VAE, x: Tensor, path: str | Path, *, name: str = "data") -> Path:
    """Draws data above what the model makes of them, E[x|z] at z = E[z|x].

    Args:
        vae: The model.
        x: Held-out data, shape ``(N, *event_shape)``.
        path: The PNG to write.
        name: What to call the data.

    Returns:
        The path.
    """
    images = _are_images(vae.event_shape)
    x = vae.check(x[: 30 if images else 6])
    rebuilt = vae.reconstruct(x)
    title = f"{name[0].upper()}{name[1:]} and reconstructions E[x | z = E[z | x]]"
    if not images:
        return _lines(x, rebuilt, path, title)
    columns = min(10, len(x))
    starts = range(0, len(x) - columns + 1, columns)
    figure = Figure(figsize=(0.75 * columns + 1, 1.55 * len(starts) + 0.5), layout="constrained")
    limits = _limits(vae, x)
    all_axes = figure.subplots(2 * len(starts), squeeze=False)[:, 0]
    for i, start in enumerate(starts):
        chosen = slice(start, start + columns)
        for axes, tiles, label in (
            (all_axes[2 * i], x[chosen], "data"),
            (all_axes[2 * i + 1], rebuilt[chosen], "rebuilt"),
        ):
            _show(axes, _tiles(tiles, columns, limits))
            axes.text(-0.01, 0.5, label, transform=axes.transAxes, ha="right", va="center")
    figure.suptitle(title, fontsize=11)
    return _write(figure, path)


@torch.no_grad()
def latent(
    vae: VAE,
    x: Tensor,
    path: str | Path,
    *,
    labels: Tensor | None = None,
    name: str = "data",
) -> Path:
    """Draws where data lie in latent space.

    Real latents: the means E[z|x], in the plane of their first two principal components if they
    have more than two dimensions. One-hot latents: how often each class of each group is used,
    or which class is used for which label if there is one group.

    Args:
        vae: The model.
        x: Held-out data, shape ``(N, *event_shape)``.
        path: The PNG to write.
        labels: Integers ``(N,)`` that colour the data; the model never saw them.
        name: What to call the data.

    Returns:
        The path.
    """
    x = vae.check(x[:_SCATTERED])
    labels = None if labels is None else labels[:_SCATTERED].cpu()
    means = torch.cat([vae.encode(batch).mean for batch in x.split(1024)]).cpu()
    title = f"{len(x):,} {name}"
    if vae.prior.support is constraints.one_hot:
        return _usage(means, labels, path, title)
    if vae.prior.support is not constraints.real_vector:
        raise expected("vae", "real or one-hot latents", vae.prior.support)
    return _scatter(means, labels, path, title)


def curves(history: Mapping[str, Sequence[float]], path: str | Path) -> Path:
    """Draws the ELBO and its two halves over the epochs, on training and validation data.

    Args:
        history: That of a run: ``epoch``, ``elbo``, ``reconstruction``, ``kl``, and the last three
            with ``validation_`` before them if there were validation data.
        path: The PNG to write.

    Returns:
        The path.
    """
    epochs = history["epoch"]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = {
        "elbo": "ELBO",
        "reconstruction": "Reconstruction  E$_q$[log p(x | z)]",
        "kl": "KL(q(z | x) || p(z))",
    }
    for axes, (key, title) in zip(figure.subplots(1, 3, sharex=True), panels.items(), strict=True):
        shown = {"train": (history[key], _TRAIN)}
        if f"validation_{key}" in history:
            shown["validation"] = (history[f"validation_{key}"], _HELD_OUT)
        for label, (values, colour) in shown.items():
            axes.plot(epochs, values, color=colour, label=label, marker="" if epochs[1:] else "o")
        _leave_out_the_start(axes, [values for values, _ in shown.values()])
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if key == "elbo":
            axes.set_ylabel("nats per datum")
            if "validation" in shown:
                best = int(np.argmax(shown["validation"][0]))
                label = f"best: epoch {epochs[best]:g}"
                axes.axvline(epochs[best], color=_HELD_OUT, linestyle=":", label=label)
            axes.legend(framealpha=0.9, edgecolor="none")
    return _write(figure, path)


def _leave_out_the_start(axes: Axes, lines: Sequence[Sequence[float]]) -> None:
    """Sets the limits by all but the first twentieth, whose fall would flatten all that follows."""
    values = np.concatenate([np.asarray(line)[len(line) // 20 :] for line in lines])
    low, high = values.min(), values.max()
    margin = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)


def _are_images(event_shape: Sequence[int]) -> bool:
    return len(event_shape) == 3 and event_shape[0] in (1, 3) and min(event_shape[1:]) > 1


def _limits(vae: VAE, reference: Tensor) -> tuple[float, float]:
    """What is black and what is white."""
    if vae.likelihood.support is constraints.boolean:
        return 0.0, 1.0
    return reference.min().item(), reference.max().item()


def _tiles(images: Tensor, columns: int, limits: tuple[float, float]) -> np.ndarray:
    """Images ``(N, C, H, W)`` as one, of shape ``(height, width, 3)`` with values in [0, 1]."""
    low, high = limits
    images = ((images.cpu() - low) / max(high - low, 1e-12)).clamp(0, 1)
    n, _, height, width = images.shape
    gap = max(1, height // 14)
    rows = math.ceil(n / columns)
    canvas = torch.ones(3, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).numpy()


def _show(axes: Axes, tiles: np.ndarray) -> None:
    axes.imshow(tiles, interpolation="nearest")
    axes.set_axis_off()


def _grid(count: int, figsize: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, each of a size in inches, at most four in a row."""
    columns = 3 if count in (5, 6, 9) else min(4, count)
    rows = math.ceil(count / columns)
    size = (max(5.5, figsize[0] * columns), figsize[1] * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in panels[count:]:
        unused.set_axis_off()
    return figure, panels[:count]


def _legend_above(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)


def _marginals(drawn: Tensor, reference: Tensor | None, path: str | Path) -> Path:
    values = {"model": (drawn.cpu().flatten(1).numpy(), _HELD_OUT)}
    if reference is not None:
        values = {"data": (reference.cpu().flatten(1).numpy(), _TRAIN)} | values
    dim = drawn.shape[1:].numel()
    figure, panels = _grid(min(dim, _PANELS), (2.6, 2.0))
    for i, axes in enumerate(panels):
        both = np.concatenate([x[:, i] for x, _ in values.values()])
        low, high = both.min(), both.max()
        count = min(30, math.ceil(3 * min(len(x) for x, _ in values.values()) ** (1 / 3)))
        if np.all(both == np.round(both)):  # each bin takes in as many integers as any other
            bins = np.arange(low - 0.5, high + 1.5 + count, math.ceil((high - low + 1) / count))
        else:
            bins = np.linspace(low, high if high > low else low + 1, count + 1)
        for label, (x, colour) in values.items():
            heights, edges = np.histogram(x[:, i], bins, density=True)
            axes.stairs(heights, edges, fill=label == "data", color=colour, label=label, lw=1.5)
        axes.set_title(f"x[{i}]", fontsize=10)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
    _legend_above(figure, panels[0])
    some = f"the first {_PANELS} of {dim} entries" if dim > _PANELS else "each entry"
    figure.suptitle(f"Marginal density of {some}: {len(drawn):,} draws of x", fontsize=11)
    return _write(figure, path)


def _lines(x: Tensor, rebuilt: Tensor, path: str | Path, title: str) -> Path:
    figure, panels = _grid(len(x), (3.2, 2.2))
    for i, axes in enumerate(panels):
        axes.plot(x[i].flatten().cpu(), ".", color=_TRAIN, ms=7, label="data")
        axes.plot(rebuilt[i].flatten().cpu(), color=_HELD_OUT, lw=1.3, label="rebuilt")
        axes.set_xlabel("entry of x")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    _legend_above(figure, panels[0])
    figure.suptitle(title, fontsize=11)
    return _write(figure, path)


def _scatter(means: Tensor, labels: Tensor | None, path: str | Path, title: str) -> Path:
    figure = Figure(figsize=(7, 5.6), layout="constrained")
    axes = figure.subplots()
    names = [f"E[z{i} | x]" for i in range(means.shape[1])]
    points = means
    if means.shape[1] > 2:
        centred = means - means.mean(0)
        _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
        points = centred @ directions[:2].T
        shares = spread[:2].square() / spread.square().sum().clamp_min(1e-12)
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
    for label, chosen, colour in _classes(labels, len(means)):
        across, up = points[chosen].T
        axes.scatter(across, up, s=size, alpha=0.75, lw=0, color=colour, label=label)
    if labels is not None and len(labels.unique()) <= _LEGEND:
        axes.legend(
            title="label",
            frameon=False,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            markerscale=7 / math.sqrt(size),
        )
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"Latent means E[z | x] of {title}", fontsize=11)
    return _write(figure, path)


def _classes(labels: Tensor | None, size: int) -> list[tuple[str, Tensor, object]]:
    """For each label its name, the data that have it, and a colour."""
    if labels is None:
        return [("", torch.ones(size, dtype=torch.bool), _HELD_OUT)]
    found = labels.unique().tolist()
    palette = colormaps["tab10" if len(found) <= 10 else "tab20"]
    if len(found) > _LEGEND:
        palette = colormaps["turbo"].resampled(len(found))
    return [(str(label), labels == label, palette(i)) for i, label in enumerate(found)]


def _usage(q: Tensor, labels: Tensor | None, path: str | Path, title: str) -> Path:
    """Heat map of the mean of q(z|x), of shape ``(N, groups, classes)``."""
    rows, what, groups = q.mean(0), "group", q.shape[1]
    ticks = list(range(groups))
    if groups == 1 and labels is not None:
        ticks, what = labels.unique().tolist(), "label"
        rows = torch.stack([q[labels == label, 0].mean(0) for label in ticks])
    height = min(8.0, 0.28 * len(rows) + 1.6)
    figure = Figure(figsize=(max(5.5, 0.32 * q.shape[2] + 2.5), height), layout="constrained")
    axes = figure.subplots()
    vmax = max(rows.max().item(), 2 / q.shape[2])  # even use is half way up the scale
    image = axes.imshow(rows.numpy(), cmap="Blues", vmin=0, vmax=vmax, aspect="auto")
    figure.colorbar(image, ax=axes, label="mean of q(z | x)")
    axes.set(xlabel="class", ylabel=what)
    if len(rows) <= 30:
        axes.set_yticks(range(len(rows)), [str(tick) for tick in ticks])
    if q.shape[2] <= 30:
        axes.set_xticks(range(q.shape[2]))
    axes.set_title(f"Use of the latent classes by {title}", fontsize=11)
    return _write(figure, path)


def _write(figure: Figure, path: str | Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_bytes(Path(path), content.getvalue())
    return Path(path)
