"""``pyro-vae inspect``: what the columns of a table are, and why."""

from __future__ import annotations

import json
from pathlib import Path

from pyro_vae._errors import expected, typed_path
from pyro_vae._terminal import say
from pyro_vae.checkpoint import write_bytes
from pyro_vae.cli.options import add_tables
from pyro_vae.cli.parsing import Parser, parse
from pyro_vae.cli.runs import READING, new_path
from pyro_vae.data.frames import Table, from_frame
from pyro_vae.data.readers import READERS, Reading, read_file

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
    parser.add_argument("data", type=str, help=f"A file: {files}.")
    parser.add_argument(
        "--out", type=str | None, help="A .yaml or .json file to write the schema to."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    add_tables(parser)
    options = parse(parser, argv)
    how = Reading(**{name: options[name] for name in READING})
    table = read_file(typed_path(options.data), how)
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
