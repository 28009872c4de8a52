"""Options that several verbs share: of tables, of what goes with data, of how files are read."""

from __future__ import annotations

from typing import Literal

from jsonargparse import Namespace

from pyro_vae._errors import expected
from pyro_vae.cli.parsing import Parser, default_of
from pyro_vae.data import load
from pyro_vae.data.pixels import Layout
from pyro_vae.data.text import TextUnit, TooLong
from pyro_vae.missingness.missingness import words

__all__ = [
    "add_given",
    "add_jobs",
    "add_reading",
    "add_safe",
    "add_splits",
    "add_tables",
    "split_of",
]


def add_splits(parser: Parser) -> None:
    """Adds what is short for a way to split rows by a column."""
    parser.add_argument(
        "--group",
        type=str | None,
        help="The column of groups that stay in one split, such as patients: the same as --split "
        "'column NAME'.",
    )
    parser.add_argument(
        "--time",
        type=str | None,
        help="The column of times, whose later rows are held out: the same as --split 'time NAME'.",
    )


def split_of(options: Namespace) -> Namespace:
    """Returns options whose ``split`` is what ``--group`` or ``--time`` is short for.

    Raises:
        ValueError: If it is asked for in two ways.
    """
    made = options.clone()
    for flag, how in (("group", "column"), ("time", "time")):
        column = made.pop(flag)
        if column is not None:
            if made.split != default_of(load, "split"):
                raise expected(f"--{flag}", f"nothing beside --split {made.split!r}", column)
            made.split = f"{how} {column}"
    return made


def add_given(parser: Parser, *, of_a_vae: bool = True) -> None:
    """Adds what goes with each observation.

    Args:
        parser: Where to.
        of_a_vae: Whether with what a VAE makes of missing entries.
    """
    group = parser.add_argument_group("what goes with each observation")
    group.add_argument(
        "--cond",
        type=str | None,
        help="Columns to condition model and guide on, with commas between them: label, or digit "
        "of the sets of digits; columns of a .csv file by name, which x is then without. Integers "
        "and words, 1000 different ones at most, become one-hot vectors; other numbers are "
        "standardised.",
    )
    group.add_argument(
        "--size_factor",
        type=str | None,
        help="The column of a .csv file that is each observation's size factor, which multiplies "
        "the mean of a likelihood of counts; divided by its own mean.",
    )
    group.add_argument(
        "--covariate",
        type=str | None,
        help="What else a likelihood needs to know of each observation, by the names that it "
        "declares, as NAME=COLUMN with commas between several: columns of a .csv file, as they "
        "are.",
    )
    group.add_argument(
        "--missing",
        action="store_true",
        help="Entries may be missing: empty cells, NA and nan of a .csv file, NaN of an array. The "
        "likelihood is of the others, and the encoder sees the mean of the data in their place.",
    )
    if not of_a_vae:
        return
    group.add_argument(
        "--show_mask",
        action="store_true",
        help="With --missing, let the encoder also see which entries those are.",
    )
    group.add_argument(
        "--missingness",
        type=Literal[tuple(words())] | None,
        help="With --missing, model which entries are missing, too, for those that are not missing "
        "at random: self-masking, each depending on its own value. Use it with --show-mask and "
        "--objective IWAE.",
    )


def add_reading(parser: Parser) -> None:
    """Adds how files of arrays, images and lines of text are read."""
    group = parser.add_argument_group("how files are read")
    group.add_argument(
        "--pivot",
        type=str | None,
        help="Columns of a table of events, such as user,item or user,item,amount: a row of x for "
        "each user, a column for each item, and in it the number of events or the sum of amounts.",
    )
    group.add_argument(
        "--key", type=str | None, help="Which of several arrays of an .npz, .h5 or .zarr file is x."
    )
    group.add_argument(
        "--layers",
        type=str | None,
        help="The layer of an .h5ad file, or of AnnData in a .zarr folder, that is x, in place of "
        "its X.",
    )
    group.add_argument(
        "--layout",
        type=Layout | None,
        help="Where arrays of images have their channels, which are served first; by default where "
        "a size is 1, 3 or 4. Of series (N, T, C), channels-last.",
    )
    group.add_argument(
        "--resize",
        type=int | None,
        help="Height and width that the images of a folder are given, by averaging.",
    )
    group.add_argument(
        "--rescale",
        action="store_true",
        help="Divide integer levels 0 to 255 by the top level, to be from 0 to 1.",
    )
    group.add_argument(
        "--text",
        type=TextUnit | None,
        help="Whether the characters or the words of a .txt file, a line an observation, are its "
        "levels; by default characters.",
    )
    group.add_argument(
        "--max_length",
        type=int | None,
        help="Characters or words of a line at most; by default those of the longest, up to 256.",
    )
    group.add_argument(
        "--too_long",
        type=TooLong | None,
        help="Whether longer lines are cut or left out (drop); by default cut.",
    )
    group.add_argument(
        "--vocabulary_size",
        type=int | None,
        help="Characters or words that are told apart, the most frequent; others are one, unknown.",
    )
    group.add_argument(
        "--names",
        type=str | None,
        help="A text file with the names of the entries of an array, one a line, such as the words "
        "of bags of words.",
    )


def add_tables(parser: Parser) -> None:
    """Adds the options of how a table is read, and of what is known of its columns."""
    group = parser.add_argument_group("tables")
    group.add_argument(
        "--schema",
        type=str | None,
        help="A file, as inspect writes it, of what columns are. YAML or JSON: a mapping "
        "from names to kinds, or to mappings; or 'numbers', to take all columns for numbers. What "
        "else there is to know is inferred from names and values.",
    )
    group.add_argument(
        "--kind",
        type=str | None,
        help="Kinds of some columns, such as income=positive,mood=ordinal, of real, positive, "
        "count, proportion, binary, category, ordinal, angle, time, id and ignore.",
    )
    group.add_argument(
        "--drop",
        type=str,
        default=default_of(load, "drop"),
        help="Columns that x is without, with commas between them.",
    )
    group.add_argument("--label", type=str | None, help="The column of labels.")
    group.add_argument(
        "--sep",
        type=str | None,
        help="What is between the cells of a text; by default a comma, in a .tsv file a tab.",
    )
    group.add_argument(
        "--decimal", type=str, default=default_of(load, "decimal"), help="The decimal point."
    )
    group.add_argument("--thousands", type=str | None, help="What groups digits.")
    group.add_argument(
        "--na_values",
        type=str,
        default=default_of(load, "na_values"),
        help="What else means that an entry is missing, with commas between several; besides empty "
        "cells, NA and nan.",
    )
    group.add_argument(
        "--header",
        type=str,
        default=default_of(load, "header"),
        help="The row that names the columns, from 0; none if there is none; infer, to go by the "
        "first row and those below it.",
    )
    group.add_argument(
        "--encoding", type=str, default=default_of(load, "encoding"), help="Of a text."
    )


def add_safe(parser: Parser) -> None:
    """Adds whether a table that is written may hold what a spreadsheet computes."""
    parser.add_argument(
        "--safe",
        action="store_true",
        help="Write text that begins with = + - or @, which a spreadsheet computes, behind an "
        "apostrophe; without it text is written as it was read.",
    )


def add_jobs(parser: Parser, what: str) -> None:
    """Adds how many processes share many fits.

    Args:
        parser: Where to.
        what: The fits, in words.
    """
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help=f"Processes that share the {what}: of this machine, each with one thread, or as many "
        "as OMP_NUM_THREADS says. Results are the same for any number of them.",
    )
