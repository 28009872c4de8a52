"""Pictures of a fitted model: what it draws, reconstructs and encodes, and how it was fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from matplotlib.figure import Figure

from pyro_vae import plots
from pyro_vae.checkpoint import write_bytes
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import SPLITS, Split
from pyro_vae.data.rows import ConditionsLike, GivenLike, Numbers, Rows, RowsLike, given_of
from pyro_vae.data.schema import Schema
from pyro_vae.data.text import Vocabulary
from pyro_vae.plots._canvas import are_images, figure_of, write
from pyro_vae.plots.models import PANELS, SCATTERED, latent_means, visible
from pyro_vae.programs import VAE, Amortized

__all__ = [
    "PANELS",
    "SCATTERED",
    "choice",
    "curves",
    "held_out",
    "latent",
    "latent_means",
    "pairs",
    "pictures",
    "reconstructions",
    "samples",
    "visible",
]

_LINES = 16  # of a text


def pictures(
    vae: Amortized, data: Dataset, history: Mapping[str, Sequence[float]], folder: str | Path
) -> list[Path]:
    """Draws all pictures of a run: samples, reconstructions, latents and curves.

    Args:
        vae: The fitted model.
        data: What it was fitted to.
        history: That of the run.
        folder: Where to write ``samples.png``, ``reconstructions.png``, ``latent.png`` and
            ``curves.png``, and of a table ``pairs.png``; of lines of text the first two are
            ``samples.txt`` and ``reconstructions.txt``; must exist.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    split = held_out(data)
    rows, labels, name = vae.uses(data.rows(split)), data.labels[split], f"{split} data"
    x, given = data.split(split), rows.given
    count = 64 if are_images(vae.event_shape) else 1000
    beside = rows[torch.arange(count) % len(x)].conditions
    columns = data.schema or (data.names or None)
    if data.vocabulary is not None:
        paths = _lines(vae, data.vocabulary, rows[:_LINES], folder)
    else:
        paths = [
            samples(
                vae, folder / "samples.png", num_samples=count, reference=x, columns=columns,
                **beside,
            ),
            reconstructions(
                vae, x, folder / "reconstructions.png", name=name, columns=columns, **given
            ),
        ]  # fmt: skip
    paths += [
        latent(
            vae, x, folder / "latent.png", color_by=labels, classes=data.classes, name=name, **given
        ),
        curves(history, folder / "curves.png"),
    ]
    if columns is not None and len(vae.event_shape) == 1 and vae.event_shape[0] > 1:
        path = folder / "pairs.png"
        paths.append(pairs(vae, x, path, columns=columns, **rows.conditions))
    return paths


def _lines(vae: Amortized, vocabulary: Vocabulary, rows: Rows, folder: Path) -> list[Path]:
    """Writes lines that are drawn; and of a VAE lines of data, each above the likeliest line."""
    beside = given_of(rows.conditions)
    found = {"samples": vocabulary.decode(vae.simulate(beside or len(rows)).x)}
    if isinstance(vae, VAE):
        rebuilt = vocabulary.decode(vae.reconstruct(rows.x, **rows.given))
        pairs = zip(vocabulary.decode(rows.x), rebuilt, strict=True)
        found["reconstructions"] = [f"{line}\n{like}\n" for line, like in pairs]
    paths = [folder / f"{name}.txt" for name in found]
    for path, lines in zip(paths, found.values(), strict=True):
        write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
    return paths


def held_out(data: Dataset) -> Split:
    """Returns the name of the split to judge by: test, or else validation, or else training data.

    Args:
        data: The data set, whose splits may be empty.
    """
    filled: list[Split] = [split for split in SPLITS if len(data.split(split)) > 0]
    return filled[-1]


def samples(
    vae: Amortized,
    path: str | Path,
    *,
    num_samples: int = 64,
    reference: Numbers | None = None,
    columns: Schema | Sequence[str] | None = None,
    **given: Unpack[ConditionsLike],
) -> Path:
    """Draws samples from the prior.

    Of images the means E[x|z] are shown, since independent noise in each pixel hides the shape;
    of vectors the marginals of x itself: histograms of numbers and dates, bars of words.

    Args:
        vae: The model.
        path: The PNG to write.
        num_samples: Number of draws.
        reference: Data ``(N, *event_shape)``, which set the grey scale of images and stand beside
            the marginals of vectors; NaN where they are missing.
        columns: What the columns of x are, or their names; as the reference has them if not given.
        **given: What goes with each draw (:class:`~pyro_vae.data.Conditions`).

    Returns:
        The path.
    """
    drawn = plots.samples(
        vae, num_samples=num_samples, reference=reference, columns=columns, **given
    )
    return write(figure_of(drawn), path)


def reconstructions(
    vae: Amortized,
    x: RowsLike,
    path: str | Path,
    *,
    name: str = "data",
    columns: Schema | Sequence[str] | None = None,
    **given: Unpack[GivenLike],
) -> Path:
    """Draws data above what the model makes of them, E[x|z] at z = E[z|x].

    Of a table each column has a line, on which the data and the reconstruction are dots.

    Args:
        vae: The model.
        x: Held-out data, shape ``(N, *event_shape)``.
        path: The PNG to write.
        name: What to call the data.
        columns: What the columns of x are, or their names; as the data have them if not given.
        **given: What goes with them (:class:`~pyro_vae.data.Given`).

    Returns:
        The path.
    """
    drawn = plots.reconstructions(vae, x, name=name, columns=columns, **given)
    return write(figure_of(drawn), path)


def latent(
    vae: Amortized,
    x: RowsLike,
    path: str | Path,
    *,
    color_by: Numbers | None = None,
    classes: Sequence[str] = (),
    name: str = "data",
    **given: Unpack[GivenLike],
) -> Path:
    """Draws where data lie in latent space.

    Real latents: the means E[z|x], in the plane of their first two principal components if they
    have more than two dimensions. One-hot latents: how often each class of each group is used,
    or which class is used for which label if there is one group.

    Args:
        vae: The model.
        x: Held-out data, shape ``(N, *event_shape)``.
        path: The PNG to write.
        color_by: Integers ``(N,)`` that colour the data; the model never saw them.
        classes: What the integers 0, 1, ... are called, if they have names.
        name: What to call the data.
        **given: What goes with them (:class:`~pyro_vae.data.Given`).

    Returns:
        The path.
    """
    drawn = plots.latent(vae, x, color_by=color_by, classes=classes, name=name, **given)
    return write(figure_of(drawn), path)


def curves(history: Mapping[str, Sequence[float]], path: str | Path) -> Path:
    """Draws the ELBO and its two halves over the epochs, on training and validation data.

    Args:
        history: That of a run: ``epoch``, ``elbo``, ``reconstruction``, ``kl``, and the last three
            with ``validation_`` before them if there were validation data.
        path: The PNG to write.

    Returns:
        The path.
    """
    return write(figure_of(plots.history(history)), path)


def pairs(
    vae: Amortized,
    reference: Numbers,
    path: str | Path,
    *,
    count: int = 6,
    columns: Schema | Sequence[str] | None = None,
    **given: Unpack[ConditionsLike],
) -> Path:
    """Draws the pairs of columns that are associated most in data, and the same of draws of x.

    Two columns of numbers are dots, data and model side by side; of numbers and words the median of
    each level, its quartiles and its 5th and 95th percentiles; of two columns of words the share of
    each level of one at each of the other.

    Args:
        vae: The model.
        reference: Data, shape ``(N, D)``; NaN where they are missing.
        path: The PNG to write.
        count: Pairs, at most.
        columns: What the columns are; as the data know them if not given.
        **given: What goes with each observation (:class:`~pyro_vae.data.Conditions`).

    Returns:
        The path.

    Raises:
        ValueError: If x has fewer than two columns.
    """
    drawn = plots.pairs(vae, reference, count=count, columns=columns, **given)
    if not drawn:
        figure = Figure(figsize=(5.5, 1.0))
        figure.suptitle("No two columns vary together", fontsize=11)
        return write(figure, path)
    return write(figure_of(drawn), path)


def choice(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Draws the difference of each setting to the best, with its errors, and each seed as a dot.

    Bars are one standard error of the paired difference: thick over data, thin over folds. The
    best has none, since differences are to it.

    Args:
        summary: That of a :class:`pyro_vae.selection.Selection`, or what was written of it.
        path: The PNG to write.

    Returns:
        The path.
    """
    return write(figure_of(plots.choice(summary)), path)
