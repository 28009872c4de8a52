"""Files of the Hugging Face Hub: what an address is, and named files fetched from one.

A repository is a stranger's. Files are asked for by name, those of text are bounded before they are
fetched, and what comes is copied to a folder that has nothing else in it, where it is read as any
folder from outside is. The client, ``huggingface_hub``, is imported as it is first used.
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pyro_vae._errors import expected

__all__ = [
    "LARGEST_JSON",
    "MODEL",
    "RECORD",
    "Address",
    "address_of",
    "branch",
    "client",
    "is_address",
    "local",
    "name_of",
    "repository",
    "without_paths",
]

SCHEME = "hf://"
MODEL = ("model.json", "model.safetensors")
"""The files of a model, each of which it needs."""
RECORD = ("scores.json", "data.json", "schema.json", "vocabulary.json", "config.yaml",
          "history.json", "engine.json", "fit.json")  # fmt: skip
"""The files by which a run is known, as far as there are any."""

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./+-]*[A-Za-z0-9_+-])?")
_LONGEST = 96  # characters of a repository, as the Hub has it
LARGEST_JSON = 2**26  # bytes of any JSON file that is read
_LOGIN = "log in by `hf auth login`, or set HF_TOKEN"
_copies: dict[
    tuple[Path, tuple[str, ...]], Path
] = {}  # by snapshot, which never changes, and names


@dataclass(frozen=True)
class Address:
    """A repository of models on the Hub, and its branch, tag or commit; None is the main branch."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + ("" if self.revision is None else f"@{self.revision}")


def is_address(value: object) -> bool:
    """Returns whether a value is an address rather than a path.

    Example:
        >>> is_address("hf://owner/name"), is_address("runs/digits")
        (True, False)
    """
    return isinstance(value, str) and value.startswith(SCHEME)


def repository(argument: str, name: object) -> str:
    """Returns the name of a repository.

    Raises:
        ValueError: If it is none.
    """
    good = isinstance(name, str) and _REPO.fullmatch(name) and len(name) <= _LONGEST
    if not good or ".." in str(name) or "--" in str(name):
        raise expected(argument, "the name of a repository, as owner/name", name)
    return str(name)


def branch(argument: str, name: object) -> str:
    """Returns the name of a branch, a tag or a commit.

    Raises:
        ValueError: If it is none.
    """
    good = isinstance(name, str) and _REVISION.fullmatch(name)
    if not good or ".." in str(name) or "//" in str(name):
        raise expected(argument, "a branch, a tag or a commit", name)
    return str(name)


def address_of(argument: str, text: str) -> Address:
    """Reads an address.

    Args:
        argument: What to call it in an error.
        text: Such as ``hf://owner/name@revision``.

    Raises:
        ValueError: If it is none.

    Example:
        >>> address_of("folder", "hf://owner/name@v1")
        Address(repo='owner/name', revision='v1')
    """
    name, at, revision = text.removeprefix(SCHEME).partition("@")
    try:
        return Address(repository(argument, name), branch(argument, revision) if at else None)
    except ValueError:
        raise expected(argument, "an address as hf://owner/name or hf://owner/name@revision",
                       text) from None  # fmt: skip


@contextmanager
def client(argument: str, address: Address) -> Iterator[Any]:
    """Gives the package that speaks with the Hub; what goes wrong with that is said in one line.

    Args:
        argument: What named the repository.
        address: The repository.

    Raises:
        ValueError: If the package is not installed, there is no such repository or revision, or it
            may not be read or written.
        ConnectionError: If the Hub cannot be reached.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        what = "huggingface_hub, by pip install 'pyro-vae[hub]'"
        raise expected(argument, what, str(address)) from None
    try:
        yield huggingface_hub
    except Exception as error:  # of whichever HTTP library this version of the package has
        raise _in_one_line(argument, address, error, huggingface_hub.errors) from None


def _in_one_line(argument: str, address: Address, error: Exception, kinds: Any) -> Exception:
    """What the client raised, in the words of whoever typed the address."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, kinds.RevisionNotFoundError):
        what = f"a branch, a tag or a commit of {address.repo}"
        return expected(argument, what, address.revision)
    if isinstance(error, kinds.RepositoryNotFoundError) or status in (401, 403):
        what = f"a repository that there is and that you have access to ({_LOGIN})"
        return expected(argument, what, str(address))
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    own = isinstance(error, OSError) and not isinstance(error, ConnectionError)
    if own and getattr(error, "errno", None) is not None and status is None:
        return OSError(f"{address}: {reason}")  # of this machine, such as a full disk
    refused = status is not None and status < 500 and status != 429  # too many requests
    known = isinstance(error, ValueError) and not isinstance(error, kinds.LocalEntryNotFoundError)
    if refused or known:
        return expected(argument, f"what the Hub accepts ({reason})", str(address))
    return ConnectionError(f"{address}: the Hub cannot be reached: {reason}")


def local(argument: str, folder: Any, names: Sequence[str]) -> Any:
    """Returns a path as it is, and for an address a folder with named files of the repository.

    The folder has no other files, and is removed as the process ends. Files that were fetched
    before are not fetched again; without a network the last ones count.

    Args:
        argument: What to call it in an error.
        folder: A path, or an address.
        names: The files that are fetched, where the repository has them; all of :data:`MODEL` it
            has to have.

    Raises:
        ValueError: If the address is none, there is no such repository or revision, it has no
            model, or a file of text is larger than any is.
        ConnectionError: If the Hub cannot be reached, and the files were never fetched.
    """
    if not is_address(folder):
        return folder
    address = address_of(argument, folder)
    snapshot = _snapshot(argument, address, names)
    key = (snapshot, tuple(names))
    if key not in _copies:
        within = Path(tempfile.mkdtemp(prefix="pyro-vae-"))
        atexit.register(shutil.rmtree, within, ignore_errors=True)
        copy = within / address.repo.partition("/")[2]
        copy.mkdir()
        for name in names:
            _copy(argument, address, snapshot / name, copy / name)
        _copies[key] = copy
    return _copies[key]


def _snapshot(argument: str, address: Address, names: Sequence[str]) -> Path:
    """Fetches named files of one commit to where the client keeps them."""
    with client(argument, address) as hub:
        wanted = list(names)
        try:
            found = hub.HfApi().model_info(
                address.repo, revision=address.revision, files_metadata=True
            )
        except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError):
            raise
        except Exception:
            found = None  # the client has what it fetched before, or says what is wrong
    if found is not None:
        sizes = {each.rfilename: each.size or 0 for each in found.siblings or ()}
        wanted = [name for name in names if name in sizes]
        if not set(MODEL) <= set(wanted):
            raise _without_model(argument, address)
        for name in wanted:
            if name != MODEL[1] and sizes[name] > LARGEST_JSON:
                what = f"at most {LARGEST_JSON:,} bytes of {name}"
                raise expected(argument, what, f"{address} with {sizes[name]:,}")
    with client(argument, address) as hub:
        # By the name of the branch: by that of a commit, the client would not know it again.
        options = {"revision": address.revision, "allow_patterns": wanted}
        return Path(hub.snapshot_download(address.repo, **options))


def _copy(argument: str, address: Address, path: Path, copy: Path) -> None:
    """Copies one file, which in the cache of the client is a link to another place in it."""
    if not path.exists():
        if path.name in MODEL:
            raise _without_model(argument, address)
        return
    repository_of = path.parents[2].resolve()  # above the folder of snapshots
    if not (path.is_file() and path.resolve().is_relative_to(repository_of)):
        what = f"a plain file {path.name} in {address}"
        raise expected(argument, what, str(path.resolve()))
    shutil.copyfile(path, copy)


def _without_model(argument: str, address: Address) -> ValueError:
    return expected(argument, f"a repository with {' and '.join(MODEL)}", str(address))


def name_of(source: object) -> Any:
    """Returns what finds data, of a file its name alone.

    Example:
        >>> name_of("/home/someone/table.csv"), name_of("digits"), name_of(None)
        ('table.csv', 'digits', None)
    """
    return PurePath(source).name if isinstance(source, str) else source


def without_paths(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record of data, of another machine or for others, without paths."""
    options = content.get("options")
    cleaned = {**options, "root": None} if isinstance(options, dict) else options
    return {**content, "source": name_of(content.get("source")), "options": cleaned}
