"""What the files around the package say of it is what it is."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OF_PROJECT = PROJECT["project"]

# Names of conda-forge, where they differ, and what an extra brings.
CONDA = {
    "torch": ["pytorch"],
    "matplotlib": ["matplotlib-base"],
    "h5netcdf": ["h5netcdf", "h5py"],
    "jsonargparse": ["jsonargparse", "docstring_parser", "typeshed-client"],
}
# Of the schema of CITATION.cff 1.2.0, those that are used or likely.
CITATION_KEYS = {
    "abstract", "authors", "cff-version", "date-released", "doi", "keywords", "license", "message",
    "preferred-citation", "references", "repository-code", "title", "type", "url", "version",
}  # fmt: skip


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_the_citation_follows_its_schema_and_the_project() -> None:
    """https://github.com/citation-file-format/citation-file-format/blob/1.2.0/schema.json"""
    found = yaml.safe_load(_read("CITATION.cff"))
    assert {"authors", "cff-version", "message", "title"} <= set(found) <= CITATION_KEYS
    assert found["cff-version"] == "1.2.0"
    assert found["type"] == "software"
    assert found["version"] == OF_PROJECT["version"]
    assert found["license"] == OF_PROJECT["license"]
    assert len(found["authors"]) >= 1
    for author in found["authors"]:
        assert {"name"} <= set(author) or {"family-names", "given-names"} <= set(author)
    assert all(isinstance(value, str) for value in (found["message"], found["title"]))
    assert len(set(found["keywords"])) == len(found["keywords"])


def test_the_changelog_is_kept() -> None:
    """Newest first, with this version in it, and no kind of change that the format lacks."""
    text = _read("CHANGELOG.md")
    versions = re.findall(r"^## \[([^]]+)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == OF_PROJECT["version"]
    assert all(date for _, date in versions[1:])
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == len(versions)
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for section in re.split(r"^##+ ", text, flags=re.MULTILINE):
        assert len(re.findall(r"^- ", section, re.MULTILINE)) <= 12


def test_conda_needs_what_pip_needs() -> None:
    recipe = yaml.safe_load(_read("conda/recipe/recipe.yaml"))
    needed = dict(each.partition(" ")[::2] for each in recipe["requirements"]["run"])
    del needed["python"]
    names, bounds = set(), {}
    for line in OF_PROJECT["dependencies"]:
        found = Requirement(line)
        same = CONDA.get(found.name, [found.name])
        names.update(same)
        bounds[same[0]] = {f">={each.version}" for each in found.specifier if each.operator == ">="}
    assert set(needed) == names
    assert {name: {needed[name]} for name in bounds} == bounds
    assert recipe["context"]["version"] == OF_PROJECT["version"]
    scripts = [f"{name} = {where}" for name, where in OF_PROJECT["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_form_can_be_read(name: str) -> None:
    form = yaml.safe_load(_read(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(field["attributes"]["label"] for field in form["body"])


def test_the_workflow_and_the_image_run_what_the_readme_prints() -> None:
    workflow = yaml.safe_load(_read(".github/workflows/ci.yml"))
    steps = workflow["jobs"]["gate"]["steps"]
    assert steps[-1] == {"run": ".ci/run"}
    installed = steps[1]["with"]["python-version"].split()
    assert f">={installed[0]}" == OF_PROJECT["requires-python"]
    named = [each.rpartition(" ")[2] for each in OF_PROJECT["classifiers"]]
    assert set(installed) <= set(named)
    image = _read("Dockerfile")
    for line in re.findall(r"^pip install .* && .*$", _read("README.md"), re.MULTILINE):
        install, _, command = line.partition(" && ")
        assert f"RUN {install}" in image
        words = ", ".join(f'"{word}"' for word in command.split())
        assert f"CMD [{words}]" in image or f"RUN {line}" in image


def test_the_two_halves_are_all_tests_but_the_slow_ones() -> None:
    """Fails when a test is in neither half, or in both, or a script leaves out the second."""
    first = re.findall(r"-m '([^']*)'", PROJECT["tool"]["pytest"]["ini_options"]["addopts"])
    second = re.findall(
        r"^second_half=\"pytest -m '([^']*)'\"", _read(".ci/steps.sh"), re.MULTILINE
    )
    for long, slow in itertools.product((False, True), repeat=2):
        marks = {"long": long, "slow": slow}
        halves = [eval(expression, marks) for expression in (*first, *second)]
        assert halves == [not slow and not long, not slow and long]
    for script in ("run", "lowest"):
        assert re.findall(r'bash -euc "(\$\w+half)"', _read(f".ci/{script}")) == ["$second_half"]
    assert f"pytest -m '{second[0]}'" in _read("CONTRIBUTING.md")


def test_what_skips_itself_without_an_extra_runs_in_the_gate_with_it() -> None:
    """Of the extras that the gate installs; elsewhere such a test is skipped each time."""
    extras = OF_PROJECT["optional-dependencies"]
    packages = {each.partition(">")[0] for name in ("data", "loggers") for each in extras[name]}
    gate = _read(".ci/run")
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        if packages & set(re.findall(r'importorskip\("(\w+)"', path.read_text(encoding="utf-8"))):
            assert f"tests/{path.name}" in gate


def test_a_source_distribution_holds_what_the_tests_read() -> None:
    """All that lies beside the package; the gate compares the archive with the files of git."""
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [each for each in included if not (ROOT / each[1:]).exists()] == []
    assert {"/tests", "/experiments", "/docs", "/.ci", "/.github", "/conda"} <= set(included)


def test_what_the_guide_for_contributors_names_is_there() -> None:
    """Fails when a file or a folder that it, or the security policy, names is renamed."""
    text = _read("CONTRIBUTING.md") + _read("SECURITY.md")
    named = re.findall(r"`((?:\.ci|experiments|tests|pyro_vae)/[\w./]+)`", text)
    assert len(named) >= 7
    assert [each for each in named if not (ROOT / each).exists()] == []
