"""``python -m pyro_vae.cli`` is the command line, too."""

from __future__ import annotations

from pyro_vae.cli import entry

entry()
