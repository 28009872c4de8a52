"""Data as tensors: named sets, arrays and files, split and ready for a likelihood."""

from pyro_vae.data.dataset import Dataset, base_measure_of
from pyro_vae.data.inspection import DataReport, inspect
from pyro_vae.data.loading import load
from pyro_vae.data.named import NAMES

__all__ = ["NAMES", "DataReport", "Dataset", "base_measure_of", "inspect", "load"]
