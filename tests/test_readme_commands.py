"""Every command that README and docs print runs as it is printed, but for the effort of a fit.

What is printed in the text is one session in one folder, on few digits; what the table of parts
prints is run by ``experiments/parts.py`` and, for an epoch each, by the slow test.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hub_stub import Hub
from sklearn.datasets import load_iris

from pyro_vae import report
from pyro_vae.cli import main
from pyro_vae.data import loading
from pyro_vae.training.recipe import SMALL_DATA

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VERBS = ("fit", "evaluate", "check", "compare", "select", "sample", "impute", "report", "inspect",
         "push", "encode", "anomalies", "probe", "rate-distortion", "completion", "compress",
         "decompress", "recommend", "topics")  # fmt: skip
SMALL = "--epochs 1 --compile false --device cpu --encoder.hidden [8] --decoder.hidden [8]"
FEW = "--num-samples 5"

OF_CELLS = (
    "fit cells.h5ad --layers counts --cond batch --size-factor depth --likelihood NegativeBinomial"
)

# What a page prints, and the words to run in its place: `{}` is what is printed, and each name in
# capitals a run folder of before.
SESSION: Mapping[str, str] = {
    "fit digits": f"{{}} {SMALL} {FEW} --out runs/digits",
    "report runs/digits": f"{{}} {FEW}",
    "evaluate RUN": f"evaluate runs/digits {FEW}",
    "sample RUN": "sample runs/digits",
    "fit digits --cond digit --prior Conditional": f"{{}} {SMALL} {FEW} --out runs/cond",
    "sample RUN --cond 3": "sample runs/cond --cond 3",
    "fit iris.csv --cond species": "{}",
    "sample RUN --cond setosa": "sample runs/iris --cond setosa",
    "encode RUN --out z.csv": "encode runs/iris --out z.csv",
    "anomalies RUN --data new.csv": f"anomalies runs/iris --data iris.csv {FEW}",
    "probe RUN --label NAME": "probe runs/iris --label species --folds 2 --neighbours 3",
    "sample RUN --out new.csv": "sample runs/iris --cond setosa --out new.csv",
    "fit counts.csv --cond age --size-factor exposure --likelihood Poisson": f"{{}} {SMALL} {FEW}",
    "inspect table.csv": "{}",
    "fit table.csv --missing": f"{{}} {SMALL} {FEW} --out runs/table",
    "impute RUN table.csv --out filled.csv": "impute runs/table table.csv --out filled.csv",
    "fit table.csv --missing --objective IWAE": f"{{}} {SMALL} {FEW} --out runs/iwae",
    "fit table.csv --missing --show-mask --missingness self-masking --objective IWAE": (
        f"{{}} {SMALL} {FEW} --likelihood Normal --schema numbers --out runs/masked"
    ),
    "evaluate RUN --ais --gaps": (
        f"evaluate runs/digits --ais --gaps {FEW} --max-data 4 --num-temperatures 3"
    ),
    "compare RUN RUN ...": "compare runs/digits runs/cond",
    "compare RUN RUN --html page.html": f"compare runs/digits runs/cond --html page.html {FEW}",
    "select digits --latent-dim 2,4,8,16 --folds 5": f"{{}} {SMALL} {FEW}",
    # By one process: tests/test_jobs.py has two.
    "select digits --latent-dim 2,4,8 --folds 5 --jobs 2 --out runs/chosen": (
        f"select digits --latent-dim 2,4 --folds 2 --out runs/chosen {SMALL} {FEW}"
    ),
    "report RUN": f"report runs/iris {FEW}",
    "check RUN": "check runs/digits",
    "fit mnist --checkpoint-every 1000": f"{{}} {SMALL} {FEW} --out runs/mnist",
    "push runs/digits owner/name --dry-run": "{}",
    "push runs/digits owner/name --license apache-2.0": (
        "push runs/iris owner/name --license apache-2.0"
    ),
    "evaluate hf://owner/name --data new.csv": (f"evaluate hf://owner/name --data iris.csv {FEW}"),
    # The shell writes what comes after the sign.
    "completion bash > ~/.local/share/bash-completion/completions/pyro-vae": "completion bash",
    "completion zsh > ~/.zfunc/_pyro-vae": "completion zsh",
    "fit --help": "{}",
    "fit --help-all": "{}",
}
OTHERS = {
    "python -m": "a way of Python, not of this package",
    "inspect --out": "an option by itself, of the command before it",
    "check --refits": "an option by itself, run by tests/test_cli.py",
    "impute --num-fits": "an option by itself, run by tests/test_cli_impute.py",
    "python experiments/parts.py --data": "run by the slow test",
    OF_CELLS: "run by tests/test_end_to_end.py",
    "select digits --latent-dim 2..32 --lr 1e-4..1e-2 --encoder.hidden [64],[128,128] "
    "--search optuna --trials 50": "needs an extra: run by tests/test_search.py",
    "fit --group COLUMN": "a form of the command, run by tests/test_splitting.py",
    "compress RUN data.npy out.pvz": "run by tests/test_compression_refusals.py",
    "decompress RUN out.pvz data.npy": "run by tests/test_compression_refusals.py",
    "fit clicks.csv --pivot userId,movieId": "the same, without a likelihood",
    "fit clicks.csv --pivot userId,movieId --likelihood Multinomial": (
        "run by tests/test_recommendation.py"
    ),
    "recommend RUN users.csv --top 20": "run by tests/test_recommendation.py",
    "fit posts.npz --names words.txt --likelihood Multinomial --prior LogisticNormal --decoder "
    "TopicDecoder --latent-dim 50": "run by tests/test_cli_topics.py",
    "topics RUN": "run by tests/test_cli_topics.py",
    "topics RUN --summarise letter.txt": "run by tests/test_cli_topics.py",
    "inspect lines.txt": "run by tests/test_text.py",
    "fit lines.txt --max-length 32": "run by tests/test_text.py",
    'sample RUN --reconstruct "Good night."': "run by tests/test_text.py",
    'sample RUN --between "Good night." "Good morrow."': "run by tests/test_text.py",
    "fit Drums.npy --layout channels-last --latent-dim 4 --likelihood Normal --likelihood.scale "
    "per-channel --encoder TemporalConvEncoder --decoder TemporalConvDecoder": (
        "run by tests/test_series.py"
    ),
    "impute RUN plan.npy --out motion.npy": "run by tests/test_series.py",
    "fit pictures --latent-dim 8": "run by tests/test_end_to_end.py",
}


def _tables() -> str:
    """The table of parts, whose commands are those of the experiment."""
    text = (ROOT / "docs" / "parts.md").read_text(encoding="utf-8")
    return re.findall(r"<!-- table parts -->\n(.*?)<!-- end -->", text, re.DOTALL)[0]


def _commands(text: str) -> list[str]:
    """The commands between backticks, without ``pyro-vae`` before them."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    found = []
    for span in spans:
        bare = span.removeprefix("pyro-vae ")
        verb, *words = bare.split(" ")
        if (verb in VERBS and words and " = " not in span) or span.startswith("python "):
            found.append(bare)
    return found


def _printed() -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES).replace(_tables(), "")
    blocks = [line for block in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
              for line in re.findall(r"pyro-vae ([^&\n]+)", block)]  # fmt: skip
    return list(dict.fromkeys([*blocks, *_commands(text)]))


def test_every_command_of_a_page_is_run() -> None:
    """Fails when a page prints a command that is not in the session, or no longer does."""
    printed = _printed()
    assert set(printed) - SESSION.keys() - OTHERS.keys() == set()
    assert (SESSION.keys() | OTHERS.keys()) - set(printed) == set()
    assert len(set(_commands(_tables()))) > 40


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that the pages speak of, few digits, no pictures, and a Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(tmp_path / "cache").module())
    monkeypatch.setattr(report, "pictures", lambda *args: [])
    read = loading.read_named

    def few(name: str, *args: Any) -> Any:
        raw = read("digits", *args)
        raw.splits["train"] = raw.splits["train"][:120]
        raw.labels["train"] = raw.labels["train"][:120]
        return raw

    monkeypatch.setattr(loading, "read_named", few)
    iris = load_iris(as_frame=True)
    frame = iris.frame.rename(columns={"target": "species"})
    frame["species"] = iris.target_names[frame["species"]]
    frame.to_csv("iris.csv", index=False)
    random = np.random.default_rng(0)
    exposure = random.uniform(0.5, 2.0, 80).round(2)
    counts = pd.DataFrame(random.poisson(3 * exposure[:, None], (80, 4)), columns=list("abcd"))
    counts.assign(age=random.integers(20, 60, 80), exposure=exposure).to_csv("counts.csv")
    table = pd.DataFrame(random.normal(size=(80, 3)).round(3), columns=["x", "y", "z"])
    table.mask(random.random(table.shape) < 0.1).to_csv("table.csv", index=False)
    return tmp_path


@pytest.mark.long
def test_the_commands_run_in_one_session(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the session: later ones use the runs of earlier ones."""
    monkeypatch.setitem(SMALL_DATA, "epochs", 10)  # of what is run as it is printed
    for printed, run in SESSION.items():
        words = shlex.split(run.format(printed))
        try:
            code = main(words)
        except SystemExit as left:  # of `--help`
            code = left.code or 0
        said = capsys.readouterr()
        assert code == 0, f"{' '.join(words)}: {said.err}"
    drawn = pd.read_csv(folder / "new.csv")
    assert list(drawn.columns) == list(pd.read_csv("iris.csv").columns[:4])
    before, filled = pd.read_csv("table.csv"), pd.read_csv("filled.csv")
    assert before.isna().to_numpy().any()
    assert not filled.isna().to_numpy().any()
    assert (folder / "runs" / "iris" / "report.html").is_file()
    assert (folder / "page.html").read_text(encoding="utf-8").count("<h2>") > 2


@pytest.mark.slow
def test_the_commands_of_the_table_of_parts_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the tables that ``experiments/parts.py --data`` writes; and iris, with all its epochs."""
    assert main(["fit", "iris.csv", "--cond", "species"]) == 0
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    import parts

    monkeypatch.setattr(parts, "DATA", folder / "runs" / "simulated")
    parts.simulate()
    effort = shlex.split(f"--epochs 1 {FEW} --compile false --device cpu --out")
    for at, command in enumerate(dict.fromkeys(_commands(_tables()))):
        code = main([*shlex.split(command), *effort, str(folder / "of" / str(at))])
        assert code == 0, f"{command}: {capsys.readouterr().err}"
    assert "parts" in sys.modules
