"""What an option is by default is what the argument of the same meaning is from Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest

import pyro_vae as pv
from pyro_vae.cli import _VERBS
from pyro_vae.cli.fit import DEFAULT_PARTS
from pyro_vae.cli.parsing import ROLES, Parser
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
    "probe": (probe, probe_features, pv.data.load),
    "rate-distortion": (rate_distortion, pv.data.load),
    "report": (page, pv.data.load),
}
# Options that are called like an argument, and are something else.
OTHERS = {
    ("check", "num_draws", calibrate): "of the check; a calibration ranks among fewer",
    ("compare", "max_data", check): "of the data that are scored; a check takes fewer yet",
    **{
        (verb, "split", pv.data.load): "which data are looked at; there, how rows are held out"
        for verb in ("evaluate", "check", "compare", "anomalies", "probe", "rate-distortion")
    },
    ("select", "seed", pv.fit): "of the selection, which has one for each fit",
    ("select", "seed", pv.VAE): "of the selection, which seeds the weights of each",
}
# The one recipe of the command line, and what makes a command repeatable.
STATED: dict[str, dict[str, Any]] = {
    "fit": {"seed": 0, **SMALL_DATA},
    "select": {**SMALL_DATA, "epochs": 60, **SHORT_FITS},
    "sample": {"seed": 0},
}
OPERANDS = {"fit": ["digits"], "select": ["digits"], "compare": ["a", "b"]}


class _Seen(Exception):
    """Carries the parser of a verb."""

    def __init__(self, parser: Parser) -> None:
        super().__init__()
        self.parser = parser


def _parser(verb: str, monkeypatch: pytest.MonkeyPatch) -> Parser:
    module = import_module(f"pyro_vae.cli.{verb.replace('-', '_')}")

    def stop(parser: Parser, *args: Any) -> None:
        raise _Seen(parser)

    monkeypatch.setattr(module, "parse", stop)
    with pytest.raises(_Seen) as seen:
        module.run(OPERANDS.get(verb, ["a"]))
    return seen.value.parser


def _alike(option: Any, argument: Any) -> bool:
    """Nothing is None on a command line, and may be an empty tuple in Python."""
    return option == argument or (option is None and argument == ())


@pytest.mark.parametrize("verb", _VERBS)
def test_an_option_has_the_default_of_its_argument(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when either is changed alone, and when a stated exception is none any more."""
    parser = _parser(verb, monkeypatch)
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


def test_the_walk_sees_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when options are called otherwise than arguments, and none is compared."""
    known = {"evaluate": 7, "check": 4, "fit": 15, "select": 12}
    for verb, least in known.items():
        names = set(vars(_parser(verb, monkeypatch).get_defaults()))
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
