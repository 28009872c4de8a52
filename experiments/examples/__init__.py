"""Seven programs of plain Pyro that ``pyro_vae.Program`` wraps, on small simulated data.

Each has a special case whose log p(x) is known without draws.
"""

from importlib import import_module

from examples.registry import EXAMPLES, Case, Example

__all__ = ["EXAMPLES", "Case", "Example"]

_MODULES = "deep_markov topics semi_supervised mixed_effects bayesian_decoder gp_prior multi_view"
for _name in _MODULES.split():
    import_module(f"examples.{_name}")  # it enters its own
