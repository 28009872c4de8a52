"""Images: of folders, of arrays in either layout, as bytes or as shares; of any size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data import load

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (40, 1, 8, 6), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (20, 8, 6, 3), dtype=np.uint8)


def _save(pixels: np.ndarray, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images in colour, in two classes."""
    for i, pixels in enumerate(COLOUR):
        _save(pixels, tmp_path / "pets" / ("cat", "dog")[i % 2] / f"{i:02}.png")
    return tmp_path / "pets"


# --- Folders --------------------------------------------------------------------------------------


def test_a_folder_of_images_is_levels_with_its_folders_as_labels(folder: Path) -> None:
    data = load(folder, validation=0, test=0)
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    assert torch.equal(data.train, torch.from_numpy(COLOUR[order]).movedim(-1, 1).float())
    assert data.labels["train"].tolist() == [0] * 10 + [1] * 10
    assert data.support is constraints.nonnegative_integer
    assert tuple(data.dims) == ("channel", "row", "column")
    assert data.index["train"][0] == "cat/00.png"
    words = load(folder, cond="label").columns[0].words
    assert tuple(words) == ("cat", "dog")
    assert pv.likelihoods.suggest(data).likelihood == {"class": "DiscretizedLogistic",
                                                       "levels": 256}  # fmt: skip
    shares = load(folder, rescale=True, validation=0, test=0)
    assert torch.equal(shares.train, data.train / 255)
    assert shares.transform == "x / 255"


def test_folders_may_be_splits(tmp_path: Path) -> None:
    for i, pixels in enumerate(COLOUR):
        split = ("train", "train", "val", "test")[i % 4]
        _save(pixels, tmp_path / split / ("a", "b")[i % 8 > 3] / f"{i}.png")
    data = load(tmp_path)
    assert [len(data.train), len(data.validation), len(data.test)] == [10, 5, 5]
    assert data.labels["test"].tolist() == [0, 0, 0, 1, 1]


def test_a_folder_without_classes_has_no_labels(tmp_path: Path) -> None:
    for i in range(12):
        _save(BYTES[i, 0], tmp_path / f"{i:02}.png")
    data = load(tmp_path, validation=0, test=0)
    assert torch.equal(data.train, torch.from_numpy(BYTES[:12]).float())
    assert data.labels["train"] is None


def test_what_a_picture_holds_is_kept(tmp_path: Path) -> None:
    """Grey among colour, 16 bits, palettes, opaque alpha, turned by the camera."""
    grey, colour = BYTES[0, 0], COLOUR[0]
    _save(grey, tmp_path / "mixed" / "0.png")
    _save(colour, tmp_path / "mixed" / "1.png")
    mixed = load(tmp_path / "mixed", validation=0, test=0).train
    assert torch.equal(mixed[0], torch.from_numpy(grey).float().expand(3, 8, 6))
    deep = RANDOM.integers(0, 65536, (8, 6), dtype=np.uint16)
    _save(deep, tmp_path / "deep" / "0.png")
    data = load(tmp_path / "deep", validation=0, test=0, rescale=True)
    torch.testing.assert_close(data.train[0, 0], torch.from_numpy(deep / 65535).float())
    opaque = np.concatenate([colour, np.full((8, 6, 1), 255, np.uint8)], -1)
    _save(opaque, tmp_path / "alpha" / "0.png")
    plain = torch.from_numpy(colour).movedim(-1, 0).float()
    assert torch.equal(load(tmp_path / "alpha", validation=0, test=0).train[0], plain)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    _save(colour, tmp_path / "turned" / "0.png", exif=exif)
    turned = load(tmp_path / "turned", validation=0, test=0).train[0]
    assert torch.equal(turned, plain.rot90(-1, (1, 2)))


def test_images_of_several_sizes_are_refused_or_resized(folder: Path) -> None:
    _save(np.zeros((9, 6, 3), np.uint8), folder / "cat" / "large.png")
    with pytest.raises(ValueError, match=r"one shape .*got \(3, 9, 6\) of cat/large.png; `resize`"):
        load(folder)
    assert load(folder, resize=4).event_shape == (3, 4, 4)
    halved = load(folder, resize=(4, 3), validation=0, test=0).train[0]
    blocks = COLOUR[0].reshape(4, 2, 3, 2, 3).mean((1, 3))
    # Pillow rounds twice, after rows and after columns.
    assert np.abs(halved.movedim(0, -1).numpy() - blocks).max() <= 1.0


@pytest.mark.parametrize(
    ("spoil", "options", "says"),
    [
        (lambda f: (f / "cat" / "x.png").write_bytes(b"no image"), {}, "an image that is whole"),
        (lambda f: _save(COLOUR[0], f / "x.png"), {}, "all images in folders of classes, or none"),
        (
            lambda f: _save(np.zeros((8, 6, 4), np.uint8), f / "cat" / "x.png"),
            {},
            "pictures without transparency, got 'mode RGBA', of .*x.png",
        ),
        (lambda f: (f / "train").mkdir(), {}, r"folders train, validation and test, got \['cat'"),
        (lambda f: None, {"key": "x"}, "`key`: expected None with a folder"),
        (lambda f: None, {"layout": "channels-last"}, "`layout`: expected None with pictures"),
        (lambda f: None, {"resize": 0}, "`resize`: expected a positive integer"),
        (lambda f: None, {"resize": (1, 2, 3)}, "`resize`: expected a size"),
    ],
)
def test_a_folder_that_cannot_be_read_is_one_line(
    spoil: Callable[[Path], Any], options: dict[str, Any], says: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=says) as error:
        load(folder, **options)
    assert "\n" not in str(error.value)


def test_a_folder_without_images_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`data`: expected images \(.png, .jpg"):
        load(tmp_path)


def test_the_command_line_reads_a_folder_and_finds_it_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when a run forgets how its images were read."""
    out = str(tmp_path / "run")
    options = ["--rescale", "--resize", "4", "--epochs", "1", "--latent-dim", "2", "--out", out]
    networks = ["--encoder.hidden", "[4]", "--decoder.hidden", "[4]", "--num-samples", "5"]
    assert main(["fit", str(folder), *options, *networks, "--likelihood", "Normal"]) == 0
    record = json.loads((tmp_path / "run" / "data.json").read_text())["options"]
    assert (record["rescale"], record["resize"]) == (True, 4)
    assert main(["evaluate", out, "--num-samples", "5", "--json"]) == 0
    capsys.readouterr()


# --- Torchvision ----------------------------------------------------------------------------------


def test_pictures_of_torchvision_are_bytes_with_channels_first() -> None:
    fake = torchvision.datasets.FakeData(12, (3, 8, 6))
    data = load(fake, validation=0, test=0)
    first = np.moveaxis(np.asarray(fake[0][0]), -1, 0)
    assert torch.equal(data.train[0], torch.from_numpy(first.copy()).float())
    assert data.labels["train"].tolist() == [fake[i][1] for i in range(12)]


# --- Layouts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout", "served"),
    [
        ((8, 6, 1), None, (1, 8, 6)),
        ((8, 6, 3), None, (3, 8, 6)),
        ((3, 8, 6), None, (3, 8, 6)),
        ((8, 6, 16), None, (8, 6, 16)),
        ((1, 8, 4), None, (1, 8, 4)),
        ((8, 6), None, (8, 6)),
        ((8, 6), "no-channels", (1, 8, 6)),
        ((3, 8, 3), "channels-last", (3, 3, 8)),
        ((3, 8, 3), "channels-first", (3, 8, 3)),
        ((8, 6, 1), "channels-first", (8, 6, 1)),
        ((8, 6, 16), "channels-last", (16, 8, 6)),
    ],
)
def test_channels_are_served_first(
    shape: tuple[int, ...], layout: Any, served: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Fails when rows are taken for channels; what was told by sizes alone is said."""
    x = RANDOM.normal(size=(20, *shape)).astype(np.float32)
    data = load(x, layout=layout, validation=0, test=0)
    assert data.event_shape == served
    moved = np.moveaxis(x, -1, 1) if served != shape and len(shape) == 3 else x.reshape(20, *served)
    assert torch.equal(data.train, torch.from_numpy(moved.copy()))
    assert (len(caplog.records) > 0) == (layout is None and served != shape)


@pytest.mark.parametrize(
    ("shape", "layout", "says"),
    [
        ((3, 8, 3), None, r"`layout`: expected channels-first or channels-last \(--layout\)"),
        ((4, 8, 1), None, "`layout`: expected channels-first or channels-last"),
        ((8,), "channels-last", r"channels-last with data of shape \(N, H, W, C\)"),
        ((8, 6, 1), "no-channels", r"no-channels with data of shape \(N, H, W\)"),
        ((8, 6, 1), "channels-lst", "did you mean 'channels-last'"),
    ],
)
def test_a_layout_that_is_not_known_is_asked_for(
    shape: tuple[int, ...], layout: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        load(RANDOM.normal(size=(20, *shape)), layout=layout)


def test_networks_say_when_channels_look_last(caplog: pytest.LogCaptureFixture) -> None:
    encoder = pv.networks.ConvEncoder(channels=(4,))
    encoder.build((8, 8, 1), (2,))
    assert "8 channels of 8 x 1: if the channels are last" in caplog.text
    caplog.clear()
    encoder.build((3, 8, 8), (2,))
    assert caplog.text == ""
    with pytest.raises(ValueError, match=r"`encoder`: .* x\[:, None\], or layout='no-channels'"):
        encoder.build((8, 8), (2,))


# --- Levels ---------------------------------------------------------------------------------------


def test_bytes_are_levels_unless_they_are_rescaled() -> None:
    data = load(BYTES)
    assert float(data.train.max()) > 1
    assert data.support is constraints.nonnegative_integer
    found = pv.likelihoods.suggest(data).likelihood
    assert found == {"class": "DiscretizedLogistic", "levels": 256}
    some = load(BYTES.clip(0, 200))  # in which the highest bytes do not happen to be
    assert pv.likelihoods.suggest(some).likelihood["levels"] == 256
    assert pv.likelihoods.suggest(load(BYTES // 16)).likelihood["levels"] == 16
    shares = load(BYTES, rescale=True)
    assert torch.equal(shares.test, data.test / 255)
    assert shares.support is constraints.unit_interval
    assert load(BYTES, rescale=True, binarize="threshold").support is constraints.boolean


@pytest.mark.parametrize(
    ("x", "options", "says"),
    [
        (BYTES / 255, {}, "`rescale`: expected integer levels, 0 to 255 .or 65535."),
        (BYTES > 100, {}, "`rescale`: expected integer levels.*'integers up to 1'"),
        (BYTES - 300.0, {}, "`rescale`: expected integer levels"),
        ("digits", {}, "`rescale`: expected False with a named set"),
    ],
)
def test_what_has_no_levels_is_not_rescaled(x: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load(x, rescale=True, **options)


# --- Sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [1, 2, 3, 5, 7, 8, 13, 17])
@pytest.mark.parametrize("width", [1, 4, 9, 11])
def test_convolutions_take_any_size(height: int, width: int) -> None:
    """Fails where a size that no power of two divides does not grow back."""
    encoder, decoder = pv.networks.ConvEncoder((4, 4, 4)), pv.networks.ConvDecoder((4, 4, 4))
    encoder.build((3, height, width), (2,))
    decoder.build((2,), (6, height, width))
    x = torch.rand(2, 3, height, width)
    assert decoder(encoder(x)).shape == (2, 6, height, width)
