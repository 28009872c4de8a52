"""How Sphinx builds the documentation: ``sphinx-build -W docs build/docs``.

No inventory of another project is fetched unless ``DOCS_INTERSPHINX`` is set, so that it builds
without a network.
"""

from __future__ import annotations

import os
from importlib import metadata

project = "pyro-vae"
author = "the authors of pyro-vae"
release = metadata.version("pyro-vae")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
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
nb_execution_raise_on_error = True
nb_execution_timeout = 120
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
html_static_path: list[str] = []
