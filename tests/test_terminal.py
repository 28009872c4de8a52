"""What a terminal is shown: text from outside is text, at every door of the package."""

from __future__ import annotations

import ast
import io
import logging
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table
from rich.text import Text

import pyro_vae as pv
from pyro_vae._console import Terminal
from pyro_vae._errors import expected, unknown_name
from pyro_vae._progress import Monitor
from pyro_vae._terminal import say, shown, shown_lines
from pyro_vae.cli import main
from pyro_vae.data.schema import Schema

ESC = "\x1b]0;owned\x07\x1b[2J"
_HOME = Path(pv.__file__).parent
# Where text may leave, since it is escaped there, or is no one's but the package's.
_DOORS = {"_terminal.py": {"print"}, "_signals.py": {"os.write"}}
_LOGGERS = ("'pyro_vae'", "'pyro_vae.training'")
_OTHERS = (
    "print", "sys.stdout.write", "sys.stderr.write", "os.write", "Console", "from_markup",
    "print_help", "print_usage", "print_exc", "print_exception",
)  # fmt: skip


def _commands(text: str) -> str:
    """What a terminal would do more than show."""
    return "".join(each for each in text if each not in "\n" and shown(each) != each)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("a\r\nb\tc\0", r"a\r\nb\tc\x00"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\ud800\U000e0001", r"\ud800\U000e0001"),
        ("Größe 日本\u00a0é می\u200cخواهم 👍 [/x] :smile:",) * 2,
    ],
)
def test_only_what_is_no_text_is_written_out(text: str, plain: str) -> None:
    assert shown(text) == plain
    assert shown(plain) == plain, "what was written out is not written out again"
    assert shown_lines(f"{text}\n") == plain.replace(r"\n", "\n") + "\n"


def _leaving(source: str) -> Iterator[tuple[int, str]]:
    """Where a module has a door of its own: the line, and what is called."""
    if not any(
        word in source
        for word in ("print", "rite(", "Console(", "markup", "Logger(", "TextColumn(")
    ):
        return
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        last = called.rpartition(".")[2]
        if called in ("console.print", "Terminal().print"):
            continue
        if called in _OTHERS or last in set(_OTHERS) - {"write"}:
            yield node.lineno, called
        if last == "TextColumn" and "markup=False" not in ast.unparse(node):
            yield node.lineno, called
        if last == "getLogger" and ast.unparse(node.args[0]) not in _LOGGERS:
            yield node.lineno, called  # they have the filter


def test_there_is_no_other_door() -> None:
    """Fails when a module prints, makes a console or logs elsewhere than all others do."""
    found = [
        f"{path.relative_to(_HOME)}:{line}: {called}"
        for path in sorted(_HOME.rglob("*.py"))
        for line, called in _leaving(path.read_text(encoding="utf-8"))
        if called not in _DOORS.get(str(path.relative_to(_HOME)), set())
    ]
    assert found == []


@pytest.mark.parametrize(
    "call",
    [
        "print('x')",
        "sys.stderr.write('x')",
        "rich.console.Console()",
        "rich.print('x')",
        "parser.print_help()",
        "Text.from_markup('x')",
        "logging.getLogger(__name__)",
        "TextColumn('[bold]{task.description}')",
    ],
)
def test_a_new_door_is_seen(call: str) -> None:
    assert [each for _, each in _leaving(call)] == [call.partition("(")[0]]


def test_say_and_log_and_errors_write_it_out(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    say(f"a{ESC}\nb")
    say(f"a{ESC}", error=True)
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"a{shown(ESC)}\nb\n", f"a{shown(ESC)}\n")
    logging.getLogger("pyro_vae").warning("%s of 100%%", ESC)
    assert caplog.messages == [f"{shown(ESC)} of 100%"]
    caplog.clear()
    logging.getLogger("pyro_vae").warning("%d of %s", ESC)  # which no handler can format
    assert caplog.messages[0].startswith("%d of %s ")
    assert _commands(caplog.messages[0]) == ""
    for error in (expected(ESC, ESC, 1), unknown_name(ESC, ESC, [ESC])):
        assert _commands(str(error)) == ""


def test_tables_show_markup_and_commands_as_text() -> None:
    """In a cell, a title, a caption, a text; fails when one is taken for markup or is sent raw."""
    console, name = Terminal(), f"[/x][bold]:smile:{ESC}"
    table = Table(title=name, caption=name)
    table.add_column(name)
    table.add_row(name)
    with console.capture() as captured:
        console.print(table, Text(name), name, soft_wrap=True)
    lines = captured.get().replace(" ", "").replace("\n", "")
    assert _commands(captured.get()) == ""
    assert lines.count(f"[/x][bold]:smile:{shown(ESC)}") == 6 - 1


def test_the_line_of_progress_shows_them_too() -> None:
    console, monitor = Terminal(), Monitor()
    monitor.evaluating("[/x]\x1b[2J")
    with console.capture() as captured:
        console.print(monitor)
    assert _commands(captured.get()) == ""
    assert captured.get().startswith(r"[/x]\x1b[2J ")


def test_a_schema_shows_them_too() -> None:
    spec = {
        "columns": {f"a{ESC}": {"kind": "category", "levels": [f"b{ESC}", "c"]}},
        "notes": [ESC],
    }
    assert _commands(str(Schema.from_spec(spec))) == ""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A table whose names and words are commands, and a run of it in a folder that is markup."""
    folder = tmp_path_factory.mktemp("hostile")
    table = folder / f"data[final]{ESC.replace('/', '')}.csv"
    rng = np.random.default_rng(0)
    lines = [f"id,[/x],:smile:,a{ESC}"]
    lines += [
        f"r{ESC}{i},{a:.3f},{b:.3f},w{ESC}{i % 3}"
        for i, (a, b) in enumerate(rng.normal(size=(260, 2)))
    ]
    table.write_text("\n".join(lines) + "\n")
    run = folder / "runs" / f"[/x] {ESC}"
    small = "--epochs 1 --num-samples 10 --compile false --encoder.hidden [4] --decoder.hidden [4]"
    argv = ["fit", str(table), "--out", str(run), "--cond", f"a{ESC}", "--data-report"]
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        assert main([*argv, *small.split()]) == 0
    return table, run, said.getvalue()


def test_a_fit_shows_them_written_out(hostile: tuple[Path, Path, str]) -> None:
    _, run, said = hostile
    assert _commands(said) == ""
    assert f"{shown(run.name)}/model.json" in said
    assert shown(f"data[final]{ESC.replace('/', '')}") in said.replace("\n", "")


@pytest.mark.parametrize(
    "argv",
    [
        "inspect TABLE",
        "fit TABLE --cond nope --out OUT",
        "evaluate RUN --num-samples 10",
        "evaluate RUN --num-samples 10 --data TABLE",
        "evaluate NONE",
        "check RUN",
        "anomalies RUN --num-samples 10",
        "compare RUN RUN --checks",
        "sample RUN --cond nope",
        "sample RUN --cond WORD --out OUT.csv",
        "impute RUN TABLE --out OUT.csv",
        "probe RUN --label NAME --folds 2",
        "report RUN --num-samples 10 --out OUT.html",
        "fit TABLE --prior NAME",
        "fit TABLE --NAME",
        "NAME",
    ],
)
def test_no_verb_shows_them_raw(
    argv: str, hostile: tuple[Path, Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Fails where one prints a name of a table, a folder or an option as it came."""
    table, run, _ = hostile
    names = {"TABLE": str(table), "RUN": str(run), "NAME": f"a{ESC}", "WORD": f"w{ESC}0"}
    names["NONE"] = f"none{ESC}"
    words = [names.get(each, each) for each in argv.split()]
    words = [each.replace("OUT", str(tmp_path / f"[/x]{ESC}")) for each in words]
    words = [each.replace("--NAME", f"--{ESC}") for each in words]
    code = main(words)
    said = "".join(capfd.readouterr())
    mistaken = (
        any(word in argv for word in ("nope", "NONE", "--prior", "--NAME", "RUN RUN"))
        or argv == "NAME"
    )
    assert code == (2 if mistaken else 0), said
    assert _commands(said) == "", said
    assert said != ""
