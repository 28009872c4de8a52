"""``pyro-vae decompress``: the array that was compressed, by the same run."""

from __future__ import annotations

import io
import json

import numpy as np

from pyro_vae import checkpoint
from pyro_vae._errors import plural
from pyro_vae._terminal import say
from pyro_vae.cli.compress import ARRAY, FILE, existing, free
from pyro_vae.cli.folders import RUN, run_folder
from pyro_vae.cli.parsing import Parser, parse
from pyro_vae.cli.programs import load_vae
from pyro_vae.compression import decompress

__all__ = ["run"]


def run(argv: list[str]) -> None:
    """Writes the array of a compressed file.

    Raises:
        ValueError: If the run or the file are not what they should be.
    """
    parser = Parser(
        "decompress",
        "RUN FILE OUT",
        "Writes the very array that compress was given. A file that is damaged, or of another run, "
        "or was written with other versions or another kind of processor, is refused: nothing else "
        "is ever written.",
    )
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument("file", type=str, help="A .pvz file that compress wrote.")
    parser.add_argument("out", type=str, help="The .npy file to write.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parse(parser, argv)
    path, out = existing("FILE", options.file, FILE), free(options.out, ARRAY)
    vae = load_vae("decompress", run_folder(options.run))
    try:
        array = decompress(vae, path.read_bytes())
    except ValueError as error:
        raise ValueError(str(error).replace("`content`", f"`{path}`", 1)) from None
    content = io.BytesIO()
    np.save(content, array)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(out, content.getvalue())
    written = {"out": str(out), "shape": list(array.shape), "dtype": str(array.dtype)}
    say(json.dumps(written) if options.json else f"Wrote {plural(len(array), 'row')} to {out}")
