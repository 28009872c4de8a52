"""Who may read what is written, whose compiled code is run, and how soon a file is refused."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import hostile
import pytest
from stopping import build

import pyro_vae as pv
from pyro_vae.checkpoint import write_bytes
from pyro_vae.cli.runs import writing
from pyro_vae.engine.cache import keep_compiled_code_private


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o077, 0o022, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_umask_says_who_may_read(umask: int, tmp_path: Path) -> None:
    """Fails when a file is for all to read, or for none."""
    write_bytes(tmp_path / "file", b"x")
    with writing(tmp_path / "folder") as folder:
        write_bytes(folder / "within", b"x")
    assert _mode(tmp_path / "file") == 0o666 & ~umask
    assert _mode(tmp_path / "folder" / "within") == 0o666 & ~umask
    assert _mode(tmp_path / "folder") == 0o777 & ~umask
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_compiled_code_is_kept_where_no_one_else_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when it is run from the temporary folder of all, where whoever comes first puts it."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    keep_compiled_code_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compiled_code_private()
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder == tmp_path / "pyro_vae" / "inductor"
    assert _mode(folder) == 0o700
    folder.chmod(0o777)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_compiled_code_private()
    assert _mode(folder) == 0o700, "what was open is closed"


def test_a_cache_folder_that_is_a_link_or_cannot_be_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strangers").mkdir(mode=0o755)
    (tmp_path / "pyro_vae").mkdir()
    (tmp_path / "pyro_vae" / "inductor").symlink_to(tmp_path / "strangers")
    (tmp_path / "file").touch()
    for home in (tmp_path, tmp_path / "file"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        keep_compiled_code_private()
        folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        assert not folder.is_relative_to(tmp_path)
        assert _mode(folder) == 0o700
        folder.rmdir()


@pytest.mark.long
@pytest.mark.parametrize("what", ["10^5 layers", "10^9 transforms", "10^5 parts", "10^7 values"])
def test_a_refusal_takes_a_second_at_most(what: str, tmp_path: Path) -> None:
    """Of this thread's own time; fails when a file is bounded by its calls and not by its work."""
    run = pv.save(build(), tmp_path / "run")
    hostile.faults(run, tmp_path)[what]()
    began = time.thread_time()
    with pytest.raises(ValueError, match="model.json"):
        pv.load(run)
    assert time.thread_time() - began < 1.5
