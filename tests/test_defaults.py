"""What an option is by default is what the argument of the same meaning is from Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

import pyro_vae as pv
from pyro_vae.cli import VERBS
from pyro_vae.cli.completion import described
from pyro_vae.cli.fit import DEFAULT_PARTS
from pyro_vae.cli.parsing import ROLES, classes
from pyro_vae.criticism import calibrate, check
from pyro_vae.evaluation import (
    ais,
    compare,
    evaluate,
    gaps,
    outliers,
    probe,
    probe_features,
    rate_distortion,
    recommend,
    representative,
    top_words,
)
from pyro_vae.report import page, samples
from pyro_vae.selection import select
from pyro_vae.training.recipe import SHORT_FITS, SMALL_DATA, Recipe

CALLED: dict[str, tuple[Callable[..., Any], ...]] = {
    "fit": (pv.fit, pv.VAE, evaluate, pv.data.load),
    "inspect": (pv.data.load,),
    "evaluate": (evaluate, ais, gaps, pv.data.load),
    "check": (check, calibrate, pv.data.load),
    "compare": (evaluate, check, compare, pv.data.load),
    "select": (select, pv.fit, pv.VAE, pv.data.load),
    "sample": (pv.VAE.sample, samples),
    "impute": (pv.VAE.impute,),
    "encode": (pv.data.load,),
    "anomalies": (outliers, pv.data.load),
    "recommend": (recommend,),
    "probe": (probe, probe_features, pv.data.load),
    "rate-distortion": (rate_distortion, pv.data.load),
    "topics": (pv.data.load, representative, top_words),
    "report": (page, pv.data.load),
    "push": (pv.push, check, calibrate, pv.data.load),
}
# Options that are called like an argument, and are something else.
OTHERS = {
    ("check", "num_draws", calibrate): "of the check; a calibration ranks among fewer",
    ("push", "private", pv.push): "a flag, which leaves it to the account where it is not given",
    ("compare", "max_data", check): "of the data that are scored; a check takes fewer yet",
    **{
        (verb, "split", pv.data.load): "which data are looked at; there, how rows are held out"
        for verb in (
            "evaluate",
            "check",
            "compare",
            "anomalies",
            "probe",
            "rate-distortion",
            "topics",
        )
    },
    ("topics", "words", pv.data.load): "how many are printed; there, levels of columns",
    ("select", "seed", pv.fit): "of the selection, which has one for each fit",
    ("select", "seed", pv.VAE): "of the selection, which seeds the weights of each",
}
# The one recipe of the command line, and what makes a command repeatable.
STATED: dict[str, dict[str, Any]] = {
    "fit": {"seed": 0, **SMALL_DATA},
    "select": {**SMALL_DATA, "epochs": 60, **SHORT_FITS},
    "sample": {"seed": 0},
}
# Options that are no argument of what a verb calls, and why.
NO_ARGUMENTS = {
    "json": "how results are printed",
    "jobs": "what joblib.parallel_config says in Python",
    "program": "what is typed to be imported: in Python it is there",
    "out": "where they are written, which a program does itself",
    "config": "a file of options",
    "data_report": "asks for pv.data.inspect",
    "data_root": "root, of pv.data.load",
    "kind": "kinds, of pv.data.load",
    "covariate": "covariates, of pv.data.load",
    "group": "short for a split",
    "time": "short for a split",
    "latent_dim": "dim, of priors and guides, which have no default for it",
    "labelled": "labels, of pv.fit: an array there",
    "num_draws": "the default depends on how many checks there are",
    "run": "a folder in place of a model",
    "runs": "folders in place of models",
    "file": "the data",
    "users": "the data",
    "data": "the data",
    "cond": "columns, or a value; an array in Python",
    "size_factor": "a column, or a value; an array in Python",
    "split": "which data are looked at",
    "device": "that of the model, from Python",
    "strict": "the exit code",
    "all": "how much is printed",
    "safe": "how text is written",
    "html": "a page of the results",
    "checks": "asks for check",
    "num_fits": "of evaluation.impute, which has none unless it is given a function that fits",
    "ais": "asks for ais",
    "gaps": "asks for gaps",
    "top": "how many rows are printed",
    "label": "a column; an array in Python",
    "probabilities": "a file; an array in Python",
    "unseen": "of pv.data.load, whose other arguments the run records",
    "words": "how many are printed, of topics",
    "reconstruct": "a line of text; rows of levels in Python, of VAE.reconstruct",
    "between": "lines of text; z in Python, of VAE.decode",
    "sentences": "count, of evaluation.representative",
    "summarise": "a text file; counts of words in Python",
    "max_data": "which data are looked at",
    "num_samples": "of a verb that evaluates beside what it is for",
    "seed": "of what has no argument for it: a guide, or draws of several kinds",
    "missing": "of pv.data.load, whose default is checked under fit",
    "show_mask": "of VAE, whose default is checked under fit",
    "private": "a flag, which leaves it to the account where it is not given",
    "repo": "where a run goes, which an argument has no default for",
    "check": "asks for check and calibrate, whose results are arguments",
    "dry_run": "prints what would be sent, which from Python is in the repository",
}


def _alike(option: Any, argument: Any) -> bool:
    """Nothing is None on a command line, and may be an empty tuple in Python."""
    return option == argument or (option is None and argument == ())


@pytest.mark.parametrize("verb", CALLED)
def test_an_option_has_the_default_of_its_argument(verb: str) -> None:
    """Fails when either is changed alone, and when a stated exception is none any more."""
    parser = described(verb)
    stated, compared, used = STATED.get(verb, {}), set(), set()
    for name, option in vars(parser.get_defaults()).items():
        for function in () if name in ROLES else CALLED[verb]:
            argument = inspect.signature(function).parameters.get(name)
            if argument is None or argument.default is argument.empty:
                continue
            if (verb, name, function) in OTHERS:
                continue
            compared.add(name)
            if name in stated:
                used.add(name)
                assert option == stated[name], f"--{name} and {function.__name__}"
            else:
                assert _alike(option, argument.default), f"--{name} and {function.__name__}"
    assert used == set(stated)
    assert len(compared) > 0
    options = set(vars(parser.get_defaults())) - ROLES.keys()
    assert options - compared - NO_ARGUMENTS.keys() == set()


def test_every_verb_is_compared() -> None:
    """But for those whose options are no arguments of a function."""
    assert set(VERBS) - CALLED.keys() == {"completion", "compress", "decompress"}


def test_an_option_of_a_part_has_the_default_of_its_argument() -> None:
    """But for the dropout of the decoder, as what one fits first is small data."""
    parser, differ = described("fit"), {}
    known = parser.get_defaults()
    for role in ROLES:
        arguments = inspect.signature(classes(role)[known[f"{role}.class"]]).parameters
        for name, argument in arguments.items():
            if argument.default is argument.empty or (key := f"{role}.{name}") not in known:
                continue
            default, option = argument.default, known[key]
            if option != (list(default) if isinstance(option, list) else default):
                differ[key] = (option, default)
    assert differ == {"decoder.dropout": (0.2, 0.0)}


def test_the_walk_sees_what_it_should() -> None:
    """Fails when options are called otherwise than arguments, and none is compared."""
    known = {"evaluate": 7, "check": 4, "fit": 15, "select": 12}
    for verb, least in known.items():
        names = set(vars(described(verb).get_defaults()))
        taken = {n for each in CALLED[verb] for n in inspect.signature(each).parameters}
        assert len(names & taken) >= least, (verb, sorted(names & taken))


def test_a_recipe_has_the_defaults_of_a_fit() -> None:
    arguments = inspect.signature(pv.fit).parameters
    assert {each.name: each.default for each in fields(Recipe)} == {
        each.name: arguments[each.name].default for each in fields(Recipe)
    }


def test_what_is_no_option_is_alike_too() -> None:
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
    assert type(vae.encoder).__name__ == DEFAULT_PARTS["encoder"]
    assert type(vae.decoder).__name__ == DEFAULT_PARTS["decoder"]
    objective = inspect.signature(pv.fit).parameters["objective"].default
    assert objective is None  # which is this one
    assert DEFAULT_PARTS["objective"] == "ELBO"
