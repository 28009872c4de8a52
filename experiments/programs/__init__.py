"""Programs of our own in the manner of Pyro's examples, on small simulated data.

Each is a function in one of the modules, entered by a decorator. It takes an engine, which is
``pyro.infer.SVI`` or ``pyro_vae.CompiledSVI``, and returns a function that takes step number i.
"""

from programs import (  # noqa: F401: each enters its own
    autoencoders,
    autoguides,
    processes,
    regressions,
    scores,
    sequences,
    topics,
)
from programs.registry import PROGRAMS, Engine, Program, Step

__all__ = ["PROGRAMS", "Engine", "Program", "Step"]
