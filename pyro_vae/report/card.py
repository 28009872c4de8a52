"""The model card: a README.md about a saved model, made of its files alone.

What comes from outside, names above all, stands in it as text: it is escaped, or in spans of code.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pyro_vae import objectives
from pyro_vae._errors import plural
from pyro_vae._hub import Address
from pyro_vae.checkpoint import read_bytes, read_json, tensors_of
from pyro_vae.criticism import Calibration, Checks
from pyro_vae.data import NAMES
from pyro_vae.data.readers import SUFFIXES
from pyro_vae.data.schema import Field, Schema
from pyro_vae.evaluation.scores import EXACT
from pyro_vae.report._numbers import number, percent
from pyro_vae.report.answers import answers
from pyro_vae.report.licenses import check_license
from pyro_vae.report.sections.fitted import versions

__all__ = ["TAGS", "card"]

TAGS = ("variational-autoencoder", "vae", "pyro", "pytorch", "probabilistic-programming",
        "density-estimation")  # fmt: skip
_WIDE = 80  # characters of a line of code
_WIDEST = 10**9  # so far to the left of it that all fits
_NAMED = 200  # columns that are listed
_SETTINGS = ("epochs", "batch_size", "lr", "schedule", "weight_decay", "seed")
_OPTIONS = {"cond_size": None, "show_mask": False, "standardize": True}  # and their defaults
_ACTIVE = re.compile(r"[\\`*_\[\]<>|~$&@]")


def card(
    folder: Path,
    address: Address,
    *,
    scores: Mapping[str, Any] | None = None,
    checks: Checks | None = None,
    calibration: Calibration | None = None,
    license: str | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """Returns a model card as Markdown, with metadata in YAML before it.

    Args:
        folder: What is shared: a saved model, and what is known of its run.
        address: Where it will be.
        scores: The summary of its scores, as of :meth:`pyro_vae.evaluation.Scores.summary`.
        checks: What it does not reproduce; None if that is not known.
        calibration: Whether its guide is the posterior; None if that is not known.
        license: Its identifier, such as ``apache-2.0``; none is stated if not given.
        pictures: Names of files in the folder.

    Raises:
        ValueError: If a file is damaged, or the license is no identifier.
    """
    described = read_json(folder / "model.json")
    run = _json(folder / "fit.json", settings=dict)
    schema = _schema(folder / "schema.json")
    parts = [
        _metadata(license, schema),
        f"# {_text(address.repo.partition('/')[2])}",
        _lead(described),
        "## How to load it",
        *_loading(described, address),
        *_asking(folder, described, address),
        "## What it is",
        *_built(described),
        _table(("", ""), _facts(folder, described, run, scores)),
        *_data(schema),
        "## How good it is",
        *_judged(scores, checks, calibration, address),
        "## Pictures" if pictures else "",
        *(f"![{_text(name.partition('.')[0])}]({name})" for name in pictures),
        "## Limitations",
        "\n".join(f"- {each}" for each in _limitations(described, scores, checks)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _words(value: object) -> str:
    """A text on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def _escaped(words: str) -> str:
    words = _ACTIVE.sub(lambda found: f"\\{found[0]}", words)
    return words.replace("://", ":\\//").replace("www.", "www\\.")


def _text(value: object) -> str:
    """A text that is no markup."""
    return _escaped(_words(value))


def _sentence(value: object) -> str:
    """A text that is no markup but for what stands between backticks, which is code."""
    parts = re.split("`([^`]+)`", _words(value))
    return "".join(_code(part) if i % 2 else _escaped(part) for i, part in enumerate(parts))


def _code(value: object) -> str:
    """A text as a span of code, also within a table."""
    words = _words(value)
    runs = [len(found) for found in re.findall("`+", words)]
    fence, space = "`" * (max(runs, default=0) + 1), " " if runs else ""
    return f"{fence}{space}{words}{space}{fence}".replace("|", "\\|") if words else ""


def _block(code: str, language: str) -> str:
    """Lines of code."""
    fence = "`" * max([3, *(len(found) + 1 for found in re.findall("`+", code))])
    return f"{fence}{language}\n{code}\n{fence}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A table of cells that are markup; whether those after the first are numbers."""
    lines = [head, ["---", *["---:" if numbers else "---"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _json(path: Path, **kinds: Any) -> dict[str, Any]:
    return read_json(path, **kinds) if path.exists() else {}


def _schema(path: Path) -> Schema | None:
    return Schema.from_spec(read_json(path, columns=dict)) if path.exists() else None


def _metadata(license: str | None, schema: Schema | None) -> str:
    tags = [*TAGS, *(["tabular"] if schema is not None else [])]
    content: dict[str, Any] = {"library_name": "pyro-vae", "tags": tags}
    if license is not None:
        content["license"] = check_license(license)
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _lead(described: Mapping[str, Any]) -> str:
    about = (
        "a prior, a guide, a decoder and a likelihood, fitted by an objective"
        if "vae" in described
        else "a model p(x, z) and a guide q(z | x), as Pyro programs"
    )
    return (
        f"A variational autoencoder of the Python package `pyro-vae`: {about}. This card was "
        "made from the files beside it."
    )


def _loading(described: Mapping[str, Any], address: Address) -> Iterator[str]:
    """How the model is loaded: code that runs as it stands, unless it needs code of one's own."""
    lines, before = ["import pyro_vae as pv", ""], ""
    where = repr(str(address)).replace("'", '"')
    if isinstance(pair := described.get("program"), dict):
        names = ", ".join(_pair(pair))
        before = "It is a pair of Pyro programs, whose code no file has: define them first."
        lines += [f"program = pv.Program({names})", f"vae = pv.load({where}, program=program)"]
    else:
        networks, classes = _own(described)
        given = "".join(f", {role}={role}" for role in networks)
        if classes:
            given += f", classes={{{', '.join(f'{name!r}: {name}' for name in classes)}}}"
        if networks or classes:
            named = ", ".join(map(_code, [*networks.values(), *classes]))
            before = (
                f"These are not of the package, and no file has their code: {named}. Define them "
                "first, networks built as they were."
            )
        lines.append(f"vae = pv.load({where}{given})")
    if not _needs_more(described):
        lines.append("x = vae.sample(16)  # draws of the model, one a row")
    yield _block("pip install 'pyro-vae[hub]'", "sh")
    yield before
    yield _block("\n".join(lines), "python")
    yield (
        "Weights are safetensors and all else is JSON or YAML: nothing is unpickled, and no code "
        "of this repository is run."
    )


def _asking(folder: Path, described: Mapping[str, Any], address: Address) -> Iterator[str]:
    """How it is asked about other data, by the record of those that it was fitted to."""
    if not (folder / "data.json").exists():
        return
    record = {"names": []} | read_json(folder / "data.json", source=str | None)
    source = record["source"] or ""
    suffix = Path(source).suffix
    # Of data sets by name there are arrays, and what has no suffix is a folder of images.
    new = "images" if not suffix else f"new{suffix if suffix in SUFFIXES else '.npy'}"
    new = "new.npy" if source in NAMES or not source else new
    program = " --program package.module:name" if "program" in described else ""
    alike = "columns of the same names" if record["names"] else "entries of the same shape"
    yield f"By the record of its data, it is asked about data of yours that have {alike}:"
    yield _block(f"pyro-vae evaluate {address} --data {new}{program}", "sh")


def _name(value: object) -> str:
    """A name of code, or three dots where that is none."""
    return value if isinstance(value, str) and value.isidentifier() else "..."


def _pair(described: Mapping[str, Any]) -> tuple[str, str]:
    """What to call the programs of a pair, by the end of what they were called."""
    model, guide = (str(described.get(role)).rpartition(".")[2] for role in ("model", "guide"))
    good = model.isidentifier() and guide.isidentifier() and model != guide
    return (model, guide) if good else ("model", "guide")


def _own(described: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """What the package does not have: networks by role, and the classes of other parts."""
    networks: dict[str, str] = {}
    found: set[str] = set()
    waiting: list[tuple[str, Any]] = list(described.get("vae", {}).items())
    while waiting:
        role, spec = waiting.pop()
        if isinstance(spec, list):
            waiting += [("", each) for each in spec]
        elif isinstance(spec, dict) and isinstance(name := spec.get("class"), str):
            args = spec.get("args")
            waiting += [("", each) for each in (args.values() if isinstance(args, dict) else ())]
            if "." not in name and role in ("encoder", "decoder"):
                networks[role] = name
            elif "." not in name:
                found.add(_name(name))
    return networks, sorted(found)


def _needs_more(described: Mapping[str, Any]) -> bool:
    """Whether a draw needs a condition or a covariate, or that is not known."""
    conditional = described.get("options", {}).get("cond_size") is not None
    sized = '"size_factor": true' in json.dumps(described)
    return "vae" not in described or conditional or sized or bool(_own(described)[1])


def _built(described: Mapping[str, Any]) -> Iterator[str]:
    """The model as code that builds it, without its weights."""
    if isinstance(pair := described.get("program"), dict):
        yield _block(f"program = pv.Program({', '.join(_pair(pair))})", "python")
        return
    options = {
        name: value
        for name, value in described.get("options", {}).items()
        if name in _OPTIONS and value != _OPTIONS[name]
    }
    whole = {"class": "VAE", "args": described["vae"] | options}
    code = _written(whole, 0, len("vae = "))
    yield _block(f"vae = {code}", "python")
    if "[...]" in code:
        yield "The levels of columns, `[...]`, are in `model.json` and not on this card."


def _written(value: Any, indent: int = 0, before: int = 0, name: str = "") -> str:
    """A specification as code, on as many lines as it needs.

    Args:
        value: Of an argument.
        indent: Of the line that it begins on.
        before: Characters before it on that line.
        name: Of the argument.
    """
    if not isinstance(value, dict | list):
        code = repr(value)
        return f'"{code[1:-1]}"' if code.startswith("'") and '"' not in code else code
    start, end, items = _opened(value, name)
    line = ", ".join(title + _written(each, -_WIDEST, 0, key) for title, key, each in items)
    if indent + before + len(start) + len(line) + len(end) <= _WIDE:
        return f"{start}{line}{end}"
    inner = indent + 4
    lines = [
        f"{' ' * inner}{title}{_written(each, inner, len(title), key)},\n"
        for title, key, each in items
    ]
    return f"{start}\n{''.join(lines)}{' ' * indent}{end}"


def _opened(value: dict[str, Any] | list[Any], name: str) -> tuple[str, str, list[Any]]:
    """What a call, a mapping or a list begins and ends with; each item with what is before it."""
    if isinstance(value, list):
        words = name == "levels" and any(isinstance(each, str) for each in value)
        return ("[...", "]", []) if words else ("[", "]", [("", name, each) for each in value])
    if not isinstance(value.get("class"), str):
        return "{", "}", [(f"{key!r}: ", key, each) for key, each in value.items()]
    if not isinstance(given := value.get("args"), dict):
        return f"{_call(value['class'])}(...", ")", []
    items = [(f"{_name(key)}=", key, each) for key, each in given.items()]
    return f"{_call(value['class'])}(", ")", items


def _call(name: str) -> str:
    """The class of a part, with where it is."""
    inside = all(part.isidentifier() for part in name.split("."))
    own = "." in name or name == "VAE"
    return f"{'pv.' if own else ''}{name}" if inside else "..."


def _facts(
    folder: Path,
    described: Mapping[str, Any],
    run: Mapping[str, Any],
    scores: Mapping[str, Any] | None,
) -> Iterator[tuple[str, str]]:
    """What there is to know of it in a line each."""
    weights = folder / "model.safetensors"
    tensors, _ = tensors_of(weights, read_bytes(weights, described.get("sha256")))
    yield "weights", f"{plural(sum(each.numel() for each in tensors.values()), 'number')}"
    settings = run.get("settings", {})
    if isinstance(chosen := settings.get("objective"), dict):
        yield "objective", _code(_objective(chosen))
    known = {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
    if known:
        trained = ", ".join(f"{name}={value}" for name, value in known.items())
        yield "training", _code(trained)
    if isinstance(steps := run.get("steps"), int):
        best = run.get("best_epoch")
        chosen_by = (
            "" if best is None else f"; weights of epoch {best}, the best on validation data"
        )
        yield "steps", f"{steps:,}{_text(chosen_by)}"
    data = settings.get("data", {})
    if isinstance(data, dict) and data.get("name"):
        yield "data", _code(data["name"])
    measure = {} if scores is None else scores.get("base_measure", {})
    titles = {key: key for key in ("binarize", "dequantize", "transform")}
    for key, title in (
        titles | {"measure": "base measure", "fingerprint": "fingerprint of held-out data"}
    ).items():
        if measure.get(key) not in (None, "none"):
            yield title, _code(measure[key])
    yield "card made with", _text(versions())


def _objective(chosen: Mapping[str, Any]) -> str:
    """An objective as one would write it, with what is not its default."""
    name = str(chosen.get("class"))
    known = getattr(objectives, name, None) if name in objectives.__all__ else None
    parameters = {} if known is None else inspect.signature(known).parameters
    given = [
        f"{key}={value!r}"
        for key, value in chosen.items()
        if key in parameters and value != parameters[key].default
    ]
    return f"{name}({', '.join(given)})"


def _data(schema: Schema | None) -> Iterator[str]:
    """The columns of a table: what they are called and what they hold, and no value of them."""
    if schema is None:
        return
    yield "### Columns"
    shown = schema.columns[:_NAMED]
    yield _table(("column", "kind", "what it is for"), map(_column, shown))
    if len(schema.columns) > _NAMED:
        yield f"and {len(schema.columns) - _NAMED:,} more, in `schema.json`"


def _column(field: Field) -> tuple[str, str, str]:
    levels = f" of {field.num_levels} levels" if field.num_levels else ""
    unit = f", in {_text(field.unit)}" if field.unit else ""
    role = field.role or ("part of x" if field.in_x else "left out")
    return _code(field.name), f"{_text(field.kind)}{levels}{unit}", _text(role)


def _judged(
    scores: Mapping[str, Any] | None,
    checks: Checks | None,
    calibration: Calibration | None,
    address: Address,
) -> Iterator[str]:
    """The verdict, as on the page of a run, and the scores behind it."""
    if scores is None:
        yield "Not scored: `pv.evaluate` scores it on data of yours."
        return
    why = "No one looked before this was shared: pyro-vae check does, on data of yours."
    found = answers(
        scores,
        why if checks is None else checks,
        why if calibration is None else calibration,
        exact=scores.get("estimator") == EXACT,
    )
    yield _table(
        ("question", "answer", "what that means"),
        ((_text(each.question), f"**{_text(each)}**", _sentence(each.meaning)) for each in found),
    )
    measure = scores["base_measure"]
    head = ("nats per observation", "mean", "± over data", "± Monte Carlo")
    draws = f"{scores['num_samples']:,}"
    estimate = f"summed over {draws} states" if scores.get("estimator") == EXACT else (
        f"{draws} importance samples"
    )  # fmt: skip
    means = (number(scores["log_marginal"]), number(scores["standard_error"]))
    rows = [(f"log p(x), {estimate}", *means, number(scores["mcse"], 3))]
    rows += [
        (title, number(scores[key]), "", "")
        for key, title in (
            ("elbo", "ELBO"),
            ("reconstruction", "reconstruction, E[log p(x given z)]"),
            ("kl", "KL of the guide from the prior"),
        )
    ]
    if "bits_per_dim" in scores:
        rows.append(("bits per dimension", number(scores["bits_per_dim"], 3), "", ""))
    if "accuracy" in scores:
        right = percent(scores["accuracy"]), f"{scores['accuracy_standard_error']:.1%}"
        rows.append(("accuracy of q(y given x)", *right, ""))
    yield _table(head, rows, numbers=True)
    k_hat, share = number(scores["k_hat_median"]), percent(scores["k_hat_above_threshold"])
    yield (
        f"Means over {_text(measure['split'])} data of {_code(measure['data'])}. Active latent "
        f"units: {scores['active_units']}; k-hat: median {k_hat}, too high for {share} of the "
        "observations. The error over data is how far other data of the same kind might lie, the "
        "Monte Carlo error how far another seed."
    )
    yield "\n".join(f"- {_sentence(note)}" for note in scores.get("notes", ()))


def _limitations(
    described: Mapping[str, Any], scores: Mapping[str, Any] | None, checks: Checks | None
) -> Iterator[str]:
    """What is not known, or known not to hold, by the files."""
    yield (
        "Scores are of held-out data like those that it was fitted to; of others nothing is known."
        if scores is not None
        else "It comes without scores."
    )
    if checks is None:
        yield "Whether it reproduces the data was not checked."
    elif checks.num_failed:
        yield f"It does not reproduce the data in {checks.num_failed} respects, see above."
    yield "log p(x) is a density of its base measure, and compares with no other."
    if "missingness" not in described.get("vae", {}):
        yield "Entries that are missing, if any, are taken to be missing at random."
    yield (
        "What a decoder draws may resemble single observations that it was fitted to; whether it "
        "does was not examined."
    )
