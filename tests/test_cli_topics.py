"""``pyro-vae topics``: from a sparse matrix and a list of words to topics and a summary."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from pyro_vae.cli import main

SCRIPT = Path(__file__).parents[1] / "experiments" / "applications" / "topics.py"
ABOUT = (
    "ship sail wind harbour crew",
    "goal ball match team score",
    "oven flour bread salt butter",
)
WORDS = " ".join(ABOUT).split()
PARTS = ["--likelihood", "Multinomial", "--prior", "LogisticNormal", "--decoder", "TopicDecoder"]
QUICK = ["--encoder.hidden", "[16]", "--encoder.norm", "batch", "--decoder.form", "mixture",
         "--decoder.dropout", "0", "--lr", "0.02", "--batch-size", "50", "--epochs", "40",
         "--num-samples", "5", "--compile", "false", "--device", "cpu"]  # fmt: skip
LETTER = """The wind rose at dawn, and the ship left the harbour with all its sail. The crew sang.
"The wind!" they cried: wind, ship, sail.

Nobody had asked about the bread. Was there salt? The crew and the ship, the sail and the wind
were all that anyone spoke of."""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files and a run of three planted topics; do not write to it."""
    folder = tmp_path_factory.mktemp("posts")
    random = np.random.default_rng(0)
    topics = (np.kron(np.eye(3), np.ones(5)) + 0.02) / (5 + 15 * 0.02)
    shares = random.dirichlet(np.full(3, 0.2), 500) @ topics
    posts = np.stack([random.multinomial(25, p) for p in shares])
    sparse.save_npz(folder / "posts.npz", sparse.csr_matrix(posts))
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n")
    files = [str(folder / "posts.npz"), "--names", str(folder / "words.txt")]
    out = str(folder / "run")
    assert main(["fit", *files, *PARTS, "--latent-dim", "3", *QUICK, "--out", out]) == 0
    (folder / "words.txt").unlink()  # the words travel with the run
    (folder / "letter.txt").write_text(LETTER)
    return folder


def test_topics_have_the_words_that_were_planted(
    fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(fitted / "run")
    assert main(["topics", run, "--words", "5", "--split", "train", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(sorted(each["words"]) for each in found["topics"]) == sorted(
        sorted(words.split()) for words in ABOUT
    )
    shares = [each["share"] for each in found["topics"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert found["npmi"] == pytest.approx(np.mean([each["npmi"] for each in found["topics"]]))
    assert found["npmi"] > 0
    assert found["diversity"] == pytest.approx(1 / 3)  # of all fifteen words in each
    assert main(["topics", run, "--words", "5", "--max-data", "20"]) == 0
    shown = capsys.readouterr().out
    assert "3 topics in 20 documents of posts.npz" in shown
    assert all(word in shown for word in WORDS)


def test_a_text_has_topics_key_words_and_sentences(
    fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["topics", str(fitted / "run"), "--summarise", str(fitted / "letter.txt")]
    assert main([*command, "--words", "5", "--sentences", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["known_words"] == 15
    first = found["topics"][0]
    assert sorted(first["words"]) == sorted(ABOUT[0].split())
    assert first["share"] > 0.5
    assert set(found["key_words"]) == set(ABOUT[0].split())
    # Most of what the letter is about is in its first sentence; what one says, the next need not.
    assert found["sentences"][0].startswith("The wind rose at dawn")
    assert len(set(found["sentences"])) == 2
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "key words: " in shown
    assert "\n- The wind rose at dawn, and the ship left the harbour with all its sail." in shown


def test_mistakes_are_one_line(fitted: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    run = str(fitted / "run")
    (tmp_path / "other.txt").write_text("Nothing that it knows.")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    bare = str(tmp_path / "bare")
    assert main(["fit", str(fitted / "posts.npz"), *PARTS, "--latent-dim", "2", *QUICK,
                 "--epochs", "1", "--out", bare]) == 0  # fmt: skip
    plain = str(tmp_path / "plain")
    assert main(["fit", str(fitted / "posts.npz"), *PARTS[:2], *QUICK[:2], "--epochs", "1",
                 "--latent-dim", "2", "--compile", "false", "--num-samples", "5", "--out", plain
                 ]) == 0  # fmt: skip
    text = str(fitted / "letter.txt")
    for words, line in (
        ([run, "--words", "0"], "`--words`: expected a positive integer, got 0"),
        ([run, "--words", "16"], "`--words`: expected at most 15, the number of words, got 16"),
        ([run, "--sentences", "-1"], "`--sentences`: expected a positive integer"),
        ([run, "--summarise", "none.txt"], "`--summarise`: expected an existing text file"),
        ([run, "--summarise", str(tmp_path / "other.txt")], "some of the 15 words of the run"),
        ([run, "--summarise", str(tmp_path / "bytes.txt")], "a text file in UTF-8"),
        ([bare, "--summarise", text], "fit --names FILE gives them"),
        ([plain], "`RUN`: expected a run with --decoder TopicDecoder"),
    ):
        assert line in fails("topics", *words)


@pytest.mark.slow
def test_the_experiment_runs() -> None:
    """Its small version: a model of each kind, and scikit-learn's."""
    done = subprocess.run([sys.executable, str(SCRIPT), "--smoke"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "perplexity" in done.stdout


@pytest.mark.long
def test_the_program_of_the_page_runs() -> None:
    page = SCRIPT.parents[2] / "docs" / "gallery" / "topics.md"
    (program,) = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M
    )
    short = program.replace("epochs=60", "epochs=1, compile=False")
    assert short != program
    exec(short, {})
