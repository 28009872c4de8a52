"""Rubbish for the command line, by Hypothesis: what ``rubbish.py`` runs.

Each case is what follows ``pyro-vae``, and the files that there are.
"""

from __future__ import annotations

import io
import random
from typing import Any, TypeAlias

import hypothesis.extra.numpy as arrays
import numpy as np
import yaml
from hypothesis import strategies as st

from pyro_vae import likelihoods, priors
from pyro_vae.cli.fit import DEFAULT_PARTS, fit_parser
from pyro_vae.cli.parsing import parts_of

Case: TypeAlias = tuple[list[str], dict[str, bytes]]
QUICK = ["--encoder.hidden", "[4]", "--decoder.hidden", "[4]", "--latent-dim", "2", "--epochs", "1"]
QUICK += ["--num-samples", "5", "--compile", "false", "--device", "cpu", "--json"]
LONG = ("--epochs", "--num-samples", "--compile", "--patience", "--config", "--data-root")
FLAGS = [
    flag
    for flag in fit_parser(parts_of([], {}, DEFAULT_PARTS), "fit", "").flags()
    if flag not in LONG and not flag.endswith(".help")
]
VERBS = ["fit", "evaluate", "sample", "check", "compare", "report", "select", "impute"]
VERBS += ["fitt", "", "--fit"]
word = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
number = st.one_of(
    st.integers(-3, 40).map(str),
    st.sampled_from(["nan", "inf", "-inf", "1e400", "-0", "1e-320", "0x10", str(2**70), "1_0"]),
    st.floats().map(str),
)
value = st.one_of(
    word,
    number,
    st.sampled_from(["true", "null", "[]", "[4,4]", "[0]", "[x]", "{}", "{a: 1}", "!!python/none"]),
    st.sampled_from(["digits.csv", "../x", "/", ".", "~", "/dev/null", "os.system", "Normal"]),
)
option = st.tuples(st.sampled_from([*FLAGS, "--likelihood", "--prior", "--nonsense"]), value)
leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), word)
tree = st.recursive(
    leaf,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(word, inner, max_size=3)),
    max_leaves=6,
)
key = st.one_of(st.sampled_from([flag[2:].replace("-", "_") for flag in FLAGS]), word)
law = st.sampled_from([*likelihoods.__all__, "Nothing"])
dtype = st.one_of(
    arrays.floating_dtypes(endianness="="),
    arrays.integer_dtypes(),
    arrays.boolean_dtypes(),
    arrays.complex_number_dtypes(),
    arrays.unicode_string_dtypes(max_len=3),
)
array = arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
cell = st.one_of(number, word, st.just(""), st.just('"'), st.just("1"))
table = st.lists(st.lists(cell, max_size=4).map(",".join), max_size=12).map("\n".join)
COLUMNS = ["0 1", "0 2 7", "0.5 -1.25 3", "u v w", "1 NA 0", "0.5 nan", "3"]
BESIDE = ["--missing", "--missing --show-mask", "--cond a", "--cond b,a", "--cond=", "--cond x"]
BESIDE += ["--size-factor a", "--size-factor b", "--labelled 3", "--labelled 0"]
beside = st.lists(st.sampled_from(BESIDE), max_size=2).map(lambda told: " ".join(told).split())


@st.composite
def tidy(draw: Any) -> str:
    """A table as one would write it, but perhaps for a cell."""
    columns = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4))
    chosen = random.Random(draw(st.integers(0, 99)))
    rows = [[chosen.choice(values.split()) for values in columns] for _ in range(24)]
    if draw(st.booleans()):
        chosen.choice(rows)[0] = draw(cell)
    names = [list("abcd"[: len(columns)])] if draw(st.booleans()) else []
    return "\n".join(map(",".join, names + rows))


@st.composite
def command(draw: Any) -> Case:
    """A command line: options that are, values that are not, or the other way round."""
    verb = draw(st.sampled_from(VERBS))
    operand = draw(st.one_of(st.sampled_from(["digits.csv", "digts", "nowhere"]), word))
    options = draw(st.lists(option, max_size=3))
    flat = [token for pair in options for token in pair]
    flat = draw(st.permutations(flat)) if draw(st.integers(0, 4)) == 0 else flat
    return [verb, operand, *(QUICK if verb == "fit" else []), *flat], {}


@st.composite
def config(draw: Any) -> Case:
    """A config file."""
    content = draw(st.one_of(st.dictionaries(key, tree, max_size=3), tree))
    text = draw(st.one_of(st.just(yaml.safe_dump(content)), word, st.just(f"{content!r}: !!a {{")))
    data = text.encode() if draw(st.integers(0, 3)) else draw(st.binary(max_size=40))
    return ["fit", "digits.csv", *QUICK, "--config", "made.yaml"], {"made.yaml": data}


@st.composite
def numbers(draw: Any) -> Case:
    """An array, perhaps a damaged one."""
    file, suffix = io.BytesIO(), draw(st.sampled_from([".npy", ".npz"]))
    if suffix == ".npy":
        np.save(file, draw(array))
    else:
        names = st.sampled_from(["x", "train", "test", "y", "y_train", "other"])
        np.savez(file, **draw(st.dictionaries(names, array, max_size=3)))
    content = file.getvalue()
    if draw(st.integers(0, 3)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    name = f"made{suffix}"
    return ["fit", name, *QUICK, "--likelihood", draw(law), *draw(beside)], {name: content}


@st.composite
def text(draw: Any) -> Case:
    """A CSV file."""
    written = st.one_of(table, tidy()).map(str.encode)
    content = draw(written if draw(st.integers(0, 5)) else st.binary(max_size=60))
    argv = ["fit", "made.csv", *QUICK, "--likelihood", draw(law), *draw(beside)]
    return [*argv, "--prior", draw(st.sampled_from(priors.__all__))], {"made.csv": content}
