"""Lines of text: how they are read, that their vocabulary goes along, and what a run says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from stopping import fit, same_run, signal_at

import pyro_vae as pv
from pyro_vae._signals import Interrupted
from pyro_vae.cli import main, table_files
from pyro_vae.cli.table_files import read_like
from pyro_vae.data.text import Vocabulary
from pyro_vae.engine import CompiledSVI
from pyro_vae.likelihoods import suggest

Fails = Callable[..., str]

SCRIPT = Path(__file__).parents[1] / "experiments" / "applications" / "text.py"
WORDS = ("king", "queen", "night", "day", "sea", "crown")
LINES = [f"the {a} is {b}" for a in WORDS for b in WORDS]
QUICK = ["--epochs", "1", "--latent-dim", "2", "--decoder.hidden", "[]", "--num-samples", "5",
         "--compile", "false", "--device", "cpu", "--batch-size", "16"]  # fmt: skip


def write(folder: Path, content: str | bytes, name: str = "lines.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def decoded(data: pv.data.Dataset) -> list[str]:
    assert data.vocabulary is not None
    return data.vocabulary.decode(torch.cat([data.train, data.validation, data.test]))


# Vocabularies.


def test_levels_are_symbols_by_their_order_and_ends() -> None:
    """By hand. Fails when a level is off by one, or the unknown has that of a symbol."""
    known = Vocabulary("characters", ("a", "b"), length=4)
    assert known.encode(["ab", "", "bbbbb"]).tolist() == [[1, 2, 0, 0], [0] * 4, [2] * 4]
    limited = Vocabulary("words", ("to", "be", ","), length=5, unknown=True)
    assert limited.levels == 5
    rows = limited.encode("to be, or be")
    assert rows.tolist() == [[2, 3, 4, 1, 3]]
    assert limited.decode(rows) == ["to be, � be"]
    # What follows an end is no part of a line.
    assert known.decode(torch.tensor([[1, 0, 2, 2]])) == ["a"]
    assert Vocabulary.from_spec(json.loads(json.dumps(limited.spec()))) == limited


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda v: v.encode("abc"),
            "`text`: expected one of the 2 symbols of the vocabulary, got 'c'",
        ),
        (lambda v: v.decode(torch.zeros(2, 3)), "`x`: expected shape (N, 4), as the vocabulary"),
        (lambda v: v.decode(torch.full((1, 4), 3.0)), "`x`: expected levels from 0 to 2"),
        (lambda v: v.decode(torch.full((1, 4), 0.5)), "`x`: expected levels from 0 to 2"),
        (lambda v: Vocabulary("letters", ("a",), 4), "`text`: expected one of characters, words"),
        (lambda v: Vocabulary("words", ("a", "a"), 4), "`symbols`: expected texts that are all"),
        (lambda v: Vocabulary.from_spec({"unit": "words"}), "`vocabulary`: expected a unit, a"),
    ],
)
def test_what_vocabularies_refuse(make: Callable[[Vocabulary], object], line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        make(Vocabulary("characters", ("a", "b"), length=4))
    assert len(str(error.value)) < 250


# Files.


def test_lines_of_a_file_come_back(tmp_path: Path) -> None:
    """Fails when a carriage return or the mark at the beginning counts as a character."""
    plain = pv.data.load(write(tmp_path, "\n".join(LINES) + "\n"))
    assert sorted(decoded(plain)) == sorted(LINES)
    assert plain.vocabulary is not None
    assert plain.vocabulary.symbols == tuple(sorted(set("".join(LINES))))
    other = b"\xef\xbb\xbf" + "\r\n".join(LINES).encode()
    same = pv.data.load(write(tmp_path, other, "windows.txt"))
    assert same.vocabulary == plain.vocabulary
    assert torch.equal(same.train, plain.train)
    # Only line breaks break lines: a form feed or another separator is a character.
    odd = pv.data.load(write(tmp_path, "a\x0cb\u2028c\nd\n" * 20, "odd.txt"))
    assert set(decoded(odd)) == {"a\x0cb\u2028c", "d"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cafe\u0301s, co\u0302te\u0301!", ["cafe\u0301s", ",", "co\u0302te\u0301", "!"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902", None),  # vowel signs
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 a", None),  # a joiner
        ("I \u2764\ufe0f you", None),
        ("naïve don't x_1", None),
    ],
)
def test_words_of_several_scripts_come_back(line: str, words: list[str] | None) -> None:
    """Fails where what is written over a letter ends its word, and a space follows it."""
    words = line.split(" ") if words is None else words
    known = Vocabulary("words", tuple(dict.fromkeys(words)), length=len(words))
    assert known.split(line) == words
    assert known.decode(known.encode(line)) == [line]


def test_words_and_rare_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "\n".join([*LINES, "the king isn't, is he?"]))
    every = pv.data.load(path, text="words")
    assert every.vocabulary is not None
    assert {"isn't", ",", "?"} <= set(every.vocabulary.symbols)
    assert "the king isn't, is he?" in decoded(every)
    caplog.clear()
    few = pv.data.load(path, text="words", vocabulary_size=8)
    assert few.vocabulary is not None
    assert (few.vocabulary.levels, few.vocabulary.unknown) == (10, True)
    assert few.vocabulary.symbols[:2] == ("is", "the")  # as often, by their letters
    assert (
        "took 4 symbols that the vocabulary lacks for one, unknown: 4 of 151 words" in caplog.text
    )
    assert "the king �� is ��" in decoded(few) or "the king � � is � �" in decoded(few)


def test_encodings(tmp_path: Path) -> None:
    """Never guessed: a file in another encoding is refused, and read by its name."""
    path = write(tmp_path, "été à Orléans\n".encode("latin-1") * 20)
    with pytest.raises(
        ValueError, match=r"`data`: expected a text in UTF-8, got .*--encoding latin-1"
    ):
        pv.data.load(path)
    assert set(decoded(pv.data.load(path, encoding="latin-1"))) == {"été à Orléans"}
    wide = write(tmp_path, "\n".join(LINES).encode("utf-16"), "wide.txt")
    assert sorted(decoded(pv.data.load(wide, encoding="utf-16"))) == sorted(LINES)


def test_long_lines_are_cut_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "\n".join([*LINES, "x" * 300, "", "   "]))
    default = pv.data.load(path)
    assert default.event_shape == (256,)
    assert "x" * 256 in decoded(default)
    assert "left out 2 lines without a character" in caplog.text
    assert (
        "cut 1 line of more than 256 characters, up to 300; `max_length` (--max-length)"
        in caplog.text
    )
    assert sorted(decoded(pv.data.load(path, too_long="drop"))) == sorted(LINES)
    longest = max(map(len, LINES))
    dropped = pv.data.load(path, too_long="drop", max_length=longest)
    assert sorted(decoded(dropped)) == sorted(LINES)
    # A line of as many characters as a row has no end; the next shorter one has.
    full = dropped.train[(dropped.train != 0).all(1)]
    assert len(full) == sum(len(line) == longest for line in decoded(dropped)[: len(dropped.train)])


@pytest.mark.parametrize(
    ("content", "options", "line"),
    [
        ("", {}, "`data`: expected lines of text that are not all empty or too long, got 1"),
        ("\n \n\t\n", {}, "`data`: expected lines of text that are not all empty or too long"),
        ("1 2\n3 4\n", {}, "got numbers in lines.txt: a copy that ends in .csv is read as a table"),
        ("1.5\n-2e3\n", {}, "`text` (--text characters) reads them as text"),
        (
            "a\nb",
            {"sep": ";"},
            "`sep`: expected nothing with a .txt file, of lines of text, got ';'",
        ),
        ("a\nb", {"text": "letters"}, "`text`: expected one of characters, words, got 'letters'"),
        ("a\nb", {"too_long": "keep"}, "`too_long`: expected one of cut, drop, got 'keep'"),
        ("a\nb", {"max_length": 1}, "`max_length`: expected two or more, got 1"),
        ("a\nb", {"vocabulary_size": 0}, "`vocabulary_size`: expected a positive integer, got 0"),
        ("abc\nabd", {"max_length": 2, "too_long": "drop"}, "not all empty or too long"),
    ],
)
def test_mistakes_about_files_are_one_line(
    content: str, options: dict[str, object], line: str, tmp_path: Path
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        pv.data.load(path, **options)  # type: ignore[arg-type]
    assert len(str(error.value)) < 250
    assert "\n" not in str(error.value)


def test_numbers_are_a_text_where_they_are_asked_for_as_one(tmp_path: Path) -> None:
    lines = [f"{i} {i * i}" for i in range(30)]
    path = write(tmp_path, "\n".join(lines))
    assert sorted(decoded(pv.data.load(path, text="characters"))) == sorted(lines)


def test_lines_are_not_read_again_as_a_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By encode and anomalies, which refused such numbers, or told of another length."""
    path = write(tmp_path, "\n".join(f"{i} {i * i}" for i in range(30)))
    data = pv.data.load(path, text="characters", max_length=4)
    caplog.clear()
    assert read_like(str(path), data) is None
    assert caplog.text == ""


def test_lines_name_themselves_where_empty_ones_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a row of `anomalies` is known by its place among those kept alone."""
    path = str(write(tmp_path, "\n".join([LINES[0], "", *LINES[1:9]])))
    data = pv.data.load(path, validation=0, test=0)
    monkeypatch.setattr(table_files, "recorded_source", lambda _, source: (source, None))
    named = table_files.names_of_rows(tmp_path, data, data, path, "train")
    assert sorted(named["text"]) == sorted(LINES[:9])
    assert named["text"] == decoded(data)


@pytest.mark.parametrize(
    "likelihood",
    [
        pv.likelihoods.Normal,
        lambda shape: pv.likelihoods.Categorical(shape, levels=19),
        lambda shape: pv.likelihoods.Autoregressive(shape, levels=19, network="gru"),
    ],
)
def test_a_likelihood_without_the_end_of_lines_is_refused(likelihood: Any, tmp_path: Path) -> None:
    """Fails when it is fitted, and what fills a row after its end is data: it has a density."""
    data = pv.data.load(write(tmp_path, "\n".join(LINES)))
    assert data.vocabulary is not None
    assert (data.vocabulary.levels, data.vocabulary.end) == (19, 0)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood(data.event_shape))
    with pytest.raises(ValueError, match=r"`likelihood`: expected Autoregressive with the 19 symb"):
        pv.fit(vae, data, epochs=1)


def test_options_of_text_are_of_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    for data in (path, torch.rand(20, 3)):
        with pytest.raises(ValueError, match="`max_length`: expected None with data that are no"):
            pv.data.load(data, max_length=5)


def test_new_lines_are_read_by_the_vocabulary_of_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails when levels are counted anew, or rows are as long as the new lines."""
    data = pv.data.load(write(tmp_path, "\n".join(LINES)))
    caplog.clear()
    some = pv.data.load(write(tmp_path, "\n".join(LINES[7:9]), "some.txt"), like=data)
    assert some.vocabulary == data.vocabulary
    assert decoded(some) == LINES[7:9]
    assert caplog.text == ""
    long = pv.data.load(write(tmp_path, "the sea " * 9, "long.txt"), like=data)
    assert long.event_shape == data.event_shape
    assert "cut 1 line of more than 18 characters, the most that the model takes" in caplog.text
    strange = write(tmp_path, "the day\nthe Zoo", "strange.txt")
    wanted = "`data`: expected one of the 18 symbols of the vocabulary in line 2, got 'Z'; "
    with pytest.raises(ValueError, match=re.escape(wanted)) as error:
        pv.data.load(strange, like=data)
    assert "--vocabulary-size" in str(error.value)
    limited = pv.data.load(tmp_path / "lines.txt", vocabulary_size=15)
    assert limited.vocabulary is not None
    assert set("the o") <= set(limited.vocabulary.symbols)
    assert decoded(pv.data.load(strange, like=limited))[1] == "the �oo"
    with pytest.raises(ValueError, match=r"`data`: expected a file of lines of text, as lines.txt"):
        pv.data.load(write(tmp_path, "a,b\n1,2\n", "table.csv"), like=data)


# Models.


def test_what_text_calls_for(tmp_path: Path) -> None:
    data = pv.data.load(write(tmp_path, "\n".join(LINES)))
    found = suggest(data).likelihood
    assert found == {"class": "Autoregressive", "levels": 19, "network": "gru", "end": 0}


def some_vae(seed: int = 0, network: str = "gru", **options: object) -> pv.VAE:
    pyro.set_rng_seed(seed)
    return pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Autoregressive((6,), 4, 8, network=network, end=0, **options),  # type: ignore[arg-type]
        pv.networks.SequenceEncoder(4, 8, network="pooling", end=0),
        pv.networks.MLP(()),
    )


def some_rows(count: int = 30) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(4, (count, 6), generator=generator).float()
    return x.masked_fill((x == 0).cumsum(1) > 0, 0.0)


@pytest.mark.parametrize("network", ["gru", "transformer", "pooling"])
def test_encoders_do_not_see_what_follows_an_end(network: str) -> None:
    """Fails when padding is embedded, or pooled over."""
    torch.manual_seed(0)
    encoder = pv.networks.SequenceEncoder(4, 8, network=network, end=0)  # type: ignore[arg-type]
    encoder.build((6,), (3,))
    x = torch.tensor([[1.0, 2, 3, 0, 0, 0], [1, 2, 3, 0, 2, 1], [1, 2, 0, 0, 0, 0]])
    first, other, shorter = encoder(x)
    torch.testing.assert_close(first, other)
    assert (first - shorter).abs().max() > 1e-3
    # The end itself is seen: a line that goes on is another one.
    cut = encoder(torch.tensor([[1.0, 2, 3, 1, 1, 1]]))[0]
    assert (first - cut).abs().max() > 1e-3


def test_encoders_of_levels_refuse_what_are_none() -> None:
    """Each was read as a level, or trained by no gradient, in silence."""
    encoder, normal = pv.networks.SequenceEncoder, (pv.priors.Normal(2), pv.guides.Normal(2))
    for parts, line in (
        (lambda: (*normal, pv.likelihoods.Normal((6,)), encoder(4)),
         "`encoder`: expected a network of numbers, such as MLP, with Normal"),
        (lambda: (*normal, pv.likelihoods.Categorical((6,), 5), encoder(4)),
         "`encoder`: expected 5 levels, as the likelihood has, got 4"),
        (lambda: (pv.priors.VampPrior(2), normal[1], pv.likelihoods.Categorical((6,), 4),
                  encoder(4)), "`prior`: expected one whose pseudo-inputs are levels"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(line)):
            pv.VAE(*parts())
    with pytest.raises(ValueError, match="`show_mask`: expected False with SequenceEncoder"):
        pv.VAE(*normal, pv.likelihoods.Categorical((6,), 4), encoder(4), show_mask=True)
    vae = pv.VAE(*normal, pv.likelihoods.Categorical((6,), 4), encoder(4))
    with pytest.raises(ValueError, match="`mask`: expected None with SequenceEncoder"):
        vae.encode(some_rows(), mask=torch.ones(30, 6, dtype=torch.bool))
    vamp = pv.priors.VampPrior(2, inputs="data", pseudo_inputs=3)
    vae = pv.VAE(vamp, pv.guides.Normal(2), pv.likelihoods.Categorical((6,), 4), encoder(4))
    vae.initialize(some_rows())
    assert vae.sample(3).shape == (3, 6)


def test_scores_count_entries_up_to_the_end() -> None:
    """Bits are of a character or end. Fails when what fills rows is counted."""
    x = torch.tensor([[1.0, 2, 3, 0, 0, 0], [1, 1, 1, 1, 1, 2]])
    vae = some_vae()
    found = pv.evaluate(vae, x, num_samples=10).summary()
    bits = -found["log_marginal"] / (5 * torch.tensor(2.0).log().item())  # 4 and 6 of them
    assert found["bits_per_dim"] == pytest.approx(bits, rel=1e-6)
    assert found["base_measure"]["dim"] == 6
    # As any row of levels, where nothing ends.
    vae.likelihood.end = None
    found = pv.evaluate(vae, x, num_samples=10).summary()
    bits = -found["log_marginal"] / (6 * torch.tensor(2.0).log().item())
    assert found["bits_per_dim"] == pytest.approx(bits, rel=1e-6)


@pytest.mark.long
def test_a_stopped_fit_of_text_ends_as_if_it_had_not_been(
    tmp_path: Path, interruptible: None
) -> None:
    """Fails when the state of the words that are dropped is not put back."""

    def build(seed: int = 0) -> pv.VAE:
        return some_vae(seed, word_dropout=0.3)

    whole = fit(build(), some_rows())
    with signal_at(6, 2), pytest.raises(Interrupted):
        fit(build(), some_rows(), out=tmp_path / "run")
    assert same_run(whole, fit(build(5), some_rows(), out=tmp_path / "run", resume=True))
    again = pv.load(tmp_path / "run")
    assert again.likelihood.spec() == whole.vae.likelihood.spec()
    assert torch.equal(again.sample(5, seed=1), whole.vae.sample(5, seed=1))


@pytest.mark.long
@pytest.mark.parametrize("network", ["convolutions", "gru", "transformer"])
def test_graphs_have_the_losses_of_the_program(network: str, interpreted: None) -> None:
    """All steps of a fit, by the captured graph and without one."""
    losses = []
    for captured in (False, True):
        pyro.clear_param_store()
        vae = some_vae(network=network).double()
        svi = CompiledSVI(
            vae.model, vae.guide, lambda p: torch.optim.Adam(p, lr=0.01), pv.objectives.ELBO(),
            compile=captured,
        )  # fmt: skip
        pyro.set_rng_seed(3)
        losses.append([svi.step(some_rows(8).double()) for _ in range(4)])
        assert ("eager" in svi.engine_steps) != captured
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


# Runs.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, and a run of it; do not write to it."""
    folder = tmp_path_factory.mktemp("text")
    path = write(folder, "\n".join(LINES))
    assert main(["fit", str(path), *QUICK, "--out", str(folder / "run")]) == 0
    return folder


def test_a_run_keeps_its_vocabulary(run: Path) -> None:
    kept = json.loads((run / "run" / "vocabulary.json").read_text())
    assert kept["symbols"] == sorted(set("".join(LINES)))
    assert Vocabulary.from_spec(kept) == pv.data.load(run / "lines.txt").vocabulary
    lines = (run / "run" / "samples.txt").read_text().splitlines()
    assert all(set(line) <= set(kept["symbols"]) for line in lines)
    rebuilt = (run / "run" / "reconstructions.txt").read_text().split("\n\n")
    assert rebuilt[0].split("\n")[0] in LINES
    assert not list((run / "run").glob("samples.png"))


def test_a_run_writes_lines(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What is printed is the model's: the same draws, and the greedy line at the mean of z."""
    folder = str(run / "run")
    vae, vocabulary = pv.load(folder), pv.data.load(run / "lines.txt").vocabulary
    assert isinstance(vae, pv.VAE)
    assert vocabulary is not None
    capsys.readouterr()
    assert main(["sample", folder, "-n", "3", "--seed", "4", "--json"]) == 0
    pyro.set_rng_seed(4)
    assert json.loads(capsys.readouterr().out) == {"lines": vocabulary.decode(vae.sample(3))}
    x = vocabulary.encode(["the sea is day", "the king is sea"])
    assert main(["sample", folder, "--reconstruct", "the sea is day"]) == 0
    assert capsys.readouterr().out == vocabulary.decode(vae.reconstruct(x))[0] + "\n"
    assert main(["sample", folder, "--between", "the sea is day", "the king is sea", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["lines"]
    assert [lines[0], lines[-1]] == vocabulary.decode(vae.reconstruct(x))
    assert len(lines) == 7
    rows = tmp_path / "between.npy"  # which held draws
    words = ["sample", folder, "--between", "the sea is day", "the king is sea", "--json"]
    assert main([*words, "--out", str(rows)]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [7, 18]
    assert vocabulary.decode(torch.from_numpy(np.load(rows))) == lines
    out = tmp_path / "drawn.txt"
    assert main(["sample", folder, "-n", "3", "--seed", "4", "--out", str(out)]) == 0
    pyro.set_rng_seed(4)
    assert out.read_text().splitlines() == vocabulary.decode(vae.sample(3))


@pytest.mark.long
def test_a_run_reads_by_its_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    """Fails when new data of the run are read by another one, or the run cannot find its own."""
    path = write(tmp_path, "\n".join(f"{a} à la mère" for a in WORDS).encode("latin-1"))
    out = str(tmp_path / "run")
    assert "--encoding latin-1" in fails("fit", str(path), *QUICK)
    assert main(["fit", str(path), "--encoding", "latin-1", *QUICK, "--out", out]) == 0
    assert main(["evaluate", out, "--num-samples", "5", "--split", "train", "--json"]) == 0
    new = write(tmp_path, "day à la mère\n".encode("latin-1"), "new.txt")
    capsys.readouterr()
    assert main(["evaluate", out, "--data", str(new), "--num-samples", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["base_measure"]["counted"] == len("day à la mère") + 1


def test_a_run_scores_another_text(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """By the levels of the run, and says once what it did. Fails when it reads them anew."""
    path = write(tmp_path, "\n".join(["the sea", "the day is the night", "", "see"]), "other.txt")
    capfd.readouterr()
    caplog.clear()
    words = ["evaluate", str(run / "run"), "--data", str(path), "--num-samples", "5", "--json"]
    assert main(words) == 0
    found = json.loads(capfd.readouterr().out)
    vocabulary = pv.data.load(run / "lines.txt").vocabulary
    assert vocabulary is not None
    x = vocabulary.encode(["the sea", "the day is the nig", "see"])
    scores = pv.evaluate(pv.load(run / "run"), x, num_samples=5, seed=0)
    assert found["elbo"] == pytest.approx(scores.elbo.mean(), abs=0.2)
    notes = [record.getMessage() for record in caplog.records if "other.txt" in record.getMessage()]
    assert notes == [
        "other.txt: left out 1 line without a character",
        "other.txt: cut 1 line of more than 18 characters, the most that the model takes; the "
        "longest has 20",
    ]


def test_mistakes_are_one_line(run: Path, tmp_path: Path, fails: Fails) -> None:
    folder, text = str(run / "run"), str(run / "lines.txt")
    strange = str(write(tmp_path, "the Zoo", "strange.txt"))
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "1.5,2\n" * 20)
    bare = str(tmp_path / "bare")
    assert main(["fit", str(table), "--epochs", "1", "--latent-dim", "1", "--compile", "false",
                 "--likelihood", "Normal", "--num-samples", "5", "--out", bare]) == 0  # fmt: skip
    for words, line in (
        (["sample", folder, "--reconstruct", "Zoo"], "`--reconstruct`: expected one of the 18"),
        (["sample", folder, "--reconstruct", "the sea " * 5], "expected lines of at most 18 char"),
        (["sample", folder, "--reconstruct", "sea", "--between", "sea", "day"],
         "`--reconstruct`: expected nothing beside --between"),
        (["sample", bare, "--reconstruct", "sea"], "expected nothing, as the run is not of text"),
        (["sample", bare, "--out", str(tmp_path / "x.txt")], "as the run is not of text"),
        (["sample", folder, "--out", str(tmp_path / "x.png")], "a .txt or .npy file, as the run"),
        (["evaluate", folder, "--data", strange], "of the vocabulary in line 1, got 'Z'"),
        (["evaluate", folder, "--data", str(table)], "expected a file of lines of text, as lines"),
        (["evaluate", bare, "--data", text], "expected a file of no text, as table.csv was"),
        (["fit", text, "--text", "letters"], "`--text`"),
        (["fit", text, "--encoder.hidden", "8"], "name the encoder: --encoder SequenceEncoder"),
        (["fit", str(table), "--encoder.hidden", "8"], "expected a list such as [200,200], got"),
        # Scores of other rows are no choice between models.
        (["select", text, "--max-length", "8,12"], "`--max-length`: expected"),
        (["inspect", text, "--out", str(tmp_path / "s.yaml")], "`--out`: expected nothing with"),
    ):  # fmt: skip
        said = fails(*words)
        assert line in said
        assert len(said) < 250


def test_a_text_is_inspected(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join([*LINES, "", "the sea"]), "some.txt")
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["lines"], found["without_a_character"]) == (37, 1)
    assert found["words"] == {"different": 8, "median_length": 4, "longest": 4}
    assert found["characters"]["longest"] == 18
    assert main(["inspect", str(path)]) == 0
    assert "some.txt: 37 lines of text, each an observation" in capsys.readouterr().out


@pytest.mark.slow
def test_the_experiment_runs() -> None:
    """Its small version: a fit of each recipe."""
    done = subprocess.run([sys.executable, str(SCRIPT), "--smoke"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "language-model, seed 0" in done.stdout


@pytest.mark.long
def test_the_program_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = SCRIPT.parents[2] / "docs" / "gallery" / "text.md"
    (program,) = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    short = program.replace("epochs=6", "epochs=1, compile=False")
    assert short != program
    write(tmp_path, "\n".join([*LINES, "My lord, I know not.", "Good night."]))
    monkeypatch.chdir(tmp_path)
    exec(short, {})
    assert len(capsys.readouterr().out.splitlines()) == 2
