"""``pyro-vae compress``: an array of whole numbers as few bits, by a run."""

from __future__ import annotations

import json
import tokenize
from pathlib import Path

import numpy as np

from pyro_vae import checkpoint
from pyro_vae._errors import expected, plural, typed_path
from pyro_vae._terminal import say
from pyro_vae.cli.folders import RUN, run_folder
from pyro_vae.cli.parsing import Parser, parse
from pyro_vae.cli.programs import load_vae
from pyro_vae.compression import compress, header_of

__all__ = ["ARRAY", "FILE", "existing", "free", "run"]

ARRAY, FILE = ".npy", ".pvz"
"""What a file of an array ends in, and a file of compressed data."""


def run(argv: list[str]) -> None:
    """Compresses an array.

    Raises:
        ValueError: If the run, the array or the file are not what they should be.
    """
    parser = Parser(
        "compress",
        "RUN DATA OUT",
        "Compresses an array without loss: to about as many bits as minus the ELBO of its rows. "
        "decompress gives the very same array back, by the same run, versions and kind of "
        "processor. Needs constriction, by pip install 'pyro-vae[compression]'.",
    )
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument(
        "data",
        type=str,
        help="A .npy file of whole numbers as the run was fitted to: 0 and 1, levels, or counts.",
    )
    parser.add_argument("out", type=str, help="The .pvz file to write.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parse(parser, argv)
    path, out = existing("DATA", options.data, ARRAY), free(options.out, FILE)
    folder = run_folder(options.run)
    vae = load_vae("compress", folder)
    try:
        content = compress(vae, _read(path))
    except ValueError as error:
        raise ValueError(str(error).replace("`x`", f"`{path}`", 1)) from None
    header = header_of(content)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(out, content)
    weights = (folder / "model.safetensors").stat().st_size
    if options.json:
        found = {"out": str(out), "rows": header.shape[0], "bytes": len(content)}
        found |= {"bits_per_dim": header.bits_per_dim, "initial_bits": 32 * header.initial}
        say(json.dumps(found | {"weights_bytes": weights}))
        return
    say(
        f"Wrote {plural(header.shape[0], 'row')} to {out}: {len(content):,} bytes, "
        f"{header.bits_per_dim:.4g} bits a number and {4 * header.initial:,} bytes to begin with; "
        f"who reads it needs the run, whose weights are {weights:,} bytes"
    )


def _read(path: Path) -> np.ndarray:
    """Reads an array; one that is not all there is refused before there is memory for it.

    Raises:
        ValueError: If the file has none.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, KeyError, tokenize.TokenError) as error:
        raise expected("DATA", "a .npy file, as np.save writes it", f"{path}: {error}") from None
    if not isinstance(found, np.ndarray):
        found.close()
        what = "a .npy file, as np.save writes it"
        raise expected("DATA", what, f"{path}: several arrays, as np.savez writes them")
    return found


def existing(argument: str, text: str, suffix: str) -> Path:
    """Returns the path of a file that was typed.

    Raises:
        ValueError: If it ends in something else, or there is no such file.
    """
    path = _with_suffix(argument, text, suffix)
    if not path.is_file():
        raise expected(argument, "an existing file", text)
    return path


def free(text: str, suffix: str) -> Path:
    """Returns the path of a file that is to be written.

    Raises:
        ValueError: If it ends in something else, or is there.
    """
    path = _with_suffix("OUT", text, suffix)
    if path.exists():
        raise expected("OUT", "a path that does not exist yet", text)
    return path


def _with_suffix(argument: str, text: str, suffix: str) -> Path:
    path = typed_path(text)
    if path.suffix != suffix:
        way = "; `pv.compression.compress` takes any array" if suffix == ARRAY else ""
        raise expected(argument, f"a file that ends in {suffix}{way}", text)
    return path
