"""``pyro-vae topics``: the words of topics, and what of them is in a document."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jsonargparse import Namespace
from rich import box
from rich.table import Table

from pyro_vae._console import Terminal
from pyro_vae._errors import expected, plural, positive_integer, typed_path
from pyro_vae._terminal import say
from pyro_vae.cli.folders import RUN, run_folder
from pyro_vae.cli.new_data import add_data, data_of, held_out, recorded_like
from pyro_vae.cli.parsing import Parser, parse
from pyro_vae.cli.programs import load_vae
from pyro_vae.data.bags import bag_of_words, sentences, words_of_text
from pyro_vae.data.dataset import Split
from pyro_vae.engine.by_rows import in_turn
from pyro_vae.evaluation import coherence, diversity, representative, top_words
from pyro_vae.networks import TopicDecoder
from pyro_vae.programs import VAE
from pyro_vae.programs.weigh import observations_at_once

__all__ = ["run"]

_DIVERSE = 25  # words of each topic that the diversity is of, as it is in papers
_OF_DOCUMENT = 3  # topics of a document that are shown


def run(argv: list[str]) -> None:
    """Prints topics, or the topics and a summary of a text; nothing is written.

    Raises:
        ValueError: If an option, the run, its data or the text are not what they should be.
    """
    parser = Parser(
        "topics",
        "RUN",
        "Prints the topics of a run whose decoder is a TopicDecoder: the most probable words of "
        "each, its share of documents, and how much its words occur together in them (NPMI). With "
        "--summarise FILE: the topics, key words and most representative sentences of a text.",
    )
    parser.add_argument("run", type=str, help=RUN)
    parser.add_argument("--words", type=int, default=10, help="Words of each topic.")
    parser.add_argument(
        "--summarise",
        type=str | None,
        help="A text file, whose topics, key words and representative sentences are printed: those "
        "whose words together are nearest to what the model expects of such a document, each once.",
    )
    parser.add_argument("--sentences", type=int, default=3, help="Sentences of a summary.")
    parser.add_argument("--split", type=Split, default="test", help="Which documents to look at.")
    parser.add_argument(
        "--max_data", type=int | None, help="Look at a random subset of so many, always the same."
    )
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="Print one JSON object, no table.")
    options = parse(parser, argv)
    for option in ("words", "sentences"):
        positive_integer(f"--{option}", options[option])
    folder = run_folder(options.run)
    vae = load_vae("topics", folder)
    if not isinstance(decoder := vae.decoder, TopicDecoder):
        what = "a run with --decoder TopicDecoder, whose parameters are topics"
        raise expected("RUN", what, f"{folder} with {type(decoder).__name__}")
    names = list(recorded_like(folder, vae).names)
    if options.words > (size := vae.event_shape.numel()):
        raise expected("--words", f"at most {size}, the number of words", options.words)
    if options.summarise is not None:
        summary = _summary(vae, decoder, names, options)
        say(json.dumps(summary)) if options.json else _print_summary(summary)
        return
    data, own = data_of(folder, vae, options.split, options)
    split: Split = options.split if own else "test"
    rows = vae.uses(held_out(data, split, options.max_data)[0]).without("labels")

    def shares(batch: Any, report: Any) -> torch.Tensor:
        return decoder.proportions(vae.encode(batch).mean.flatten(1))

    with torch.no_grad():
        each = in_turn(vae, rows, observations_at_once(vae, rows.x), 0, shares, lambda batch: None)
    found = _topics(decoder, names or [f"entry {i}" for i in range(size)], options.words)
    npmi = np.full(len(found), math.nan)
    if options.words > 1:
        npmi = coherence(top_words(decoder.topics(), options.words), rows.x.flatten(1))
    for topic, share, value in zip(found, torch.cat(each).mean(0).tolist(), npmi, strict=True):
        topic["share"], topic["npmi"] = share, None if math.isnan(value) else float(value)
    diverse = min(_DIVERSE, size)
    known = {
        "data": data.name,
        "split": split,
        "documents": len(rows),
        "diversity": diversity(top_words(decoder.topics(), diverse)),
        "diversity_words": diverse,
        "npmi": None if options.words == 1 else float(npmi.mean()),
        "topics": sorted(found, key=lambda topic: -topic["share"]),
    }
    say(json.dumps(known)) if options.json else Terminal().print(_table(known))


def _topics(decoder: TopicDecoder, names: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Returns the number of each topic, from 0, with its most probable words."""
    places = top_words(decoder.topics(), count)
    return [{"topic": k, "words": [names[i] for i in row]} for k, row in enumerate(places)]


def _table(known: dict[str, Any]) -> Table:
    npmi = "" if known["npmi"] is None else f"mean NPMI {known['npmi']:.3f}, "
    table = Table(
        title=f"{plural(len(known['topics']), 'topic')} in "
        f"{plural(known['documents'], 'document')} of {known['data']}, {known['split']}",
        caption=f"{npmi}of pairs of words in these documents; diversity {known['diversity']:.2f}, "
        f"different words among the {known['diversity_words']} most probable ones of each topic",
        box=box.SIMPLE_HEAD,
    )
    for column in ("topic", "share", "NPMI"):
        table.add_column(column, justify="right")
    table.add_column("most probable words")
    for each in known["topics"]:
        value = "-" if each["npmi"] is None else f"{each['npmi']:.2f}"
        words = " ".join(each["words"])
        table.add_row(str(each["topic"]), f"{100 * each['share']:.1f} %", value, words)
    return table


@torch.no_grad()
def _summary(
    vae: VAE, decoder: TopicDecoder, names: Sequence[str], options: Namespace
) -> dict[str, Any]:
    """Returns the topics, key words and representative sentences of a text.

    Raises:
        ValueError: If there is no such text, it has no word of the vocabulary, or there is none.
    """
    if not names:
        what = "nothing of a run whose entries have no names; fit --names FILE gives them"
        raise expected("--summarise", what, options.summarise)
    path = typed_path(options.summarise)
    if not path.is_file():
        raise expected("--summarise", "an existing text file", options.summarise)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise expected("--summarise", "a text file in UTF-8", options.summarise) from None
    parts = sentences(text)
    if not parts or not (counts := bag_of_words(parts, names)).any():
        what = f"a text with some of the {len(names):,} words of the run"
        raise expected("--summarise", what, options.summarise)
    document = counts.sum(0, keepdim=True)
    z = vae.encode(document.reshape(1, *vae.event_shape)).mean
    mean = vae.decode(z).mean.flatten()
    # What the model expects of such a document, of the words that this one has.
    target = torch.where(document[0] > 0, mean / mean.sum(), 0.0)
    chosen = representative(counts, target, options.sentences)
    shares = decoder.proportions(z.flatten(1))[0]
    topics = _topics(decoder, names, options.words)
    most = shares.argsort(descending=True, stable=True)[:_OF_DOCUMENT].tolist()
    order = target.argsort(descending=True, stable=True)[: options.words].tolist()
    return {
        "file": str(path),
        "words": len(words_of_text(text)),
        "known_words": int(document.sum()),
        "topics": [topics[k] | {"share": float(shares[k])} for k in most],
        "key_words": [names[i] for i in order if target[i] > 0],
        "sentences": [parts[i] for i in sorted(chosen)],
    }


def _print_summary(found: dict[str, Any]) -> None:
    known = f"{found['known_words']:,} of its {plural(found['words'], 'word')} known to the run"
    table = Table(title=f"{found['file']}: {known}", box=box.SIMPLE_HEAD)
    for column in ("topic", "share"):
        table.add_column(column, justify="right")
    table.add_column("most probable words")
    for each in found["topics"]:
        row = str(each["topic"]), f"{100 * each['share']:.1f} %", " ".join(each["words"])
        table.add_row(*row)
    Terminal().print(table)
    say(f"key words: {' '.join(found['key_words'])}\n")
    for sentence in found["sentences"]:
        say(f"- {sentence}")
