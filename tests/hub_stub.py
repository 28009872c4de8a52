"""A Hub in a folder, under the interface of ``huggingface_hub`` that the package uses.

Files that were fetched lie as that client keeps them: links of a snapshot into a folder of blobs.
"""

from __future__ import annotations

import fnmatch
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ENDPOINT = "https://huggingface.co"


class HTTPError(Exception):
    """What the HTTP library under the client raises; its class is none of the client's."""


class HfHubHTTPError(HTTPError, OSError):
    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.response = SimpleNamespace(status_code=status)


class RepositoryNotFoundError(HfHubHTTPError):
    pass


class RevisionNotFoundError(HfHubHTTPError):
    pass


class LocalEntryNotFoundError(FileNotFoundError, ValueError):  # as before version 1
    pass


@dataclass
class Repository:
    """Commits by their hash, each the files by their path, and what branches are at."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> None:
        sha = hashlib.sha1(f"{len(self.commits)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


@dataclass
class Hub:
    """The repositories, and where files are fetched to.

    Attributes:
        cache: The folder of what was fetched.
        down: Whether it cannot be reached.
        status: What every write is answered by, if it is refused.
        fetched: The paths that were asked for, one after the other.
    """

    cache: Path
    down: bool = False
    status: int | None = None
    repos: dict[str, Repository] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def module(self) -> ModuleType:
        """The package that is imported in place of the client."""
        found: Any = ModuleType("huggingface_hub")
        found.errors = ModuleType("huggingface_hub.errors")
        for kind in (RepositoryNotFoundError, RevisionNotFoundError, LocalEntryNotFoundError):
            setattr(found.errors, kind.__name__, kind)
        found.HfApi = lambda: self
        found.snapshot_download = self.snapshot_download
        return found

    def _at(self, repo: str, revision: str | None) -> tuple[Repository, str]:
        if self.down:
            raise HTTPError("[Errno -2] Name or service not known\nand more of it")
        if repo not in self.repos:
            raise RepositoryNotFoundError(f"404 Client Error. {repo}", 404)
        found = self.repos[repo]
        sha = found.branches.get(revision or "main", revision or "")
        if sha not in found.commits:
            raise RevisionNotFoundError(f"404 Client Error. {revision}", 404)
        return found, sha

    def create_repo(
        self, repo_id: str, *, token: str | None, private: bool | None, exist_ok: bool
    ) -> str:
        if self.down:
            raise HTTPError("[Errno -2] Name or service not known")
        if self.status is not None:
            raise HfHubHTTPError(f"{self.status} Error.\n\nRequest ID: 1", self.status)
        assert exist_ok
        if repo_id not in self.repos:
            self.repos[repo_id] = Repository(bool(private))
            self.repos[repo_id].commit("main", {".gitattributes": b""})
        return f"{ENDPOINT}/{repo_id}"

    def create_branch(
        self, repo_id: str, *, branch: str, token: str | None, exist_ok: bool
    ) -> None:
        repo, sha = self._at(repo_id, None)
        assert exist_ok
        repo.branches.setdefault(branch, sha)

    def model_info(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        files_metadata: bool = False,
        token: str | None = None,
    ) -> Any:
        repo, sha = self._at(repo_id, revision)
        siblings = [
            SimpleNamespace(rfilename=name, size=len(content) if files_metadata else None)
            for name, content in repo.commits[sha].items()
        ]
        return SimpleNamespace(sha=sha, siblings=siblings, private=repo.private)

    def upload_folder(
        self,
        *,
        repo_id: str,
        folder_path: str,
        revision: str | None,
        commit_message: str,
        allow_patterns: list[str],
        delete_patterns: list[str],
        token: str | None,
    ) -> None:
        repo, sha = self._at(repo_id, revision)
        files = {
            name: content
            for name, content in repo.commits[sha].items()
            if not any(fnmatch.fnmatch(name, each) for each in delete_patterns)
        }
        for path in Path(folder_path).rglob("*"):
            name = path.relative_to(folder_path).as_posix()
            if path.is_file() and any(fnmatch.fnmatch(name, each) for each in allow_patterns):
                files[name] = path.read_bytes()
        repo.commit(revision or "main", files)

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, allow_patterns: list[str]
    ) -> str:
        folder = self.cache / f"models--{repo_id.replace('/', '--')}"
        kept = folder / f"ref-{(revision or 'main').replace('/', '--')}"
        if self.down:
            if kept.exists():
                return kept.read_text()
            raise LocalEntryNotFoundError("Cannot find the requested files in the local cache.")
        repo, sha = self._at(repo_id, revision)
        snapshot = folder / "snapshots" / sha
        for name, content in repo.commits[sha].items():
            if any(fnmatch.fnmatch(name, each) for each in allow_patterns):
                self.fetched.append(name)
                blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.write_bytes(content)
                link = snapshot / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(blob)
        snapshot.mkdir(parents=True, exist_ok=True)
        kept.write_text(str(snapshot))  # by the name that was asked for, and no other
        return str(snapshot)
