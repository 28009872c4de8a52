"""``pyro-vae fit``: data in, run folder out."""

from __future__ import annotations

import inspect
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pyro
import torch
import yaml
from jsonargparse import Namespace
from torch.distributions import constraints

from pyro_vae import checkpoint
from pyro_vae import data as data_room
from pyro_vae._console import Terminal
from pyro_vae._errors import check_seed, expected, positive_integer
from pyro_vae._progress import live, per_second
from pyro_vae._terminal import say
from pyro_vae.cli.going_on import check_resumed, going_on
from pyro_vae.cli.options import add_given, add_reading, add_splits, add_tables, split_of
from pyro_vae.cli.parsing import (
    ROLES,
    Parser,
    add_part,
    classes,
    default_of,
    guides_of,
    parse,
    parts_of,
    read_config,
    value_of,
)
from pyro_vae.cli.programs import PAIR, add_program, check_typed, objective_of, program_of
from pyro_vae.cli.runs import (
    as_device,
    load_data,
    new_path,
    record_data,
    recorded_scores,
)
from pyro_vae.cli.scores_by_row import write_by_row
from pyro_vae.cli.suggested import (
    OF_FILES,
    about_encoder,
    default_of_load,
    encoder_of_text,
    loading,
    suggested,
)
from pyro_vae.cli.tables import scores_table
from pyro_vae.cli.training import add_training, from_anywhere, training_options
from pyro_vae.data import NAMES, Dataset, load
from pyro_vae.data.dataset import SPLITS
from pyro_vae.data.frames import NUMBERS
from pyro_vae.data.inspection import COPIES, copies, said_of_copies
from pyro_vae.data.readers import SUFFIXES
from pyro_vae.engine.processes import all_processes
from pyro_vae.evaluation import Scores, accuracy, evaluate
from pyro_vae.programs import VAE, Program
from pyro_vae.training import Run, fit
from pyro_vae.training.recipe import SMALL_DATA
from pyro_vae.training.resume import RunInProgress, in_progress

__all__ = ["DEFAULT_PARTS", "build_model", "fit_parser", "run"]

DEFAULT_PARTS = {
    "likelihood": "Bernoulli",
    "prior": "Normal",
    "encoder": "MLP",
    "decoder": "MLP",
    "objective": "ELBO",
}
_NUM_SAMPLES = default_of(evaluate, "num_samples")
_KEEP, _RESUME = default_of(fit, "keep"), default_of(fit, "resume")
_LATENT_DIM = 16
_DROPOUT = 0.2  # of the decoder: what one fits first is small data
# Of this invocation, not of the model: a replay has its own.
_NOT_REPLAYED = ("config", "data_report", "json", "out", "program", "resume")


def run(argv: list[str]) -> None:
    """Fits, evaluates, draws and writes.

    Raises:
        ValueError: If an option, the data or the folder are not what they should be.
    """
    if all_processes().is_first:
        _run(argv)
        return
    # It takes its share of the steps. The first one has the terminal; an error is said by all.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        _run(argv)


def _run(argv: list[str]) -> None:
    began = time.perf_counter()
    path = value_of(argv, "--config")
    config = {} if path is None else read_config(path)
    # An option with an optional value would take what follows it for one.
    argv = ["--resume=true" if token == "--resume" else token for token in argv]
    check_resumed(argv)
    typed = value_of(argv, "--program")
    check_typed(typed, config)
    asked = _of_parts(argv, config) if typed is None else _of_a_pair(argv, config, typed)
    options, data = asked.options, asked.data
    out, device = asked.out, asked.device
    labelled = options.get("labelled")
    if labelled is not None and data.given("train"):
        what = "none with --cond, --size-factor, --covariate or --missing"
        raise expected("--labelled", what, labelled)
    labels = None if labelled is None else data.some_labels(labelled, options.seed)
    if options.data_report:
        say(data_room.inspect(data), error=True)
    config_text = _config(asked, typed).encode()
    kept = {"every": options.checkpoint_every, "keep": options.keep, "resume": options.resume}
    with going_on(out, argv), in_progress(out, argument="--out", **kept) as progress:
        if progress.writes and not (out / "config.yaml").exists():
            checkpoint.write_bytes(out / "config.yaml", config_text)
        pyro.set_rng_seed(options.seed)
        vae, objective = asked.build()
        given = {"device": device, "labels": labels, **training_options(options)}
        fitted, scores = _fit(vae, objective, data, options, given, progress)
        if not progress.writes:
            return
        from pyro_vae import report  # matplotlib and others, which a process of many fits needs not

        summary = scores.summary() if scores else recorded_scores(out)
        truth = data.labels[split := report.held_out(data)]
        if scores is not None and labels is not None and truth is not None:
            right = accuracy(cast(VAE, vae), data.split(split), truth)
            summary |= {"accuracy": right[0], "accuracy_standard_error": right[1]}
        if scores is not None and split != "train" and (count := copies(data)[split]):
            summary["notes"].append(said_of_copies(count, len(data.split(split)), split))

        def write(folder: Path) -> None:
            fitted.write(folder)
            if options.compile == "auto":
                options.compile = fitted.compiled  # a replay does not choose again
            config = _config(asked, typed).encode()
            checkpoint.write_bytes(folder / "config.yaml", config)
            checkpoint.write_json(folder / "scores.json", summary)
            if scores is not None:
                write_by_row(folder, scores)
            record_data(folder, data, asked.served)
            report.pictures(fitted.vae.fixed(1, options.seed)[0], data, fitted.history, folder)

        if scores is None:
            say(f"{out} is finished: these are its scores", error=True)
        else:
            progress.finish(write)
            _say_copies(data)
            if fitted.stopped:
                say(fitted.stopped, error=True)
        # Reported with the folder at hand: an interrupt then knows that the run is written.
        seconds = time.perf_counter() - began
        if options.json:
            result = {
                "out": str(out),
                "seconds": seconds,
                "steps_per_second": fitted.steps_per_second,
                "scores": summary,
            }
            say(json.dumps(result))
            return
        console = Terminal()
        console.print(scores_table(summary, len(data.split(report.held_out(data)))))
        console.print(f"These are scores of the weights {fitted.weights}.")
        console.print(f"{seconds:.0f} s in all, {per_second(fitted.steps_per_second)}. Wrote")
        for file in sorted(out.iterdir()):
            console.print(f"  {file}", soft_wrap=True)


@dataclass(frozen=True)
class _Asked:
    """What is to be fitted, and to what.

    Attributes:
        parser: Of the options.
        options: Their values.
        data: The data.
        served: The options that load them again.
        build: Builds the model and its objective.
        out: Where the run goes.
        device: Where it is fitted; None for the best.
    """

    parser: Parser
    options: Namespace
    data: Dataset
    served: dict[str, Any]
    build: Callable[[], tuple[VAE | Program, Any]]
    out: Path
    device: torch.device | None


def _of_parts(argv: list[str], config: dict[str, Any]) -> _Asked:
    """Reads the options of a VAE, and its data; the likelihood follows these if it is not named."""
    parts, parser = _parser(argv, config)
    try:
        options = split_of(parse(parser, argv, config))
    except ValueError as error:
        raise about_encoder(error, argv, config) from None
    if (found := suggested(argv, config, options)) is not None:
        config["likelihood"] = found[0]
        if own := encoder_of_text(argv, config, found[1][0]):
            say("--encoder SequenceEncoder: it suits the data, and none was asked for", error=True)
        config |= own
        parts, parser = _parser(argv, config)
        options = split_of(parse(parser, argv, config))
    where = _checked(options)
    support = parts["likelihood"].support
    data, served = found[1] if found else load_data(support=support, **loading(options))
    build = partial(build_model, options, parts, data)
    return _Asked(parser, options, data, served, build, *where)


def _of_a_pair(argv: list[str], config: dict[str, Any], typed: str) -> _Asked:
    """Reads the options of a fit of a Program, and its data."""
    cls = classes("objective")[objective_of(argv, config)]
    parser = Parser("fit", "DATA", "Fits a Program to data, evaluates it, and draws pictures.")
    _add_data(parser)
    add_tables(parser)
    add_given(parser, of_a_vae=False)
    add_reading(parser)
    add_program(parser)
    add_part(parser, "objective", cls, skip=set())
    add_training(parser)
    _add_own(parser)
    options = split_of(parse(parser, argv, config))
    where = _checked(options)
    data, served = load_data(support=constraints.real, **loading(options))

    def build() -> tuple[Program, Any]:
        chosen = options.objective.as_dict()
        del chosen["class"]
        return program_of(typed), cls(**chosen)

    return _Asked(parser, options, data, served, build, *where)


def _checked(options: Namespace) -> tuple[Path, torch.device | None]:
    """Refuses options that are wrong whatever the data are; returns where to write and compute."""
    positive_integer("--num-samples", options.num_samples)
    check_seed("--seed", options.seed)
    default = Path("runs") / Path(options.data).stem
    out = all_processes().from_first(lambda: new_path(options.out, default, resume=options.resume))
    return out, as_device(options.device)


def _say_copies(data: Dataset) -> None:
    """Says how many held-out observations are training data, too."""
    counts: dict[str, int] = {split: count for split, count in copies(data).items() if count}
    if counts:
        # What is no table has no column to group rows by.
        way = (
            "--group COLUMN keeps rows that belong together in one split"
            if data.names
            else "take them out of the data"
        )
        sizes: dict[str, int] = {
            split: len(data.split(split)) for split in SPLITS if split in counts
        }
        found = [f"{counts[split]:,} of {size:,} {split}" for split, size in sizes.items()]
        said = f"{' and '.join(found)} observations {COPIES}"
        if len(counts) == 1:
            ((split, count),) = counts.items()
            said = said_of_copies(count, sizes[split], split)
        say(f"{said}; {way}", error=True)


def _parser(argv: list[str], config: dict[str, Any]) -> tuple[dict[str, Any], Parser]:
    """The class for each role, and the parser of their options and of the verb's own."""
    parts = parts_of(argv, config, DEFAULT_PARTS)
    parser = fit_parser(parts, "fit", "Fits a VAE to data, evaluates it and draws pictures of it.")
    parser.add_argument(
        "--labelled",
        type=int | None,
        help="Give the model the classes of so many training observations, as many of each class; "
        "it needs one categorical latent. Their weight is --objective.label-weight.",
    )
    _add_own(parser)
    return parts, parser


def _add_own(parser: Parser) -> None:
    """Adds what fit has, and select has not."""
    parser.add_argument(
        "--data_report", action="store_true", help="Report what there is in the data, then fit."
    )
    add_splits(parser)
    _add_checkpoints(parser)


def fit_parser(parts: Mapping[str, Any], verb: str, description: str) -> Parser:
    """A parser of what makes a model and fits it to data."""
    parser = Parser(verb, "DATA", description)
    _add_data(parser)
    parser.add_argument(
        "--standardize",
        type=bool,
        default=default_of(VAE, "standardize"),
        help="Whether the networks work in units of the training data: scores, draws and fixed "
        "scales are in the units of the data all the same.",
    )
    add_tables(parser)
    add_given(parser)
    add_reading(parser)
    if "dim" in _arguments(parts["prior"]):
        parser.add_argument("--latent_dim", type=int, default=_LATENT_DIM, help="Dimensions of z.")
    for role, follows in _following(parts).items():
        add_part(parser, role, parts[role], skip=follows)
    add_training(parser)
    parser.set_defaults(SMALL_DATA)
    if "dropout" in _arguments(parts["decoder"]):
        parser.set_defaults({"decoder.dropout": _DROPOUT})
    if "parts" in _arguments(parts["prior"]) & _arguments(parts["guide"]):
        parser.set_optional("guide.parts", [])  # they follow from the prior's
    return parser


def _add_data(parser: Parser) -> None:
    """Adds the data, and what becomes of them."""
    parser.add_help_all()
    known = f"One of {', '.join(NAMES)}; a file: {', '.join(SUFFIXES)}; or a folder of images."
    parser.add_argument("data", type=str, help=known)
    parser.add_argument("--config", help="YAML file of options, as each run folder has one.")
    parser.add_argument(
        "--out",
        type=str | None,
        help="Folder to make; runs/NAME, or the next free one if not given.",
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object, no table.")
    parser.add_argument("--data_root", type=str | None, help="Folder of downloaded data sets.")
    parser.add_argument(
        "--binarize",
        type=Literal["none", "threshold", "stochastic"] | None,
        help="Make grey values binary; by default as the likelihood needs them.",
    )
    parser.add_argument(
        "--split",
        type=str,
        default=default_of(load, "split"),
        help="How rows are held out: random; blocks, the last ones of data in the order of time; "
        "'column NAME', whole groups of a column, which x is then without; or 'time NAME', those "
        "of later times by a column.",
    )
    parser.add_argument(
        "--num_samples",
        type=int,
        default=_NUM_SAMPLES,
        help="Importance samples of the evaluation.",
    )


def _add_checkpoints(parser: Parser) -> None:
    group = parser.add_argument_group("checkpoints")
    group.add_argument(
        "--checkpoint_every",
        type=int | None,
        help="Steps from one checkpoint to the next; without it, one is written when the run is "
        "asked to stop (Ctrl-C, SIGTERM, a closed terminal).",
    )
    group.add_argument("--keep", type=int, default=_KEEP, help="Checkpoints to keep.")
    group.add_argument(
        "--resume",
        type=bool | Literal["previous"],
        default=_RESUME,
        help="Go on with an unfinished run: the same command with --resume; a finished one goes "
        "on with more --epochs, but for one whose rate fell to its end (--schedule cosine). "
        "--resume=previous passes over checkpoints that are damaged.",
    )


def _arguments(function: Callable[..., Any]) -> set[str]:
    called = function.__init__ if inspect.isclass(function) else function
    return set(inspect.signature(called).parameters) - {"self"}


def _following(parts: Mapping[str, Any]) -> dict[str, set[str]]:
    """For each role the constructor arguments that are no options: they follow from others."""
    prior = _arguments(parts["prior"])
    known: dict[str, set[str]] = {
        "prior": {"dim"},
        "guide": prior - {"parts"},  # families are called otherwise than what they approximate
        "likelihood": {"event_shape", "size_factor"},
    }
    return {role: known.get(role, set()) & _arguments(parts[role]) for role in ROLES}


def build_model(options: Namespace, parts: Mapping[str, Any], data: Dataset) -> tuple[VAE, Any]:
    """Returns the model and its objective."""
    values: dict[str, Any] = {"dim": options.get("latent_dim"), "event_shape": data.event_shape}
    values |= options.prior.as_dict()
    covariates = data.covariates.get("train", {})
    values["size_factor"] = "size_factor" in covariates
    made = {}
    for role, follows in _following(parts).items():
        chosen = options[role].as_dict()
        del chosen["class"]
        if role == "guide" and chosen.get("parts") == []:
            chosen["parts"] = guides_of(values["parts"])
        made[role] = parts[role](**{name: values[name] for name in follows}, **chosen)
    objective = made.pop("objective")
    size = data.cond["train"].shape[1] if data.cond else None
    if options.show_mask and not options.missing:
        raise expected("--show-mask", "--missing beside it", options.show_mask)
    if options.missingness is not None and not options.missing:
        raise expected("--missingness", "--missing beside it", options.missingness)
    names = ("show_mask", "standardize", "missingness")
    beside = {name: options[name] for name in names}
    try:
        vae = VAE(**made, cond_size=size, **beside)
    except ValueError as error:
        if not str(error).startswith("`cond_size`"):
            raise
        what = f"the columns that the prior {type(made['prior']).__name__} is given"
        raise expected("--cond", what, options.cond) from None
    name, wanted = type(vae.likelihood).__name__, set(vae.likelihood.covariates)
    for flag, column, others in (
        ("--size-factor", options.size_factor, {"size_factor"}),
        ("--covariate", options.covariate, (wanted | covariates.keys()) - {"size_factor"}),
    ):
        if wanted & others != covariates.keys() & others:
            needed = ", ".join(sorted(wanted & others))
            what = f"columns for {needed}, which {name} needs" if needed else f"none with {name}"
            raise expected(flag, what, column)
    return vae, objective


def _fit(
    vae: VAE | Program,
    objective: Any,
    data: Dataset,
    options: Namespace,
    given: Mapping[str, Any],
    folder: RunInProgress,
) -> tuple[Run[Any], Scores | None]:
    rows = max(options.batch_size, 1) * max(options.accumulate, 1)
    steps = math.ceil(len(data.train) / rows)
    with live() as monitor:
        on_epoch = monitor.fitting(options.epochs, steps, bound=objective.bounds(vae.guide))
        fitted = fit(
            vae,
            data,
            objective=objective,
            on_epoch=on_epoch,
            progress=False,  # the bar is there, and goes on with the evaluation
            out=folder,
            **given,
        )
        if fitted.recipe is None:  # it was finished, and read
            return fitted, None
        from pyro_vae.report import held_out

        split = held_out(data)
        known = {"num_samples": options.num_samples, "progress": monitor.evaluating()}
        scores = evaluate(vae, data.split(split), **known, **data.given(split))
    return fitted, scores


def _config(asked: _Asked, typed: str | None) -> str:
    kept = asked.options.clone()
    for key in _NOT_REPLAYED:
        kept.pop(key, None)
    # Of runs that have them alone.
    of_data = ("cond", "size_factor", "covariate", "missing", "show_mask", "pivot")
    for key in (*of_data, "missingness", *OF_FILES):
        if not kept.get(key):
            kept.pop(key, None)
    for key, function in (("standardize", VAE), ("split", load)):
        if kept.get(key) == default_of(function, key):
            kept.pop(key, None)
    for key, default in default_of_load().items():
        if kept.get(key) == default:
            kept.pop(key, None)
    if kept.get("schema") not in (None, NUMBERS):
        kept.schema = os.path.realpath(kept.schema)  # a replay works from anywhere
    if kept.get("names"):
        kept.names = os.path.realpath(kept.names)
    from_anywhere(kept)
    kept.data, kept.data_root = asked.data.source, asked.served["root"]
    # For people and for `compare`: whoever replays it has to type it.
    pair = "" if typed is None else yaml.safe_dump({PAIR: typed})
    return f"schema: {checkpoint.SCHEMA}\n{pair}{asked.parser.dump(kept)}"
