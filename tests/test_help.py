"""What a new user reads: ``--help`` of every verb, its examples, and what a shell completes."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pyro_vae.cli import VERBS, main
from pyro_vae.cli.completion import described
from pyro_vae.cli.help import EXAMPLES, help_text
from pyro_vae.cli.parsing import ROLES, classes, parser_of_part
from pyro_vae.cli.synonyms import OPTIONS, SYNONYMS

LEFTOVERS = r"type:|required|known subclasses|Union\[|Optional\[|Literal\[|<class|ITEM|``|:class:"


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_on_a_screen(verb: str) -> None:
    """80 lines of 80 columns, in words, with examples at the end."""
    text = described(verb).format_help()
    lines = text.splitlines()
    assert len(lines) <= 80
    assert [line for line in lines if len(line) > 80] == []
    assert re.findall(LEFTOVERS, text) == []
    assert text.endswith("".join(f"  pyro-vae {each}\n" for each in EXAMPLES[verb]))
    assert 2 <= len(EXAMPLES[verb]) <= 3


def test_all_options_of_a_fit_are_under_help_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help-all"]) == 0
    text, parser = capsys.readouterr().out, described("fit")
    assert [flag for flag in parser.flags() if not flag.endswith("+") and flag not in text] == []
    assert re.findall(LEFTOVERS, text) == []
    assert "--describe" not in text
    assert [line for line in text.splitlines() if len(line) > 80] == []
    short = parser.format_help()
    assert len(short) < len(text) / 2
    assert "--decoder.dropout" not in short


@pytest.mark.parametrize("role", ROLES)
def test_options_of_parts_are_in_words(role: str) -> None:
    for name in classes(role):
        text = help_text(parser_of_part(role, name), None, everything=True, verbatim=True)
        assert re.findall(LEFTOVERS, text) == [], name


@pytest.mark.parametrize("example", [each for all_ in EXAMPLES.values() for each in all_])
def test_an_example_is_parsed(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when an example has an option, or a value, that its verb does not take."""
    verb, *words = shlex.split(example.partition(" > ")[0])
    module = import_module(f"pyro_vae.cli.{verb.replace('-', '_')}")
    parsed: list[Any] = []

    class Stop(Exception):
        pass

    real: Callable[..., Any] = module.parse

    def parse(*args: Any) -> Any:
        parsed.append(real(*args))
        if verb != "select" or len(parsed) == 2:  # whose values are parsed one after the other
            raise Stop
        return parsed[-1]

    monkeypatch.setattr(module, "parse", parse)
    if verb == "select":
        monkeypatch.setattr(module, "suggested", lambda *args: None)
    with pytest.raises(Stop):
        module.run(words)
    assert len(parsed) == 1 + (verb == "select")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--prior Gaussian", "Normal"),
        ("--prior gaussian_mixture", "Mixture"),
        ("--prior Mixtur", "Mixture"),
        ("--likelihood.help Gaussian", "Normal"),
        ("--likelihood logistic", "DiscretizedLogistic"),
        ("--likelihood NB", "NegativeBinomial"),
        ("--prior Categorical --guide Concrete", "GumbelSoftmax"),
        ("--objective beta-VAE", "ELBO"),
        ("--encoder CNN", "ConvEncoder"),
        ("--encoder ConvDecoder", "ConvEncoder"),
        ("--decoder ConvEncoder", "ConvDecoder"),
    ],
)
def test_a_name_of_the_field_is_answered_with_ours(
    words: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "digits", *words.split()]) == 2
    said = capsys.readouterr().err
    hint = f"did you mean {meant!r}?"
    # Of many names it is read before them.
    assert said.endswith(f" ({hint})\n") or f"`: {hint} expected one of" in said
    assert (f"`: {hint}" in said) == (said.count(", ") > 5)
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "typed", "meant"),
    [
        ("fit digits", "--learningrate", "--lr"),
        ("fit digits", "--learning_rate=1", "--lr"),
        ("fit digits", "--batchsize", "--batch-size"),
        ("fit digits", "--n-epochs", "--epochs"),
        ("fit digits", "--latent", "--latent-dim"),
        ("fit digits", "--hidden", "--encoder.hidden"),
        ("fit digits", "--beta", "--objective.beta"),
        ("evaluate RUN", "--samples", "--num-samples"),
        ("fit digits", "--epoch", "--epochs"),
    ],
)
def test_another_name_of_an_option_is_answered_with_ours(
    verb: str, typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where letters alone decide, by which a learning rate is like a covariate."""
    assert main([*verb.split(), typed, "3"]) == 2
    assert f"no such option, did you mean {meant!r}?" in capsys.readouterr().err


def test_options_with_other_names_are_options() -> None:
    flags = {flag for verb in VERBS for flag in described(verb).flags()}
    assert set(OPTIONS) <= flags


def test_synonyms_are_of_parts_that_there_are() -> None:
    known = {role: classes(role) for role in ROLES}
    assert set(SYNONYMS) <= {name for names in known.values() for name in names}
    others = ["ConvEncoder", "SequenceEncoder", "TemporalConvEncoder"]
    assert list(known["encoder"]) == ["MLP", *others]
    assert list(known["decoder"]) == ["MLP", "ConvDecoder", "TemporalConvDecoder", "TopicDecoder"]


def _completed(script: Path, line: str) -> list[str]:
    """What bash offers at the end of a line."""
    words = line.split(" ")
    code = (
        f"source {script}; COMP_WORDS=({' '.join(map(shlex.quote, words))}); "
        f"COMP_CWORD={len(words) - 1}; COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}; "
        "$(complete -p pyro-vae | grep -o -- '-F [^ ]*' | cut -c4-) pyro-vae; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    ran = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return ran.stdout.split()


def test_bash_completes_commands_options_and_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "pyro-vae.bash"
    script.write_text(capsys.readouterr().out)
    assert _completed(script, "pyro-vae ev") == ["evaluate"]
    assert "--latent-dim" in _completed(script, "pyro-vae fit --la")
    assert _completed(script, "pyro-vae fit --prior V") == ["VampPrior"]
    assert _completed(script, "pyro-vae fit --encoder C") == ["ConvEncoder"]
    assert "--prior.pseudo-inputs" in _completed(script, "pyro-vae fit --prior.")
    assert "--describe" not in script.read_text()


def test_a_shell_that_is_unknown_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bsh"]) == 2
    assert "did you mean 'bash'?" in capsys.readouterr().err
