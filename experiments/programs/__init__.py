"""Programs of our own in the manner of Pyro's examples, on small simulated data.

Each is a function in one of the modules, entered by a decorator. It takes an engine, which is
``pyro.infer.SVI`` or ``pyro_vae.CompiledSVI``, and returns a function that takes step number i.
"""

from importlib import import_module

from programs.registry import PROGRAMS, Engine, Program, Step

__all__ = ["PROGRAMS", "Engine", "Program", "Step"]

_MODULES = "autoencoders autoguides processes regressions scores sequences topics"
for _name in _MODULES.split():
    import_module(f"programs.{_name}")  # it enters its own
