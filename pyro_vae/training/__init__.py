r"""Fitting a model to data: the loop around the engine, and what it leaves in a folder.

An epoch permutes the :math:`N` observations and takes a step on each batch of :math:`B` of them,
whose loss has, in expectation, :math:`B/N` times the gradient of the loss of all. ``fit`` is the
verb: ``recipe`` checks its options and is what is recorded, ``splits`` makes training and
validation rows of the data, ``parts`` has what a fit starts from and what of it moves,
``schedules`` the learning rates, ``loop`` takes the epochs, ``callbacks`` follow it and ``loggers``
are some of them, ``averaging`` averages the weights, ``scoring`` chooses among them, ``run`` is the
result with its files, ``resume`` the folder of a run in progress with its checkpoints, ``health``
warns, and ``many`` fits one model over several seeds at once.
"""

from pyro_vae.training import loggers
from pyro_vae.training.callbacks import Callback
from pyro_vae.training.fit import best_device, fit
from pyro_vae.training.many import fit_many
from pyro_vae.training.recipe import Recipe
from pyro_vae.training.run import Run, read_engine, read_history

__all__ = [
    "Callback",
    "Recipe",
    "Run",
    "best_device",
    "fit",
    "fit_many",
    "loggers",
    "read_engine",
    "read_history",
]
