"""Folders of images, a folder a class: ``.png``, ``.jpg`` and others that Pillow reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyro_vae._errors import expected
from pyro_vae.data.containers import Asked, Contents, raw_of
from pyro_vae.data.dataset import Split
from pyro_vae.data.pixels import as_pixels, stacked
from pyro_vae.data.raw import Raw

__all__ = ["read_images"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
_DIMS = ("channel", "row", "column")


def read_images(folder: Path, asked: Asked) -> Raw:
    """Returns the images of a folder as levels, shape ``(N, C, H, W)``, in the order of names.

    Folders in it are classes, in the order of their names; or, if one of them is ``train``, splits.

    Raises:
        ValueError: If there are none, some are in no class, or they are of several sizes.
    """
    for name in ("key", "layers"):
        if getattr(asked, name) is not None:
            raise expected(name, "None with a folder of images", getattr(asked, name))
    inside = _folders(folder)
    names = {each.name.lower(): each for each in inside}
    if "train" in names or "training" in names:
        if unknown := sorted(names.keys() - _SPLITS.keys()):
            raise expected("data", "folders train, validation and test", unknown)
        places = {_SPLITS[name]: each for name, each in names.items()}
        classes = sorted({each.name for place in places.values() for each in _folders(place)})
        parts = {split: _part(place, classes, asked) for split, place in places.items()}
    else:
        parts = {"train": _part(folder, [each.name for each in inside], asked)}
    return raw_of(parts, asked)


def _part(folder: Path, classes: Sequence[str], asked: Asked) -> Contents:
    loose = _images(folder)
    files = loose or [file for name in classes for file in _images(folder / name)]
    if not files:
        what = f"images ({', '.join(_SUFFIXES[:3])}, ...) in the folder, or in folders of classes"
        raise expected("data", what, str(folder))
    if loose and any(_images(folder / name) for name in classes):
        raise expected("data", "all images in folders of classes, or none", str(loose[0]))
    of_class = {name: i for i, name in enumerate(classes)}
    pixels = [_pixels(file, asked) for file in files]
    x = stacked(pixels, "data", [str(file.relative_to(folder)) for file in files])
    return Contents(
        x,
        labels=None if loose else np.array([of_class[file.parent.name] for file in files]),
        classes=() if loose else tuple(classes),
        dims=_DIMS,
        index=np.array([file.relative_to(folder).as_posix() for file in files]),
        image=True,
    )


def _pixels(file: Path, asked: Asked) -> np.ndarray:
    from PIL import Image  # slow, and few need it

    try:
        with Image.open(file) as picture:
            picture.load()
            return as_pixels(picture, asked.resize)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = f"{file}: {error}".splitlines()[0]
        raise expected("data", "an image that is whole", reason) from None
    except ValueError as error:
        raise ValueError(f"{error}, of {file}") from None


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (each for each in folder.iterdir() if each.suffix.lower() in _SUFFIXES)
    return sorted(each for each in files if each.is_file() and not each.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    inside = (each for each in folder.iterdir() if each.is_dir())
    return sorted(each for each in inside if not each.name.startswith("."))
