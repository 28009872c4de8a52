"""Lossless compression of held-out images by a VAE, beside general compressors and image formats.

    python experiments/applications/compression.py --data-root DATA         # 20 minutes, one core
    python experiments/applications/compression.py mnist --data-root DATA   # one set alone
    python experiments/applications/compression.py round-trips              # a minute
    python experiments/applications/compression.py --table          # results/compression.md, .png
    python experiments/applications/compression.py --smoke          # under a minute, no figure

A VAE for each of three seeds, fitted to the training images and chosen on validation images. The
test images are one chain of rows: compressed, decompressed and compared. Bits a dimension are
without the bits that a chain begins with and without the weights, which are given apart; the bound
is minus the ELBO of the same rows. Each rival has the best of what it makes of the rows: bytes, or
packed bits of binary data; of image formats one picture of all rows, or one for each. Seconds are
of the processor. DATA holds `binarized_mnist.npz` and torchvision's MNIST and Fashion-MNIST.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import numpy as np
import torch
from matplotlib.figure import Figure

import pyro_vae as pv

SEEDS = (0, 1, 2)
BATCH = 100
DRAWS = 10  # of z for each row, for the bound
ROUND_TRIPS = 1000
SETS: dict[str, dict[str, Any]] = {
    "binarized_mnist": {
        "title": "MNIST, binary",
        "likelihood": lambda shape: pv.likelihoods.Bernoulli(shape),
        "latent": 40,
        "epochs": 10,
        "published": 0.19,  # Townsend, Bird and Barber (2019), table 2
    },
    "mnist": {
        "title": "MNIST, grey",
        "likelihood": lambda shape: pv.likelihoods.DiscretizedLogistic(shape, components=2),
        "latent": 40,
        "epochs": 4,
        "published": 1.41,
    },
    "fashion_mnist": {
        "title": "Fashion-MNIST",
        "likelihood": lambda shape: pv.likelihoods.DiscretizedLogistic(shape),
        "latent": 40,
        "epochs": 4,
        "published": None,
    },
    "digits": {
        "title": "digits, 8 × 8",
        "likelihood": lambda shape: pv.likelihoods.BetaBinomial(shape, levels=17),
        "latent": 12,
        "epochs": 100,
        "published": None,
    },
}
RIVALS = ("gzip", "bz2", "xz", "zstd", "PNG", "WebP")


def run(name: str, root: str | None, smoke: bool) -> None:
    """Fits a model for each seed, and compresses the test images by each, and by the rivals."""
    recipe = SETS[name] | ({"epochs": 2} if smoke else {})
    levels = name != "binarized_mnist"
    data = pv.data.load(name, root=root, download=False, levels=levels)
    x = data.test.numpy().astype(np.uint8)
    x = x[np.random.default_rng(0).permutation(len(x))]  # some sets are sorted by class
    runs = []
    for seed in SEEDS[: 1 if smoke else None]:
        vae = pv.VAE(
            prior=pv.priors.Normal(recipe["latent"]),
            guide=pv.guides.Normal(recipe["latent"]),
            likelihood=recipe["likelihood"](data.event_shape),
            encoder=pv.networks.MLP((200, 200), "silu"),
            decoder=pv.networks.MLP((200, 200), "silu"),
            seed=seed,
        )
        start = time.process_time()
        pv.fit(
            vae,
            data,
            epochs=recipe["epochs"],
            batch_size=BATCH,
            lr=2e-3,
            schedule="cosine",
            seed=seed,
            device="cpu",
            on_epoch=common.report,
        )
        found = measured(vae, x) | {"seed": seed, "fit_seconds": time.process_time() - start}
        print(f"{name}, seed {seed}: {found}", flush=True)
        runs.append(found)
    rivals = {each: bits / x.size for each, bits in others(x).items()}
    print(f"{name}: {rivals}", flush=True)
    kept = {key: value for key, value in recipe.items() if key != "likelihood"}
    kept["family"] = type(recipe["likelihood"](data.event_shape)).__name__
    packages = {each: version(each) for each in ("constriction", "scipy", "zstandard", "pillow")}
    result = {"set": name, "recipe": kept, "rows": len(x), "dims": x[0].size, "packages": packages}
    if not smoke:
        print(common.write(f"compression-{name}", result | {"runs": runs, "rivals": rivals}))


def measured(vae: pv.VAE, x: np.ndarray) -> dict[str, float]:
    """Compresses rows and decompresses them, beside the bound of the same rows."""
    start = time.process_time()
    content = pv.compression.compress(vae, x)
    middle = time.process_time()
    assert np.array_equal(pv.compression.decompress(vae, content), x), "other data"
    end = time.process_time()
    header = pv.compression.header_of(content)
    rows = vae.accepts(pv.data.Rows(torch.from_numpy(x.astype(np.float32))))
    torch.manual_seed(0)
    bound = -math.fsum(
        float(vae.draw_weighted(each, DRAWS).log_weights.double().mean(0).sum())
        for each in rows.batches(500)
    )
    weights = sum(each.numel() * each.element_size() for each in vae.parameters())
    return {
        "bits_per_dim": header.bits_per_dim,
        "bound": bound / math.log(2) / x.size,
        "of_bound": header.bits * math.log(2) / bound,
        "file_bytes": header.size,
        "initial_bits": 32 * header.initial,
        "weights_bytes": weights,
        "compress_mb_per_second": x.nbytes / 1e6 / (middle - start),
        "decompress_mb_per_second": x.nbytes / 1e6 / (end - middle),
    }


def others(x: np.ndarray) -> dict[str, int]:
    """Returns the bits that others make of rows, each by its best way."""
    import zstandard

    binary = x.max() <= 1
    streams = [x.tobytes()] + ([np.packbits(x.reshape(len(x), -1)).tobytes()] if binary else [])
    ways: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda each: gzip.compress(each, 9),
        "bz2": lambda each: bz2.compress(each, 9),
        "xz": lambda each: lzma.compress(each, preset=9 | lzma.PRESET_EXTREME),
        "zstd": zstandard.ZstdCompressor(level=22).compress,
    }
    found = {name: 8 * min(len(way(each)) for each in streams) for name, way in ways.items()}
    images = x.reshape(len(x), *x.shape[-2:])
    together = mosaic(images)
    for name in ("PNG", "WebP"):
        one_by_one = sum(picture(each, name, binary) for each in images)
        found[name] = 8 * min(one_by_one, picture(together, name, binary))
    return found


def mosaic(images: np.ndarray) -> np.ndarray:
    """Returns one picture of all images, in rows of about as many as there are rows."""
    across = math.isqrt(len(images) - 1) + 1
    down = -(-len(images) // across)
    height, width = images.shape[1:]
    every = np.zeros((down * across, height, width), images.dtype)
    every[: len(images)] = images
    return (
        every.reshape(down, across, height, width).swapaxes(1, 2).reshape(down * height, -1).copy()
    )


def picture(image: np.ndarray, kind: str, binary: bool) -> int:
    """Returns the bytes of a picture without loss."""
    from PIL import Image

    drawn = Image.fromarray(image * 255 if binary else image)
    content = io.BytesIO()
    if kind == "PNG":
        (drawn.convert("1") if binary else drawn).save(content, "PNG", optimize=True)
    else:
        drawn.convert("RGB").save(content, "WEBP", lossless=True, quality=100, method=6)
    return content.tell()


def round_trips(count: int) -> None:
    """Compresses and decompresses random data by random models, of those of the tests."""
    sys.path.insert(0, str(common.HERE.parent / "tests"))
    from compressed import cases
    from hypothesis import HealthCheck, given, settings

    sizes: list[int] = []

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def each(case: tuple[pv.VAE, np.ndarray]) -> None:
        vae, x = case
        found = pv.compression.decompress(vae, pv.compression.compress(vae, x))
        assert found.dtype == x.dtype
        assert found.shape == x.shape
        assert found.tobytes() == x.tobytes()
        sizes.append(x.size)

    start = time.process_time()
    each()
    result = {"round_trips": len(sizes), "numbers": sum(sizes), "all_equal": True}
    print(result, f"{time.process_time() - start:.0f} s of the processor", flush=True)
    if count == ROUND_TRIPS:
        print(common.write("compression-round_trips", result))


def draw(results: list[dict[str, Any]]) -> None:
    """Draws bits a dimension of each set, beside those of others."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, result in zip(panels, results, strict=True):
        ours = [each["bits_per_dim"] for each in result["runs"]]
        rivals = result["rivals"]
        axes.bar(range(len(rivals)), rivals.values(), color="#9aa0a6")
        axes.bar(len(rivals), statistics.mean(ours), yerr=_error(ours), color="#1a5fb4", capsize=3)
        bound = statistics.mean(each["bound"] for each in result["runs"])
        ends = [len(rivals) - 0.4, len(rivals) + 0.4]
        axes.plot(ends, [bound] * 2, color="#c64600", lw=1.6, label="−ELBO of the VAE")
        heights = [*rivals.values(), statistics.mean(ours)]
        for at, height in enumerate(heights):
            axes.annotate(
                f"{height:.2f}", (at, height), ha="center", xytext=(0, 3),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        axes.set_xticks(range(len(heights)), [*rivals, "VAE"], rotation=45, ha="right", fontsize=9)
        axes.set_title(f"{result['recipe']['title']}, {result['rows']:,} images", fontsize=10)
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("bits a dimension")
    panels[0].legend(loc="upper left", fontsize=8, frameon=False)
    figure.savefig(common.RESULTS / "compression.png", dpi=150)


def _error(values: list[float]) -> float:
    """The standard error of a mean over seeds."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def table(results: list[dict[str, Any]]) -> str:
    """Returns the table of all results as Markdown."""
    lines = [
        f"| bits a dimension | VAE | −ELBO | {' | '.join(RIVALS)} | published BB-ANS |",
        f"|---|{'---:|' * (len(RIVALS) + 3)}",
    ]
    for result in results:
        ours = [each["bits_per_dim"] for each in result["runs"]]
        bound = statistics.mean(each["bound"] for each in result["runs"])
        cells = [f"{statistics.mean(ours):.4f} ± {_error(ours):.4f}", f"{bound:.4f}"]
        cells += [f"{result['rivals'][each]:.3f}" for each in RIVALS]
        published = result["recipe"]["published"]
        cells.append("" if published is None else f"{published:.2f}")
        lines.append(f"| {result['recipe']['title']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| | likelihood | test images | bits ÷ bound | file, kB | of it to begin with, kB | "
        "weights, kB | compress, MB/s | decompress, MB/s |",
        f"|---|---|{'---:|' * 7}",
    ]
    for result in results:
        means = {
            key: statistics.mean(each[key] for each in result["runs"]) for key in result["runs"][0]
        }
        lines.append(
            f"| {result['recipe']['title']} | {result['recipe']['family']} | {result['rows']:,} | "
            f"{means['of_bound']:.4f} | {means['file_bytes'] / 1e3:,.1f} | "
            f"{means['initial_bits'] / 8e3:.2f} | {means['weights_bytes'] / 1e3:,.0f} | "
            f"{means['compress_mb_per_second']:.2f} | {means['decompress_mb_per_second']:.2f} |"
        )
    for tried in common.read("compression-round_trips.json"):
        lines += [
            "",
            f"Random models, shapes, types and data: {tried['round_trips']:,} round trips, "
            f"{tried['numbers']:,} numbers, all equal.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(
        __doc__, table="results/compression.md", data_root="binarized_mnist, MNIST, FashionMNIST"
    )
    parser.add_argument("what", nargs="?", choices=[*SETS, "round-trips"])
    args = parser.options()
    if args.table:
        every = [r for name in SETS for r in common.read(f"compression-{name}.json")]
        (common.RESULTS / "compression.md").write_text(table(every))
        draw(every)
    elif args.smoke:
        run("digits", None, smoke=True)
        round_trips(20)
    else:
        for chosen in [args.what] if args.what else [*SETS, "round-trips"]:
            if chosen == "round-trips":
                round_trips(ROUND_TRIPS)
            else:
                run(chosen, args.data_root, smoke=False)
