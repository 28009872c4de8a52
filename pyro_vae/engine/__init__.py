r"""Engines: what takes the steps of stochastic variational inference, and how they are chosen.

A step draws :math:`z \sim q_\phi(z|x)`, estimates a loss :math:`L(\theta, \phi)` with its gradient,
and moves the parameters against it. :class:`CompiledSVI` is the face. Behind it an
:class:`~pyro_vae.engine.protocol.Engine` takes the steps: ``eager`` runs the Pyro programs as they
are; ``compiled`` runs them once, keeps loss, gradient and update as one graph of tensor operations,
and replays that for as long as everything the programs read (``dependencies``) stands.
"""

from pyro_vae.engine.errors import GraphMismatch
from pyro_vae.engine.nonfinite import NonFinite
from pyro_vae.engine.svi import CompiledSVI, Position

__all__ = ["CompiledSVI", "GraphMismatch", "NonFinite", "Position"]
