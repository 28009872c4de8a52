"""Processes that share the steps of a fit: two real ones, against one, to the bit."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import several
import torch
from torch import distributed

from pyro_vae.cli import main
from pyro_vae.engine.pace import Pace, Stopwatch, behind
from pyro_vae.engine.processes import Processes, all_processes
from pyro_vae.training.resume import is_finished

SAME = (
    "dropout", "statistics of batches", "clipped, accumulated", "labels", "another optimiser",
    "captured", "guessed", "a run",
)  # fmt: skip
Both = tuple[list[dict[str, Any]], dict[str, Any], Path]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """What each of two processes has found, what one has, and the folder of the two."""
    folder = tmp_path_factory.mktemp("several")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = folder / "alone"
    alone.mkdir()
    yield several.by_group(2, folder), several.found(alone), folder / "shared"
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", SAME)
def test_two_processes_give_the_weights_of_one(both: Both, case: str) -> None:
    """Bit by bit, with losses and scores; batches are cut into 8 + 8 + 8 + 8 and 8 + 3 + 0 + 0."""
    (first, second), alone, _ = both
    assert first[case] == second[case] == alone[case]


def test_that_no_reduction_is_noticed(both: Both) -> None:
    """By the processes themselves, at the end of an epoch: they never diverge unnoticed."""
    (first, second), alone, _ = both
    assert "process 1 has other weights than process 0: the sum of " in first["without a reduction"]
    assert (
        "process 0 has other weights than process 1: the sum of " in second["without a reduction"]
    )
    assert alone["without a reduction"][:64].isalnum()


def test_without_shards_the_sum_is_that_of_one_process(both: Both) -> None:
    """Of an objective without draws, to rounding in double precision; the sum is in the graph."""
    (first, second), alone, _ = both
    assert first["without shards"] == second["without shards"]
    assert first["without shards"] == pytest.approx(alone["without shards"], rel=1e-6, abs=1e-9)


def test_weights_are_those_of_the_first_process(both: Both) -> None:
    (first, second), _, _ = both
    assert first["without a seed"] == second["without a seed"]


def test_one_process_that_is_asked_stops_all_and_one_goes_on(both: Both) -> None:
    """What two have left is finished by one, with the weights of a run that nobody stopped."""
    (first, second), alone, folder = both
    assert first["stopped"] == second["stopped"] == "stopped by SIGTERM at step 3"
    run = several.fit(several.model(), out=folder / "stopped", resume=True)
    assert several._weights(run) == alone["a run"]


def test_more_epochs_are_those_of_a_run_that_had_them_from_the_start(both: Both) -> None:
    """In memory and in a folder; fails when the seed of the shards is drawn after the start."""
    (first, second), alone, _ = both
    assert first["went on"] == second["went on"] == alone["went on"]
    assert len(set(alone["went on"])) == 1


def test_the_best_epoch_is_that_of_the_scores_of_the_first_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whose processor may be another: fails when a process chooses by its own scores."""
    for sign, best in ((1, 2), (-1, 1)):
        calls: list[object] = []

        def first_of(
            self: Processes, value: Any, sign: int = sign, calls: list[object] = calls
        ) -> Any:
            calls.append(value)
            return value | {"elbo": float(sign * len(calls))}

        monkeypatch.setattr(Processes, "first_of", first_of)
        assert several.fit(several.model(), monitor="elbo").best_epoch == best


def test_another_number_of_threads_is_refused(both: Both) -> None:
    _, _, folder = both
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="got OMP_NUM_THREADS was 1, is 2"):
        several.fit(several.model(), out=folder / "run", resume=True)
    torch.set_num_threads(1)


def test_the_first_process_writes_and_calls(both: Both) -> None:
    (first, second), _, folder = both
    assert is_finished(folder / "run")
    assert (first["callbacks"], second["callbacks"]) == (2, 0)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("other data", "in process 1, data.train was .* is"),
        ("a folder that exists", "`out`: expected a path that does not exist yet"),
        ("a batch of 33", "`batch_size`: expected a multiple of the 2 processes, got 33"),
        ("three shards", "`shards`: expected a multiple of the 2 processes, got 3"),
        ("total correlation", "`objective`: .*adds up over 2 processes, got 'the total corr"),
    ],
)
def test_all_processes_refuse_what_one_refuses(both: Both, case: str, message: str) -> None:
    (first, second), _, _ = both
    assert first[case] == second[case]
    with pytest.raises(ValueError, match=message):
        raise ValueError(first[case])


def test_shards_divide_a_batch_and_need_a_sum() -> None:
    with pytest.raises(ValueError, match="`shards`: expected a divisor of `batch_size`, 32, got 5"):
        several.fit(several.model(), shards=5)
    free = several.pv.objectives.ELBO(free_bits=0.1)
    with pytest.raises(ValueError, match="`shards`: expected none with ELBO, of which the floor"):
        several.fit(several.model(), objective=free)


def test_a_process_by_itself_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that a worker of a group has started, which has its environment."""
    assert all_processes() == Processes()
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert all_processes() == Processes(0, 1)
    assert os.environ["WORLD_SIZE"] == "1"


@pytest.mark.parametrize(("local", "apart"), [("2", True), ("1", False)])
def test_processes_that_start_again_do_not_read_what_was_written_before(
    monkeypatch: pytest.MonkeyPatch, local: str, apart: bool
) -> None:
    """On one machine: of several each counts its own starts, and what they share has one name."""
    below, made = distributed.HashStore(), []
    # A function of the package has the name of the module.
    module = sys.modules["torch.distributed.rendezvous"]
    monkeypatch.setattr(module, "rendezvous", lambda _: iter([(below, 0, 2)]))
    monkeypatch.setattr(
        distributed, "init_process_group", lambda _, store, **options: made.append(store)
    )
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr("atexit.register", lambda _: None)
    known = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for start in "01":
        for name, value in (known | {"LOCAL_WORLD_SIZE": local}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", start)
        assert all_processes() == Processes(0, 2)
    made[0].set("address", "of the first start")
    assert made[1].check(["address"]) is not apart


@pytest.mark.slow
def test_the_commands_of_the_page_give_the_weights_of_one_process(tmp_path: Path) -> None:
    """One table is printed, by the first process; each folder has the model that one would have."""
    page = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    joined = [block.replace("\\\n", " ") for block in blocks]
    every = [line.split() for block in joined for line in block.splitlines()]
    lines = [line for line in every if line[0] == "torchrun"]
    few = shlex.split("--epochs 2 --compile false --device cpu --encoder.hidden [8]")
    assert len(lines) == 3
    models, said = [], []

    def run(command: list[str]) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for words in lines:
        alone = words[words.index("-m") :]
        group = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
        if "evaluate" in words:
            said += [run([*command, "--json"]) for command in (group, [sys.executable, *alone])]
            continue
        out = words[words.index("--out") + 1]
        single = [sys.executable, *alone, *few, "--out", f"{out}-alone"]
        for command, folder in (([*group, *few], out), (single, f"{out}-alone")):
            assert run(command).count("s in all") == 1
            models.append((tmp_path / folder / "model.safetensors").read_bytes())
    assert said[0] == said[1] != ""
    assert len(set(models)) == 1


ROWS = (
    "scores", "of a flow", "defensive", "summed", "of few draws", "of what is missing", "filled",
    "filled by draws", "filled, summed", "of a network with a note", "judged", "commands",
)  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_are_shared_give_what_one_process_gives(both: Both, case: str) -> None:
    """Scores, imputations and files, bit by bit; and where the first one evaluates by itself.

    Of a command only the first process says something.
    """
    (first, second), alone, _ = both
    if case == "commands":
        codes = [[code for code, *_ in each[case][0]] for each in (first, second, alone)]
        assert codes == [[0] * 4] * 3, first[case]
        assert all(said[1:] == ["", ""] for said in second[case][0])
        assert first[case][0] == alone[case][0]
        assert first[case][1] == second[case][1] == alone[case][1]
        return
    assert first[case] == alone[case]
    assert second[case] == (0 if case == "judged" else alone[case])


def test_validation_rows_are_shared_from_the_second_epoch_on(both: Both) -> None:
    """With the history of one process; where draws are others each time, each does all of it.

    Three batches an epoch, and one of training rows.
    """
    (first, second), alone, _ = both
    for case in ("validated", "validated by a bound"):
        assert first[case][0] == second[case][0] == alone[case][0]
        assert alone[case][1] == 12
        assert (first[case][1], second[case][1]) == (4 + 2 * 2, 4 + 2 * 3)
    case = "validated otherwise each time"
    assert min(first[case][1], second[case][1]) >= 12


def test_a_process_that_falls_behind_is_named_once(both: Both) -> None:
    """By the first one, in the first of two epochs."""
    (first, second), alone, _ = both
    (line,) = first["slow"]
    assert re.fullmatch(
        r"epoch 1: process 1 falls behind: \d+\.\d ms for its part of a step "
        r"\(\d+\.\d computing\), where the others take \d+\.\d ms",
        line,
    )
    assert second["slow"] == alone["slow"] == []


def test_what_is_chance_is_not_named() -> None:
    """Few steps, short ones, small differences, and waiting where there are too few cores."""
    usual, slow = Pace(0.010, 0.009, 50, False), Pace(0.020, 0.009, 50, False)
    assert behind([usual, slow, usual]) == behind([usual, slow])
    assert behind([slow, usual, usual]) == (0, "20.0 ms for its part of a step (9.0 computing), "
                                               "where the others take 10.0 ms")  # fmt: skip
    for other in (
        slow._replace(steps=19),
        slow._replace(seconds=0.0149),
        slow._replace(is_crowded=True),
    ):
        assert behind([usual, other]) is None
    assert behind([Pace(0.001, 0.001, 50, False), Pace(0.0019, 0.0019, 50, False)]) is None
    crowded = usual._replace(is_crowded=True), slow._replace(busy=0.019, is_crowded=True)
    assert behind(crowded) is not None


def test_rows_of_other_random_numbers_are_noticed(both: Both) -> None:
    """Then each process does all rows, and the first one says so."""
    (first, second), alone, _ = both
    said = "each process does all rows: what is drawn for some depends on those before"
    assert first["not drawn"] == [alone["scores"], said]
    assert second["not drawn"] == alone["not drawn"] == [alone["scores"]]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("another model", "`vae`: expected the same in all .*, got 'another one in process 1'"),
        ("another seed", "`seed`: expected the same in all .*, got 'another one in process 1'"),
        ("refused rows", "ValueError: `x`: expected "),
        ("unreadable", "OSError: cannot read"),
    ],
)
def test_all_processes_raise_what_one_raises(both: Both, case: str, message: str) -> None:
    (first, second), _, _ = both
    assert first[case] == second[case]
    assert re.search(message, first[case])


def test_an_argument_that_one_process_is_refused_is_refused_by_all(both: Both) -> None:
    """What is asked for next is of all of them again; fails when arguments are checked apart."""
    (first, second), alone, _ = both
    *refused, scores = first["refused argument"]
    assert first["refused argument"] == second["refused argument"]
    for line, argument in zip(refused, ("num_samples", "num_globals", "mask"), strict=True):
        assert line.startswith(f"ValueError: `{argument}`: expected ")
    assert scores == alone["refused argument"][-1]


def test_without_a_seed_one_process_may_fill_rows_by_itself(both: Both) -> None:
    """Fails, as each next case does, when it waits for what the other does not do."""
    (first, second), alone, _ = both
    assert first["filled without a seed"] == alone["filled without a seed"]
    assert second["filled without a seed"] == "none"


def test_one_process_takes_no_times_of_its_shards() -> None:
    """Nobody reads them: kept, they would be more at each step of a long fit."""
    with mock.patch.object(Stopwatch, "stop") as stop:
        several.fit(several.model(), epochs=1)
    assert stop.call_count == 0


def test_an_error_of_a_command_is_one_line_of_the_first_process(both: Both) -> None:
    """Whoever has it: then all leave, none waits for another, and nothing is written."""
    (first, second), _, _ = both
    *said, written = first["refused commands"]
    assert [code for code, *_ in second["refused commands"][:-1]] == [2] * 5
    assert [(code, out) for code, out, _ in said] == [(2, "")] * 5
    assert not written
    lines = [error for _, _, error in said]
    for line, words in zip(
        lines,
        (
            "error: `folder`: expected .*/none",
            "error: .*model.json",
            "error: `--ais`: expected none in 2 processes, which share scores alone",
            "error: `--num-fits`: expected none in 2 processes .*: --jobs shares fits",
            "error: `torchrun`: expected one of the commands fit, evaluate, impute, encode, which",
        ),
        strict=True,
    ):
        assert re.match(words, line), line
        assert line.count("\n") == 1
    assert [error for _, _, error in second["refused commands"][:4]] == [""] * 4


def test_another_command_is_of_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main(["compare", "runs/digits"]) == 2
    said = "one of the commands fit, evaluate, impute, encode, which processes share, got 'compare'"
    assert capsys.readouterr().err == f"error: `torchrun`: expected {said}\n"
