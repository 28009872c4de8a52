"""``pyro-vae inspect``: what the columns of a table are, and why; of lines of text, how long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from jsonargparse import Namespace

from pyro_vae._errors import expected, plural, typed_path
from pyro_vae._terminal import say
from pyro_vae.checkpoint import write_bytes
from pyro_vae.cli.options import add_tables
from pyro_vae.cli.parsing import Parser, parse
from pyro_vae.cli.runs import READING, new_path
from pyro_vae.data.frames import Table, from_frame
from pyro_vae.data.readers import READERS, TEXTS, Reading, read_file
from pyro_vae.data.readers.text_files import lines_of
from pyro_vae.data.text import TextUnit, Vocabulary

__all__ = ["run"]

_SUFFIXES = (".yaml", ".yml", ".json")


def run(argv: list[str]) -> None:
    """Prints the schema of a table, and writes it.

    Raises:
        ValueError: If an option, the table or the file are not what they should be.
    """
    parser = Parser(
        "inspect",
        "TABLE",
        "Shows the kind of each column of a table, by its name and its values, and why. What is "
        "wrong goes into --kind, or into the file that --out writes: fit --schema takes it.",
    )
    files = ", ".join(suffix for suffix in READERS if not suffix.startswith(".np"))
    parser.add_argument("data", type=str, help=f"A file: {files}; or a .txt file of lines of text.")
    parser.add_argument(
        "--out", type=str | None, help="A .yaml or .json file to write the schema to."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    add_tables(parser)
    options = parse(parser, argv)
    how = Reading(**{name: options[name] for name in READING})
    if (path := typed_path(options.data)).suffix in TEXTS and path.is_file():
        _text(path, how, options)
        return
    table = read_file(path, how)
    if not isinstance(table, Table):
        raise expected("TABLE", f"a table, {files}", options.data)
    out = None if options.out is None else new_path(options.out, Path(options.out))
    if out is not None and out.suffix not in _SUFFIXES:
        raise expected("--out", f"a file that ends in {' or '.join(_SUFFIXES)}", options.out)
    named = {"drop": options.drop, "label": options.label, "kinds": options.kind}
    schema = from_frame(table, schema=options.schema, missing=True, always=True, **named).schema
    if schema is None:
        raise expected(
            "--schema", "a file, as without a schema there is none to show", options.schema
        )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, schema.text(json_too=out.suffix == ".json").encode())
    if options.json:
        say(json.dumps(schema.spec() | ({} if out is None else {"out": str(out)})))
        return
    say(schema)
    if out is not None:
        say(f"Wrote {out}: fit --schema {out} takes it, as it is or changed.")


def _text(path: Path, how: Reading, options: Namespace) -> None:
    """Prints how many lines of text there are, and what they are made of."""
    for name in ("out", "schema", "drop", "label", "kind"):
        if options[name] is not None and len(options[name]) > 0:
            raise expected(
                f"--{name}", "nothing with lines of text, which have no schema", options[name]
            )
    lines = lines_of(path, how)
    kept = [line for line in lines if line.strip()]
    found: dict[str, Any] = {"lines": len(kept), "without_a_character": len(lines) - len(kept)}
    for unit in get_args(TextUnit):
        split = [Vocabulary(unit, (), 1).split(line) for line in kept]
        lengths = sorted(map(len, split)) or [0]
        found[unit] = {
            "different": len({each for line in split for each in line}),
            "median_length": lengths[len(lengths) // 2],
            "longest": lengths[-1],
        }
    if options.json:
        say(json.dumps(found))
        return
    say(f"{path.name}: {plural(len(kept), 'line')} of text, each an observation")
    if (empty := found["without_a_character"]) > 0:
        say(f"  {plural(empty, 'line')} more without a character, to be left out")
    for unit in get_args(TextUnit):
        say("  {different:,} different {unit}; a line has {median_length:,} in the median, "
            "{longest:,} at most".format(unit=unit, **found[unit]))  # fmt: skip
    say("fit --text says which of both are levels, --max-length how many a line has at most.")
