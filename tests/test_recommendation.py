"""Recommendations: measures against sums by hand, what is left out, and the verb."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.evaluation import ranking, recommend, recommendation_scores
from pyro_vae.networks import MLP

ROOT = Path(__file__).parents[1]


def test_measures_are_those_of_sums_by_hand() -> None:
    """Fails when recall divides by all that is held out, or the discount is off by a place."""
    scores = np.array([[9, 8, 7, 6, 5, 4.0]] * 4)
    held_out = np.array(
        [
            [1, 0, 0, 1, 0, 0],  # places 1 and 4
            [0, 0, 0, 0, 0, 2],  # the last
            [1, 1, 1, 1, 0, 0],  # more than a list is long
            [0, 0, 0, 0, 0, 0],  # nothing
        ]
    )
    found = ranking(scores, held_out, recall=[1, 3, 4], ndcg=[3, 6, 50])
    assert found.recall[1][:3].tolist() == [1, 0, 1]
    assert found.recall[3][:3].tolist() == [1 / 2, 0, 1]
    assert found.recall[4][:3].tolist() == [1, 0, 1]
    ideal = 1 + 1 / math.log2(3)
    assert found.ndcg[3][:3] == pytest.approx([1 / ideal, 0, 1])
    gained = 1 + 1 / math.log2(5)
    assert found.ndcg[6][:3] == pytest.approx([gained / ideal, 1 / math.log2(7), 1])
    assert np.array_equal(found.ndcg[50], found.ndcg[6], equal_nan=True)
    assert np.isnan([found.recall[3][3], found.ndcg[3][3]]).all()
    known = found.summary()
    assert known["num_users"] == 3
    assert known["recall@3"] == pytest.approx(0.5)
    assert known["recall@3_standard_error"] == pytest.approx(0.5 / math.sqrt(3))
    assert "recall@3     0.5000 ± 0.2887" in repr(found)


def test_measures_are_those_of_a_loop() -> None:
    """Of random scores, some of them left out: each person and each place in turn."""
    rng = np.random.default_rng(0)
    scores, held_out = rng.random((40, 12)), rng.random((40, 12)) < 0.3
    scores[rng.random((40, 12)) < 0.4] = -np.inf
    found = ranking(scores, held_out, recall=[5], ndcg=[7])
    for i in range(40):
        places = sorted(range(12), key=lambda d, i=i: (-scores[i, d], d))
        hits = [held_out[i, d] and scores[i, d] > -np.inf for d in places]
        size = held_out[i].sum()
        if size == 0:
            continue
        assert found.recall[5][i] == pytest.approx(sum(hits[:5]) / min(5, size))
        gain = sum(hit / math.log2(r + 2) for r, hit in enumerate(hits[:7]))
        best = sum(1 / math.log2(r + 2) for r in range(min(7, size)))
        assert found.ndcg[7][i] == pytest.approx(gain / best)


def test_of_equal_scores_the_first_stands_first() -> None:
    found = ranking(np.zeros((1, 50)), np.eye(50)[[3]], recall=[3, 4], ndcg=[])
    assert [found.recall[3][0], found.recall[4][0]] == [0, 1]


@pytest.mark.parametrize(
    ("scores", "held_out", "options", "words"),
    [
        (np.ones(3), np.ones(3), {}, "`scores`: expected an array of shape"),
        (np.ones((2, 3)), np.ones((3, 2)), {}, "`held_out`: expected an array of shape"),
        (np.full((1, 2), np.nan), np.ones((1, 2)), {}, "`scores`: expected numbers, or -inf"),
        (np.ones((1, 2)), np.ones((1, 2)), {"recall": [0]}, "`recall`: expected a positive int"),
    ],
)
def test_what_cannot_be_ranked_is_refused(
    scores: np.ndarray, held_out: np.ndarray, options: dict[str, list[int]], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        ranking(scores, held_out, **options)


def _vae(items: int = 12) -> pv.VAE:
    encoder = MLP((8,), "tanh", input_dropout=0.5, input_norm="l2")
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Multinomial((items,))
    return pv.VAE(*parts, encoder, MLP((8,), "tanh"), standardize=False, seed=0)


def test_what_was_seen_is_never_recommended() -> None:
    """And all else is, in the order of its mean; the same list for any number of people."""
    x = (torch.rand(30, 12, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    x[0] = 1  # has seen everything
    vae = _vae()
    found = recommend(vae, x, top=12)
    mean = vae.reconstruct(x)
    for i, own in enumerate(x):
        unseen = (own == 0).nonzero().flatten().tolist()
        recommended = found.items[i][found.items[i] >= 0].tolist()
        assert sorted(recommended) == unseen
        # A float32 product may depend on how many rows there are.
        assert (mean[i][recommended].diff() <= 1e-6).all()
        assert np.isnan(found.scores[i][len(unseen) :]).all()
    assert found.items[0].tolist() == [-1] * 12
    assert np.isneginf(recommendation_scores(vae, x)).sum() == x.sum()
    with pytest.raises(ValueError, match="`top`: expected a positive integer"):
        recommend(vae, x, top=0)


def test_what_a_mask_has_is_seen() -> None:
    """A rating of 0 has been given; one that is missing has not."""
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,))
    x, mask = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[True, False, True]])
    rows = pv.data.Rows(x, {"mask": mask})
    assert recommend(pv.VAE(*parts, seed=0), rows).items.tolist() == [[1, -1, -1]]


def test_rows_may_be_normalised_and_entries_left_out() -> None:
    """Fails when what is left is not scaled up, or a condition is left out with the others."""
    net = MLP((), input_norm="l2", input_dropout=0.25)
    net.build((4000,), (1,), cond_size=1)
    linear = net.layers[-1]
    assert isinstance(linear, torch.nn.Linear)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.zero_()
    x, cond = torch.full((2, 4000), 3.0), torch.tensor([[100.0], [200.0]])
    root = math.sqrt(4000)
    assert net.eval()(x, cond).flatten().tolist() == pytest.approx(
        [100 + root, 200 + root], rel=1e-5
    )
    assert net(torch.zeros(2, 4000), cond).flatten().tolist() == pytest.approx([100, 200])
    torch.manual_seed(0)
    found = (net.train()(x, cond) - cond).flatten()
    # The share that is kept has a standard error of sqrt(0.25 * 0.75 / 4000), 0.9 % of itself.
    assert (found / root - 1).abs().max() < 5 * 0.0092
    assert (found / root - 1).abs().min() > 1e-4
    for wrong in ({"input_dropout": 1.0}, {"input_norm": "l1"}):
        with pytest.raises(ValueError, match="`input_"):
            MLP(**wrong)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a run is of people who like even or odd films."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    clicks = [(u, f) for u in range(40) for f in rng.choice(10, 5, replace=False) * 2 + u % 2]
    pd.DataFrame(clicks, columns=["userId", "movieId"]).to_csv("clicks.csv", index=False)
    new = {"userId": ["ann", "ann", "bob", "bob", "cy"], "movieId": [0, 2, 1, 99, 99]}
    pd.DataFrame(new).to_csv("users.csv", index=False)
    command = (
        "fit clicks.csv --pivot userId,movieId --likelihood Multinomial --latent-dim 2 "
        "--standardize false --objective.beta 0.2 --encoder.input-dropout 0.5 "
        "--encoder.input-norm l2 --encoder.hidden [8] --decoder.hidden [8] --epochs 2 "
        "--num-samples 2 --compile false --device cpu --out run"
    )
    assert main(command.split()) == 0
    return tmp_path


def test_the_verbs_read_people_whom_the_run_has_not_seen(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    fails: Callable[..., str],
) -> None:
    capsys.readouterr()
    assert main(["recommend", "run", "users.csv", "--top", "19", "--out", "new/list.csv"]) == 0
    said = capsys.readouterr().out
    unknown = "left out 2 events, of 1 value in movieId that the run does not know: 99"
    assert unknown in caplog.text
    assert "recommended to 3 users of users.csv" in said
    assert "Wrote 56 rows to new/list.csv" in said
    lines = pd.read_csv("new/list.csv")
    assert list(lines.columns) == ["userId", "rank", "movieId", "score"]
    assert lines.groupby("userId").size().to_dict() == {"ann": 18, "bob": 19, "cy": 19}
    assert not set(lines.movieId[lines.userId == "ann"]) & {0, 2}
    assert not set(lines.movieId[lines.userId == "bob"]) & {1}
    for _, own in lines.groupby("userId"):
        assert own["rank"].tolist() == list(range(1, len(own) + 1))
        assert (np.diff(own.score) <= 0).all()
    assert main(["recommend", "run", "users.csv", "--top", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["users"] == 3
    assert [row["movieId"] for row in found["rows"][:2]] == lines.movieId[:2].astype(str).tolist()
    # Other verbs read the run's own people, and new ones, by the same columns.
    assert main(["encode", "run", "--out", "z.csv"]) == 0
    assert pd.read_csv("z.csv").userId.tolist() == list(range(40))
    command = "anomalies run --data users.csv --num-samples 2 --json"
    assert main(command.split()) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert {row["userId"] for row in rows} == {"ann", "bob", "cy"}
    # What has commas in it is one value for all settings.
    chosen = "select clicks.csv --pivot userId,movieId --likelihood Multinomial --latent-dim 1,2"
    small = "--folds 2 --epochs 1 --encoder.hidden [2] --decoder.hidden [2] --device cpu --json"
    assert main([*chosen.split(), *small.split(), "--num-samples", "2"]) == 0
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["candidates"]) == 2
    for command, words in (
        ("recommend run users.csv --top 0", "`--top`: expected a positive integer"),
        ("recommend run users.csv --out x.txt", "`--out`: expected a file that ends in .csv or"),
        ("recommend run users.csv --out z.csv", "`--out`: expected a path that does not exist"),
        ("recommend run none.csv", "`data`: expected an existing file"),
        ("recommend run z.csv", "`pivot`: expected one of"),
        ("recommend none users.csv", "`folder`: expected an existing run folder"),
        ("impute run clicks.csv --out f.csv", "`RUN`: expected a run of a table of rows"),
    ):
        assert words in fails(*command.split())


def test_rows_and_entries_without_names_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run of an array, and of new rows of one."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).integers(0, 3, (30, 4)))
    np.save("new.npy", np.array([[1, 0, 2, 0], [0, 1, 1, 1]]))
    command = (
        "fit x.npy --likelihood Multinomial --latent-dim 2 --encoder.hidden [2] "
        "--decoder.hidden [2] --epochs 1 --num-samples 2 --compile false --device cpu --out run"
    )
    assert main(command.split()) == 0
    capsys.readouterr()
    assert main(["recommend", "run", "new.npy", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert sorted((row["user"], row["item"]) for row in rows) == [
        (1, "x[1]"),
        (1, "x[3]"),
        (2, "x[0]"),
    ]


@pytest.mark.long
def test_the_program_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few epochs, of a small file of ratings."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    ratings = {"userId": rng.integers(0, 40, 600), "movieId": rng.integers(0, 30, 600)}
    ratings["rating"] = rng.integers(1, 6, 600)
    pd.DataFrame(ratings).drop_duplicates(["userId", "movieId"]).to_csv("ratings.csv", index=False)
    page = ROOT / "docs" / "gallery" / "recommendation.md"
    (program,) = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M
    )
    short = program.replace("epochs=100", "epochs=1, compile=False")
    assert short != program
    exec(short, {})


@pytest.mark.slow
def test_the_experiment_runs() -> None:
    """Its small version: each method, one change and an ensemble."""
    script = ROOT / "experiments" / "applications" / "recommendation.py"
    done = subprocess.run([sys.executable, str(script), "--smoke"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 VAE " in done.stdout
