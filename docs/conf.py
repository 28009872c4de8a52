"""How Sphinx builds the documentation: ``sphinx-build -W docs build/docs``.

No inventory of another project is fetched unless ``DOCS_INTERSPHINX`` is set, so that it builds
without a network.
"""

from __future__ import annotations

import inspect
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from sphinx.util.inspect import signature as signature_of
from sphinx.util.inspect import stringify_signature

sys.path.insert(0, str(Path(__file__).parent))  # of the extension `checked`

project = "pyro-vae"
author = "the authors of pyro-vae"
project_copyright = f"2026, {author}"
release = metadata.version("pyro-vae")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "checked",
]
if os.environ.get("DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "pyro": ("https://docs.pyro.ai/en/stable", None),
        "arviz": ("https://python.arviz.org/en/stable", None),
    }
exclude_patterns = ["build"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_show_tb = True  # a failure is a warning, hence with -W an error, and says where
nb_execution_timeout = 600  # seconds a cell: a machine may be busy
nb_output_stderr = "error"  # a reader is shown no warning
nb_merge_streams = True

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "pyro-vae"
html_static_path = ["static"]
html_css_files = ["outputs.css"]


def _constructor(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returned: str
) -> tuple[str, str] | None:
    """Shows the arguments of a part, not those of the ``__new__`` that records them."""
    if what != "class" or not inspect.isfunction(obj.__init__):
        return None
    found = signature_of(obj.__init__, bound_method=True)
    return stringify_signature(found, show_return_annotation=False, short_literals=True), returned


def _references(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Makes a list of the papers of a docstring, each of which begins a line."""
    inside, cited = False, True
    for at, line in enumerate(lines):
        if line.strip() == "References:":
            inside, cited, indent = True, True, len(line) - len(line.lstrip()) + 4
        elif inside and line.strip():
            inside = len(line) - len(line.lstrip()) >= indent
            if inside:
                lines[at] = " " * indent + ("* " if cited else "  ") + line.strip()
                # After a comma comes what the paper is cited for, on a line of its own.
                told = "http" in line or (not cited and "http" in lines[at - 1])
                cited = told and not line.rstrip().endswith(",")


def setup(app: Any) -> None:
    """Connects what is above, before Napoleon reads sections."""
    app.connect("autodoc-process-signature", _constructor)
    app.connect("autodoc-process-docstring", _references, priority=100)
