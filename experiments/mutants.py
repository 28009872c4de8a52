"""Mutation testing: would a test notice if a piece of the code were wrong?

Mutants (`mutation.py`) are sampled by a seed, in turn from each subpackage. Each runs in a copy of
the code and a process of its own, bounded in processor seconds and memory, against the tests that
run the function that it is in, the fastest first. Which these are is measured once for each file of
tests, as it is needed, in a copy whose functions say when they are run. What survives the files of
its subpackage is tried against all others with ``--whole``. It goes on where it was stopped, and
writes each verdict as it comes to ``results/mutants.jsonl``.

    python experiments/mutants.py                 # 400 mutants, a minute each, or less
    python experiments/mutants.py --whole         # the survivors, against the whole suite
    python experiments/mutants.py --table         # results/mutants.md
    python experiments/mutants.py --smoke         # 2 mutants, no verdict kept

Those that change nothing anyone could notice are in ``mutants_equivalent.json``, with the reason.
A test that fails without a mutant here (it needs data files, or looks at the source) notices none.
Tools such as cosmic-ray change the source in place, and have one command of tests for all mutants.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import common
import pandas  # noqa: F401 - imported once, and not by each of the processes
import pyro  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
from mutation import Mutant, marked, mutants_of

ROOT = common.HERE.parent
VERDICTS = common.RESULTS / "mutants.jsonl"
EQUIVALENT = common.HERE / "mutants_equivalent.json"
SEED = 27
# Files of tests by subpackage, beside those that are named as the module is.
SUITES = {
    "checkpoint": "damage run_folders private schema old_runs compositions",
    "training": "training fit_options best_epoch averaging resume going_on damage run_folders "
    "units importance_objectives refit callbacks health splitting guards_of_fit loggers pairs "
    "signals seeds defaults",
    "engine": "compiled svi dependencies guards watchdog replaced_tensors replaced_modules "
    "replaced_attributes changing_numbers nonfinite optim other_elbos devices values_read "
    "validation_in_graph shared_parameters private score_function",
    "objectives": "objectives objective_contract objective_labels labels importance_objectives "
    "enumeration rate_distortion score_function training",
    "evaluation": "evaluation importance imputation posterior comparison annealing downstream gaps "
    "honest_scores rate_distortion enumeration exact global_calibration values_checked",
    "criticism": "checks advice nominal relations effects latents calibration refitted datatree "
    "global_calibration arviz classifier_groups judging_given names positive angles pyro_pair",
    "data": "data names table_schema table_values readers_csv containers array_files named_sets "
    "splitting images values_read new_data given extent rows table_width labels",
    "likelihoods": "likelihoods contracts suggestion units ordinal positive angles composites "
    "missing sequences vae",
}
GIB = 2**30
HITS = """import os

_seen = set()
_file = os.open(os.environ.get("MUTANTS_HITS", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def hit(name):
    if name not in _seen:
        _seen.add(name)
        os.write(_file, (name + "\\n").encode())
"""


def group_of(path: str) -> str:
    """Returns the subpackage of a module."""
    return path.partition("/")[0].removesuffix(".py")


def sampled(count: int | None) -> list[Mutant]:
    """The mutants by a seed, in turn from each subpackage."""
    groups = []
    for group in SUITES:
        package = ROOT / "pyro_vae"
        paths = sorted((package / group).rglob("*.py")) or [package / f"{group}.py"]
        found = [
            mutant
            for path in paths
            for mutant in mutants_of(path.relative_to(package).as_posix(), path.read_bytes())
        ]
        random.Random(f"{SEED} {group}").shuffle(found)
        groups.append(found)
    in_turn = [each for each in chain(*zip_longest(*groups)) if each is not None]
    return in_turn[:count]


class Copy:
    """Creates a copy of code and tests, in which one process runs tests.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        for name in ("pyro_vae", "tests", "docs", "experiments"):
            shutil.copytree(ROOT / name, folder / name)
        for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
            shutil.copy2(ROOT / name, folder / name)
        (folder / "home").mkdir()

    def run(self, files: Iterable[str], plugin: object, cpu: float) -> str:
        """Runs tests; returns ``passed``, ``failed``, ``timeout`` or ``crashed``."""
        wall, began = 20 * cpu, time.monotonic()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            self._child([f"tests/{name}.py" for name in files], plugin, int(cpu))
        try:
            while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
                if time.monotonic() - began > wall:
                    return "timeout"
                time.sleep(0.05)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # it, or what it has started and left behind
        if os.WIFSIGNALED(ended[1]):
            return "timeout" if os.WTERMSIG(ended[1]) == signal.SIGXCPU else "crashed"
        code = os.waitstatus_to_exitcode(ended[1])
        return {0: "passed", 1: "failed", 5: "passed"}.get(code, "crashed")

    def _child(self, files: list[str], plugin: object, cpu: int) -> None:
        code = 70
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))
            resource.setrlimit(resource.RLIMIT_AS, (16 * GIB, 16 * GIB))
            resource.setrlimit(resource.RLIMIT_FSIZE, (GIB, GIB))
            os.chdir(self.folder)
            output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for stream, file in ((0, nothing), (1, output), (2, output)):
                os.dup2(file, stream)
            home = str(self.folder / "home")
            os.environ |= {"HOME": home, "TMPDIR": home, "PYTHONPATH": str(self.folder)}
            os.environ |= {"XDG_CACHE_HOME": home, "MUTANTS_HITS": str(self.folder / "hits")}
            sys.path[:0] = [str(self.folder)]
            sys.argv = ["pytest"]
            warnings.resetwarnings()
            options = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "-p", "no:randomly"]
            code = int(pytest.main([*options, *plugin.options, *files], plugins=[plugin]))
        finally:
            os._exit(code)


class Measuring:
    """Writes down which functions each test runs, and how long it takes."""

    options = ("--maxfail=10000", "-m", "not slow and not gpu")

    def __init__(self, folder: Path) -> None:
        self.hits, self.lines = folder / "hits", folder / "tests.jsonl"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        from pyro_vae import _hits

        _hits._seen.clear()
        self.hits.write_bytes(b"")
        self.passed, began = True, time.process_time()
        result = yield
        line = {"test": item.nodeid, "seconds": round(time.process_time() - began, 3)}
        line |= {"passed": self.passed, "functions": sorted(set(self.hits.read_text().split("\n")))}
        with self.lines.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed &= report.outcome == "passed" or report.when != "call"
        self.passed &= report.outcome != "failed" and not report.skipped


class Selecting:
    """Runs some tests, in their order, and writes down which of them fails."""

    options = ("-m", "")

    def __init__(self, folder: Path, tests: list[str]) -> None:
        self.folder, self.order = folder, {test: i for i, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        import pyro_vae

        assert Path(pyro_vae.__file__).is_relative_to(self.folder)
        items[:] = [item for item in items if item.nodeid in self.order]
        items.sort(key=lambda item: self.order[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            (self.folder / "failed").write_text(report.nodeid)


class Tests:
    """Creates the record of which tests run which functions, measured as it is needed.

    Args:
        work: Where it is kept from run to run.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        (work / "map").mkdir(parents=True, exist_ok=True)
        self.known: dict[str, list[dict[str, Any]]] = {}

    def of(self, name: str) -> list[dict[str, Any]]:
        """Returns the lines of a file of tests."""
        if name not in self.known:
            content = (ROOT / "tests" / f"{name}.py").read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:12]
            path = self.work / "map" / f"{name}-{digest}.json"
            if not path.exists():
                path.write_text(json.dumps(self._measured(name)))
            self.known[name] = json.loads(path.read_text())
        return self.known[name]

    def _measured(self, name: str) -> list[dict[str, Any]]:
        copy = Copy(self.work / "marked")
        for path in sorted((copy.folder / "pyro_vae").rglob("*.py")):
            inside = path.relative_to(copy.folder / "pyro_vae").as_posix()
            if group_of(inside) in SUITES:
                path.write_text(marked(inside, path.read_text())[0])
        (copy.folder / "pyro_vae" / "_hits.py").write_text(HITS)
        print(f"  measures {name}: ", end="", flush=True)
        measuring = Measuring(copy.folder)
        came_of_it = copy.run([name], measuring, 1800)
        text = measuring.lines.read_text() if measuring.lines.exists() else ""
        found = [json.loads(line) for line in text.splitlines()]
        failed = sum(not line["passed"] for line in found)
        print(f"{came_of_it}, {len(found)} tests, of which {failed} tell nothing", flush=True)
        return found

    def running(self, mutant: Mutant, name: str) -> list[tuple[str, float]]:
        """Returns the tests of a file that run the mutant's function, the fastest first."""
        # What is run as the module is imported may show wherever anything of it is run.
        of_class = mutant.function.rpartition(".")[2].strip("_")[:1].isupper()
        at_import = not mutant.function or of_class
        function, module = f"{mutant.path} {mutant.function}", f"{mutant.path} "
        hits = [
            (line["test"], line["seconds"])
            for line in self.of(name)
            if line["passed"]
            and any(
                each.startswith(module) if at_import else each == function
                for each in line["functions"]
            )
        ]
        return sorted(hits, key=lambda pair: pair[1])


def files_for(path: str, *, whole: bool) -> list[str]:
    """The files of tests of a subpackage, those named as the module first; or all others."""
    every = sorted(each.stem for each in (ROOT / "tests").glob("test_*.py"))
    own = [f"test_{Path(path).stem.strip('_')}"]
    own += [f"test_{name}" for name in SUITES[group_of(path)].split()]
    own = [name for name in dict.fromkeys(own) if name in every]
    return [name for name in every if name not in own] if whole else own


def verdict(mutant: Mutant, tests: Tests, *, whole: bool) -> dict[str, Any]:
    """Runs what may notice a mutant, a file of tests after the other."""
    copy, ran = None, 0
    line = {"mutant": mutant.key, "group": group_of(mutant.path), "line": mutant.line}
    try:
        changed = mutant.applied((ROOT / "pyro_vae" / mutant.path).read_bytes())
    except SyntaxError:
        return line | {"verdict": "no Python"}
    for name in files_for(mutant.path, whole=whole):
        if not (chosen := tests.running(mutant, name)):
            continue
        if copy is None:
            copy = Copy(tests.work / "mutant")
            path = copy.folder / "pyro_vae" / mutant.path
            path.write_bytes(changed)
        selecting = Selecting(copy.folder, [test for test, _ in chosen])
        cpu = 60 + 5 * sum(seconds for _, seconds in chosen)
        came_of_it = copy.run([name], selecting, cpu)
        ran += len(chosen)
        if came_of_it != "passed":
            by = copy.folder / "failed"
            by = by.read_text() if by.exists() else name
            kind = "timeout" if came_of_it == "timeout" else "killed"
            return line | {"verdict": kind, "by": by, "tests": ran}
    return line | {"verdict": "survived" if ran else "not run by a test", "tests": ran}


def read() -> dict[str, dict[str, Any]]:
    """The verdicts so far, the last of each mutant."""
    text = VERDICTS.read_text() if VERDICTS.exists() else ""
    return {line["mutant"]: line for line in map(json.loads, text.splitlines())}


def equivalents() -> dict[str, str]:
    """Returns why some change nothing that anyone could notice."""
    return {line["mutant"]: line["reason"] for line in json.loads(EQUIVALENT.read_text())}


def table() -> str:
    """The score by subpackage, of those that are not equivalent."""
    same, kinds = equivalents(), ("killed", "timeout", "survived", "not run by a test")
    counted = {group: Counter() for group in SUITES}
    for key, line in read().items():
        counted[line["group"]]["equivalent" if key in same else line["verdict"]] += 1
    counted["all"] = sum(counted.values(), Counter())
    lines = [
        "| | mutants | noticed | time limit | survived | run by no test | equivalent | score |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for group, each in counted.items():
        total = sum(each[kind] for kind in kinds)
        score = f"{(each['killed'] + each['timeout']) / total:.0%}" if total else ""
        cells = [sum(each.values()), *(each[kind] for kind in (*kinds, "equivalent")), score]
        lines.append(f"| {group} | " + " | ".join(map(str, cells)) + " |")
    tried = sum(bool(line.get("whole")) for line in read().values())
    lines += ["", f"Sampled by seed {SEED}, in turn from each subpackage; {tried} that survived"]
    lines += ["the tests of their subpackage were tried against the whole suite."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Goes on with what has no verdict yet."""
    parser = common.Parser(__doc__, smoke="2 mutants, no verdict kept", table="results/mutants.md")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--only", choices=SUITES, help="of those, the mutants of a subpackage")
    parser.add_argument("--whole", action="store_true", help="try survivors on all other tests")
    parser.add_argument("--again", action="store_true", help="try survivors again: of new tests")
    parser.add_argument("--work", type=Path, default=common.RUNS / "mutants", help="kept map")
    options = parser.options()
    if options.table:
        (common.RESULTS / "mutants.md").write_text(table())
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its child ends with it
    tests, done, same = Tests(options.work), read(), equivalents()
    for mutant in sampled(2 if options.smoke else options.count):
        before = done.get(mutant.key)
        alive = before is not None and before["verdict"] in ("survived", "not run by a test")
        if options.only not in (None, group_of(mutant.path)):
            continue
        wanted = alive and mutant.key not in same if options.whole or options.again else not before
        if not (wanted or options.smoke) or (options.whole and before and before.get("whole")):
            continue
        line = verdict(mutant, tests, whole=options.whole) | {"whole": options.whole}
        if before and line["verdict"] == "not run by a test":
            line["verdict"] = before["verdict"]  # no other test runs it
        print(f"{line['verdict']:<9} {mutant.key[:120]}", flush=True)
        if not options.smoke:
            with VERDICTS.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
