"""Data as tensors: named sets, arrays and files, split and ready for a likelihood."""

from pyro_vae.data.dataset import Dataset, base_measure_of
from pyro_vae.data.loading import load
from pyro_vae.data.named import NAMES

__all__ = ["NAMES", "Dataset", "base_measure_of", "load"]
