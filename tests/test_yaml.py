"""YAML from outside: what is short in a file and endless when it is expanded."""

from __future__ import annotations

import time

import pytest
import yaml

from pyro_vae import _yaml

MOST = 2**16


def _nested(levels: int, of: str) -> str:
    """Each value nine times the one before."""
    text = "a0: &a0 {x: 1, y: 2}\n"
    for i in range(1, levels):
        text += f"a{i}: &a{i}{of}[{', '.join([f'*a{i - 1}'] * 9)}]\n"
    return text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_nested(9, "\n  <<: "), "values"),
        (_nested(60, "\n  <<: "), "values"),
        (_nested(9, " "), "values"),
        ("a: [" + "1," * MOST + "]", "values"),
        ("a: &a 1\nb: [" + "*a," * 5000 + "]", "aliases"),
        ("- " * 500, "levels"),
        ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 99)), "levels"),
        ("a: &a [*a]", "holds itself"),
        ("a: &a {<<: *a}", "holds itself"),
        ("a: 1" + ":1" * 10**5, "characters of a number"),
        ('a: !!int "1' + ":1" * 10**5 + '"', "characters of a number"),
    ],
    ids=["merges", "many merges", "aliases", "wide", "repeated", "deep", "a chain of aliases",
         "itself", "itself merged", "base 60", "base 60, tagged"],
)  # fmt: skip
@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_too_much_is_refused_before_anything_is_made_of_it(
    text: str, says: str, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails, after seconds or never, when values are made first and counted then."""
    monkeypatch.setattr(_yaml, "_Loader", getattr(yaml, loader, yaml.SafeLoader))
    began = time.process_time()
    with pytest.raises(_yaml.Excess, match=says):
        _yaml.load(text, MOST)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: {b: 1, c: [1, 2.5, yes, null, 2020-01-01]}",
        "d: &x {e: 1}\nf: {<<: *x, g: 2}\nh: [*x, *x]",
        f"a: {'x' * 5000}",
    ],
)
def test_what_is_not_too_much_is_what_yaml_reads(text: str) -> None:
    assert _yaml.load(text, MOST) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text", ['!!int ""', "!!bool x", "!!timestamp x", "!!float ''", "? [a]\n: 1"]
)
def test_a_value_that_is_not_of_its_kind_is_an_error_of_yaml_or_of_values(text: str) -> None:
    """Fails with an error of PyYAML's own workings, which no caller knows."""
    with pytest.raises((ValueError, yaml.YAMLError)):
        _yaml.load(f"a: {text}" if text[0] == "!" else text, MOST)
