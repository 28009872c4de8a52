"""``pyro-vae push``: a run on the Hugging Face Hub, with a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pyro_vae._errors import check_seed
from pyro_vae._progress import live
from pyro_vae._terminal import say
from pyro_vae.cli.new_data import add_data, data_of, say_copies
from pyro_vae.cli.parsing import Parser, default_of, parse
from pyro_vae.cli.programs import add_program, at_a_draw, load_run
from pyro_vae.criticism import calibrate, check
from pyro_vae.hub import address_to, push, staged
from pyro_vae.report import held_out

__all__ = ["run"]


def run(argv: list[str]) -> None:
    """Shares a run, or shows what would be shared.

    Raises:
        ValueError: If an option or the run is not what it should be, or the Hub refuses it.
        ConnectionError: If the Hub cannot be reached.
    """
    parser = _parser()
    options = parse(parser, argv)
    check_seed("--seed", options.seed)
    address = address_to(options.repo, options.revision)
    folder = Path(options.run)
    chosen: dict[str, Any] = {name: options[name] for name in ("model_only", "pictures", "page")}
    chosen["license"] = options.license
    if options.check:
        chosen |= _checked(folder, options)
    if options.dry_run:
        with staged(folder, address, **chosen) as found:
            _show(found, as_json=options.json)
        return
    private = True if options.private else None
    url = push(folder, options.repo, private=private, revision=options.revision, **chosen)
    if options.json:
        say(json.dumps({"url": url, "address": str(address)}))
    else:
        say(f"Shared at {url}\npv.load({str(address)!r}) loads it")


def _parser() -> Parser:
    parser = Parser(
        "push",
        "RUN REPO",
        "Shares a run on the Hugging Face Hub, with a model card: its model, scores, history and "
        "settings, and the record of its data by which commands read new data as the run did. "
        "Data and checkpoints are never sent. Needs huggingface_hub, by pip install "
        "'pyro-vae[hub]', and an account: hf auth login.",
    )
    parser.add_argument("run", type=str, help="A folder that pyro-vae fit wrote.")
    parser.add_argument("repo", type=str, help="Where to, as owner/name; made if it is not there.")
    parser.add_argument(
        "--private",
        action="store_true",
        help="Make a private repository; otherwise as the account has it, mostly public.",
    )
    parser.add_argument(
        "--revision",
        type=str | None,
        help="A branch, made if it is not there; the main one if not given.",
    )
    parser.add_argument(
        "--license", type=str | None, help="What the card states, such as apache-2.0; else none."
    )
    parser.add_argument(
        "--model_only",
        action="store_true",
        help="Send the model and its card alone; otherwise also names, kinds, units and levels of "
        "columns, location and scale of conditions, and fingerprints of the data.",
    )
    parser.add_argument(
        "--pictures",
        action="store_true",
        help="Send the pictures of the run, too, which show observations.",
    )
    parser.add_argument(
        "--page", action="store_true", help="Send report.html, too, which shows observations."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="Check model and guide on held-out data first, for the card, as pyro-vae check does.",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Send nothing: print which files would be sent, and the card.",
    )
    parser.add_argument(
        "--seed", type=int, default=default_of(check, "seed"), help="Of the draws of --check."
    )
    add_data(parser)
    add_program(parser)
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; the CPU if none.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    return parser


def _checked(folder: Path, options: Namespace) -> dict[str, Any]:
    """What the page of the run would find of its model and its guide."""
    vae = load_run(folder, options)
    data, own = data_of(folder, vae, "test", options)
    split = held_out(data)
    rows = vae.uses(data.rows(split))
    with live() as monitor:
        checks = check(vae, rows, seed=options.seed, progress=monitor.evaluating("check"))
        calibration = calibrate(
            at_a_draw(vae, options.seed),
            seed=options.seed,
            progress=monitor.evaluating("calibrate"),
            **rows.given,
        )
    say_copies(folder, data, split, own=own, root=options.data_root)
    return {"checks": checks, "calibration": calibration}


def _show(folder: Path, *, as_json: bool) -> None:
    """Prints what would be sent."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    text = (folder / "README.md").read_text(encoding="utf-8")
    if as_json:
        say(json.dumps({"files": sizes, "card": text}))
        return
    say("would be sent:")
    for name, size in sizes.items():
        say(f"  {name:<20} {size:>14,} bytes")
    say(f"\n{text.rstrip()}")
