"""Where a run is, and where what a verb makes of it goes: a folder, or an address on the Hub."""

from __future__ import annotations

from pathlib import Path

from pyro_vae._hub import MODEL, RECORD, is_address, local, without_paths
from pyro_vae.checkpoint import read_json, write_json

__all__ = ["RUN", "beside", "run_folder"]

RUN = "A folder that pyro-vae fit wrote, or hf://owner/name."
"""What an operand is that names a run."""


def run_folder(text: str) -> Path:
    """Returns the folder of a run: a path, or what is fetched from an address on the Hub.

    A stranger's record names no path of this machine: of where it says that data are, the name of
    a file is left.

    Args:
        text: As it was typed.

    Raises:
        ValueError: If there is no such repository, or it has no model.
        ConnectionError: If the Hub cannot be reached.
    """
    folder = Path(local("RUN", text, (*MODEL, *RECORD)))
    if is_address(text) and (path := folder / "data.json").exists():
        write_json(path, without_paths(read_json(path)))
    return folder


def beside(text: str, folder: Path) -> Path:
    """Returns where a file goes that is written into the folder of a run if nothing is asked for.

    Args:
        text: The run, as it was typed.
        folder: Its folder, which of an address is gone as the command ends.
    """
    return Path() if is_address(text) else folder
