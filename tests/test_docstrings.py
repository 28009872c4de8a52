"""Every public name says what a reader needs, by its kind; and the rules notice what does not."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import docstrings
import numpy as np
import pytest
import torch
from docstrings import faults_of_class, faults_of_function, faults_of_source, is_of_the_literature
from test_reference import documented
from torch import Tensor

import pyro_vae as pv
from pyro_vae._errors import expected, positive_integer


def _faults(what: Any) -> list[str]:
    of_kind = faults_of_class if inspect.isclass(what) else faults_of_function
    return [*of_kind(what), *(faults_of_source(what) if is_of_the_literature(what) else ())]


def test_every_public_name_says_what_a_reader_needs() -> None:
    """Arguments, shapes, units, what is returned and raised, and of methods the source."""
    everything = [
        each for each in documented() if inspect.isclass(each) or inspect.isfunction(each)
    ]
    found = {f"{each.__module__}.{each.__name__}": _faults(each) for each in everything}
    assert {name: faults for name, faults in found.items() if faults} == {}
    assert len(found) > 150
    assert sum(map(is_of_the_literature, everything)) > 70


def test_what_somebody_proposed_has_a_source_and_records_need_none() -> None:
    for method in (pv.priors.VampPrior, pv.objectives.IWAE, pv.networks.Bayesian, pv.evaluate,
                   pv.criticism.calibrate, pv.sklearn.VAEImputer, pv.VAE):  # fmt: skip
        assert is_of_the_literature(method), method
    for other in (pv.priors.Prior, pv.objectives.Objective, pv.Scores, pv.objectives.Terms,
                  pv.evaluation.accuracy, pv.save):  # fmt: skip
        assert not is_of_the_literature(other), other


def complete(x: Tensor, seed: int) -> Tensor:
    """Scores data.

    Args:
        x: Data, shape ``(N, D)``.
        seed: Of the draws.

    Returns:
        log p(x) in nats, shape ``(N,)``.

    Raises:
        ValueError: If the data are not finite.
    """
    if not x.isfinite().all():
        raise expected("x", "finite numbers", x)
    return x.sum(1) + seed


@pytest.mark.parametrize(
    ("told", "untold", "fault"),
    [
        ("        seed: Of the draws.\n", "", "seed: not described"),
        ("seed: Of the draws.", "seed:", "seed: not described"),
        ("Data, shape ``(N, D)``", "Data", "x: no shape, of Tensor"),
        ("Returns:", "Note:", "what it returns is not described"),
        (" in nats", "", "no unit of what it returns"),
        ("Raises:", "Note:", "no Raises"),
    ],
)
def test_what_is_not_told_is_noticed(
    told: str, untold: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(faults_of_function(complete)) == []
    text = inspect.cleandoc(complete.__doc__ or "")
    told = inspect.cleandoc(told) if told.startswith(" ") else told
    assert told in text
    monkeypatch.setattr(complete, "__doc__", text.replace(told, untold))
    assert list(faults_of_function(complete)) == ([fault] if fault else [])


@dataclass
class Record:
    """What a function returns.

    Attributes:
        log_marginal: log p(x), shape ``(N,)``.
        draws: Of z.
    """

    log_marginal: np.ndarray
    draws: np.ndarray
    seed: int

    def mean(self, over: int) -> Tensor:
        """Returns the mean."""
        return torch.tensor(self.log_marginal.mean(over))


def test_what_a_record_does_not_tell_is_noticed() -> None:
    assert list(faults_of_class(Record)) == [
        "log_marginal: no unit",
        "draws: no shape, of np.ndarray",
        "seed: not described",
        "mean(): over: not described",
        "mean(): no shape of what it returns, Tensor",
    ]


@pytest.mark.parametrize(
    ("references", "faults"),
    [
        ("References:\n    A (B, 2013), https://arxiv.org/abs/1312.6114\n", []),
        ("References:\n    A (B, 2013)\n", ["no address of a source"]),
        ("References:\n    A, https://b.org\n", ["no year of a source"]),
        ("", ["no year of a source", "no address of a source"]),
    ],
)
def test_a_source_has_a_year_and_an_address(references: str, faults: list[str]) -> None:
    part = type("Part", (), {"__doc__": f"Creates a part.\n\n{references}"})
    assert list(faults_of_source(part)) == faults


def test_checks_that_raise_are_known_by_name() -> None:
    """Fails when a function that asks a check of `_errors` is taken for one that cannot raise."""

    def asks(count: int) -> int:
        return positive_integer("count", count)

    def hands_on(count: int) -> object:
        return lambda: positive_integer("count", count)  # raises when that is called, elsewhere

    assert docstrings.raises(asks)
    assert not docstrings.raises(hands_on)
