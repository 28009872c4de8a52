"""Where compiled code is kept, and what is measured: in folders that no one else can write to."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

__all__ = ["keep_compiled_code_private", "private"]

_NAME = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled_code_private() -> None:
    """Gives the compiler a folder of the user's own, unless the environment names one.

    Torch keeps what it compiles under the temporary folder, by the user's name, and runs what it
    finds there: whoever makes that folder first on a shared machine has their code run.
    """
    if _NAME not in os.environ:
        folder = private("inductor")
        os.environ[_NAME] = str(folder or tempfile.mkdtemp(prefix="pyro_vae-"))


def private(name: str) -> Path | None:
    """Returns a folder of that name which is the user's alone; None where it cannot be had."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        folder = base.expanduser() / "pyro_vae" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        if own and stat.S_ISDIR(found.st_mode) and os.access(folder, os.W_OK):
            folder.chmod(0o700)  # it may have been open to others
            return folder
    except (OSError, RuntimeError):  # no home, or none that can be written to
        pass
    return None
