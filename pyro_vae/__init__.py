"""A VAE is a prior, a guide, a decoder and a likelihood, fitted by an objective.

Importing the package imports neither PyTorch nor Pyro: each name is imported as it is first used
(PEP 562, https://peps.python.org/pep-0562/), so that the command line answers at once.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_vae import (
        compression,
        criticism,
        data,
        engine,
        evaluation,
        guides,
        likelihoods,
        missingness,
        networks,
        objectives,
        plots,
        priors,
        sklearn,
        training,
    )
    from pyro_vae.checkpoint import load, save
    from pyro_vae.criticism import (
        from_pyro_svi,
        posterior_predictive,
        prior_predictive,
        to_datatree,
    )
    from pyro_vae.engine import CompiledSVI
    from pyro_vae.evaluation import Scores, compare, evaluate
    from pyro_vae.hub import push
    from pyro_vae.programs import VAE, Program
    from pyro_vae.selection import select
    from pyro_vae.training.fit import fit
    from pyro_vae.training.many import fit_many
    from pyro_vae.training.run import Run

    __version__: str

__all__ = [
    "VAE",
    "CompiledSVI",
    "Program",
    "Run",
    "Scores",
    "__version__",
    "compare",
    "compression",
    "criticism",
    "data",
    "engine",
    "evaluate",
    "evaluation",
    "fit",
    "fit_many",
    "from_pyro_svi",
    "guides",
    "likelihoods",
    "load",
    "missingness",
    "networks",
    "objectives",
    "plots",
    "posterior_predictive",
    "prior_predictive",
    "priors",
    "push",
    "save",
    "select",
    "sklearn",
    "to_datatree",
    "training",
]

# Pyro imports tqdm, which says so in every notebook without ipywidgets; nothing here needs them.
warnings.filterwarnings("ignore", message="IProgress not found")

_MODULES = {
    "checkpoint": ("load", "save"),
    "criticism": ("from_pyro_svi", "posterior_predictive", "prior_predictive", "to_datatree"),
    "engine": ("CompiledSVI",),
    "evaluation": ("Scores", "compare", "evaluate"),
    "hub": ("push",),
    "programs": ("VAE", "Program"),
    "selection": ("select",),
    "training": ("Run", "fit", "fit_many"),
}
_HELPERS = {"Any", "TYPE_CHECKING", "import_module", "warnings"}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports a public name."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("pyro-vae")
    elif name in _HOME:
        value = getattr(import_module(f"pyro_vae.{_HOME[name]}"), name)
    elif name in __all__:
        value = import_module(f"pyro_vae.{name}")
    else:
        raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists what there is to use, which an editor or a notebook completes names from."""
    return sorted({*globals(), *__all__} - _HELPERS)
